"""The write-ahead log: when it is written back, and that it outlives a disk that failed."""

from __future__ import annotations

import errno
import multiprocessing
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from amqpd_storage import sqlite_file, sqlite_log
from amqpd_storage.errors import DamagedStore, JournalFailed, StoreUnwritable
from amqpd_storage.sqlite_engine import open_store
from amqpd_storage.sqlite_log import Checkpoints, close_connection, log_of, renew_log
from amqpd_storage.sqlite_writing import write_batch
from tests.simulation.disk import Disk, File, PowerCut
from tests.simulation.sqlite_on_disk import store_on
from tests.storage.contents import batch_of, bodies, commit, enqueue, run, stored_messages

BOTH_WAYS_TO_KEEP_IT = pytest.mark.parametrize("simulated", [False, True])


def pages_of(connection: Any) -> int:
    """How long the log is."""
    ((_, pages, _),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return int(pages)


# -- a new owner copies what it found


def left_behind(path: Path) -> dict[int, bytes]:
    """A store whose owner was killed: the log has a message. What is in it."""
    connection = sqlite_file.open_connection(path, "full")
    commit(connection, enqueue(1, 1, b"one"))
    found = bodies(connection)
    close_connection(connection, path, keeping_log=True)
    return found


def test_the_log_is_copied_with_all_that_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a"
    left_behind(path)
    log = log_of(path)
    log.chmod(0o640)
    content, inode = log.read_bytes(), log.stat().st_ino
    assert renew_log(path)
    assert log.read_bytes() == content
    assert log.stat().st_ino != inode
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert {each.name for each in tmp_path.iterdir()} <= {"a", "a-wal", "a-shm"}


def test_what_a_crash_left_of_a_copy_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "a"
    found = left_behind(path)
    (tmp_path / "a-wal.new").write_bytes(b"x" * 100_000)
    connection = sqlite_file.open_connection(path, "full")
    assert bodies(connection) == found
    connection.close()
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_where_there_is_no_log_there_is_nothing_to_copy(tmp_path: Path) -> None:
    path = tmp_path / "a"
    sqlite_file.open_connection(path, "full").close()
    assert not renew_log(path)
    log_of(path).touch()
    assert not renew_log(path)


def hold(path: Path, held: Event, done: Event) -> None:
    """Read a store for a while."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    connection.execute("SELECT * FROM meta").fetchall()
    held.set()
    done.wait()


@contextmanager
def reader_of(path: Path) -> Iterator[None]:
    """Another process reads it meanwhile, say a backup."""
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    reader = context.Process(target=hold, args=(path, held, done))
    reader.start()
    try:
        assert held.wait(60)
        yield
    finally:
        done.set()
        reader.join()


def test_under_the_eyes_of_a_reader_the_log_stays_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    found = left_behind(path)
    inode = log_of(path).stat().st_ino
    with reader_of(path):
        assert not renew_log(path)
        assert log_of(path).stat().st_ino == inode
        connection = sqlite_file.open_connection(path, "full")
        assert bodies(connection) == found
        connection.close()


# -- flushes that fail


class Forgetful(Disk):
    """The next sync fails, if it is told so, and forgets some of what it should have synced."""

    fails_next = False

    def sync(self, file: File) -> None:
        if self.fails_next:
            self.fails_next = False
            self.failing = range(self.calls, self.calls + 1)
        super().sync(file)


def disk_with_a_failed_flush(seed: int, work: Callable[[Any], None]) -> Disk:
    """A store whose owner did this last, and ended because a sync failed."""
    disk = Forgetful()
    with store_on(disk) as path:
        connection: Any = sqlite_file.open_connection(path, "full")
        commit(connection, enqueue(1, 1, b"safe"))
        disk.forgets = Random(seed)
        disk.fails_next = True
        with pytest.raises(sqlite3.OperationalError):
            work(connection)
        close_connection(connection, path, keeping_log=True)
    disk.kill()
    disk.restart()
    return disk


def write_more(connection: Any) -> None:
    commit(connection, enqueue(1, 2, b"failed" * 3000))


def write_back(connection: Any) -> None:
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def begin_until_cut(disk: Disk, calls: int) -> bool:
    """A new owner opens the store and writes; whether it was told that it is written before the
    power went, after so many calls."""
    disk.cut_at = disk.calls + calls
    connection: Any = None
    written = False
    with store_on(disk) as path:
        with suppress(PowerCut):
            connection = sqlite_file.open_connection(path, "full")
            commit(connection, enqueue(1, 3, b"later"))
            written = True
        disk.powered = False
        with suppress(PowerCut):
            if connection is not None:
                connection.close()
    return written


def survivors(disk: Disk, chance: Random) -> dict[int, bytes]:
    """What is in the store after a power cut."""
    disk.cut(chance, 0.0)
    disk.restart()
    with store_on(disk) as path:
        connection: Any = sqlite_file.open_connection(path, "full")
        found = bodies(connection)
        close_connection(connection, path)
        return found


@pytest.mark.parametrize("work", [write_more, write_back])
@pytest.mark.parametrize("call", range(0, 24, 3))
def test_what_a_failed_flush_forgot_takes_nothing_with_it(
    work: Callable[[Any], None], call: int
) -> None:
    """Neither if the power goes while the next owner begins, nor after that."""
    for seed in range(12):
        disk = disk_with_a_failed_flush(seed, work)
        written = begin_until_cut(disk, call)
        found = survivors(disk, Random(seed))
        assert b"safe" in found.values(), seed
        assert not written or b"later" in found.values(), seed
        assert set(found.values()) <= {b"safe", b"failed" * 3000, b"later"}


def test_without_the_copy_they_would_be_lost() -> None:
    """Or the test above could not fail."""
    lost = 0
    for seed in range(12):
        for call in range(24):
            disk = disk_with_a_failed_flush(seed, write_more)
            with patch.object(sqlite_file, "renew_log", lambda path, alone: False):
                begin_until_cut(disk, call)
            try:
                lost += b"safe" not in survivors(disk, Random(seed)).values()
            except DamagedStore:
                lost += 1
    assert lost


# -- the end of a connection


@BOTH_WAYS_TO_KEEP_IT
def test_after_a_failure_the_log_stays(tmp_path: Path, simulated: bool) -> None:
    def play(path: Any) -> Any:
        connection = sqlite_file.open_connection(path, "full")
        commit(connection, enqueue(1, 1, b"one"))
        close_connection(connection, path, keeping_log=True)
        return log_of(path).stat().st_size

    if simulated:
        with store_on(Disk()) as path:
            assert play(path) > 0
    else:
        assert play(tmp_path / "a") > 0
        assert len(left_behind_in(tmp_path / "a")) == 1


def left_behind_in(path: Path) -> dict[int, bytes]:
    connection = sqlite_file.open_connection(path, "full")
    found = bodies(connection)
    close_connection(connection, path)
    assert not log_of(path).exists()
    return found


def test_a_log_that_cannot_be_written_back_at_the_end_stays() -> None:
    disk = Disk()
    with store_on(disk) as path:
        connection: Any = sqlite_file.open_connection(path, "full")
        commit(connection, enqueue(1, 1, b"one"))
        disk.failing = range(disk.calls, disk.calls + 1)
        close_connection(connection, path)
        assert log_of(path).stat().st_size > 0


# -- when it is written back


@pytest.mark.parametrize("queues", [1, 40])
def test_the_log_is_written_back_when_it_is_long(tmp_path: Path, queues: int) -> None:
    """Whatever a batch changes: two pages, or forty. Then it begins again in the same file."""
    path = tmp_path / "a"
    connection = sqlite_file.open_connection(path, "full")
    checkpoints = Checkpoints(connection, 100)
    sizes = []
    for number in range(1, 300):
        batch = batch_of(*(enqueue(queue, number, b"x" * 500) for queue in range(1, queues + 1)))
        checkpoints.run_if_due(connection)
        write_batch(connection, batch)
        checkpoints.wrote(batch)
        sizes.append(log_of(path).stat().st_size // sqlite_file.PAGE_BYTES)
    assert 50 < sizes[-1] < 300
    connection.close()


def test_a_log_that_somebody_reads_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a"
    connection = sqlite_file.open_connection(path, "full")
    checkpoints = Checkpoints(connection, 10)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM meta").fetchall()
    for number in range(1, 100):
        batch = batch_of(enqueue(1, number, b"x" * 500))
        checkpoints.run_if_due(connection)
        write_batch(connection, batch)
        checkpoints.wrote(batch)
    assert pages_of(connection) > 99
    reader.close()
    checkpoints.count(1000)
    checkpoints.run_if_due(connection)
    commit(connection, enqueue(1, 100))
    assert pages_of(connection) < 10
    connection.close()


def test_a_full_disk_does_not_stop_the_store_while_it_writes_back() -> None:
    disk = Disk()
    with store_on(disk) as path:
        connection: Any = sqlite_file.open_connection(path, "full")
        checkpoints = Checkpoints(connection, 1)
        for number in range(1, 40):
            batch = batch_of(enqueue(1, number, b"x" * 5000))
            commit(connection, *batch.entries)
            checkpoints.wrote(batch)
        disk.full = True  # the file has to grow
        checkpoints.run_if_due(connection)
        disk.full = False
        commit(connection, enqueue(1, 50, b"more"))
        checkpoints.count(100)
        checkpoints.run_if_due(connection)
        assert pages_of(connection) > 0
        connection.close()


def test_writing_back_that_fails_is_noticed() -> None:
    """SQLite, left to itself, would go on without a word."""
    disk = Disk()
    with store_on(disk) as path:
        connection: Any = sqlite_file.open_connection(path, "full")
        checkpoints = Checkpoints(connection, 1)
        commit(connection, enqueue(1, 1, b"one"))
        checkpoints.count(100)
        disk.failing = range(disk.calls, disk.calls + 1)
        with pytest.raises(sqlite3.OperationalError):
            checkpoints.run_if_due(connection)
        close_connection(connection, path, keeping_log=True)


def test_a_store_that_could_not_write_back_writes_nothing_more(tmp_path: Path) -> None:
    def broken(self: Checkpoints, connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async def write() -> None:
        store = await open_store(tmp_path / "data")
        await store.write(batch_of(enqueue(1, 1, b"one")))
        with (
            patch.object(Checkpoints, "run_if_due", broken),
            pytest.raises(JournalFailed, match="disk I/O error"),
        ):
            await store.write(batch_of(enqueue(1, 2, b"two")))
        with pytest.raises(JournalFailed, match="an earlier write failed"):
            await store.write(batch_of(enqueue(1, 3, b"three")))
        with pytest.raises(JournalFailed, match="an earlier write failed"):
            await store.tidy()
        await store.close()
        await store.close()
        assert log_of(store.path).stat().st_size > 0
        async with await open_store(tmp_path / "data") as store:
            assert [message.body for message in await stored_messages(store)] == [b"one"]

    run(write())


def test_a_disk_too_full_to_begin_on_is_named() -> None:
    disk = Disk()
    with store_on(disk) as path:
        connection: Any = sqlite_file.open_connection(path, "full")
        commit(connection, enqueue(1, 1, b"one"))
        close_connection(connection, path, keeping_log=True)
        disk.full = True
        with pytest.raises(StoreUnwritable, match=r"No space left on device.*free some space"):
            sqlite_file.open_connection(path, "full")
        disk.full = False
        connection = sqlite_file.open_connection(path, "full")
        assert list(bodies(connection).values()) == [b"one"]
        connection.close()


def test_a_start_sees_to_the_name_of_its_log(tmp_path: Path) -> None:
    """SQLite flushes the directory, and does not look whether that fails."""
    path = tmp_path / "a"
    sqlite_file.open_connection(path, "full").close()
    failure = OSError(errno.EIO, "Input/output error")
    with (
        patch.object(sqlite_file, "sync_directory", side_effect=failure) as sync,
        pytest.raises(StoreUnwritable, match="Input/output error"),
    ):
        sqlite_file.open_connection(path, "full")
    sync.assert_called_once_with(tmp_path)


def test_the_constant_is_that_of_sqlite() -> None:
    known = getattr(sqlite3, "SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE", 1006)  # from Python 3.12 on
    assert known == sqlite_log.NO_CHECKPOINT_ON_CLOSE
