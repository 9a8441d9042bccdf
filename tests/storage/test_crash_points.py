"""The power goes at each write and each sync of each kind of transaction: all of it, or nothing.

On the simulator's disk (tests/simulation/disk.py), which loses, tears and reorders what was not
synced. Each call that a transaction makes is a crash point; at each, several outcomes are drawn.
After each, the store is opened by the code that a broker would open it with.

The disk's SQLite is apsw's. What it left behind is also read back by the SQLite of this Python, and
the two are held to write the same log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from struct import unpack_from
from typing import Any, Final, NamedTuple

import pytest

from amqpd_storage import changes, sqlite_file, sqlite_writing
from amqpd_storage.entries import (
    PASSING_QUEUE_ID_MIN,
    POSITION_BITS,
    Backlog,
    Content,
    Delay,
    Delivered,
    DropDefinition,
    DropDefinitions,
    DropDelays,
    DropQueue,
    DropRange,
    Enqueue,
    Entry,
    PutDefinition,
    Release,
    Settle,
    StoredDelays,
    storage_key,
)
from amqpd_storage.sqlite_delays import read_delay_counts, read_delays
from amqpd_storage.sqlite_reading import (
    forget_passing,
    read_definitions,
    read_delivered,
)
from amqpd_storage.sqlite_tidying import tidy
from tests.simulation.disk import Disk, PowerCut
from tests.simulation.sqlite_on_disk import store_on
from tests.storage.contents import all_messages, backlogs, commit, enqueue, make_content

OUTCOMES: Final = (0.0, 1.0, 0.5, 0.1, 0.9, 0.5)
"""How much of the unsynced sectors survives, for each try at a crash point."""
READ_BY_BOTH: Final = 3
"""How many of these are read back by the SQLite of this Python as well."""


class State(NamedTuple):
    """Everything a store holds."""

    messages: dict[int, bytes]
    delivered: dict[int, int]
    definitions: dict[tuple[str, str], bytes]
    backlogs: dict[int, Backlog]
    shared: set[int]
    delays: dict[int, tuple[int, int, bytes]]
    delay_counts: StoredDelays


NO_DELAYS: Final = StoredDelays({}, 0, 0)
EMPTY: Final = State({}, {}, {}, {}, set(), {}, NO_DELAYS)


def state_of(connection: Any) -> State:
    return State(
        {message.key: message.body for message in all_messages(connection)},
        read_delivered(connection),
        {(kind, key): value for kind, key, value in read_definitions(connection)},
        backlogs(connection),
        {message_id for (message_id,) in connection.execute("SELECT message_id FROM message")},
        delays(connection),
        read_delay_counts(connection),
    )


def key(queue_id: int, position: int) -> int:
    return storage_key(queue_id, position)


def shared(message_id: int, *places: tuple[int, int]) -> list[Entry]:
    content = make_content(b"shared %d " % message_id * 40, message_id=message_id)
    return [enqueue(queue_id, position, content) for queue_id, position in places]


def contents() -> list[Entry]:
    """What is in the store before."""
    entries: list[Entry] = [enqueue(1, n, b"first %d " % n * (n * 7)) for n in range(1, 31)]
    entries += [enqueue(2, n, b"second %d" % n) for n in range(1, 6)]
    entries += shared(1, (1, 31), (2, 6), (3, 1))
    entries += shared(2, (2, 7), (3, 2))
    entries += [delay(n, 5_000 - n % 5, b"waiting %d " % n * n) for n in range(1, 20)]
    entries += [Delivered(1, 4), Delivered(2, 2)]
    entries += [PutDefinition("queue", name, b"old " + name.encode()) for name in "abc"]
    return entries


def delay(sequence: int, due_ms: int, body: bytes, exchange_id: int = 1) -> Delay[Content]:
    return Delay(exchange_id, due_ms, sequence, make_content(body))


def settle(queue_id: int, position: int) -> Settle:
    """The end of a message that was there before."""
    for entry in contents():
        if isinstance(entry, Enqueue) and entry.key == key(queue_id, position):
            return Settle(entry.key, len(entry.content.body), entry.content.message_id)
    raise LookupError


PURGED: Final = [settle(1, n) for n in range(1, 32)]

TRANSACTIONS: Final[dict[str, Callable[[], list[Entry]]]] = {
    "enqueue": lambda: [enqueue(1, 40, b"new")],
    "enqueue something large": lambda: [enqueue(1, 40, b"new" * 20_000)],
    "enqueue many": lambda: [enqueue(1 + n % 3, 40 + n, b"new %d " % n * 60) for n in range(80)],
    "enqueue shared": lambda: shared(9, (1, 40), (2, 40), (3, 40)),
    "settle": lambda: [settle(1, 1), settle(1, 3)],
    "settle shared": lambda: [settle(2, 7), settle(3, 2)],
    "delivered": lambda: [Delivered(1, 40)],
    "purge": lambda: [*PURGED],
    "purge and go on": lambda: [*PURGED, *(enqueue(1, n, b"again") for n in range(32, 50))],
    "purge from the disk": lambda: [
        DropRange(key(1, 20), key(1, 31), 12, sum(settle(1, n).body_bytes for n in range(20, 32)))
    ],
    "drop a long queue": lambda: [DropQueue(2, is_long=True), DropDefinition("queue", "b")],
    "drop a queue": lambda: [DropQueue(2), DropDefinition("queue", "b")],
    "drop a queue, use its id": lambda: [
        DropQueue(2),
        DropDefinition("queue", "b"),
        PutDefinition("queue", "d", b"2"),
        enqueue(2, 1, b"another queue's"),
    ],
    "definitions": lambda: [
        PutDefinition("queue", "a", b"new"),
        PutDefinition("exchange", "x", b"new" * 100),
        DropDefinition("queue", "c"),
    ],
    "drop many definitions": lambda: [
        DropDefinitions("queue", "a"),
        PutDefinition("queue", "a", b"anew"),
        DropDefinitions("binding", "a"),
    ],
    "delay": lambda: [delay(40, 1, b"first"), delay(41, 9_000, b"last", 2)],
    "delay many": lambda: [delay(40 + n, n * 7919 % 100, b"%d" % n * 200) for n in range(80)],
    "release": lambda: [Release(1, 5), enqueue(1, 40, b"waiting 5")],
    "release all": lambda: [
        *(Release(1, n) for n in range(1, 20)),
        *(enqueue(1, 40 + n, b"waiting %d" % n) for n in range(1, 20)),
    ],
    "drop a delayed exchange": lambda: [DropDelays(1), DropDefinition("queue", "b")],
    "tx.commit": lambda: [
        enqueue(1, 40, b"published"),
        *shared(9, (2, 40), (3, 40)),
        settle(2, 1),
        settle(1, 2),
        Delivered(3, 2),
    ],
}


@pytest.fixture(scope="module")
def before() -> Disk:
    """A store with contents, closed cleanly."""
    disk = Disk()
    with store_on(disk) as path:
        connection = sqlite_file.open_connection(path, "full")
        commit(connection, *contents())
        connection.close()
    return disk


def expected_after(transaction: Callable[[], list[Entry]]) -> State:
    """What the SQLite of this Python makes of it, without a crash."""
    connection = sqlite_file.open_in_memory()
    commit(connection, *contents())
    if transaction():
        commit(connection, *transaction())
    state = state_of(connection)
    connection.close()
    return state


def delays(connection: Any) -> dict[int, tuple[int, int, bytes]]:
    """Exchange, due time and body of each message that waits."""
    found = {}
    counts = read_delay_counts(connection)
    for exchange_id, count in counts.messages.items():
        rows, at_end = read_delays(connection, exchange_id, (-1, -1), 1000)
        assert at_end
        assert len(rows) == count
        for row in rows:
            found[row.sequence] = (exchange_id, row.due_ms, row.body)
    return found


def reopened(disk: Disk) -> State:
    """What a new owner finds."""
    with store_on(disk) as path:
        connection = sqlite_file.open_connection(path, "full")
        try:
            return state_of(connection)
        finally:
            connection.close()


def reopened_by_this_python(disk: Disk, directory: Path) -> State:
    """What a new owner finds whose SQLite is that of this Python."""
    directory.mkdir()
    for name, file in disk.names.items():
        (directory / name).write_bytes(file.volatile)
    connection = sqlite_file.open_connection(directory / sqlite_file.FILE_NAME, "full")
    try:
        return state_of(connection)
    finally:
        connection.close()


class Crashes:
    """Runs something on copies of a disk, with the power going at each of its calls in turn."""

    def __init__(self, disk: Disk, work: Callable[[Any], None], checkpoint_pages: int) -> None:
        self._disk = disk
        self._work = work
        self._checkpoint_pages = checkpoint_pages
        self.points = 0

    def __iter__(self) -> Iterator[tuple[Disk, bool]]:
        """Each disk after its power cut, and whether the work was done before."""
        point = 0
        done = False
        while not done:
            for seed, keep in enumerate(OUTCOMES):
                disk = self._disk.copy()
                done = self._run(disk, point)
                disk.cut(Random(point * 1000 + seed), keep)
                disk.restart()
                yield disk, done
            point += 1
        self.points = point

    def _run(self, disk: Disk, point: int) -> bool:
        with store_on(disk) as path:
            connection = sqlite_file.open_connection(path, "full")
            connection.execute(f"PRAGMA wal_autocheckpoint = {self._checkpoint_pages}")
            disk.cut_at = disk.calls + point
            done = True
            try:
                self._work(connection)
            except PowerCut:
                done = False
            disk.powered = False
            with suppress(PowerCut):
                connection.close()
        return done


@pytest.mark.parametrize("checkpoint_pages", [2048, 1])
@pytest.mark.parametrize("name", TRANSACTIONS)
def test_a_batch_is_written_whole_or_not_at_all(
    before: Disk, name: str, checkpoint_pages: int, tmp_path: Path
) -> None:
    """And whole, once it was reported. With `checkpoint_pages` 1, a checkpoint ends each commit."""
    transaction = TRANSACTIONS[name]
    old, new = expected_after(list), expected_after(transaction)
    assert old != new
    crashes = Crashes(before, lambda store: commit(store, *transaction()), checkpoint_pages)
    seen = set()
    for index, (disk, done) in enumerate(crashes):
        read_back = disk.copy()
        state = reopened(disk)
        assert state in (old, new)
        assert not done or state == new
        seen.add(state == new)
        if index % len(OUTCOMES) < READ_BY_BOTH:
            assert reopened_by_this_python(read_back, tmp_path / str(index)) == state
    assert seen == {False, True}
    assert crashes.points >= 4  # two writes a page, one sync, and the one after everything


def test_a_batch_in_several_statements(before: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writing, "DATA_BYTES_MAX", 500)
    transaction = TRANSACTIONS["enqueue many"]
    old, new = expected_after(list), expected_after(transaction)
    for disk, done in Crashes(before, lambda store: commit(store, *transaction()), 2048):
        state = reopened(disk)
        assert state == new if done else state in (old, new)


def test_large_records_are_written_whole_or_not_at_all(
    before: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros first, then the bytes over them: nobody ever finds the zeros."""
    for module in (changes, sqlite_writing):
        monkeypatch.setattr(module, "LARGE_BYTES", 20_000)
    body = bytes(range(1, 256)) * 100

    def first() -> list[Entry]:
        content = make_content(body[::-1], message_id=9)
        return [
            enqueue(1, 40, body),
            enqueue(1, 41, b"small"),
            enqueue(2, 40, content),
            enqueue(3, 40, content),
            delay(40, 1, body + b"delayed"),
            settle(1, 1),
        ]

    def second() -> list[Entry]:
        return [Settle(key(1, 40), len(body)), enqueue(1, 40, b"again" + body), settle(1, 2)]

    def both() -> list[Entry]:
        return first() + second()

    states = [expected_after(list), expected_after(first), expected_after(both)]
    assert states[1].messages[key(1, 40)] == body

    def work(store: Any) -> None:
        commit(store, *first())
        commit(store, *second())

    seen = set()
    for disk, done in Crashes(before, work, 2048):
        state = reopened(disk)
        assert state in states
        assert not done or state == states[2]
        seen.add(states.index(state))
    assert seen == {0, 1, 2}


