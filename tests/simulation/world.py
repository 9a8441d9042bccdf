"""One seed's world: a broker, its clients, the network, the clock and the disk, in one thread.

    clients ──actions──> network ──chunks──> Peer, Broker ──entries──> Journal ──> write_batch
       ^                    │                    │                                      │
       └──────delays────────┘                    └────> Model: is it right?          SQLite
                                                                                        │
    lives: start, recover, work ... power cut, kill or stop; and again                Disk

Everything happens at a time of the virtual clock, in order of time. The journal is driven as
`amqpd.runtime.journal_writer` does: one batch under way, the next one taken when it is done. In a
broker the batch is written by a thread, while the loop goes on; here it is written at one moment
between being taken and being reported, which is the same to anybody who looks: the thread reads
nothing that changes, and nobody sees the file.

The same seed is the same world, down to the last octet: `World.digest` says so.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from struct import unpack_from
from typing import Any, ClassVar, Final, NamedTuple, TypeVar, cast
from unittest.mock import patch
from zlib import crc32

from amqpd.broker import queue as queue_module
from amqpd.broker import quorum as quorum_module
from amqpd.broker.alarms import Alarm
from amqpd.broker.broker import Broker
from amqpd.broker.dead_letters import dead_letter
from amqpd.broker.definitions import decode
from amqpd.broker.delayed import DelayedMessages
from amqpd.broker.messages import QueueMessage
from amqpd.broker.paging import PageRequest
from amqpd.broker.policies import clear_policy, set_policy
from amqpd.broker.queue import Queue
from amqpd.broker.returns import Returns
from amqpd.broker.virtual_host import VirtualHost
from amqpd.broker.waiting_room import DelayedMessage, DelayRead
from amqpd.commands import Connection as ConnectionMethods
from amqpd.commands import Frame, Message
from amqpd.config import Compat, Config, Limits
from amqpd.protocol.connection import Connection as ProtocolConnection
from amqpd.protocol.methods import encode_method
from amqpd.runtime.backoff import Backoff
from amqpd.runtime.peer import Peer
from amqpd.runtime.recovery import recover, restored_delays
from amqpd.timers import BREATH_S
from amqpd_storage import (
    commit_arguments,
    sqlite_delays,
    sqlite_file,
    sqlite_log,
    sqlite_owner,
    sqlite_reading,
)
from amqpd_storage.commit_view import UNREFERENCED
from amqpd_storage.entries import POSITION_BITS, POSITION_MAX, Entry, StoredMessage
from amqpd_storage.errors import JournalFailed, ReadFailed, StoreUnwritable
from amqpd_storage.journal import Batch, Journal
from amqpd_storage.runs import RUN_MESSAGES_MIN
from amqpd_storage.sqlite_engine import Durability, Recovery, SQLiteStore
from amqpd_storage.sqlite_log import close_connection, renew_log
from amqpd_storage.sqlite_owner import OwnersConnection
from amqpd_storage.sqlite_writing import write_batch
from tests.conversation import (
    CAPABILITIES,
    HEARTBEAT,
    METHOD,
    PROTOCOL_HEADER,
    Ear,
    Heard,
    frame,
    method,
    table,
)
from tests.simulation.actions import (
    FRAME_BYTES_MAX,
    GOVERNED,
    POLICIES,
    QUEUES,
    Action,
    Beat,
    Get,
    Publish,
    encode,
)
from tests.simulation.client import Client, Mode
from tests.simulation.disk import Disk, PowerCut
from tests.simulation.letters import ReturnCount
from tests.simulation.model import DELAYED, Model
from tests.simulation.parts import ModelChannel, ModelConnection, Violation, require
from tests.simulation.sqlite_on_disk import store_on
from tests.simulation.states import (
    EMPTY,
    Found,
    FoundRow,
    State,
    found_in,
    shown_header,
    uid_of,
)

T = TypeVar("T")

HEARTBEAT_S: Final = 10
PACES_S: Final = (0.003, 0.02, 0.1, 1.0, 10.0, 120.0)
"""How long a client thinks, by the life."""
COMMIT_S: Final = (0.001, 0.005, 0.005, 0.05, 1.0, 5.0, 30.0)
DOWN_S: Final = (0.0, 0.0, 0.3, 5.0)
"""How long it takes until the broker is started again."""
EPOCH_S: Final = 1_700_000_000.1
EXPIRING: Final = tuple(name for name, spec in QUEUES.items() if spec.number("x-expires"))
ELSEWHERE: Final = 0.5
ELSEWHERE_MAX: Final = 24
"""How often for one batch."""
POLICY: Final = "rules"
FLOW_WAIT_S: Final = (0.0, 0.0003, 0.05, 0.05, 2.0)
"""How long publishers wait for consumers that are slow; by the life. In 0.3 ms some consumers are
quick."""
QUICK_S: Final = 0.01
"""In more than that none are."""
ALARMED: Final = 0.3
"""In what share of the lives memory runs short, perhaps several times."""
TIDIES: Final = 0.1
"""How often there is time to tidy up after a commit."""
DISK_FULL: Final = 0.01
"""How often the disk is full for a while when a batch is to be written."""
RETRY_S: Final = Limits().disk_full_retry_s
RETRY_MAX_S: Final = Limits().disk_error_retry_max_s
DISK_ERRORS: Final = (0.003, 0.01, 0.01, 0.2)
"""How often it fails when a batch is to be written."""
ILL_S: Final = 20.0
"""How long a disk is ill, at most."""
COMPAT: Final[tuple[Compat, ...]] = ("3.13", "4.3", "3.13", "3.13", "4.2")
"""The profile, by the seed."""
THEMES: Final[tuple[tuple[str, ...], ...]] = (
    (),
    (),
    (),
    ("p1",),
    ("p2", "h1"),
    ("u0",),
    ("u1", "h1"),
    ("h0",),
    ("h2", "ded"),
    ("d1", "d2"),
    ("y0", "y1"),
)
"""What clients have more to do with than with all else, by the life."""
NORMAL: Final = 0.15
"""How often durability is normal."""
RUNS: Final = (1, 2, 2, RUN_MESSAGES_MIN)
EXPIRED_AT_ONCE: Final = (queue_module.EXPIRED_AT_ONCE, 1, 2)
"""By the seed."""
"""Of how many messages a run has to be."""
LATENCY_S: Final = (0.0001, 0.001, 0.01, 0.3)
PROFILES: Final[tuple[list[Mode], ...]] = (
    ["admin"],
    ["confirm"],
    ["confirm", "tx"],
    ["tx"],
    ["plain", "plain"],
    ["plain", "confirm"],
    ["admin", "tx"],
    ["admin", "plain", "tx"],
)
"""Channels of a connection. `plain` ones acknowledge automatically."""


class Bug:
    """A mistake to be found: nothing here. Subclasses are planted at the seams (`mutations`)."""

    durability: ClassVar[Durability | None] = None
    """What is promised where it is planted; by the seed if it is None."""
    disk_errors: ClassVar[float | None] = None
    """How often the disk fails while a batch is written; by the seed if it is None."""

    forgets: ClassVar[float] = 0.5
    """How often a flush that fails then forgets what it should have brought to the disk."""
    checkpoint_pages: ClassVar[tuple[int, ...]] = (5, 40, 2048)
    """How long the log gets before it is written back, by the life."""
    elsewhere: ClassVar[float] = ELSEWHERE
    """The share of batches after which the power is cut elsewhere."""
    favourites: ClassVar[tuple[str, ...]] = ()
    """Queues and exchanges that clients have more to do with than with others."""

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """While it lasts the bug is in the broker's own code."""
        yield

    def begin(self) -> None:
        """A new process."""

    def connect(self, connection: Any) -> None:
        """The store was opened."""

    def append(self, world: World, entries: list[Entry]) -> None:
        """A turn ended with these."""
        world.append(entries)

    def write(self, connection: Any, batch: Batch, number: int | None) -> None:
        """A batch is to be written."""
        write_batch(connection, batch, number)

    def close(self, connection: Any, path: Path, *, keeping_log: bool) -> None:
        """The disk has failed (`keeping_log`), or the broker was asked to end."""
        close_connection(connection, path, keeping_log=keeping_log)

    def renew_log(self, path: Path, *, alone: bool = False) -> bool:
        """The store is about to be opened, perhaps again."""
        return renew_log(path, alone=alone)

    def resume(self, owner: OwnersConnection) -> None:
        """The disk has failed, and may be well."""
        owner.probe()
        owner.resume()

    def bury(
        self, virtual_host: VirtualHost, queue: Queue, stored: QueueMessage, reason: str
    ) -> None:
        """A message died in a queue."""
        dead_letter(virtual_host, queue, stored, reason)

    def bury_surely(
        self, virtual_host: VirtualHost, queue: Queue, stored: QueueMessage, reason: str
    ) -> bool:
        """A message died whose letter has to find a place; whether it has."""
        return dead_letter(virtual_host, queue, stored, reason, surely=True)


