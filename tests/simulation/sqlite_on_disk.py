"""The store's own code on the simulated disk: SQLite through a VFS, `Path` and `os` beside it.

    sqlite_file.open_connection, write_batch, read_*      the code under test, as it is
        sqlite3.Connection's methods  ->  Connection      (apsw underneath)
            SQLite, WAL mode
                VFS  ->  DiskFile  ->  Disk
        Path, os                      ->  DiskPath, DiskOS  ->  Disk

apsw brings a SQLite of its own, newer than most Pythons'. tests/storage/test_crash_points.py holds
the two together: what one of them left on the disk, the other reads back.

A VFS written in Python has no shared memory, so the connection is in `locking_mode=EXCLUSIVE`, and
the index of the write-ahead log is in the heap. It is never read after a crash in either case:
SQLite rebuilds it from the log.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace, TracebackType
from typing import Any, Final, Self, cast
from unittest.mock import patch

import apsw

from amqpd_storage import log_space, sqlite_file, sqlite_log, sqlite_owner
from tests.simulation.disk import Disk, DiskError, DiskFull, File, PowerCut

VFS_NAME: Final = "amqpd-simulation"
POWERSAFE_OVERWRITE: Final = apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE
EIO_WHILE_READING: Final = apsw.SQLITE_IOERR_CORRUPTFS
"""What the unix VFS makes of it, and SQLite then takes for damage."""
SECTOR_BYTES: Final = 4096
"""What SQLite's own unix VFS reports; what really tears is the disk's affair."""
NO_LOCKS: Final = SimpleNamespace(LOCK_EX=0, LOCK_NB=0, lockf=lambda *about: None)
FIXED_TIME: Final = datetime(2024, 1, 1, tzinfo=UTC)


class DiskFile:
    """An open file, as SQLite wants it.

    Without power, what SQLite does has no effect. It does not hear of it: `Connection` raises
    PowerCut when the statement ends, whatever SQLite made of it.
    """

    def excepthook(
        self,
        etype: type[BaseException] | None,
        evalue: BaseException | None,
        etraceback: TracebackType | None,
    ) -> bool:
        """Where SQLite has nobody to tell, what the disk was told to make goes no further."""
        return isinstance(evalue, apsw.Error)

    def __init__(self, disk: Disk, file: File, *, names_unsynced: bool) -> None:
        self._disk = disk
        self._file = file
        self._names_unsynced = names_unsynced
        """SQLite's unix VFS syncs the directory with the first sync of a log or journal that it
        opened and would have created (`isNewJrnl` in its source; it may have been there)."""

    def xRead(self, amount: int, offset: int) -> bytes:
        """pread; short at the end of the file."""
        try:
            return self._disk.read(self._file, offset, amount)
        except DiskError:
            raise apsw.exception_for(EIO_WHILE_READING) from None

    def xWrite(self, data: bytes, offset: int) -> None:
        """pwrite."""
        with self._told():
            self._disk.write(self._file, offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        """ftruncate."""
        with self._told():
            self._disk.truncate(self._file, size)

    def xSync(self, flags: int) -> None:
        """fsync."""
        with self._told():
            self._disk.sync(self._file)
            if self._names_unsynced:
                self._names_unsynced = False
                with suppress(DiskError):  # SQLite does not look whether that fails
                    self._disk.sync_names()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite hears of the disk: its errors, and nothing of a power cut."""
        try:
            yield
        except PowerCut:
            pass
        except DiskError as error:
            code = apsw.SQLITE_FULL if isinstance(error, DiskFull) else apsw.SQLITE_IOERR_WRITE
            raise apsw.exception_for(code) from None

    def xFileSize(self) -> int:
        """fstat."""
        return len(self._file.volatile)

    def xClose(self) -> None:
        """close."""

    def xLock(self, level: int) -> None:
        """There is nobody else."""

    def xUnlock(self, level: int) -> None:
        """There is nobody else."""

    def xCheckReservedLock(self) -> bool:
        """There is nobody else."""
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        """Nothing of it is known here."""
        return False

    def xSectorSize(self) -> int:
        """What the unix VFS says."""
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        """What the unix VFS says."""
        return POWERSAFE_OVERWRITE


