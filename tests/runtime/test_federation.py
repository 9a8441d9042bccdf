"""Federation between processes, over real sockets: amqpd and amqpd, amqpd and RabbitMQ."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pamqp import commands

from compat import harness, rabbitmq_server
from tests.runtime.client import Client
from tests.runtime.process import BrokerProcess
from tests.runtime.sites import CuttingProxy, Site, bind, site, until

BODIES = [b"%d" % number for number in range(2000)]


@pytest.fixture
def amqpds(tmp_path: Path) -> Iterator[list[BrokerProcess]]:
    with ExitStack() as stack:
        processes = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            process = BrokerProcess(tmp_path / name)
            stack.callback(process.end)
            processes.append(process.start("--management", "127.0.0.1:0"))
        yield processes


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[Site]:
    """Debian's, with its own federation."""
    plugins = ["rabbitmq_federation", "rabbitmq_federation_management"]
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        try:
            server = rabbitmq_server.server(Path(work), management=True, plugins=plugins)
            broker = stack.enter_context(server)
        except harness.Unavailable as reason:
            pytest.skip(str(reason))
        management = urlsplit(broker.management_url or "").netloc
        yield Site("rabbitmq", broker.addresses["amqp"][0], management)


def carry(upstream: Site, downstream: Site, exchange: str) -> None:
    """What is published upstream arrives downstream: bindings, buffering, headers and all."""
    with Client(upstream.address) as up, Client(downstream.address) as down:
        bind(down, exchange, f"q.{exchange}", "a.#")
        downstream.federate(upstream, f"^{exchange}$")
        downstream.await_running()
        until(lambda: upstream.bindings_from(exchange) == {"a.#"})
        up.confirm_select()
        for number, body in enumerate(BODIES):
            up.publish(exchange, f"a.{number}", body)
        up.publish(exchange, "b", b"nobody wants this")
        up.wait_confirmed()
        until(lambda: down.message_count(f"q.{exchange}") == len(BODIES))
        wanted = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
        (got,) = downstream.ask("POST", f"/queues/%2F/q.{exchange}/get", wanted)
        assert (got["exchange"], got["routing_key"], got["payload"]) == (exchange, "a.0", "0")
        (hop,) = got["properties"]["headers"]["x-received-from"]
        name = upstream.ask("GET", "/cluster-name")["name"]
        uri = f"amqp://{upstream.address}/%2F"
        assert hop == {
            "uri": uri,
            "exchange": exchange,
            "redelivered": False,
            "cluster-name": name,
            "vhost": "/",
        }
        down.call(commands.Queue.Bind(queue=f"q.{exchange}", exchange=exchange, routing_key="late"))
        until(lambda: upstream.bindings_from(exchange) == {"a.#", "late"})
        own = downstream.ask("GET", "/cluster-name")["name"]
        assert upstream.internal_queues() == [f"federation: {exchange} -> {own}"]
        downstream.ask("DELETE", "/policies/%2F/p")
        until(lambda: upstream.internal_queues() == [])
        assert downstream.links() == []
        up.call(commands.Exchange.Delete(exchange=exchange))


def test_exchanges_of_two_amqpds(amqpds: list[BrokerProcess]) -> None:
    carry(site(amqpds[0]), site(amqpds[1]), "fed1")
    for process in amqpds:
        assert process.stop() == 0
        assert "Traceback" not in process.log


def test_an_exchange_from_rabbitmq(amqpds: list[BrokerProcess], rabbitmq: Site) -> None:
    carry(rabbitmq, site(amqpds[0]), "fed2")
    assert "Traceback" not in amqpds[0].log


def test_an_exchange_to_rabbitmq(amqpds: list[BrokerProcess], rabbitmq: Site) -> None:
    carry(site(amqpds[0]), rabbitmq, "fed3")
    assert "Traceback" not in amqpds[0].log


def test_a_ring_of_two_amqpds_and_a_rabbitmq(amqpds: list[BrokerProcess], rabbitmq: Site) -> None:
    sites = [site(amqpds[0]), rabbitmq, site(amqpds[1])]
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(each.address)) for each in sites]
        for client in clients:
            bind(client, "ring", "q.ring", "#")
        for left, right in zip(sites, sites[1:] + sites[:1], strict=True):
            right.federate(left, "^ring$", max_hops=5)
        for each in sites:
            each.await_running()
        for each in sites:
            until(lambda each=each: "#" in each.bindings_from("ring"))  # type: ignore[misc]
        for number, client in enumerate(clients):
            client.confirm_select()
            for body in BODIES[:300]:
                client.publish("ring", "k", b"%d." % number + body)
            client.wait_confirmed()
        for client in clients:
            until(lambda client=client: client.message_count("q.ring") == 900)  # type: ignore[misc]
            found = set()
            while (got := client.get("q.ring", no_ack=True)) is not None:
                found.add(got.body)
            assert len(found) == 900
    for each in sites:
        each.ask("DELETE", "/policies/%2F/p")


def fetch(upstream: Site, downstream: Site, queue: str) -> None:
    """What waits upstream comes when somebody wants it downstream, and not before."""
    with Client(upstream.address) as up, Client(downstream.address) as down:
        for client in (up, down):
            client.declare(queue)
        up.confirm_select()
        for body in BODIES:
            up.publish("", queue, body)
        up.wait_confirmed()
        downstream.federate(upstream, f"^{queue}$", prefetch_count=50)
        downstream.await_running()
        assert up.message_count(queue) == len(BODIES)
        down.consume(queue, prefetch=20)
        got = []
        for _ in BODIES:
            delivery = down.next_delivery()
            got.append(delivery.body)
            down.ack(delivery.delivery_tag)
        assert got == BODIES
    downstream.ask("DELETE", "/policies/%2F/p")
    until(lambda: downstream.links() == [])


