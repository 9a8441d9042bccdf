"""The journal's engine on SQLite: one file, one writer thread, one round trip a batch.

    store = await open_store(directory, "full")
    recovery = await store.recover()
    messages = await store.read_messages(after, last)
    await store.write(batch)          # returns when the batch is on the disk
    store.start_write(batch, done)    # calls done() when it is
    await store.close()

The thread and its queue are aiosqlite's. What runs in it is plain `sqlite3` (sqlite_file,
sqlite_writing, sqlite_reading), so that a simulator or a test runs the very same code without a
loop.

WAL mode. With durability "full" every commit flushes the write-ahead log before `write` returns.
With "normal" only checkpoints flush: a crash of the process loses nothing, a power cut may lose
the last commits, though never a part of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar, cast

import aiosqlite

from amqpd_storage import sqlite_delays, sqlite_file, sqlite_reading
from amqpd_storage.entries import Backlog, StoredDelay, StoredDelays, StoredMessage
from amqpd_storage.errors import (
    DamagedStore,
    JournalFailed,
    ReadFailed,
    StoreError,
    StoreLocked,
    StoreMissing,
    StoreTooNew,
    StoreUnwritable,
)
from amqpd_storage.journal import Batch
from amqpd_storage.ownership import DirectoryLock
from amqpd_storage.presence import is_there
from amqpd_storage.sqlite_file import FILE_NAME, Durability
from amqpd_storage.sqlite_owner import OwnersConnection
from amqpd_storage.sqlite_writing import write_batch

__all__ = [
    "DamagedStore",
    "Durability",
    "JournalConnection",
    "JournalFailed",
    "Recovery",
    "SQLiteStore",
    "StoreError",
    "StoreLocked",
    "StoreTooNew",
    "StoreUnwritable",
    "open_store",
    "write_batch",
]

R = TypeVar("R")

READS_OF_DAMAGE = 3
"""So often SQLite has to say that the store is damaged, while the system lets all of it be read."""

_ITER_CHUNK_ROWS = 64  # aiosqlite asks for it; used only by its own cursors


class JournalConnection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole function in its thread, as one round trip.

    aiosqlite's public methods make one round trip a statement, each a wake-up of the event loop
    and a fight for the interpreter lock. `_execute` (queue a function, await its result) and
    `_conn` (the raw connection) are its protected members, there for subclasses: all its own
    methods are built on the two, and on the thread's queue, `_tx`. The project pins aiosqlite's
    minor version because of them.
    """

    async def run(self, function: Callable[[sqlite3.Connection], R]) -> R:
        """`function(raw connection)` in the connection's thread."""
        return cast(R, await self._execute(function, self._conn))  # type: ignore[no-untyped-call]

    def start(
        self, function: Callable[[], object], done: Callable[[BaseException | None], None]
    ) -> None:
        """`function()` in the connection's thread; then `done` in the event loop, with None or what
        was raised. Raises ValueError if the connection is closed, as aiosqlite does.

        `_tx`, the queue of its thread, takes a function without a future, too: no task has to be
        woken here.
        """
        if not self._running or self._connection is None:
            raise ValueError("Connection closed")
        self._tx.put_nowait((None, partial(_run, function, done, asyncio.get_running_loop())))


def _run(
    function: Callable[[], object],
    done: Callable[[BaseException | None], None],
    loop: asyncio.AbstractEventLoop,
) -> None:
    error: BaseException | None = None
    try:
        function()
    except BaseException as raised:
        error = raised
    loop.call_soon_threadsafe(done, error)


class Recovery(NamedTuple):
    """What a new owner has to know before it begins."""

    store: SQLiteStore
    definitions: list[tuple[str, str, bytes]]
    """Kind, key and value, ordered by kind and key."""
    delivered: dict[int, int]
    """For each queue id, the position below which everything was handed out."""
    backlogs: dict[int, Backlog]
    """For each queue id with messages, what it has."""
    dropped_queues: set[int]
    """Queue ids that are not to be used: rows of theirs are still to be deleted."""
    message_id_max: int
    """The highest id of a shared message; 0 when there is none."""
    delays: StoredDelays
    """The messages that wait at delayed exchanges."""


