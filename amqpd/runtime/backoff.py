"""How long to wait before what failed is tried again."""

from __future__ import annotations


class Backoff:
    """Pauses, each twice as long as the one before, up to a limit."""

    __slots__ = ("_first_s", "_longest_s", "_next_s")

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = max(first_s, longest_s)

    def pause_s(self) -> float:
        """It failed: wait so long."""
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self._longest_s)
        return pause_s

    def succeeded(self) -> None:
        """Begin with the first pause again."""
        self._next_s = self._first_s
