"""A real broker: its own process, port and directory, and what the system says of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.patience import PATIENCE_S

POLL_S: Final = 0.005


class BrokerProcess:
    """One broker at a time on one data directory; it may be started again after its end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data_directory = directory / "data"
        self.ready_file = directory / "ready.json"
        self.log_file = directory / "log"
        self.ready: dict[str, Any] = {}
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it speaks AMQP."""
        return str(self.ready["amqp"][0])

    @property
    def pid(self) -> int:
        """The process."""
        assert self.child is not None
        return self.child.pid

    @property
    def log(self) -> str:
        """Everything it has logged, over all its lives."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def spawn(
        self,
        *arguments: str,
        listen: str | None = "127.0.0.1:0",
        in_memory: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it and wait for nothing."""
        assert self.child is None, "it still runs"
        command = [sys.executable, "-m", "amqpd", "serve", "--ready-file", str(self.ready_file)]
        if listen is not None:
            command += ["--listen", listen]
        command += ["--in-memory"] if in_memory else ["--data-dir", str(self.data_directory)]
        with self.log_file.open("ab") as log:
            self.child = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=bare_environment(self.directory, environment),
                cwd=Path(__file__).parents[2],
            )

    def start(
        self,
        *arguments: str,
        listen: str | None = "127.0.0.1:0",
        in_memory: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> BrokerProcess:
        """Start it and wait until it is ready."""
        self.ready_file.unlink(missing_ok=True)
        self.spawn(*arguments, listen=listen, in_memory=in_memory, environment=environment)
        assert self.child is not None
        until = time.monotonic() + PATIENCE_S
        while not self.ready_file.exists():
            assert self.child.poll() is None, f"it did not start:\n{self.log}"
            assert time.monotonic() < until, f"it is not ready:\n{self.log}"
            time.sleep(POLL_S)
        self.ready = json.loads(self.ready_file.read_text())
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self.child is not None
        code = self.child.wait(PATIENCE_S)
        self.child = None
        return code

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, and nothing of it is left when this returns."""
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def end(self) -> None:
        """Whatever happened: it does not run any more."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None

    def wait_for_log(self, text: str, count: int = 1) -> None:
        """Return when the log says this, so many times."""
        wait_until(lambda: self.log.count(text) >= count, lambda: f"{text!r} not in\n{self.log}")

    @property
    def resident_bytes(self) -> int:
        """Its memory."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def open_files(self) -> int:
        """How many file descriptors it has."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - a plain count


def wait_until(
    condition: Any, complaint: Any = lambda: "it never came true", poll_s: float = POLL_S
) -> None:
    """Poll, as long as there is patience."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, complaint()
        time.sleep(poll_s)


def bare_environment(directory: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any setting of a broker, plus `extra`.

    The HTTP API is off unless a test asks for it: it would listen on a port that others have too.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AMQPD_", "RABBITMQ_", "XDG_"))
    }
    return environment | {"HOME": str(directory), "AMQPD_MANAGEMENT": "off"} | dict(extra or {})


def run_command(
    directory: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`amqpd ARGUMENTS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "amqpd", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env=bare_environment(directory, environment),
        cwd=Path(__file__).parents[2],
    )
