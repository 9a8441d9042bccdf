"""The HTTP API of a real process: its listener, its place in the start, its end."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from amqpd.runtime.http_connection import REFUSED_MAX
from tests.patience import PATIENCE_S
from tests.runtime.client import Client
from tests.runtime.process import BrokerProcess, wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """None is running yet."""
    process = BrokerProcess(tmp_path)
    yield process
    process.end()


def ask(broker: BrokerProcess, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON."""
    connection = http.client.HTTPConnection(broker.ready["management"][0], timeout=PATIENCE_S)
    credentials = base64.b64encode(b"guest:guest").decode()
    connection.request(
        method,
        f"/api{path}",
        None if body is None else json.dumps(body),
        {"Authorization": f"Basic {credentials}"},
    )
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content) if content else None


def test_http_and_amqp_see_the_same_broker(broker: BrokerProcess) -> None:
    broker.start("--management", "127.0.0.1:0")
    assert ask(broker, "PUT", "/queues/%2F/q", {"durable": True})[0] == 201
    with Client(broker.address) as client:
        client.declare("q", durable=True)
        assert ask(broker, "GET", "/overview")[1]["object_totals"]["connections"] == 1
    status, overview = ask(broker, "GET", "/overview")
    assert status == 200
    ports = {listener["protocol"]: listener["port"] for listener in overview["listeners"]}
    assert ports["http"] == int(broker.ready["management"][0].rpartition(":")[2])
    assert broker.stop() == 0
    assert "Traceback" not in broker.log


def test_what_was_answered_survives_a_kill(broker: BrokerProcess) -> None:
    broker.start("--management", "127.0.0.1:0")
    message = {
        "properties": {"delivery_mode": 2},
        "routing_key": "q",
        "payload": "x",
        "payload_encoding": "string",
    }
    assert ask(broker, "PUT", "/queues/%2F/q", {"durable": True})[0] == 201
    assert ask(broker, "POST", "/exchanges/%2F/amq.default/publish", message)[0] == 200
    broker.kill()
    broker.start("--management", "127.0.0.1:0")
    assert ask(broker, "GET", "/queues/%2F/q")[1]["messages"] == 1


