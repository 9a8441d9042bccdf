"""The process around the core: listeners, connections, the journal's writer, time, signals.

One event loop runs it all. A *turn* is whatever one event led to (a chunk read, a commit, a
timer); `Turns.finish` ends it: entries go to the journal, and what connections have to say is sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import platform
import secrets
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import anyio
from anyio.abc import Listener, SocketAttribute, SocketStream, TaskGroup

from amqpd import __version__
from amqpd.broker.alarms import Alarm
from amqpd.broker.broker import Broker
from amqpd.config import Config, Limits
from amqpd.links.federation import Federation
from amqpd.links.shovels import Shovels
from amqpd.runtime import client_tcp
from amqpd.runtime.client_socket import ClientSocket
from amqpd.runtime.clock import Clock, MonotonicClock
from amqpd.runtime.definitions_file import DefinitionsFile, load_definitions
from amqpd.runtime.definitions_import import DefinitionsImport
from amqpd.runtime.journal_writer import JournalWriter
from amqpd.runtime.local_client import LocalClient
from amqpd.runtime.peer import Peer
from amqpd.runtime.settings import parse_address, show_address
from amqpd.runtime.tls import read_certificate_end_s, server_context
from amqpd.runtime.tls_layer import TLSLayer
from amqpd.runtime.turns import Turns
from amqpd_storage.errors import JournalFailed, ReadFailed

logger = logging.getLogger("amqpd.server")

CLOCK_STEP_S: Final = 0.05
"""By less the time of day does not have to be followed."""
CLOCK_STEP_TOLD_S: Final = 1.0
"""From here on the log tells of it. What is less comes of keeping a clock right, all day."""

SHUTDOWN_REASON: Final = "broker forced connection closure with reason 'shutdown'"
INFORMATION: Final = (
    f"amqpd {__version__}, an AMQP 0-9-1 broker in Python that behaves as RabbitMQ does"
)


AnyClient = ClientSocket | LocalClient

ACCEPT_PAUSE_S: Final = 0.1
"""Before trying again after a client could not be accepted."""


class Server:
    """A running broker. Made by `amqpd.runtime.serve`."""

    def __init__(self, config: Config, broker: Broker, clock: Clock | None = None) -> None:
        self.config = config
        self.limits: Limits = config.limits
        self.broker = broker
        self.clock: Clock = clock or MonotonicClock()
        self.addresses: dict[str, list[str]] = {"amqp": [], "amqps": [], "management": []}
        self.turns = Turns(broker, self.clock.now, wake_timers=self._wake_timers, evict=self._evict)
        self.journal: JournalWriter | None = None
        """What writes to the store, with its figures; None where nothing is kept."""
        self.certificate_ends_s: float | None = None
        """Of the one in use: its file may be another by now, or gone."""
        self._timers_changed = anyio.Event()
        self._one_left = anyio.Event()
        self.disk_troubles: dict[str, str] = {}
        """Who cannot do without the disk, and what keeps it from what it wants of it."""

    def attach_journal(self, journal: JournalWriter) -> None:
        """Entries go there from now on."""
        self.journal = self.turns.journal = journal

    def _evict(self) -> None:
        """Close the connections that an operator wants closed."""
        evictions = self.broker.effects.evictions
        now = self.clock.now()
        for client in list(self.turns.clients.values()):
            reason = evictions.get(client.peer.session) if client.peer.session else None
            if reason is not None:
                client.peer.close(reason, now)
                client.pace()
                self.turns.watch(client)
        evictions.clear()

    def set_disk_trouble(self, whose: str, error: JournalFailed | ReadFailed | None) -> None:
        """Somebody found the disk full or failing, or it did what it was asked to."""
        troubles = self.disk_troubles
        if error is None:
            if troubles.pop(whose, None) is not None:
                # Whether all is well then is for the resource monitor to say.
                logger.warning(f"{whose} again")
        elif troubles.get(whose) != error.reason:
            troubles[whose] = error.reason
            full = isinstance(error, JournalFailed) and error.disk_full
            state = "is full" if full else "fails"
            logger.error(
                f"the disk {state}: publishers are blocked until {whose}",
                extra={"reason": error.reason, "path": error.path},
            )
            self.set_alarm(Alarm.DISK, True)

    def set_alarm(self, alarm: Alarm, raised: bool) -> bool:
        """Raise or clear an alarm; True if that changed something."""
        changed = self.broker.set_alarm(alarm, raised)
        if changed:
            self.turns.finish()
            for client in list(self.turns.clients.values()):
                client.pace()
        return changed

    # -- time

    def _wake_timers(self) -> None:
        self._timers_changed.set()

    async def run_timers(self) -> None:
        """Ask everybody when it is time, for ever."""
        timers = self.broker.timers
        while True:
            deadline = timers.next_deadline()
            self.turns.wake_at = math.inf if deadline is None else deadline
            self._timers_changed = anyio.Event()
            with anyio.move_on_after(max(0.0, self.turns.wake_at - self.clock.now())):
                await self._timers_changed.wait()
            self._ask_timers()

    def _ask_timers(self) -> None:
        """Everybody whose time has come. A bug costs the one it is in, which is not asked again."""
        self.broker.now = now = self.clock.now()
        try:
            self.broker.timers.advance(now)
            self.turns.finish()
        except Exception:  # whatever it is: it is nobody else's fault
            logger.exception("internal error")

    def follow_clock(self) -> None:
        """Look whether the time of day is another one than was thought: it was set, or the machine
        slept."""
        epoch_s = self.clock.epoch_s()
        forward_s = epoch_s - self.broker.effects.epoch_s
        if abs(forward_s) < CLOCK_STEP_S:
            return
        if abs(forward_s) >= CLOCK_STEP_TOLD_S:
            logger.warning("the time of day has changed", extra={"by_s": round(forward_s, 3)})
        self.broker.now = self.clock.now()
        self.broker.set_epoch(epoch_s)
        self.turns.finish()

    # -- connections

    def admit(
        self,
        client: AnyClient,
        remote: Any,
        local: Any,
        *,
        name: str = "",
        peer_type: type[Peer] = Peer,
    ) -> Peer:
        """A client connected: what it will talk to. It is named after its socket, if it has one."""
        peer = peer_type(
            self.broker,
            name or f"{_shown(remote)} -> {_shown(local)}",
            is_loopback=client_tcp.is_local(remote),
            information=INFORMATION,
            now=self.clock.now(),
            speaking=self.turns.speaking,
            pausing=client.pausing,
            waking=client.wake,
            secure=client.secure,
        )
        self.turns.clients[peer.connection] = client
        return peer

    def dismiss(self, client: AnyClient) -> None:
        """A client is gone."""
        self.turns.forget(client)
        self._one_left.set()

    def clients(self) -> Iterable[AnyClient]:
        """All that are connected."""
        return self.turns.clients.values()

    def close_connections(self, reason: str) -> None:
        """Ask every client to go."""
        now = self.clock.now()
        for client in list(self.turns.clients.values()):
            client.shut_down(reason, now)
            client.pace()
            self.turns.watch(client)
        self.turns.finish()

    async def wait_until_empty(self) -> None:
        """Return when no client is left."""
        while self.turns.clients:
            self._one_left = anyio.Event()
            await self._one_left.wait()

    # -- listeners

    async def listen(self, listeners: TaskGroup) -> None:
        """Open all listeners, a task each.

        Raises OSError with the address in `filename` and its flag in `filename2`, or ConfigError.
        """
        for text in self.config.listen:
            for listener in await self._open(text, "amqp"):
                listeners.start_soon(self._accept, listener, None)
        if self.config.tls_listen:
            context = server_context(self.config)
            self.certificate_ends_s = read_certificate_end_s(self.config)
            for text in self.config.tls_listen:
                for listener in await self._open(text, "amqps"):
                    listeners.start_soon(self._accept, listener, context)

    async def _open(self, text: str, protocol: str) -> Sequence[Listener[SocketStream]]:
        """Bind to an address. A name such as localhost stands for several, with a listener each."""
        address = parse_address(text)
        try:
            opened = await anyio.create_tcp_listener(
                local_host=address.host, local_port=address.port, backlog=1024
            )
        except OSError as error:
            error.filename = str(address)
            error.filename2 = "--listen" if protocol == "amqp" else "--tls-listen"
            raise
        for listener in opened.listeners:
            bound = listener.extra(SocketAttribute.local_address)
            self.addresses[protocol].append(_shown(bound))
        return opened.listeners

    async def _accept(
        self, listener: Listener[SocketStream], context: ssl.SSLContext | None
    ) -> None:
        """Take in clients. Running out of file descriptors must not end the broker."""
        loop = asyncio.get_running_loop()
        listening = listener.extra(SocketAttribute.raw_socket)
        listening.setblocking(False)
        paced = client_tcp.is_paced(listening)
        failing = False
        # The loop's own `sock_accept` watches and forgets the socket again for each client.
        somebody = asyncio.Event()
        async with listener:
            loop.add_reader(listening, somebody.set)
            try:
                while True:
                    await somebody.wait()
                    somebody.clear()
                    try:
                        accepted, remote = listening.accept()
                        accepted.setblocking(False)
                        client_tcp.prepare(accepted, remote, paced=paced)
                        made = partial(self._client, context, accepted)
                        client = cast(Callable[[], asyncio.Protocol], made)
                        # A stop in between would leave a client whose transport is gone already.
                        with anyio.CancelScope(shield=True):
                            await loop.connect_accepted_socket(client, accepted)
                    except BlockingIOError:
                        continue  # whoever it was is gone
                    except OSError as error:
                        if not failing:
                            reason = error.strerror or str(error)
                            logger.error("cannot accept clients", extra={"reason": reason})
                        failing = True
                        loop.remove_reader(listening)
                        await anyio.sleep(ACCEPT_PAUSE_S)
                        loop.add_reader(listening, somebody.set)
                        continue
                    failing = False
            finally:
                loop.remove_reader(listening)

    def _client(self, context: ssl.SSLContext | None, accepted: socket.socket) -> ClientSocket:
        return ClientSocket(self, None if context is None else TLSLayer(context), accepted)

    def write_ready_file(self) -> None:
        """Tell whoever waits for it where the broker listens. Raises OSError."""
        if self.config.ready_file is None:
            return
        path = Path(self.config.ready_file)
        content = {"pid": os.getpid(), "version": __version__, **self.addresses}
        unfinished = path.with_name(path.name + ".new")
        unfinished.write_text(json.dumps(content) + "\n")
        unfinished.replace(path)


def make_broker(config: Config, clock: Clock, *, journaling: bool) -> Broker:
    """An empty broker with the machine's randomness and time."""
    broker = Broker(
        config, journaling=journaling, entropy=secrets.token_bytes, epoch_s=clock.epoch_s()
    )
    broker.now = clock.now()
    broker.parameters.register(Shovels(broker, config.shovels))
    broker.federation = Federation(broker)
    return broker


def read_definitions(broker: Broker, path: Path) -> DefinitionsFile:
    """What a definitions file says. Raises DefinitionsError or OSError."""
    return load_definitions(path.read_bytes(), str(path), broker.config.default_vhost)


def import_definitions(broker: Broker, file: DefinitionsFile, path: Path) -> None:
    """Apply a definitions file. Raises DefinitionsError."""
    importing = DefinitionsImport(broker, file, str(path))
    importing.apply()
    for warning in importing.warnings:
        logger.warning(f"{path}: {warning}")
    logger.info(
        "definitions imported",
        extra={
            "file": path,
            "users": len(file.users),
            "vhosts": len(file.vhosts),
            "policies": len(file.policies),
            "exchanges": len(file.exchanges),
            "queues": len(file.queues),
            "bindings": len(file.bindings),
        },
    )


def _shown(address: Any) -> str:
    if isinstance(address, tuple):
        return show_address(str(address[0]), int(address[1]))
    return "gone" if address is None else str(address)


def describe_platform() -> str:
    """Python and machine, for the first line of the log."""
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
