"""What every exchange type is: bindings going in and out, and a question answered from them.

The rules that all types keep:

- The router calls `bind` once for each new binding and `unbind` once, with the very same object,
  for each binding that goes. An exchange never sees a duplicate.
- The answer of `route` depends on nothing but the bindings and the routing key, unless `remembered`
  is False. It may name a destination more than once. It may be the exchange's own index, so use it
  before the next `bind` or `unbind`.
- `bind` and `unbind` cost the same however many bindings there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar, Union

from amqpd_exchanges.chance import Chance
from amqpd_exchanges.fields import Arguments, Field, canonical_table

__all__ = [
    "Arguments",
    "Binding",
    "Content",
    "Declaration",
    "Destination",
    "Destinations",
    "Exchange",
    "Field",
    "InvalidArguments",
    "InvalidBinding",
    "NO_ARGUMENTS",
    "Q",
    "binding_identity",
    "drop_destination",
    "take_destination",
]

Q = TypeVar("Q", bound=Hashable)

Destination = Union[Q, "Exchange[Q]"]

Destinations = dict[Destination[Q], int]
"""Destinations in the order they came, with how many bindings lead to each."""


NO_ARGUMENTS: Final[Arguments] = {}


class InvalidBinding(ValueError):
    """The exchange refuses these arguments; `str()` is the explanation for 406."""


class InvalidArguments(ValueError):
    """No exchange of this type has such arguments; `str()` is the explanation for 406."""


class Content(Protocol):
    """The message that is being routed, as far as an exchange may look at it.

    Nothing of it is decoded before it is asked for.
    """

    lasting: bool
    """True at first. The router makes it False when the next message with the same exchange and
    routing key may go elsewhere."""

    def headers(self) -> Arguments:
        """Its headers; no headers are an empty table."""
        ...

    def property(self, name: str) -> str | int | None:
        """`message_id`, `correlation_id` or `timestamp` (in seconds); None if it is not set."""
        ...

    def passes(self, exchange: Exchange[Any]) -> bool:
        """It has come to an exchange that remembers messages: whether it may go on from there.

        It is remembered by the question, which is asked once.
        """
        ...


class Declaration(NamedTuple):
    """What an exchange is made of."""

    name: str
    arguments: Arguments = NO_ARGUMENTS
    alternate: str | None = None
    on_change: Callable[[], None] | None = None
    chance: Chance = Chance(0)
    gone: Collection[Any] = frozenset()
    """Queues that are gone though bindings still lead to them: see `Router.sweep`."""


def binding_identity(
    source: Exchange[Q], destination: Destination[Q], routing_key: str, arguments: Arguments
) -> Hashable:
    """Equal for two bindings that are the same one: source, destination, key and arguments."""
    return (source, destination, routing_key, canonical_table(arguments))


class Binding(Generic[Q]):
    """One binding. Never changed; the router has one object for each."""

    __slots__ = (
        "arguments",
        "destination",
        "destination_name",
        "identity",
        "routing_key",
        "source",
    )

    def __init__(
        self,
        source: Exchange[Q],
        destination: Destination[Q],
        routing_key: str,
        arguments: Arguments,
        identity: Hashable,
        destination_name: str = "",
    ) -> None:
        self.source = source
        self.destination: Destination[Q] = destination
        self.destination_name = destination_name
        """What outlives the object: the exchange's name, or the one the queue was added under."""
        self.routing_key = routing_key
        self.arguments = arguments
        self.identity = identity


class Exchange(ABC, Generic[Q]):
    """A named exchange and its bindings. Made by `Router.declare`."""

    __slots__ = (
        "_alternate",
        "_bindings",
        "_gone",
        "_on_change",
        "chooses",
        "name",
        "remembered",
        "routes_once",
    )

    kind: ClassVar[str]
    """The type as exchange.declare names it."""

    def __init__(self, declaration: Declaration) -> None:
        self.name = declaration.name
        self.routes_once = False
        """True: a message passes once, by its own routing key, however many CC and BCC add."""
        self.remembered = True
        """False: the next message with the same key may go elsewhere, by headers or by chance."""
        self.chooses = False
        """True: `route` names one of several destinations that would do as well."""
        self._gone = declaration.gone
        self._alternate = declaration.alternate
        self._on_change = declaration.on_change
        self._bindings: dict[Hashable, Binding[Q]] = {}

    @classmethod
    def check_arguments(cls, arguments: Arguments) -> None:
        """Raises InvalidArguments for what the type can not be declared with.

        Called before the exchange is made; `__init__` relies on it.
        """

    @property
    def alternate(self) -> str | None:
        """The exchange that gets what matches no binding here; it need not exist.

        May be set at any time (a policy comes or goes); remembered routes are dropped.
        """
        return self._alternate

    @alternate.setter
    def alternate(self, name: str | None) -> None:
        if name != self._alternate:
            self._alternate = name
            if self._on_change is not None:
                self._on_change()

    @property
    def bindings(self) -> Collection[Binding[Q]]:
        """The bindings from this exchange, in order of creation: a live view."""
        if not self._gone:
            return self._bindings.values()
        return [
            binding for binding in self._bindings.values() if binding.destination not in self._gone
        ]

    def binding(self, identity: Hashable) -> Binding[Q] | None:
        """The binding with this identity, if there is one."""
        return self._bindings.get(identity)

    def validate(self, destination: Destination[Q], routing_key: str, arguments: Arguments) -> None:
        """Raises InvalidBinding for a binding that `bind` would refuse."""

    def bind(self, binding: Binding[Q]) -> None:
        """Add a binding. Raises InvalidBinding before anything is changed."""
        self._bindings[binding.identity] = binding

    def unbind(self, binding: Binding[Q]) -> None:
        """Remove a binding that was added."""
        del self._bindings[binding.identity]

    @abstractmethod
    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        """The destinations whose bindings match, in a deterministic order."""


def take_destination(destinations: Destinations[Q], destination: Destination[Q]) -> None:
    """One more binding leads to `destination`."""
    destinations[destination] = destinations.get(destination, 0) + 1


def drop_destination(destinations: Destinations[Q], destination: Destination[Q]) -> None:
    """One binding fewer leads to `destination`."""
    left = destinations[destination] - 1
    if left:
        destinations[destination] = left
    else:
        del destinations[destination]
