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
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import Listener, SocketAttribute, SocketListener, SocketStream, TaskGroup
from anyio.streams.tls import TLSStream

from amqpd import __version__
from amqpd.broker.alarms import Alarm
from amqpd.broker.broker import Broker
from amqpd.config import Config, Limits
from amqpd.protocol.connection import Connection
from amqpd.runtime.clock import Clock, MonotonicClock
from amqpd.runtime.connection_task import LOST, ConnectionTask
from amqpd.runtime.definitions_file import DefinitionsFile, load_definitions
from amqpd.runtime.definitions_import import DefinitionsImport
from amqpd.runtime.journal_writer import JournalWriter
from amqpd.runtime.peer import Peer
from amqpd.runtime.settings import parse_address, show_address
from amqpd.runtime.tls import server_context, wrap
from amqpd.timers import Timers

logger = logging.getLogger("amqpd.server")

SHUTDOWN_REASON: Final = "broker forced connection closure with reason 'shutdown'"
INFORMATION: Final = (
    f"amqpd {__version__}, an AMQP 0-9-1 broker in Python that behaves as RabbitMQ does"
)


ACCEPT_PAUSE_S: Final = 0.1
"""Before trying again after a client could not be accepted."""

Serve = Callable[[SocketStream], Coroutine[Any, Any, None]]


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
        self._accepting: list[anyio.CancelScope] = []
        self._one_left = anyio.Event()
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

    def set_alarm(self, alarm: Alarm, raised: bool) -> bool:
        """Raise or clear an alarm; True if that changed something."""
        changed = self.broker.alarms.set(alarm, raised)
        if changed:
            for task in self._tasks.values():
                task.resume()
            self.finish_turn()
        return changed

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
        """A client connected. Whatever goes wrong with it, the others do not hear of it."""
        try:
            remote = stream.extra(SocketAttribute.remote_address)
            local = stream.extra(SocketAttribute.local_address)
        except (anyio.TypedAttributeLookupError, *LOST):
            return  # gone again already
        now = self.clock.now()
        peer = Peer(
            self.broker,
            f"{_shown(remote)} -> {_shown(local)}",
            is_loopback=is_loopback(remote),
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
            logger.exception("internal error", extra={"peer": peer.name})
        finally:
            del self._tasks[peer.connection]
            self._timers.forget(task)
            self._one_left.set()

    async def _serve_secure(self, stream: SocketStream, context: ssl.SSLContext) -> None:
        """A client connected to a TLS listener."""
        secure = await wrap(stream, context, self.limits.handshake_timeout_s)
        if secure is not None:
            await self.serve_stream(secure)

    def close_connections(self, reason: str) -> None:
        """Accept nobody any more, and ask every client to go."""
        for scope in self._accepting:
            scope.cancel()
        now = self.clock.now()
        for task in list(self._tasks.values()):
            task.shut_down(reason, now)
            self.watch(task)
        self.finish_turn()

    async def wait_until_empty(self) -> None:
        """Return when no client is left."""
        while self._tasks:
            self._one_left = anyio.Event()
            await self._one_left.wait()

    # -- listeners

    async def listen(self, tasks: TaskGroup) -> None:
        """Open all listeners. Raises OSError with the address in `filename`, or ConfigError."""
        for text in self.config.listen:
            await self._open_listener(tasks, "amqp", text, self.serve_stream)
        if self.config.tls_listen:
            serve = partial(self._serve_secure, context=server_context(self.config))
            for text in self.config.tls_listen:
                await self._open_listener(tasks, "amqps", text, serve)

    async def _open_listener(
        self, tasks: TaskGroup, protocol: str, text: str, serve: Serve
    ) -> None:
        address = parse_address(text)
        try:
            opened = await anyio.create_tcp_listener(
                local_host=address.host, local_port=address.port, backlog=1024
            )
        except OSError as error:
            error.filename = str(address)
            raise
        # A name such as localhost may stand for several addresses, with a listener each.
        for listener in opened.listeners:
            bound = listener.extra(SocketAttribute.local_address)
            self.addresses[protocol].append(_shown(bound))
            tasks.start_soon(self._accept, listener, serve, tasks)

    async def _accept(
        self, listener: Listener[SocketStream], serve: Serve, tasks: TaskGroup
    ) -> None:
        """Take in clients. Running out of file descriptors must not end the broker."""
        assert isinstance(listener, SocketListener)
        failing = False
        with anyio.CancelScope() as scope:
            self._accepting.append(scope)
            async with listener:
                while True:
                    try:
                        stream = await listener.accept()
                    except OSError as error:
                        if not failing:
                            reason = error.strerror or str(error)
                            logger.error("cannot accept clients", extra={"reason": reason})
                        failing = True
                        await anyio.sleep(ACCEPT_PAUSE_S)
                        continue
                    failing = False
                    tasks.start_soon(serve, stream)

    def write_ready_file(self) -> None:
        """Tell whoever waits for it where the broker listens. Raises OSError."""
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


def read_definitions(broker: Broker, path: Path) -> DefinitionsFile:
    """What a definitions file says. Raises DefinitionsError or OSError."""
    return load_definitions(path.read_bytes(), str(path), broker.config.default_vhost)


def import_definitions(broker: Broker, file: DefinitionsFile, path: Path) -> None:
    """Apply a definitions file. Raises DefinitionsError."""
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


def _shown(address: Any) -> str:
    if isinstance(address, tuple):
        return show_address(str(address[0]), int(address[1]))
    return str(address)


def is_loopback(address: Any) -> bool:
    """Whether a peer is on this machine; what is no IP address is a socket in its file system."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0]).partition("%")[0]
    parsed = ipaddress.ip_address(host)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def describe_platform() -> str:
    """Python and machine, for the first line of the log."""
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
