"""Scenario: how long the slowest messages take, for minutes, at 10,000 a second of 1 KB.

Latency is from the publisher's send to the consumer's receive, every message counted, through one
queue with automatic ack. Minutes are long enough for whatever a broker does now and then: collect
garbage, checkpoint its log, tidy its memory. It is measured three times:

- on a fresh broker;
- beside 10,000 queues and 1,000 idle connections, which a garbage collector may have to look at;
- without a broker: a process that only passes the bytes on. What this one misses, the machine
  does (its scheduler, and the load itself), and no broker can do better.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from typing import Final

from tests.bench import load, wire
from tests.bench.at_rest import PATIENCE_SECONDS, latencies, percentile, shares
from tests.bench.client import Connection, declare_arguments
from tests.bench.load import Gate, Limit, Role
from tests.bench.report import Figure
from tests.bench.site import QUEUE, Site
from tests.bench.sockets import RECEIVE_OCTETS, joined
from tests.bench.trips import travel_times

PER_SECOND: Final = 10_000
BODY_OCTETS: Final = 1024
SECONDS: Final = 120.0
OTHERS: Final = 10_000
IDLE: Final = 1000
NAME: Final = "tail at 10,000/s, 1 KB"


def tail(site: Site) -> Iterator[Figure]:
    """A fresh broker, one with much in it, and none."""
    limit = Limit(10**9, site.seconds or SECONDS)
    with site.running(), Connection(site.address) as control:
        control.declare_queue(QUEUE)
        latencies(site.address, PER_SECOND, BODY_OCTETS, Limit(10**9, 1.0))  # what is lazy is done
        yield from _figures(NAME, latencies(site.address, PER_SECOND, BODY_OCTETS, limit))
        for start in range(0, OTHERS, 100):
            names = [f"{QUEUE}-{number}" for number in range(start, start + 100)]
            asked = [declare_arguments(name, durable=True) for name in names]
            requests = [wire.method(1, wire.QUEUE_DECLARE, arguments) for arguments in asked]
            control.call_many(requests, wire.QUEUE_DECLARE_OK)
        idle = [Connection(site.address) for _ in range(IDLE)]
        name = f"{NAME}, beside {OTHERS:,} queues and {IDLE:,} connections"
        yield from _figures(name, latencies(site.address, PER_SECOND, BODY_OCTETS, limit))
        for connection in idle:
            connection.sock.close()
    yield from _figures(f"{NAME}, no broker", through_relay(limit))


def _figures(name: str, taken: Sequence[int]) -> list[Figure]:
    ranks = ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99"), (1.0, "worst"))
    return [
        *(Figure(f"{name}: {word}", percentile(taken, share), "µs") for share, word in ranks),
        *shares(name, taken),
    ]


def through_relay(limit: Limit) -> list[int]:
    """Nanoseconds from sending to receiving where nothing but a relay is between both."""
    message = wire.publish("", QUEUE, b"x" * BODY_OCTETS, wire.TRANSIENT)
    with joined() as (sender, source), joined() as (sink, receiver):

        def relay(gate: Gate) -> None:
            gate.wait()
            # As an event loop does: ask which socket is ready, read, write.
            poll = select.epoll()
            poll.register(source.fileno(), select.EPOLLIN)
            while poll.poll() and (data := source.recv(RECEIVE_OCTETS)):
                sink.sendall(data)

        def travel(gate: Gate) -> list[int]:
            gate.wait()
            size = len(message)
            return travel_times(sender, receiver, message, limit, PER_SECOND, size=size)

        patience = limit.seconds + PATIENCE_SECONDS
        return load.beside(Role("relay", relay), Role("sender", travel), patience)