class DiskVFS(apsw.VFS):
    """All simulated disks: a file's name is `/number of the disk/name`."""

    def excepthook(
        self,
        etype: type[BaseException] | None,
        evalue: BaseException | None,
        etraceback: TracebackType | None,
    ) -> bool:
        """Where SQLite has nobody to tell, what the disk was told to make goes no further."""
        return isinstance(evalue, apsw.Error)

    def __init__(self) -> None:
        self.disks: dict[int, Disk] = {}
        self.numbers = count()  # none is used again: a connection may outlive its disk
        self.chance = Random(0)
        super().__init__(VFS_NAME, "", makedefault=True)

    def find(self, path: str) -> tuple[Disk, str]:
        """Whose file, and which: of a dead disk for a connection that has outlived its own."""
        _, number, name = path.split("/")
        disk = self.disks.get(int(number))
        if disk is None:
            disk = Disk()
            disk.powered = False
        return disk, name

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        """open."""
        if name is None:  # a temporary file of SQLite's own
            return DiskFile(Disk(), File(), names_unsynced=False)
        disk, local = self.find(name if isinstance(name, str) else name.filename())
        file = disk.names.get(local)
        creating = bool(flags[0] & apsw.SQLITE_OPEN_CREATE)
        if file is None:
            if not creating:
                raise apsw.exception_for(apsw.SQLITE_CANTOPEN)
            file = File()
            with suppress(PowerCut):
                try:
                    file = disk.create(local)
                except DiskError:
                    raise apsw.exception_for(apsw.SQLITE_CANTOPEN) from None
        is_journal = flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL)
        flags[1] = flags[0]
        return DiskFile(disk, file, names_unsynced=creating and bool(is_journal))

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """unlink."""
        disk, local = self.find(filename)
        if not disk.powered:
            return
        if local not in disk.names:
            raise apsw.exception_for(apsw.SQLITE_IOERR_DELETE_NOENT)
        with suppress(PowerCut):
            try:
                disk.unlink(local)
                if syncdir:
                    disk.sync_names()
            except DiskError:
                raise apsw.exception_for(apsw.SQLITE_IOERR_DELETE) from None

    def xAccess(self, pathname: str, flags: int) -> bool:
        """Whether a file is there."""
        disk, local = self.find(pathname)
        return local in disk.names

    def xFullPathname(self, name: str) -> str:
        """It is full already."""
        return name

    def xRandomness(self, numbytes: int) -> bytes:
        """Salts of the write-ahead log."""
        return self.chance.randbytes(numbytes)


_vfs: DiskVFS | None = None


def the_vfs() -> DiskVFS:
    """Registered on first use: once in a process."""
    global _vfs  # noqa: PLW0603
    if _vfs is None:
        _vfs = DiskVFS()
    return _vfs


class Cursor:
    """What the store uses of `sqlite3.Cursor`."""

    def __init__(self, cursor: apsw.Cursor, disk: Disk, changes: int) -> None:
        self._cursor = cursor
        self._disk = disk
        self.rowcount = changes

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with translated(self._disk):
            return next(self._cursor)

    def fetchall(self) -> list[Any]:
        """All rows."""
        with translated(self._disk):
            return list(self._cursor)

    def close(self) -> None:
        """The statement is done with."""
        self._cursor.close(True)


class Blob:
    """What the store uses of `sqlite3.Blob`."""

    def __init__(self, raw: apsw.Blob, disk: Disk) -> None:
        self._raw = raw
        self._disk = disk

    def __len__(self) -> int:
        return self._raw.length()

    def read(self, octets: int) -> bytes:
        """At most so many, from where the last call ended."""
        with translated(self._disk):
            return self._raw.read(octets)

    def write(self, octets: bytes) -> None:
        """Over what is there."""
        with translated(self._disk):
            self._raw.write(octets)

    def seek(self, offset: int) -> None:
        """From the beginning."""
        self._raw.seek(offset)


