"""Ids under which the store keeps the messages of queues: small numbers, used again.

An octet for each id, and no set or heap of numbers: those of a hundred thousand queues that are
gone would lie scattered over all the memory that the queues had, and keep it from being given back.
"""

from __future__ import annotations

from typing import Final

FREE: Final = 0
TAKEN: Final = 1


class QueueIds:
    """The ids from `first` up to, but not including, `end`."""

    def __init__(self, first: int, end: int) -> None:
        self._first = first
        self._end = end
        self._states = bytearray()
        """FREE or TAKEN, of each id up to the highest that is taken, at least."""
        self._free_from = 0
        """No id before this one (counted from `first`) is free."""
        self.in_use = 0
        """How many are."""

    def take(self) -> int:
        """The lowest id that is not in use."""
        index = self._states.find(FREE, self._free_from)
        if index < 0:
            index = len(self._states)
            assert self._first + index < self._end, "no queue id is left"
            self._states.append(TAKEN)
        else:
            self._states[index] = TAKEN
        self._free_from = index + 1
        self.in_use += 1
        return self._first + index

    def take_lanes(self, lanes: int) -> tuple[int, int]:
        """The first of so many ids in a row that are not in use, and how many they are: one, if
        there is no such row any more."""
        if lanes > 1:
            index = self._states.find(bytes(lanes), self._free_from)
            if index < 0:
                index = len(self._states)
            if self._first + index + lanes <= self._end:
                missing = index + lanes - len(self._states)
                if missing > 0:
                    self._states.extend(bytes(missing))
                self._states[index : index + lanes] = bytes([TAKEN]) * lanes
                self.in_use += lanes
                return self._first + index, lanes
        return self.take(), 1

    def release(self, queue_id: int) -> None:
        """It is not in use any more."""
        index = queue_id - self._first
        assert self._states[index] == TAKEN, "released twice"
        self._states[index] = FREE
        self._free_from = min(self._free_from, index)
        self.in_use -= 1

    def recovered(self, queue_ids: set[int]) -> None:
        """These are in use, and no others."""
        used = [queue_id for queue_id in queue_ids if self._first <= queue_id < self._end]
        self._states = bytearray(max(used, default=self._first - 1) + 1 - self._first)
        for queue_id in used:
            self._states[queue_id - self._first] = TAKEN
        self._free_from = 0
        self.in_use = len(used)
