"""Scenario: how fast a shovel and federation links carry messages of 1 KB with on-confirm.

    upstream (the broker under test) ──link──> downstream (amqpd, which has the link)

A backlog is made upstream first, so that no publisher takes part; then the downstream broker is
started, and the time is taken from the first message in its queue to the last. A queue's link moves
messages for a consumer only: there the time is taken from the first one that it gets to the last.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.bench import brokers, load, sockets, wire
from tests.bench.client import Address, Connection
from tests.bench.load import Limit
from tests.bench.report import Figure
from tests.bench.scenarios import Scenario
from tests.bench.site import PHASE_SECONDS, Site

BODY: Final = b"x" * 1024
COUNT: Final = 100_000
WINDOW: Final = 1000
FROM: Final = "bench-from"
TO: Final = "bench-to"
EXCHANGE: Final = "bench-linked"
KEY: Final = "k"
POLL_SECONDS: Final = 0.01
LINK_SECONDS: Final = 3.0
"""Enough for a link to declare and bind what it needs, on loopback."""
UPSTREAM_QUEUE: Final = f"federation: {EXCHANGE} -> bench-down"


def links(site: Site) -> Iterator[Figure]:
    """A shovel and both kinds of federation, transient and persistent messages."""
    count = site.messages or COUNT
    for how, properties in (("", wire.TRANSIENT), (", persistent", wire.PERSISTENT)):
        with site.running():
            rate = _shovelled(site, count, properties)
        yield Figure(f"shovel, on-confirm, 1 KB{how}", rate, "msg/s")
        with site.running():
            rate = _federated(site, count, properties)
        yield Figure(f"exchange federation, on-confirm, 1 KB{how}", rate, "msg/s")
        with site.running():
            rate = _fetched(site, count, properties)
        yield Figure(f"queue federation, on-confirm, 1 KB{how}", rate, "msg/s")


def _shovelled(site: Site, count: int, properties: bytes) -> float:
    shovel = {
        "src-uri": _uri(site.address),
        "src-queue": FROM,
        "dest-uri": "amqp://",
        "dest-queue": TO,
    }
    _forget(site.address)
    with Connection(site.address) as control:
        control.declare_queue(FROM, durable=True)
    _fill(site.address, "", FROM, count, properties)
    with _downstream(site, _parameter("shovel", shovel)) as address:
        return _arrival_rate(address, count)


def _federated(site: Site, count: int, properties: bytes) -> float:
    _forget(site.address)
    definitions = _parameter("federation-upstream", {"uri": _uri(site.address)})
    policy = {"pattern": f"^{EXCHANGE}$", "definition": {"federation-upstream": "bench"}}
    definitions["policies"] = [
        {"vhost": "/", "name": "bench", "apply-to": "exchanges", "priority": 0, **policy}
    ]
    definitions["exchanges"] = [_named(EXCHANGE, type="direct", internal=False)]
    binding = {"source": EXCHANGE, "destination": TO, "destination_type": "queue"}
    definitions["bindings"] = [{"vhost": "/", "routing_key": KEY, "arguments": {}, **binding}]
    # Once, so that the link makes its queue upstream, which then holds the backlog.
    with _downstream(site, definitions), Connection(site.address) as control:
        _await_link(control)
    _fill(site.address, EXCHANGE, KEY, count, properties)
    with _downstream(site, definitions) as address:
        return _arrival_rate(address, count)


def _fetched(site: Site, count: int, properties: bytes) -> float:
    """Into the hands of a consumer downstream, for whom the link takes them."""
    _forget(site.address)
    upstream = {"uri": _uri(site.address), "queue": FROM}
    definitions = _parameter("federation-upstream", upstream)
    policy = {"pattern": f"^{TO}$", "definition": {"federation-upstream": "bench"}}
    definitions["policies"] = [
        {"vhost": "/", "name": "bench", "apply-to": "queues", "priority": 0, **policy}
    ]
    with Connection(site.address) as control:
        control.declare_queue(FROM, durable=True)
    _fill(site.address, "", FROM, count, properties)
    with _downstream(site, definitions) as address, Connection(address) as connection:
        connection.consume(TO, no_ack=False, prefetch=WINDOW)
        if not connection.received:
            connection.sock.recv(1, socket.MSG_PEEK)
        (seconds,) = load.drained(connection, count, count, time.perf_counter())
        return count / seconds


def _forget(address: Address) -> None:
    with Connection(address) as control:
        for queue in (FROM, UPSTREAM_QUEUE):
            control.delete_queue(queue)


def _uri(address: Address) -> str:
    return f"amqp://guest:guest@{address.host}:{address.port}/%2F"


def _named(name: str, **fields: Any) -> dict[str, Any]:
    return {"vhost": "/", "name": name, "durable": True, "auto_delete": False} | {
        "arguments": {},
        **fields,
    }


def _parameter(component: str, value: dict[str, Any]) -> dict[str, Any]:
    parameter = {"vhost": "/", "component": component, "name": "bench", "value": value}
    return {
        "vhosts": [{"name": "/"}],
        "parameters": [parameter],
        "global_parameters": [{"name": "cluster_name", "value": "bench-down"}],
        "queues": [_named(TO)],
    }


def _fill(address: Address, exchange: str, key: str, count: int, properties: bytes) -> None:
    message = wire.publish(exchange, key, BODY, properties)
    with Connection(address) as connection:
        connection.confirm_select()
        sockets.make_hot(connection.sock)
        limit = Limit(count, PHASE_SECONDS)
        load.confirmed(connection.sock, message, limit, time.perf_counter(), WINDOW)


@contextmanager
def _downstream(site: Site, definitions: dict[str, Any]) -> Iterator[Address]:
    """amqpd with these definitions, on an empty store."""
    home = site.home / f"downstream-{time.monotonic_ns()}"
    home.mkdir()
    path = home / "definitions.json"
    path.write_text(json.dumps(definitions))
    with brokers.amqpd(options=("--definitions", str(path)))(home) as broker:
        yield Address.of(broker.url)


def _await_link(control: Connection) -> None:
    """The link consumes last of all, when its bindings are there."""
    time.sleep(LINK_SECONDS)
    control.message_count(UPSTREAM_QUEUE)


def _arrival_rate(address: Address, count: int) -> float:
    """Messages a second into the downstream queue."""
    deadline = time.perf_counter() + PHASE_SECONDS
    began, found_first = 0.0, 0
    with Connection(address) as control:
        while time.perf_counter() < deadline:
            found = control.message_count(TO)
            now = time.perf_counter()
            if found and not began:
                began, found_first = now, found
            if found >= count:
                return (found - found_first) / (now - began)
            time.sleep(POLL_SECONDS)
    raise load.LoadError(f"{found} of {count} messages came")


LINKS: Final = Scenario("links", links)