class Connection:
    """What the store uses of `sqlite3.Connection`, on a file of a simulated disk."""

    def __init__(self, disk: Disk, path: DiskPath) -> None:
        self._disk = disk
        with translated(disk):
            self._raw = apsw.Connection(path.full, vfs=VFS_NAME)
        try:
            self.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.execute("PRAGMA temp_store = MEMORY")
        except BaseException:
            self.close()
            raise

    @property
    def in_transaction(self) -> bool:
        """Whether BEGIN was said, and no end to it."""
        return self._raw.in_transaction

    def execute(self, sql: str, parameters: Any = ()) -> Cursor:
        """One statement."""
        with translated(self._disk):
            cursor = self._raw.cursor()
            cursor.execute(sql, parameters)
            return Cursor(cursor, self._disk, self._raw.changes())

    def executemany(self, sql: str, parameters: Any) -> None:
        """One statement, often."""
        with translated(self._disk):
            self._raw.executemany(sql, parameters)

    def executescript(self, sql: str) -> None:
        """Several statements."""
        with translated(self._disk):
            self._raw.execute(sql)

    @contextmanager
    def blobopen(
        self, table: str, column: str, row: int, *, readonly: bool = False
    ) -> Iterator[Blob]:
        """The column of a row, to be read and written in place."""
        with translated(self._disk):
            raw = self._raw.blob_open("main", table, column, row, not readonly)
        try:
            yield Blob(raw, self._disk)
        finally:
            raw.close(True)

    def setconfig(self, option: int, enable: bool) -> None:
        """As in Python 3.12."""
        self._raw.config(option, enable)

    def close(self) -> None:
        """Closes even without power; whether something failed is not said."""
        with suppress(sqlite3.OperationalError), translated(self._disk):
            self._raw.close()


@contextmanager
def translated(disk: Disk) -> Iterator[None]:
    """What apsw says, as sqlite3 says it."""
    try:
        yield
        disk.require_power()
    except apsw.Error as error:
        if not disk.powered:
            raise PowerCut from None
        translation = sqlite3.OperationalError(str(error))
        translation.sqlite_errorcode = getattr(error, "extendedresult", 1)
        raise translation from error


# -- what the store uses of the operating system


