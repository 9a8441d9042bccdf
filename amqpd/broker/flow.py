"""Flow control: who publishes faster than quick consumers take has to wait for them.

    publisher ──> [ queue, about to outgrow its memory ] ──> consumers at work
        ^                                                        |
        └──── held, until they have taken a part of it  <────────┘

A queue that outgrows its window in memory goes to disk (`paging`), and then each message costs a
write and a read. That is what a backlog is for, but not what a flood is worth whose consumers would
keep up, were the publishers not served as often as they. So publishers into such a queue are not
read from for a moment, as with RabbitMQ's credits, where a connection is then in state `flow`.

Nobody waits for consumers that are slow: if in `Limits.flow_wait_s` they took less than
`QUICK_MESSAGES_PER_S` and `QUICK_BYTES_PER_S` amount to, the publishers go on and the queue holds
nobody back for a while: `RETRY_MIN_S`, and twice as long each time, up to `RETRY_MAX_S`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from amqpd.config import Limits
from amqpd.timers import Entry, Timers

if TYPE_CHECKING:
    from amqpd.broker.effects import Effects
    from amqpd.broker.ready_messages import ReadyMessages

QUICK_MESSAGES_PER_S: Final = 10_000
"""Well below what a queue does that is on disk: so one that went there while its consumers were
busy elsewhere comes back."""
QUICK_BYTES_PER_S: Final = 100 * 1024 * 1024
"""Likewise, of bodies."""
RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 1.6
"""Until consumers that were slow are waited for again."""


class _Publisher:
    """Somebody who is held, by one queue or by several."""

    __slots__ = ("_queues", "_wake")

    def __init__(self, wake: Callable[[], None], queues: int) -> None:
        self._wake = wake
        self._queues = queues

    def release(self) -> None:
        """One queue holds it no longer."""
        self._queues -= 1
        if not self._queues:
            self._wake()


class _Hold:
    """What one queue's publishers wait for."""

    __slots__ = ("_bytes", "_published", "_ready", "_small", "_smaller", "held", "queue")

    def __init__(self, queue: ReadyMessages, messages: int, octets: int) -> None:
        """Hold until the queue has well less than the `messages` and `octets` that may be in
        memory, or that much less than now."""
        self.queue = queue
        self.held: list[_Publisher] = []
        self._small = messages * 3 // 4, octets * 3 // 4
        self._smaller = queue.ready - messages, queue.ready_bytes - octets
        self._measure()

    @property
    def is_over(self) -> bool:
        """Whether consumers have taken enough, or are gone."""
        queue = self.queue
        if not queue.consumer_count:
            return True
        ready, octets = queue.ready, queue.ready_bytes
        if ready <= self._small[0] and octets <= self._small[1]:
            return True
        return ready <= self._smaller[0] or octets <= self._smaller[1] or queue.deleted

    def is_quick(self, seconds: float) -> bool:
        """Whether it was worth to wait that long, since it was asked last."""
        published, ready, octets = self._published, self._ready, self._bytes
        self._measure()
        taken = (self._published - published) - (self._ready - ready)
        return (
            taken >= QUICK_MESSAGES_PER_S * seconds
            or octets - self._bytes >= QUICK_BYTES_PER_S * seconds
        )

    def _measure(self) -> None:
        self._published = self.queue.published
        self._ready = self.queue.ready
        self._bytes = self.queue.ready_bytes


class FlowControl:
    """All publishers of a broker that are held. One timer serves them."""

    def __init__(self, effects: Effects, timers: Timers, limits: Limits) -> None:
        self.timer: Entry | None = None
        self.crowded: dict[ReadyMessages, None] = {}
        """Queues that want those held who published into them in this step."""
        self._effects = effects
        self._timers = timers
        self._limits = limits
        self._holds: dict[ReadyMessages, _Hold] = {}
        self._check_at = 0.0

    def crowd(self, queue: ReadyMessages) -> bool:
        """A queue outgrows its memory: whether its publishers wait rather than the disk writes."""
        if not (queue.consumer_count and self._limits.flow_wait_s):
            return False
        if self._effects.now < queue.unheld_until:
            return False
        self.crowded[queue] = None
        return True

    def hold(self, wake: Callable[[], None]) -> None:
        """Somebody published into the crowded queues: call `wake` when he may go on."""
        limits = self._limits
        publisher = _Publisher(wake, len(self.crowded))
        for queue in self.crowded:
            hold = self._holds.get(queue)
            if hold is None:
                if not self._holds:
                    self._check_at = self._effects.now + limits.flow_wait_s
                self._holds[queue] = hold = _Hold(
                    queue, limits.queue_memory_messages, limits.queue_memory_bytes
                )
            hold.held.append(publisher)
        self.crowded.clear()
        self._timers.watch(self)

    def finish_turn(self) -> None:
        """Let those go on whose queues have been emptied enough."""
        self.crowded.clear()
        if self._holds:
            for hold in [hold for hold in self._holds.values() if hold.is_over]:
                hold.queue.unheld_s = RETRY_MIN_S
                self._release(hold)

    def deadline(self) -> float | None:
        """When to look at the consumers."""
        return self._check_at if self._holds else None

    def handle_timer(self, now: float) -> None:
        """Wait for slow consumers no longer."""
        if now < self._check_at:
            return  # that was for a hold that is over
        wait_s = self._limits.flow_wait_s
        for hold in list(self._holds.values()):
            if not hold.is_quick(wait_s):
                queue = hold.queue
                queue.unheld_until = now + queue.unheld_s
                queue.unheld_s = min(2 * queue.unheld_s, RETRY_MAX_S)
                self._release(hold)
        self._check_at = now + wait_s

    def _release(self, hold: _Hold) -> None:
        del self._holds[hold.queue]
        hold.queue.adjust_limits()
        for publisher in hold.held:
            publisher.release()
