"""What is measured, one function each, and the process that runs one of them.

A workload is bounded in messages and in seconds; the slower broker meets the second bound. Its
rate is messages over the time from the first publish to the last delivery or confirm, so a broker
that reads faster than it delivers gains nothing by it.

    python -m tests.bench.workloads auto-ack --url amqp://127.0.0.1:5672 [--pids 12,13] [--quick]

prints figures as JSON. To add a workload: a function `(Bench) -> list[Figure]`, and a line in
WORKLOADS; the runner, the report and --only take it from there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from tests.bench import load, process, wire
from tests.bench.client import (
    REPLY_SECONDS,
    Address,
    Connection,
    bind_arguments,
    declare_arguments,
    delete_arguments,
)
from tests.bench.load import Gate, Limit, Progress, Role
from tests.bench.report import Figure

QUEUE: Final = "bench-q"
EXCHANGE: Final = "bench-x"
CONNECTIONS: Final = 1000
PIPELINE: Final = 100
SETTLE_SECONDS: Final = 1.0
"""Memory is read after a pause: brokers collect garbage and free buffers on their own time."""


@dataclass(frozen=True)
class Bench:
    """The broker under test, and how long a workload may take."""

    address: Address
    pids: tuple[int, ...] = ()
    """The broker's processes; empty for one that was not started here: no CPU, no memory."""
    quick: bool = False

    def limit(self, count: int, seconds: float = 3.0) -> Limit:
        """Bounds of one phase."""
        return Limit(count // 2, seconds / 2) if self.quick else Limit(count, seconds)

    def connect(self) -> Connection:
        """One more connection, for set-up."""
        return Connection(self.address)

    def cpu_us(self, seconds: float, count: int) -> float | None:
        """CPU a message, where the broker's processes are known."""
        return seconds * 1e6 / count if self.pids and count else None

    @contextlib.contextmanager
    def queues(self, *names: str, durable: bool = False) -> Iterator[Connection]:
        """Empty queues for the time of the block."""
        with self.connect() as control:
            for name in names:
                control.declare_queue(name, durable=durable)
            yield control
            for name in names:
                control.delete_queue(name)


Publish = Callable[[Gate], load.Published]


def _flood(bench: Bench, messages: Sequence[bytes], limit: Limit) -> Publish:
    def work(gate: Gate) -> load.Published:
        connection = bench.connect()
        load.make_hot(connection.sock)
        done = load.flood(connection.sock, messages, limit, gate.wait())
        _finish(connection)
        return done

    return work


def _finish(connection: Connection) -> None:
    """Close, and wait for it: RabbitMQ drops what a vanished connection's channel still held."""
    connection.sock.settimeout(2 * REPLY_SECONDS)
    connection.close()


def _confirmed(bench: Bench, message: bytes, limit: Limit, window: int) -> Publish:
    def work(gate: Gate) -> load.Published:
        connection = bench.connect()
        connection.confirm_select()
        load.make_hot(connection.sock)
        return load.confirmed(connection.sock, message, limit, gate.wait(), window)

    return work


def _consume(
    bench: Bench, queues: Sequence[str], progress: Progress, acked: int = 0
) -> Callable[[Gate], load.Consumed]:
    """Consumers that are there before the first publish; acks for up to `acked` deliveries."""

    def work(gate: Gate) -> load.Consumed:
        acks, prefetch = wire.acks(acked), load.WINDOW if acked else 0
        inlets = load.open_inlets(bench.address, queues, acks=acks, prefetch=prefetch)
        gate.wait()
        return load.consume(inlets, progress)

    return work


def _measure(
    bench: Bench,
    name: str,
    publish: Publish,
    queues: Sequence[str] = (QUEUE,),
    acked: int = 0,
) -> list[Figure]:
    """Publisher and consumer at once: deliveries a second."""
    progress = Progress()
    consumer = Role("consumer", _consume(bench, queues, progress, acked))
    publisher = Role("publisher", publish)
    done = load.run(publisher, consumer, progress, bench.pids, len(queues))
    count = done.consumed.count
    if not count:
        raise load.LoadError(f"nothing of {done.published.count} messages was delivered")
    return [
        Figure(
            name,
            count / done.seconds,
            "msg/s",
            bench.cpu_us(done.broker_cpu, count),
            done.load_cpu * 1e6 / count,
            done.note,
        )
    ]


# --- one queue -------------------------------------------------------------------------------


def auto_ack(bench: Bench) -> list[Figure]:
    """The smallest message, transient, nothing acknowledged: the broker's own cost."""
    message = wire.publish("", QUEUE, b"x" * 12, wire.TRANSIENT)
    with bench.queues(QUEUE):
        publish = _flood(bench, [message], bench.limit(1_500_000))
        return _measure(bench, "12 B, automatic ack", publish)


def manual_ack(bench: Bench) -> list[Figure]:
    """1 KB, transient, every delivery acknowledged by itself, 200 unacknowledged at most."""
    message = wire.publish("", QUEUE, b"x" * 1024, wire.TRANSIENT)
    limit = bench.limit(700_000)
    with bench.queues(QUEUE):
        publish = _flood(bench, [message], limit)
        name = "1 KB, manual ack, prefetch 200"
        return _measure(bench, name, publish, acked=limit.count + 1000)


def persistent(bench: Bench) -> list[Figure]:
    """Confirmed and consumed, the consumer acknowledging each with prefetch 200."""
    message = wire.publish("", QUEUE, b"x" * 1024, wire.PERSISTENT)
    limit = bench.limit(400_000)
    with bench.queues(QUEUE, durable=True):
        publish = _confirmed(bench, message, limit, load.WINDOW)
        name = "1 KB persistent, 200 unconfirmed, consumed"
        return _measure(bench, name, publish, acked=limit.count)


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
        publisher = Role("publisher", _confirmed(bench, message, limit, load.WINDOW))
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
        publisher = Role("publisher", _confirmed(bench, message, bench.limit(50_000), 1))
        published, cpu = load.solo(publisher, bench.pids, 60)
    rate = published.count / (published.ended - published.began)
    name = "1 KB persistent, one in flight"
    return [Figure(name, rate, "msg/s", bench.cpu_us(cpu, published.count))]


def large(bench: Bench, size: int, name: str, count: int) -> list[Figure]:
    """Large bodies, automatic ack: copying and frame splitting."""
    message = wire.publish("", QUEUE, b"x" * size, wire.TRANSIENT)
    with bench.queues(QUEUE):
        return _measure(bench, name, _flood(bench, [message], bench.limit(count)))


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


# --- routing ---------------------------------------------------------------------------------


def fan_out(bench: Bench) -> list[Figure]:
    """One publisher, ten queues, a connection consuming from each; deliveries are counted."""
    names = [f"{QUEUE}-{i}" for i in range(10)]
    message = wire.publish(EXCHANGE, "", b"x" * 12, wire.TRANSIENT)
    with bench.queues(*names) as control:
        control.declare_exchange(EXCHANGE, "fanout")
        for name in names:
            control.bind(name, EXCHANGE, "")
        publish = _flood(bench, [message], bench.limit(150_000))
        figures = _measure(bench, "fan-out 1 to 10, deliveries", publish, names)
        control.delete_exchange(EXCHANGE)
    return figures


def topic(bench: Bench) -> list[Figure]:
    """A thousand bindings with wildcards; 2,000 keys in turn, each matching two or three."""
    keys = [f"plant{p}.line{li:02}.{s}" for p in range(10) for li in range(100) for s in "ab"]
    patterns = [f"*.line{li:02}.{tail}" for li in range(100) for tail in ("#", "*")]
    patterns += [f"plant{p}.line{li:02}.#" for p in range(8) for li in range(100)]
    messages = [wire.publish(EXCHANGE, key, b"x" * 12, wire.TRANSIENT) for key in keys]
    with bench.queues(QUEUE) as control:
        control.declare_exchange(EXCHANGE, "topic")
        binds = [bind_arguments(QUEUE, EXCHANGE, pattern) for pattern in patterns]
        control.call_many(
            [wire.method(1, wire.QUEUE_BIND, arguments) for arguments in binds], wire.QUEUE_BIND_OK
        )
        publish = _flood(bench, messages, bench.limit(1_000_000))
        figures = _measure(bench, f"topic, {len(patterns):,} wildcard bindings", publish)
        control.delete_exchange(EXCHANGE)
    return figures


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
        publish = _flood(bench, messages, bench.limit(500_000))
        figures = _measure(bench, "headers, 100 bindings", publish)
        control.delete_exchange(EXCHANGE)
    return figures


# --- requests --------------------------------------------------------------------------------


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
    """Durable queues: one at a time, then with 100 requests on the way; and what a queue weighs."""
    figures = []
    with bench.connect() as connection:
        for name, step, count in (
            ("queue declarations, durable", 1, 10_000),
            ("queue declarations, durable, 100 in flight", PIPELINE, 30_000),
        ):
            limit = bench.limit(count, 2.0)
            memory = process.resident_bytes(bench.pids)
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
            memory = process.resident_bytes(bench.pids) - memory
            figures.append(Figure(name, rate, "queues/s", bench.cpu_us(cpu, declared)))
            if bench.pids and step > 1:
                figures.append(Figure("memory of a durable queue", memory / declared / 1000, "KB"))
            _delete_queues(connection, declared)
    return figures


def _delete_queues(connection: Connection, count: int) -> None:
    for begin in range(0, count, PIPELINE):
        names = [f"{QUEUE}-{i}" for i in range(begin, min(count, begin + PIPELINE))]
        requests = [wire.method(1, wire.QUEUE_DELETE, delete_arguments(name)) for name in names]
        connection.call_many(requests, wire.QUEUE_DELETE_OK)


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


# --- at rest, and in time --------------------------------------------------------------------


def memory(bench: Bench) -> list[Figure]:
    """Resident memory when nobody is there, and of each connection with a channel.

    First on a fresh broker: what other workloads leave in its pools would hide the growth.
    """
    if not bench.pids:
        return []
    time.sleep(SETTLE_SECONDS)
    idle = process.resident_bytes(bench.pids)
    opened = [bench.connect() for _ in range(CONNECTIONS)]
    time.sleep(SETTLE_SECONDS)
    grown = process.resident_bytes(bench.pids) - idle
    for connection in opened:
        connection.close()
    return [
        Figure("idle memory", idle / 1e6, "MB"),
        Figure("memory of a connection with a channel", grown / CONNECTIONS / 1000, "KB"),
    ]


def latency(bench: Bench, per_second: int, size: int, seconds: float) -> list[Figure]:
    """From the publisher's send to the consumer's receive, at a rate far below the limit."""
    message = wire.publish("", QUEUE, b"x" * size, wire.TRANSIENT)
    progress, limit = Progress(), bench.limit(10**9, seconds)

    def publish(gate: Gate) -> load.Published:
        connection = bench.connect()
        load.make_hot(connection.sock)
        gate.wait()
        done = load.paced(connection.sock, message, limit, per_second)
        _finish(connection)
        return done

    def receive(gate: Gate) -> list[int]:
        connection = bench.connect()
        connection.consume(QUEUE, no_ack=True)
        gate.wait()
        return load.stamps(connection.sock, bytes(connection.received), size, progress)

    with bench.queues(QUEUE):
        consumer, publisher = Role("consumer", receive), Role("publisher", publish)
        with load.roles(consumer, publisher):
            consumer.await_ready()
            publisher.await_ready()
            cpu = process.cpu_seconds(bench.pids)
            consumer.go()
            publisher.go()
            progress.finish(publisher.result(60).count)
            taken = consumer.result(60)
            cpu = process.cpu_seconds(bench.pids) - cpu
    if not taken:
        raise load.LoadError("nothing was delivered")
    name = f"latency at {per_second:,}/s, {size:,} B"
    figures = [
        Figure(f"{name}: p50", _percentile(taken, 0.50), "µs", bench.cpu_us(cpu, len(taken))),
        Figure(f"{name}: p99", _percentile(taken, 0.99), "µs"),
    ]
    if per_second >= 10_000:
        figures.append(Figure(f"{name}: within 1 ms", _share(taken, 1_000_000), "%"))
        figures.append(Figure(f"{name}: within 10 ms", _share(taken, 10_000_000), "%"))
    return figures


def _percentile(taken: Sequence[int], share: float) -> float:
    """In microseconds; `taken` is sorted."""
    return taken[min(len(taken) - 1, int(len(taken) * share))] / 1000


def _share(taken: Sequence[int], nanoseconds: int) -> float:
    return 100 * sum(1 for value in taken if value <= nanoseconds) / len(taken)


# --- the generator itself --------------------------------------------------------------------


def generator(bench: Bench) -> list[Figure]:
    """How fast the load can go: a publisher into a sink, consumers at a source, no broker."""
    figures = []
    for name, size in (("12 B", 12), ("1 KB", 1024)):
        figures.append(_into_sink(name, size, bench.limit(4_000_000, 2.0)))
        figures.append(_from_source(name, size, bench.limit(3_000_000), ack=False))
        figures.append(_from_source(name, size, bench.limit(3_000_000), ack=True))
    return figures


def _into_sink(name: str, size: int, limit: Limit) -> Figure:
    """A publisher whose peer only reads."""
    message = wire.publish("", QUEUE, b"x" * size, wire.TRANSIENT)
    with _peer(_swallow) as address:

        def publish(gate: Gate) -> load.Published:
            sock = socket.create_connection(address)
            load.make_hot(sock)
            return load.flood(sock, [message], limit, gate.wait())

        publisher = Role("publisher", publish)
        done, _ = load.solo(publisher, (), 60)
    rate = done.count / (done.ended - done.began)
    used = publisher.cpu_seconds * 1e6 / done.count
    return Figure(f"generator: publish {name}", rate, "msg/s", load_us=used)


def _from_source(name: str, size: int, limit: Limit, *, ack: bool) -> Figure:
    """A consumer whose peer sends deliveries as fast as they are taken."""
    block, each = wire.block_of([wire.deliver(QUEUE, b"x" * size, wire.TRANSIENT)])
    blocks = limit.count // each
    count, progress = blocks * each, Progress()
    progress.finish(count, 60)
    with _peer(partial(_pour, block=block, times=blocks)) as address:

        def consume(gate: Gate) -> tuple[float, load.Consumed]:
            sock = socket.create_connection(address)
            inlet = load.Inlet(sock, wire.acks(count) if ack else b"")
            began = gate.wait()
            sock.sendall(b"!")
            return began, load.consume([inlet], progress)

        consumer = Role("consumer", consume)
        (began, consumed), _ = load.solo(consumer, (), 60)
    rate = consumed.count / (consumed.ended - began)
    used = consumer.cpu_seconds * 1e6 / consumed.count
    label = f"generator: consume {name}{', ack each' if ack else ''}"
    return Figure(label, rate, "msg/s", load_us=used)


@contextlib.contextmanager
def _peer(serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A process that accepts one connection and serves it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work(gate: Gate) -> None:
            gate.wait()
            serve(listener.accept()[0])

        part = Role("peer", work)
        with load.roles(part):
            part.await_ready()
            part.go()
            yield listener.getsockname()


def _swallow(sock: socket.socket) -> None:
    buffer = bytearray(load.RECEIVE_OCTETS)
    with contextlib.suppress(ConnectionResetError):
        while sock.recv_into(buffer):
            pass


def _pour(sock: socket.socket, block: bytes, times: int) -> None:
    """Deliveries out; a thread reads the acks, or the two sides would wait for each other."""
    sock.recv(1)
    reader = threading.Thread(target=_swallow, args=(sock,), daemon=True)
    reader.start()
    for _ in range(times):
        sock.sendall(block)
    reader.join()


# --- the list --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """An entry of the list."""

    name: str
    measure: Callable[[Bench], list[Figure]]
    quick: bool = False
    """Part of --quick: the figures of the front page."""
    default: bool = True
    """Part of a run that names none; the others take long, or say nothing of the broker."""

    def in_run(self, quick: bool) -> bool:
        """Whether a run that names no workload has it."""
        return self.quick if quick else self.default


WORKLOADS: Final = (
    Workload("memory", memory, quick=True),
    Workload("auto-ack", auto_ack, quick=True),
    Workload("manual-ack", manual_ack, quick=True),
    Workload("persistent", persistent, quick=True),
    Workload("stored", stored),
    Workload("one-in-flight", one_in_flight),
    Workload("fan-out", fan_out),
    Workload("topic", topic),
    Workload("headers", headers),
    Workload("64k", partial(large, size=65536, name="64 KB bodies", count=40_000)),
    Workload("1m", partial(large, size=1 << 20, name="1 MB bodies", count=4000)),
    Workload("rpc", rpc),
    Workload("declarations", declarations),
    Workload("connections", connections),
    Workload("latency", partial(latency, per_second=2000, size=12, seconds=4)),
    Workload("latency-10k", partial(latency, per_second=10_000, size=1024, seconds=4)),
    Workload("backlog-transient", backlog_transient, default=False),
    Workload("generator", generator, default=False),
)


def named(name: str) -> Workload:
    """The workload of this name."""
    return next(workload for workload in WORKLOADS if workload.name == name)


def main() -> int:
    """Run one workload and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.workloads")
    parser.add_argument("workload", choices=[workload.name for workload in WORKLOADS])
    parser.add_argument("--url", default="amqp://127.0.0.1:5672")
    parser.add_argument("--pids", default="", help="the broker's processes, with commas")
    parser.add_argument("--quick", action="store_true", help="half of everything")
    args = parser.parse_args()
    pids = tuple(int(pid) for pid in args.pids.split(",") if pid)
    bench = Bench(Address.of(args.url), pids, args.quick)
    try:
        figures = named(args.workload).measure(bench)
    except (load.LoadError, wire.ProtocolError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps([asdict(figure) for figure in figures]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
