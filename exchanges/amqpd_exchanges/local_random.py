"""The local random exchange (RabbitMQ 4.0 and later): one of the queues of this node, by chance.

Every queue is of this node, so all there is to it are the rules for bindings: they lead to queues,
and have no routing key.
"""

from __future__ import annotations

from typing import ClassVar

from amqpd_exchanges.exchange import Arguments, Binding, Destination, Exchange, InvalidBinding, Q
from amqpd_exchanges.random import RandomExchange

__all__ = ["LocalRandomExchange"]


class LocalRandomExchange(RandomExchange[Q]):
    """Any of the queues."""

    __slots__ = ()

    kind: ClassVar[str] = "x-local-random"

    def validate(self, destination: Destination[Q], routing_key: str, arguments: Arguments) -> None:
        if routing_key:
            raise InvalidBinding(f"Non empty binding '{routing_key}' key not permitted")
        if isinstance(destination, Exchange):
            raise InvalidBinding("Destination not found")

    def bind(self, binding: Binding[Q]) -> None:
        self.validate(binding.destination, binding.routing_key, binding.arguments)
        super().bind(binding)
