"""The modulus hash exchange (RabbitMQ's plug-in rabbitmq_sharding): one binding, by the hash of the
routing key modulo the number of bindings.

The bindings are numbered in the order of their routing keys and destinations, as RabbitMQ's table
of routes has them, so the same bindings give the same answers in whatever order they came. A new
one moves nearly all keys; the consistent hash exchange is there for those who mind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from amqpd_exchanges.exchange import (
    Binding,
    Content,
    Declaration,
    Destination,
    Exchange,
    Q,
)
from amqpd_exchanges.hashing import hash_of

__all__ = ["ModulusHashExchange"]


class ModulusHashExchange(Exchange[Q]):
    """Destinations by number."""

    __slots__ = ("_numbered",)

    kind: ClassVar[str] = "x-modulus-hash"

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        self.chooses = self.routes_once = True
        self._numbered: list[Destination[Q]] | None = None
        """Put in order when a message needs it after a change."""

    def bind(self, binding: Binding[Q]) -> None:
        super().bind(binding)
        self._numbered = None

    def unbind(self, binding: Binding[Q]) -> None:
        super().unbind(binding)
        self._numbered = None

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        numbered = self._numbered
        if numbered is None:
            ordered = sorted(self.bindings, key=_place)
            self._numbered = numbered = [binding.destination for binding in ordered]
        return (numbered[hash_of(routing_key) % len(numbered)],) if numbered else ()


def _place(binding: Binding[Q]) -> tuple[str, bool, str]:
    is_queue = not isinstance(binding.destination, Exchange)
    return binding.routing_key, is_queue, binding.destination_name
