"""Watching memory and disk, and raising the broker's alarms when they run short."""

from __future__ import annotations

import logging
import os
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from amqpd.broker.alarms import Alarm
from amqpd.runtime.memory import MemoryReturn, Reserves, system_heap

if TYPE_CHECKING:
    from amqpd.runtime.server import Server

logger = logging.getLogger("amqpd.server")

CHECK_INTERVAL_S: Final = 1.0
STATM: Final = Path("/proc/self/statm")
CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class ResourceMonitor:
    """Compares what is used with what is allowed, once a second."""

    def __init__(self, server: Server, directory: Path | None) -> None:
        """`directory` is where the store is; without one, disks do not matter."""
        self._server = server
        self._directory = directory
        self._memory_limit_bytes = server.config.memory_high_watermark * available_memory()
        self._resident = _resident()
        self._reserves = Reserves()
        self._memory_return = MemoryReturn(system_heap())
        self._disk_limit_bytes = server.config.disk_free_limit_bytes

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            self.check()
            self._server.follow_clock()
            if self._reserves.is_due:
                self._reserves.collect()
            if self._memory_return.is_due:
                await to_thread.run_sync(self._memory_return.trim)
            await anyio.sleep(CHECK_INTERVAL_S)

    def check(self) -> None:
        """Raise and clear alarms as things stand now."""
        used = self._resident.occupied_bytes()
        if used is not None:  # nobody knows otherwise, and the alarm stays as it was
            self._set(
                Alarm.MEMORY,
                used > self._memory_limit_bytes,
                f"{used} bytes resident, high watermark {self._memory_limit_bytes:.0f}",
            )
        if self._directory is not None:
            self._check_disk(self._directory)

    def _check_disk(self, directory: Path) -> None:
        try:
            free = shutil.disk_usage(directory).free
        except OSError as error:
            self._set(Alarm.DISK, True, f"nothing is known of {directory}: {error.strerror}")
            return
        detail = f"{free} bytes free in {directory}, limit {self._disk_limit_bytes}"
        journal = self._server.journal
        slow_s = 0.0 if journal is None else journal.slow_for(self._server.limits.slow_commit_s)
        if slow_s:
            detail = f"a commit to {directory} takes {slow_s:.1f} s"
        troubles = self._server.disk_troubles
        if troubles:
            detail = f"{directory}: {', '.join(troubles.values())}"
        short = free < self._disk_limit_bytes
        self._set(Alarm.DISK, short or slow_s > 0 or bool(troubles), detail)

    def _set(self, alarm: Alarm, raised: bool, detail: str) -> None:
        if self._server.set_alarm(alarm, raised):
            level = logging.WARNING if raised else logging.INFO
            state = "raised: publishers are blocked" if raised else "cleared"
            logger.log(level, f"{alarm.value} alarm {state}", extra={"detail": detail})


class ResidentMemory:
    """The memory that this process occupies.

    The file stays open: when descriptors run out, as they do when clients are many, memory is short
    soon, and that is no moment to lose sight of it.
    """

    def __init__(self) -> None:
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        try:
            self._file: int | None = os.open(STATM, os.O_RDONLY)
        except OSError:
            self._file = None

    def occupied_bytes(self) -> int | None:
        """None where that cannot be told."""
        if self._file is None:
            return None
        try:
            return int(os.pread(self._file, 256, 0).split()[1]) * self._page_bytes
        except (OSError, ValueError, IndexError):
            return None


@cache
def _resident() -> ResidentMemory:
    """For whoever asks now and then."""
    return ResidentMemory()


def resident_memory() -> int:
    """Bytes of memory that this process occupies; 0 where that cannot be told."""
    return _resident().occupied_bytes() or 0


def available_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less in a container."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in CGROUP_LIMITS:
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):
            continue  # no such limit
    return total