def test_a_checkpoint_changes_nothing(before: Disk) -> None:
    def work(store: Any) -> None:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    disk = Disk()
    transaction = TRANSACTIONS["purge and go on"]
    new = expected_after(transaction)
    with store_on(disk) as path:
        connection = sqlite_file.open_connection(path, "full")
        commit(connection, *contents())
        commit(connection, *transaction())
        disk.powered = False
        with pytest.raises(PowerCut):
            connection.close()
        disk.restart()
    # Opening it is a recovery, and the checkpoint of what it recovered: test_recovery has that.
    for crashed, _ in Crashes(disk, work, 2048):
        assert reopened(crashed) == new


def test_two_batches_then_a_checkpoint(before: Disk) -> None:
    """The checkpoint is the only work that the file itself sees."""

    def work(store: Any) -> None:
        commit(store, enqueue(1, 40, b"one"))
        commit(store, Settle(key(1, 40), 3), enqueue(1, 41, b"two"))
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        commit(store, enqueue(1, 42, b"three"))

    old = expected_after(list).messages
    states = [
        old,
        {**old, key(1, 40): b"one"},
        {**old, key(1, 41): b"two"},
        {**old, key(1, 41): b"two", key(1, 42): b"three"},
    ]
    latest = 0
    for disk, done in Crashes(before, work, 2048):
        found = states.index(reopened(disk).messages)
        assert not done or found == 3
        latest = max(latest, found)
    assert latest == 3


