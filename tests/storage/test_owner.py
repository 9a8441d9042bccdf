"""An owner whose disk fails, and what it finds when the disk is well again.

On the simulated disk, at each of its calls; and on real files where locks and other processes
matter.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from amqpd_storage import sqlite_file, sqlite_owner, sqlite_reading
from amqpd_storage.entries import Barrier, Settle, storage_key
from amqpd_storage.errors import (
    DamagedStore,
    JournalFailed,
    ReadFailed,
    StoreMissing,
    StoreUnwritable,
)
from amqpd_storage.journal import Batch
from amqpd_storage.sqlite_engine import SQLiteStore, open_store
from amqpd_storage.sqlite_log import close_connection, log_of
from amqpd_storage.sqlite_owner import OwnersConnection
from tests.simulation.disk import Disk, PowerCut
from tests.simulation.sqlite_on_disk import store_on
from tests.storage.contents import batch_of, bodies, enqueue, run, stored_messages
from tests.storage.test_log import reader_of

BEFORE = {b"one"}
AFTER = {b"two" * 5000, b"three"}


def owner_on(path: Path, pages: int = 2048) -> OwnersConnection:
    """With a message in its store."""
    owner = OwnersConnection(path, "full", pages)
    owner.write(batch_of(enqueue(1, 1, b"one")))
    return owner


def in_doubt() -> Batch:
    """What is written when the disk fails: of several pages, and not to be done twice."""
    return batch_of(
        Settle(storage_key(1, 1), 3), enqueue(1, 2, b"two" * 5000), enqueue(2, 1, b"three")
    )


def resume(owner: OwnersConnection) -> None:
    owner.probe()
    owner.resume()


def found(connection: Any) -> set[bytes]:
    return set(bodies(connection).values())


def survivors(disk: Disk, chance: Random) -> set[bytes]:
    """What is in the store after a power cut."""
    disk.cut(chance)
    disk.restart()
    with store_on(disk) as path:
        connection: Any = sqlite_file.open_connection(path, "full")
        left = found(connection)
        close_connection(connection, path)
        return left


def calls_of_a_write() -> range:
    """Of the disk, with the log written back before."""
    disk = Disk()
    with store_on(disk) as path:
        owner = owner_on(path, 1)
        first = disk.calls
        owner.write(in_doubt())
        owner.close()
        return range(disk.calls - first)


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("length", [1, 1 << 40])
def test_whatever_call_fails_the_batch_is_written_once(length: int, forgets: bool) -> None:
    """And is surely there when it is said to be."""
    failures = 0
    for call in calls_of_a_write():
        for seed in range(2):
            disk = Disk()
            with store_on(disk) as path:
                owner = owner_on(path, 1)
                first = disk.calls + call
                disk.failing = range(first, first + length)
                disk.forgets = Random(seed) if forgets else None
                batch = in_doubt()
                with suppress(JournalFailed):
                    owner.write(batch)
                if owner.failed:
                    failures += 1
                    with pytest.raises(JournalFailed, match="the store is closed"):
                        owner.write(batch)
                    disk.heal()
                    resume(owner)
                    owner.write(batch)
                disk.heal()
                assert found(owner.raw) == AFTER
                owner.write(batch_of(enqueue(1, 3, b"four")))
            assert survivors(disk, Random(seed)) == AFTER | {b"four"}, (call, seed)
    assert failures > 10


@pytest.mark.parametrize("forgets", [False, True])
def test_the_power_may_go_while_it_recovers(forgets: bool) -> None:
    """At each call: the batch is there or it is not, and what was safe before is there."""
    seen: list[set[bytes]] = []
    for call in calls_after_the_checkpoint():
        for cut in range(0, 40, 1 if call % 4 == 0 else 7):
            chance = Random(call * 100 + cut)
            disk = Disk()
            with store_on(disk) as path:
                owner = owner_on(path)
                disk.failing = range(disk.calls + call, disk.calls + call + 1)
                disk.forgets = chance if forgets else None
                batch = in_doubt()
                with suppress(JournalFailed):
                    owner.write(batch)
                disk.heal()
                if not owner.failed:  # SQLite did not look
                    owner.close()
                    continue
                disk.cut_at = disk.calls + cut
                confirmed = False
                with suppress(PowerCut):
                    resume(owner)
                    owner.write(batch)
                    confirmed = True
                disk.powered = False
                with suppress(PowerCut):
                    owner.raw.close()
            left = survivors(disk, chance)
            assert left in ((AFTER,) if confirmed else (BEFORE, AFTER)), (call, cut)
            seen.append(left)
    assert BEFORE in seen
    assert AFTER in seen


def test_a_batch_that_is_there_is_not_written_again() -> None:
    """Its commit failed: it was written, its flush was not, and the system still has it."""
    disk = Disk()
    with store_on(disk) as path:
        owner = owner_on(path)
        last = disk.calls + calls_after_the_checkpoint()[-1]
        disk.failing = range(last, last + 1)
        batch = in_doubt()
        with pytest.raises(JournalFailed):
            owner.write(batch)
        resume(owner)
        assert found(owner.raw) == AFTER
        with patch.object(sqlite_owner, "write_batch", side_effect=AssertionError):
            owner.write(batch)
        owner.write(batch_of(enqueue(1, 3, b"four")))
        assert found(owner.raw) == AFTER | {b"four"}
        owner.close()


def calls_after_the_checkpoint() -> range:
    """Of the disk, for a write alone."""
    disk = Disk()
    with store_on(disk) as path:
        owner = owner_on(path)
        first = disk.calls
        owner.write(in_doubt())
        last = disk.calls
        owner.close()
    return range(last - first)


def test_without_a_look_at_its_number_it_would_be_written_twice() -> None:
    """Or the test above could not fail."""
    disk = Disk()
    with store_on(disk) as path:
        owner = owner_on(path)
        last = disk.calls + calls_after_the_checkpoint()[-1]
        disk.failing = range(last, last + 1)
        batch = in_doubt()
        with pytest.raises(JournalFailed):
            owner.write(batch)
        resume(owner)
        owner._found = None
        with pytest.raises(JournalFailed, match="UNIQUE"):
            owner.write(batch)


def test_a_disk_that_stays_ill_is_tried_again() -> None:
    disk = Disk()
    with store_on(disk) as path:
        owner = owner_on(path)
        disk.failing = range(disk.calls, 1 << 40)
        batch = in_doubt()
        for attempt in (owner.write, lambda _: owner.probe(), lambda _: owner.resume()):
            with pytest.raises(JournalFailed) as failure:
                attempt(batch)
            assert failure.value.passing
        disk.heal()
        disk.blind = True
        with pytest.raises(JournalFailed, match="Input/output error"):
            owner.resume()
        disk.blind = False
        disk.full = True
        with pytest.raises(JournalFailed) as failure:
            resume(owner)
        assert failure.value.passing
        disk.full = False
        resume(owner)
        owner.write(batch)
        assert found(owner.raw) == AFTER
        owner.close()


def test_a_disk_that_lost_what_it_said_it_had_flushed_is_not_gone_on_with() -> None:
    disk = Disk()
    with store_on(disk) as path:
        owner = owner_on(path)
        older = disk.copy()
        owner.write(batch_of(enqueue(1, 2, b"confirmed")))
        disk.failing = range(disk.calls, disk.calls + 1)
        with pytest.raises(JournalFailed):
            owner.write(batch_of(enqueue(1, 3, b"in doubt")))
        disk.heal()
        disk.names = older.names
        loss = "has lost what it said.*2 was the last.*has batch 1"
        with pytest.raises(JournalFailed, match=loss) as lost:
            resume(owner)
        assert not lost.value.passing
        with pytest.raises(JournalFailed, match="has lost what it said"):
            owner.write(batch_of(enqueue(1, 3)))
        owner.close()


def test_another_store_in_its_place_is_not_gone_on_with(tmp_path: Path) -> None:
    other = tmp_path / "other"
    OwnersConnection(other, "full").close()
    with failed_owner(tmp_path / "a") as owner:
        other.replace(owner.path)
        log_of(owner.path).unlink()
        with pytest.raises(JournalFailed, match="it is another store") as failure:
            resume(owner)
        assert not failure.value.passing


def test_no_new_store_is_made_where_there_was_one(tmp_path: Path) -> None:
    with failed_owner(tmp_path / "a") as owner:
        owner.path.unlink()
        with pytest.raises(StoreMissing, match="it was there while the broker ran"):
            resume(owner)
        assert not owner.path.exists()


@contextmanager
def failed_owner(path: Path) -> Iterator[OwnersConnection]:
    """On real files. What failed is in doubt, and is not there."""
    owner = owner_on(path)
    with broken_disk(), pytest.raises(JournalFailed, match="as told"):
        owner.write(in_doubt())
    try:
        yield owner
    finally:
        owner.close()


def broken_disk() -> Any:
    """While it lasts, no commit succeeds."""
    failure = error_of(sqlite3.SQLITE_IOERR)
    return patch.object(sqlite_owner, "write_batch", side_effect=failure)


def error_of(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as told")
    error.sqlite_errorcode = code
    return error


def test_while_another_process_reads_the_store_it_waits(tmp_path: Path) -> None:
    """Its index of the log may have been made after the flush that failed."""
    with failed_owner(tmp_path / "a") as owner:
        with reader_of(owner.path):
            with pytest.raises(JournalFailed, match="another process has the store open") as busy:
                resume(owner)
            assert busy.value.passing
        resume(owner)
        owner.write(in_doubt())
        assert found(owner.raw) == AFTER


def log_with_what_failed(path: Path) -> bytes:
    """Of a store with one message, which is left at `path`: its log with one commit more, as it is
    in the page cache when the flush of that has failed."""
    owner = owner_on(path)
    before = log_of(path).read_bytes()
    owner.write(in_doubt())
    close_keeping_log(owner)
    log = log_of(path).read_bytes()
    log_of(path).write_bytes(before)
    assert log.startswith(before)
    return log


def close_keeping_log(owner: OwnersConnection) -> None:
    owner.keep_log()
    owner.close()


def write_over(log: Path, content: bytes) -> None:
    """The same file: whoever has it open sees it."""
    with log.open("r+b") as file:
        file.write(content)


def test_a_start_beside_a_reader_from_before_the_failure_does_not_know_what_failed(
    tmp_path: Path,
) -> None:
    """They share the index of the log: the owner's, who did not count it."""
    path = tmp_path / "a"
    log = log_with_what_failed(path)
    with reader_of(path):
        write_over(log_of(path), log)
        owner = OwnersConnection(path, "full")
        assert found(owner.raw) == BEFORE
        owner.write(batch_of(enqueue(3, 1, b"later")))
        close_keeping_log(owner)
    owner = OwnersConnection(path, "full")
    assert found(owner.raw) == {*BEFORE, b"later"}
    owner.close()


