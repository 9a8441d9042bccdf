"""The fanout exchange: every binding matches every message."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from amqpd_exchanges.exchange import (
    Arguments,
    Binding,
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
    reads_key: ClassVar[bool] = False

    def __init__(
        self, name: str, alternate: str | None = None, on_change: Callable[[], None] | None = None
    ) -> None:
        super().__init__(name, alternate, on_change)
        self._destinations: Destinations[Q] = {}

    def bind(self, binding: Binding[Q]) -> None:
        super().bind(binding)
        take_destination(self._destinations, binding.destination)

    def unbind(self, binding: Binding[Q]) -> None:
        super().unbind(binding)
        drop_destination(self._destinations, binding.destination)

    def route(self, routing_key: str, headers: Arguments) -> Iterable[Destination[Q]]:
        return self._destinations
