"""An examination finds what is wrong, counts what is there, and leaves no trace."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from amqpd_storage import sqlite_file, sqlite_log
from amqpd_storage.doctor import examine
from amqpd_storage.entries import Delivered, PutDefinition
from amqpd_storage.errors import DamagedStore, StoreError, StoreLocked, StoreTooNew
from amqpd_storage.ownership import LOCK_NAME, DirectoryLock, unowned
from amqpd_storage.salvage import LostKeys
from amqpd_storage.sqlite_file import PAGE_BYTES
from tests.storage.contents import (
    commit,
    damage_page,
    enqueue,
    fill_store,
    make_content,
    recovered,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with two queues and a message that they share."""
    shared = make_content(b"news", message_id=3)
    fill_store(
        tmp_path,
        PutDefinition("queue", "jobs", b"{}"),
        enqueue(1, 1, b"job"),
        enqueue(1, 2, shared),
        enqueue(2, 1, shared),
        *(enqueue(2, n, b"%04d" % n * 100) for n in range(2, 200)),
        Delivered(1, 2),
    )
    return tmp_path / "amqpd.sqlite3"


def snapshot(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every file: its bytes, when it was changed, and which file it is."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in directory.iterdir()
    }


def edit(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def test_whole_store(path: Path) -> None:
    before = snapshot(path.parent)

    found = examine(path)

    assert found.first_problem is None
    assert {queue: (c.messages, c.body_bytes) for queue, c in found.queues.items()} == {
        1: (2, 7),
        2: (199, 4 + 198 * 400),
    }
    assert [tuple(definition) for definition in found.definitions] == [("queue", "jobs", b"{}")]
    assert found.meta["schema_version"] == "3"
    assert found.marked == {1}
    assert found.unreferenced == 0
    assert snapshot(path.parent) == before


def test_log_that_a_crash_left_stays_as_it_is(path: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    copied.mkdir()
    connection = sqlite_file.open_connection(path, "full")
    commit(connection, enqueue(5, 1, b"in the log"))
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(f"{path}{suffix}", copied / f"{path.name}{suffix}")
    connection.close()
    before = snapshot(copied)

    found = examine(copied / path.name)

    assert found.first_problem is None
    assert found.queues[5].messages == 1
    assert found.log_bytes > 0
    assert snapshot(copied) == before


def test_no_room_to_copy_a_store_with_a_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite_log.log_of(path).write_bytes(b"frames")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))

    with pytest.raises(StoreError, match="TMPDIR"):
        examine(path)


def test_damaged_page(path: Path) -> None:
    damage_page(path, b"0100" * 100)
    before = snapshot(path.parent)

    found = examine(path)

    assert found.first_problem
    assert found.problems
    (lost,) = found.lost
    assert isinstance(lost, LostKeys)
    assert lost.first <= 2 << 40 | 100 <= lost.last
    assert found.queues[2].messages == 199 - (lost.last - lost.first + 1)
    assert found.queues[1].messages == 2
    assert snapshot(path.parent) == before


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("PRAGMA application_id = 7", "not amqpd's"),
        ("PRAGMA user_version = 7", "disagree on the version"),
        ("DROP TABLE delivered", "tables are missing: delivered"),
    ],
)
def test_what_the_header_and_the_schema_say(path: Path, statement: str, problem: str) -> None:
    edit(path, statement)

    assert any(problem in text for text in examine(path).problems)


def test_number_of_the_last_batch_is_missing(path: Path) -> None:
    edit(path, "DELETE FROM backlog WHERE queue_id = 0")

    assert examine(path).problems == ["it does not say which batch was its last one"]
    with pytest.raises(DamagedStore, match="which batch") as refusal:
        recovered(path.parent)
    assert refusal.value.path == path


def test_cut_file(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)

    found = examine(path)

    assert found.problems
    assert found.queues[2].messages > 100


@pytest.mark.parametrize("octets", [b"", b"no database at all" * 1000])
def test_not_a_database(path: Path, octets: bytes) -> None:
    path.write_bytes(octets)

    assert "it is not an SQLite database" in examine(path).problems


def test_file_is_gone_but_its_log_is_there(path: Path) -> None:
    path.rename(sqlite_log.log_of(path))

    assert examine(path).problems == ["the file is gone, but its write-ahead log is there"]


