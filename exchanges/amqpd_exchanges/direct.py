"""The direct exchange: a binding matches the routing key that equals its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from amqpd_exchanges.exchange import (
    Binding,
    Content,
    Declaration,
    Destination,
    Destinations,
    Exchange,
    Q,
    drop_destination,
    take_destination,
)

__all__ = ["DirectExchange"]


class DirectExchange(Exchange[Q]):
    """Destinations by routing key."""

    __slots__ = ("_by_key",)

    kind: ClassVar[str] = "direct"

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        self._by_key: dict[str, Destinations[Q]] = {}

    def bind(self, binding: Binding[Q]) -> None:
        super().bind(binding)
        take_destination(self._by_key.setdefault(binding.routing_key, {}), binding.destination)

    def unbind(self, binding: Binding[Q]) -> None:
        super().unbind(binding)
        destinations = self._by_key[binding.routing_key]
        drop_destination(destinations, binding.destination)
        if not destinations:
            del self._by_key[binding.routing_key]

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        return self._by_key.get(routing_key, ())
