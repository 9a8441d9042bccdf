"""Numbers for those exchanges that leave something to chance.

The package has no random source. A seed comes from outside, and the numbers that follow from it are
those of SplitMix64 (Steele, Lea and Flood, 2014): a counter, and each of its values mixed until no
bit tells of its neighbours. They are even and cheap, and good for nothing that must be kept secret.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Chance", "mixed"]

_MASK: Final = (1 << 64) - 1
_STEP: Final = 0x9E3779B97F4A7C15


def mixed(number: int) -> int:
    """64 bits that depend on all 64 of `number`, each of them on each."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31


class Chance:
    """One sequence of numbers."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def below(self, bound: int) -> int:
        """One of 0, 1, .. bound - 1."""
        self._state = (self._state + _STEP) & _MASK
        return mixed(self._state) * bound >> 64
