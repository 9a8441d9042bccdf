"""Class tx: all or nothing for what one channel publishes and settles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final

from amqpd.broker.channel import Channel, Delivery
from amqpd.broker.publishing import publish_committed, route_committed
from amqpd.broker.transaction import BufferedSettlement, Transaction
from amqpd.commands import ACK, Arguments, Tx
from amqpd.errors import PRECONDITION_FAILED, amqp_error


def select(channel: Channel, method: Tx.Select, arguments: Arguments) -> None:
    """tx.select. Said twice, it changes nothing."""
    if channel.confirms is not None:
        raise amqp_error(PRECONDITION_FAILED, "cannot switch from confirm to tx mode", (90, 10))
    if channel.transaction is None:
        channel.transaction = Transaction()
    channel.reply(Tx.SelectOk())


def commit(channel: Channel, method: Tx.Commit, arguments: Arguments) -> None:
    """tx.commit: returns, acks, publishes, nacks; commit-ok once all of it is on disk.

    All of it goes to the journal in one turn, and what one turn appends is one batch: a crash
    leaves the whole transaction or nothing of it.
    """
    transaction = _transaction(channel, (90, 20))
    messages, settlements = transaction.messages, transaction.settlements
    transaction.clear()
    routed = [route_committed(channel, message, ahead) for message, ahead in messages]
    # RabbitMQ's queues hear of acks before all else (rabbit_amqqueue_process, prioritise_cast):
    # they make room for what is published.
    for outcome, alike in groupby(settlements, attrgetter("outcome")):
        if outcome == ACK:
            channel.settle_together(ACK, in_order(alike))
    taken = [publish_committed(channel, each) for each in routed]
    for outcome, alike in groupby(settlements, attrgetter("outcome")):
        if outcome != ACK:
            channel.settle_together(outcome, in_order(alike))
    if not all(taken):
        raise amqp_error(PRECONDITION_FAILED, "partial tx completion", (90, 20))
    channel.committing = channel.reply_when_safe(Tx.CommitOk())


def in_order(
    settlements: Iterable[BufferedSettlement],
) -> Iterator[tuple[dict[int, Delivery], int]]:
    """Settlements with one outcome that follow each other are one to RabbitMQ, in order of the
    delivery tags; those of them that come back in the same way go together."""
    deliveries = sorted(
        (delivery_tag, settlement.how, delivery)
        for settlement in settlements
        for delivery_tag, delivery in settlement.deliveries.items()
    )
    for how, alike in groupby(deliveries, itemgetter(1)):
        yield {delivery_tag: delivery for delivery_tag, _, delivery in alike}, how


def rollback(channel: Channel, method: Tx.Rollback, arguments: Arguments) -> None:
    """tx.rollback: what was settled is unacknowledged again, and not requeued."""
    transaction = _transaction(channel, (90, 30))
    settlements = transaction.settlements
    transaction.clear()
    channel.restore_to_ledger(settlements)
    channel.reply(Tx.RollbackOk())


def _transaction(channel: Channel, method: tuple[int, int]) -> Transaction:
    if channel.transaction is None:
        raise amqp_error(PRECONDITION_FAILED, "channel is not transactional", method)
    return channel.transaction


HANDLERS: Final[dict[Any, Any]] = {
    Tx.Select: select,
    Tx.Commit: commit,
    Tx.Rollback: rollback,
}
