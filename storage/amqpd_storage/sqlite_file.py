"""The SQLite file: its schema, how it is created, opened and checked. Synchronous.

    entry       key      queue_id << 40 | position      one row per message in a durable queue
                record   BLOB: the message itself, or a run of several, which have the keys that
                         follow; INTEGER: its id in `message`
    run         first, last, remaining, settled         which rows of entry are runs, and what is
                                                        gone of them: see runs
    message     message_id, record                      a message that several rows share, or a
                                                        large one: see large_records
    backlog     queue_id, messages, body_bytes, last    what a queue has, without counting rows;
                                                        and in row 0 the last batch's number
    dropped     first, last                             keys of rows gone, and not deleted yet
    delayed, delayed_count                              see sqlite_delays
    delivered   queue_id, below                         see entries.Delivered
    definition  kind, key, value                        durable things other than messages
    meta        name, value                             schema version, broker id, time of creation

The index `shared_entry` finds the rows that refer to a shared message. Pages that become free can
be given back (`auto_vacuum = INCREMENTAL`, sqlite_tidying).

A new file is made under another name and renamed when it is complete, so a file that is empty, cut
or lacks a table is never "new": it is damaged, and refused.

**To change the schema:** raise SCHEMA_VERSION, change SCHEMA, and add to UPGRADES the function that
brings a file of the version before to the new one. It runs inside the transaction that also writes
the new version number, so that a crash leaves either the old file or the new one. Before the first
of them changes anything, a copy of the file is written next to it: `amqpd.sqlite3.before-vN`, N
being the new version; a file that cannot be copied whole is not upgraded. A new table also needs a
place in salvage.py and rescue.py, which read a damaged file without SQLite.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from amqpd_storage import runs, sqlite_delays
from amqpd_storage.commit_view import BATCH_ROW, create_commit_views
from amqpd_storage.errors import (
    DamagedStore,
    ReadFailed,
    StoreMissing,
    StoreTooNew,
    StoreUnwritable,
)
from amqpd_storage.presence import is_there
from amqpd_storage.sqlite_log import CHECKPOINT_PAGES, close_connection, is_full, log_of, renew_log
from amqpd_storage.sqlite_reading import fill_backlogs

Durability = Literal["full", "normal"]

FILE_NAME: Final = "amqpd.sqlite3"

APPLICATION_ID: Final = 0x616D7170
"""`amqp` in ASCII, in the header of the file: tells our file from any other SQLite database."""

SCHEMA_VERSION: Final = 3
BACKLOGS_SINCE: Final = 2
RUNS_SINCE: Final = 3

SCHEMA: Final = (
    """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entry (key INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE message (message_id INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE INDEX shared_entry ON entry (record) WHERE typeof(record) = 'integer';
CREATE TABLE backlog (
    queue_id INTEGER PRIMARY KEY, messages INTEGER NOT NULL, body_bytes INTEGER NOT NULL,
    last INTEGER NOT NULL
);
CREATE TABLE dropped (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE delivered (queue_id INTEGER PRIMARY KEY, below INTEGER NOT NULL);
CREATE TABLE definition (
    kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
"""
    + sqlite_delays.SCHEMA
    + runs.SCHEMA
)

TABLES: Final = sqlite_delays.TABLES | {
    "meta",
    "entry",
    "message",
    "backlog",
    "dropped",
    "delivered",
    "definition",
    "run",
}


def tables_of(version: int) -> frozenset[str]:
    """The tables of a store of this version."""
    since = {
        BACKLOGS_SINCE: {"backlog", "dropped"} | sqlite_delays.TABLES,
        RUNS_SINCE: {"run"},
    }
    later = [tables for first, tables in since.items() if version < first]
    return frozenset(TABLES.difference(*later))


def _upgrade_from_1(connection: sqlite3.Connection) -> None:
    """Version 2 knows what a queue has, and which rows share a message."""
    connection.execute(
        "CREATE INDEX shared_entry ON entry (record) WHERE typeof(record) = 'integer'"
    )
    connection.execute(
        "CREATE TABLE backlog (queue_id INTEGER PRIMARY KEY, messages INTEGER NOT NULL,"
        " body_bytes INTEGER NOT NULL, last INTEGER NOT NULL)"
    )
    connection.execute("CREATE TABLE dropped (first INTEGER PRIMARY KEY, last INTEGER NOT NULL)")
    fill_backlogs(connection)
    for statement in sqlite_delays.SCHEMA.split(";"):  # executescript would commit
        connection.execute(statement)


def _upgrade_from_2(connection: sqlite3.Connection) -> None:
    """Version 3 knows runs: several messages in a row. Those of before have rows of their own. And
    the number of the last batch is no row of `meta` any more."""
    connection.execute(runs.SCHEMA)
    connection.execute(
        f"INSERT INTO backlog SELECT {BATCH_ROW}, 0, 0, coalesce(sum(value), 0)"
        " FROM meta WHERE name = 'batch'"
    )
    connection.execute("DELETE FROM meta WHERE name = 'batch'")


UPGRADES: Final[Mapping[int, Callable[[sqlite3.Connection], None]]] = {
    1: _upgrade_from_1,
    2: _upgrade_from_2,
}
"""From which version an upgrade starts, and what it does."""

PAGE_BYTES: Final = 8192
"""Measured with 1 KB rows, 500 a commit: 83,000 rows/s at 4096, 117,000 at 8192, 127,000 at 16384.
A commit of one row writes whole pages, so no larger than what brings most of it."""

WAL_KEPT_BYTES: Final = 64 * 1024 * 1024
"""What remains of the log's file after a burst that made it larger."""

CACHE_KIB: Final = 16 * 1024

CHECKED_AT_OPEN_BYTES_MAX: Final = 64 * 1024 * 1024
"""Up to this size the whole structure of the file is checked at every start (a tenth of a second).

Beyond, start-up would wait for it; damage is then found when the page is read, and reported the
same way."""

BUSY_TIMEOUT_S: Final = 10.0
"""How long a commit waits for somebody else's transaction, say of a `sqlite3` shell."""

MAGIC: Final = b"SQLite format 3\0"
"""How every SQLite database begins."""

LOG_MAGIC: Final = b"\x37\x7f\x06"
"""How its write-ahead log begins; the next octet tells the byte order of its checksums."""


def open_connection(
    path: Path, durability: Durability, *, again: bool = False
) -> sqlite3.Connection:
    """Open the store's file, or create it, and check it. Raises StoreError.

    `again`: this process had it open before, and the disk failed. There has to be a store then
    (StoreMissing), and nobody else may have it open.

    The connection may be used from any one thread at a time.
    """
    with explained(path):
        if not is_there(path):
            if again:
                raise StoreMissing(path, BRING_IT_BACK)
            _create(path)
        _check_head(path)
        if renew_log(path, alone=again):
            sync_directory(path.parent)
        connection = sqlite3.connect(
            path,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,  # transactions begin and end where the code says so
            check_same_thread=False,
        )
        try:
            check_identity(connection, path)
            _configure(connection, durability)
            _upgrade(connection, path)
            _check_structure(connection, path)
            create_commit_views(connection)
            # SQLite does that when it first flushes its log, but does not look whether it fails.
            sync_directory(path.parent)
        except BaseException:
            close_connection(connection, path, keeping_log=True)
            raise
    return connection


def open_in_memory() -> sqlite3.Connection:
    """A store without a file, for simulators and tests."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _fill(connection)
    create_commit_views(connection)
    return connection


def _create(path: Path) -> None:
    if is_there(log_of(path)):
        # Without its database a write-ahead log can't be read, and SQLite would delete it.
        raise DamagedStore(path, "the file is gone, but its write-ahead log is there")
    unfinished = path.with_name(path.name + ".new")
    for suffix in ("", "-wal", "-shm"):  # what a crash right here left behind
        path.with_name(unfinished.name + suffix).unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _fill(connection)
        # Not by closing, which would not say if it fails.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    unfinished.rename(path)
    sync_directory(path.parent)


def _fill(connection: sqlite3.Connection) -> None:
    meta = {
        "schema_version": str(SCHEMA_VERSION),
        "broker_id": str(uuid.uuid4()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    connection.executescript(f"BEGIN; {SCHEMA}")
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.execute("INSERT INTO backlog VALUES (?, 0, 0, 0)", (BATCH_ROW,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def sync_directory(directory: Path) -> None:
    """Make names in the directory survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create_directory(directory: Path) -> None:
    """A directory for a store, if it is not there: for its user alone, and safe on the disk."""
    try:
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(directory.parent)
    except OSError as error:
        raise StoreUnwritable(directory, error.strerror or str(error)) from error


def _check_head(path: Path) -> None:
    # Before SQLite opens it: SQLite takes an empty file for a new database, and what it may not
    # write it opens read-only, without a word. Hence `r+`.
    with path.open("r+b") as file:
        head = file.read(len(MAGIC))
    if head == MAGIC:
        return
    # The power may have gone while the log was written back, in the middle of the first page. The
    # log still has that page then, and SQLite takes it from there, or says what is wrong.
    if not head or not _has_log(path):
        raise DamagedStore(path, "it is not an SQLite database")


def _has_log(path: Path) -> bool:
    """Whether there is a write-ahead log of SQLite's. One of somebody else it would delete."""
    log = log_of(path)
    if not is_there(log):
        return False
    with log.open("rb") as file:
        return file.read(len(LOG_MAGIC)) == LOG_MAGIC


def check_identity(connection: sqlite3.Connection, path: Path) -> None:
    """That the file is a store, and of a version that this amqpd knows. Raises StoreError."""
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise DamagedStore(path, "it is an SQLite database, but not amqpd's")
    version = _pragma(connection, "user_version")
    if read_meta(connection).get("schema_version") != str(version):
        raise DamagedStore(path, "its header and its meta table disagree on the version")
    if version > SCHEMA_VERSION:
        raise StoreTooNew(path, version, SCHEMA_VERSION)


def _configure(connection: sqlite3.Connection, durability: Durability) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {durability.upper()}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA mmap_size = 0")  # a damaged disk must be an error, not a SIGBUS
    connection.execute("PRAGMA secure_delete = OFF")  # on in some distributions: writes twice
    connection.execute("PRAGMA cell_size_check = ON")


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """To the version of today, in one transaction: a crash leaves the old one and its copy, and
    the next start makes that copy again of the same."""
    if (version := _pragma(connection, "user_version")) >= SCHEMA_VERSION:
        return
    if version not in UPGRADES:
        raise DamagedStore(path, f"there never was a store version {version}")
    from amqpd_storage.backup import copy_store  # seldom needed, and at no other start

    copy_store(connection, path, path.with_name(f"{path.name}.before-v{SCHEMA_VERSION}"))
    if _pragma(connection, "auto_vacuum") == 0:
        # Version 1 had none. Only a file that is written anew can have it.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version, SCHEMA_VERSION):
            UPGRADES[step](connection)
        connection.execute(
            "UPDATE meta SET value = ? WHERE name = 'schema_version'", (str(SCHEMA_VERSION),)
        )
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _check_structure(connection: sqlite3.Connection, path: Path) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if not tables >= TABLES:
        raise DamagedStore(path, f"tables are missing: {', '.join(sorted(TABLES - tables))}")
    # After a crash the end of the database may still lie in the write-ahead log. Once that is
    # written back, the file must be as long as its header says.
    ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    announced = _pragma(connection, "page_count") * _pragma(connection, "page_size")
    length = path.stat().st_size
    if length < announced and not busy:
        raise DamagedStore(path, f"it is {length} bytes long and should be {announced}")
    if length <= CHECKED_AT_OPEN_BYTES_MAX:
        ((verdict,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise DamagedStore(path, " ".join(str(verdict).split()))


def read_meta(connection: sqlite3.Connection) -> dict[str, str]:
    """What the store says about itself."""
    return dict(connection.execute("SELECT name, value FROM meta"))


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    ((value,),) = connection.execute(f"PRAGMA {name}").fetchall()
    return int(value)


_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

BRING_IT_BACK: Final = (
    "it was there while the broker ran; bring it back with its log (`-wal`), or `amqpd restore` a "
    "backup, then start the broker again"
)

READ_BYTES: Final = 1024 * 1024
"""In one step of reading a file through."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file itself is wrong.

    It says so, too, of a page that the system could not read (EIO becomes SQLITE_IOERR_CORRUPTFS,
    and that SQLITE_CORRUPT): `unreadable` tells the two apart.
    """
    # The low byte is the error, the rest its details. Errors of the module itself have no code. And
    # a schema that names no such table is no schema of ours.
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF in _DAMAGE or code == sqlite3.SQLITE_ERROR)


def unreadable(fd: int) -> str | None:
    """What the system says against reading the whole of an open file; None if nothing.

    Not by the name of a database that this process has open: to close any descriptor of a file is
    to lose all locks on it.
    """
    try:
        offset = 0
        while chunk := os.pread(fd, READ_BYTES, offset):
            offset += len(chunk)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _unreadable_store(path: Path) -> str | None:
    """The same of a store that nobody has open any more."""
    for each in (path, log_of(path)):
        try:
            fd = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            return error.strerror or str(error)
        try:
            if reason := unreadable(fd):
                return reason
        finally:
            os.close(fd)
    return None


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say while opening and reading into a StoreError."""
    try:
        yield
    except DamagedStore as error:
        if reason := _unreadable_store(path):
            raise ReadFailed(path, reason) from error
        if error.path is not None:
            raise
        raise DamagedStore(path, error.reason) from error  # from a record, which knows no path
    except sqlite3.Error as error:
        if is_damage(error):
            if reason := _unreadable_store(path):
                raise ReadFailed(path, reason) from error
            raise DamagedStore(path, str(error)) from error
        raise StoreUnwritable(path, str(error), disk_full=is_full(error)) from error
    except OSError as error:
        disk_full = error.errno == errno.ENOSPC
        reason = error.strerror or str(error)
        raise StoreUnwritable(path, reason, disk_full=disk_full) from error
