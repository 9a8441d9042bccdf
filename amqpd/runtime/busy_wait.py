"""Looks for more before the process sleeps, while that pays: as Erlang's schedulers do.

    turn ─────┬── next turn within `longest_s`, again and again: look for it, up to that long
              └── none: sleep, and look half as long the next time

Whoever sleeps has to be woken, which on a virtual machine takes more than all that the broker does
with a small message: a round trip by direct reply-to takes 61 us asleep and 35 us so, with no more
processor time. Only gaps that are short enough to be worth it make it look, and it looks for
as long as has proved worth it, like the kernel's halt polling for guests. Each look is a turn of
the event loop that does not wait, and gives the processor to any other process that wants it. The
interpreter lock is wanted by the journal's writer: while it writes, the loop sleeps. It does so
after a commit, too: who waited for the disk sends the next message later than that, and looking for
it took a fifth of the confirms with one in flight.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol

SHORTEST_S: Final = 0.000_025
"""What it begins with, and below which it does not look at all."""


class Loop(Protocol):
    """What is needed of the event loop."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Call it in the next turn of the loop, which does not wait then."""


def is_possible() -> bool:
    """Whether those who are waited for have another processor, and can be given this one."""
    if not hasattr(os, "sched_yield"):
        return False
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return (len(allowed) or os.cpu_count() or 1) > 1


class BusyWait:
    """Of one event loop: told when a turn ends, it keeps the loop awake for a while."""

    def __init__(
        self,
        loop: Loop,
        now: Callable[[], float],
        longest_s: float,
        give_way: Callable[[], None] | None = None,
    ) -> None:
        """`give_way` lets other processes have the processor if they want it: sched_yield(2)."""
        self._loop = loop
        self._now = now
        self._longest_s = longest_s
        self._give_way = give_way or os.sched_yield
        self._patience_s = 0.0
        """How long it looks, at present."""
        self._ended_at = now()
        """When the last turn ended."""
        self._looked_at = self._ended_at
        """What that was at the last look."""
        self._looking = False
        self._writing = False
        """The journal's writer was at work when the last turn ended."""

    def turn_ended(self, *, writing: bool) -> None:
        """A turn of the broker is over; `writing` if the journal's writer is at work."""
        now = self._now()
        gap, self._ended_at = now - self._ended_at, now
        was_writing, self._writing = self._writing, writing
        if self._looking or was_writing:
            return
        if gap > self._longest_s:
            patience = self._patience_s / 2
            self._patience_s = patience if patience >= SHORTEST_S else 0.0
        else:
            self._patience_s = min(max(2 * self._patience_s, SHORTEST_S), self._longest_s)
        if self._patience_s and not writing:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        ended_at = self._ended_at
        if self._writing or self._now() - ended_at > self._patience_s:
            self._looking = False
            return
        if ended_at == self._looked_at:
            self._give_way()
        else:  # something came: there may be more, and no time to lose
            self._looked_at = ended_at
        self._loop.call_soon(self._look)
