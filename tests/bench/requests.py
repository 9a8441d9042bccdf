"""Workloads of requests: RPC, declarations, connections and channels that come and go."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable

from tests.bench import load, process, wire
from tests.bench.client import Connection, declare_arguments
from tests.bench.load import Gate, Limit, Progress, Role
from tests.bench.report import Figure
from tests.bench.target import PIPELINE, QUEUE, Bench, delete_queues


def rpc(bench: Bench) -> list[Figure]:
    """Request and reply over direct reply-to, one at a time, client and server apart."""
    limit, progress = bench.limit(100_000), Progress()
    request = wire.publish("", QUEUE, b"x" * 12, wire.properties(reply_to="amq.rabbitmq.reply-to"))

    def serve(gate: Gate) -> int:
        connection = bench.connect()
        connection.consume(QUEUE, no_ack=True)
        gate.wait()
        load.make_hot(connection.sock, load.IDLE_SECONDS)
        answered, reply, size, pending = 0, b"", 0, bytearray(connection.received)
        while progress.total < 0:
            with contextlib.suppress(BlockingIOError):
                pending += connection.sock.recv(65536)
            if not size:
                size = wire.delivery_size(pending) or 0
                if not size:
                    continue
                # The token belongs to the client's channel: it is the same in every request.
                reply = wire.publish("", _reply_to(pending), b"y" * 12, wire.TRANSIENT)
            while len(pending) >= size:
                connection.sock.sendall(reply)
                del pending[:size]
                answered += 1
        return answered

    def call(gate: Gate) -> load.Published:
        connection = bench.connect()
        connection.consume("amq.rabbitmq.reply-to", no_ack=True)
        began = gate.wait()
        load.make_hot(connection.sock)
        trips, size, deadline = 0, 0, began + limit.seconds
        while trips < limit.count and time.perf_counter() < deadline:
            connection.sock.sendall(request)
            reply = bytearray()
            while not size or len(reply) < size:
                reply += connection.sock.recv(65536)
                size = size or wire.delivery_size(reply) or 0
            trips += 1
        return load.Published(trips, began, time.perf_counter())

    with bench.queues(QUEUE):
        server, client = Role("server", serve), Role("client", call)
        with load.roles(server, client):
            server.await_ready()
            client.await_ready()
            cpu = process.cpu_seconds(bench.pids)
            server.go()
            client.go()
            done = client.result(60)
            progress.finish(done.count)
            cpu = process.cpu_seconds(bench.pids) - cpu
            server.result(10)
    rate = done.count / (done.ended - done.began)
    used = (server.cpu_seconds + client.cpu_seconds) * 1e6 / done.count
    name = "RPC over direct reply-to, round trips"
    return [Figure(name, rate, "trips/s", bench.cpu_us(cpu, done.count), used)]


def _reply_to(delivery: bytearray) -> str:
    """Our requests carry one property only, so it is where the list begins."""
    deliver = wire.next_frame(delivery)
    assert deliver is not None
    header = wire.next_frame(delivery, deliver[3])
    assert header is not None
    flags, length = struct.unpack_from(">HB", header[2], 12)
    if flags != 1 << 9:
        raise load.LoadError(f"property flags {flags:#x} where only reply-to was sent")
    return header[2][15 : 15 + length].decode()


def declarations(bench: Bench) -> list[Figure]:
    """Durable queues: one at a time, then with 100 requests on the way."""
    figures = []
    with bench.connect() as connection:
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
        opened.append(Connection(bench.address, channel=False))
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
        bench.connect().close()

    return [_repeated(bench, "connections opened and closed", "conns/s", limit, once)]


def channel_churn(bench: Bench) -> list[Figure]:
    """Channels of one connection, opened and closed one after the other."""
    limit = bench.limit(40_000)
    closing = struct.pack(">H", 200) + wire.short("done") + b"\x00\x00\x00\x00"
    with Connection(bench.address, channel=False) as connection:

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
