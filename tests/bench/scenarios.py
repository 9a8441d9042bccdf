"""What takes long, restarts the broker, or looks at its memory: each with a broker of its own.

A workload (`workloads`) is run against a broker that is there already. A scenario is given a
`Site`: a directory and a way to start the broker in it, as often as it likes. While something goes
on, the site samples the resident memory of the broker's processes.

To add a scenario: a function `(Site) -> Iterable[Figure]`, and a line in SCENARIOS. None of them is
part of a run that does not name it. One with several phases is a generator: the figures of those
that a broker came through stay, whatever becomes of the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.bench import load, routing, sockets, strain, wire
from tests.bench.client import Address, Connection
from tests.bench.flushes import flushes
from tests.bench.http_api import http_api
from tests.bench.load import Gate, Limit, Role
from tests.bench.report import Figure
from tests.bench.site import PHASE_SECONDS, QUEUE, Site, megabytes
from tests.bench.tail import tail

STAGES: Final = 10
"""A long phase is measured in so many parts, to see whether it slows down."""
SMALL: Final = 10_000
"""Messages of the backlog that a large one is compared with."""
SMALL_ROUNDS: Final = 10
BACKLOG_BODY: Final = b"x" * 100
BACKLOG_WINDOW: Final = 1000


# --- a durable backlog across a restart ------------------------------------------------------


def backlog(site: Site) -> Iterator[Figure]:
    """Durable messages of 100 octets that nobody waits for: publish, restart, consume.

    The rates are compared with those of a queue that never holds more than 10,000.
    """
    count = max(site.messages or 10_000_000, STAGES)
    count -= count % STAGES
    name = f"backlog of {count:,}"
    with site.running():
        fresh = site.at_rest()
        with Connection(site.address) as control:
            control.declare_queue(QUEUE, durable=True)
        small = [_fill_and_drain(site) for _ in range(SMALL_ROUNDS)]
        small_publish = SMALL * SMALL_ROUNDS / sum(filling for filling, _ in small)
        small_consume = SMALL * SMALL_ROUNDS / sum(draining for _, draining in small)
        yield Figure(f"backlogs of {SMALL:,}: publish", small_publish, "msg/s")
        yield Figure(f"backlogs of {SMALL:,}: consume", small_consume, "msg/s")
        stages = site.watch(Role("publisher", _publish(site.address, count, STAGES)))
        yield Figure(f"{name}: publish", count / sum(stages), "msg/s")
        yield Figure(f"{name}: publish, last tenth", count / STAGES / stages[-1], "msg/s")
        yield megabytes(f"{name}: memory before", fresh)
        yield megabytes(f"{name}: memory while publishing, most", site.memory_max)
        yield megabytes(f"{name}: memory with it, at rest", site.at_rest())
        stopping = time.perf_counter()
    yield Figure(f"{name}: to stop", time.perf_counter() - stopping, "s")
    yield megabytes(f"{name}: disk with it", site.disk_bytes())
    with site.running() as broker:
        assert broker.start_seconds is not None
        yield Figure(f"{name}: restart, until AMQP answers", broker.start_seconds, "s")
        yield megabytes(f"{name}: memory when AMQP answers again", site.memory())
        with Connection(site.address) as control:
            found = control.message_count(QUEUE)
        if found != count:
            raise load.LoadError(f"{found} messages after the restart, {count} were confirmed")
        stages = site.watch(Role("consumer", _drain(site.address, count, STAGES)))
        yield Figure(f"{name}: consume", count / sum(stages), "msg/s")
        yield Figure(f"{name}: consume, last tenth", count / STAGES / stages[-1], "msg/s")
        yield megabytes(f"{name}: memory while consuming, most", site.memory_max)
        yield megabytes(f"{name}: memory afterwards, at rest", site.at_rest())
        with Connection(site.address) as control:
            left = control.message_count(QUEUE)
        note = f"{left} of {count} messages are still there" if left else ""
        yield Figure(f"{name}: disk afterwards", site.disk_bytes() / 1e6, "MB", note=note)


def _fill_and_drain(site: Site) -> tuple[float, float]:
    """Seconds of publishing a small backlog, and of consuming it."""
    (filling,) = site.watch(Role("publisher", _publish(site.address, SMALL, 1)))
    (draining,) = site.watch(Role("consumer", _drain(site.address, SMALL, 1)))
    return filling, draining


def _publish(address: Address, count: int, stages: int) -> Callable[[Gate], list[float]]:
    """Publish and have it confirmed: seconds of each stage."""
    message = wire.publish("", QUEUE, BACKLOG_BODY, wire.PERSISTENT)
    limit = Limit(count // stages, PHASE_SECONDS)

    def work(gate: Gate) -> list[float]:
        seconds = []
        gate.wait()
        for _ in range(stages):
            with Connection(address) as connection:
                connection.confirm_select()
                sockets.make_hot(connection.sock)
                began = time.perf_counter()
                done = load.confirmed(connection.sock, message, limit, began, BACKLOG_WINDOW)
                seconds.append(done.ended - done.began)
        return seconds

    return work


def _drain(address: Address, count: int, stages: int) -> Callable[[Gate], list[float]]:
    """Consume with an ack for each delivery: seconds of each stage."""

    def work(gate: Gate) -> list[float]:
        with Connection(address) as connection:
            gate.wait()
            began = time.perf_counter()
            connection.consume(QUEUE, no_ack=False, prefetch=load.WINDOW)
            return load.drained(connection, count, count // stages, began)

    return work


# --- the list --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """An entry of the list."""

    name: str
    measure: Callable[[Site], Iterable[Figure]]


SCENARIOS: Final = (
    Scenario("backlog", backlog),
    Scenario("dead-consumer", strain.dead_consumer),
    Scenario("never-reads", strain.never_reads),
    Scenario("128m", strain.bodies_of_128_mib),
    Scenario("small-beside-large", strain.small_beside_large),
    Scenario("10k-connections", strain.ten_thousand_connections),
    Scenario("100k-queues", strain.hundred_thousand_queues),
    Scenario("topic-100k", routing.topic_100k),
    Scenario("tail", tail),
    Scenario("flushes", flushes),
    Scenario("churn", strain.churn),
    Scenario("http-api", http_api),
)