def test_queues_of_two_amqpds(amqpds: list[BrokerProcess]) -> None:
    fetch(site(amqpds[0]), site(amqpds[1]), "work1")
    for process in amqpds:
        assert "Traceback" not in process.log


def test_a_queue_from_rabbitmq(amqpds: list[BrokerProcess], rabbitmq: Site) -> None:
    fetch(rabbitmq, site(amqpds[0]), "work2")


def test_a_queue_to_rabbitmq(amqpds: list[BrokerProcess], rabbitmq: Site) -> None:
    fetch(site(amqpds[0]), rabbitmq, "work3")


def test_a_queue_of_amqpd_and_one_of_rabbitmq_share_their_work(
    amqpds: list[BrokerProcess], rabbitmq: Site
) -> None:
    """Each is the other's upstream: whoever has consumers gets what there is, once."""
    sites = [site(amqpds[0]), rabbitmq]
    with Client(sites[0].address) as one, Client(sites[1].address) as other:
        for client, here, there in ((one, sites[0], sites[1]), (other, sites[1], sites[0])):
            client.declare("shared")
            here.federate(there, "^shared$", prefetch_count=10)
        for each in sites:
            each.await_running()
        bodies = BODIES[:400]
        for number, body in enumerate(bodies):
            (one, other)[number % 2].publish("", "shared", body)
        until(lambda: one.message_count("shared") + other.message_count("shared") == len(bodies))
        assert (one.message_count("shared"), other.message_count("shared")) == (200, 200)
        got = set()
        one.consume("shared", prefetch=5)
        for _ in bodies:
            delivery = one.next_delivery()
            got.add(delivery.body)
            one.ack(delivery.delivery_tag)
        assert got == set(bodies)
        until(lambda: other.message_count("shared") == 0)
    for each in sites:
        each.ask("DELETE", "/policies/%2F/p")


def test_a_link_through_cuts_and_restarts(amqpds: list[BrokerProcess]) -> None:
    upstream, downstream = amqpds
    proxy = CuttingProxy(upstream.address, [3, 300, 2_000, 9_000, 30_000, 60_000])
    try:
        with Client(downstream.address) as down:
            bind(down, "fed", "q", "#")
        site(downstream).federate(proxy.address, reconnect_delay=0.1)
        site(downstream).await_running()
        until(lambda: site(upstream).bindings_from("fed") == {"#"})
        with Client(upstream.address) as up:
            up.confirm_select()
            for number, body in enumerate(BODIES):
                up.publish("fed", "k", body)
                if number == 1000:
                    up.wait_confirmed()
                    downstream.kill()
            up.wait_confirmed()
        downstream.start("--management", "127.0.0.1:0")
        site(downstream).await_running()
        with Client(downstream.address) as down:
            found = set[bytes]()

            def all_arrived() -> bool:
                while (got := down.get("q", no_ack=True)) is not None:
                    found.add(got.body)
                return found >= set(BODIES)

            until(all_arrived)
        assert found == set(BODIES)
        assert "guest:guest" not in downstream.log
    finally:
        proxy.close()


def test_the_command_shows_links(
    amqpds: list[BrokerProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    from amqpd.runtime.links_command import show

    upstream, downstream = amqpds
    url = f"http://{downstream.ready['management'][0]}"
    assert show(url, "guest", "guest", as_json=False) == 0
    assert capsys.readouterr().out == "no links\n"
    with Client(downstream.address) as down:
        bind(down, "fed", "q", "#")
    site(downstream).federate(site(upstream))
    site(downstream).await_running()
    assert show(url, "guest", "guest", as_json=False) == 0
    headings, line = capsys.readouterr().out.splitlines()
    assert headings.split()[:3] == ["kind", "name", "vhost"]
    assert line.split()[:2] == ["exchange", "up"]
    assert "running" in line
    shovel = {"src-uri": "amqp://", "src-queue": "a", "dest-uri": "amqp://", "dest-queue": "b"}
    site(downstream).ask("PUT", "/parameters/shovel/%2F/move", {"value": shovel})
    until(lambda: site(downstream).ask("GET", "/shovels")[0].get("lag") == 0)
    assert show(url, "guest", "guest", as_json=False) == 0
    line = capsys.readouterr().out.splitlines()[2]
    assert line.split() == [
        *("shovel", "move", "/", "a", "on", "amqp://", "b", "on", "amqp://", "running"),
        *(line.split()[10:12]),  # for so many seconds
        *("0", "0"),
    ]
    upstream.kill()
    until(lambda: site(downstream).links()[0].get("error", "").endswith("Connection refused"))
    assert show(url, "guest", "guest", as_json=False) == 1
    assert "error" in capsys.readouterr().out
    assert show(url, "guest", "guest", as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["federation_links"][0]["status"] == "error"
    assert show(url, "guest", "wrong", as_json=False) == 69
    assert "refuses user 'guest'" in capsys.readouterr().err
    downstream.kill()
    assert show(url, "guest", "guest", as_json=False) == 69
    assert "cannot reach the HTTP API" in capsys.readouterr().err