def test_missing_shared_message(path: Path) -> None:
    edit(path, "DELETE FROM message")

    found = examine(path)

    assert found.first_problem
    assert (found.queues[1].messages, found.queues[1].dangling) == (1, 1)
    assert found.queues[2].dangling == 1
    assert found.problems == []


def test_shared_message_that_nobody_needs_is_no_damage(path: Path) -> None:
    edit(
        path,
        "DELETE FROM entry WHERE typeof(record) = 'integer'",
        "UPDATE backlog SET messages = messages - 1, body_bytes = body_bytes - 4",
    )

    found = examine(path)

    assert found.first_problem is None
    assert found.unreferenced == 1


def test_wrong_sums(path: Path) -> None:
    edit(path, "UPDATE backlog SET body_bytes = body_bytes + 1 WHERE queue_id = 2")

    found = examine(path)

    assert found.miscounted == [2]
    assert found.first_problem == "it is wrong about how much is in queue 2"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("schema_damaged", [False, True])
def test_store_of_an_earlier_version(tmp_path: Path, version: int, schema_damaged: bool) -> None:
    """Of which the page where a later one has a table is one of messages."""
    every_other = range(2, 802, 2)  # so that each has a row of its own
    fill_store(tmp_path, *(enqueue(1, n, b"x" * 400) for n in every_other))
    path = tmp_path / "amqpd.sqlite3"
    old = tmp_path / "old"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables = sorted(sqlite_file.TABLES - sqlite_file.tables_of(version))
        for table in tables:
            connection.execute(f"DROP TABLE {table}")
        connection.execute(f"UPDATE meta SET value = '{version}' WHERE name = 'schema_version'")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute(f"PRAGMA auto_vacuum = {'NONE' if version == 1 else 'INCREMENTAL'}")
        connection.execute(f"VACUUM INTO '{old}'")
    if schema_damaged:
        octets = bytearray(old.read_bytes())
        octets[100:PAGE_BYTES] = bytes(PAGE_BYTES - 100)
        old.write_bytes(octets)

    found = examine(old)

    assert found.queues[1].messages == len(every_other)
    if not schema_damaged:
        assert found.first_problem is None
    assert not any(isinstance(lost, LostKeys) and lost.table == "run" for lost in found.lost)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE run SET remaining = remaining - 1",
        "UPDATE run SET settled = '0-0,'",
        "UPDATE run SET last = last - 1, remaining = remaining - 1",
        "DELETE FROM run",
        "INSERT INTO run SELECT key, key, 1, '' FROM entry WHERE key = 1 << 40 | 1",
    ],
)
def test_wrong_about_a_run(path: Path, statement: str) -> None:
    edit(path, statement)

    assert examine(path).miscounted


def test_record_that_cannot_be_decoded(path: Path) -> None:
    edit(path, "UPDATE entry SET record = CAST(x'09' || record AS BLOB) WHERE key = 1 << 40 | 1")

    found = examine(path)

    assert [lost.reason for lost in found.lost] == [
        f"the record of row {1 << 40 | 1} is of the unknown kind 9"
    ]


def test_newer_store(path: Path) -> None:
    edit(
        path,
        "UPDATE meta SET value = '4' WHERE name = 'schema_version'",
        "PRAGMA user_version = 4",
    )

    with pytest.raises(StoreTooNew):
        examine(path)


# -- nobody owns it meanwhile


def test_owned_directory_is_refused(tmp_path: Path) -> None:
    owner = DirectoryLock(tmp_path)

    with pytest.raises(StoreLocked, match=f"process {os.getpid()}"), unowned(tmp_path):
        pass

    owner.release()
    with unowned(tmp_path):
        pass


def test_several_may_look_and_no_owner_comes(tmp_path: Path) -> None:
    DirectoryLock(tmp_path).release()
    before = snapshot(tmp_path)

    with unowned(tmp_path), unowned(tmp_path):
        with pytest.raises(StoreLocked):
            DirectoryLock(tmp_path)
        assert snapshot(tmp_path) == before

    DirectoryLock(tmp_path).release()


def test_directory_that_never_had_an_owner(tmp_path: Path) -> None:
    with unowned(tmp_path):
        assert not (tmp_path / LOCK_NAME).exists()
