"""What the exchanges have in common that remember messages: recent history and deduplication.

They route as a fanout does. What they remember is the broker's business, since it is durable and
made of messages; here each message only asks whether it may pass, and is remembered by the asking.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from amqpd_exchanges.exchange import Content, Declaration, Destination, Q
from amqpd_exchanges.fanout import FanoutExchange
from amqpd_exchanges.fields import Field

__all__ = ["INTEGERS", "RecordingExchange", "decimal"]

INTEGERS: Final = "bBsuIilL"


class RecordingExchange(FanoutExchange[Q]):
    """A fanout for those messages that may pass."""

    __slots__ = ()

    kind: ClassVar[str] = ""

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        self.remembered = False

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        return super().route(routing_key, content) if content.passes(self) else ()


def decimal(field: Field) -> int | None:
    """The integer that an argument is, as a number or as a text of digits."""
    octet, value = field
    if octet in INTEGERS:
        return int(value)
    return int(value) if octet == "S" and value.isascii() and value.isdigit() else None
