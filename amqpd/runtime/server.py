"""The process around the core: listeners, connections, the journal's writer, time, signals.

One event loop runs it all. A *turn* is whatever one event led to (a chunk read, a commit, a
timer); `finish_turn` ends it: entries go to the journal, and connections with something to say are
woken.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import platform
import secrets
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskGroup
from anyio.streams.tls import TLSListener, TLSStream

from amqpd import __version__
from amqpd.broker.broker import Broker
from amqpd.config import Config, Limits
from amqpd.protocol.connection import Connection
from amqpd.runtime.clock import Clock, MonotonicClock
from amqpd.runtime.connection_task import LOST, ConnectionTask
from amqpd.runtime.definitions_file import load_definitions
from amqpd.runtime.definitions_import import DefinitionsImport
from amqpd.runtime.journal_writer import JournalWriter
from amqpd.runtime.peer import Peer
from amqpd.timers import Timers

logger = logging.getLogger("amqpd.server")

SHUTDOWN_REASON: Final = "broker forced connection closure with reason 'shutdown'"
INFORMATION: Final = (
    f"amqpd {__version__}, an AMQP 0-9-1 broker in Python that behaves as RabbitMQ does"
)


class Address(NamedTuple):
    """Where to listen, or where somebody listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[V6]:PORT` or `PORT`. Raises ValueError."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address: write HOST:PORT, for instance 127.0.0.1:5672")
    return Address(host, int(port))


class Server:
    """A running broker. Made by `amqpd.runtime.serve`."""

    def __init__(self, config: Config, broker: Broker, clock: Clock | None = None) -> None:
        self.config = config
        self.limits: Limits = config.limits
        self.broker = broker
        self.clock: Clock = clock or MonotonicClock()
        self.addresses: dict[str, list[str]] = {"amqp": [], "amqps": []}
        self._timers = Timers()
        self._timers_changed = anyio.Event()
        self._speaking: list[Connection] = []
        self._tasks: dict[Connection, ConnectionTask] = {}
        self._journal: JournalWriter | None = None

    # -- turns

    def attach_journal(self, journal: JournalWriter) -> None:
        """Entries go there from now on."""
        self._journal = journal

    def finish_turn(self) -> None:
        """Journal what has to be kept, wake who has something to say."""
        entries = self.broker.finish_turn()
        if entries:
            assert self._journal is not None
            self._journal.append(entries)
        speaking = self._speaking
        if speaking:
            for connection in speaking:
                task = self._tasks.get(connection)
                if task is not None:
                    task.speak()
            speaking.clear()
        warnings = self.broker.effects.warnings
        if warnings:
            for warning in warnings:
                logger.warning(warning)
            warnings.clear()

    @property
    def journal_full(self) -> bool:
        """Publishers have to wait for the disk."""
        return self._journal is not None and self._journal.full

    async def wait_for_journal(self) -> None:
        """Return when the journal has room."""
        assert self._journal is not None
        await self._journal.wait_for_room()

    # -- time

    def watch(self, task: ConnectionTask) -> None:
        """See to it that the task is asked at its deadline."""
        if self._timers.watch(task):
            self._timers_changed.set()

    async def run_timers(self) -> None:
        """Ask everybody when it is time, for ever."""
        while True:
            deadline = self._timers.next_deadline()
            self._timers_changed = anyio.Event()
            wait_s = None if deadline is None else max(0.0, deadline - self.clock.now())
            with anyio.move_on_after(wait_s):
                await self._timers_changed.wait()
            self._timers.advance(self.clock.now())
            self.finish_turn()

    # -- connections

    async def serve_stream(self, stream: SocketStream | TLSStream) -> None:
        """A client connected."""
        try:
            remote = stream.extra(SocketAttribute.remote_address)
            local = stream.extra(SocketAttribute.local_address)
        except (anyio.TypedAttributeLookupError, *LOST):
            return  # gone again already
        now = self.clock.now()
        peer = Peer(
            self.broker,
            f"{_shown(remote)} -> {_shown(local)}",
            is_loopback=_is_loopback(remote),
            information=INFORMATION,
            now=now,
            speaking=self._speaking,
        )
        task = ConnectionTask(self, stream, peer)
        self._tasks[peer.connection] = task
        self.watch(task)
        try:
            await task.run()
        except Exception:
            # A bug of ours, or an error of a socket that nobody foresaw: the others live on.
            logger.exception("connection task failed", extra={"peer": peer.name})
        finally:
            del self._tasks[peer.connection]

    def close_connections(self, reason: str) -> None:
        """Ask every client to go."""
        now = self.clock.now()
        for task in list(self._tasks.values()):
            task.peer.close(reason, now)
            self.watch(task)
        self.finish_turn()

    async def wait_until_empty(self) -> None:
        """Return when no client is left."""
        while self._tasks:
            await anyio.sleep(0.01)

    async def listen(self, tasks: TaskGroup) -> None:
        """Open all listeners. Raises OSError with the address in `filename`."""
        for text in self.config.listen:
            await self._open_listener(tasks, "amqp", text, None)
        if self.config.tls_listen:
            context = tls_context(self.config)
            for text in self.config.tls_listen:
                await self._open_listener(tasks, "amqps", text, context)

    async def _open_listener(
        self, tasks: TaskGroup, protocol: str, text: str, context: ssl.SSLContext | None
    ) -> None:
        address = parse_address(text)
        try:
            listener = await anyio.create_tcp_listener(
                local_host=address.host, local_port=address.port, backlog=1024, reuse_port=False
            )
        except OSError as error:
            error.filename = str(address)
            raise
        bound = listener.extra(SocketAttribute.local_address)
        self.addresses[protocol].append(_shown(bound))
        handler: Callable[[Any], Any] = self.serve_stream
        if context is None:
            tasks.start_soon(listener.serve, handler)
        else:
            secure = TLSListener(
                listener,
                context,
                standard_compatible=False,
                handshake_timeout=self.limits.handshake_timeout_s,
            )
            tasks.start_soon(secure.serve, handler)

    def write_ready_file(self) -> None:
        """Tell whoever waits for it where the broker listens."""
        if self.config.ready_file is None:
            return
        path = Path(self.config.ready_file)
        content = {"pid": os.getpid(), "version": __version__, **self.addresses}
        unfinished = path.with_name(path.name + ".new")
        unfinished.write_text(json.dumps(content) + "\n")
        unfinished.replace(path)


def make_broker(config: Config, *, journaling: bool) -> Broker:
    """An empty broker with the machine's randomness."""
    return Broker(config, journaling=journaling, entropy=secrets.token_bytes)


def import_definitions(broker: Broker, path: Path) -> None:
    """Apply a definitions file. Raises DefinitionsError or OSError."""
    file = load_definitions(path.read_bytes(), str(path), broker.config.default_vhost)
    DefinitionsImport(broker, str(path)).apply(file)
    for warning in file.warnings:
        logger.warning(f"{path}: {warning}")
    logger.info(
        "definitions imported",
        extra={
            "file": path,
            "users": len(file.users),
            "vhosts": len(file.vhosts),
            "exchanges": len(file.exchanges),
            "queues": len(file.queues),
            "bindings": len(file.bindings),
        },
    )


def tls_context(config: Config) -> ssl.SSLContext:
    """For the TLS listeners. Raises OSError or ssl.SSLError for files that cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    assert config.tls_certificate is not None
    context.load_cert_chain(config.tls_certificate, config.tls_key)
    if config.tls_ca is not None:
        context.load_verify_locations(config.tls_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _shown(address: Any) -> str:
    if isinstance(address, tuple):
        return str(Address(str(address[0]), int(address[1])))
    return str(address)


def _is_loopback(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True
    host = str(address[0]).partition("%")[0]
    parsed = ipaddress.ip_address(host)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def describe_platform() -> str:
    """Python and machine, for the first line of the log."""
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
