"""A network of one's own, for suites whose tests know a fixed port that something else holds here.

In a namespace with a loopback and nothing else every port is free, and nobody outside is met.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from compat import harness


def why_not() -> str:
    """Why there can be no network of our own; empty when there can."""
    if os.geteuid() != 0:
        return "a network namespace of its own takes root"
    try:
        tried = harness.command([*_line(), "true"], timeout=20)
    except FileNotFoundError:
        return "unshare or ip is not installed"
    return "" if tried.code == 0 else f"unshare --net: {tried.tail}"


def run(argv: Sequence[str]) -> int:
    """A Python program in a network of its own; its exit code. SIGTERM ends it, too."""
    process = subprocess.Popen([*_line(), shlex.join([sys.executable, *argv])])
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def _line() -> list[str]:
    # `exec`, so that a signal for the shell's process id reaches the program.
    return ["unshare", "--net", "sh", "-c", 'ip link set lo up && eval "exec $0"']
