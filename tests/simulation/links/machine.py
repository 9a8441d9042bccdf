"""One broker of the network: a machine with a disk, and the process that runs on it.

    Machine    name and disk; its power may go at any time, and it starts again
    Process    one life of the broker: core, links, connections, and the journal on the disk

The journal is driven as `amqpd.runtime.journal_writer` does, one batch under way; links run as in
`amqpd.runtime.links`. What a process has planned does not happen any more once it is dead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import anyio

from amqpd.broker.broker import Broker
from amqpd.broker.paging import PageRequest
from amqpd.broker.passwords import SHA256, hash_password
from amqpd.config import Config, Limits
from amqpd.links.federation import Federation
from amqpd.links.keeper import Keeper
from amqpd.links.runner import Surroundings, wait_until
from amqpd.links.shovels import Shovels
from amqpd.links.transport import Transport
from amqpd.links.uri import LinkURI
from amqpd.protocol.connection import Connection
from amqpd.runtime.peer import Peer
from amqpd.runtime.recovery import recover
from amqpd_storage import sqlite_file, sqlite_reading
from amqpd_storage.entries import Entry
from amqpd_storage.journal import Batch, Journal
from amqpd_storage.sqlite_engine import SQLiteStore
from amqpd_storage.sqlite_log import Checkpoints
from amqpd_storage.sqlite_writing import write_batch
from tests.simulation.disk import Disk, PowerCut
from tests.simulation.links.wire import Wire
from tests.simulation.sqlite_on_disk import store_on
from tests.simulation.world import EPOCH_S, StoreToRecover, finish

if TYPE_CHECKING:
    from tests.simulation.links.world import World

LINK_USER: Final = "link"
PASSWORD: Final = "secret"
WAKE_AGAIN_S: Final = 1.0
"""After the power went while a machine was starting."""


class End(Protocol):
    """Whoever speaks with a broker over a connection."""

    peer: Peer

    def flush(self) -> None:
        """The broker has said something."""

    def resume(self) -> None:
        """The broker may take more of what was said."""

    def lost(self) -> None:
        """The broker's process is gone."""


class Process:
    """One life of a broker. Raises PowerCut while it starts."""

    def __init__(self, machine: Machine) -> None:
        world = machine.world
        self.machine = machine
        self.world = world
        self.alive = True
        self.speaking: list[Connection] = []
        self.ends: dict[Connection, End] = {}
        self.wires: dict[Wire, None] = {}
        """Of the links that this process has."""
        self.scope = anyio.CancelScope()
        self.core = Broker(
            Config(limits=Limits(consumer_timeout_s=0)),
            journaling=True,
            entropy=world.chance.randbytes,
            epoch_s=EPOCH_S,
        )
        self.federation = self.core.federation = Federation(self.core)
        self.shovels = Shovels(self.core)
        self.core.parameters.register(self.shovels)
        self.core.now = world.now
        self._journal = Journal()
        self._batch: Batch | None = None
        """Taken from the journal, and not reported as committed."""
        self._taking = False
        self._wakes_at = math.inf
        self._store: Any = sqlite_file.open_connection(machine.path, "full")
        self._checkpoints = Checkpoints(self._store, world.chance.choice((5, 40, 2048)))
        try:
            finish(recover(self.core, cast(SQLiteStore, StoreToRecover(self._store))))
        except PowerCut:
            self._close_store()
            raise

    async def run(self) -> None:
        """Its links, until it is dead."""
        around = Surroundings(
            connect=self._connect,
            now=lambda: self.world.now,
            finish_turn=self.turn,
            sleep=anyio.sleep,
            wait=wait_until,
            cluster_name=lambda: self.core.cluster_name,
        )
        with self.scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.shovels.run, around)
                tasks.start_soon(self.federation.run, around)

    def end(self) -> None:
        """It is dead, and all that it was about to do comes to nothing."""
        self.alive = False
        for end in list(self.ends.values()):
            end.lost()
        for wire in list(self.wires):
            wire.abandon()
        self.scope.cancel()
        self._close_store()

    def keepers(self) -> list[Keeper]:
        """Of all its links."""
        return [*self.federation.keepers, *self.shovels.keepers]

    def later(self, delay_s: float, event: Callable[..., None], *about: Any) -> None:
        """Unless it is dead by then."""

        def happen() -> None:
            if self.alive:
                event(*about)

        self.world.later(delay_s, happen)

    # -- turns

    def turn(self) -> None:
        """What one event led to ends here."""
        if not self.alive:
            return
        core, now = self.core, self.world.now
        core.now = now
        while True:
            entries = core.finish_turn()
            if entries:
                self._append(entries)
            for request in core.take_page_requests():
                self.later(self.world.commit_delay(), self._read, request)
            due = core.timers.next_deadline()
            if due is not None and due <= now:
                core.timers.advance(now)
                continue
            if not self.speaking:
                break
            speaking = self.speaking[:]
            self.speaking.clear()
            for connection in speaking:
                end = self.ends.get(connection)
                if end is not None:
                    end.flush()
        self._watch_timers()
        self.world.check_memory(self)

    def _watch_timers(self) -> None:
        ends = [self.core.timers.next_deadline()]
        ends += [end.peer.deadline() for end in self.ends.values()]
        at = min((end for end in ends if end is not None), default=math.inf)
        if at < self._wakes_at:
            self._wakes_at = at
            self.later(at - self.world.now, self._ask_timers)

    def _ask_timers(self) -> None:
        self._wakes_at = math.inf
        now = self.world.now
        for end in list(self.ends.values()):
            due = end.peer.deadline()
            if due is not None and due <= now:
                end.peer.handle_timer(now)
                end.flush()
        self.core.now = now
        self.core.timers.advance(now)
        self.turn()

    def set_alarm(self, alarm: Any, raised: bool) -> None:
        """A resource is short, or no longer."""
        self.core.set_alarm(alarm, raised)
        self.turn()
        for end in list(self.ends.values()):
            end.resume()

    # -- the journal

    def _append(self, entries: list[Entry]) -> None:
        self._journal.append_all(entries)
        if self._batch is None and not self._taking:
            self._taking = True
            self.later(self.world.commit_delay() / 4, self._take)

    def _take(self) -> None:
        self._taking = False
        if self._batch is None:
            self._batch = self._journal.take()
            if self._batch is not None:
                self.later(self.world.commit_delay(), self._write)

    def _write(self) -> None:
        assert self._batch is not None
        try:
            self._checkpoints.run_if_due(self._store)
            write_batch(self._store, self._batch)
            self._checkpoints.wrote(self._batch)
        except PowerCut:
            self.machine.cut_power("while writing")
            return
        self.later(self.world.commit_delay(), self._commit)

    def _commit(self) -> None:
        batch, self._batch = self._batch, None
        assert batch is not None
        self._journal.committed(batch)
        self.core.committed(batch.enqueues, batch.barriers, batch.delays)
        self.turn()
        if self._journal.has_pending:
            self._take()

    @property
    def settled(self) -> bool:
        """Everything that it was told is on the disk."""
        return self._batch is None and not self._journal.has_pending

    def _read(self, request: PageRequest) -> None:
        """What a queue asked for comes from the disk."""
        pages = [
            sqlite_reading.read_messages(self._store, after, last, request.rows_max)
            for after, last in request.ranges
        ]
        request.queue.page_in(request, pages)
        for end in list(self.ends.values()):
            end.resume()
        self.turn()

    def _close_store(self) -> None:
        with suppress(PowerCut):
            self._store.close()

    # -- links

    async def _connect(self, uri: LinkURI, vhost: str) -> Transport:
        world = self.world
        if uri.is_local:
            wire = Wire(self, self, heartbeats=True)
        else:
            await anyio.sleep(world.latency())
            target = world.machines[uri.host].process
            if target is None or not world.machines[uri.host].reachable:
                if world.chance.random() < 0.2:
                    await anyio.sleep(uri.connection_timeout_s)
                    raise TimeoutError
                raise ConnectionRefusedError(111, "Connection refused")
            wire = Wire(self, target, heartbeats=bool(uri.heartbeat_s))
        self.wires[wire] = None
        return wire


