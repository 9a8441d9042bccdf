"""Messages as an exchange sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amqpd_exchanges.exchange import Arguments, Exchange


class Content:
    """A message with these headers and properties."""

    def __init__(
        self, headers: Arguments | None = None, properties: Mapping[str, str | int] | None = None
    ) -> None:
        self.lasting = True
        self._headers: Arguments = {} if headers is None else headers
        self._properties = {} if properties is None else properties

    def headers(self) -> Arguments:
        return self._headers

    def property(self, name: str) -> str | int | None:
        return self._properties.get(name)

    def passes(self, exchange: Exchange[Any]) -> bool:
        return True


class Unread(Content):
    """A message that nobody has a reason to look at."""

    def headers(self) -> Arguments:
        raise AssertionError("headers were read without need")

    def property(self, name: str) -> str | int | None:
        raise AssertionError("a property was read without need")
