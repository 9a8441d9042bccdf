"""What links of federation have to know of a broker's exchanges and queues, when it happens.

The broker calls, within its turns; who listens only takes note, and lets its links say what there
is to say. A broker without links has `NOBODY` listening.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from amqpd.commands import Arguments

if TYPE_CHECKING:
    from amqpd.broker.exchange import BrokerExchange
    from amqpd.broker.queue import Queue
    from amqpd.broker.virtual_host import VirtualHost


class FederationListener:
    """Hears all of it and does nothing. `amqpd.links.federation` has the one that does."""

    def exchange_governed(self, virtual_host: VirtualHost, exchange: BrokerExchange) -> None:
        """An exchange was declared, or other policies hold for it. Sets `exchange.federated`."""

    def exchange_deleted(self, virtual_host: VirtualHost, exchange: BrokerExchange) -> None:
        """A federated exchange is gone."""

    def bound(
        self, virtual_host: VirtualHost, exchange: str, routing_key: str, arguments: Arguments
    ) -> None:
        """A federated exchange has one more binding."""

    def unbound(
        self, virtual_host: VirtualHost, exchange: str, routing_key: str, arguments: Arguments
    ) -> None:
        """A federated exchange has one binding fewer."""

    def queue_governed(self, virtual_host: VirtualHost, queue: Queue) -> None:
        """A queue was declared, or other policies hold for it. Calls `queue.federate`."""

    def queue_deleted(self, virtual_host: VirtualHost, queue: Queue) -> None:
        """A federated queue is about to go."""

    def demand(self, queue: Queue) -> None:
        """What `queue.wants_more` says may have changed."""


NOBODY: Final = FederationListener()
