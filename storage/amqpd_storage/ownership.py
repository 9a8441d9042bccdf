"""One data directory has one owner.

The lock is `flock` on `DIR/amqpd.lock`, so it ends with the process however that ends; the file
stays and holds the owner's pid as text, for the message that a second broker prints.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

from amqpd_storage.errors import StoreLocked, StoreUnwritable

LOCK_NAME: Final = "amqpd.lock"


class DirectoryLock:
    """The exclusive right to a data directory, from construction to `release`.

    Raises StoreLocked when another process (or another store of this one) has it.
    """

    __slots__ = ("_fd",)

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK_NAME
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnwritable(path, error.strerror or str(error)) from error
        try:
            self._lock(directory, path)
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self, directory: Path, path: Path) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreLocked(directory, self._read_pid()) from None
        except OSError as error:  # a file system without locks
            raise StoreUnwritable(path, error.strerror or str(error)) from error
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:  # a full disk
            raise StoreUnwritable(path, error.strerror or str(error)) from error

    def _read_pid(self) -> int | None:
        # None: the owner has the lock, but has not written its number yet.
        text = os.pread(self._fd, 32, 0).strip()
        return int(text) if text.isdigit() else None

    def release(self) -> None:
        """Give the directory up. The file is not removed: a waiting process may hold it open."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the number is a courtesy, the lock is not
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1
