"""Messages that die, buried one after the other.

A dead letter may push another message out of its queue, whose dead letter pushes out a third. What
dies while another one is buried waits until that is done: a chain of a thousand queues is a loop,
and no recursion. And one turn does only so much (`EFFORT_A_TURN`), for a ring of queues that drop
what they get makes as many copies as there are ways through it; the rest goes on in turns of its
own. Meanwhile such a message is neither ready nor unacknowledged, and its publisher waits for the
confirm. In the store it still lies where it died: after a crash it is ready there, and dies again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from amqpd.timers import BREATH_S
from amqpd.timers import Entry as TimerEntry

if TYPE_CHECKING:
    from amqpd.broker.effects import Effects
    from amqpd.broker.messages import QueueMessage
    from amqpd.broker.queue import Queue

EFFORT_A_TURN: Final = 1000
"""A copy is 1; see `dead_letter`. Some milliseconds."""


class Death(NamedTuple):
    """One that waits."""

    queue: "Queue"  # noqa: UP037 - compiled, it is looked up here, and is not there yet
    stored: "QueueMessage"  # noqa: UP037
    reason: str


class Dying:
    """Those of one broker, as `amqpd.timers.Timed`."""

    __slots__ = (
        "_burying",
        "_effects",
        "_following",
        "_resume_at",
        "_turn",
        "effort_left",
        "timer",
        "waiting",
    )

    def __init__(self, effects: Effects) -> None:
        self.timer: TimerEntry | None = None
        self.effort_left = EFFORT_A_TURN
        """What may still be done in this turn; whoever buries takes from it."""
        self.waiting: deque[Death] = deque()
        """Those that are not buried yet, the next one first."""
        self._following: list[Death] = []
        """Those that died of the burial that goes on."""
        self._burying = False
        self._effects = effects
        self._turn = 0.0
        self._resume_at = 0.0

    def add(self, queue: Queue, stored: QueueMessage, reason: str) -> None:
        """A message has died in this queue: bury it, now or later (`Queue.bury`)."""
        death = Death(queue, stored, reason)
        if self._burying:
            self._following.append(death)
            return
        self.waiting.append(death)
        if len(self.waiting) == 1:
            self._bury()

    def _bury(self) -> None:
        now = self._effects.now
        if now != self._turn:
            self._turn = now
            self.effort_left = EFFORT_A_TURN
        waiting, following = self.waiting, self._following
        self._burying = True
        try:
            while waiting and self.effort_left > 0:
                queue, stored, reason = waiting.popleft()
                queue.bury(stored, reason)
                if following:
                    # Before the others: so many wait as a way is long, not as there are ways.
                    waiting.extendleft(reversed(following))
                    following.clear()
        finally:
            self._burying = False
        if waiting:
            self._resume_at = now + BREATH_S
            self._effects.timed_queues[self] = None

    # -- as `amqpd.timers.Timed`

    def deadline(self) -> float | None:
        """When to go on, in seconds of the runtime's clock."""
        return self._resume_at if self.waiting else None

    def handle_timer(self, now: float) -> None:
        """Go on."""
        self._bury()
