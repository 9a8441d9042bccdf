"""Scenarios that strain a broker, to see what it costs the others and whether memory comes back.

Each one reads the broker's resident memory before, at its most, and some seconds after everything
that was done has been undone.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

from tests.bench import load, sockets, wire
from tests.bench.at_rest import latencies
from tests.bench.client import Address, Connection, declare_arguments, delete_arguments
from tests.bench.load import Gate, Limit, Progress, Role
from tests.bench.process import SAMPLE_SECONDS
from tests.bench.report import Figure
from tests.bench.site import QUEUE, Site, megabytes

MIB: Final = 1 << 20
OTHER: Final = "bench-other"
PIPELINE: Final = 100
LATENCY_SECONDS: Final = 10.0
SMALL_A_SECOND: Final = 1000
CHURN_SECONDS: Final = 60.0
GET: Final = (60, 70)


@contextlib.contextmanager
def measured(site: Site, name: str, figures: list[Figure]) -> Iterator[None]:
    """Memory before, most (as far as the block looked), and after."""
    before = site.at_rest()
    site.memory_max = 0
    yield
    most, after = site.memory_max, site.at_rest()
    figures += [
        megabytes(f"{name}: memory before", before),
        megabytes(f"{name}: memory, most", most),
        megabytes(f"{name}: memory afterwards", after),
    ]


def watch_both(site: Site, publisher: Role[load.Published], progress: Progress) -> load.Published:
    """A publisher to its end, with an eye on the memory."""
    publisher.go()
    while not publisher.finished(SAMPLE_SECONDS):
        site.memory()
    published = publisher.result(0)
    progress.finish(published.count)
    return published


# --- clients that do not keep up -------------------------------------------------------------


def dead_consumer(site: Site) -> list[Figure]:
    """A consumer that takes nothing from its socket: what the others get meanwhile."""
    figures: list[Figure] = []
    with site.running(), Connection(site.address) as control:
        for queue in (QUEUE, OTHER):
            control.declare_queue(queue)
        pair(site)
        alone = pair(site)
        with measured(site, "dead consumer", figures):
            dead = Connection(site.address)
            dead.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            dead.consume(OTHER, no_ack=True)
            site.watch(Role("publisher", _flood(site.address, OTHER, 1024, 200_000)))
            beside = pair(site)
            dead.sock.close()
            control.delete_queue(OTHER)
    return [
        Figure("12 B, automatic ack: alone", alone, "msg/s"),
        Figure("12 B, automatic ack: beside a dead consumer with 200 MB", beside, "msg/s"),
        *figures,
    ]


def pair(site: Site) -> float:
    """A healthy publisher and consumer: messages a second."""
    progress = Progress()
    publisher = Role("publisher", _flood(site.address, QUEUE, 12, 500_000))

    def consume(gate: Gate) -> load.Consumed:
        inlets = load.open_inlets(site.address, [QUEUE])
        gate.wait()
        return load.consume(inlets, progress)

    consumer = Role("consumer", consume)
    with load.roles(publisher, consumer):
        publisher.await_ready()
        consumer.await_ready()
        consumer.go()
        published = watch_both(site, publisher, progress)
        consumed = consumer.result(60)
    return consumed.count / (consumed.ended - published.began)


def _flood(address: Address, queue: str, size: int, count: int) -> Callable[[Gate], load.Published]:
    message = wire.publish("", queue, b"x" * size, wire.TRANSIENT)

    def work(gate: Gate) -> load.Published:
        connection = Connection(address)
        sockets.make_hot(connection.sock)
        done = load.flood(connection.sock, [message], Limit(count, 60), gate.wait())
        connection.sock.settimeout(60)
        connection.close()
        return done

    return work


def never_reads(site: Site) -> list[Figure]:
    """A client that asks and asks, and never reads an answer."""
    figures: list[Figure] = []
    requests = wire.method(1, GET, b"\x00\x00" + wire.short(QUEUE) + b"\x00") * 1000
    sent = 0
    with site.running(), Connection(site.address) as control:
        control.declare_queue(QUEUE)
        with measured(site, "client that never reads", figures):
            deaf = Connection(site.address)
            deaf.sock.settimeout(2.0)  # nothing is taken from it for so long: the broker has paused
            with contextlib.suppress(TimeoutError):
                while sent < 10_000_000:
                    deaf.sock.sendall(requests)
                    sent += 1000
                    site.memory()
            site.memory()
            began = time.perf_counter()
            for _ in range(1000):
                control.message_count(QUEUE)
            seconds = time.perf_counter() - began
            deaf.sock.close()
    return [
        Figure("requests taken from a client that never reads", sent, "requests"),
        Figure("requests of another client meanwhile", 1000 / seconds, "requests/s"),
        *figures,
    ]


# --- large bodies ----------------------------------------------------------------------------


def bodies_of_128_mib(site: Site) -> list[Figure]:
    """The largest body that the default configuration takes, again and again, consumed."""
    count, progress, figures = 10, Progress(), list[Figure]()
    message = wire.publish("", QUEUE, bytes(128 * MIB), wire.TRANSIENT)

    def publish(gate: Gate) -> load.Published:
        connection = Connection(site.address)
        sockets.make_hot(connection.sock)
        began = gate.wait()
        for _ in range(count):
            connection.sock.sendall(message)
        connection.sock.settimeout(60)
        connection.close()
        return load.Published(count, began, time.perf_counter())

    def consume(gate: Gate) -> float:
        connection = Connection(site.address)
        connection.consume(QUEUE, no_ack=True)
        gate.wait()
        left = count * 128 * MIB
        buffer = bytearray(MIB)
        while left > 0:
            left -= connection.sock.recv_into(buffer)
        return time.perf_counter()

    with site.running(), Connection(site.address) as control:
        control.declare_queue(QUEUE)
        with measured(site, "bodies of 128 MiB", figures):
            publisher, consumer = Role("publisher", publish), Role("consumer", consume)
            with load.roles(publisher, consumer):
                publisher.await_ready()
                consumer.await_ready()
                consumer.go()
                published = watch_both(site, publisher, progress)
                ended = consumer.result(60)
    rate = count * 128 * MIB / 1e6 / (ended - published.began)
    return [Figure("bodies of 128 MiB", rate, "MB/s"), *figures]


def small_beside_large(site: Site) -> list[Figure]:
    """Latency of small messages while bodies of 100 MB pass through the same broker."""
    figures = []
    with site.running(), Connection(site.address) as control:
        for queue in (QUEUE, OTHER):
            control.declare_queue(queue)
        figures += _latency(site, "small messages alone")
        stop = Progress()
        message = wire.publish("", OTHER, bytes(100_000_000), wire.TRANSIENT)

        def publish(gate: Gate) -> int:
            connection, passed = Connection(site.address), 0
            gate.wait()
            while stop.total < 0:
                connection.sock.sendall(message)
                passed += 1
            return passed

        def consume(gate: Gate) -> None:
            connection = Connection(site.address)
            connection.consume(OTHER, no_ack=True)
            gate.wait()
            buffer = bytearray(MIB)
            with contextlib.suppress(TimeoutError):
                connection.sock.settimeout(3)
                while connection.sock.recv_into(buffer):
                    pass

        publisher, consumer = Role("publisher", publish), Role("consumer", consume)
        with load.roles(publisher, consumer):
            for part in (consumer, publisher):
                part.await_ready()
                part.go()
            figures += _latency(site, "small messages beside bodies of 100 MB")
            stop.finish(0)
            passed = publisher.result(60)
        figures.append(Figure("bodies of 100 MB meanwhile", passed / LATENCY_SECONDS, "bodies/s"))
    return figures


def _latency(site: Site, name: str) -> list[Figure]:
    taken = latencies(site.address, SMALL_A_SECOND, 12, Limit(10**9, LATENCY_SECONDS))
    return [
        Figure(f"{name}: p50", taken[len(taken) // 2] / 1e6, "ms"),
        Figure(f"{name}: p99", taken[int(len(taken) * 0.99)] / 1e6, "ms"),
        Figure(f"{name}: worst", taken[-1] / 1e6, "ms"),
    ]


# --- many of a thing -------------------------------------------------------------------------


def ten_thousand_connections(site: Site) -> list[Figure]:
    """Connections with a channel each, kept open, then closed."""
    count, figures = 10_000, list[Figure]()

    def work(gate: Gate) -> tuple[float, float]:
        gate.wait()
        began = time.perf_counter()
        opened = [Connection(site.address) for _ in range(count)]
        seconds = time.perf_counter() - began
        time.sleep(1.0)
        began = time.perf_counter()
        for connection in opened:
            connection.close()
        return seconds, time.perf_counter() - began

    with site.running():
        with measured(site, "10,000 connections", figures):
            opening, closing = site.watch(Role("clients", work))
        with Connection(site.address) as control:
            control.declare_queue(QUEUE)  # it still serves
    return [
        Figure("10,000 connections: opened", count / opening, "conns/s"),
        Figure("10,000 connections: closed", count / closing, "conns/s"),
        *figures,
    ]


def hundred_thousand_queues(site: Site) -> Iterator[Figure]:
    """Durable queues: declared, kept over a restart, deleted."""
    count = site.messages or 100_000
    name = f"{count:,} durable queues"
    with site.running():
        with Connection(site.address) as control:
            seconds = _each(site, control, count, _declares)
        yield Figure(f"{name}: declared", count / seconds, "queues/s")
        yield megabytes(f"{name}: memory with them", site.at_rest())
    with site.running() as broker:
        assert broker.start_seconds is not None
        yield Figure(f"{name}: restart, until AMQP answers", broker.start_seconds, "s")
        yield megabytes(f"{name}: memory after the restart", site.at_rest())
        with Connection(site.address) as control:
            seconds = _each(site, control, count, _deletes)
        yield Figure(f"{name}: deleted", count / seconds, "queues/s")
        yield megabytes(f"{name}: memory when they are deleted", site.at_rest())
        with Connection(site.address) as control:
            _each(site, control, count, _declares)
            _each(site, control, count, _deletes)
        yield megabytes(f"{name}: memory when that was done twice", site.at_rest())


def _declares(name: str) -> tuple[bytes, wire.Method]:
    arguments = declare_arguments(name, durable=True)
    return wire.method(1, wire.QUEUE_DECLARE, arguments), wire.QUEUE_DECLARE_OK


def _deletes(name: str) -> tuple[bytes, wire.Method]:
    return wire.method(1, wire.QUEUE_DELETE, delete_arguments(name)), wire.QUEUE_DELETE_OK


def _each(
    site: Site,
    control: Connection,
    count: int,
    request: Callable[[str], tuple[bytes, wire.Method]],
) -> float:
    """Ask for so many queues, a hundred at a time: seconds."""
    began = time.perf_counter()
    for start in range(0, count, PIPELINE):
        asked = [request(f"{QUEUE}-{number}") for number in range(start, start + PIPELINE)]
        control.call_many([octets for octets, _ in asked], asked[0][1])
        if start % (100 * PIPELINE) == 0:
            site.memory()
    return time.perf_counter() - began


def churn(site: Site) -> list[Figure]:
    """Connections, channels, queues, bindings, consumers and messages that come and go."""
    seconds = site.seconds or CHURN_SECONDS
    samples: list[tuple[float, int]] = []
    rounds, figures = 0, list[Figure]()
    with site.running(), measured(site, "coming and going", figures):
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            _come_and_go(site.address, rounds)
            rounds += 1
            if not samples or elapsed - samples[-1][0] > SAMPLE_SECONDS:
                samples.append((elapsed, site.memory()))
    steady = samples[len(samples) // 4 :]
    return [
        Figure("coming and going", rounds / seconds, "rounds/s"),
        Figure("coming and going: growth", slope(steady) * 60 / 1000, "KB/min"),
        *figures,
    ]


def _come_and_go(address: Address, number: int) -> None:
    """One connection's life."""
    name = f"{QUEUE}-{number}"
    with Connection(address) as connection:
        connection.declare_queue(name, durable=True)
        connection.bind(name, "amq.topic", f"key.{number}")
        octets = wire.publish("amq.topic", f"key.{number}", b"x" * 100, wire.PERSISTENT)
        connection.sock.sendall(octets * 10)
        connection.consume(name, no_ack=True)
        while len(connection.received) < 10 * (wire.delivery_size(connection.received) or MIB):
            connection.received += connection.sock.recv(65536)
        connection.received.clear()
        connection.sock.sendall(wire.method(1, wire.QUEUE_DELETE, delete_arguments(name)))
        while True:  # basic.cancel comes before the answer
            _, _, payload = connection.read_frame()
            if wire.method_of(payload) == wire.QUEUE_DELETE_OK:
                break
        connection.close()


def slope(samples: list[tuple[float, int]]) -> float:
    """Octets a second: the line through the samples that misses them least."""
    count = len(samples)
    mean_x = sum(x for x, _ in samples) / count
    mean_y = sum(y for _, y in samples) / count
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread
