"""Workloads through one queue: small, acknowledged, persistent, large, many at rest."""

from __future__ import annotations

import time

from tests.bench import load, process, wire
from tests.bench.load import Gate, Limit, Progress, Role
from tests.bench.report import Figure
from tests.bench.target import QUEUE, Bench, confirmed, flood, measure


def auto_ack(bench: Bench) -> list[Figure]:
    """The smallest message, transient, nothing acknowledged: the broker's own cost."""
    message = wire.publish("", QUEUE, b"x" * 12, wire.TRANSIENT)
    with bench.queues(QUEUE):
        publish = flood(bench, [message], bench.limit(1_500_000))
        return measure(bench, "12 B, automatic ack", publish)


def manual_ack(bench: Bench) -> list[Figure]:
    """1 KB, transient, every delivery acknowledged by itself, 200 unacknowledged at most."""
    message = wire.publish("", QUEUE, b"x" * 1024, wire.TRANSIENT)
    limit = bench.limit(700_000)
    with bench.queues(QUEUE):
        publish = flood(bench, [message], limit)
        name = "1 KB, manual ack, prefetch 200"
        return measure(bench, name, publish, acked=limit.count + 1000)


def persistent(bench: Bench) -> list[Figure]:
    """Confirmed and consumed, the consumer acknowledging each with prefetch 200."""
    message = wire.publish("", QUEUE, b"x" * 1024, wire.PERSISTENT)
    limit = bench.limit(400_000)
    with bench.queues(QUEUE, durable=True):
        publish = confirmed(bench, message, limit, load.WINDOW)
        name = "1 KB persistent, 200 unconfirmed, consumed"
        return measure(bench, name, publish, acked=limit.count)


def stored(bench: Bench) -> list[Figure]:
    """Confirmed with nobody consuming, so that all of it is stored; then consumed with acks."""
    message = wire.publish("", QUEUE, b"x" * 1024, wire.PERSISTENT)
    limit, progress = bench.limit(300_000), Progress()

    def drain(gate: Gate) -> tuple[float, load.Consumed]:
        acks = wire.acks(progress.total)
        began = gate.wait()
        inlets = load.open_inlets(bench.address, [QUEUE], acks=acks, prefetch=load.WINDOW)
        return began, load.consume(inlets, progress)

    with bench.queues(QUEUE, durable=True):
        publisher = Role("publisher", confirmed(bench, message, limit, load.WINDOW))
        published, store_cpu = load.solo(publisher, bench.pids, 60)
        progress.finish(published.count)
        consumer = Role("consumer", drain)
        (began, consumed), drain_cpu = load.solo(consumer, bench.pids, 60)
    count = published.count
    return [
        Figure(
            "1 KB persistent, stored only",
            count / (published.ended - published.began),
            "msg/s",
            bench.cpu_us(store_cpu, count),
            publisher.cpu_seconds * 1e6 / count,
        ),
        Figure(
            "1 KB persistent, then drained",
            consumed.count / (consumed.ended - began),
            "msg/s",
            bench.cpu_us(drain_cpu, consumed.count),
            consumer.cpu_seconds * 1e6 / consumed.count,
            "" if consumed.count == count else f"incomplete: {consumed.count} of {count}",
        ),
    ]


def one_in_flight(bench: Bench) -> list[Figure]:
    """Publish, wait for the confirm, publish: one flush and no more."""
    message = wire.publish("", QUEUE, b"x" * 1024, wire.PERSISTENT)
    with bench.queues(QUEUE, durable=True):
        publisher = Role("publisher", confirmed(bench, message, bench.limit(50_000), 1))
        published, cpu = load.solo(publisher, bench.pids, 60)
    rate = published.count / (published.ended - published.began)
    name = "1 KB persistent, one in flight"
    return [Figure(name, rate, "msg/s", bench.cpu_us(cpu, published.count))]


def large(bench: Bench, size: int, name: str, count: int) -> list[Figure]:
    """Large bodies, automatic ack: copying and frame splitting."""
    message = wire.publish("", QUEUE, b"x" * size, wire.TRANSIENT)
    with bench.queues(QUEUE):
        return measure(bench, name, flood(bench, [message], bench.limit(count)))


def backlog_transient(bench: Bench) -> list[Figure]:
    """A million messages nobody waits for: publish, memory, then consume."""
    limit = Limit(250_000 if bench.quick else 1_000_000, 90)
    message = wire.publish("", QUEUE, b"x" * 100, wire.TRANSIENT)
    progress = Progress()

    def publish(gate: Gate) -> load.Published:
        connection = bench.connect()
        done = load.flood(connection.sock, [message], limit, gate.wait())
        # The reply comes after everything that this channel published: the end of publishing.
        connection.sock.settimeout(120)
        connection.message_count(QUEUE)
        return load.Published(done.count, done.began, time.perf_counter())

    def drain(gate: Gate) -> tuple[float, load.Consumed]:
        began = gate.wait()
        inlets = load.open_inlets(bench.address, [QUEUE])
        return began, load.consume(inlets, progress)

    with bench.queues(QUEUE):
        published, publish_cpu = load.solo(Role("publisher", publish), bench.pids, 240)
        memory = process.resident_bytes(bench.pids)
        progress.finish(published.count, 60)
        (began, consumed), cpu = load.solo(Role("consumer", drain), bench.pids, 90)
    count = published.count
    name = f"transient backlog of {count:,} x 100 B"
    figures = [
        Figure(
            f"{name}: publish",
            count / (published.ended - published.began),
            "msg/s",
            bench.cpu_us(publish_cpu, count),
        ),
        Figure(
            f"{name}: then consume",
            consumed.count / (consumed.ended - began),
            "msg/s",
            bench.cpu_us(cpu, consumed.count),
        ),
    ]
    if bench.pids:
        figures.append(Figure(f"{name}: memory with it", memory / 1e6, "MB"))
    return figures
