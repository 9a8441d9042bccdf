"""What is left of the bindings of queues that are gone: unbound a little at a time.

To delete a queue with fifty thousand bindings would take a tenth of a second and more, for which
everybody else would wait. It is gone at once all the same, on disk too: see `Router.sweep`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amqpd.timers import BREATH_S
from amqpd.timers import Entry as TimerEntry
from amqpd_exchanges.router import Router

if TYPE_CHECKING:
    from amqpd.broker.effects import Effects
    from amqpd.broker.queue import Queue


class BindingSweep:
    """Sweeps one router, as `amqpd.timers.Timed`."""

    __slots__ = ("_effects", "_resume_at", "_router", "timer")

    def __init__(self, router: Router[Queue], effects: Effects) -> None:
        self.timer: TimerEntry | None = None
        self._router = router
        self._effects = effects
        self._resume_at = 0.0

    def begin(self) -> None:
        """There may be something to sweep."""
        if not self._router.is_swept:
            self._resume_at = self._effects.now + BREATH_S
            self._effects.timed_queues[self] = None

    def deadline(self) -> float | None:
        """When to go on, in seconds of the runtime's clock."""
        return None if self._router.is_swept else self._resume_at

    def handle_timer(self, now: float) -> None:
        """Sweep some."""
        self._router.sweep()
        self._resume_at = now + BREATH_S
