"""The pages of a store's file, read without SQLite.

SQLite gives up at the first thing that is wrong with a file. Whoever wants to know what is still
there reads the pages themselves, each on its own: from the write-ahead log if a whole transaction
in it holds the page, else from the file. Nothing is ever written.

The formats are those of sqlite.org/fileformat2.html: the header of the file (§1.3), the write-ahead
log with its salts and checksums (§4.1, §4.2).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from amqpd_storage.sqlite_file import MAGIC, PAGE_BYTES
from amqpd_storage.sqlite_log import log_of

HEADER_BYTES: Final = 100

_LOG_HEADER: Final = struct.Struct(">8I")
_FRAME_HEADER: Final = struct.Struct(">6I")
_LOG_MAGIC: Final = 0x377F0682
"""The last bit tells the byte order of the checksums: 0 is little-endian."""

_FORMAT: Final = 3007000
_U32: Final = 0xFFFFFFFF


class BadPage(Exception):
    """A page cannot be read, or is not what it should be; `str()` says why."""


class Header(NamedTuple):
    """What the first hundred bytes say, as far as they were not overwritten."""

    is_sound: bool
    """It says that this is an SQLite database, with a page size that there is."""
    pages: int
    first_free_page: int
    reserved_bytes: int
    version: int
    application_id: int


class PageFile:
    """A database file and its log, by page. Raises OSError if neither can be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _open(path)
        self._log_fd = _open(log_of(path))
        try:
            if self._fd < 0 and self._log_fd < 0:
                raise FileNotFoundError(2, os.strerror(2), str(path))
            log = _read_log(self._log_fd) if self._log_fd >= 0 else None
            first = os.pread(self._fd, HEADER_BYTES, 0) if self._fd >= 0 else b""
            self._offsets = log.offsets if log is not None else {}
            self.page_bytes = log.page_bytes if log is not None else _page_bytes(first)
            self.file_bytes = os.fstat(self._fd).st_size if self._fd >= 0 else 0
            self.count = max(
                -(-self.file_bytes // self.page_bytes),
                log.pages if log is not None else 0,
                *self._offsets,
            )
            """How many pages there are to look at, whatever the header says."""
            self.header = self._read_header()
            self.usable_bytes = self.page_bytes - self.header.reserved_bytes
        except BaseException:
            self.close()
            raise

    def read(self, number: int) -> bytes:
        """The page as the last whole transaction left it; pages count from 1. Raises BadPage."""
        if not 1 <= number <= self.count:
            raise BadPage(f"page {number} does not exist")
        offset = self._offsets.get(number)
        try:
            if offset is not None:
                page = os.pread(self._log_fd, self.page_bytes, offset)
            elif self._fd >= 0:
                page = os.pread(self._fd, self.page_bytes, (number - 1) * self.page_bytes)
            else:
                page = b""
        except OSError as error:
            raise BadPage(f"page {number} cannot be read ({error.strerror})") from error
        if len(page) < self.page_bytes:
            raise BadPage(f"page {number} lies beyond the end of the file")
        return page

    def close(self) -> None:
        """Give the files back. Idempotent."""
        for fd in (self._fd, self._log_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._log_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read_header(self) -> Header:
        try:
            head = self.read(1)
        except BadPage:
            return Header(False, 0, 0, 0, 0, 0)
        reserved = head[20]
        is_sound = (
            head.startswith(MAGIC) and _page_bytes(head) == self.page_bytes and reserved <= 32
        )
        pages, first_free = struct.unpack_from(">2I", head, 28)
        version, application_id = struct.unpack_from(">I4xI", head, 60)
        return Header(
            is_sound, pages, first_free, reserved if is_sound else 0, version, application_id
        )


class _Log(NamedTuple):
    page_bytes: int
    pages: int
    offsets: dict[int, int]


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _page_bytes(head: bytes) -> int:
    """The page size in a header of the file; that of our stores when there is none to be had."""
    if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
        return PAGE_BYTES
    size = int.from_bytes(head[16:18], "big")
    size = 65536 if size == 1 else size
    return size if _is_page_size(size) else PAGE_BYTES


def _is_page_size(size: int) -> bool:
    return 512 <= size <= 65536 and size & (size - 1) == 0


def _read_log(fd: int) -> _Log | None:
    """Where the newest version of each page lies, of transactions that are whole; None if none."""
    header = os.pread(fd, _LOG_HEADER.size, 0)
    if len(header) < _LOG_HEADER.size:
        return None
    magic, version, page_bytes, _, salt_1, salt_2, *expected = _LOG_HEADER.unpack(header)
    if magic & ~1 != _LOG_MAGIC or version != _FORMAT or not _is_page_size(page_bytes):
        return None
    order = ">" if magic & 1 else "<"
    sums = _checksum(order, header[:24], (0, 0))
    if list(sums) != expected:
        return None
    committed: dict[int, int] = {}
    pending: dict[int, int] = {}
    pages = 0
    at = _LOG_HEADER.size
    frame_bytes = _FRAME_HEADER.size + page_bytes
    while len(frame := os.pread(fd, frame_bytes, at)) == frame_bytes:
        number, pages_after, frame_salt_1, frame_salt_2, *expected = _FRAME_HEADER.unpack_from(
            frame
        )
        if (frame_salt_1, frame_salt_2) != (salt_1, salt_2) or number == 0:
            break  # of an earlier life of the log
        sums = _checksum(order, frame[:8], sums)
        sums = _checksum(order, frame[_FRAME_HEADER.size :], sums)
        if list(sums) != expected:
            break
        pending[number] = at + _FRAME_HEADER.size
        if pages_after:  # the last frame of a transaction
            committed |= pending
            pending.clear()
            pages = pages_after
        at += frame_bytes
    return _Log(page_bytes, pages, committed) if committed else None


def _checksum(order: str, octets: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(octets) // 4}I", octets)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & _U32
        second = (second + odd + first) & _U32
    return first, second
