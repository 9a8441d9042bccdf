"""What Linux says about a process: CPU time, resident memory, the machine itself."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
FSYNC_SAMPLES: Final = 200
SAMPLE_SECONDS: Final = 0.1
"""Between two looks at the memory of a process."""


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; the name before it may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def in_session(session: int) -> list[int]:
    """All processes of a session: a broker may be a script that starts another program."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int(_stat(int(entry.name))[3]) == session:
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def _stats(pids: Iterable[int]) -> list[list[str]]:
    """Of those that still run: start scripts come and go."""
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(_stat(pid))
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time so far, all threads; the kernel counts in hundredths of a second."""
    return sum(int(ticks) for stat in _stats(pids) for ticks in stat[11:13]) / TICKS_A_SECOND


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory."""
    return sum(int(stat[21]) for stat in _stats(pids)) * PAGE_BYTES


def watched(
    child: subprocess.Popen[bytes], pids: Sequence[int], seconds: float
) -> tuple[int | None, int]:
    """Its exit code (None: it took longer), and the most resident memory of `pids` meanwhile."""
    deadline, most = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        most = max(most, resident_bytes(pids))
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(SAMPLE_SECONDS), most
    return None, most


def flush_seconds(directory: Path) -> float:
    """Median of appending 1 KB and flushing it: what one confirm has to wait for, at least."""
    samples = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(FSYNC_SAMPLES):
            begun = time.perf_counter()
            file.write(b"x" * 1024)
            os.fdatasync(file.fileno())
            samples.append(time.perf_counter() - begun)
    return sorted(samples)[FSYNC_SAMPLES // 2]


def machine(directory: Path) -> dict[str, object]:
    """What a figure has to be read with."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
        "fdatasync_ms": round(flush_seconds(directory) * 1000, 3),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
