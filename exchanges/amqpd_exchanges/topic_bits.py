"""Many patterns of words at once, as the bits of a few integers.

The trie of `topic` is quick as long as a key leads to few of its places. Patterns can be made that
lead to nearly all of them, word after word: with twenty thousand of nine words, each `a`, `*` or
`#`, one message looks at two million places. Here every word of a pattern is a bit, and a word of
the key takes all of them a step further in a handful of operations on whole integers (the shift-and
algorithm; `#` is a place that may be passed over and may be stayed at):

    a.*.#.b     place            a   *   #   b  end
                at first         x                      a place is held while the words before it
                after a              x                  have been matched
                after a.y                x   x
                after a.y.b              x   x   x      the pattern matches

The trie makes one when it finds that it needs it, and tells it of every change from then on. The
places of a pattern that went are never held again; once they are most of all, it is worn out.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final, Generic, TypeVar

__all__ = ["PatternBits"]

V = TypeVar("V", bound=Hashable)

MASKS_OCTETS_MAX: Final = 1 << 22
"""What may be remembered of words: each is an integer as long as all the places."""
WORN_MIN: Final = 4096
"""Places of patterns that went, before anybody minds."""


class PatternBits(Generic[V]):
    """Patterns, each with a value of its own."""

    __slots__ = (
        "_begins",
        "_ends",
        "_hashes",
        "_live",
        "_masks",
        "_masks_octets",
        "_places",
        "_size",
        "_spans",
        "_stars",
        "_values",
    )

    def __init__(self, patterns: Iterable[tuple[Sequence[str], V]]) -> None:
        self._spans: dict[V, tuple[int, int]] = {}
        """The first and the last place of each pattern; at the last one it has matched."""
        self._values: dict[int, V] = {}
        """By the last place."""
        self._places: dict[str, array[int]] = {}
        """Where each word stands."""
        self._masks: dict[str, int] = {}
        """The same as bits, of words that were asked for lately."""
        self._masks_octets = 0
        self._size = self._live = 0
        begins: list[int] = []
        ends: list[int] = []
        stars: list[int] = []
        hashes: list[int] = []
        for words, value in patterns:
            first, last = self._lay_out(words, value, stars, hashes)
            begins.append(first)
            ends.append(last)
        self._begins, self._ends = _bits(begins), _bits(ends)
        self._stars, self._hashes = _bits(stars), _bits(hashes)

    @property
    def is_worn(self) -> bool:
        """Most places are of patterns that went: it should be made anew."""
        return self._size - self._live > max(WORN_MIN, self._live)

    def add(self, words: Sequence[str], value: V) -> None:
        """One more pattern."""
        stars: list[int] = []
        hashes: list[int] = []
        first, last = self._lay_out(words, value, stars, hashes)
        self._begins |= 1 << first
        self._ends |= 1 << last
        for place in stars:
            self._stars |= 1 << place
        for place in hashes:
            self._hashes |= 1 << place
        for word in words:
            self._forget_mask(word)

    def remove(self, value: V) -> None:
        """The pattern of this value goes."""
        first, last = self._spans.pop(value)
        del self._values[last]
        self._live -= last + 1 - first
        self._begins ^= 1 << first
        self._ends ^= 1 << last

    def match(self, words: Sequence[str]) -> Iterator[V]:
        """The values of all patterns that match, in the order in which they came."""
        stars, hashes = self._stars, self._hashes
        held = self._begins
        held |= (held & hashes) << 1
        for word in words:
            if not held:
                break
            stayed = held & hashes
            held = (held & (stars | self._mask(word))) << 1 | stayed
            held |= (held & hashes) << 1
        digits = bin(held & self._ends)[:1:-1]
        place = digits.find("1")
        while place >= 0:
            yield self._values[place]
            place = digits.find("1", place + 1)

    def _lay_out(
        self, words: Sequence[str], value: V, stars: list[int], hashes: list[int]
    ) -> tuple[int, int]:
        """Give a pattern its places, one for each word and one behind them."""
        place = first = self._size
        previous = ""
        for word in words:
            if word == "#":
                if previous == "#":
                    continue  # two mean the same as one, and one is passed over in one step
                hashes.append(place)
            elif word == "*":
                stars.append(place)
            else:
                places = self._places.get(word)
                if places is None:
                    places = self._places[word] = array("Q")
                places.append(place)
            previous = word
            place += 1
        self._spans[value] = (first, place)
        self._values[place] = value
        self._size = place + 1
        self._live += place + 1 - first
        return first, place

    def _mask(self, word: str) -> int:
        """The places of a word, as bits."""
        mask = self._masks.get(word)
        if mask is None:
            places = self._places.get(word)
            if places is None:
                return 0
            mask = _bits(places)
            octets = mask.bit_length() >> 3
            if self._masks_octets + octets > MASKS_OCTETS_MAX:
                self._masks.clear()
                self._masks_octets = 0
            self._masks[word] = mask
            self._masks_octets += octets
        return mask

    def _forget_mask(self, word: str) -> None:
        mask = self._masks.pop(word, None)
        if mask is not None:
            self._masks_octets -= mask.bit_length() >> 3


def _bits(places: Sequence[int]) -> int:
    """An integer with these bits; the places are in ascending order."""
    if not places:
        return 0
    octets = bytearray((places[-1] >> 3) + 1)
    for place in places:
        octets[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(octets, "little")
