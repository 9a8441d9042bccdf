"""What the HTTP API needs of the process it runs in. Implemented by the runtime, and by tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from amqpd.broker.broker import Broker


class Node(Protocol):
    """A running broker, as the HTTP API sees it."""

    @property
    def broker(self) -> Broker:
        """The broker."""

    @property
    def listeners(self) -> Mapping[str, Sequence[str]]:
        """`HOST:PORT` of every listener, by RabbitMQ's name of its protocol."""

    def begin_turn(self) -> None:
        """A request came: let the broker know what time it is."""

    async def end_turn(self, *, wait: bool) -> None:
        """Send and journal what the turn led to.

        `wait`: return when everything journaled so far is on disk.
        """