class SQLiteStore:
    """An open data directory. Made by `open_store`; `close` it, or use it as `async with`."""

    def __init__(self, owner: OwnersConnection, thread: JournalConnection, lock: DirectoryLock):
        self.path = owner.path
        self.broker_id = owner.meta["broker_id"]
        self.created = owner.meta["created"]
        self._owner = owner
        self._thread = thread
        """What writes. Its own connection is the first one that `owner` had."""
        self._lock = lock
        self._reader: JournalConnection | None = None
        """A second connection with a thread of its own, made when somebody reads messages: they
        need not wait for the commit under way."""
        self._opening = asyncio.Lock()
        self._writing: asyncio.Future[None] | None = None
        """The last one that took a task. The event loop does not keep those that it runs."""

    async def recover(self) -> Recovery:
        """Definitions and numbers; no messages. What was not worth keeping is dropped."""
        await self._read(sqlite_reading.forget_passing)
        return Recovery(
            self,
            await self._read(sqlite_reading.read_definitions),
            await self._read(sqlite_reading.read_delivered),
            await self._read(sqlite_reading.read_backlogs),
            await self._read(sqlite_reading.read_dropped_queues),
            await self._read(sqlite_reading.read_message_id_max),
            await self._read(sqlite_delays.read_delay_counts),
        )

    async def read_messages(
        self,
        after: int,
        last: int = sqlite_reading.LAST_KEY,
        rows_max: int = sqlite_reading.READ_ROWS_MAX,
    ) -> list[StoredMessage]:
        """The next few messages with a key above `after`, up to `last`, in order; [] at the end.

        Raises ReadFailed, and then they may be asked for again; DamagedStore, or StoreMissing.
        """
        return await self._read_beside(
            partial(sqlite_reading.read_messages, after=after, last=last, rows_max=rows_max)
        )

    async def read_delays(
        self, exchange_id: int, after: tuple[int, int], rows_max: int
    ) -> tuple[list[StoredDelay], bool]:
        """The next messages that wait at an exchange, after a due time and sequence, and whether
        these are the last. Raises as `read_messages` does."""
        return await self._read_beside(
            partial(
                sqlite_delays.read_delays, exchange_id=exchange_id, after=after, rows_max=rows_max
            )
        )

    async def _read_beside(self, function: Callable[[sqlite3.Connection], R]) -> R:
        """Read while a commit may be under way."""
        reason = ""
        for _ in range(READS_OF_DAMAGE):
            try:
                return await self._read_with_reader(function)
            except DamagedStore as error:
                raise DamagedStore(self.path, error.reason) from error  # a record knows no path
            except sqlite3.Error as error:
                await self._leave_reader()
                reason = str(error)
                if not sqlite_file.is_damage(error):
                    raise await asyncio.to_thread(self._read_failure, reason) from error
                # Or it could not be read: SQLite does not tell the two apart.
                problem = await asyncio.to_thread(self._owner.unreadable)
                if problem is not None:
                    raise ReadFailed(self.path, problem) from error
        raise DamagedStore(self.path, reason)

    def _read_failure(self, reason: str) -> ReadFailed | StoreMissing:
        try:
            there = is_there(self.path)
        except OSError:
            there = True  # for all one knows
        if not there:
            return StoreMissing(self.path, sqlite_file.BRING_IT_BACK)
        return ReadFailed(self.path, reason)

    async def _read_with_reader(self, function: Callable[[sqlite3.Connection], R]) -> R:
        async with self._opening:
            reader = self._reader
            if reader is None:
                if self._owner.failed:
                    # What it would find in the log may be there by half, and nobody knows better.
                    raise ReadFailed(self.path, "the disk failed, and the store is closed")
                reader = JournalConnection(partial(_open_reader, self.path), _ITER_CHUNK_ROWS)
                await reader
                self._reader = reader
        return await reader.run(function)

    async def _leave_reader(self) -> None:
        """The next one who reads begins anew."""
        async with self._opening:
            if self._reader is not None:
                reader, self._reader = self._reader, None
                await reader.close()

    async def tidy(self) -> bool:
        """Delete some of what is gone, or give some disk space back; whether there is more to do.

        One small transaction in the writer's thread: for moments when nothing is to be written.
        Raises JournalFailed, DamagedStore or StoreMissing.
        """
        return await self._in_thread(self._owner.tidy)

    async def write(self, batch: Batch) -> None:
        """Commit the batch, whole or not at all; returns when it is on the disk.

        Raises JournalFailed, after which the same batch may be given to this again if that is
        `passing`; DamagedStore or StoreMissing. A cancelled caller does not stop the writer: the
        batch may be written nevertheless.
        """
        if not batch.is_empty:  # needs no disk
            await self._in_thread(partial(self._owner.write, batch))

    def start_write(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        """`write`, for who has no task that could wait for it: `done` is called in a later turn of
        the event loop, with None or what `write` raises."""
        if self._owner.failed or batch.is_empty:
            self._start_slowly(batch, done)
        else:
            self._thread.start(partial(self._owner.write, batch), done)

    def _start_slowly(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        def tell(writing: asyncio.Future[None]) -> None:
            if not writing.cancelled():  # or the event loop ends
                done(writing.exception())

        self._writing = asyncio.ensure_future(self.write(batch))
        self._writing.add_done_callback(tell)

    async def _in_thread(self, function: Callable[[], R]) -> R:
        """The writer's. Sees to the disk first, if it has failed."""
        if self._owner.failed:
            # Who reads what can be read is not disturbed before there is hope.
            await self._thread.run(lambda _: self._owner.probe())
            async with self._opening:
                if self._reader is not None:
                    reader, self._reader = self._reader, None
                    await reader.close()
                await self._thread.run(lambda _: self._owner.resume())
        return await self._thread.run(lambda _: function())

    async def close(self) -> None:
        """Write the log back into the file, close it, and give the directory up. Idempotent.

        After a failed write the log stays as it is, for the next owner.
        """
        try:
            await self._leave_reader()
            # ValueError is what aiosqlite says when the connection is closed already.
            with contextlib.suppress(sqlite3.Error, ValueError):
                await self._thread.run(lambda _: self._owner.close())
        finally:
            try:
                await self._thread.close()
            finally:
                self._lock.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _read(self, function: Callable[[sqlite3.Connection], R]) -> R:
        with sqlite_file.explained(self.path):
            try:
                return await self._thread.run(function)
            except sqlite3.Error:
                self._owner.keep_log()
                raise


async def open_store(directory: Path, durability: Durability = "full") -> SQLiteStore:
    """Own a data directory: create it if needed, lock it, open and check its file.

    Raises StoreLocked, StoreUnwritable, ReadFailed, DamagedStore or StoreTooNew. Nothing is
    repaired, and a file that is refused stays as it is.
    """
    sqlite_file.create_directory(directory)
    path = directory / FILE_NAME
    lock = DirectoryLock(directory)
    try:
        # Opened before aiosqlite sees it: when its own opening fails, its thread may outlive the
        # event loop and end in a traceback.
        owner = await asyncio.to_thread(OwnersConnection, path, durability)
        try:
            thread = JournalConnection(lambda: owner.raw, _ITER_CHUNK_ROWS)
            await thread
        except BaseException:
            owner.close()
            raise
    except BaseException:
        lock.release()
        raise
    return SQLiteStore(owner, thread, lock)


def _open_reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",
        uri=True,
        timeout=sqlite_file.BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
