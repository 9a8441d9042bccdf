"""A second file that holds what the store holds, and the way back.

A copy is what one read transaction sees, through SQLite's backup API: a broker may write on
meanwhile, and the copy is the store as it was when the copying began. The log grows until the
transaction ends, since its beginning is still needed.

A file appears whole or not at all: written under a temporary name, checked, flushed, renamed. Where
a symlink stands, what it points to is replaced: it may lead to the volume that backups are kept on.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from amqpd_storage.doctor import examine
from amqpd_storage.errors import (
    DamagedStore,
    StoreMissing,
    StoreUnreadable,
    StoreUnwritable,
    TargetTaken,
)
from amqpd_storage.ownership import LOCK_NAME, DirectoryLock
from amqpd_storage.presence import is_there
from amqpd_storage.sqlite_file import (
    BUSY_TIMEOUT_S,
    FILE_NAME,
    MAGIC,
    check_identity,
    create_directory,
    is_damage,
    sync_directory,
)
from amqpd_storage.sqlite_log import log_of
from amqpd_storage.untouched import open_untouched

COPY_PAGES: Final = 4096
"""So many pages are copied before Ctrl-C is looked for."""

_FOR_THE_TARGET: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
)


def back_up(directory: Path, file: Path, *, force: bool = False) -> int:
    """Copy the store of a data directory to `file`; how many bytes that has.

    The directory may have an owner; its lock is left alone, and nothing is written to the store.
    Raises StoreError.
    """
    path = directory / FILE_NAME
    _check_target(directory, file, force)
    with _reading(path) as connection:
        check_identity(connection, path)
        connection.execute("BEGIN")
        copy_store(connection, path, file, lambda: _check_target(directory, file, force))
    return file.stat().st_size


def restore(file: Path, directory: Path) -> int:
    """Put a backup into an empty data directory, once it has been found whole; its bytes.

    Raises StoreError, and then there is no store in the directory.
    """
    try:
        if not is_there(file):
            raise StoreMissing(file, "name a file that `amqpd backup` wrote")
        if not file.is_file():  # nobody may ever write to a pipe
            todo = "name a file that `amqpd backup` wrote"
            raise StoreUnreadable(file, "it is no regular file", todo)
        problem = examine(file).first_problem
        if problem is not None:
            raise DamagedStore(file, problem)
        with empty_directory(directory) as path, open_untouched(file) as connection:
            copy_store(connection, file, path)
    except DamagedStore as error:
        raise DamagedStore(
            file,
            error.reason,
            "nothing was restored; take an older backup, or put this one into a directory as "
            f"{FILE_NAME} and run `amqpd recover` on that",
        ) from error
    except OSError as error:
        raise StoreUnreadable(file, error) from error
    return path.stat().st_size


@contextlib.contextmanager
def empty_directory(directory: Path) -> Iterator[Path]:
    """Own a directory that has no store yet, made if needed; where its file will be.

    Raises TargetTaken, StoreLocked or StoreUnwritable.
    """
    _check_empty(directory)
    create_directory(directory)
    lock = DirectoryLock(directory)
    try:
        _check_empty(directory)
        yield directory / FILE_NAME
    finally:
        lock.release()


def copy_store(
    connection: sqlite3.Connection,
    path: Path,
    file: Path,
    check_target: Callable[[], None] = lambda: None,
) -> None:
    """Copy what `connection` sees of the store at `path` to `file`, whole or not at all.

    `check_target` may raise just before the file would be replaced.
    """
    with _appearing(file) as temporary:
        target = sqlite3.connect(temporary, isolation_level=None)
        try:
            # Flushed as a whole once it is complete; until then it may be lost.
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            connection.backup(target, pages=COPY_PAGES, progress=lambda *_: None)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _FOR_THE_TARGET:
                raise StoreUnwritable(file, str(error)) from error
            raise _source_error(path, error) from error
        finally:
            target.close()
        _check_copy(temporary, path)
        check_target()


def _check_copy(temporary: Path, path: Path) -> None:
    try:
        with open_untouched(temporary) as copy:
            check_identity(copy, path)
            ((verdict,),) = copy.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.Error as error:
        raise _source_error(path, error) from error
    if verdict != "ok":
        raise DamagedStore(path, " ".join(str(verdict).split()))


@contextlib.contextmanager
def _appearing(file: Path) -> Iterator[Path]:
    """A temporary file that becomes `file`, flushed, if all goes well."""
    place = Path(os.path.realpath(file))
    try:
        fd, name = tempfile.mkstemp(prefix=f"{place.name}.", suffix=".part", dir=place.parent)
        os.close(fd)
    except OSError as error:
        raise StoreUnwritable(file, error.strerror or str(error)) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.rename(place)
        sync_directory(place.parent)
    except OSError as error:
        raise StoreUnwritable(file, error.strerror or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection next to the owner's that cannot write."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise DamagedStore(path, "it is not an SQLite database")
    except FileNotFoundError:
        if is_there(log_of(path)):
            raise DamagedStore(path, "the file is gone, but its log is there") from None
        raise StoreMissing(path, "name the broker's data directory with --data-dir") from None
    except OSError as error:
        raise StoreUnreadable(path, error) from error
    try:
        with contextlib.closing(
            sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro",
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
            )
        ) as connection:
            connection.execute("PRAGMA mmap_size = 0")
            yield connection
    except sqlite3.Error as error:
        raise _source_error(path, error) from error


def _source_error(path: Path, error: sqlite3.Error) -> DamagedStore | StoreUnreadable:
    if is_damage(error):
        return DamagedStore(path, str(error))
    return StoreUnreadable(path, str(error))


def _check_target(directory: Path, file: Path, force: bool) -> None:
    store = Path(os.path.realpath(directory)) / FILE_NAME
    kept = {store, log_of(store), store.with_name(f"{FILE_NAME}-shm"), store.with_name(LOCK_NAME)}
    if Path(os.path.realpath(file)) in kept:
        raise TargetTaken(file, "is the store itself", "name another file")
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreUnwritable(file, error.strerror or str(error)) from error
    if stat.S_ISDIR(mode):
        raise TargetTaken(file, "is a directory", "name a file in it")
    if not stat.S_ISREG(mode):  # renaming the copy to it would remove a device or a pipe
        raise TargetTaken(file, "is no regular file", "name another file")
    if not force:
        raise TargetTaken(file, "exists", "name another file, or overwrite it with --force")


def _check_empty(directory: Path) -> None:
    try:
        names = {path.name for path in directory.iterdir()} - {LOCK_NAME}
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreUnwritable(directory, error.strerror or str(error)) from error
    if names:
        raise TargetTaken(
            directory,
            f"is not empty ({min(names)} is there)",
            "name a directory that is new or empty",
        )