def test_closing_changes_nothing(before: Disk) -> None:
    new = expected_after(TRANSACTIONS["tx.commit"])

    def work(store: Any) -> None:
        commit(store, *TRANSACTIONS["tx.commit"]())
        store.close()

    for disk, done in Crashes(before, work, 2048):
        state = reopened(disk)
        assert state in (expected_after(list), new)
        assert not done or state == new


def test_recovery(before: Disk) -> None:
    """The power goes again and again while a new owner opens the store and tidies up."""
    disk = before.copy()
    passing = PASSING_QUEUE_ID_MIN + 3
    with store_on(disk) as path:
        connection = sqlite_file.open_connection(path, "full")
        commit(connection, *TRANSACTIONS["enqueue many"](), *shared(8, (2, 200)))
        commit(connection, DropQueue(2, is_long=True), *shared(7, (3, 200), (1, 300)))
        clean = state_of(connection)
        commit(connection, *(enqueue(passing, n, b"transient") for n in range(50)))
        disk.powered = False
        with pytest.raises(PowerCut):
            connection.close()
    disk.cut(Random(1))
    assert 8 in clean.shared  # until its row is swept away
    point = 0
    opened = False
    while not opened:
        for seed, keep in enumerate(OUTCOMES):
            tried = disk.copy()
            tried.restart()
            tried.cut_at = tried.calls + point
            with store_on(tried) as path:
                try:
                    connection = sqlite_file.open_connection(path, "full")
                    opened = True
                    try:
                        forget_passing(connection)
                        while tidy(connection):
                            pass
                    except PowerCut:
                        opened = False
                    tried.powered = False
                    with pytest.raises(PowerCut):
                        connection.close()
                except PowerCut:
                    opened = False
            tried.cut(Random(point * 1000 + seed), keep)
            tried.restart()
            state = reopened(tried)
            assert without(state, passing) in (clean, clean._replace(shared=clean.shared - {8}))
            assert not opened or state == clean._replace(shared=clean.shared - {8})
        point += 1
    assert point > 5


