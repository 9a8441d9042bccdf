"""One data directory has one owner.

The lock is `flock` on `DIR/amqpd.lock`, so it ends with the process however that ends; the file
stays and holds the owner's pid as text, for the message that a second broker prints.

Who only wants to read a directory that nobody owns takes a share in the same lock (`unowned`):
several may, and a broker may not begin meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from amqpd_storage.errors import StoreLocked, StoreUnreadable, StoreUnwritable

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
            raise StoreLocked(directory, _read_pid(self._fd)) from None
        except OSError as error:  # a file system without locks
            raise StoreUnwritable(path, error.strerror or str(error)) from error
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:  # a full disk
            raise StoreUnwritable(path, error.strerror or str(error)) from error

    def release(self) -> None:
        """Give the directory up. The file is not removed: a waiting process may hold it open."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the number is a courtesy, the lock is not
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def unowned(directory: Path) -> Iterator[None]:
    """No broker owns the directory, and none will until this ends. Changes nothing in it.

    Raises StoreLocked or StoreUnreadable. Without a lock file there was never an owner (or this is
    a copy of a directory), and there is nothing to take a share in.
    """
    path = directory / LOCK_NAME
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    except OSError as error:
        raise StoreUnreadable(path, error) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreLocked(directory, _read_pid(fd)) from None
        except OSError as error:
            raise StoreUnreadable(path, error) from error
        yield
    finally:
        os.close(fd)


def _read_pid(fd: int) -> int | None:
    # None: the owner has the lock, but has not written its number yet.
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None
