"""What lies in queues, in messages and octets: added up when somebody asks.

Queues keep the sums that their rules need (`ready`, `ready_bytes`). All else is found by looking at
what is in memory, which is bounded, and by what is known of the part that is on disk: keeping it up
to date would cost every message, for an operator who looks every few seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from amqpd.wire.properties import TIMESTAMP, read_property

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.channel import Channel, Delivery
    from amqpd.broker.messages import QueueMessage
    from amqpd.broker.queue import Queue


class Sum(NamedTuple):
    """Some messages, and the octets of their bodies."""

    messages: int = 0
    body_bytes: int = 0

    def __add__(self, other: Sum) -> Sum:  # type: ignore[override]  # not the tuple's
        return Sum(self.messages + other.messages, self.body_bytes + other.body_bytes)


NOTHING = Sum()


class Unacked(NamedTuple):
    """What consumers of a queue have not settled."""

    all: Sum = NOTHING
    persistent: Sum = NOTHING


NONE_UNACKED = Unacked()


class Figures(NamedTuple):
    """What is in one queue."""

    all: Sum
    ready: Sum
    unacked: Sum
    persistent: Sum
    """On disk, or on the way there, to survive a restart."""
    in_memory: Sum
    ready_in_memory: Sum
    dead: Sum
    """Dead letters of a quorum queue that found no place yet."""
    head_timestamp: int | None
    """Of the first ready message, in seconds since 1970; None if it has none, or is on disk."""


def unacked_of(broker: Broker) -> dict[Queue, Unacked]:
    """Of every queue that has some."""
    found: dict[Queue, list[QueueMessage]] = {}
    for session in broker.sessions:
        for channel in session.channels.values():
            for stored, queue, _ in _unsettled(channel):
                found.setdefault(queue, []).append(stored)
    return {queue: Unacked(_sum(held), _persistent(queue, held)) for queue, held in found.items()}


def _unsettled(channel: Channel) -> Iterator[Delivery]:
    """What was handed out on a channel, also what a transaction is yet to settle."""
    yield from channel.unacked.values()
    if channel.transaction is not None:
        for settlement in channel.transaction.settlements:
            yield from settlement.deliveries.values()


def figures(queue: Queue, unacked: Unacked) -> Figures:
    """What is in the queue now; `unacked` is its part of what `unacked_of` found."""
    dead = _sum(queue.dead_messages())
    ready = Sum(queue.ready, queue.ready_bytes - dead.body_bytes)
    ready_in_memory = Sum(queue.resident, queue.resident_bytes - dead.body_bytes)
    persistent = NOTHING
    if queue.durable:
        on_disk = Sum(*queue.paged_to_stay)
        persistent = on_disk + _persistent(queue, queue.in_memory()) + unacked.persistent
    head = queue.first_in_memory
    return Figures(
        all=ready + unacked.all,
        ready=ready,
        unacked=unacked.all,
        persistent=persistent,
        in_memory=ready_in_memory + unacked.all,
        ready_in_memory=ready_in_memory,
        dead=dead,
        head_timestamp=None if head is None else read_property(head.content.properties, TIMESTAMP),
    )


def _sum(messages: Iterable[QueueMessage]) -> Sum:
    sizes = [len(stored.content.body) for stored in messages]
    return Sum(len(sizes), sum(sizes))


def _persistent(queue: Queue, messages: Iterable[QueueMessage]) -> Sum:
    if not queue.durable:
        return NOTHING
    if queue.keeps_all:
        return _sum(messages)
    return _sum([stored for stored in messages if stored.content.persistent])
