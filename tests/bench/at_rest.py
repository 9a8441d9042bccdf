"""Workloads of a broker that has little to do: its memory, and latency far below its limit."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from tests.bench import load, process, wire
from tests.bench.client import Address, Connection, declare_arguments
from tests.bench.load import Gate, Limit, Role
from tests.bench.report import Figure
from tests.bench.target import PIPELINE, QUEUE, Bench, delete_queues, finish
from tests.bench.trips import travel_times

CONNECTIONS: Final = 1000
QUEUES: Final = 10_000
QUEUES_SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 1.0
"""Memory is read after a pause: brokers collect garbage and free buffers on their own time."""
PATIENCE_SECONDS: Final = 60.0
"""For what is still on its way when the last message was sent."""


def memory(bench: Bench) -> list[Figure]:
    """Resident memory when nobody is there, of a connection with a channel, of a durable queue.

    First on a fresh broker, and nothing is undone before all of it is measured: what is left in its
    pools would hide the growth.
    """
    if not bench.pids:
        return []
    time.sleep(SETTLE_SECONDS)
    idle = process.resident_bytes(bench.pids)
    opened = [bench.connect() for _ in range(CONNECTIONS)]
    time.sleep(SETTLE_SECONDS)
    connected = process.resident_bytes(bench.pids)
    limit, declared, began = Limit(QUEUES, QUEUES_SECONDS), 0, time.perf_counter()
    while declared < limit.count and time.perf_counter() - began < limit.seconds:
        requests = [
            wire.method(1, wire.QUEUE_DECLARE, declare_arguments(f"{QUEUE}-{number}", durable=True))
            for number in range(declared, declared + PIPELINE)
        ]
        opened[0].call_many(requests, wire.QUEUE_DECLARE_OK)
        declared += PIPELINE
    time.sleep(SETTLE_SECONDS)
    full = process.resident_bytes(bench.pids)
    delete_queues(opened[0], declared)
    for connection in opened:
        connection.close()
    return [
        Figure("idle memory", idle / 1e6, "MB"),
        Figure(
            "memory of a connection with a channel", (connected - idle) / CONNECTIONS / 1e3, "KB"
        ),
        Figure("memory of a durable queue", (full - connected) / declared / 1e3, "KB"),
    ]


def latency(bench: Bench, per_second: int, size: int, seconds: float) -> list[Figure]:
    """From the publisher's send to the consumer's receive, at a rate far below the limit."""
    with bench.queues(QUEUE):
        cpu = process.cpu_seconds(bench.pids)
        taken = latencies(bench.address, per_second, size, bench.limit(10**9, seconds))
        cpu = process.cpu_seconds(bench.pids) - cpu
    name = f"latency at {per_second:,}/s, {size:,} B"
    figures = [
        Figure(f"{name}: p50", percentile(taken, 0.50), "µs", bench.cpu_us(cpu, len(taken))),
        Figure(f"{name}: p99", percentile(taken, 0.99), "µs"),
    ]
    return figures + (shares(name, taken) if per_second >= 10_000 else [])


def latencies(address: Address, per_second: int, size: int, limit: Limit) -> list[int]:
    """Nanoseconds from sending to receiving, sorted; through a queue that is there already."""
    message = wire.publish("", QUEUE, b"x" * size, wire.TRANSIENT)

    def travel(gate: Gate) -> list[int]:
        sender, receiver = Connection(address), Connection(address)
        receiver.consume(QUEUE, no_ack=True)
        first = bytes(receiver.received)
        gate.wait()
        taken = travel_times(sender.sock, receiver.sock, message, limit, per_second, first)
        finish(sender)
        return taken

    taken, _ = load.solo(Role("sender", travel), (), limit.seconds + PATIENCE_SECONDS)
    if not taken:
        raise load.LoadError("nothing was delivered")
    return taken


def percentile(taken: Sequence[int], share: float) -> float:
    """In microseconds; `taken` is sorted."""
    return taken[min(len(taken) - 1, int(len(taken) * share))] / 1000


def shares(name: str, taken: Sequence[int]) -> list[Figure]:
    """How many of a hundred came within 1 ms, and within 10 ms; `taken` is sorted."""
    return [
        Figure(f"{name}: within {ms} ms", 100 * bisect_right(taken, ms * 10**6) / len(taken), "%")
        for ms in (1, 10)
    ]