class Figures(NamedTuple):
    """What was simulated."""

    lives: int
    power_cuts: int
    kills: int
    stops: int
    disk_errors: int
    recoveries: int
    """Of these, in place: the broker went on."""
    forgotten: int
    """Batches that `--durability normal` lost in power cuts."""
    seconds: float
    turns: int
    batches: int
    pages: int
    delivered: int
    confirmed: int


class SimulatedConnection:
    """A client's connection and the network between."""

    def __init__(self, world: World, number: int, client: Client, heartbeat_s: int) -> None:
        self.world = world
        self.number = number
        self.client = client
        self.model = ModelConnection(f"client {number}")
        self.peer = Peer(
            world.broker,
            f"client {number}",
            is_loopback=True,
            information="",
            now=world.now,
            speaking=world.speaking,
            waking=partial(world.go_on, self),
        )
        self.heartbeat_s = heartbeat_s
        self.alive = True
        """The client is there."""
        self.stream: list[tuple[int, Action, bytes]] = []
        """Sent by the client, not received by the broker."""
        self.partial = 0
        """Octets of the first of these that were received."""
        self.paused = False
        """There is more of the stream, and the broker does not read it: it is blocked, or held."""
        self.ears: dict[int, Ear] = {}
        self.buffer = b""
        self.latency_s = world.chance.choice(LATENCY_S)
        self.arrival_out = 0.0

    def hear(self, data: bytes) -> list[tuple[int, Heard]]:
        """Octets from the broker."""
        data = self.buffer + data
        position = 0
        heard: list[tuple[int, Heard]] = []
        while position + 8 <= len(data):
            kind, channel, size = unpack_from(">BHI", data, position)
            end = position + 7 + size
            if end >= len(data):
                break
            assert data[end] == 0xCE
            if kind != HEARTBEAT:
                ear = self.ears.get(channel)
                if ear is None:
                    ear = self.ears[channel] = Ear()
                said = ear.hear(kind, data[position + 7 : end])
                if said is not None:
                    heard.append((channel, said))
            position = end + 1
        self.buffer = data[position:]
        return heard


def handshake(heartbeat_s: int) -> tuple[bytes, bytes, bytes]:
    """What a client says, each after the broker's answer to the one before."""
    properties = table({"capabilities": dict.fromkeys(CAPABILITIES, True)})
    start_ok = method(
        ConnectionMethods.StartOk, mechanism="PLAIN", response=b"\0guest\0guest", locale="en_US"
    )
    tune_ok = method(
        ConnectionMethods.TuneOk,
        channel_max=2047,
        frame_max=FRAME_BYTES_MAX,
        heartbeat=heartbeat_s,
    )
    opened = method(ConnectionMethods.Open, virtual_host="/")
    return (
        PROTOCOL_HEADER,
        frame(METHOD, 0, encode_method(start_ok, properties)),
        frame(METHOD, 0, encode_method(tune_ok, {})) + frame(METHOD, 0, encode_method(opened, {})),
    )


HANDSHAKES: Final = {seconds: handshake(seconds) for seconds in (0, HEARTBEAT_S)}


class StoreToRecover:
    """What `amqpd.runtime.recovery` sees of `SQLiteStore`."""

    path = "simulated disk"

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def recover(self) -> Recovery:
        """Definitions and numbers."""
        sqlite_reading.forget_passing(self.connection)
        return Recovery(
            cast(SQLiteStore, self),
            sqlite_reading.read_definitions(self.connection),
            sqlite_reading.read_delivered(self.connection),
            sqlite_reading.read_backlogs(self.connection),
            sqlite_reading.read_dropped_queues(self.connection),
            sqlite_reading.read_message_id_max(self.connection),
            sqlite_delays.read_delay_counts(self.connection),
        )

    async def read_messages(
        self,
        after: int,
        last: int = sqlite_reading.LAST_KEY,
        rows_max: int = sqlite_reading.READ_ROWS_MAX,
    ) -> list[StoredMessage]:
        """The next few."""
        return sqlite_reading.read_messages(self.connection, after, last, rows_max)


def found_on(connection: Any) -> Found:
    """Everything in a store, which has to agree with itself."""
    orphans = connection.execute(f"SELECT message_id FROM message WHERE {UNREFERENCED}").fetchall()
    require(not orphans, "shared messages that nobody refers to", orphans)
    known = sqlite_reading.read_backlogs(connection)
    counted = sqlite_reading.count_backlogs(connection)
    for queue_id in known.keys() | counted.keys():
        says, has = (of.get(queue_id, (0, 0))[:2] for of in (known, counted))
        require(says == has, "the store is wrong about a backlog", queue_id, says, has)
    records = [decode(*row) for row in sqlite_reading.read_definitions(connection)]
    marks = sqlite_reading.read_delivered(connection)
    rows: dict[int, list[FoundRow]] = {}
    after = -1
    while messages := sqlite_reading.read_messages(connection, after):
        for message in messages:
            queue_id, position = message.key >> POSITION_BITS, message.key & POSITION_MAX
            marked = position < marks.get(queue_id, 0)
            row = FoundRow(position, message.body, marked, message.expires_ms)
            rows.setdefault(queue_id, []).append(row)
        after = messages[-1].key
    delays: dict[int, list[tuple[bytes, int]]] = {}
    for exchange_id in sqlite_delays.read_delay_counts(connection).messages:
        found, at_end = sqlite_delays.read_delays(connection, exchange_id, (-1, -1), 1_000_000)
        require(at_end, "not all that waits was read", exchange_id, len(found))
        delays[exchange_id] = [(delay.body, delay.due_ms) for delay in found]
    told = sqlite_delays.read_delay_counts(connection).messages
    counts = {exchange_id: len(waiting) for exchange_id, waiting in delays.items()}
    require(told == counts, "the store is wrong about how much waits", told, counts)
    return found_in(records, rows, delays)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast(T, stop.value)
    raise AssertionError("it waited")


