"""Everything that can go wrong between the broker and its data directory.

Each error is one line that says what is wrong, where, and what to do, ready to be printed.
None of them ever removes or repairs a file: what stands on the disk is kept.
"""

from __future__ import annotations

import shlex
from pathlib import Path


class StoreError(Exception):
    """The store can not be opened, read or written."""


class StoreLocked(StoreError):
    """Another broker owns the data directory; `pid` is None when it can't be read."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        owner = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"data directory {directory} is in use by {owner}: "
            "stop that broker first, or choose another data directory"
        )
        self.directory = directory
        self.pid = pid


class StoreUnwritable(StoreError):
    """The data directory can not be created, opened or written."""

    def __init__(self, path: Path, reason: str, *, disk_full: bool = False) -> None:
        todo = "make the data directory writable for this user, or choose another one"
        if disk_full:
            todo = "free some space"
        super().__init__(f"can not write to {path} ({reason}): {todo}")
        self.path = path
        self.reason = reason
        self.disk_full = disk_full


class DamagedStore(StoreError):
    """What stands in the file is not what a broker wrote. The file is left as it is."""

    def __init__(self, path: Path | None, reason: str, todo: str | None = None) -> None:
        if todo is None:
            where = f" --data-dir {shlex.quote(str(path.parent))}" if path is not None else ""
            todo = (
                f"it was left untouched; `amqpd doctor{where}` says what is whole, `amqpd recover` "
                "saves that into a new directory, `amqpd restore` brings a backup back"
            )
        super().__init__(f"{path or 'the store'} is damaged ({reason}): {todo}")
        self.path = path
        self.reason = reason


class StoreMissing(StoreError):
    """There is no store where one should be read."""

    def __init__(self, path: Path, todo: str) -> None:
        super().__init__(f"{path} does not exist: {todo}")
        self.path = path


class StoreUnreadable(StoreError):
    """The system does not let the store be read, or what was named can be none."""

    def __init__(self, path: Path, reason: str | OSError, todo: str | None = None) -> None:
        if todo is None:
            todo = "run this as the broker's user"
            if isinstance(reason, NotADirectoryError):
                todo = "name the broker's data directory with --data-dir"
        if isinstance(reason, OSError):
            reason = reason.strerror or str(reason)
        super().__init__(f"can not read {path} ({reason}): {todo}")
        self.path = path


class TargetTaken(StoreError):
    """What would be written is there already; nothing is overwritten."""

    def __init__(self, path: Path, reason: str, todo: str) -> None:
        super().__init__(f"{path} {reason}: {todo}")
        self.path = path


class StoreTooNew(StoreError):
    """A newer broker wrote the store."""

    def __init__(self, path: Path, version: int, known: int) -> None:
        super().__init__(
            f"{path} was written by a newer amqpd (store version {version}, this one knows "
            f"up to {known}): start the newer amqpd, or choose another data directory"
        )
        self.path = path
        self.version = version


class ReadFailed(StoreError):
    """What lies in the store could not be read. It is still there, and may be asked for again."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"could not read from {path} ({reason}): "
            "check the disk, and the store with `amqpd doctor`; then start the broker again"
        )
        self.path = path
        self.reason = reason


class JournalFailed(StoreError):
    """A batch was not written, as far as anybody can tell. Nothing of it may be confirmed.

    With `passing` the same batch, the very object, may be given to the store again. The store finds
    out then what became of it, writes it if it is not there, and says once it is surely on the
    disk; or raises this again. `disk_full` is a kind of that. Otherwise the store takes no further
    batch, and the caller should stop: what was committed before is safe.
    """

    def __init__(
        self, path: Path | None, reason: str, *, disk_full: bool = False, passing: bool = False
    ) -> None:
        todo = (
            "free some space"
            if disk_full
            else "check the disk, and the store with `amqpd doctor`; then start the broker again"
        )
        super().__init__(f"could not write to {path or 'the store'} ({reason}): {todo}")
        self.path = path
        self.reason = reason
        self.disk_full = disk_full
        self.passing = passing or disk_full
