"""What the HTTP API needs of the process it runs in. Implemented by the runtime, and by tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from amqpd.broker.broker import Broker
from amqpd.broker.session import Session


class Resources(NamedTuple):
    """What the process uses of its machine, and may use."""

    uptime_ms: int
    memory_bytes: int
    memory_limit_bytes: int
    disk_free_bytes: int
    files: int
    files_max: int
    directory: str
    """Where the store is; empty without one."""


class Traffic(NamedTuple):
    """What went over a connection's socket."""

    state: str
    """`running`, `blocking` (an alarm is raised), `blocked` (it published since), `flow`."""
    received_bytes: int
    received_chunks: int
    sent_bytes: int
    sent_chunks: int
    pending_bytes: int
    """Waiting for the client to read."""


NO_TRAFFIC = Traffic("running", 0, 0, 0, 0, 0)


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

    @property
    def resources(self) -> Resources:
        """What the process uses."""

    @property
    def certificate_ends_s(self) -> float | None:
        """When the TLS listeners' certificate ends, in seconds since 1970; None without one."""

    def traffic(self) -> Mapping[Session, Traffic]:
        """Of every connection."""

    def import_definitions(self, document: bytes, vhost: str | None, by: str) -> None:
        """Apply RabbitMQ's JSON, of the whole broker or of one virtual host, within this turn.

        Raises ValueError with what is wrong, and nothing is changed.
        """
