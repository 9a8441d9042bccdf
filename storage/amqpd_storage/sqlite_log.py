"""The write-ahead log: when it is written back, and what becomes of it when the disk fails.

What is promised lies in the log until a checkpoint has brought it into the file. Two rules keep it:

- **After a failed flush the log stays.** Linux may drop what it could not write and call the next
  flush a success. So a checkpoint must not fail unseen, as those do that SQLite runs by itself at
  the end of a commit: here each is a statement of its own, whose error stops the store. And SQLite
  writes the log back and deletes it when its last connection closes: not when one failed.
- **What a new owner finds is not on the disk because it can be read.** Frames that a failed flush
  forgot are in the page cache, where they look committed, and what is written behind them would be
  lost with them. So the log is copied to a new file and flushed before SQLite sees it. A crash
  leaves the old one or the new one, and both say the same.

The file itself needs no such copy: the log has every page that was changed since the last
checkpoint that succeeded, and a new owner writes all of them again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from amqpd_storage.journal import Batch
from amqpd_storage.presence import is_there

CHECKPOINT_PAGES: Final = 2048
"""16 MB of log, then it is written back: 25 to 35 ms, where 64 MB took 100 and 4 MB did it four
times as often. Messages that live shortly never reach the file itself."""

RATIO_MIN: Final = 1 / 2
RATIO_MAX: Final = 16.0
"""How wrong the estimate of a batch's pages is taken to be, at most. It is too high by far where
neighbours come and go; but what follows may be of another kind, and the log twice as long by then,
not sixteen times."""

ESTIMATED_PAGE_BYTES: Final = 8192

COPIED_BYTES: Final = 1024 * 1024
"""In one step."""

MODE: Final = 0o600

SHARED_FIRST: Final = 0x40000000 + 2
SHARED_SIZE: Final = 510
"""The octets of a database that every connection of SQLite's to it has locked, shared."""

NO_CHECKPOINT_ON_CLOSE: Final = 1006
"""SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE."""


def log_of(path: Path) -> Path:
    """The write-ahead log of a database."""
    return path.with_name(path.name + "-wal")


class Checkpoints:
    """Writes the log of one connection back whenever it has about `pages_max` pages.

    SQLite says how long the log is when it writes it back, and at no other time. In between the
    length is estimated, by a measure that is corrected with each checkpoint.
    """

    __slots__ = ("_left", "_pages_max", "_ratio", "_weight")

    def __init__(self, connection: sqlite3.Connection, pages_max: int = CHECKPOINT_PAGES) -> None:
        """From here on SQLite does not do it by itself."""
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._pages_max = pages_max
        self._weight = 0.0
        """Pages since the last checkpoint, by the estimate."""
        self._ratio = 1.0
        """True pages for each of these."""
        self._left = 0
        """Pages of the log when the last checkpoint ended, if it begins no new one after that."""

    def wrote(self, batch: Batch) -> float:
        """A batch is in the log; about how many pages that is."""
        pages = 2 + len(batch.entries) / 2 + batch.size_bytes / ESTIMATED_PAGE_BYTES
        self.count(pages)
        return pages * self._ratio

    def count(self, pages: float) -> None:
        """The log has so many pages more, more or less."""
        self._weight += pages

    def run_if_due(self, connection: sqlite3.Connection) -> None:
        """Write the log back if it is long. Raises sqlite3.Error: nothing is to be written then.

        A disk that is full is no such error: what could not be written back is in the log.
        """
        if self._weight * self._ratio < self._pages_max:
            return
        try:
            ((busy, pages, done),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            if not is_full(error):
                raise
            self._weight = 0.0  # not again with the next batch
            return
        if not busy:
            measured = max(pages - self._left, 1) / self._weight
            self._ratio = min(max((self._ratio + measured) / 2, RATIO_MIN), RATIO_MAX)
            self._left = pages if done < pages else 0  # somebody reads what is behind
        self._weight = 0.0


def is_full(error: BaseException) -> bool:
    """Whether SQLite says that there is no room on the disk."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def renew_log(path: Path, *, alone: bool = False) -> bool:
    """See to it that the log of the database is on the disk as it can be read; whether it was
    copied: then its name is still to be made safe. Raises OSError.

    Nobody may open the database meanwhile for writing, and this process may have no connection to
    it. While somebody reads it, nothing is done: they share SQLite's index of the log, which knows
    no frame whose flush failed. If it has to be `alone` that is an error: such an index may as well
    have been made of the log after the failure.
    """
    log = log_of(path)
    if not is_there(log) or not log.stat().st_size:
        return False
    with path.open("r+b") as database:
        try:
            fcntl.lockf(database, fcntl.LOCK_EX | fcntl.LOCK_NB, SHARED_SIZE, SHARED_FIRST)
        except (BlockingIOError, PermissionError):
            if alone:
                raise OSError(errno.EBUSY, "another process has the store open") from None
            return False
        copy = log.with_name(log.name + ".new")
        _copy(log, copy)
        copy.rename(log)
    return True


def _copy(log: Path, copy: Path) -> None:
    like = log.stat()
    target = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
    try:
        if (mode := stat.S_IMODE(like.st_mode)) != MODE:
            os.fchmod(target, mode)
        if os.geteuid() == 0:
            os.fchown(target, like.st_uid, like.st_gid)
        with log.open("rb") as source:
            while chunk := source.read(COPIED_BYTES):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(target, rest) :]
        os.fsync(target)
    finally:
        os.close(target)


def close_connection(
    connection: sqlite3.Connection, path: Path, *, keeping_log: bool = False
) -> None:
    """Write the log back and close; a failure loses nothing, since the log stays then.

    `keeping_log`: a write has failed before. The next owner reads the log.
    """
    if not keeping_log:
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            keeping_log = True
    with _log_kept(connection, path) if keeping_log else contextlib.nullcontext():
        connection.close()


def open_keeper(connection: Any, path: Path) -> sqlite3.Connection | None:
    """What has to be open so that the connection may close without writing the log back; None if
    the connection can do without (Python 3.12 and later). Raises sqlite3.Error.

    Only the last connection writes the log back, and one that may only read cannot. To be had as
    long as the disk is well: whoever needs it may not be able to open a file any more.
    """
    if hasattr(connection, "setconfig"):
        return None
    keeper = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        keeper.execute("PRAGMA schema_version").fetchall()  # from here on it counts
    except BaseException:
        keeper.close()
        raise
    return keeper


@contextlib.contextmanager
def _log_kept(connection: Any, path: Path) -> Iterator[None]:
    """While it lasts, the connection may close without writing the log back."""
    if hasattr(connection, "setconfig"):
        connection.setconfig(NO_CHECKPOINT_ON_CLOSE, True)
        yield
        return
    keeper = None
    with contextlib.suppress(sqlite3.Error, OSError):  # an owner has one since the disk was well
        keeper = open_keeper(connection, path)
    try:
        yield
    finally:
        if keeper is not None:
            keeper.close()