class Machine:
    """A broker's name and disk; at most one process runs on it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.process: Process | None = None
        """None while it is down."""
        self.reachable = True
        """Connections to it are accepted."""
        self.disk: Disk
        self.path: Path
        self.clear_disk()

    def clear_disk(self) -> None:
        """Everything on it is gone: the next process is a new broker."""
        self.disk = Disk()
        self.path = self.world.stack.enter_context(store_on(self.disk, self.world.seed))

    def start(self) -> None:
        """The broker starts, from what is on the disk."""
        if self.process is not None:
            return
        world, chance = self.world, self.world.chance
        self.disk.restart()
        if world.troubled and chance.random() < 0.1:
            self.disk.cut_at = self.disk.calls + chance.randint(0, 40)
        try:
            process = Process(self)
        except PowerCut:
            world.note(f"{self.name}: power cut while starting")
            world.counts["power_cuts"] += 1
            self.disk.cut(chance)
            world.later(WAKE_AGAIN_S, self.start)
            return
        self.disk.cut_at = None
        self.process = process
        world.note(f"{self.name}: started")
        if not process.core.virtual_hosts:
            process.core.add_defaults()
            self._introduce(process.core)
            world.configure(process)
        process.turn()
        world.tasks.start_soon(process.run)

    def _introduce(self, core: Broker) -> None:
        core.parameters.set_global("cluster_name", self.name)
        self.set_password(core, PASSWORD)
        core.journal(core.access.put_permission(LINK_USER, "/", ".*", ".*", ".*"))

    def set_password(self, core: Broker, password: str) -> None:
        """Of the user by whose name other brokers' links come."""
        hashed = hash_password(password, b"salt")
        core.journal(core.access.put_user(LINK_USER, hashed, SHA256, ()))

    def cut_power(self, when: str = "") -> None:
        """What is not on the disk is gone."""
        if self.process is not None:
            self.world.note(f"{self.name}: power cut {when}")
            self.world.counts["power_cuts"] += 1
            self.disk.cut(self.world.chance)
            self._die()

    def kill(self) -> None:
        """The process alone is gone."""
        if self.process is not None:
            self.world.note(f"{self.name}: killed")
            self.world.counts["kills"] += 1
            self.disk.kill()
            self._die()

    def _die(self) -> None:
        process, self.process = self.process, None
        assert process is not None
        process.end()
        self.world.broke()
        self.world.later(self.world.down_time(), self.start)
