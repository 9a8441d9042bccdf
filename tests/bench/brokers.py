"""Starts and stops what is measured: amqpd, and whatever it is compared with.

A broker that is started here has a temporary data directory, a session of its own (so that its
processes are known by id, whatever scripts it starts through), and is always stopped: first asked,
then killed. One that runs already is only connected to.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import amqpd as amqpd_package
import amqpd_exchanges
import amqpd_storage
from tests.bench import process, wire
from tests.bench.client import Address, Connection

ROOT: Final = Path(__file__).resolve().parents[2]
RABBITMQ: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
START_SECONDS: Final = 600.0
"""RabbitMQ with 100,000 queues needs more than 90."""
STOP_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.002
"""Start-up is measured to about this: amqpd means to be ready in a fraction of a second."""


class BrokerError(Exception):
    """A broker that can't be measured, and why."""


@dataclass(frozen=True)
class Broker:
    """A broker that accepts AMQP."""

    label: str
    url: str
    pids: tuple[int, ...] = ()
    start_seconds: float | None = None
    """From starting the command to the first octet of connection.start."""

    @property
    def version(self) -> str:
        """Product and version as connection.start has them; a login that works, by the way."""
        try:
            with Connection(Address.of(self.url), channel=False) as connection:
                said = connection.server_properties
        except (OSError, wire.ProtocolError) as error:
            raise BrokerError(f"no AMQP at {self.url}: {error}") from error
        return " ".join(_text_after(said, key) for key in (b"\x07product", b"\x07version")).strip()


Starter = Callable[[Path], contextlib.AbstractContextManager[Broker]]
"""Starts a broker below a directory, which is removed afterwards by the caller."""


def _text_after(said: bytes, key: bytes) -> str:
    """The string value behind a key of a field table, without decoding the table."""
    at = said.find(key + b"S") + len(key) + 1
    if at <= len(key):
        return ""
    length = int.from_bytes(said[at : at + 4], "big")
    return said[at + 4 : at + 4 + length].decode("utf-8", "replace")


def raise_file_limit() -> None:
    """A thousand connections need a thousand files, on both sides; children inherit this."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


@contextlib.contextmanager
def started(
    argv: Sequence[str | Path], env: Mapping[str, str], home: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a session of its own for the time of the block."""
    with (home / "server.log").open("wb") as log:
        child = subprocess.Popen(
            [str(part) for part in argv],
            cwd=home,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        stop_session(child)


def stop_session(child: subprocess.Popen[bytes], grace: float = STOP_SECONDS) -> None:
    """End a process that was started with its own session, and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
            if not process.in_session(child.pid):
                return


def _answers(port: int) -> bool:
    """Some brokers listen before they speak: ready is when the header is answered."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
        sock.sendall(wire.PROTOCOL_HEADER)
        return sock.recv(1) == b"\x01"
    return False


def await_amqp(
    child: subprocess.Popen[bytes], home: Path, port_of: Callable[[], int | None]
) -> int:
    """The port, once AMQP is answered there."""
    deadline = time.perf_counter() + START_SECONDS
    while time.perf_counter() < deadline and child.poll() is None:
        port = port_of()
        if port is not None and _answers(port):
            return port
        time.sleep(POLL_SECONDS)
    how = "ended" if child.poll() is not None else f"was not ready in {START_SECONDS:.0f} s"
    words = (home / "server.log").read_text(errors="replace")[-3000:]
    raise BrokerError(f"{Path(str(child.args[0])).name} {how}\n{words}")  # type: ignore[index]


def source_path() -> str:
    """PYTHONPATH for amqpd as it stands in this checkout, in plain Python."""
    return os.pathsep.join(map(str, (ROOT, ROOT / "exchanges", ROOT / "storage")))


def own_path() -> str:
    """PYTHONPATH for the amqpd that this process has imported: `make` says which that is."""
    packages = (amqpd_package, amqpd_exchanges, amqpd_storage)
    path = [str(Path(str(package.__file__)).parents[1]) for package in packages]
    return os.pathsep.join(dict.fromkeys(path))


def compiled(python: Path | None = None) -> bool:
    """Whether the amqpd of this process, or of another interpreter, has compiled modules."""
    env = {} if python else {"PYTHONPATH": own_path(), "PYTHONSAFEPATH": "1"}
    found = subprocess.run(
        [python or sys.executable, "-c", "import amqpd.protocol.frames as f; print(f.__file__)"],
        env={**os.environ, **env},
        cwd=ROOT.anchor,
        capture_output=True,
        text=True,
        check=True,
    )
    return not found.stdout.strip().endswith(".py")


def amqpd(
    python: Path | None = None,
    options: Sequence[str] = (),
    label: str = "amqpd",
    *,
    plain: bool = False,
) -> Starter:
    """amqpd as this process has imported it, or the one installed for another interpreter.

    Or, `plain`, the sources of this checkout, compiled or not.
    """
    path = source_path() if plain else own_path()
    env = {} if python else {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}

    @contextlib.contextmanager
    def start(home: Path) -> Iterator[Broker]:
        ready = home / "ready.json"
        argv = [python or sys.executable, "-m", "amqpd", "serve", "--listen", "127.0.0.1:0"]
        argv += ["--management", "off", "--data-dir", home / "data", "--ready-file", ready]
        argv += options

        def port() -> int | None:
            try:
                addresses = json.loads(ready.read_text())["amqp"]
            except (FileNotFoundError, ValueError):
                return None  # not there yet, or half written
            return int(addresses[0].rpartition(":")[2])

        began = time.perf_counter()
        with started(argv, env, home) as child:
            url = f"amqp://127.0.0.1:{await_amqp(child, home, port)}"
            seconds = time.perf_counter() - began
            yield Broker(label, url, tuple(process.in_session(child.pid)), seconds)

    return start


@contextlib.contextmanager
def rabbitmq(home: Path) -> Iterator[Broker]:
    """Debian's RabbitMQ beside its service, if that runs: everything it owns is moved.

    Only epmd, which finds Erlang nodes by name, is shared and stays behind. The node is named after
    its directory: what it keeps is under that name, and a restart has to find it.
    """
    if not RABBITMQ.exists():
        raise BrokerError("rabbitmq-server (the Debian package) is not installed")
    port = free_port()
    (home / "enabled_plugins").write_text("[].\n")
    (home / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
    env = {
        "RABBITMQ_NODENAME": f"{home.name}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-setcookie bench{port}",
        "HOME": str(home),
    }
    began = time.perf_counter()
    with started([RABBITMQ], env, home) as child:
        await_amqp(child, home, lambda: port)
        seconds = time.perf_counter() - began
        pids = tuple(process.in_session(child.pid))
        yield Broker("rabbitmq", f"amqp://127.0.0.1:{port}", pids, seconds)


def running(url: str, pid: int | None = None, label: str = "broker") -> Starter:
    """A broker that runs already; with its process id its CPU time and memory are known, too."""

    @contextlib.contextmanager
    def start(home: Path) -> Iterator[Broker]:
        del home
        yield Broker(label, url, (pid,) if pid else ())

    return start


@contextlib.contextmanager
def below(directory: Path | None, start: Starter) -> Iterator[Broker]:
    """The broker in a temporary directory, which is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="amqpd-bench-", dir=directory))
    try:
        with start(home) as broker:
            yield broker
    finally:
        shutil.rmtree(home, ignore_errors=True)
