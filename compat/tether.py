"""Runs a command that ends when its parent does: `python -I compat/tether.py COMMAND ...`.

Brokers are in sessions of their own, so that a suite can end them as a group; for the same reason
Ctrl-C does not reach them, and a parent that is ended by SIGTERM or SIGKILL ends none of them. So
this stands between: its standard input is a pipe whose other end the parent holds and the system
closes, however the parent ends. Then the whole process group gets SIGTERM, and SIGKILL if that does
not help. The exit code is the command's, as a shell gives it.

Nothing but the standard library, and not even this package: it starts with each broker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 20.0


def main() -> int:
    """Run the command to its end, or to that of the pipe."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    # What ends the group ends the child; this stays to tell of its end.
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _watch(child: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
