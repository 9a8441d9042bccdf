"""Ids under which the store keeps the messages of queues: small numbers, used again."""

from __future__ import annotations

from heapq import heappop, heappush


class QueueIds:
    """The ids from `first` up to, but not including, `end`."""

    def __init__(self, first: int, end: int) -> None:
        self._first = first
        self._end = end
        self._next = first
        self._free: list[int] = []

    @property
    def in_use(self) -> int:
        """How many are."""
        return self._next - self._first - len(self._free)

    def take(self) -> int:
        """The lowest id that is not in use."""
        if self._free:
            return heappop(self._free)
        assert self._next < self._end, "no queue id is left"
        self._next += 1
        return self._next - 1

    def release(self, queue_id: int) -> None:
        """It is not in use any more."""
        heappush(self._free, queue_id)

    def recovered(self, queue_ids: set[int]) -> None:
        """These are in use, and no others."""
        used = {queue_id for queue_id in queue_ids if self._first <= queue_id < self._end}
        self._next = max(used, default=self._first - 1) + 1
        self._free = sorted(set(range(self._first, self._next)) - used)
