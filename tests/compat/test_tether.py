"""A broker that a suite started is gone when the suite is, however that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compat import harness
from tests.patience import PATIENCE_S

STARTS_A_BROKER = """
import os, sys, tempfile, time
from compat import harness
broker = [sys.executable, "-c", sys.argv[1]]
with tempfile.TemporaryFile() as out:
    harness.tethered(broker, os.environ, out)
time.sleep(600)
"""
BROKER = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({place!r}).write_text(f"{{os.getpid()}} {{child.pid}} ")
time.sleep(600)
"""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def lives(pid: int) -> bool:
    """Whether it runs: what only waits for somebody to ask for its exit code does not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


def pids(place: Path) -> list[int]:
    """What the broker wrote, once it has: itself and its child."""
    deadline = time.monotonic() + PATIENCE_S
    while not place.exists() or place.read_text().count(" ") < 2:
        assert time.monotonic() < deadline, "no broker"
        time.sleep(0.01)
    return [int(word) for word in place.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    place = tmp_path / "pids"
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_BROKER, BROKER.format(place=str(place))],
        cwd=harness.ROOT,
        stderr=subprocess.DEVNULL,
    )
    running = pids(place)
    parent.send_signal(number)
    parent.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while any(map(lives, running)):
        assert time.monotonic() < deadline, "it runs on"
        time.sleep(0.01)


def test_a_group_is_ended_and_the_exit_code_is_the_commands(tmp_path: Path) -> None:
    place = tmp_path / "pids"
    with (tmp_path / "log").open("wb") as out:
        line = [sys.executable, "-c", BROKER.format(place=str(place))]
        process = harness.tethered(line, os.environ, out)
        pids(place)
        harness.stop_group(process, PATIENCE_S)
        assert process.returncode == 128 + signal.SIGTERM
        done = harness.tethered([sys.executable, "-c", "raise SystemExit(3)"], os.environ, out)
        assert done.wait(PATIENCE_S) == 3
        harness.stop_group(done)


def test_who_does_not_hear_is_killed(tmp_path: Path) -> None:
    place = tmp_path / "pids"
    with (tmp_path / "log").open("wb") as out:
        line = [sys.executable, "-c", DEAF + BROKER.format(place=str(place))]
        process = harness.tethered(line, os.environ, out)
        pids(place)
        harness.stop_group(process, 0.1)
        assert process.returncode == -signal.SIGKILL