class DiskPath:
    """What the store uses of `pathlib.Path`. The parent of a file is the disk itself."""

    def __init__(self, disk: Disk, number: int, name: str) -> None:
        self.disk = disk
        self.name = name
        self._number = number
        self.full = f"/{number}/{name}"

    def __str__(self) -> str:
        return self.full

    @property
    def parent(self) -> DiskPath:
        """The directory."""
        return DiskPath(self.disk, self._number, "")

    def with_name(self, name: str) -> DiskPath:
        """A file beside it."""
        return DiskPath(self.disk, self._number, name)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove it."""
        if self.name in self.disk.names:
            with told_by_the_system():
                self.disk.unlink(self.name)
        else:
            assert missing_ok

    def rename(self, target: DiskPath) -> None:
        """Give it another name."""
        with told_by_the_system():
            self.disk.rename(self.name, target.name)

    def open(self, mode: str) -> BytesIO:
        """For reading it."""
        self.disk.require_power()
        file = self.disk.names[self.name]
        with told_by_the_system():
            return BytesIO(self.disk.read(file, 0, len(file.volatile)))

    def stat(self) -> Any:
        """Its size. Raises FileNotFoundError."""
        self.disk.require_power()
        if self.name not in self.disk.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.name)
        size = len(self.disk.names[self.name].volatile)
        return SimpleNamespace(st_size=size, st_mode=0o600, st_uid=0, st_gid=0)


@contextmanager
def told_by_the_system() -> Iterator[None]:
    """Errors of the disk as `os` says them."""
    try:
        yield
    except DiskError as error:
        number = errno.ENOSPC if isinstance(error, DiskFull) else errno.EIO
        raise OSError(number, os.strerror(number)) from error


class Descriptor:
    """An open file, or the directory."""

    def __init__(self, disk: Disk, file: File | None) -> None:
        self.disk = disk
        self.file = file
        self.position = 0


class DiskOS:
    """What the store uses of `os`."""

    O_RDONLY, O_WRONLY, O_RDWR, O_CREAT = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_CREAT
    O_EXCL, O_TRUNC, O_CLOEXEC, O_DIRECTORY = os.O_EXCL, os.O_TRUNC, os.O_CLOEXEC, os.O_DIRECTORY

    def open(self, path: DiskPath, flags: int, mode: int = 0) -> Descriptor:
        """Open a file, which may be new, or the directory."""
        disk = path.disk
        if flags & self.O_DIRECTORY:
            return Descriptor(disk, None)
        disk.require_power()
        with told_by_the_system():
            file = disk.names.get(path.name)
            if file is None:
                if not flags & self.O_CREAT:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                file = disk.create(path.name)
            elif flags & self.O_TRUNC:
                disk.truncate(file, 0)
        return Descriptor(disk, file)

    def write(self, descriptor: Descriptor, data: memoryview) -> int:
        """Behind what was written before."""
        assert descriptor.file is not None
        with told_by_the_system():
            descriptor.disk.write(descriptor.file, descriptor.position, bytes(data))
        descriptor.position += len(data)
        return len(data)

    def pwrite(self, descriptor: Descriptor, data: bytes, offset: int) -> int:
        """Over what is there, and behind it."""
        assert descriptor.file is not None
        with told_by_the_system():
            descriptor.disk.write(descriptor.file, offset, data)
        return len(data)

    def pread(self, descriptor: Descriptor, size: int, offset: int) -> bytes:
        """At most so many octets from there."""
        assert descriptor.file is not None
        with told_by_the_system():
            return descriptor.disk.read(descriptor.file, offset, size)

    def fsync(self, descriptor: Descriptor) -> None:
        """Of a file, or of the directory."""
        with told_by_the_system():
            if descriptor.file is None:
                descriptor.disk.sync_names()
            else:
                descriptor.disk.sync(descriptor.file)

    def close(self, descriptor: Descriptor) -> None:
        """Nothing to do."""

    def geteuid(self) -> int:
        """Not the superuser."""
        return 1000


class _SQLite3:
    """The module `sqlite3`, but for `connect`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sqlite3, name)

    def connect(self, path: DiskPath, **how: Any) -> Connection:
        """Open a file of a simulated disk; `how` is about threads and transactions."""
        return Connection(path.disk, path)


@contextmanager
def store_on(disk: Disk, seed: int = 0) -> Iterator[Path]:
    """While it lasts, the store's code finds this disk under the path."""
    vfs = the_vfs()
    number = next(vfs.numbers)
    vfs.disks[number] = disk
    vfs.chance = Random(seed)
    apsw.randomness(0)  # SQLite's generator begins again, with what the VFS gives it
    fixed: dict[str, Any] = {
        "os": DiskOS(),
        "sqlite3": _SQLite3(),
        "uuid": SimpleNamespace(uuid4=lambda: "00000000-0000-4000-8000-000000000000"),
        "datetime": SimpleNamespace(now=lambda zone: FIXED_TIME),
    }
    try:
        with (
            patch.multiple(sqlite_file, **fixed),
            patch.multiple(sqlite_log, os=fixed["os"], fcntl=NO_LOCKS),
            patch.object(sqlite_owner, "os", fixed["os"]),
            patch.object(log_space, "os", fixed["os"]),
        ):
            yield cast(Path, DiskPath(disk, number, sqlite_file.FILE_NAME))
    finally:
        del vfs.disks[number]
