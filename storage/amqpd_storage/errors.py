"""Everything that can go wrong between the broker and its data directory.

Each error is one line that says what is wrong, where, and what to do, ready to be printed.
None of them ever removes or repairs a file: what stands on the disk is kept.
"""

from __future__ import annotations

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

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"can not write to {path} ({reason}): "
            "make the data directory writable for this user, or choose another one"
        )
        self.path = path


class DamagedStore(StoreError):
    """What stands in the file is not what a broker wrote. The file is left as it is."""

    def __init__(self, path: Path | None, reason: str) -> None:
        super().__init__(
            f"{path or 'the store'} is damaged ({reason}): it was left untouched; "
            "restore the data directory from a backup, or start with another one"
        )
        self.path = path
        self.reason = reason


class StoreTooNew(StoreError):
    """A newer broker wrote the store."""

    def __init__(self, path: Path, version: int, known: int) -> None:
        super().__init__(
            f"{path} was written by a newer amqpd (store version {version}, this one knows "
            f"up to {known}): start the newer amqpd, or choose another data directory"
        )
        self.path = path
        self.version = version


class JournalFailed(StoreError):
    """A batch was not written, and nothing of it is in the store.

    With `disk_full` the same batch may be written again once there is room. Otherwise the store
    accepts no further batch: after a failed flush the kernel may have dropped pages it reported
    once, so a second attempt that succeeds proves nothing. The caller must not confirm anything
    of the batch and should stop; what was committed before is safe.
    """

    def __init__(self, path: Path | None, reason: str, *, disk_full: bool = False) -> None:
        todo = "free some space" if disk_full else "check the disk and start the broker again"
        super().__init__(f"could not write to {path or 'the store'} ({reason}): {todo}")
        self.path = path
        self.disk_full = disk_full
