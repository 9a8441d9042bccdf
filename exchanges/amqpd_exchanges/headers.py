"""The headers exchange: a binding's arguments say which headers a message must have.

`x-match` says how many: `all` (also when absent) or `any`. Arguments that start with `x-` are left
out, unless it is `all-with-x` or `any-with-x`; `x-match` itself always is. An argument of type void
asks only that the header be there. `all` of no criteria matches everything, `any` of none nothing.

Trying each binding in turn would make every message pay for every binding. Instead each criterion
(a header's name and value, or its name alone) has what hangs on it, and a message looks up its own
headers: destinations of `any` bindings on each of their criteria, and the criteria of `all`
bindings, as one set, on one of them, with the others to be checked when that one is met. Bindings
that ask for the same and lead to the same destination (their arguments differ in what is left out)
count as one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import ClassVar, Generic

from amqpd_exchanges.exchange import (
    Arguments,
    Binding,
    Content,
    Declaration,
    Destination,
    Destinations,
    Exchange,
    InvalidBinding,
    Q,
    drop_destination,
    take_destination,
)
from amqpd_exchanges.fields import TYPE_NAMES, comparable, rendered

__all__ = ["HeadersExchange"]

_Criterion = tuple[str, Hashable]

_PRESENT = None  # in place of a criterion's value: any will do


class _Every(Generic[Q]):
    """Criteria that have to be met together, and where that leads."""

    __slots__ = ("chosen", "destinations", "others")

    def __init__(self, criteria: frozenset[_Criterion], chosen: _Criterion) -> None:
        self.chosen = chosen
        self.others = criteria - {chosen}
        self.destinations: Destinations[Q] = {}


class HeadersExchange(Exchange[Q]):
    """Destinations by what they ask for."""

    __slots__ = ("_any", "_every", "_hanging", "_unconditional")

    kind: ClassVar[str] = "headers"

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        self.routes_once = True
        self.remembered = False
        self._unconditional: Destinations[Q] = {}
        self._any: dict[_Criterion, Destinations[Q]] = {}
        self._every: dict[frozenset[_Criterion], _Every[Q]] = {}
        self._hanging: dict[_Criterion, dict[_Every[Q], None]] = {}
        """The same by the criterion that was chosen of each."""

    def validate(self, destination: Destination[Q], routing_key: str, arguments: Arguments) -> None:
        _x_match(arguments)

    def bind(self, binding: Binding[Q]) -> None:
        mode = _x_match(binding.arguments)
        super().bind(binding)
        criteria = _criteria(binding.arguments, mode)
        if mode.startswith("any"):
            for criterion in criteria:
                take_destination(self._any.setdefault(criterion, {}), binding.destination)
        elif criteria:
            together = frozenset(criteria)
            every = self._every.get(together)
            if every is None:
                # The criterion that fewest share: of {type: report, id: 7} most likely the second.
                chosen = min(criteria, key=self._hanging_on)
                self._every[together] = every = _Every(together, chosen)
                self._hanging.setdefault(chosen, {})[every] = None
            take_destination(every.destinations, binding.destination)
        else:
            take_destination(self._unconditional, binding.destination)

    def unbind(self, binding: Binding[Q]) -> None:
        super().unbind(binding)
        mode = _x_match(binding.arguments)
        criteria = _criteria(binding.arguments, mode)
        if mode.startswith("any"):
            for criterion in criteria:
                destinations = self._any[criterion]
                drop_destination(destinations, binding.destination)
                if not destinations:
                    del self._any[criterion]
        elif criteria:
            self._drop_every(frozenset(criteria), binding.destination)
        else:
            drop_destination(self._unconditional, binding.destination)

    def _drop_every(self, together: frozenset[_Criterion], destination: Destination[Q]) -> None:
        every = self._every[together]
        drop_destination(every.destinations, destination)
        if not every.destinations:
            del self._every[together]
            hanging = self._hanging[every.chosen]
            del hanging[every]
            if not hanging:
                del self._hanging[every.chosen]

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        found = list(self._unconditional)
        if not self._any and not self._hanging:
            return found
        met: dict[_Criterion, None] = {}
        for name, field in content.headers().items():
            met[name, _PRESENT] = None
            met[name, comparable(field)] = None
        for criterion in met:
            found.extend(self._any.get(criterion, ()))
            for every in self._hanging.get(criterion, ()):
                if met.keys() >= every.others:
                    found.extend(every.destinations)
        return found

    def _hanging_on(self, criterion: _Criterion) -> int:
        return len(self._hanging.get(criterion, ()))


def _x_match(arguments: Arguments) -> str:
    field = arguments.get("x-match")
    if field is None:
        return "all"
    octet, value = field
    if octet != "S":
        raise InvalidBinding(
            f"Invalid x-match field type {TYPE_NAMES[octet]} (value {rendered(field)}); "
            "expected longstr"
        )
    if value not in {"all", "any", "all-with-x", "any-with-x"}:
        raise InvalidBinding(
            f"Invalid x-match field value {rendered(field)}; "
            "expected all, any, all-with-x, or any-with-x"
        )
    return str(value)


def _criteria(arguments: Arguments, mode: str) -> list[_Criterion]:
    # In the order of the arguments: that of a set would differ from one process to the next.
    with_x = mode.endswith("-with-x")
    return [
        (name, _PRESENT if field[0] == "V" else comparable(field))
        for name, field in arguments.items()
        if name != "x-match" and (with_x or not name.startswith("x-"))
    ]
