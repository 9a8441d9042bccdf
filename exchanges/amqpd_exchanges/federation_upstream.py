"""The exchange type x-federation-upstream (the plug-in rabbitmq_federation): what a federation link
declares on its upstream, between the exchange and the link's queue.

A fanout that a message passes only if it may still travel: its header `x-received-from`, one table
for each link it came over, is shorter than `x-max-hops`, and none of these tables names the broker
and virtual host at the other end of the link (`x-downstream-name`, `x-downstream-vhost`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from amqpd_exchanges.exchange import (
    Arguments,
    Content,
    Declaration,
    Destination,
    Field,
    InvalidArguments,
    Q,
)
from amqpd_exchanges.fanout import FanoutExchange

__all__ = [
    "MAX_HOPS",
    "RECEIVED_FROM",
    "FederationUpstreamExchange",
    "has_visited",
    "may_travel",
]

RECEIVED_FROM: Final = "x-received-from"
MAX_HOPS: Final = "x-max-hops"
DOWNSTREAM_NAME: Final = "x-downstream-name"
DOWNSTREAM_VHOST: Final = "x-downstream-vhost"


class FederationUpstreamExchange(FanoutExchange[Q]):
    """To all destinations, or to none."""

    __slots__ = ("_downstream", "_max_hops")

    kind: ClassVar[str] = "x-federation-upstream"

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        self.remembered = False
        arguments = declaration.arguments
        self._max_hops: int = arguments[MAX_HOPS][1]
        # Links of old versions do not say where they lead to: then the count alone decides.
        self._downstream = (
            _text(arguments.get(DOWNSTREAM_NAME)),
            _text(arguments.get(DOWNSTREAM_VHOST)),
        )

    @classmethod
    def check_arguments(cls, arguments: Arguments) -> None:
        max_hops = arguments.get(MAX_HOPS)
        if max_hops is None:
            raise InvalidArguments(f"Argument {MAX_HOPS} missing")
        if max_hops[0] != "l":
            raise InvalidArguments(f"Argument {MAX_HOPS} must be of type long")

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        headers = content.headers()
        if RECEIVED_FROM in headers and not may_travel(headers, self._max_hops, *self._downstream):
            return ()
        return self._destinations


def may_travel(headers: Arguments, max_hops: int, name: str | None, vhost: str | None) -> bool:
    """Whether a message with these headers may go over one more link, to the virtual host of the
    broker with this name."""
    octet, entries = headers.get(RECEIVED_FROM, ("V", None))
    if octet != "A":
        return True
    return len(entries) < max_hops and not has_visited(entries, name, vhost)


def has_visited(entries: list[Field], name: str | None, vhost: str | None) -> bool:
    """Whether any of these tables (of `x-received-from` or `x-bound-from`) names the broker and
    virtual host."""
    return any(
        octet == "F"
        and entry.get("cluster-name") == ("S", name)
        and entry.get("vhost") == ("S", vhost)
        for octet, entry in entries
    )


def _text(field: Field | None) -> str | None:
    return field[1] if field is not None and field[0] == "S" else None
