"""What the page reader makes of whole files (what SQLite does) and of damaged ones (its best).

Three laws hold for any damage: no message that was not there, no message gone without its key among
what is lost, and nothing raised but StoreError.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from amqpd_storage import sqlite_file, sqlite_log
from amqpd_storage.entries import (
    POSITION_MAX,
    Delay,
    Delivered,
    DropRange,
    Entry,
    PutDefinition,
    Release,
    Settle,
    storage_key,
)
from amqpd_storage.errors import DamagedStore, StoreError, StoreTooNew, StoreUnreadable
from amqpd_storage.records import decode_record
from amqpd_storage.salvage import (
    ROOTS,
    Definition,
    LostKeys,
    LostNames,
    Mark,
    Place,
    Salvage,
    SharedMessage,
    Waiting,
)
from tests.storage.contents import (
    all_messages,
    commit,
    damage_page,
    enqueue,
    fill_store,
    make_content,
)

PAGE = sqlite_file.PAGE_BYTES


class Contents:
    """What a salvage brought."""

    def __init__(self, path: Path) -> None:
        salvage = Salvage(path)
        places: dict[int, bytes | int] = {}
        self.shared: dict[int, bytes] = {}
        self.marks: dict[int, int] = {}
        self.definitions: list[tuple[str, str, bytes]] = []
        try:
            for row in salvage.rows():
                match row:
                    case Place(key, record):
                        assert key not in places
                        places[key] = record
                    case Waiting(sequence, 4, due_ms, record):
                        assert due_ms == due(sequence)
                        places[-sequence] = record
                    case SharedMessage(message_id, record):
                        self.shared[message_id] = decode_record(record).body
                    case Mark(queue_id, below):
                        self.marks[queue_id] = below
                    case Definition():
                        self.definitions.append((row.kind, row.key, row.value))
        finally:
            salvage.close()
        self.bodies = {
            key: self.shared.get(record) if isinstance(record, int) else decode_record(record).body
            for key, record in places.items()
        }
        self.meta = salvage.meta
        self.lost = salvage.lost
        self.found_again = salvage.found_again

    def says_lost(self, key: int, table: str = "") -> bool:
        """Whether the message with this key is among what is named as lost."""
        table = table or ("entry" if key > 0 else "delayed")
        return any(
            isinstance(lost, LostKeys)
            and lost.table == table
            and lost.first <= abs(key) <= lost.last
            for lost in self.lost
        )


def due(sequence: int) -> int:
    """When the delayed message with this number comes due."""
    return 1_780_000_000_000 + sequence * 7919 % 1000


class Live:
    """A store in use, and what is in it."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.chance = random.Random(seed)
        self.connection = sqlite_file.open_connection(path, "full")
        self.bodies: dict[int, bytes] = {}
        """By key; a delayed message has its sequence with a minus."""
        self.definitions: list[tuple[str, str, bytes]] = []
        self._position = 0
        self._shared: dict[int, set[int]] = {}

    def work(self, batches: int) -> None:
        """Commit batches of messages of all sizes, settlements, marks and definitions."""
        for _ in range(batches):
            entries: list[Entry] = [entry for _ in range(30) for entry in self._message()]
            if self.chance.random() < 0.5:
                entries += self._neighbours()
            for key in self.chance.sample(sorted(self.bodies), self.chance.randrange(30)):
                entries += self._settle(key)
            entries.append(Delivered(1, self._position))
            name = f'["/","{self._position}"]'
            value = b"{}" * self.chance.choice([1, 100, 2000])
            entries.append(PutDefinition("queue", name, value))
            self.definitions.append(("queue", name, value))
            commit(self.connection, *entries)
        self.definitions.sort()

    def close(self) -> None:
        """Close it in order: the log is written back."""
        self.connection.close()

    def _message(self) -> list[Entry]:
        self._position += 1
        position, chance = self._position, self.chance
        body = b"%d." % position + chance.randbytes(chance.choice([10, 100, 1000, 8000, 30000]))
        queues = [chance.randint(1, 5)]
        content = make_content(body)
        if chance.random() < 0.2:
            self.bodies[-position] = body
            return [Delay(4, due(position), position, content)]
        if chance.random() < 0.2:
            queues.append(queues[0] + 5)
            content.message_id = position
            self._shared[position] = {storage_key(queue, position) for queue in queues}
        entries: list[Entry] = [enqueue(queue, position, content) for queue in queues]
        self.bodies |= {storage_key(queue, position): body for queue in queues}
        return entries

    def _neighbours(self) -> list[Entry]:
        """Small messages that become a run."""
        queue = self.chance.randint(1, 5)
        first = self._position + 1
        self._position += 30
        entries: list[Entry] = []
        for position in range(first, self._position + 1):
            body = b"%d." % position + self.chance.randbytes(self.chance.choice([10, 700]))
            self.bodies[storage_key(queue, position)] = body
            entries.append(enqueue(queue, position, body))
        return entries

    def _settle(self, key: int) -> list[Entry]:
        body = self.bodies.pop(key)
        if key < 0:
            return [Release(4, -key)]
        position = key & POSITION_MAX
        message_id = position if key in self._shared.get(position, ()) else 0
        return [Settle(key, len(body), message_id)]


