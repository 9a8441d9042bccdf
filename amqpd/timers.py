"""All deadlines of a broker in one structure: a heap of things that want to be asked at a time.

Nothing is ever cancelled: a thing whose deadline moved to later is asked too early, says what it
waits for now, and is entered again. That costs one question an interval, where moving the entry
with every frame would cost one a frame.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Protocol


class Timed(Protocol):
    """Something with a deadline. Times are seconds of the caller's clock."""

    timer_at: float | None
    """When it will be asked next; kept by `Timers`."""

    def deadline(self) -> float | None:
        """When it has to be asked at the latest; None for not at all."""

    def handle_timer(self, now: float) -> None:
        """Do what is due."""


class Timers:
    """The heap. Its caller sleeps until `next_deadline` and then calls `advance`."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._entries = count()

    def watch(self, timed: Timed) -> bool:
        """Enter a thing if it has to be asked sooner than it would be. True if it is the first."""
        deadline = timed.deadline()
        if deadline is None or (timed.timer_at is not None and timed.timer_at <= deadline):
            return False
        timed.timer_at = deadline
        heappush(self._heap, (deadline, next(self._entries), timed))
        return self._heap[0][2] is timed

    def next_deadline(self) -> float | None:
        """When `advance` has something to do."""
        return self._heap[0][0] if self._heap else None

    def advance(self, now: float) -> None:
        """Ask everything that is due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, timed = heappop(heap)
            if timed.timer_at != at:
                continue  # entered again since, at an earlier time
            timed.timer_at = None
            timed.handle_timer(now)
            self.watch(timed)
