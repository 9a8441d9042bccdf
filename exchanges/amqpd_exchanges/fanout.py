"""The fanout exchange: every binding matches every message."""

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

__all__ = ["FanoutExchange"]


class FanoutExchange(Exchange[Q]):
    """Destinations, whatever the key."""

    __slots__ = ("_destinations",)

    kind: ClassVar[str] = "fanout"

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        self.routes_once = True
        self._destinations: Destinations[Q] = {}

    def bind(self, binding: Binding[Q]) -> None:
        super().bind(binding)
        take_destination(self._destinations, binding.destination)

    def unbind(self, binding: Binding[Q]) -> None:
        super().unbind(binding)
        drop_destination(self._destinations, binding.destination)

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        return self._destinations
