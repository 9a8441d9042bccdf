"""The headers exchange: a binding's arguments say which headers a message must have.

`x-match` says how many: `all` (also when absent) or `any`. Arguments that start with `x-` are left
out, unless it is `all-with-x` or `any-with-x`; `x-match` itself always is. An argument of type void
asks only that the header be there. `all` of no criteria matches everything, `any` of none nothing.

Trying each binding in turn would make every message pay for every binding. Instead each criterion
(a header's name and value, or its name alone) has a list of the bindings that hang on it, and a
message looks up its own headers. An `any` binding hangs on all its criteria, an `all` binding on
one, with the others to be checked when that one is met.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import ClassVar

from amqpd_exchanges.exchange import (
    Arguments,
    Binding,
    Content,
    Declaration,
    Destination,
    Exchange,
    InvalidBinding,
    Q,
)
from amqpd_exchanges.fields import TYPE_NAMES, comparable, rendered

__all__ = ["HeadersExchange"]

_Criterion = tuple[str, Hashable]

_PRESENT = None  # in place of a criterion's value: any will do
_NOTHING: frozenset[_Criterion] = frozenset()


class HeadersExchange(Exchange[Q]):
    """Bindings by criterion, each with the further criteria that must be met."""

    __slots__ = ("_by_criterion", "_unconditional")

    kind: ClassVar[str] = "headers"
    routes_once: ClassVar[bool] = True
    remembered: bool = False

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        self._by_criterion: dict[_Criterion, dict[Binding[Q], frozenset[_Criterion]]] = {}
        self._unconditional: dict[Binding[Q], None] = {}

    def validate(self, destination: Destination[Q], routing_key: str, arguments: Arguments) -> None:
        _x_match(arguments)

    def bind(self, binding: Binding[Q]) -> None:
        mode = _x_match(binding.arguments)
        super().bind(binding)
        criteria = _criteria(binding.arguments, mode)
        if mode.startswith("any"):
            for criterion in criteria:
                self._hang(binding, criterion, _NOTHING)
        elif criteria:
            # The criterion that fewest share: of {type: report, id: 7} most likely the second.
            chosen = min(criteria, key=self._bindings_on)
            self._hang(binding, chosen, frozenset(criteria) - {chosen})
        else:
            self._unconditional[binding] = None

    def unbind(self, binding: Binding[Q]) -> None:
        super().unbind(binding)
        self._unconditional.pop(binding, None)
        for criterion in _criteria(binding.arguments, _x_match(binding.arguments)):
            bindings = self._by_criterion.get(criterion, {})
            bindings.pop(binding, None)
            if not bindings:
                self._by_criterion.pop(criterion, None)

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        found = [binding.destination for binding in self._unconditional]
        if not self._by_criterion:
            return found
        met: dict[_Criterion, None] = {}
        for name, field in content.headers().items():
            met[name, _PRESENT] = None
            met[name, comparable(field)] = None
        for criterion in met:
            bindings = self._by_criterion.get(criterion)
            if bindings is not None:
                for binding, others in bindings.items():
                    if met.keys() >= others:
                        found.append(binding.destination)
        return found

    def _hang(
        self, binding: Binding[Q], criterion: _Criterion, others: frozenset[_Criterion]
    ) -> None:
        self._by_criterion.setdefault(criterion, {})[binding] = others

    def _bindings_on(self, criterion: _Criterion) -> int:
        return len(self._by_criterion.get(criterion, ()))


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