def test_files_that_went_since_the_start(broker: BrokerProcess, tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    pem = tmp_path / "chain.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
    tls = ("--tls-listen", "127.0.0.1:0", "--tls-certificate", str(pem))
    broker.start("--management", "127.0.0.1:0", *tls)
    pem.unlink()
    broker.data_directory.rename(tmp_path / "elsewhere")
    assert ask(broker, "GET", "/health/checks/certificate-expiration/1/days")[0] == 200
    assert ask(broker, "GET", "/health/checks/certificate-expiration/9000/years")[0] == 503
    status, nodes = ask(broker, "GET", "/nodes")
    assert (status, nodes[0]["disk_free"]) == (200, 0)


HEAD: Final = b"PUT /api/queues/%2F/q HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n"
BASIC: Final = b"Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n"


def start_limited(broker: BrokerProcess, **limits: float) -> tuple[str, int]:
    """Start it with these limits; where the HTTP API is."""
    file = broker.directory / "limits.toml"
    lines = "".join(f"{name} = {value}\n" for name, value in limits.items())
    file.write_text(f"[limits]\n{lines}")
    broker.start("--management", "127.0.0.1:0", "--config", str(file))
    assert ask(broker, "GET", "/whoami")[0] == 200  # by now it listens
    host, _, port = broker.ready["management"][0].rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("said", [b"", HEAD, HEAD + BASIC + b"\r\n{", HEAD + b"\r\n{"])
@pytest.mark.parametrize("drop", [b"", b"a"])
def test_a_request_that_does_not_come_ends_its_connection(
    broker: BrokerProcess, said: bytes, drop: bytes
) -> None:
    """Be it that nothing more comes, or an octet now and then."""
    address = start_limited(broker, http_head_timeout_s=0.2, http_body_timeout_s=0.2)
    with socket.create_connection(address, timeout=PATIENCE_S) as idle:
        idle.sendall(said)
        began = time.monotonic()
        idle.settimeout(0.05)
        while time.monotonic() - began < PATIENCE_S:
            try:
                idle.sendall(drop)
                if not idle.recv(1000):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it is still open")
        assert time.monotonic() - began > 0.1
    assert "Traceback" not in broker.log


def test_an_idle_connection_has_more_time_than_a_request(broker: BrokerProcess) -> None:
    host, port = start_limited(broker, http_head_timeout_s=0.2, http_body_timeout_s=0.2)
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    for body in (None, b"{}", None):
        connection.request("GET", "/api/auth", body)
        assert connection.getresponse().read()
        kept = connection.sock
        time.sleep(0.3)
        assert connection.sock is kept
    connection.close()


def test_connections_above_the_limit_are_refused(broker: BrokerProcess) -> None:
    host, port = start_limited(broker, http_connections_max=3)
    idle = [http.client.HTTPConnection(host, port, timeout=PATIENCE_S) for _ in range(3)]

    def all_answered() -> bool:
        for connection in idle:
            connection.request("GET", "/api/auth")
        answers = [connection.getresponse() for connection in idle]
        return [answer.read() and answer.status for answer in answers] == [200] * 3

    wait_until(all_answered)
    assert ask_text(broker, "/auth")[0] == 503
    for connection in idle:
        connection.close()
    wait_until(lambda: ask_text(broker, "/auth")[0] == 200)


def test_far_above_the_limit_connections_hold_no_descriptors(broker: BrokerProcess) -> None:
    address = start_limited(broker, http_connections_max=3)
    silent = [socket.create_connection(address, timeout=PATIENCE_S) for _ in range(100)]
    kept = 3 + REFUSED_MAX
    closed: set[int] = set()

    def all_others_closed() -> bool:
        readable, _, _ = select.select(silent, [], [], 0)
        closed.update(connection.fileno() for connection in readable)
        return len(closed) >= len(silent) - kept

    wait_until(all_others_closed)
    assert len(closed) == len(silent) - kept
    for connection in silent:
        connection.close()
    wait_until(lambda: ask_text(broker, "/auth")[0] == 200)


UPGRADE: Final = (
    b"GET /api/auth HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
)


def test_what_strangers_send_leaves_no_line_in_the_log(broker: BrokerProcess) -> None:
    address = start_limited(broker)
    for said, status in ((b"\x16\x03\x01 no HTTP\r\n\r\n", b"400"), (UPGRADE, b"200")):
        with socket.create_connection(address, timeout=PATIENCE_S) as stranger:
            stranger.sendall(said)
            assert stranger.recv(1000).split()[1] == status
    assert broker.stop() == 0
    ours = re.compile(r"\d{4}-\d\d-\d\d .* \[info\] ")
    assert [line for line in broker.log.splitlines() if not ours.match(line)] == []


def test_who_takes_nothing_of_an_answer_holds_no_connection(broker: BrokerProcess) -> None:
    address = start_limited(broker, http_connections_max=1, http_answer_timeout_s=0.2)
    with Client(broker.address) as client:
        client.declare("q")
        client.publish("", "q", b"x" * 16_000_000)  # more than sockets keep
        client.close()
    body = b'{"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}'
    head = b"POST /api/queues/%%2F/q/get HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body)
    deaf: list[socket.socket] = []

    def is_answered() -> bool:
        deaf.append(socket.create_connection(address, timeout=PATIENCE_S))
        deaf[-1].sendall(head + BASIC + b"\r\n" + body)
        return deaf[-1].recv(12) == b"HTTP/1.1 200"

    wait_until(is_answered)
    wait_until(lambda: ask_text(broker, "/auth")[0] == 200)
    for connection in deaf:
        connection.close()
    assert "Traceback" not in broker.log


def ask_text(broker: BrokerProcess, path: str) -> tuple[int, bytes]:
    """Status and body of a GET, whoever answers it."""
    connection = http.client.HTTPConnection(broker.ready["management"][0], timeout=PATIENCE_S)
    connection.request("GET", f"/api{path}")
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def test_a_port_that_is_taken(broker: BrokerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        broker.spawn("--management", address)
        assert broker.wait() == os.EX_UNAVAILABLE
    assert broker.log.strip() == (
        f"amqpd: cannot listen on {address} for the HTTP API: Address already in use; stop what"
        " listens there, or choose another address with --management; `--management off` does"
        " without it"
    )


def test_off(broker: BrokerProcess) -> None:
    broker.start("--management", "off")
    assert broker.ready["management"] == []
    wait_until(lambda: "management=off" in broker.log)


def test_a_name_that_stands_for_several_addresses(broker: BrokerProcess) -> None:
    broker.start("--management", "localhost:0")
    assert len({address.rpartition(":")[2] for address in broker.ready["management"]}) == 1
    assert ask(broker, "GET", "/whoami")[0] == 200


def test_the_libraries_are_imported_after_amqp_answers() -> None:
    """What `amqpd serve` imports before it is ready has no HTTP in it."""
    program = "import sys, amqpd.runtime.serve; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert imported.isdisjoint({"uvicorn", "starlette", "h11", "amqpd.management.app"})