@pytest.fixture
def live(tmp_path: Path) -> Live:
    """A store that has seen some life, closed."""
    store = Live(tmp_path / "amqpd.sqlite3", 1)
    store.work(25)
    store.close()
    return store


def test_whole_file(live: Live) -> None:
    contents = Contents(live.path)

    assert contents.bodies == live.bodies
    assert contents.definitions == live.definitions
    assert set(contents.marks) == {1}
    assert set(contents.meta) == {"broker_id", "created", "schema_version"}
    assert (contents.lost, contents.found_again) == ([], 0)


def test_usual_roots_are_those_of_a_new_file(tmp_path: Path) -> None:
    connection = sqlite_file.open_connection(tmp_path / "amqpd.sqlite3", "full")
    roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema"))
    connection.close()

    assert {name: roots[name] for name in ROOTS} == ROOTS


def test_what_was_purged_does_not_come_back(tmp_path: Path) -> None:
    """Its rows are still there, but gone."""
    fill_store(tmp_path, *(enqueue(queue, n) for queue in (1, 2) for n in range(1, 100)))
    fill_store(tmp_path, DropRange(storage_key(1, 11), storage_key(1, 90), 80, 320))

    contents = Contents(tmp_path / "amqpd.sqlite3")

    assert [key & POSITION_MAX for key in contents.bodies if key < storage_key(2, 0)] == [
        *range(1, 11),
        *range(91, 100),
    ]
    assert len(contents.bodies) == 99 + 19


def test_log_that_a_crash_left(tmp_path: Path) -> None:
    """The files as they stand in the middle of a life, with more and more in the log."""
    live = Live(tmp_path / "amqpd.sqlite3", 2)
    for number in range(4):
        live.work(3)
        copy = copied(live.path, tmp_path / str(number))
        contents = Contents(copy)
        assert contents.bodies == live.bodies
        assert contents.lost == []
    live.close()


def test_torn_log_is_read_as_sqlite_reads_it(tmp_path: Path) -> None:
    live = Live(tmp_path / "amqpd.sqlite3", 3)
    live.work(2)
    live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for _ in range(5):
        live.work(1)
    chance = random.Random(3)
    for number in range(12):
        path = copied(live.path, tmp_path / str(number))
        log = sqlite_log.log_of(path)
        octets = bytearray(log.read_bytes())
        if number % 2:
            del octets[chance.randrange(len(octets)) :]
        else:
            octets[chance.randrange(len(octets))] ^= 0x10
        log.write_bytes(octets)
        contents = Contents(path)
        with sqlite3.connect(path) as reference:
            definitions = reference.execute("SELECT kind, key, value FROM definition").fetchall()
            keys = [message.key for message in all_messages(reference)]
            sequences = reference.execute("SELECT sequence FROM delayed ORDER BY sequence")
            keys += [-sequence for (sequence,) in sequences]
        reference.close()
        assert sorted(contents.definitions) == sorted(definitions)
        assert list(contents.bodies) == keys
        assert contents.lost == []
    live.close()


def test_file_is_gone_and_all_is_in_its_log(tmp_path: Path) -> None:
    live = Live(tmp_path / "amqpd.sqlite3", 4)
    live.work(1)
    path = copied(live.path, tmp_path / "copy")
    path.unlink()
    live.close()

    contents = Contents(path)

    found = {key: body for key, body in contents.bodies.items() if body is not None}
    assert found.items() <= live.bodies.items()


def copied(path: Path, directory: Path) -> Path:
    """The file and its log, elsewhere."""
    directory.mkdir()
    for source in (path, sqlite_log.log_of(path)):
        shutil.copyfile(source, directory / source.name)
    return directory / path.name


# -- damage


DAMAGE = ("zeroed pages", "random page", "random bytes", "copied page", "cut")


