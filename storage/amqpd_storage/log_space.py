"""Room in the file of the log, before it is needed.

A flush of octets that take the place of others is one write. Where the file becomes longer, the
file system has to write that down as well, and flushes twice: 0.31 ms in place of 0.15 (ext4). Each
start begins with an empty log, so that was each commit until it had its 16 MB. Now the file becomes
longer by up to a megabyte of zeros at a time, which the next commit flushes along with its own.

SQLite takes no notice. Where frames end it knows by their salts and checksums, as it has to: behind
them lies what is left of the last time round.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from amqpd_storage.sqlite_file import PAGE_BYTES

FRAME_BYTES: Final = 24 + PAGE_BYTES
"""A page in the log, with its head."""
FIRST_FRAMES: Final = 16
"""Made at first; then twice as many each time, up to so many:"""
FRAMES_MAX: Final = 128
MARGIN_FRAMES: Final = 4
"""A usual commit, and what the estimate may be wrong by."""


class LogSpace:
    """Of one log, until it has as many pages as it ever gets."""

    __slots__ = ("_ahead", "_bytes_max", "_frames", "_log")

    def __init__(self, log: Path, pages_max: int) -> None:
        self._log = log
        self._bytes_max = pages_max * FRAME_BYTES
        self._frames = FIRST_FRAMES
        """How many the next step makes room for; 0 when no more is wanted."""
        self._ahead = 0.0
        """How many there is room for, by the estimate."""

    def used(self, frames: float) -> None:
        """About so many were written."""
        self._ahead -= frames

    def make(self) -> None:
        """Before a commit: room for it, and for those that follow. Where there can't be any, SQLite
        will find out, and say so."""
        if self._ahead > MARGIN_FRAMES or not self._frames:
            return
        try:
            size = self._log.stat().st_size
            if not size:
                return  # SQLite has yet to begin it
            zeros = min(self._frames * FRAME_BYTES, self._bytes_max - size)
            if zeros > 0:
                descriptor = os.open(self._log, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.pwrite(descriptor, bytes(zeros), size)
                finally:
                    os.close(descriptor)
        except OSError:
            zeros = 0
        self._ahead = self._frames
        self._frames = min(2 * self._frames, FRAMES_MAX) if zeros > 0 else 0
