"""The connection of a store's owner: it writes, and comes back after the disk failed. Synchronous.

               write, tidy
    open ──────────────────> well <───────────────────────────┐
                              │                               │ the store is what it was,
                              │ error of the disk             │ with the batch in doubt or
                              v             the disk is well  │ without it
                            failed ──probe─────────────────> resume ──anything else──> an error
                              ^   │                           │                        for good
                              └───┴───── it is not yet ───────┘

A commit that failed is in doubt: its transaction may be in the log, whole, with its flush undone.
So nothing of it counts before the store was opened again as by a new owner: the connection is
closed without writing the log back, the log is copied to a new file and flushed, and what can be
read of it then is on the disk (sqlite_log). The number of the last batch is in every commit. If it
is that of the batch in doubt, the batch is safe, and is not written a second time; if it is the one
before, nothing of the batch is there. With any other number the disk has lost what it said it had
flushed, or this is another store: the broker in memory knows better, and cannot go on with it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from amqpd_storage import sqlite_file, sqlite_log
from amqpd_storage.errors import DamagedStore, JournalFailed, ReadFailed, StoreUnwritable
from amqpd_storage.journal import Batch
from amqpd_storage.log_space import LogSpace
from amqpd_storage.sqlite_file import Durability
from amqpd_storage.sqlite_reading import read_batch_number
from amqpd_storage.sqlite_tidying import tidy
from amqpd_storage.sqlite_writing import write_batch

R = TypeVar("R")

PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
)
"""Errors of a disk that may be well again. The last two are what SQLite says of a page that cannot
be read; if there is damage indeed, it is found when the store is opened again, or by the second
time."""

TIDIED_PAGES: Final = 256
"""What a step of tidying adds to the log, roughly."""

PROBE_NAME: Final = "amqpd.probe"

PROBE: Final = bytes(4096)


class OwnersConnection:
    """What writes to a store, from one thread at a time."""

    def __init__(
        self,
        path: Path,
        durability: Durability,
        checkpoint_pages: int = sqlite_log.CHECKPOINT_PAGES,
    ) -> None:
        """Open or create it. Raises StoreError."""
        self.path = path
        self._durability: Durability = durability
        self._checkpoint_pages = checkpoint_pages
        self.raw: sqlite3.Connection
        """Another one after `resume`."""
        self._closed: bool
        """It is no connection any more."""
        self._plain: int | None = None
        """The file, for reading it through. Open as long as `raw` is: see `unreadable`."""
        self._keeper: sqlite3.Connection | None = None
        self.failed = False
        """The disk has failed, and the connection is closed: `resume` comes next."""
        self._given_up: str | None = None
        """Why nothing is written any more."""
        self._in_doubt: Batch | None = None
        """Its commit failed."""
        self._found: Batch | None = None
        """It was in doubt, and is there."""
        self._damage_seen = False
        """SQLite said that the file is damaged, though all of it could be read."""
        self._open()
        try:
            with sqlite_file.explained(path):
                self.meta = sqlite_file.read_meta(self.raw)
                self._number = read_batch_number(self.raw)
                """Of the last batch that is surely there."""
        except BaseException:
            self._close(keeping_log=True)
            raise

    def _open(self, *, again: bool = False) -> None:
        raw = sqlite_file.open_connection(self.path, self._durability, again=again)
        self.raw = raw
        self._closed = False
        try:
            with sqlite_file.explained(self.path):
                self._keeper = sqlite_log.open_keeper(raw, self.path)
                self._plain = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                self._checkpoints = sqlite_log.Checkpoints(raw, self._checkpoint_pages)
                # Without a flush at each commit it makes no difference.
                pages_max = self._checkpoint_pages if self._durability == "full" else 0
                self._space = LogSpace(sqlite_log.log_of(self.path), pages_max)
        except BaseException:
            self._close(keeping_log=True)
            raise

    def write(self, batch: Batch) -> None:
        """Commit the batch, whole or not at all; returns when it is on the disk.

        Raises JournalFailed or DamagedStore. After a failure that may pass this is to be called
        again with the same batch, after `resume` if the disk has `failed`.
        """
        if batch.is_empty:
            return
        if batch is self._found:
            self._found = None
            return
        self._attempt(partial(self._write, batch), batch)
        self._number += 1

    def _write(self, batch: Batch) -> None:
        self._checkpoints.run_if_due(self.raw)
        self._space.make()
        write_batch(self.raw, batch, self._number + 1)
        self._space.used(self._checkpoints.wrote(batch))

    def tidy(self) -> bool:
        """A small step of what can wait; whether there is more to do. Raises as `write` does."""
        return self._attempt(self._tidy, None)

    def _tidy(self) -> bool:
        self._checkpoints.run_if_due(self.raw)
        more = tidy(self.raw)
        if more:
            self._checkpoints.count(TIDIED_PAGES)
        return more

    def _attempt(self, function: Callable[[], R], batch: Batch | None) -> R:
        if self._given_up is not None:
            raise JournalFailed(self.path, f"an earlier write failed: {self._given_up}")
        if self.failed:
            raise JournalFailed(self.path, "the disk failed, and the store is closed", passing=True)
        try:
            result = function()
        except (sqlite3.Error, OSError, MemoryError) as error:
            raise self._failure(error, batch) from error
        self._damage_seen = False
        return result

    def _failure(self, error: Exception, batch: Batch | None) -> DamagedStore | JournalFailed:
        """What has become of an attempt."""
        reason = str(error)
        if sqlite_log.is_full(error):  # before anything of it was flushed
            return JournalFailed(self.path, reason, disk_full=True)
        kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if kind not in PASSING:
            self._given_up = reason
            self._close(keeping_log=True)
            return JournalFailed(self.path, reason)
        if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            problem = self.unreadable()
            if problem is None and self._damage_seen:
                self._given_up = reason
                self._close(keeping_log=True)
                return DamagedStore(self.path, reason)
            self._damage_seen |= problem is None
            reason = problem or reason
        self.failed = True
        self._in_doubt = batch
        self._close(keeping_log=True)
        return JournalFailed(self.path, reason, passing=True)

    def probe(self) -> None:
        """Whether the disk takes anything: before `resume`, while others may go on reading.

        Raises JournalFailed, which may pass.
        """
        probe = self.path.with_name(PROBE_NAME)
        try:
            fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, PROBE)
                os.fsync(fd)
            finally:
                os.close(fd)
            probe.unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise JournalFailed(self.path, reason, passing=True) from error

    def resume(self) -> None:
        """Open the store again, and find out what became of the batch in doubt.

        The disk has `failed`, and this process has no other connection to the store. Raises
        JournalFailed, which passes while the disk is not well, DamagedStore, or StoreMissing.
        """
        try:
            self._open(again=True)
        except (StoreUnwritable, ReadFailed) as error:
            full = isinstance(error, StoreUnwritable) and error.disk_full
            raise JournalFailed(self.path, error.reason, disk_full=full, passing=True) from error
        try:
            with sqlite_file.explained(self.path):
                meta = sqlite_file.read_meta(self.raw)
                number = read_batch_number(self.raw)
        except (StoreUnwritable, ReadFailed) as error:
            self._close(keeping_log=True)
            raise JournalFailed(self.path, error.reason, passing=True) from error
        self._compare(meta["broker_id"], number)
        self.failed = False

    def _compare(self, broker_id: str, number: int) -> None:
        """That it is the store which this broker knows."""
        if broker_id != self.meta["broker_id"]:
            self._given_up = "it is another store than the one that this broker had opened"
        elif number == self._number + 1 and self._in_doubt is not None:
            self._found = self._in_doubt
            self._number = number
        elif number != self._number:
            self._given_up = (
                f"the disk has lost what it said it had flushed: batch {self._number} was the last "
                f"one, it has batch {number}"
            )
        self._in_doubt = None
        if self._given_up is not None:
            self._close(keeping_log=True)
            raise JournalFailed(self.path, self._given_up)

    def unreadable(self) -> str | None:
        """What the system says against reading the whole store; None if it lets it be read."""
        return None if self._plain is None else sqlite_file.unreadable(self._plain)

    def close(self) -> None:
        """Write the log back into the file, and close it. After a failure the log stays as it is,
        for the next owner. Idempotent."""
        if not self.failed:
            self._close(keeping_log=self._given_up is not None)

    def keep_log(self) -> None:
        """What was read is not to be trusted: write nothing back."""
        self._given_up = self._given_up or "the store could not be read"

    def _close(self, *, keeping_log: bool) -> None:
        if self._closed:
            return
        self._closed = True
        if not keeping_log:
            self._release_keeper()  # only the last connection removes the log
        sqlite_log.close_connection(self.raw, self.path, keeping_log=keeping_log)
        self._release_keeper()
        if self._plain is not None:
            os.close(self._plain)
            self._plain = None

    def _release_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
