"""The random exchange (RabbitMQ's plug-in rabbitmq_random_exchange): one binding, by chance.

Keys count for nothing. A destination with two bindings is chosen twice as often, as in RabbitMQ.
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

__all__ = ["RandomExchange"]


class RandomExchange(Exchange[Q]):
    """Any of the destinations."""

    __slots__ = ("_chance", "_choices")

    kind: ClassVar[str] = "x-random"

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        self.chooses = self.routes_once = True
        self.remembered = False
        self._chance = declaration.chance
        self._choices: list[Destination[Q]] | None = None
        """A list of the destinations, made when a message needs it after a change."""

    def bind(self, binding: Binding[Q]) -> None:
        super().bind(binding)
        self._choices = None

    def unbind(self, binding: Binding[Q]) -> None:
        super().unbind(binding)
        self._choices = None

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        choices = self._choices
        if choices is None:
            self._choices = choices = [binding.destination for binding in self.bindings]
        return (choices[self._chance.below(len(choices))],) if choices else ()
