"""One request, as the resources see it, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from amqpd.broker.access import User
from amqpd.broker.broker import Broker
from amqpd.broker.virtual_host import VirtualHost
from amqpd.management.errors import bad_request, missing_keys, not_found
from amqpd.management.listing import Listing
from amqpd.management.node import Node
from amqpd.management.statistics import Statistics

S = TypeVar("S")

TEXT_BODY: Final = (
    "invalid payload: the request body JSON-decoded to a string. Is the input doubly-JSON-encoded?"
)
TRUTHS: Final = {True: True, False: False, "true": True, "false": False}


@dataclass
class Call:
    """A request whose path was found and whose user was let in."""

    node: Node
    method: str
    parameters: Mapping[str, str]
    """What the path has in the places of its pattern, percent-decoded."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    user: User
    statistics: Statistics

    @property
    def broker(self) -> Broker:
        """The broker."""
        return self.node.broker

    def __getitem__(self, name: str) -> str:
        return self.parameters[name]

    @property
    def virtual_host(self) -> VirtualHost:
        """The virtual host in the path. Raises 404."""
        found = self.broker.virtual_hosts.get(self.parameters["vhost"])
        if found is None:
            raise not_found("vhost_not_found") if self.method == "PUT" else not_found()
        return found

    def require_virtual_host(self) -> VirtualHost:
        """The same, asked for before anything that may be wrong with the body. Raises 404."""
        return self.virtual_host

    def json(self) -> dict[str, Any]:
        """The body's object; an empty body, or null, is an empty object. Raises 400."""
        if not self.body:
            return {}
        try:
            value = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise bad_request("not_json") from None
        if isinstance(value, str):
            raise bad_request(TEXT_BODY)
        if value is not None and not isinstance(value, dict):
            raise bad_request("not_json")
        return value or {}

    def json_with(self, *names: str) -> dict[str, Any]:
        """The body's object, which has to have these keys. Raises 400 naming those it lacks."""
        value = self.json()
        lacking = [name for name in names if name not in value]
        if lacking:
            raise missing_keys(lacking)
        return value


@dataclass
class Answer:
    """What goes back. `body` is made into JSON, be it a Listing, or steps of which either comes;
    None is an empty body."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


NO_CONTENT: Final = 204
CREATED: Final = 201


def done(created: bool = False) -> Answer:
    """An empty answer: 201 for something new, 204 for something changed."""
    return Answer(CREATED if created else NO_CONTENT)


def listed(items: Sequence[Any], *sorted_by: str) -> Answer:
    """A list, which the query may sort, cut into pages and reduce to columns."""
    return Answer(body=Listing(items, _itself, _itself, sorted_by))


def listed_in_steps(
    sources: Sequence[S],
    make: Callable[[S], Any],
    *sorted_by: str,
    head: Callable[[S], Any] | None = None,
) -> Answer:
    """The same for a list that may be long: `make` makes a row, and `head` of it what costs nothing
    and is enough to put it where it belongs."""
    return Answer(body=Listing(sources, make, head or make, sorted_by))


def _itself(item: Any) -> Any:
    return item


def boolean(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A truth value, which may be written as a text. Raises 400."""
    value = values.get(name, default)
    if not isinstance(value, (bool, str)) or value not in TRUTHS:
        raise bad_request(["not_boolean", value])
    return TRUTHS[value]
