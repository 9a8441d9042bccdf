"""What lies in queues, in messages and octets: added up when somebody asks.

Queues keep the sums that their rules need (`ready`, `ready_bytes`). All else is found by looking at
what is in memory, which is bounded, and by what is known of the part that is on disk: keeping it up
to date would cost every message, for an operator who looks every few seconds.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from amqpd.wire.properties import TIMESTAMP, read_property

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.channel import Channel, Delivery
    from amqpd.broker.messages import QueueMessage
    from amqpd.broker.queue import Queue

DELIVERIES_A_STEP: Final = 2000
"""Some of a millisecond."""


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


def unacked_of(broker: Broker) -> Generator[None, None, dict[Queue, Unacked]]:
    """Of every queue that has some, in steps: there is no limit to what a consumer may have, and
    to look at a million deliveries takes most of a second. Of each channel it is what it had when
    it was looked at first."""
    found: dict[Queue, Unacked] = {}
    room = DELIVERIES_A_STEP
    channels = [channel for session in broker.sessions for channel in session.channels.values()]
    for channel in channels:
        unsettled = iter(_unsettled(channel))
        while part := list(islice(unsettled, room)):
            for queue, held in _by_queue(part).items():
                before = found.get(queue, NONE_UNACKED)
                found[queue] = Unacked(
                    before.all + _sum(held), before.persistent + _persistent(queue, held)
                )
            room -= len(part)
            if not room:
                yield
                room = DELIVERIES_A_STEP
    return found


def _unsettled(channel: Channel) -> list[Delivery]:
    """What was handed out on a channel, also what a transaction is yet to settle."""
    deliveries = list(channel.unacked.values())
    if channel.transaction is not None:
        for settlement in channel.transaction.settlements:
            deliveries += settlement.deliveries.values()
    return deliveries


def _by_queue(deliveries: Iterable[Delivery]) -> dict[Queue, list[QueueMessage]]:
    found: dict[Queue, list[QueueMessage]] = {}
    for stored, queue, _ in deliveries:
        found.setdefault(queue, []).append(stored)
    return found


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
