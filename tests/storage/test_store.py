"""The store as the runtime uses it: opened, recovered, written, closed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest

from amqpd_storage import sqlite_file
from amqpd_storage.entries import Barrier, Delivered, PutDefinition, Settle, storage_key
from amqpd_storage.errors import JournalFailed, StoreTooNew, StoreUnwritable
from amqpd_storage.journal import Journal
from amqpd_storage.sqlite_engine import open_store
from amqpd_storage.sqlite_reading import read_batch_number
from tests.storage.contents import (
    batch_of,
    enqueue,
    fill_store,
    make_content,
    recovered,
    run,
    stored_messages,
)

VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entry (key INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE message (message_id INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE delivered (queue_id INTEGER PRIMARY KEY, below INTEGER NOT NULL);
CREATE TABLE definition (
    kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
PRAGMA application_id = 0x616D7170;
PRAGMA user_version = 1;
"""


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    shared = make_content(b"news", message_id=3)

    async def write() -> tuple[str, str]:
        async with await open_store(tmp_path / "data") as store:
            await store.write(
                batch_of(
                    PutDefinition("queue", "jobs", b"{}"),
                    enqueue(1, 1, b"job"),
                    enqueue(1, 2, shared),
                    enqueue(2, 1, shared),
                    Delivered(1, 2),
                )
            )
            return store.broker_id, store.created

    async def check(identity: tuple[str, str]) -> None:
        async with await open_store(tmp_path / "data", "normal") as store:
            assert (store.broker_id, store.created) == identity
            recovery = await store.recover()
            assert recovery.definitions == [("queue", "jobs", b"{}")]
            assert recovery.delivered == {1: 2}
            assert recovery.message_id_max == 3
            messages = await stored_messages(store)
            assert [(m.key, m.message_id, m.body) for m in messages] == [
                (storage_key(1, 1), 0, b"job"),
                (storage_key(1, 2), 3, b"news"),
                (storage_key(2, 1), 3, b"news"),
            ]
            assert recovery.backlogs == {1: (2, 7, 2), 2: (1, 4, 1)}
            assert not await store.tidy()

    run(check(run(write())))


def test_new_store_is_empty(tmp_path: Path) -> None:
    async def read() -> None:
        async with await open_store(tmp_path) as store:
            recovery = await store.recover()
            assert (recovery.definitions, recovery.delivered, recovery.message_id_max) == (
                [],
                {},
                0,
            )
            assert await stored_messages(store) == []
            assert recovery.backlogs == {}

    run(read())


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "data"

    async def look() -> None:
        async with await open_store(directory) as store:
            await store.write(batch_of(enqueue(1, 1)))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
            assert set(modes.values()) == {0o600}
            assert {"amqpd.sqlite3", "amqpd.sqlite3-wal", "amqpd.lock"} <= set(modes)

    run(look())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_closing_leaves_one_file_and_the_lock(tmp_path: Path) -> None:
    fill_store(tmp_path, enqueue(1, 1))

    assert {path.name for path in tmp_path.iterdir()} == {"amqpd.sqlite3", "amqpd.lock"}


def test_closing_twice(tmp_path: Path) -> None:
    async def close() -> None:
        store = await open_store(tmp_path)
        await store.close()
        await store.close()

    run(close())


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_durability_sets_the_flush(tmp_path: Path, durability: str, level: int) -> None:
    chosen: sqlite_file.Durability = "full" if durability == "full" else "normal"
    connection = sqlite_file.open_connection(tmp_path / "amqpd.sqlite3", chosen)

    assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_group_commit_while_a_batch_is_under_way(tmp_path: Path) -> None:
    """The loop of the runtime's journal writer, in small."""

    async def publish() -> int:
        journal = Journal()
        commits = 0
        async with await open_store(tmp_path) as store:
            journal.append_all([enqueue(1, 1)])
            position = 1
            while (batch := journal.take()) is not None:
                writing = asyncio.ensure_future(store.write(batch))
                while not writing.done() and position < 2000:
                    position += 1
                    journal.append_all([enqueue(1, position)])
                    if position % 50 == 0:
                        await asyncio.sleep(0)
                await writing
                journal.committed(batch)
                commits += 1
            recovery = await store.recover()
            assert recovery.backlogs == {1: (position, 4 * position, position)}
        return commits

    assert run(publish()) < 1000


def test_empty_batch_needs_no_transaction(tmp_path: Path) -> None:
    async def write() -> None:
        store = await open_store(tmp_path)
        await store.close()
        await store.write(batch_of(Barrier()))  # would fail if it touched the file

    run(write())


def test_failed_write_leaves_nothing_and_stops_the_store(tmp_path: Path) -> None:
    async def write() -> None:
        async with await open_store(tmp_path) as store:
            await store.write(batch_of(enqueue(1, 1, b"safe")))
            with pytest.raises(JournalFailed, match=r"UNIQUE.*check the disk"):
                await store.write(batch_of(enqueue(1, 2), enqueue(1, 1, b"twice")))
            with pytest.raises(JournalFailed, match="an earlier write failed"):
                await store.write(batch_of(enqueue(1, 3)))

    run(write())
    assert [message.body for message in recovered(tmp_path)] == [b"safe"]


