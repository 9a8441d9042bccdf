"""A pytest plug-in for suites that start their broker in a container: no Docker, a broker of ours.

aiormq's and aio-pika's tests talk to Docker through `tests/docker_client.py`. Here its requests
are answered without a daemon: the container that is asked for with a TLS port is the broker that
runs already, and any other is an amqpd of its own, which a test may stop, kill and start again.

Read from the environment: AMQP_URL and AMQPS_PORT, the broker that runs; STAND_IN_BROKER, the
command that starts amqpd as a JSON list (none: tests with a broker of their own are skipped);
STAND_IN_HOME, a folder for these; STAND_IN_LEFT_OUT, patterns of tests that are not to be run.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from compat import harness

docker_client: Any = importlib.import_module("tests.docker_client")  # the suite's
yarl: Any = importlib.import_module("yarl")

RUNNING = "the broker that runs already"
START_SECONDS = 120.0
STOP_SECONDS = 60.0


class OwnBroker:
    """An amqpd that keeps its port and its data when it is stopped and started."""

    def __init__(self, home: Path, command: list[str]) -> None:
        self.home = home
        self.port = harness.free_port()
        home.mkdir(parents=True)
        self.line = [*command, "--listen", f"127.0.0.1:{self.port}"]
        self.line += ["--data-dir", str(home / "data"), "--ready-file", str(home / "ready.json")]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        ready = self.home / "ready.json"
        ready.unlink(missing_ok=True)
        with (self.home / "broker.log").open("ab") as out:
            self.process = subprocess.Popen(
                self.line, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no broker: {(self.home / 'broker.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM: what stop_app comes nearest to."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)


class Daemon:
    """The part of Docker's API that the suites use."""

    def __init__(self) -> None:
        self.brokers: dict[str, OwnBroker] = {}
        self.exit_codes: dict[str, int] = {}

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """An answer to `method path`, as `DockerClient._request` returns it."""
        match [method, *path.partition("?")[0].strip("/").split("/")]:
            case ["POST", "containers", "create"]:
                return {"Id": self.create(body or {})}
            case ["GET", "containers", name, "json"]:
                return {"NetworkSettings": {"Ports": self.ports(name)}}
            case ["POST", "containers", name, "exec"]:
                return {"Id": self.execute(name, (body or {})["Cmd"])}
            case ["POST", "exec", _, "start"]:
                return None
            case ["GET", "exec", name, "json"]:
                return {"Running": False, "ExitCode": self.exit_codes[name]}
            case ["POST", "containers", name, ("start" | "stop" | "kill") as what]:
                if name != RUNNING:
                    getattr(self.brokers[name], what)()
                return None
            case ["DELETE", "containers", _]:
                return None
        raise RuntimeError(f"not among the requests that are known here: {method} {path}")

    def create(self, body: dict[str, Any]) -> str:
        """A container's id."""
        if "5671/tcp" in body["ExposedPorts"]:
            return RUNNING
        command = json.loads(os.environ.get("STAND_IN_BROKER", "[]"))
        if not command:
            pytest.skip("no command that starts a broker")
        name = f"broker-{len(self.brokers)}-{os.getpid()}"
        self.brokers[name] = OwnBroker(Path(os.environ["STAND_IN_HOME"]) / name, command)
        return name

    def ports(self, name: str) -> dict[str, list[dict[str, str]]]:
        """Where it listens."""
        if name != RUNNING:
            return {"5672/tcp": [{"HostPort": str(self.brokers[name].port)}]}
        plain = urlsplit(os.environ["AMQP_URL"]).port
        return {
            "5672/tcp": [{"HostPort": str(plain)}],
            "5671/tcp": [{"HostPort": os.environ["AMQPS_PORT"]}],
        }

    def execute(self, name: str, command: list[str]) -> str:
        """Run rabbitmqctl's stop_app and start_app; the name of the run."""
        broker = self.brokers[name]
        actions = {"stop_app": broker.stop, "start_app": broker.start}
        actions[command[1]]()
        run = f"run-{len(self.exit_codes)}"
        self.exit_codes[run] = 0
        return run


daemon = Daemon()


def _here() -> Any:
    return docker_client.DockerHostInfo(is_tcp=True, host="127.0.0.1", port=0)


def _request(_: object, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    return daemon.request(method, path, body)


docker_client.check_docker_available = _here
docker_client.parse_docker_host = lambda *_: _here()
docker_client.DockerClient._request = _request
docker_client.DockerClient.pull = lambda *_: None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests out by pattern; pytest's own --deselect knows beginnings only."""
    patterns = json.loads(os.environ.get("STAND_IN_LEFT_OUT", "[]"))
    names = {item: item.nodeid.replace(".py", "").replace("/", "::") for item in items}
    out = [i for i in items if any(fnmatch.fnmatchcase(names[i], p) for p in patterns)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


def pytest_unconfigure() -> None:
    """Leave no broker behind."""
    for broker in daemon.brokers.values():
        broker.kill()


# aiormq's package lacks the file that has these; aio-pika's own take precedence over them.


@pytest.fixture(scope="session")
def rabbitmq_container() -> Any:
    """The broker that runs already."""
    return docker_client.DockerClient().run("any", ["5672/tcp", "5671/tcp"])


@pytest.fixture(scope="session")
def amqp_direct_url(rabbitmq_container: Any) -> Any:
    """Its address."""
    port = rabbitmq_container.ports["5672/tcp"]
    return yarl.URL(f"amqp://guest:guest@{rabbitmq_container.host}:{port}//")
