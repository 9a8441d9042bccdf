"""Workloads of exchanges, and of many queues at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from tests.bench import load, wire
from tests.bench.client import Connection, bind_arguments
from tests.bench.load import Gate
from tests.bench.report import Figure
from tests.bench.site import Site
from tests.bench.target import EXCHANGE, QUEUE, Bench, finish, flood, measure

PAIRS: Final = 100
BINDS: Final = 1000
"""Bindings asked for at once."""


def fan_out(bench: Bench) -> list[Figure]:
    """One publisher, ten queues, a connection consuming from each; deliveries are counted."""
    names = [f"{QUEUE}-{i}" for i in range(10)]
    message = wire.publish(EXCHANGE, "", b"x" * 12, wire.TRANSIENT)
    with bench.queues(*names) as control:
        control.declare_exchange(EXCHANGE, "fanout")
        for name in names:
            control.bind(name, EXCHANGE, "")
        publish = flood(bench, [message], bench.limit(150_000))
        figures = measure(bench, "fan-out 1 to 10, deliveries", publish, names)
        control.delete_exchange(EXCHANGE)
    return figures


def topic(bench: Bench) -> list[Figure]:
    """A thousand bindings with wildcards; 2,000 keys in turn, each matching two or three."""
    keys = [f"plant{p}.line{li:02}.{s}" for p in range(10) for li in range(100) for s in "ab"]
    patterns = [f"*.line{li:02}.{tail}" for li in range(100) for tail in ("#", "*")]
    patterns += [f"plant{p}.line{li:02}.#" for p in range(8) for li in range(100)]
    with bench.queues(QUEUE) as control:
        control.declare_exchange(EXCHANGE, "topic")
        _bind(control, patterns)
        figures = _route(bench, f"topic, {len(patterns):,} wildcard bindings", keys)
        control.delete_exchange(EXCHANGE)
    return figures


def topic_100k(site: Site) -> list[Figure]:
    """A hundred thousand bindings, half of them with a wildcard; 20,000 keys in turn, each matching
    one or two: what a place for each device of a large plant comes to.

    A scenario, with a broker of its own: RabbitMQ takes minutes to forget so many bindings.
    """
    devices = [f"zone{zone:02}.device{number:03}" for zone in range(100) for number in range(500)]
    patterns = [f"{device}.{tail}" for device in devices for tail in ("#", "alarm")]
    keys = [f"{device}.{tail}" for device in devices[::5] for tail in ("alarm", "state")]
    name = f"topic, {len(patterns):,} bindings"
    with site.running() as broker, Connection(site.address) as control:
        bench = Bench(site.address, broker.pids)
        before = site.at_rest()
        control.declare_queue(QUEUE)
        control.declare_exchange(EXCHANGE, "topic")
        began = time.perf_counter()
        _bind(control, patterns)
        bound = len(patterns) / (time.perf_counter() - began)
        memory = site.at_rest() - before
        figures = _route(bench, name, keys)
    return [
        *figures,
        Figure(f"{name}: bound", bound, "binds/s"),
        Figure(f"{name}: memory of one", memory / len(patterns) / 1000, "KB"),
    ]


def _bind(control: Connection, patterns: Sequence[str]) -> None:
    for start in range(0, len(patterns), BINDS):
        part = patterns[start : start + BINDS]
        binds = [bind_arguments(QUEUE, EXCHANGE, pattern) for pattern in part]
        requests = [wire.method(1, wire.QUEUE_BIND, arguments) for arguments in binds]
        control.call_many(requests, wire.QUEUE_BIND_OK)


def _route(bench: Bench, name: str, keys: Sequence[str]) -> list[Figure]:
    """Publish with all keys in turn; they have one length, since deliveries must."""
    messages = [wire.publish(EXCHANGE, key, b"x" * 12, wire.TRANSIENT) for key in keys]
    return measure(bench, name, flood(bench, messages, bench.limit(1_000_000)))


def headers(bench: Bench) -> list[Figure]:
    """A hundred bindings that all have to be looked at, of which one matches."""
    messages = []
    with bench.queues(QUEUE) as control:
        control.declare_exchange(EXCHANGE, "headers")
        for i in range(100):
            wanted: dict[str, wire.Value] = {"kind": f"k{i:02}", "zone": "eu"}
            control.bind(QUEUE, EXCHANGE, "", {"x-match": "all", **wanted})
            props = wire.properties(delivery_mode=1, headers=wanted)
            messages.append(wire.publish(EXCHANGE, "", b"x" * 12, props))
        publish = flood(bench, messages, bench.limit(500_000))
        figures = measure(bench, "headers, 100 bindings", publish)
        control.delete_exchange(EXCHANGE)
    return figures


# --- many queues -----------------------------------------------------------------------------


def many_queues(bench: Bench) -> list[Figure]:
    """A hundred producers and as many consumers, each pair with a queue and connections of its own.

    100 B, transient, automatic ack: how a broker shares itself out. Deliveries of all are counted.
    """
    names = [f"{QUEUE}-{i:02}" for i in range(PAIRS)]
    messages = [wire.publish("", name, b"x" * 100, wire.TRANSIENT) for name in names]
    limit = bench.limit(1_000_000)

    def publish(gate: Gate) -> load.Published:
        connections = [bench.connect() for _ in names]
        sources = [connection.sock for connection in connections]
        done = load.flood_evenly(sources, messages, limit, gate.wait())
        for connection in connections:
            finish(connection)
        return done

    with bench.queues(*names):
        return measure(bench, "100 producers, 100 consumers, 100 queues", publish, names)