def test_a_start_beside_a_reader_from_after_the_failure_takes_it_on_trust(tmp_path: Path) -> None:
    """That made an index of all that can be read, and an owner that goes on in place waits for it
    to end. A start does not: it may be a long backup (docs/reliability.md says what that means)."""
    path = tmp_path / "a"
    log = log_with_what_failed(path)
    write_over(log_of(path), log)
    with reader_of(path):
        with pytest.raises(StoreUnwritable, match="another process has the store open"):
            sqlite_file.open_connection(path, "full", again=True)
        owner = OwnersConnection(path, "full")
        assert found(owner.raw) == AFTER
        close_keeping_log(owner)


def test_damage_is_damage_the_second_time(tmp_path: Path) -> None:
    """The first time it may be a page that could not be read."""

    def damaged(connection: sqlite3.Connection, batch: Batch, number: int | None) -> None:
        raise error_of(sqlite3.SQLITE_CORRUPT)

    owner = owner_on(tmp_path / "a")
    with patch.object(sqlite_owner, "write_batch", damaged):
        with pytest.raises(JournalFailed) as failure:
            owner.write(in_doubt())
        assert failure.value.passing
        resume(owner)
        with pytest.raises(DamagedStore, match="as told"):
            owner.write(in_doubt())
    owner.close()
    with pytest.raises(JournalFailed, match="an earlier write failed: as told"):
        owner.write(in_doubt())


