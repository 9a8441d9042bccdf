"""The HTTP API of a real process: its listener, its place in the start, its end."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

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


def test_a_port_that_is_taken(broker: BrokerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        broker.spawn("--management", address)
        assert broker.wait() == os.EX_UNAVAILABLE
    assert broker.log.strip() == (
        f"amqpd: cannot listen on {address} for the HTTP API: Address already in use; stop what"
        " listens there, or choose another address, or `off`, with --management"
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
