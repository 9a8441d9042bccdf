"""All deadlines of a broker in one structure: a heap of things that want to be asked at a time.

    heap:     (31.5, 7)  (60.0, 9)  (60.0, 4) ...         when, and the number of the entry
    watched:   7 -> A     9 -> B    (4 is forgotten)      whom

A deadline that moves to later is not moved in the heap: the thing is asked too early, says what it
waits for now, and is entered again. That costs one question an interval, where moving the entry
with every frame would cost one a frame. What is forgotten leaves two numbers in the heap, and
nothing of itself; they go when their time has come, or when they are most of the heap.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Protocol

HEAP_ENTRIES_MIN: Final = 64
"""A heap that is shorter is not tidied."""

BREATH_S: Final = 0.000_01
"""Seconds between two portions of something long: each is a turn of its own."""

Entry = tuple[float, int]
"""When, and a number of its own."""


class Timed(Protocol):
    """Something with a deadline. Times are seconds of the caller's clock."""

    timer: Entry | None
    """When it will be asked next; None at first, and from then on kept by `Timers`."""

    def deadline(self) -> float | None:
        """When it has to be asked at the latest; None for not at all."""

    def handle_timer(self, now: float) -> None:
        """Do what is due, so that the deadline lies in the future or is None."""


class Timers:
    """The heap. Its caller sleeps until `next_deadline` and then calls `advance`."""

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._watched: dict[int, Timed] = {}
        self._numbers = count()

    def watch(self, timed: Timed) -> bool:
        """Enter a thing if it has to be asked sooner than it would be. True if it is the first."""
        deadline = timed.deadline()
        timer = timed.timer
        if deadline is None or (timer is not None and timer[0] <= deadline):
            return False
        self.forget(timed)
        timed.timer = timer = (deadline, next(self._numbers))
        self._watched[timer[1]] = timed
        heappush(self._heap, timer)
        return self._heap[0] == timer

    def forget(self, timed: Timed) -> None:
        """The thing is gone: it is not asked any more, and not kept."""
        if timed.timer is not None:
            del self._watched[timed.timer[1]]
            timed.timer = None
            heap = self._heap
            if len(heap) > 2 * len(self._watched) + HEAP_ENTRIES_MIN:
                heap[:] = [entry for entry in heap if entry[1] in self._watched]
                heapify(heap)

    def next_deadline(self) -> float | None:
        """When `advance` has something to do."""
        heap = self._heap
        while heap and heap[0][1] not in self._watched:
            heappop(heap)
        return heap[0][0] if heap else None

    def advance(self, now: float) -> None:
        """Ask everything that is due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            timed = self._watched.pop(heappop(heap)[1], None)
            if timed is not None:
                timed.timer = None
                timed.handle_timer(now)
                self.watch(timed)
