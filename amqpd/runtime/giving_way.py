"""Gives the processor to whoever wants it, where it comes back soon: sched_yield(2).

Who floods the broker with bodies of 64 KB, and who takes them, share its processors. A broker that
reads again at once finds a part of what it would find a moment later, and wakes them for it. So
between two reads of large bodies others go first: 30,500 of 64 KB a second in place of 25,000, with
25 us of the broker's time each in place of 36. But where a processor is wanted by somebody who
computes, it is gone for milliseconds. Then nobody is let go first for a while, twice as long each
time that it happens.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

SOON_S: Final = 0.001
"""Whoever only waits for the broker has given the processor back by then."""
KEPT_MIN: Final = 16
KEPT_MAX: Final = 1024
"""So often at least, and at most, nobody goes first after somebody has kept the processor."""


def is_possible() -> bool:
    """Whether this system knows of it."""
    return hasattr(os, "sched_yield")


class GivingWay:
    """To other processes, on behalf of one event loop."""

    def __init__(
        self, now: Callable[[], float], give_way: Callable[[], None] | None = None
    ) -> None:
        """`now` is the time in seconds, `give_way` sched_yield(2)."""
        self._now = now
        self._give_way = give_way or os.sched_yield
        self._keep = 0
        """How often nobody goes first after this time."""
        self._left = 0
        """How often nobody goes first from now on."""

    def let_others_go_first(self) -> None:
        """If they have been quick."""
        if self._left:
            self._left -= 1
            return
        began = self._now()
        self._give_way()
        if self._now() - began > SOON_S:
            self._keep = min(max(2 * self._keep, KEPT_MIN), KEPT_MAX)
        else:
            self._keep //= 2
        self._left = self._keep
