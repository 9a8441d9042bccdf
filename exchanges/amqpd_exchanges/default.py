"""The default exchange, named "": every queue is bound to it by its own name.

These bindings are implied, not stored: `bindings` is empty, and the broker refuses bind, unbind,
declare and delete on this exchange (403) before the router hears of them. Like RabbitMQ's it has
no alternate exchange: the broker sets none, not even by policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from amqpd_exchanges.exchange import Binding, Content, Declaration, Destination, Exchange, Q

__all__ = ["DefaultExchange"]


class DefaultExchange(Exchange[Q]):
    """Queues by name."""

    __slots__ = ("queues",)

    kind: ClassVar[str] = "direct"

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        # As one-element tuples, so that a routing result need not be made for each message.
        self.queues: dict[str, tuple[Q, ...]] = {}

    def bind(self, binding: Binding[Q]) -> None:
        raise AssertionError("the default exchange takes no bindings")

    def unbind(self, binding: Binding[Q]) -> None:
        raise AssertionError("the default exchange has no bindings")

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        return self.queues.get(routing_key, ())
