"""The consistent hash exchange (RabbitMQ's plug-in rabbitmq_consistent_hash_exchange): messages
that hash alike go to one destination, and each destination gets a share by its weight.

The routing key of a binding is the weight. What is hashed is the message's routing key, the header
that the argument `hash-header` names, or the property that `hash-property` does; messages without
it all hash alike.

Each destination makes its bid for a hash, and the highest wins (rendezvous hashing; the bids are
those of CRUSH's straw2, log(u) / weight, with u even between 0 and 1, drawn from the hash and from
the destination's name):

    hash  ──mixed with──>  q1: log(0.31)/1 = -1.17     q2: log(0.87)/2 = -0.07  <─ wins
                           q3: log(0.64)/1 = -0.45

The destinations' shares are as their weights, to the last digit. A bid depends on nobody else's:
when a destination comes it takes what it wins, when one goes its hashes find new winners, and not
one other moves. Nor is there anything to keep: the order of bindings and a restart change nothing.
(RabbitMQ numbers the buckets of a jump hash in order of binding; there, all numbers behind those of
a binding that goes move up, and their keys with them.) The price is a bid per destination, for
each routing key that the router does not remember.

A second binding of one destination counts for nothing while the first is there, as in RabbitMQ.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, log
from typing import ClassVar, Final

from amqpd_exchanges.chance import mixed
from amqpd_exchanges.exchange import (
    Arguments,
    Binding,
    Content,
    Declaration,
    Destination,
    Exchange,
    InvalidArguments,
    InvalidBinding,
    Q,
)
from amqpd_exchanges.fields import comparable, rendered
from amqpd_exchanges.hashing import hash_of

__all__ = ["ConsistentHashExchange"]

HASH_HEADER: Final = "hash-header"
HASH_PROPERTY: Final = "hash-property"
PROPERTIES: Final = ("correlation_id", "message_id", "timestamp")

_ALL: Final = 2.0**-64


class ConsistentHashExchange(Exchange[Q]):
    """Destinations, each with its weight and the number that makes its bids its own."""

    __slots__ = ("_bidders", "_bound", "_header", "_property", "_weighted")

    kind: ClassVar[str] = "x-consistent-hash"

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        self.chooses = self.routes_once = True
        self._header: str | None = declaration.arguments.get(HASH_HEADER, ("V", None))[1]
        self._property: str | None = declaration.arguments.get(HASH_PROPERTY, ("V", None))[1]
        self.remembered = self._header is None and self._property is None
        self._bound: dict[Destination[Q], dict[Binding[Q], None]] = {}
        self._bidders: list[tuple[int, int, Destination[Q]]] | None = None
        """Number, weight, destination; made when a message needs it after a change."""
        self._weighted = False
        """Some weight differs from another. Of equal ones the largest u wins, logarithm or not."""

    @classmethod
    def check_arguments(cls, arguments: Arguments) -> None:
        for name in (HASH_HEADER, HASH_PROPERTY):
            octet, value = arguments.get(name, ("S", ""))
            if octet != "S":
                text = f"Invalid argument {rendered((octet, value))}, '{name}' must be a string"
                raise InvalidArguments(text)
        if HASH_HEADER in arguments and HASH_PROPERTY in arguments:
            raise InvalidArguments("hash-header and hash-property are mutually exclusive")
        if HASH_PROPERTY in arguments and arguments[HASH_PROPERTY][1] not in PROPERTIES:
            raise InvalidArguments(f"Unsupported property: {arguments[HASH_PROPERTY][1]}")

    def validate(self, destination: Destination[Q], routing_key: str, arguments: Arguments) -> None:
        _weight(routing_key)

    def bind(self, binding: Binding[Q]) -> None:
        _weight(binding.routing_key)
        super().bind(binding)
        self._bound.setdefault(binding.destination, {})[binding] = None
        self._bidders = None

    def unbind(self, binding: Binding[Q]) -> None:
        super().unbind(binding)
        bindings = self._bound[binding.destination]
        del bindings[binding]
        if not bindings:
            del self._bound[binding.destination]
        self._bidders = None

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        bidders = self._gathered() if self._bidders is None else self._bidders
        if not bidders:
            return ()
        key = hash_of(self._hashed(routing_key, content))
        highest = -inf
        winner = bidders[0][2]
        for number, weight, destination in bidders:
            drawn = mixed(key ^ number)
            bid = log((drawn + 1) * _ALL) / weight if self._weighted else float(drawn)
            if bid > highest:
                highest = bid
                winner = destination
        return (winner,)

    def _hashed(self, routing_key: str, content: Content) -> str:
        if self._header is not None:
            field = content.headers().get(self._header)
            if field is None:
                return ""
            return str(field[1]) if field[0] == "S" else str(comparable(field))
        if self._property is not None:
            value = content.property(self._property)
            return "" if value is None else str(value)
        return routing_key

    def _gathered(self) -> list[tuple[int, int, Destination[Q]]]:
        bidders = []
        for destination, bindings in self._bound.items():
            first = next(iter(bindings))
            prefix = "exchange " if isinstance(destination, Exchange) else "queue "
            number = hash_of(prefix + first.destination_name)
            bidders.append((number, _weight(first.routing_key), destination))
        self._weighted = len({weight for _, weight, _ in bidders}) > 1
        self._bidders = bidders
        return bidders


def _weight(routing_key: str) -> int:
    digits = routing_key[1:] if routing_key[:1] in ("+", "-") else routing_key
    if not (digits.isascii() and digits.isdigit()):
        shown = rendered(("S", routing_key))
        raise InvalidBinding(f"The binding key must be an integer: {shown}")
    weight = int(routing_key)
    if weight < 1:
        raise InvalidBinding("The binding key must be greater than 0")
    return weight
