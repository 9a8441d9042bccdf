"""What a transactional channel has said and not yet committed (class tx; RabbitMQ's semantics).

Publishes were checked when they came (existence, permission) and routed: bindings that come or go
later do not count. Where they lead to are names: a queue that is deleted and declared again before
the commit gets them. Settlements were checked too: the deliveries they name are out of the
channel's ledger, and come back to it on rollback, unacknowledged as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from amqpd.commands import Message

if TYPE_CHECKING:
    from amqpd.broker.channel import Delivery
    from amqpd.broker.publishing import Keeper

Routed = tuple["Keeper", ...] | None
"""The queues that a publish was routed to; None: those that its routing keys name at the commit."""


class BufferedSettlement(NamedTuple):
    """One ack, nack or reject: the outcome, the deliveries by tag, and how they come back."""

    outcome: int
    deliveries: dict[int, Delivery]
    how: int


class Transaction:
    """The buffer of a channel in tx mode, used again for each transaction."""

    __slots__ = ("messages", "settlements")

    def __init__(self) -> None:
        self.messages: list[tuple[Message, Routed]] = []
        self.settlements: list[BufferedSettlement] = []

    def clear(self) -> None:
        """Begin the next transaction."""
        self.messages = []
        self.settlements = []
