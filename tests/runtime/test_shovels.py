"""Shovels between processes: amqpd and amqpd, amqpd and RabbitMQ, and within one broker."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from compat import harness, rabbitmq_server
from tests.hyphens import hyphenated
from tests.management.test_process import ask
from tests.runtime.client import Client
from tests.runtime.process import BrokerProcess
from tests.runtime.sites import CuttingProxy, until

BODIES = [b"%d" % number for number in range(3000)]


class Pair:
    """Two brokers, of which the first has the shovels."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.brokers: list[BrokerProcess] = []
        for name in ("here", "there"):
            (directory / name).mkdir()
            broker = BrokerProcess(directory / name)
            stack.callback(broker.end)
            self.brokers.append(broker.start("--management", "127.0.0.1:0"))
        self.here, self.there = self.brokers

    def set(self, name: str = "s", **fields: Any) -> None:
        value = hyphenated(fields)
        path = f"/parameters/shovel/%2F/{quote(name)}"
        status, answer = ask(self.here, "PUT", path, {"value": value})
        assert status in (201, 204), answer

    def shovels(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = ask(self.here, "GET", "/shovels")[1]
        return rows

    def await_state(self, state: str) -> dict[str, Any]:
        until(lambda: [row["state"] for row in self.shovels()] == [state])
        return self.shovels()[0]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(tmp_path, stack)


def fill(address: str, queue: str, bodies: list[bytes]) -> None:
    with Client(address) as client:
        client.declare(queue)
        client.confirm_select()
        for body in bodies:
            client.publish("", queue, body)
        client.wait_confirmed()


def drain(address: str, queue: str, count: int) -> list[bytes]:
    """Everything in a queue, once there are so many."""
    with Client(address) as client:
        client.declare(queue)
        until(lambda: client.message_count(queue) >= count)
        found = []
        while (got := client.get(queue, no_ack=True)) is not None:
            found.append(got.body)
        return found


@pytest.mark.parametrize("way", ["push", "pull", "local"])
def test_everything_arrives_exactly_once_where_nothing_breaks(pair: Pair, way: str) -> None:
    there = f"amqp://{pair.there.address}"
    source, destination = {
        "push": ("amqp://", there),
        "pull": (there, "amqp://"),
        "local": ("amqp://", "amqp://"),
    }[way]
    addresses = {"amqp://": pair.here.address, there: pair.there.address}
    fill(addresses[source], "from", BODIES)
    pair.set(src_uri=source, src_queue="from", dest_uri=destination, dest_queue="to")
    assert drain(addresses[destination], "to", len(BODIES)) == BODIES
    row = pair.await_state("running")
    assert (row["src_uri"], row["dest_uri"], row["forwarded"]) == (source, destination, len(BODIES))
    with Client(addresses[source]) as client:
        until(lambda: client.message_count("from") == 0)
    assert ask(pair.here, "DELETE", "/shovels/vhost/%2F/s")[0] == 204
    assert pair.shovels() == []
    for broker in pair.brokers:
        assert broker.stop() == 0
        assert "Traceback" not in broker.log


def test_a_link_that_is_cut_again_and_again_loses_nothing(pair: Pair) -> None:
    fill(pair.here.address, "from", BODIES)
    proxy = CuttingProxy(pair.there.address, [3, 200, 700, 5_000, 20_001, 50_000, 90_000])
    try:
        pair.set(
            src_uri="amqp://",
            src_queue="from",
            src_prefetch_count=100,
            dest_uri=f"amqp://{proxy.address}",
            dest_queue="to",
            reconnect_delay=0.05,
        )
        with Client(pair.here.address) as client:
            until(lambda: client.message_count("from") == 0)
        arrived = drain(pair.there.address, "to", len(BODIES))
        assert set(arrived) == set(BODIES)
        # What was in flight at a cut may come twice, and no more than that.
        assert len(arrived) <= len(BODIES) + 100 * proxy.cuts
        assert proxy.cuts >= 7
    finally:
        proxy.close()


def test_shovels_are_there_after_a_restart_and_their_secrets_are_not_shown(pair: Pair) -> None:
    uri = f"amqp://guest:guest@{pair.there.address}"
    pair.set(src_uri="amqp://", src_queue="from", dest_uri=uri, dest_queue="to")
    pair.await_state("running")
    pair.here.kill()
    pair.here.start("--management", "127.0.0.1:0")
    assert pair.await_state("running")["dest_uri"] == f"amqp://{pair.there.address}"
    assert ask(pair.here, "DELETE", "/shovels/vhost/%2F/s/restart")[0] == 204
    pair.await_state("running")
    fill(pair.here.address, "from", [b"m"])
    assert drain(pair.there.address, "to", 1) == [b"m"]
    assert "guest:guest" not in pair.here.log


def test_what_cannot_connect_says_why_and_can_be_deleted(pair: Pair) -> None:
    pair.set(
        src_uri=f"amqp://guest:wrong@{pair.there.address}",
        src_queue="from",
        dest_uri="amqp://",
        dest_queue="to",
    )
    row = pair.await_state("terminated")
    assert "403 ACCESS_REFUSED" in row["reason"]
    pair.set(src_uri="amqp:///other", src_queue="from", dest_uri="amqp://", dest_queue="to")
    row = pair.await_state("terminated")
    assert "amqp:///other is another virtual host than '/'" in row["reason"]
    assert ask(pair.here, "DELETE", "/shovels/vhost/%2F/s")[0] == 204
    assert ask(pair.here, "GET", "/shovels/vhost/%2F/s")[0] == 404
    bad = {"value": {"src-uri": "amqp://", "dest-uri": "amqp://"}}
    status, answer = ask(pair.here, "PUT", "/parameters/shovel/%2F/s", bad)
    assert status == 400
    assert "Must specify 'src-exchange' or 'src-queue'" in answer["reason"]


def test_static_shovels_are_those_of_the_file(tmp_path: Path) -> None:
    broker = BrokerProcess(tmp_path)
    config = tmp_path / "amqpd.toml"
    shovel = '[shovels.s]\nsrc-uri = "amqp://"\nsrc-queue = "from"\ndest-uri = "amqp://"\n'
    options = ("--config", str(config), "--management", "127.0.0.1:0")
    config.write_text(shovel + 'dest-queue = "to"\ndest-add-forward-headers = true\n')
    try:
        broker.start(*options)
        fill(broker.address, "from", BODIES[:10])
        assert drain(broker.address, "to", 10) == BODIES[:10]
        (row,) = ask(broker, "GET", "/shovels")[1]
        assert (row["name"], row["type"], row["state"]) == ("s", "static", "running")
        dynamic = {"value": {"src-uri": "amqp://", "src-queue": "a", "dest-uri": "amqp://"}}
        assert ask(broker, "PUT", "/parameters/shovel/%2F/s", dynamic)[0] == 201
        assert len(ask(broker, "GET", "/shovels")[1]) == 2
        # Of two with one name, the path is of the one that can be deleted.
        assert ask(broker, "GET", "/shovels/vhost/%2F/s")[1]["type"] == "dynamic"
        assert ask(broker, "DELETE", "/shovels/vhost/%2F/s")[0] == 204
        assert ask(broker, "GET", "/shovels/vhost/%2F/s")[1]["type"] == "static"
        status, answer = ask(broker, "DELETE", "/shovels/vhost/%2F/s")
        assert (status, "configuration" in answer["reason"]) == (400, True)
        assert ask(broker, "DELETE", "/shovels/vhost/%2F/s/restart")[0] == 204
        fill(broker.address, "from", BODIES[:1])
        assert drain(broker.address, "to", 1) == BODIES[:1]
        assert broker.stop() == 0
        config.write_text(shovel + "dest-queue = 7\n")
        broker.spawn(*options)
        assert broker.wait() == 78
        assert "shovels: s: dest-queue should be binary, actually was 7" in broker.log
    finally:
        broker.end()


def test_both_ways_with_rabbitmq(pair: Pair) -> None:
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        try:
            rabbitmq = stack.enter_context(rabbitmq_server.server(Path(work)))
        except harness.Unavailable as reason:
            pytest.skip(str(reason))
        address = rabbitmq.addresses["amqp"][0]
        uri = f"amqp://guest:guest@{address}/%2F?heartbeat=5"
        fill(pair.here.address, "from", BODIES)
        pair.set("out", src_uri="amqp://", src_queue="from", dest_uri=uri, dest_queue="middle")
        pair.set(
            "back",
            src_uri=uri,
            src_queue="middle",
            dest_uri="amqp://",
            dest_queue="to",
            dest_add_forward_headers=True,
        )
        assert drain(pair.here.address, "to", len(BODIES)) == BODIES
        with Client(address) as client:
            until(lambda: client.message_count("middle") == 0)