def test_errors_of_the_disk_while_it_is_opened_are_no_damage() -> None:
    disk = Disk()
    with store_on(disk) as path:
        owner_on(path).close()
        disk.blind = True
        with pytest.raises((ReadFailed, StoreUnwritable)):
            OwnersConnection(path, "full")
        disk.blind = False
        owner = OwnersConnection(path, "full")
        assert found(owner.raw) == BEFORE
        owner.close()


# -- with its threads


async def write_without_waiting(store: SQLiteStore, batch: Batch) -> None:
    """As the journal's writer does, which has no task for it."""
    done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    store.start_write(batch, done.set_result)
    assert not done.done()
    if (error := await done) is not None:
        raise error


Write = Callable[[SQLiteStore, Batch], Awaitable[None]]


@pytest.mark.parametrize("write", [SQLiteStore.write, write_without_waiting])
def test_readers_go_on_until_there_is_hope(tmp_path: Path, write: Write) -> None:
    async def scene() -> None:
        async with await open_store(tmp_path / "data") as store:
            await write(store, batch_of(enqueue(1, 1, b"one")))
            assert await read(store) == BEFORE
            batch = in_doubt()
            with broken_disk(), pytest.raises(JournalFailed):
                await write(store, batch)
            assert await read(store) == BEFORE
            ill = JournalFailed(None, "ill", passing=True)
            with (
                patch.object(OwnersConnection, "probe", side_effect=ill),
                pytest.raises(JournalFailed, match="ill"),
            ):
                await write(store, batch)
            assert await read(store) == BEFORE, "it was not disturbed"
            await write(store, batch)
            assert await read(store) == AFTER
        async with await open_store(tmp_path / "data") as store:
            assert await read(store) == AFTER

    run(scene())


