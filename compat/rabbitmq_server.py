"""A private RabbitMQ, to learn what a suite passes on the real thing.

Uses Debian's package `rabbitmq-server` without its service: everything it owns is in a temporary
directory, its ports are free ones, and so is its epmd's, by which Erlang's nodes find each other.
Both run in process groups of their own, which are ended by id, and which end when this process does
(`tether.py`). As a program it prints its address as JSON and runs until it is told to stop:

    python compat/rabbitmq_server.py [--management] [--plugin rabbitmq_shovel]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compat import harness

SCRIPTS = Path("/usr/lib/rabbitmq/bin")
EPMD = Path("/usr/bin/epmd")
START_SECONDS = 300.0


def _await_listener(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Ready is when it takes connections."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2):
            return
        time.sleep(0.02)
    raise harness.SuiteError("epmd did not start\n" + log.read_text()[-3000:])


def _await_amqp(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Ready is when it answers a protocol header: it listens a little before that."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as sock:
            sock.sendall(b"AMQP\x00\x00\x09\x01")
            if sock.recv(1) == b"\x01":
                return
        time.sleep(0.2)
    raise harness.SuiteError("rabbitmq-server did not start\n" + log.read_text()[-3000:])


def _rabbitmqctl(home: Path, env: dict[str, str]) -> Path:
    """A rabbitmqctl that finds this node whatever environment its caller has."""
    lines = [f"export {name}='{value}'" for name, value in env.items()]
    run = f"exec '{SCRIPTS / 'rabbitmqctl'}' --erlang-cookie '{home.name}' \"$@\""
    path = home / "rabbitmqctl"
    path.write_text("\n".join(["#!/bin/sh", *lines, run, ""]))
    path.chmod(0o755)
    return path


class Node:
    """A RabbitMQ with a directory and ports of its own: it may be killed and started again."""

    def __init__(self, home: Path, env: dict[str, str], broker: harness.Broker) -> None:
        """`broker` is what it is once it runs."""
        self.broker = broker
        self._home = home
        self._env = env
        self._port = int(broker.addresses["amqp"][0].rpartition(":")[2])
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers. Raises `harness.SuiteError`."""
        assert self._process is None, "it still runs"
        log = self._home / "server.log"
        env = {**os.environ, **self._env}
        with log.open("ab") as out:
            if self._epmd is None:
                # In the foreground: a node that finds none starts one that outlives all nodes.
                port = self._env["ERL_EPMD_PORT"]
                self._epmd = harness.tethered([EPMD, "-address", "127.0.0.1"], env, out)
                _await_listener(self._epmd, int(port), log)
            self._process = harness.tethered([SCRIPTS / "rabbitmq-server"], env, out)
        _await_amqp(self._process, self._port, log)

    def kill(self) -> None:
        """SIGKILL to all of it, if it runs; what is on its disk stays."""
        if self._process is not None:
            harness.stop_group(self._process, START_SECONDS, [signal.SIGKILL])
            self._process = None

    def message_counts(self) -> dict[str, int]:
        """In each queue, what is ready or not acknowledged, as of now: the HTTP API is late."""
        command = [self.broker.env["RABBITMQCTL"], "-q", "list_queues", "name", "messages"]
        output = subprocess.run(
            [*command, "--no-table-headers"], capture_output=True, text=True, check=True
        ).stdout
        rows = (line.rpartition("\t") for line in output.splitlines())
        return {name: int(messages) for name, _, messages in rows}

    def end(self) -> None:
        """Whatever happened: it does not run any more, and its data is gone."""
        for process in (self._process, self._epmd):
            if process is not None:
                harness.stop_group(process, 20)
        self._process = self._epmd = None
        shutil.rmtree(self._home / "mnesia", ignore_errors=True)


@contextlib.contextmanager
def server(
    work_dir: Path,
    *,
    management: bool = False,
    plugins: Sequence[str] = (),
    settings: Sequence[str] = (),
    certificates: Path | None = None,
    ports: tuple[int, int] | None = None,
) -> Iterator[harness.Broker]:
    """A fresh RabbitMQ that runs: see `prepare`."""
    node = prepare(
        work_dir,
        management=management,
        plugins=plugins,
        settings=settings,
        certificates=certificates,
        ports=ports,
    )
    try:
        node.start()
        yield node.broker
    finally:
        node.end()


def prepare(
    work_dir: Path,
    *,
    management: bool = False,
    plugins: Sequence[str] = (),
    settings: Sequence[str] = (),
    certificates: Path | None = None,
    ports: tuple[int, int] | None = None,
) -> Node:
    """A RabbitMQ to be started. `Broker.env` holds what reaches it with rabbitmqctl.

    With a folder of certificates (`compat.certificates`) it listens for TLS as well. `ports` are
    those for AMQP and HTTP, where they have to be certain ones. Raises `harness.Unavailable` where
    there is none.
    """
    if not (SCRIPTS / "rabbitmq-server").exists():
        raise harness.Unavailable("rabbitmq-server (the Debian package) is not installed")
    home = Path(tempfile.mkdtemp(prefix="rabbitmq-", dir=work_dir))
    port, http = harness.free_port(), harness.free_port()
    if ports:
        port, http = ports
    enabled = [*plugins, *(["rabbitmq_management"] if management else [])]
    (home / "enabled_plugins").write_text(f"[{','.join(enabled)}].\n")
    conf = [f"listeners.tcp.1 = 127.0.0.1:{port}", *settings]
    if management:
        conf += [f"management.tcp.port = {http}", "management.tcp.ip = 127.0.0.1"]
    addresses = {"amqp": [f"127.0.0.1:{port}"]}
    if certificates:
        addresses["amqps"] = [f"127.0.0.1:{harness.free_port()}"]
        conf += [f"listeners.ssl.1 = {addresses['amqps'][0]}", "ssl_options.verify = verify_peer"]
        conf += [f"ssl_options.cacertfile = {certificates / 'ca.pem'}"]
        conf += [f"ssl_options.certfile = {certificates / 'server.pem'}"]
        conf += [f"ssl_options.keyfile = {certificates / 'server.key'}"]
    (home / "rabbitmq.conf").write_text("\n".join([*conf, ""]))
    mine = {
        "ERL_EPMD_PORT": str(harness.free_port()),
        "RABBITMQ_NODENAME": f"compat{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(harness.free_port()),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "HOME": str(home),
    }
    ctl = _rabbitmqctl(home, mine)
    cookie = {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-setcookie {home.name}"}
    return Node(
        home,
        {**mine, **cookie},
        harness.Broker(
            f"amqp://guest:guest@127.0.0.1:{port}/",
            addresses,
            f"http://127.0.0.1:{http}" if management else None,
            {"RABBITMQCTL": str(ctl)},
        ),
    )


def main() -> int:
    """Run one until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--management", action="store_true", help="with the HTTP API")
    parser.add_argument("--plugin", action="append", default=[], help="one more plugin")
    parser.add_argument("--conf", action="append", default=[], help="a line of rabbitmq.conf")
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most this long")
    args = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with (
        tempfile.TemporaryDirectory(prefix="rabbitmq-") as work_dir,
        server(
            Path(work_dir),
            management=args.management,
            plugins=args.plugin,
            settings=args.conf,
        ) as broker,
    ):
        facts = {"url": broker.url, "management": broker.management_url, **broker.env}
        print(json.dumps(facts), flush=True)
        stop.wait(args.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
