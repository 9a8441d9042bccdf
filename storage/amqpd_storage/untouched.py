"""Reading a store's file with SQLite so that nothing next to it changes.

SQLite reads a file alone as `immutable`: no locks, no files of its own. With a write-ahead log that
a crash left, it would build an index next to it, so then file and log are copied to a temporary
directory first (`TMPDIR` says where).

The caller sees to it that nobody writes meanwhile (ownership.unowned, or a file of its own).
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from amqpd_storage.errors import StoreError
from amqpd_storage.sqlite_log import log_of


@contextlib.contextmanager
def open_untouched(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads the file and its log. Raises sqlite3.Error, OSError, StoreError."""
    with contextlib.ExitStack() as stack:
        if log_bytes(path):
            connection = _open(_copy(path, stack), "mode=ro")
        else:
            connection = _open(path, "immutable=1")
        stack.callback(connection.close)
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA cell_size_check = ON")
        yield connection


def log_bytes(path: Path) -> int:
    """How long the write-ahead log is; 0 when there is none."""
    try:
        return log_of(path).stat().st_size
    except FileNotFoundError:
        return 0


def _copy(path: Path, stack: contextlib.ExitStack) -> Path:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amqpd-")))
    needed = path.stat().st_size + log_bytes(path)
    if shutil.disk_usage(directory).free < needed:
        raise StoreError(
            f"can not read {path}: with its write-ahead log it has to be copied, which takes "
            f"{needed} bytes in {directory.parent}: set TMPDIR to a place that has them"
        )
    copy = directory / path.name
    shutil.copyfile(path, copy)
    shutil.copyfile(log_of(path), log_of(copy))
    return copy


def _open(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?{how}", uri=True, isolation_level=None, check_same_thread=False
    )