def test_batch_may_be_written_again_once_the_disk_has_room(tmp_path: Path) -> None:
    async def write() -> None:
        async with await open_store(tmp_path) as store:
            await store.write(batch_of(enqueue(1, 1, b"safe")))
            await limit_pages(store, 1)  # SQLite raises it to what the file has
            batch = batch_of(Settle(storage_key(1, 1), 4), enqueue(1, 2, b"x" * 100_000))
            with pytest.raises(JournalFailed, match="free some space") as failure:
                await store.write(batch)
            assert failure.value.disk_full
            assert [message.body for message in await stored_messages(store)] == [b"safe"]

            await limit_pages(store, 1_000_000)
            await store.write(batch)
            assert len(await stored_messages(store)) == 1

    async def limit_pages(store: object, pages: int) -> None:
        connection = store._thread  # type: ignore[attr-defined]
        await connection.run(lambda raw: raw.execute(f"PRAGMA max_page_count = {pages}").fetchall())

    run(write())


def test_newer_store_is_refused(tmp_path: Path) -> None:
    fill_store(tmp_path, enqueue(1, 1))
    path = tmp_path / "amqpd.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '4' WHERE name = 'schema_version'")
        connection.execute("PRAGMA user_version = 4")
    connection.close()

    with pytest.raises(StoreTooNew, match=r"store version 4, this one knows up to 3") as refusal:
        recovered(tmp_path)

    assert refusal.value.version == 4
    assert str(path) in str(refusal.value)


def test_store_of_version_1_is_upgraded(tmp_path: Path) -> None:
    """What the first version wrote, with shared messages, and no table of backlogs."""
    path = tmp_path / "amqpd.sqlite3"
    fill_store(tmp_path / "new", enqueue(1, 3), enqueue(1, 4, make_content(b"x", message_id=9)))
    with sqlite3.connect(tmp_path / "new" / "amqpd.sqlite3") as newer:
        rows = {
            table: newer.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("entry", "message", "meta")
        }
    newer.close()
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("PRAGMA page_size = 8192")
    old.execute("PRAGMA journal_mode = WAL")
    old.executescript(VERSION_1)
    for table, found in rows.items():
        places = ", ".join("?" * len(found[0]))
        old.executemany(f"INSERT INTO {table} VALUES ({places})", found)
    old.execute("UPDATE meta SET value = '1' WHERE name = 'schema_version'")
    old.execute("INSERT INTO meta VALUES ('batch', '1000')")
    old.close()

    async def check() -> None:
        async with await open_store(tmp_path) as store:
            recovery = await store.recover()
            assert recovery.backlogs == {1: (2, 5, 4)}
            await store.write(batch_of(Settle(storage_key(1, 4), 1, 9)))
            assert [message.body for message in await stored_messages(store)] == [b"body"]

    run(check())
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM message").fetchall() == [(0,)]
    assert read_batch_number(connection) == 1001
    assert connection.execute("SELECT value FROM meta WHERE name = 'batch'").fetchall() == []
    assert connection.execute("PRAGMA auto_vacuum").fetchall() == [(2,)]
    connection.close()
    assert (tmp_path / "amqpd.sqlite3.before-v3").exists()


def test_older_store_is_upgraded_in_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_store(tmp_path, enqueue(1, 1))

    def upgrade(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE stream (position INTEGER PRIMARY KEY)")

    monkeypatch.setattr(sqlite_file, "SCHEMA_VERSION", 4)
    monkeypatch.setattr(sqlite_file, "UPGRADES", {3: upgrade})

    assert len(recovered(tmp_path)) == 1
    assert len(recovered(tmp_path)) == 1  # and is not upgraded again
    monkeypatch.undo()
    with pytest.raises(StoreTooNew):
        recovered(tmp_path)


def test_directory_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreUnwritable, match="Not a directory"):
        run(open_store(tmp_path / "file" / "data"))


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreUnwritable, match="file"):
        run(open_store(tmp_path / "file"))


def test_read_only_directory() -> None:
    # Root may write anywhere: as root the test becomes nobody for a while. pytest's tmp_path
    # would not do, since nobody may not even enter it.
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o555)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        with pytest.raises(StoreUnwritable, match=f"{directory}.*choose another"):
            run(open_store(directory))
    finally:
        if was_root:
            os.seteuid(0)
        directory.rmdir()


def test_read_only_file() -> None:
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o777)
    fill_store(directory, enqueue(1, 1))
    for path in directory.iterdir():
        path.chmod(0o444)
    (directory / "amqpd.lock").chmod(0o666)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        with pytest.raises(StoreUnwritable, match="Permission denied"):
            run(open_store(directory))
    finally:
        if was_root:
            os.seteuid(0)
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
