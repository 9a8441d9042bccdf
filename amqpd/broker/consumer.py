"""Consumers of a queue, and whose turn it is.

A consumer that can take a message stands in a ring with the others of its priority. The one in
front is served and goes to the back. One that cannot (its prefetch window is full, its connection
has too much unsent) is taken out of the ring when its turn comes, and put back at the end by
whoever learns that it can take messages again: that is how RabbitMQ keeps consumers of lower
priority waiting only while those of higher priority are busy.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from amqpd.commands import Arguments, Message, Outlet

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
        "exclusive",
        "no_ack",
        "outlet",
        "prefetch",
        "prefix",
        "priority",
        "queue",
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
        encoded = tag.encode()
        self.prefix = bytes((len(encoded),)) + encoded
        """The consumer tag as the short string that begins every delivery."""
        self.queue = queue
        self.channel = channel
        self.outlet: Outlet = channel.outlet
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.prefetch = prefetch
        """Most deliveries unacknowledged at once; 0 is no limit."""
        self.priority = priority
        self.arguments = arguments
        self.unacked = 0
        self.blocked = False
        """Out of the ring until it can take messages again."""

    def can_take(self) -> bool:
        """Whether a delivery may go to this consumer now."""
        if self.outlet.congested:
            return False
        if self.no_ack:
            return True
        if self.prefetch and self.unacked >= self.prefetch:
            return False
        channel = self.channel
        return not channel.global_prefetch or channel.consumer_unacked < channel.global_prefetch

    def deliver(self, stored: QueueMessage) -> None:
        """Hand a message out that has to be acknowledged."""
        channel = self.channel
        channel.delivery_tag = delivery_tag = channel.delivery_tag + 1
        channel.unacked[delivery_tag] = (stored, self.queue, self)
        channel.consumer_unacked += 1
        self.unacked += 1
        self.queue.unacked += 1
        self.outlet.deliver(self.prefix, delivery_tag, stored.redelivered, stored.content)

    def deliver_settled(self, message: Message, redelivered: bool) -> None:
        """Hand a message out that counts as acknowledged by that."""
        channel = self.channel
        channel.delivery_tag = delivery_tag = channel.delivery_tag + 1
        self.outlet.deliver(self.prefix, delivery_tag, redelivered, message)


class ConsumerRing:
    """The consumers of one queue.

    `single_active`: only one of them is served, the others wait for their turn (RabbitMQ's
    `x-single-active-consumer`): the next is the one of highest priority, then the oldest.
    """

    __slots__ = ("_levels", "_members", "_single_active", "active")

    def __init__(self, single_active: bool) -> None:
        self._single_active = single_active
        self._members: dict[Consumer, None] = {}
        self._levels: list[tuple[int, deque[Consumer]]] = []
        """Consumers that may be served, by priority, highest first."""
        self.active: Consumer | None = None
        """The one that is served, if only one is."""

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> list[Consumer]:
        """All of them, oldest first."""
        return list(self._members)

    def has_exclusive(self) -> bool:
        """Whether one of them has the queue to itself."""
        return any(consumer.exclusive for consumer in self._members)

    def add(self, consumer: Consumer) -> None:
        """A new consumer."""
        self._members[consumer] = None
        if not self._single_active:
            self._enter(consumer)
        elif self.active is None:
            self._activate(consumer)

    def remove(self, consumer: Consumer) -> None:
        """The consumer is gone; under a single active consumer the next one takes over."""
        del self._members[consumer]
        self._leave(consumer)
        # What it has not settled may still be settled: that must not bring it back into the ring.
        consumer.blocked = False
        if consumer is self.active:
            self.active = None
            if self._members:
                self._activate(max(self._members, key=_priority))

    def unblock(self, consumer: Consumer) -> None:
        """The consumer can take messages again: to the end of the ring with it."""
        consumer.blocked = False
        self._enter(consumer)

    def take(self) -> Consumer | None:
        """The consumer whose turn it is; None if none can take a message."""
        for _, ready in self._levels:
            while ready:
                consumer = ready[0]
                if consumer.can_take():
                    if len(ready) > 1:
                        ready.rotate(-1)
                    return consumer
                consumer.blocked = True
                ready.popleft()
        return None

    def can_serve(self) -> bool:
        """Whether `take` would find a consumer."""
        return any(consumer.can_take() for _, ready in self._levels for consumer in ready)

    def _activate(self, consumer: Consumer) -> None:
        self.active = consumer
        self._enter(consumer)

    def _enter(self, consumer: Consumer) -> None:
        for index, (priority, ready) in enumerate(self._levels):
            if priority == consumer.priority:
                ready.append(consumer)
                return
            if priority < consumer.priority:
                self._levels.insert(index, (consumer.priority, deque((consumer,))))
                return
        self._levels.append((consumer.priority, deque((consumer,))))

    def _leave(self, consumer: Consumer) -> None:
        for index, (priority, ready) in enumerate(self._levels):
            if priority == consumer.priority:
                if consumer in ready:
                    ready.remove(consumer)
                if not ready:
                    del self._levels[index]
                return


def _priority(consumer: Consumer) -> int:
    return consumer.priority