def damage(octets: bytes, kind: str, chance: random.Random) -> bytes:
    damaged = bytearray(octets)
    page_count = len(octets) // PAGE
    if kind == "zeroed pages":
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(page_count) * PAGE
            damaged[at : at + PAGE] = bytes(PAGE)
    elif kind == "random page":
        at = chance.randrange(page_count) * PAGE
        damaged[at : at + PAGE] = chance.randbytes(PAGE)
    elif kind == "random bytes":
        for _ in range(chance.randint(1, 5)):
            length = chance.choice([1, 8, 64, 512])
            at = chance.randrange(len(octets) - length)
            damaged[at : at + length] = chance.randbytes(length)
    elif kind == "copied page":
        source, at = (chance.randrange(1, page_count) * PAGE for _ in range(2))
        damaged[at : at + PAGE] = octets[source : source + PAGE]
    else:
        del damaged[chance.randrange(len(octets)) :]
    return bytes(damaged)


@pytest.mark.parametrize("kind", DAMAGE)
def test_nothing_is_lost_silently_and_nothing_comes_from_nowhere(live: Live, kind: str) -> None:
    intact = live.path.read_bytes()
    chance = random.Random(kind)
    lost = 0
    for number in range(25):
        live.path.write_bytes(damage(intact, kind, chance))
        contents = Contents(live.path)
        for key in contents.bodies.keys() - live.bodies.keys():
            assert contents.says_lost(key, "run"), (number, key)
        for key in live.bodies.keys() - contents.bodies.keys():
            lost += 1
            assert contents.says_lost(key), (number, key)
        names = {definition[:2] for definition in contents.definitions}
        if names != {definition[:2] for definition in live.definitions}:
            assert any(isinstance(item, LostNames) for item in contents.lost)
    if kind == "cut":
        return
    assert lost < 25 * 20, "a page or two cost more messages than they can have held"


def test_root_pages_are_damaged(live: Live) -> None:
    """Every row is found again on its own, and none that was settled, unless within a run."""
    octets = bytearray(live.path.read_bytes())
    for root in ROOTS.values():
        octets[(root - 1) * PAGE : root * PAGE] = bytes(PAGE)
    interior = octets[PAGE * (ROOTS["delivered"] - 1) :][:1]
    assert interior == b"\0"
    live.path.write_bytes(octets)

    contents = Contents(live.path)

    assert contents.bodies.items() >= live.bodies.items()
    for key in contents.bodies.keys() - live.bodies.keys():
        assert contents.says_lost(key, "run"), key
    found = sum(lost.found for lost in contents.lost if isinstance(lost, LostKeys))
    assert found == len(contents.bodies) + len(contents.shared) + len(contents.marks)
    assert contents.found_again == found + len(contents.definitions) + len(contents.meta)
    assert LostKeys("delivered", 0, (1 << 23) - 1, "page 9 is no page of a table") in contents.lost
    names = {definition[:2] for definition in live.definitions}
    assert {definition[:2] for definition in contents.definitions} <= names


def test_first_page_is_damaged(live: Live) -> None:
    """Neither header nor schema: the trees are where they were made."""
    octets = live.path.read_bytes()
    live.path.write_bytes(b"\xa5" * PAGE + octets[PAGE:])

    contents = Contents(live.path)

    assert contents.bodies == live.bodies
    assert contents.definitions == live.definitions


def test_one_leaf_is_damaged(tmp_path: Path) -> None:
    """What it held is known to the message: all keys between its neighbours', and no other."""
    path = tmp_path / "amqpd.sqlite3"
    connection = sqlite_file.open_connection(path, "full")
    every_other = range(2, 602, 2)  # so that each has a row of its own
    commit(connection, *(enqueue(1, n, b"%04d" % n * 100) for n in every_other))
    connection.close()
    damage_page(path, b"0300" * 100)

    contents = Contents(path)

    (lost,) = contents.lost
    assert isinstance(lost, LostKeys)
    gone = [n for n in every_other if storage_key(1, n) not in contents.bodies]
    assert lost.first == storage_key(1, gone[0] - 1)
    assert lost.last == storage_key(1, gone[-1])
    assert 300 in gone
    assert gone == list(range(gone[0], gone[-1] + 2, 2))
    assert 10 < len(gone) < 25


def fill_with_runs(path: Path) -> None:
    """A queue with messages 1 to 300, of which every tenth was settled."""
    connection = sqlite_file.open_connection(path, "full")
    commit(connection, *(enqueue(1, n, b"%04d" % n * 100) for n in range(1, 301)))
    commit(connection, *(Settle(storage_key(1, n), 400) for n in range(10, 301, 10)))
    connection.close()


def test_runs_are_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "amqpd.sqlite3"
    fill_with_runs(path)

    contents = Contents(path)

    assert [key & POSITION_MAX for key in contents.bodies] == [n for n in range(1, 301) if n % 10]
    assert (contents.lost, contents.found_again) == ([], 0)


