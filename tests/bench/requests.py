"""Workloads of requests: RPC, declarations, connections and channels that come and go."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from tests.bench import load, process, wire
from tests.bench.client import Connection, declare_arguments
from tests.bench.load import Gate, Limit, Role
from tests.bench.report import Figure
from tests.bench.target import PIPELINE, QUEUE, Bench, delete_queues
from tests.bench.trips import round_trips


def rpc(bench: Bench) -> list[Figure]:
    """Request and reply over direct reply-to, one at a time, a connection for each side."""
    limit = bench.limit(100_000)
    request = wire.publish("", QUEUE, b"x" * 12, wire.properties(reply_to="amq.rabbitmq.reply-to"))

    def call(gate: Gate) -> load.Published:
        client, server = bench.connect(), bench.connect()
        server.consume(QUEUE, no_ack=True)
        client.consume("amq.rabbitmq.reply-to", no_ack=True)
        return round_trips(client, server, request, limit, gate.wait())

    with bench.queues(QUEUE):
        both = Role("client and server", call)
        done, cpu = load.solo(both, bench.pids, 60)
    rate = done.count / (done.ended - done.began)
    used = both.cpu_seconds * 1e6 / done.count
    name = "RPC over direct reply-to, round trips"
    return [Figure(name, rate, "trips/s", bench.cpu_us(cpu, done.count), used)]


def declarations(bench: Bench) -> list[Figure]:
    """Durable queues: one at a time, then with 100 requests on the way."""
    figures = []
    with bench.connect(is_awake=True) as connection:
        for name, step, count in (
            ("queue declarations, durable", 1, 10_000),
            ("queue declarations, durable, 100 in flight", PIPELINE, 30_000),
        ):
            limit = bench.limit(count, 2.0)
            cpu, began = process.cpu_seconds(bench.pids), time.perf_counter()
            declared = 0
            while declared < limit.count and time.perf_counter() - began < limit.seconds:
                names = [f"{QUEUE}-{i}" for i in range(declared, declared + step)]
                arguments = [declare_arguments(name, durable=True) for name in names]
                connection.call_many(
                    [wire.method(1, wire.QUEUE_DECLARE, a) for a in arguments],
                    wire.QUEUE_DECLARE_OK,
                )
                declared += step
            rate = declared / (time.perf_counter() - began)
            cpu = process.cpu_seconds(bench.pids) - cpu
            figures.append(Figure(name, rate, "queues/s", bench.cpu_us(cpu, declared)))
            delete_queues(connection, declared)
    return figures


def connections(bench: Bench) -> list[Figure]:
    """Opened one after the other, each up to connection.open-ok, and kept open meanwhile."""
    limit = bench.limit(4000)
    opened: list[Connection] = []
    cpu, began = process.cpu_seconds(bench.pids), time.perf_counter()
    while len(opened) < limit.count and time.perf_counter() - began < limit.seconds:
        opened.append(Connection(bench.address, channel=False, is_awake=True))
    rate = len(opened) / (time.perf_counter() - began)
    cpu = process.cpu_seconds(bench.pids) - cpu
    for connection in opened:
        connection.close()
    return [Figure("connections opened", rate, "conns/s", bench.cpu_us(cpu, len(opened)))]


def connection_churn(bench: Bench) -> list[Figure]:
    """Opened with a channel and closed again, one after the other: clients that stay for one
    message, as those of many web pages do."""
    limit = bench.limit(4000)

    def once() -> None:
        bench.connect(is_awake=True).close()

    return [_repeated(bench, "connections opened and closed", "conns/s", limit, once)]


def channel_churn(bench: Bench) -> list[Figure]:
    """Channels of one connection, opened and closed one after the other."""
    limit = bench.limit(40_000)
    closing = struct.pack(">H", 200) + wire.short("done") + b"\x00\x00\x00\x00"
    with Connection(bench.address, channel=False, is_awake=True) as connection:

        def once() -> None:
            connection.call(wire.CHANNEL_OPEN, b"\x00", wire.CHANNEL_OPEN_OK)
            connection.call(wire.CHANNEL_CLOSE, closing, wire.CHANNEL_CLOSE_OK)

        figure = _repeated(bench, "channels opened and closed", "channels/s", limit, once)
        connection.close()
    return [figure]


def _repeated(bench: Bench, name: str, unit: str, limit: Limit, once: Callable[[], None]) -> Figure:
    """The same again and again, within the bounds."""
    count = 0
    cpu, began = process.cpu_seconds(bench.pids), time.perf_counter()
    while count < limit.count and time.perf_counter() - began < limit.seconds:
        once()
        count += 1
    rate = count / (time.perf_counter() - began)
    cpu = process.cpu_seconds(bench.pids) - cpu
    return Figure(name, rate, unit, bench.cpu_us(cpu, count))