def without(state: State, queue_id: int) -> State:
    """The state as if there were no such queue."""
    return state._replace(
        messages={k: body for k, body in state.messages.items() if k >> POSITION_BITS != queue_id},
        backlogs={queue: backlog for queue, backlog in state.backlogs.items() if queue != queue_id},
    )


def test_the_first_creation() -> None:
    """Until it is complete, it is not there; and what is left of it is in nobody's way."""
    point = 0
    created = False
    while not created:
        for seed, keep in enumerate(OUTCOMES):
            disk = Disk()
            disk.cut_at = point
            with store_on(disk) as path:
                try:
                    connection = sqlite_file.open_connection(path, "full")
                    commit(connection, enqueue(1, 1, b"first"))
                    created = True
                    disk.powered = False
                    with pytest.raises(PowerCut):
                        connection.close()
                except PowerCut:
                    created = False
            disk.cut(Random(point * 1000 + seed), keep)
            disk.restart()
            state = reopened(disk)
            first = EMPTY._replace(messages={key(1, 1): b"first"}, backlogs={1: Backlog(1, 5, 1)})
            assert state == first if created else state in (EMPTY, first)
        point += 1
    assert point > 20


def frames(log: bytes) -> list[tuple[int, int]]:
    """Page number and, at a commit, size of the database: for each frame of the log's last salt."""
    page_bytes, salt = unpack_from(">8xI4xQ", log)
    found = []
    for at in range(32, len(log) - page_bytes, 24 + page_bytes):
        page, size, frame_salt = unpack_from(">IIQ", log, at)
        if frame_salt == salt:
            found.append((page, size))
    return found


@pytest.mark.parametrize("name", TRANSACTIONS)
def test_both_sqlites_write_the_same_log(before: Disk, name: str, tmp_path: Path) -> None:
    """What the simulated disk shows of apsw's SQLite holds for that of this Python."""
    transaction = TRANSACTIONS[name]
    disk = before.copy()
    for file_name, file in disk.names.items():
        (tmp_path / file_name).write_bytes(file.volatile)
    with store_on(disk) as path:
        connection = sqlite_file.open_connection(path, "full")
        commit(connection, *transaction())
        simulated = bytes(disk.names[sqlite_file.FILE_NAME + "-wal"].volatile)
        connection.close()
    path = tmp_path / sqlite_file.FILE_NAME
    ours: sqlite3.Connection = sqlite_file.open_connection(path, "full")
    commit(ours, *transaction())
    real = path.with_name(path.name + "-wal").read_bytes()
    ours.close()
    assert frames(simulated)
    assert frames(simulated) == frames(real)