def test_a_leaf_with_runs_is_damaged(tmp_path: Path) -> None:
    """What the runs before and behind it have is not lost, nor said to be."""
    path = tmp_path / "amqpd.sqlite3"
    connection = sqlite_file.open_connection(path, "full")
    for first in range(1, 301, 10):  # each a run that fits into a page
        commit(connection, *(enqueue(1, n, b"%04d" % n * 100) for n in range(first, first + 10)))
    connection.close()
    damage_page(path, b"0155" * 100)

    contents = Contents(path)

    (lost,) = contents.lost
    assert isinstance(lost, LostKeys)
    assert (lost.first, lost.last) == (storage_key(1, 151), storage_key(1, 160))
    assert [key & POSITION_MAX for key in contents.bodies] == [*range(1, 151), *range(161, 301)]


def test_a_run_of_which_a_page_is_damaged(tmp_path: Path) -> None:
    """What comes before that page is read, and what comes behind it is lost with it."""
    path = tmp_path / "amqpd.sqlite3"
    fill_with_runs(path)
    damage_page(path, b"0103" * 100)

    contents = Contents(path)

    (lost,) = contents.lost
    assert isinstance(lost, LostKeys)
    first, last = lost.first & POSITION_MAX, lost.last & POSITION_MAX
    assert 80 < first <= 103 < last < 200
    assert [key & POSITION_MAX for key in contents.bodies] == [
        n for n in range(1, 301) if n % 10 and not first <= n <= last
    ]


def test_what_was_settled_of_runs_is_damaged(tmp_path: Path) -> None:
    """It comes back, and that is said."""
    path = tmp_path / "amqpd.sqlite3"
    fill_with_runs(path)
    octets = bytearray(path.read_bytes())
    at = (ROOTS["run"] - 1) * PAGE
    octets[at : at + PAGE] = bytes(PAGE)
    path.write_bytes(octets)

    contents = Contents(path)

    assert len(contents.bodies) == 300
    (lost,) = contents.lost
    assert isinstance(lost, LostKeys)
    assert lost.table == "run"


def test_overflow_chain_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "amqpd.sqlite3"
    connection = sqlite_file.open_connection(path, "full")
    commit(connection, *(enqueue(1, n, b"%04d" % n * 10_000) for n in range(1, 6)))
    connection.close()
    octets = bytearray(path.read_bytes())
    page = octets.find(b"0003" * 2000) // PAGE
    octets[page * PAGE : page * PAGE + 4] = b"\xff" * 4
    path.write_bytes(octets)

    contents = Contents(path)

    assert [key & 0xFF for key in contents.bodies] == [1, 2, 4, 5]
    (lost,) = contents.lost
    assert isinstance(lost, LostKeys)
    assert lost.first == lost.last == storage_key(1, 3)


def test_definition_that_cannot_be_read_is_named_by_its_neighbours(live: Live) -> None:
    octets = bytearray(live.path.read_bytes())
    kind, key, _ = live.definitions[5]
    at = 0
    # A page that was split or freed may have kept a copy, which no tree leads to.
    while (at := octets.find(f"{kind}{key}".encode(), at + 1)) >= 0:
        octets[at - 5 : at + 3] = b"\xff" * 8
    live.path.write_bytes(octets)

    contents = Contents(live.path)

    lost = [item for item in contents.lost if isinstance(item, LostNames)]
    assert lost
    assert lost[0].table == "definition"
    assert (lost[0].after, lost[0].before) != (None, None)


# -- files of another kind


def test_somebody_elses_database(tmp_path: Path) -> None:
    path = tmp_path / "amqpd.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (name TEXT)")
    connection.close()

    with pytest.raises(DamagedStore, match="not amqpd's"):
        Salvage(path)


def test_newer_store(live: Live) -> None:
    with sqlite3.connect(live.path) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    connection.close()

    with pytest.raises(StoreTooNew):
        Salvage(live.path)


@pytest.mark.parametrize("octets", [b"", b"x", b"no database at all" * 5000])
def test_no_database(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "amqpd.sqlite3"
    path.write_bytes(octets)

    contents = Contents(path)

    assert contents.bodies == {}
    assert contents.lost


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreadable):
        Salvage(tmp_path / "amqpd.sqlite3")


def test_disk_that_cannot_read_a_page(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread

    def failing(fd: int, length: int, offset: int) -> bytes:
        if offset == 20 * PAGE:
            raise OSError(5, "Input/output error")
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    try:
        contents = Contents(live.path)
    except StoreError:
        pytest.fail("one page is not the file")
    gone = live.bodies.keys() - contents.bodies.keys()
    assert all(contents.says_lost(key) for key in gone)
    assert len(contents.bodies) > len(live.bodies) - 20
