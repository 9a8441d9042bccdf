"""Consumers of a queue, and whose turn it is.

A consumer that can take a message stands in a ring with the others of its priority. The one in
front is served and goes to the back. One that cannot (its prefetch window is full, its connection
has too much unsent) is taken out of the ring when its turn comes, and put back at the end by
whoever learns that it can take messages again: that is how RabbitMQ keeps consumers of lower
priority waiting only while those of higher priority are busy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from amqpd.commands import Arguments, DeliveryOutlet, Message
from amqpd.short_string import short_string

if TYPE_CHECKING:
    from amqpd.broker.channel import Channel
    from amqpd.broker.messages import QueueMessage
    from amqpd.broker.queue import Queue


class Consumer:
    """One basic.consume."""

    __slots__ = (
        "arguments",
        "blocked",
        "channel",
        "delivered",
        "exclusive",
        "gone",
        "no_ack",
        "outlet",
        "prefetch",
        "prefix",
        "priority",
        "queue",
        "redelivered",
        "tag",
        "unacked",
    )

    def __init__(
        self,
        tag: str,
        queue: Queue,
        channel: Channel,
        *,
        no_ack: bool,
        exclusive: bool,
        prefetch: int,
        priority: int,
        arguments: Arguments,
    ) -> None:
        self.tag = tag
        self.prefix = short_string(tag)
        """The consumer tag as the short string that begins every delivery."""
        self.queue = queue
        self.channel = channel
        self.outlet: DeliveryOutlet = channel.outlet
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.prefetch = prefetch
        """Most deliveries unacknowledged at once; 0 is no limit."""
        self.priority = priority
        self.arguments = arguments
        self.unacked = 0
        self.delivered = 0
        """Messages handed out, ever; and how many of them not for the first time."""
        self.redelivered = 0
        self.blocked = False
        """Out of the ring until it can take messages again."""
        self.gone = False
        """Not a consumer of its queue any more."""

    def can_take(self) -> bool:
        """Whether a delivery may go to this consumer now."""
        if self.gone or self.outlet.congested:
            return False
        if not self.no_ack and self.prefetch and self.unacked >= self.prefetch:
            return False
        # A full global window holds back even those that need not acknowledge.
        channel = self.channel
        return not channel.global_prefetch or channel.consumer_unacked < channel.global_prefetch

    def deliver(self, stored: QueueMessage) -> None:
        """Hand a message out that has to be acknowledged."""
        channel = self.channel
        channel.delivery_tag = delivery_tag = channel.delivery_tag + 1
        channel.unacked[delivery_tag] = (stored, self.queue, self)
        channel.consumer_unacked += 1
        self.unacked += 1
        self.delivered += 1
        self.queue.unacked += 1
        redelivered = stored.redelivered
        if redelivered:
            self.redelivered += 1
            self.outlet.deliver(
                self.prefix, delivery_tag, redelivered, self.queue.presented(stored)
            )
        else:
            self.outlet.deliver(self.prefix, delivery_tag, redelivered, stored.content)

    def deliver_settled(self, message: Message, redelivered: bool) -> None:
        """Hand a message out that counts as acknowledged by that."""
        channel = self.channel
        channel.delivery_tag = delivery_tag = channel.delivery_tag + 1
        self.delivered += 1
        if redelivered:
            self.redelivered += 1
        self.outlet.deliver(self.prefix, delivery_tag, redelivered, message)


class ConsumerRing:
    """The consumers of one queue.

    `single_active`: only one of them is served, the others wait for their turn (RabbitMQ's
    `x-single-active-consumer`): the next is the one of highest priority, then the oldest; the
    oldest whatever its priority if `by_age` (quorum queues of 3.x).

    There may be as many as peers like, of as many priorities: nothing here looks at all of them,
    but for `members`. Who leaves stays in the ring until its turn or the next tidying.
    """

    __slots__ = (
        "_gone",
        "_levels",
        "_members",
        "_number",
        "_single_active",
        "_waiting",
        "active",
        "by_age",
        "exclusive",
        "leaving",
        "ranked",
        "touched",
    )

    def __init__(self, single_active: bool) -> None:
        self._single_active = single_active
        self.touched: Callable[[], None] | None = None
        """Called when there are others that may be served: a federated queue wants to know."""
        self.by_age = False
        self._members: dict[Consumer, int] = {}
        """All of them, oldest first, with their numbers."""
        self._number = 0
        """How many there ever were."""
        self._levels: list[tuple[int, deque[Consumer]]] = []
        """Consumers that may be served, by priority, highest last. At most one level is empty."""
        self._gone = 0
        """How many of those in the ring left the queue."""
        self._waiting: list[tuple[int, int, Consumer]] = []
        """A heap of those that wait to become the active one, and of some that left."""
        self.active: Consumer | None = None
        """The one that is served, if only one is."""
        self.leaving: Consumer | None = None
        """The active one, if it makes way for another as soon as all it was sent is settled."""
        self.exclusive: Consumer | None = None
        """The one that has the queue to itself."""
        self.ranked = False
        """Some had a priority other than 0."""

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> list[Consumer]:
        """All of them, oldest first."""
        return list(self._members)

    def add(self, consumer: Consumer) -> None:
        """A new consumer."""
        self._number = number = self._number + 1
        self._members[consumer] = number
        if consumer.exclusive:
            self.exclusive = consumer
        if consumer.priority:
            self.ranked = True
        if not self._single_active:
            self._enter(consumer)
        elif self.active is None:
            self._activate(consumer)
        else:
            self._wait(consumer)

    def remove(self, consumer: Consumer) -> None:
        """The consumer is gone; under a single active consumer the next one takes over."""
        del self._members[consumer]
        if consumer is self.exclusive:
            self.exclusive = None
        if self.touched is not None:
            self.touched()
        in_ring = not consumer.blocked and (not self._single_active or consumer is self.active)
        if consumer.blocked:
            # What it has not settled may still be settled: that must not bring it back.
            consumer.blocked = False
            del consumer.channel.blocked[consumer]
        consumer.gone = True
        if in_ring:
            self._gone += 1
            self._tidy_ring()
        if consumer is self.active:
            self.active = self.leaving = None
            candidate = self._next()
            if candidate is not None:
                heappop(self._waiting)
                self._activate(candidate)
        elif len(self._waiting) > 2 * len(self._members):
            self._waiting = [entry for entry in self._waiting if not entry[2].gone]
            heapify(self._waiting)

    def make_way(self) -> None:
        """If one of higher priority waits, the active one is served no more, and then replaced."""
        active, candidate = self.active, self._next()
        if active is None or candidate is None or candidate.priority <= active.priority:
            return
        self._levels.clear()  # it was the only one there
        if self.touched is not None:
            self.touched()
        if not active.blocked:
            active.blocked = True
            active.channel.blocked[active] = None
        self.leaving = active
        if not active.unacked:
            self.hand_over()

    def hand_over(self) -> None:
        """The active one has nothing left to settle: it waits, and the next one takes over."""
        active = self.active
        assert active is not None
        assert active is self.leaving
        self.leaving = None
        active.blocked = False
        del active.channel.blocked[active]
        self._wait(active)
        candidate = self._next()  # the former one, if whom it made way for has left
        assert candidate is not None
        heappop(self._waiting)
        self._activate(candidate)

    def unblock(self, consumer: Consumer) -> None:
        """The consumer can take messages again: to the end of the ring with it."""
        consumer.blocked = False
        del consumer.channel.blocked[consumer]
        self._enter(consumer)

    def take(self) -> Consumer | None:
        """The consumer whose turn it is; None if none can take a message."""
        levels = self._levels
        while levels:
            ready = levels[-1][1]
            while ready:
                consumer = ready[0]
                if consumer.can_take():
                    if len(ready) > 1:
                        ready.rotate(-1)
                    return consumer
                ready.popleft()
                if consumer.gone:
                    self._gone -= 1
                else:
                    consumer.blocked = True
                    consumer.channel.blocked[consumer] = None
                    if self.touched is not None:
                        self.touched()
            if len(levels) == 1:
                return None  # it stays, for whoever comes back
            levels.pop()
        return None

    def can_serve(self) -> bool:
        """Whether `take` would find a consumer."""
        return any(consumer.can_take() for _, ready in self._levels for consumer in ready)

    def serves(self, least_priority: int) -> bool:
        """Whether a consumer of at least this priority may be served. One that is full stands in
        the ring until its turn comes, and counts."""
        return any(
            not consumer.gone
            for priority, ready in self._levels
            if priority >= least_priority
            for consumer in ready
        )

    def _wait(self, consumer: Consumer) -> None:
        priority = 0 if self.by_age else -consumer.priority
        heappush(self._waiting, (priority, self._members[consumer], consumer))

    def _next(self) -> Consumer | None:
        """The one that becomes the active one next: it is the first that waits."""
        while self._waiting and self._waiting[0][2].gone:
            heappop(self._waiting)
        return self._waiting[0][2] if self._waiting else None

    def _activate(self, consumer: Consumer) -> None:
        self.active = consumer
        self._enter(consumer)

    def _enter(self, consumer: Consumer) -> None:
        if self.touched is not None:
            self.touched()
        levels = self._levels
        if levels and levels[-1][0] == consumer.priority:
            levels[-1][1].append(consumer)
            return
        index = bisect_left(levels, consumer.priority, key=_priority)
        if index < len(levels) and levels[index][0] == consumer.priority:
            levels[index][1].append(consumer)
        else:
            levels.insert(index, (consumer.priority, deque((consumer,))))

    def _tidy_ring(self) -> None:
        """Let those go that left, once they are more than the others."""
        if self._gone <= len(self._members):
            return
        self._gone = 0
        kept = [
            (priority, deque(consumer for consumer in ready if not consumer.gone))
            for priority, ready in self._levels
        ]
        self._levels = [level for level in kept if level[1]]


def _priority(level: tuple[int, deque[Consumer]]) -> int:
    return level[0]
