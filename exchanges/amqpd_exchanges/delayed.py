"""The delayed-message exchange: another type of exchange, and where messages wait before it.

The argument `x-delayed-type` says which type does the routing. A message whose header `x-delay`
says how many milliseconds it is to wait goes to `waiting_room`, a destination like any other to the
router; all others go where the other type sends them. When its time has come, the broker routes it
from this exchange again, with the header negated: what is negative does not wait, neither here nor
in any delayed exchange that this one is bound to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Hashable, Iterable
from typing import Any, ClassVar, Final

from amqpd_exchanges.exchange import (
    Arguments,
    Binding,
    Content,
    Declaration,
    Destination,
    Exchange,
    InvalidArguments,
    Q,
)

__all__ = [
    "DELAY",
    "DELAYED_TYPE",
    "DELAY_MS_MAX",
    "INNER_KINDS",
    "DelayedExchange",
    "delay_ms",
    "unknown_kind",
]

DELAYED_TYPE: Final = "x-delayed-type"
DELAY: Final = "x-delay"
DELAY_MS_MAX: Final = 0xFFFF_FFFF
"""49 days and 17 hours, the plugin's maximum: a message that asks for more does not wait at all."""

_INTEGERS: Final = frozenset("bBsuIilL")
_NUMBER: Final = re.compile(r"\+?0*([0-9]{1,10})", re.ASCII)


INNER_KINDS: Final[dict[str, type[Exchange[Any]]]] = {}
"""What `x-delayed-type` may say. Filled by the router, which knows all types."""


def unknown_kind(name: str) -> str:
    """RabbitMQ's words for a type that it does not have."""
    return f"unknown exchange type '{name}'" if name else "invalid exchange type ''"


class DelayedExchange(Exchange[Q]):
    """An exchange of another type, and the waiting room before it."""

    __slots__ = ("inner", "waiting_room")

    kind: ClassVar[str] = "x-delayed-message"

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        inner = INNER_KINDS[declaration.arguments[DELAYED_TYPE][1]]
        self.inner: Exchange[Q] = inner(declaration._replace(alternate=None))
        """Has the bindings. Nobody else knows of it, so it has no alternate exchange."""
        self.remembered = False
        self.routes_once = self.inner.routes_once
        self.chooses = self.inner.chooses
        self.waiting_room: Q | None = None
        """Set by the broker before anything is routed."""

    @classmethod
    def check_arguments(cls, arguments: Arguments) -> None:
        octet, name = arguments.get(DELAYED_TYPE, ("V", None))
        if octet != "S":
            text = f"Invalid argument, '{DELAYED_TYPE}' must be an existing exchange type"
            raise InvalidArguments(text)
        if name == cls.kind:
            text = f"Invalid argument, '{name}' can't be used for '{DELAYED_TYPE}'"
            raise InvalidArguments(text)
        if name not in INNER_KINDS:
            raise InvalidArguments(unknown_kind(name))
        INNER_KINDS[name].check_arguments(arguments)

    @property
    def bindings(self) -> Collection[Binding[Q]]:
        return self.inner.bindings

    def binding(self, identity: Hashable) -> Binding[Q] | None:
        return self.inner.binding(identity)

    def validate(self, destination: Destination[Q], routing_key: str, arguments: Arguments) -> None:
        self.inner.validate(destination, routing_key, arguments)

    def bind(self, binding: Binding[Q]) -> None:
        self.inner.bind(binding)

    def unbind(self, binding: Binding[Q]) -> None:
        self.inner.unbind(binding)

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        if self.waiting_room is not None and delay_ms(content.headers()):
            return (self.waiting_room,)
        return self.inner.route(routing_key, content)


def delay_ms(headers: Arguments) -> int:
    """How long a message with these headers has to wait; 0 for not at all.

    As the plugin reads the header: an integer of any width, a string of digits, a float without its
    fraction. What is zero, negative, more than `DELAY_MS_MAX` or no number does not wait. (A string
    that is no number crashes the channel in the plugin, and ends the connection with 541.)
    """
    octet, value = headers.get(DELAY, ("V", None))
    if octet == "S":
        digits = _NUMBER.fullmatch(value)
        value = int(digits[1]) if digits else 0
    elif octet in {"f", "d"}:
        value = int(value) if math.isfinite(value) else 0
    elif octet not in _INTEGERS:
        return 0
    return value if 0 < value <= DELAY_MS_MAX else 0