class World:
    """Everything under one seed."""

    def __init__(self, seed: int, bug: Bug | None = None) -> None:
        self.seed = seed
        self.bug = bug or Bug()
        self.chance = Random(seed)
        self._elsewhere = Random(~seed)
        """Chance of its own: what happens elsewhere changes nothing here."""
        self.now = 1000.0
        self.disk = Disk()
        self.compat: Final = COMPAT[seed % len(COMPAT)]
        self.model = Model(self.compat)
        self._theme: tuple[str, ...] = ()
        self.digest = 0
        self.speaking: list[ProtocolConnection] = []
        self.connections: dict[ProtocolConnection, SimulatedConnection] = {}
        self.trace: list[str] | None = None
        """What happened, if anybody wants to know."""
        self._events: list[tuple[float, int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._uid = 0
        self._clients = 0
        self._life = 0
        self._ended = False
        self.safe = EMPTY
        """What the store holds for sure."""
        self._writing: State | None = None
        """What it may hold in addition: a write is under way."""
        self._had_defaults = False
        self._batch: tuple[Batch, State] | None = None
        """Taken, and not reported as committed; with what the store holds afterwards."""
        self._reading: list[PageRequest] = []
        """Pages that queues asked for and do not have yet."""
        self._written = False
        self._take_scheduled = False
        self._pace_s = self._commit_s = 1.0
        self._flow_wait_s = 0.0
        self._asked_at = math.inf
        """When the broker is to be asked for its timers."""
        self._passages: list[Callable[[], None]] = []
        """What the model has to be told: deaths, and what has waited long enough; in order."""
        self._superfluous: set[str] = set()
        """Queues that said of the latest dead letter that they have such a message already."""
        self._delay_reads: list[DelayRead] = []
        self._cut_in_batch: int | None = None
        self._cut_calls = 0
        self._counts = dict.fromkeys(
            (
                "power_cuts",
                "kills",
                "stops",
                "disk_errors",
                "recoveries",
                "forgotten",
                "turns",
                "batches",
                "pages",
            ),
            0,
        )
        durability: Durability = "normal" if self.chance.random() < NORMAL else "full"
        self.durability = self.bug.durability or durability
        drawn = self.chance.choice(DISK_ERRORS)
        self._disk_errors = drawn if self.bug.disk_errors is None else self.bug.disk_errors
        self._unflushed: list[State] = []
        """What the store was after each batch since it was surely safe; `--durability normal`."""
        self._may_have_lost = False
        """The last commits, if durability is normal: the power went, or a flush failed, since the
        store was opened last."""
        self._failed = False
        """A broker had to end because of the disk, and the power was not cut since."""
        self._began = self.now
        self.broker: Broker
        self.journal: Journal
        self.owner: OwnersConnection | None = None
        """Who has the store open."""
        self._backoff = Backoff(RETRY_S, RETRY_MAX_S)

    # -- lives

    def run(self, lives: int) -> Figures:
        """So many lives of the broker. Raises Violation."""
        connections_log = logging.getLogger("amqpd.connection")
        with (
            store_on(self.disk, self.seed) as path,
            self.bug.planted(),
            patch.object(connections_log, "disabled", True),
            patch.object(queue_module, "dead_letter", self._record_death),
            patch.object(quorum_module, "dead_letter", self._record_sure_death),
            patch.object(queue_module, "EXPIRED_AT_ONCE", EXPIRED_AT_ONCE[self.seed % 3]),
            patch.object(DelayedMessages, "_release", self._record_release()),
            patch.object(Queue, "has_duplicate", self._record_duplicates()),
            patch.object(Returns, "due", self._record_retries()),
            patch.object(commit_arguments, "RUN_MESSAGES_MIN", self.chance.choice(RUNS)),
            patch.object(sqlite_file, "renew_log", self.bug.renew_log),
            patch.object(sqlite_owner, "write_batch", self.bug.write),
            patch.object(sqlite_log, "close_connection", self.bug.close),
        ):
            self._path = path
            try:
                for _ in range(lives):
                    self._live()
            except Exception as error:
                error.add_note(f"in life {self._life} of seed {self.seed}, at {self.now:.6f} s")
                raise
            finally:
                self.disk.powered = False
                self._close_store()
        return Figures(
            lives=self._life,
            seconds=self.now - self._began,
            delivered=self.model.delivered,
            confirmed=self.model.confirmed,
            **self._counts,
        )

    def _live(self) -> None:
        self._life += 1
        chance = self.chance
        self.now += chance.choice(DOWN_S)
        while not self._start():
            pass
        self._events.clear()
        self._ended = False
        self._asked_at = math.inf
        self._passages = []
        self.append(self.broker.finish_turn())
        self._ask_timers()
        self._pace_s = pace_s = chance.choice(PACES_S)
        self._commit_s = chance.choice(COMMIT_S)
        self._theme = self.bug.favourites or chance.choice(THEMES)
        for _ in range(chance.randint(2, 4)):
            self._connect()
        how = chance.random()
        work = chance.randint(2, 40) * pace_s / 2
        for _ in range(chance.randint(0, 3)):
            self._schedule(chance.random() * work, self._change_policy)
        if chance.random() < ALARMED:
            for _ in range(chance.randint(1, 3)):
                self._schedule(chance.random() * work, partial(self._set_alarm, Alarm.MEMORY, True))
                at = chance.random() * work * 1.5
                self._schedule(at, partial(self._set_alarm, Alarm.MEMORY, False))
        self._cut_in_batch = None
        if how < 0.55:
            # In the midst of a write; at the end of the time if there is none.
            self._cut_in_batch = chance.randint(1, 12)
            self._cut_calls = chance.randint(0, 6)
            self._schedule(work * 3, self._power_cut)
        elif how < 0.85:
            self._schedule(work, self._power_cut)
        elif how < 0.93:
            self._schedule(work, self._kill)
        else:
            self._schedule(work, self._stop)
        while not self._ended:
            at, _, life, event = heappop(self._events)
            if life == self._life:
                self.now = max(self.now, at)
                self._tell_time()
                event()

    def _schedule(self, delay_s: float, event: Callable[[], None], at: float | None = None) -> None:
        self._sequence += 1
        when = self.now + delay_s if at is None else at
        heappush(self._events, (when, self._sequence, self._life, event))

    def note(self, text: str) -> None:
        """For whoever follows a seed."""
        if self.trace is not None:
            self.trace.append(f"{self.now:.6f} {text}")

    # -- start and recovery

    def _start(self) -> bool:
        """Open, recover, check; false if the power went meanwhile."""
        self.disk.restart()
        # More often when a disk had an error before: what is read may not be on it.
        if self.chance.random() < (0.5 if self._failed else 0.15):
            self.disk.cut_at = self.disk.calls + self.chance.randint(0, 45)
        elif self.chance.random() < 0.03:
            self._break_disk(self.chance.randint(0, 30))
        try:
            self._open()
            self.disk.restart()
        except (StoreUnwritable, ReadFailed, JournalFailed, sqlite3.OperationalError) as error:
            require(bool(self.disk.failing) or self.disk.full, "cannot start", error)
            self.note(f"not started: {error}")
            self._fail()
            return False
        except PowerCut:
            self.note("power cut while starting")
            self._counts["power_cuts"] += 1
            self._after_cut()
            return False
        return True

    def _open(self) -> None:
        pages = self.chance.choice(self.bug.checkpoint_pages)
        self.owner = owner = OwnersConnection(self._path, self.durability, pages)
        self.bug.begin()
        self.bug.connect(owner.raw)
        self._flow_wait_s = self.chance.choice(FLOW_WAIT_S)
        self.broker = Broker(
            Config(
                compat=self.compat,
                limits=Limits(
                    unsent_bytes_max=3000,
                    consumer_timeout_s=0,
                    queue_memory_messages=self.chance.choice((4, 9, 8192)),
                    flow_wait_s=self._flow_wait_s,
                ),
            ),
            journaling=True,
            entropy=self.chance.randbytes,
            epoch_s=EPOCH_S,
        )
        self._tell_time()
        self.journal = Journal()
        self._batch = None
        self._reading = []
        self._delay_reads = []
        self._written = False
        self._take_scheduled = False
        self.speaking.clear()
        self.connections.clear()
        recovering = StoreToRecover(owner.raw)
        finish(recover(self.broker, cast(SQLiteStore, recovering)))
        self._check_recovered()
        if not self.broker.virtual_hosts:
            lossy = self.durability == "normal" and self._may_have_lost
            require(lossy or not self._had_defaults, "the default definitions are lost")
            self.broker.add_defaults()
            self.journal.append_all(self.broker.finish_turn())
            batch = self.journal.take()
            assert batch is not None
            owner.write(batch)
            self.journal.committed(batch)
        self._had_defaults = True
        self._may_have_lost = False

    def _check_recovered(self) -> None:
        assert self.owner is not None
        found = found_on(self.owner.raw)
        state = self._state_of(found)
        for name, uids in found.queues.items():
            queue = self.broker.virtual_hosts["/"].queues[name]
            # What is in memory already may have been found to be dead, and to wait for a place.
            # Likewise, what waits for its retry.
            waits = sum(bool(m.buried_as or m.due_ms > self.model.now_ms) for m in uids)
            require(0 <= len(uids) - queue.ready <= waits, "not all was recovered", name)
        self.safe = state
        self._writing = None
        self._unflushed.clear()
        self.model.restart_from(state)

    def _state_of(self, found: Found) -> State:
        """What the model had that the store has now."""
        newest = self._unflushed[-1] if self._unflushed else self.safe
        candidates = [newest] if self._writing is None else [self._writing, newest]
        for state in candidates:
            if found.is_that_of(state):
                self.model.check_promises(found)
                return state
        if self._may_have_lost:
            # Durability normal: the last commits may be lost, but no commit before one that is not.
            older = [self.safe, *self._unflushed[:-1]] if self._unflushed else []
            for lost, state in enumerate(reversed(older), 1):
                if found.is_that_of(state):
                    self._counts["forgotten"] += lost
                    return state
        raise Violation(
            "the store is not what any batch left: "
            + "; or: ".join(difference(found, state) for state in candidates)
        )

    # -- ends

    def _power_cut(self) -> None:
        self.note("power cut")
        self._counts["power_cuts"] += 1
        self._after_cut()

    def _after_cut(self) -> None:
        self.disk.cut(self.chance)
        self._failed = False
        self._may_have_lost = True
        self._end_life()

    def _kill(self) -> None:
        self.note("kill")
        self._counts["kills"] += 1
        self.disk.kill()
        self._end_life()

    def _break_disk(self, calls: int) -> None:
        """After so many calls, one of them fails, or all from then on."""
        chance = self.chance
        first = self.disk.calls + calls
        self.disk.failing = range(first, first + chance.choice((1, 2, 1 << 40)))
        drawn, seed = chance.random(), chance.random()
        self.disk.forgets = Random(seed) if drawn < self.bug.forgets else None

    def _fall_ill(self) -> None:
        """The disk breaks while the broker runs, and is well again some time later."""
        self._break_disk(self.chance.randint(0, 6))
        if self.chance.random() < 0.2:
            self._go_blind()
        self._schedule(self.chance.random() * ILL_S, self.disk.heal)

    def _go_blind(self) -> None:
        assert self.owner is not None
        if not self.owner.failed:
            # What SQLite has in memory it need not read.
            self.owner.raw.execute("PRAGMA shrink_memory").fetchall()
        self.disk.blind = True

    def _fail(self) -> None:
        """The broker ends because it could not write, or does not start."""
        self._counts["disk_errors"] += 1
        self._failed = True
        # What is not flushed at each commit may be forgotten by a flush that fails.
        self._may_have_lost = True
        if self.owner is not None:
            try:
                self.owner.keep_log()
                self.owner.close()
            except PowerCut:
                self._power_cut()
                return
        self.disk.kill()
        self._end_life()

    def _end_life(self) -> None:
        self._ended = True
        self._close_store()

    def _close_store(self) -> None:
        if self.owner is not None:
            with contextlib.suppress(PowerCut):
                self.owner.raw.close()
            self.owner = None

    def _recover(self, *, calmly: bool = False) -> bool:
        """The disk has failed: go on in place if it is well again. False if it is not, or if the
        broker has ended.

        As `SQLiteStore` does before it writes; `calmly`: while nothing else happens.
        """
        owner, disk = self.owner, self.disk
        assert owner is not None
        cut_at, disk.cut_at = disk.cut_at, None
        if not calmly and self.chance.random() < 0.2:
            disk.cut_at = disk.calls + self.chance.randint(0, 45)
        was_ill = disk.is_ill or disk.full
        if self.durability == "full" and self._elsewhere.random() < self.bug.elsewhere:
            disk.states = []
        try:
            self.bug.resume(owner)
        except JournalFailed as error:
            disk.states, disk.cut_at = None, cut_at
            self.note(f"not recovered: {error}")
            if not error.passing:
                # With durability normal, the flush that failed may have forgotten confirmed ones.
                require(self.durability == "normal", "cannot go on", error)
                self._fail()
                return False
            require(was_ill, "does not recover", error)
            return False
        except PowerCut:
            disk.states = None
            self.note("power cut while recovering")
            self._counts["power_cuts"] += 1
            self._after_cut()
            return False
        self.note("recovered in place")
        self._counts["recoveries"] += 1
        self.bug.connect(owner.raw)
        states, disk.states, disk.cut_at = disk.states, None, cut_at
        if states is not None:
            self._cut_elsewhere(states, self._writing or self.safe)
        if self._unflushed:  # all of the log was written back
            self.safe = self._unflushed[-1]
            self._unflushed.clear()
        self._may_have_lost = False
        self._backoff.succeeded()
        return True

    def _stop(self) -> None:
        """SIGTERM: the clients go, everything is written, the file is closed."""
        self.note("stop")
        self._counts["stops"] += 1
        for connection in list(self.connections.values()):
            self._lose(connection)
        try:
            self._make_room()
            while self._batch is not None or self.journal.has_pending:
                if self._batch is None:
                    self._take()
                if self._batch is not None:
                    if not self._written:
                        self._write()
                    if self._ended:
                        return
                    if not self._written:
                        self._fail()  # what was not confirmed may be gone
                        return
                    self._commit()
            self.model.check_quiet()
            newest = self._unflushed[-1] if self._unflushed else self.safe
            require(same_contents(newest, self.model.durable_state()), "not all was written")
            if self.chance.random() < 0.3:
                self.disk.cut_at = self.disk.calls + self.chance.randint(0, 20)
            assert self.owner is not None
            was_ill = self.owner.failed or self.disk.is_ill
            self.owner.close()
            self.owner = None
            self.disk.cut_at = None
            self._ended = True
            if self.durability == "full" or not was_ill:
                self.safe = newest
                self._unflushed.clear()
            else:
                self._may_have_lost = True  # the log may be there still
        except PowerCut:
            self._counts["power_cuts"] += 1
            self._after_cut()

    # -- alarms, and flow control

    def _set_alarm(self, alarm: Alarm, raised: bool) -> None:
        if not self.broker.set_alarm(alarm, raised):
            return
        self.note(f"alarms: {[active.value for active in self.broker.alarms.active]}")
        self.model.set_alarms([active.value for active in self.broker.alarms.active])
        self.turn()
        for connection in list(self.connections.values()):
            self.go_on(connection)

    def _alarm_disk(self) -> None:
        """As the server does when a batch cannot be written. In a turn of its own: what led to this
        one is not over."""
        self._schedule(0, partial(self._set_alarm, Alarm.DISK, True))

    def _clear_disk(self) -> None:
        """As the watch over the disk does, sooner or later after a batch was written."""
        if Alarm.DISK in self.broker.alarms.active:
            at = self.chance.random() * 5
            self._schedule(at, partial(self._set_alarm, Alarm.DISK, False))

    def go_on(self, connection: SimulatedConnection) -> None:
        """It may be read from again, if it is neither blocked nor held."""
        peer = connection.peer
        if connection.paused and not (peer.blocked or peer.held):
            connection.paused = False
            self._schedule(0, lambda: self._arrive(connection))

    def _check_held(self) -> None:
        """Those who have to wait for consumers wait for consumers, and not for long."""
        for connection in self.connections.values():
            if not connection.peer.held:
                continue
            busy = any(queue.consumers and queue.ready for queue in self.model.queues.values())
            require(busy, "a publisher is held, and no consumer has anything to take")
            if self._flow_wait_s > QUICK_S:
                waits_s = self.now - connection.peer.held_at
                timely = waits_s <= self._flow_wait_s + 0.001
                require(timely, "a publisher waits for slow consumers", connection.number, waits_s)

    # -- policies

    def _change_policy(self) -> None:
        """Somebody sets a policy, another one, or none."""
        if self.model.policy is not None and self.chance.random() < 0.4:
            policy = None
            clear_policy(self.broker, "/", POLICY)
        else:
            policy = self.chance.choice(POLICIES)
            pattern = f"^({'|'.join(GOVERNED)})$"
            set_policy(self.broker, "/", POLICY, pattern=pattern, definition=policy)
        self.note(f"policy {policy}")
        self.model.set_policy(policy)
        self.turn()

    # -- the journal

    def append(self, entries: list[Entry]) -> None:
        """Behind all earlier ones; the batch follows."""
        self.journal.append_all(entries)
        if self._batch is None and not self._take_scheduled:
            self._take_scheduled = True
            self._schedule(self.chance.random() * self._commit_s / 4, self._take)

    def _take(self) -> None:
        self._take_scheduled = False
        if self._batch is not None:
            return
        batch = self.journal.take()
        if batch is None:
            return
        self._batch = batch, self.model.durable_state()
        self._written = False
        self._schedule(self.chance.random() * self._commit_s, self._write_scheduled(batch))

    def _write_scheduled(self, batch: Batch) -> Callable[[], None]:
        def write() -> None:
            if self._batch is not None and self._batch[0] is batch and not self._written:
                self._write()

        return write

    def _write(self) -> None:
        assert self._batch is not None
        batch, state = self._batch
        self._counts["batches"] += 1
        if self._cut_in_batch is not None:
            self._cut_in_batch -= 1
            if self._cut_in_batch <= 0:
                self.disk.cut_at = self.disk.calls + self._cut_calls
        self._writing = state
        owner = self.owner
        assert owner is not None
        drawn = self.chance.random()
        if owner.failed:
            if not self._recover():
                if not self._ended:
                    self._schedule(self._backoff.pause_s(), self._write_scheduled(batch))
                return
        elif drawn < self._disk_errors:
            self._fall_ill()
        elif drawn < self._disk_errors + DISK_FULL and not self.disk.full:
            self.disk.full = True
            self._counts["disk_errors"] += 1
            self._schedule(self.chance.random() * 5, self._make_room)
        if self._tries_elsewhere():
            self.disk.states = []
        try:
            owner.write(batch)
        except JournalFailed as error:
            # As the journal's writer does: the same batch again.
            self.disk.states = None
            self.note(f"not written: {error}")
            require(error.passing, "not written", error)
            self._alarm_disk()
            pause_s = RETRY_S
            if error.disk_full:
                self._writing = None
            else:
                self._notice_failure(error)
                pause_s = self._backoff.pause_s()
            self._schedule(pause_s, self._write_scheduled(batch))
            return
        except PowerCut:
            self.disk.states = None
            self.note("power cut while writing")
            self._counts["power_cuts"] += 1
            self._after_cut()
            return
        self.note(f"written: {len(batch.entries)} entries")
        self._written = True
        self._clear_disk()
        states, self.disk.states = self.disk.states, None
        if states is not None:
            self._cut_elsewhere(states, state)
        if self.durability == "full":
            self.safe = state
        else:
            self._unflushed.append(state)
        self._writing = None
        delay_s = self.chance.random() * self._commit_s
        self._schedule(delay_s, lambda: self._commit_scheduled(batch))

    def _tries_elsewhere(self) -> bool:
        return (
            self.durability == "full"
            and not (self.disk.full or self.disk.is_ill or self.disk.cut_at)
            and self._elsewhere.random() < self.bug.elsewhere
        )

    def _cut_elsewhere(self, states: list[Disk], after: State) -> None:
        """Many worlds for the price of one: what if the power had gone during this write?

        Each time the store is opened on a disk of its own, and has to hold what it held before the
        batch or after it, with everything that was promised. This world goes on as if nothing was.
        """
        chance = self._elsewhere
        for disk in chance.sample(states, min(len(states), ELSEWHERE_MAX)):
            self._counts["power_cuts"] += 1
            disk.cut(chance)
            disk.restart()
            with store_on(disk) as path:
                connection: Any = sqlite_file.open_connection(path, "full")
                sqlite_reading.forget_passing(connection)
                found = found_on(connection)
                connection.close()
            self.model.check_promises(found)
            if not (found.is_that_of(self.safe) or found.is_that_of(after)):
                raise Violation(
                    "after a power cut elsewhere the store is not what any batch left: "
                    + "; or: ".join(difference(found, state) for state in (self.safe, after))
                )

    def _make_room(self) -> None:
        self.disk.full = False

    def _commit_scheduled(self, batch: Batch) -> None:
        if self._batch is not None and self._batch[0] is batch:
            self._commit()

    def _commit(self) -> None:
        assert self._batch is not None
        assert self._written
        batch, _ = self._batch
        self._batch = None
        self.journal.committed(batch)
        self.broker.committed(batch.enqueues, batch.barriers, batch.delays)
        self.turn()
        if self.journal.has_pending:
            self._take()
        elif self.chance.random() < TIDIES:
            self._schedule(self.chance.random() * self._commit_s, self._tidy)

    def _tidy(self) -> None:
        """As the journal's writer does when there is nothing to write."""
        if self._batch is not None:
            return
        assert self.owner is not None
        if self.owner.failed and not self._recover():
            if not self._ended:
                self._schedule(self._backoff.pause_s(), self._tidy)
            return
        try:
            self.note(f"tidied: {self.owner.tidy()}")
        except JournalFailed as error:
            self.note(f"not tidied: {error}")
            require(error.passing, "not tidied", error)
            self._alarm_disk()
            if not error.disk_full:
                self._notice_failure(error)
                self._schedule(self._backoff.pause_s(), self._tidy)
        except PowerCut:
            self.note("power cut while tidying")
            self._counts["power_cuts"] += 1
            self._after_cut()

    def _notice_failure(self, error: JournalFailed) -> None:
        """The disk failed under the broker."""
        require(
            bool(self.disk.failing) or self.disk.blind, "it failed on a disk that is well", error
        )
        self._counts["disk_errors"] += 1
        self._may_have_lost = True

    # -- time

    def _tell_time(self) -> None:
        """To the broker and the model."""
        self.broker.now = self.model.now = self.now
        self.model.now_ms = self.broker.effects.epoch_ms()

    def _watch_timers(self) -> None:
        """See to it that the broker is asked when the first of its timers is due."""
        at = self.broker.timers.next_deadline()
        if at is not None and at < self._asked_at:
            self._asked_at = at
            self._schedule(at - self.now, self._ask_timers, at)

    def _ask_timers(self) -> None:
        self._asked_at = math.inf
        self._tell_time()
        self.broker.timers.advance(self.now)
        self.turn()

    # -- turns

    def _hear_passages(self) -> None:
        passages, self._passages = self._passages, []
        for passage in passages:
            passage()
        queues = self.broker.virtual_hosts["/"].queues
        for name in EXPIRING:
            if name in self.model.queues and name not in queues:
                self.note(f"+ {name} expired")
                self.model.queue_expired(name)

    def _record_death(
        self, virtual_host: VirtualHost, queue: Queue, stored: QueueMessage, reason: str
    ) -> None:
        """In place of the broker's `dead_letter`: tell of it, and do it."""
        death = (queue.name, uid_of(stored.content.keep()), reason, stored.position == 0)
        self.note(f"+ {death}")
        with self._noting_duplicates() as superfluous:
            self._passages.append(partial(self.model.died, *death, superfluous))
            self.bug.bury(virtual_host, queue, stored, reason)

    def _record_sure_death(
        self,
        virtual_host: VirtualHost,
        queue: Queue,
        stored: QueueMessage,
        reason: str,
        *,
        surely: bool,
    ) -> bool:
        """The same where the dead letter has to find a place, or stays."""
        death = (queue.name, uid_of(stored.content.keep()), reason)
        place = len(self._passages)
        self._passages.append(partial(self.model.stayed, *death))
        with self._noting_duplicates() as superfluous:
            buried = self.bug.bury_surely(virtual_host, queue, stored, reason)
        self.note(f"+ {death} {'' if buried else 'stays'}")
        if buried:
            self._passages[place] = partial(self.model.died, *death, False, superfluous)
        return buried

    @contextlib.contextmanager
    def _noting_duplicates(self) -> Iterator[set[str]]:
        """Names of the queues that say meanwhile that they have such a message already."""
        outer, self._superfluous = self._superfluous, set()
        yield self._superfluous
        self._superfluous = outer

    def _record_duplicates(self) -> Callable[[Queue, Message], bool]:
        """In place of a queue's own: tell of it, and ask it."""
        has_duplicate = Queue.has_duplicate

        def record(queue: Queue, message: Message) -> bool:
            found = has_duplicate(queue, message)
            if found:
                self._superfluous.add(queue.name)
            return found

        return record

    def _record_release(self) -> Callable[[DelayedMessages, DelayedMessage], None]:
        """In place of a waiting room's own: tell of it, and do it."""
        release = DelayedMessages._release

        def record(room: DelayedMessages, delayed: DelayedMessage) -> None:
            uid = uid_of(delayed.content.keep())
            self.note(f"+ {uid} has waited")
            self._passages.append(partial(self.model.released, uid))
            release(room, delayed)

        return record

    def _record_retries(self) -> Callable[[Returns], Iterator[QueueMessage]]:
        """In place of what tells which messages have waited long enough: tell it on."""
        due = Returns.due

        def record(returns: Returns) -> Iterator[QueueMessage]:
            for stored in due(returns):
                retry = returns._queue.name, uid_of(stored.content.keep())
                self.note(f"+ {retry} has waited")
                self._passages.append(partial(self.model.retried, *retry))
                yield stored

        return record

    def turn(self) -> None:
        """What one event led to ends here."""
        self._counts["turns"] += 1
        self._hear_passages()
        while True:
            entries = self.broker.finish_turn()
            if entries:
                self.bug.append(self, entries)
            self._take_page_requests()
            self._take_delay_reads()
            due = self.broker.timers.next_deadline()
            if due is not None and due <= self.now:
                # A turn of its own, as soon as this one is done.
                self.broker.timers.advance(self.now)
                self._hear_passages()
                continue
            if not self.speaking:
                break
            speaking = self.speaking[:]
            self.speaking.clear()
            for protocol_connection in speaking:
                connection = self.connections.get(protocol_connection)
                if connection is not None:
                    self._take_output(connection)
        self._hear_passages()
        self._watch_timers()
        for connection in self.connections.values():
            self._read_ledgers(connection)
        self.model.see_returns(self._returns_of)
        reading = {request.queue.name for request in self._reading}
        for queue in self.broker.virtual_hosts["/"].queues.values():
            if queue._resume_at:
                reading.add(queue.name)  # nor has anybody the head while much of it expires
        if self._delay_reads:
            reading.add(DELAYED)
        self.model.end_turn(self._is_congested, reading)
        self._check_counts()
        self._check_held()
        if not self.journal.has_pending and self._batch is None and not reading:
            self.model.check_quiet()

    def _take_page_requests(self) -> None:
        for request in self.broker.take_page_requests():
            self._reading.append(request)
            delay_s = self.chance.random() * self._commit_s
            self._schedule(delay_s, partial(self._read_scheduled, request))

    def _take_delay_reads(self) -> None:
        reads = self.broker.effects.delay_reads
        for read in reads:
            self._delay_reads.append(read)
            delay_s = self.chance.random() * self._commit_s
            self._schedule(delay_s, partial(self._read_delays, read))
        reads.clear()

    def _read_delays(self, read: DelayRead) -> None:
        found = self._try_to_read(
            partial(
                sqlite_delays.read_delays,
                exchange_id=read.exchange_id,
                after=read.after,
                rows_max=read.rows_max,
            )
        )
        if found is None:
            self._schedule(RETRY_S, partial(self._read_delays, read))
            return
        rows, at_end = found
        self._delay_reads.remove(read)
        self.note(f"read: {len(rows)} that wait")
        read.room.fill(restored_delays(read.room, rows), at_end=at_end)
        self.turn()

    def _read_scheduled(self, request: PageRequest) -> None:
        if any(request is asked for asked in self._reading):
            if self._read(request):
                self.turn()
            else:
                self._schedule(RETRY_S, partial(self._read_scheduled, request))

    def _read_for(self, peer: Peer) -> None:
        """A command of this peer waits for a page, or until all that has expired is dropped. The
        model knows it, and all that follows, as received: so that comes at once, and the disk is
        well."""
        while peer.waiting:
            self.model.postponed = True
            self._take_page_requests()
            self.disk.heal()
            assert self.owner is not None
            if self.owner.failed and not self._recover(calmly=True):
                return  # the broker has ended
            if self._reading:
                require(self._read(self._reading[0]), "it cannot be read")
            else:
                for timed in self.broker.effects.timed_queues:
                    self.broker.timers.watch(timed)
                self.now += BREATH_S
                self._tell_time()
                self.broker.timers.advance(self.now)
                self._hear_passages()
            if peer.may_go_on:
                peer.go_on(self.now)

    def _read(self, request: PageRequest) -> bool:
        """What a queue asked for comes from the disk; whether it can be read."""
        found = self._try_to_read(
            lambda connection: [
                sqlite_reading.read_messages(connection, after, last, request.rows_max)
                for after, last in request.ranges
            ]
        )
        if found is None:
            return False
        self._reading.remove(request)
        self._counts["pages"] += 1
        self.note(f"read: {sum(map(len, found))} messages of {request.queue.name}")
        request.queue.page_in(request, found)
        return True

    def _try_to_read(self, function: Callable[[Any], T]) -> T | None:
        """None while the disk lets nothing be read, or the store is closed because it failed."""
        assert self.owner is not None
        if self.owner.failed:
            return None
        try:
            return function(self.owner.raw)
        except sqlite3.OperationalError as error:
            self.note(f"not read: {error}")
            require(self.disk.blind, "it cannot be read", error)
            return None

    def _take_output(self, connection: SimulatedConnection) -> None:
        data = connection.peer.connection.take_output(self.now)
        if not data:
            return
        self.digest = crc32(data, self.digest)
        heard = connection.hear(data)
        for number, said in heard:
            self.note(f"<- {connection.number}.{number} {shown(said)}")
            self.model.hear(connection.model, number, said)
        delay_s = connection.latency_s * (0.5 + self.chance.random())
        if self.chance.random() < 0.01:
            delay_s += self._pace_s * 10  # does not read for a while
        at = connection.arrival_out = max(connection.arrival_out, self.now + delay_s)

        def arrive() -> None:
            if connection.peer.connection not in self.connections:
                return
            connection.peer.sent(len(data))
            self.turn()
            if connection.alive:
                for number, said in heard:
                    for on, action in connection.client.hear(number, said):
                        self._send(connection, on, action)

        self._schedule(at - self.now, arrive)

    def _read_ledgers(self, connection: SimulatedConnection) -> None:
        session = connection.peer.session
        if session is None:
            return
        for number, channel in connection.model.channels.items():
            real = session.channels.get(number)
            if real is None or channel.ended or real.delivery_tag == channel.last_tag:
                continue
            for tag in range(channel.last_tag + 1, real.delivery_tag + 1):
                require(tag in real.unacked, "given, but not in the ledger", number, tag)
                stored, queue, consumer = real.unacked[tag]
                consumer_tag = None if consumer is None else consumer.tag
                body = stored.content.keep()
                returned = counts_of(stored)
                self.model.given_early(channel, tag, queue.name, body, consumer_tag, returned)

    def _returns_of(self, channel: ModelChannel, tag: int) -> ReturnCount:
        """What the broker knows of the returns of a message that a client has."""
        for connection in self.connections.values():
            if connection.model is channel.connection:
                assert connection.peer.session is not None
                stored, _, _ = connection.peer.session.channels[channel.number].unacked[tag]
                return counts_of(stored)
        raise AssertionError("a delivery to nobody")

    def _is_congested(self, model: ModelConnection) -> bool:
        for connection in self.connections.values():
            if connection.model is model:
                protocol = connection.peer.connection
                return protocol.unsent_bytes > protocol.unsent_bytes_max
        return True

    def _check_counts(self) -> None:
        queues = self.broker.virtual_hosts["/"].queues
        expected = self.model.queues
        require(queues.keys() == expected.keys(), "other queues", list(queues), list(expected))
        for name, queue in expected.items():
            real = queues[name]
            require(
                real.unacked == queue.unacked
                and 0 <= real.ready - len(queue.ready) <= len(queue.unburied) + len(queue.retrying),
                "the counts do not add up",
                name,
                (real.ready, real.unacked),
                (len(queue.ready), queue.unacked),
            )

    # -- the network

    def _connect(self) -> None:
        self._clients += 1
        chance = self.chance
        modes = PROFILES[0] if len(self.connections) == 0 else chance.choice(PROFILES)
        client = Client(chance, self._clients, list(modes), self.compat, self._theme)
        heartbeat_s = HEARTBEAT_S if chance.random() < 0.2 else 0
        connection = SimulatedConnection(self, self._clients, client, heartbeat_s)
        self.connections[connection.peer.connection] = connection
        self.model.connections.append(connection.model)
        for said in HANDSHAKES[heartbeat_s]:
            connection.peer.receive(said, self.now)
            connection.peer.sent(len(connection.peer.connection.take_output(self.now)))
            self.speaking.clear()
        assert connection.peer.session is not None
        for number, action in client.begin():
            self._send(connection, number, action)
        self._think_later(connection)
        if heartbeat_s:
            self._schedule(heartbeat_s / 2, lambda: self._beat(connection))
            self._schedule(heartbeat_s / 2, lambda: self._ask(connection))

    def _think_later(self, connection: SimulatedConnection) -> None:
        self._schedule(self.chance.expovariate(1 / self._pace_s), lambda: self._think(connection))

    def _think(self, connection: SimulatedConnection) -> None:
        if not connection.alive:
            return
        drawn = self.chance.random()
        if drawn < 0.006:
            self._leave(connection, drawn < 0.002)
            return
        for number, action in connection.client.think(self._uid + 1):
            if isinstance(action, Publish):
                self._uid = max(self._uid, action.uid)
            self._send(connection, number, action)
        self._think_later(connection)

    def _leave(self, connection: SimulatedConnection, silently: bool) -> None:
        """The client is cut off: the broker hears of it at once, late, or never."""
        connection.alive = False
        chance = self.chance
        # What was sent may have arrived in part.
        received = chance.random()
        if received < 0.5:
            connection.stream.clear()
            connection.partial = 0
        if not silently or not connection.heartbeat_s:
            self._schedule(chance.random() * self._pace_s * 3, lambda: self._lose(connection))
        self._schedule(chance.random() * self._pace_s, self._connect)

    def _lose(self, connection: SimulatedConnection) -> None:
        """The broker learns that the socket is gone."""
        connection.alive = False
        if self.connections.pop(connection.peer.connection, None) is None:
            return
        self.note(f"-- {connection.number} is lost")
        self.model.end_connection(connection.model)
        if not connection.peer.closed:
            connection.peer.lost("cut by the simulator")
        self.turn()

    def _beat(self, connection: SimulatedConnection) -> None:
        if connection.alive:
            self._send(connection, 0, Beat())
            self._schedule(connection.heartbeat_s / 2, lambda: self._beat(connection))

    def _ask(self, connection: SimulatedConnection) -> None:
        """The broker's timers."""
        peer = connection.peer
        if peer.connection not in self.connections:
            return
        deadline = peer.deadline()
        if deadline is None:
            return
        if deadline <= self.now:
            peer.handle_timer(self.now)
            if peer.closed:
                require(not connection.alive, "a client that sends heartbeats was dropped")
                self._lose(connection)
                return
            self.turn()
            deadline = peer.deadline() or self.now + 1
        self._schedule(max(0.0, deadline - self.now), lambda: self._ask(connection))

    def _send(self, connection: SimulatedConnection, number: int, action: Action) -> None:
        if not connection.alive:
            return
        connection.stream.append((number, action, encode(number, action)))
        delay_s = connection.latency_s * (0.5 + self.chance.random())
        self._schedule(delay_s, lambda: self._arrive(connection))

    def _arrive(self, connection: SimulatedConnection) -> None:
        """Some of what was sent is received: a chunk, which is a turn."""
        stream = connection.stream
        if not stream or connection.peer.connection not in self.connections:
            return
        if connection.peer.held or connection.peer.blocked:
            connection.paused = True
            return
        chance = self.chance
        room = 1 << 30 if chance.random() < 0.6 else chance.randint(1, 300)
        if len(stream) > 1 and chance.random() < 0.5:
            room = len(stream[0][2]) - connection.partial
        chunk: list[bytes] = []
        applied = 0
        publishes = False
        while stream and room > 0:
            number, action, data = stream[0]
            rest = data[connection.partial :]
            if room < len(rest):
                chunk.append(rest[:room])
                connection.partial += room
                if isinstance(action, Publish):
                    publishes |= connection.partial >= 8 + unpack_from(">I", data, 3)[0]
                break
            alone = self.model.is_alone(connection.model, number, action)
            if applied and (alone or (publishes and isinstance(action, Get))):
                break  # a publisher may be held before a get that has to wait for a page
            del stream[0]
            connection.partial = 0
            chunk.append(rest)
            room -= len(rest)
            self.note(f"-> {connection.number}.{number} {shown(action)}")
            self.model.apply(connection.model, number, action)
            publishes |= isinstance(action, Publish)
            applied += 1
            if alone:
                break
        if stream:
            self._schedule(connection.latency_s, lambda: self._arrive(connection))
        octets = b"".join(chunk)
        self.digest = crc32(octets, self.digest)
        peer = connection.peer
        if octets and not peer.closed:
            self.model.received(connection.model, publishes=publishes)
            peer.receive(octets, self.now)
            self._read_for(peer)
            if self._ended:
                return
            self.turn()
            if peer.closed or peer.session is None:
                require(connection.model.ended, "the broker closed the connection")
                connection.alive = False
                require(not connection.model.close_ok_due, "no connection.close-ok")
                self.connections.pop(peer.connection)
                self._schedule(chance.random() * self._pace_s, self._connect)


def counts_of(stored: QueueMessage) -> ReturnCount:
    """What the broker knows of a message's returns."""
    known = stored.returned
    return ReturnCount() if known is None else ReturnCount(known.acquired, known.failed)


def same_contents(one: State, other: State) -> bool:
    """Equal but for what is known about deliveries."""
    return one[1:] == other[1:] and {
        name: [kept.uid for kept in messages] for name, messages in one.queues.items()
    } == {name: [kept.uid for kept in messages] for name, messages in other.queues.items()}


def shown(value: object) -> str:
    """Short enough for a trace."""
    if isinstance(value, Frame):
        value = value.name, {slot: getattr(value, slot, None) for slot in value.__slots__}
    text = repr(value)
    return text if len(text) < 160 else text[:150] + "..."


def difference(found: Found, state: State) -> str:
    """Where the store and a state of the model differ."""
    if found.queues.keys() != state.queues.keys():
        return f"queues {sorted(found.queues)} instead of {sorted(state.queues)}"
    if found.exchanges != state.exchanges:
        return f"exchanges {sorted(found.exchanges)} instead of {sorted(state.exchanges)}"
    if found.policy != state.policy:
        return f"policy {found.policy} instead of {state.policy}"
    if found.seen != tuple(map(shown_header, state.seen)):
        return f"{found.seen} have passed instead of {state.seen}"
    if found.waiting != (waits := tuple((what.uid, due_ms) for what, due_ms in state.waiting)):
        return f"{found.waiting} wait instead of {waits}"
    if found.bindings != state.bindings:
        return f"bindings differ in {sorted(found.bindings ^ state.bindings)}"
    for name, messages in found.queues.items():
        kept = state.queues[name]
        has = [uid for uid, *_ in messages]
        expected = [message.uid for message in kept]
        if has != expected:
            return f"queue {name} has {has} instead of {expected}"
        pairs = zip(messages, kept, strict=True)
        wrong = [pair for pair in pairs if not pair[0].is_that_of(pair[1])]
        if wrong:
            return f"queue {name} is wrong about {wrong}"
    return "nothing"


__all__ = ["Bug", "Figures", "World"]
