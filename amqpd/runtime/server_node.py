"""The running broker as the HTTP API sees it (`amqpd.management.node.Node`)."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio

from amqpd.broker.broker import Broker
from amqpd.broker.session import Session
from amqpd.management.node import Resources, Traffic
from amqpd.runtime.definitions_file import load_definitions
from amqpd.runtime.definitions_import import DefinitionsImport
from amqpd.runtime.resources import available_memory, resident_memory
from amqpd.runtime.server import Server

PROTOCOL_NAMES: Final = {"amqp": "amqp", "amqps": "amqp/ssl", "management": "http"}
"""What RabbitMQ calls the protocols of our listeners."""
FLOW_SHOWN_S: Final = 1.0
"""How long a connection that had to wait is shown in state `flow` (RabbitMQ: credit_flow)."""
OPEN_FILES: Final = Path("/proc/self/fd")


class ServerNode:
    """A server, its process and its machine."""

    def __init__(self, server: Server, directory: Path | None) -> None:
        self._server = server
        self._directory = directory
        self._began = time.monotonic()
        self.broker: Broker = server.broker

    @property
    def listeners(self) -> Mapping[str, Sequence[str]]:
        """Where it listens, by RabbitMQ's names of the protocols."""
        return {PROTOCOL_NAMES[name]: found for name, found in self._server.addresses.items()}

    def begin_turn(self) -> None:
        """A request came."""
        self.broker.now = self._server.clock.now()

    async def end_turn(self, *, wait: bool) -> None:
        """Send and journal what the request led to; `wait` until it is on disk."""
        safe = anyio.Event()
        if wait:
            self.broker.call_when_safe(safe.set)
        self._server.turns.finish()
        if wait:
            await safe.wait()

    @property
    def resources(self) -> Resources:
        """What the process uses."""
        files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        directory = self._directory
        return Resources(
            uptime_ms=int((time.monotonic() - self._began) * 1000),
            memory_bytes=resident_memory(),
            memory_limit_bytes=int(self.broker.config.memory_high_watermark * available_memory()),
            disk_free_bytes=_free_bytes(directory),
            files=len(list(OPEN_FILES.iterdir())) if OPEN_FILES.exists() else 0,
            files_max=files_max,
            directory="" if directory is None else str(directory),
        )

    @property
    def certificate_ends_s(self) -> float | None:
        """When the TLS listeners' certificate ends."""
        return self._server.certificate_ends_s

    def traffic(self) -> Mapping[Session, Traffic]:
        """Of every connection."""
        alarmed = bool(self.broker.alarms)
        now = self._server.clock.now()
        found: dict[Session, Traffic] = {}
        for client in self._server.clients():
            peer = client.peer
            if peer.session is None:
                continue
            connection = peer.connection
            if peer.blocked:
                state = "blocked"
            elif alarmed:
                state = "blocking"
            else:
                state = "flow" if now - peer.held_at < FLOW_SHOWN_S else "running"
            found[peer.session] = Traffic(
                state,
                peer.received_bytes,
                peer.received_chunks,
                connection.sent_bytes,
                connection.sent_chunks,
                connection.unsent_bytes,
            )
        return found

    def import_definitions(self, document: bytes, vhost: str | None, by: str) -> None:
        """Apply RabbitMQ's JSON. Raises ValueError."""
        file = load_definitions(
            document, "definitions", self.broker.config.default_vhost, into=vhost
        )
        DefinitionsImport(self.broker, file, "definitions", by=by).apply()


def _free_bytes(directory: Path | None) -> int:
    """None where there is no such directory any more."""
    try:
        return shutil.disk_usage(directory or Path.cwd()).free
    except OSError:
        return 0
