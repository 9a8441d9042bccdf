"""What happened, counted: the numbers behind RabbitMQ's `message_stats`.

Nearly all of them are derived, when somebody asks, from numbers that are kept anyhow:

    published to a queue     its next position
    published on a channel   its publish number, or `published` where there are no confirms
    confirmed                publish numbers that are not waited for
    delivered                each consumer's own count: the one addition a delivery costs
    acknowledged             what was handed out, less what came back, was discarded or is out

What has to be counted beside that is rare: gets, returns, rejections. `Counts` has these, and what
consumers, channels and queues that are gone leave behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from amqpd.broker.channel import Channel
    from amqpd.broker.consumer import Consumer
    from amqpd.broker.exchange import BrokerExchange
    from amqpd.broker.queue import Queue

NAMES: Final = (
    "ack",
    "confirm",
    "deliver",
    "deliver_no_ack",
    "drop_unroutable",
    "get",
    "get_empty",
    "get_no_ack",
    "publish",
    "redeliver",
    "return_unroutable",
)
"""In RabbitMQ's words."""
COUNTED: Final = (*NAMES, "discarded", "requeued")


class Counts:
    """Numbers that only grow."""

    __slots__ = COUNTED

    ack: int
    confirm: int
    deliver: int
    deliver_no_ack: int
    drop_unroutable: int
    get: int
    get_empty: int
    get_no_ack: int
    publish: int
    redeliver: int
    return_unroutable: int
    discarded: int
    requeued: int

    def __init__(self) -> None:
        # Not a loop: there are as many of these as queues.
        self.ack = self.confirm = self.deliver = self.deliver_no_ack = self.drop_unroutable = 0
        self.get = self.get_empty = self.get_no_ack = self.publish = self.redeliver = 0
        self.return_unroutable = self.discarded = self.requeued = 0

    def copy(self) -> Counts:
        """The same numbers, to go on from. It is asked of every queue: without a loop."""
        same = Counts.__new__(Counts)
        same.ack = self.ack
        same.confirm = self.confirm
        same.deliver = self.deliver
        same.deliver_no_ack = self.deliver_no_ack
        same.drop_unroutable = self.drop_unroutable
        same.get = self.get
        same.get_empty = self.get_empty
        same.get_no_ack = self.get_no_ack
        same.publish = self.publish
        same.redeliver = self.redeliver
        same.return_unroutable = self.return_unroutable
        same.discarded = self.discarded
        same.requeued = self.requeued
        return same

    def add(self, other: Counts) -> None:
        """What another has counted, too."""
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def add_consumer(self, consumer: Consumer) -> None:
        """What a consumer was handed."""
        if consumer.no_ack:
            self.deliver_no_ack += consumer.delivered
        else:
            self.deliver += consumer.delivered
        self.redeliver += consumer.redelivered

    def count_get(self, redelivered: bool, *, no_ack: bool) -> None:
        """basic.get found a message."""
        if no_ack:
            self.get_no_ack += 1
        else:
            self.get += 1
        self.redeliver += redelivered


class Tally:
    """How many messages were published to an exchange.

    A channel has the tally of the exchange that it published to last, and adds what it published
    since only when it turns to another one, or when somebody asks.
    """

    __slots__ = ("extra", "published")

    def __init__(self) -> None:
        self.published = 0
        self.extra = 0
        """How many more they became by routing: less than none where they had nowhere to go."""


CHURN: Final = (
    "channel_closed",
    "channel_created",
    "connection_closed",
    "connection_created",
    "queue_created",
    "queue_declared",
    "queue_deleted",
)
"""In RabbitMQ's words, too."""


class Churn:
    """What came and went since the start."""

    __slots__ = CHURN

    def __init__(self) -> None:
        self.channel_closed = 0
        self.channel_created = 0
        self.connection_closed = 0
        self.connection_created = 0
        self.queue_created = 0
        self.queue_declared = 0
        self.queue_deleted = 0


def of_queue(queue: Queue) -> Counts:
    """What became of a queue's messages since the start of the broker, or of the queue."""
    counts = queue.counts.copy()
    for consumer in queue.consumers.members():
        counts.add_consumer(consumer)
    counts.publish = queue.published
    counts.ack = counts.deliver + counts.get - counts.requeued - counts.discarded - queue.unacked
    return counts


def of_channel(channel: Channel) -> Counts:
    """What a channel did since it was opened."""
    counts = channel.counts.copy()
    for consumer in channel.consumers.values():
        counts.add_consumer(consumer)
    confirms = channel.confirms
    counts.publish = channel.odometer
    if confirms is not None:
        counts.confirm = confirms.confirmed
    out = len(channel.unacked) + channel.uncommitted_settlements
    counts.ack = counts.deliver + counts.get - counts.requeued - counts.discarded - out
    return counts


def of_exchange(exchange: BrokerExchange) -> tuple[int, int]:
    """Messages published to an exchange, and messages that it passed on.

    Those of channels that are still at it are counted once `Channel.turn_to` was called on them.
    """
    tally = exchange.tally
    return tally.published, tally.published + tally.extra