def test_nothing_is_started_once_the_store_is_closed(tmp_path: Path) -> None:
    async def scene() -> None:
        store = await open_store(tmp_path / "data")
        await store.close()
        await write_without_waiting(store, batch_of(Barrier()))
        with pytest.raises(ValueError, match="closed"):
            await write_without_waiting(store, batch_of(enqueue(1, 1)))

    run(scene())


def test_who_begins_to_read_meanwhile_is_to_come_again(tmp_path: Path) -> None:
    """A first look at the log would make an index of what may not be on the disk."""

    async def scene() -> None:
        async with await open_store(tmp_path / "data") as store:
            await store.write(batch_of(enqueue(1, 1, b"one")))
            batch = in_doubt()
            with broken_disk(), pytest.raises(JournalFailed):
                await store.write(batch)
            with pytest.raises(ReadFailed):
                await read(store)
            await store.write(batch)
            assert await read(store) == AFTER

    run(scene())


def test_a_reader_that_failed_is_replaced(tmp_path: Path) -> None:
    async def scene() -> None:
        async with await open_store(tmp_path / "data") as store:
            await store.write(batch_of(enqueue(1, 1, b"one")))
            for code, kind in (
                (sqlite3.SQLITE_IOERR, ReadFailed),
                (sqlite3.SQLITE_CORRUPT, DamagedStore),
            ):
                with (
                    patch.object(sqlite_reading, "read_messages", side_effect=error_of(code)),
                    pytest.raises(kind, match="as told"),
                ):
                    await read(store)
            assert await read(store) == BEFORE

    run(scene())


async def read(store: SQLiteStore) -> set[bytes]:
    return {message.body for message in await stored_messages(store)}
