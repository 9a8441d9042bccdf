"""How fast the load itself can go, without a broker."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial

from tests.bench import load, sockets, wire
from tests.bench.load import Gate, Limit, Progress, Role
from tests.bench.report import Figure
from tests.bench.target import QUEUE, Bench


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
            sockets.make_hot(sock)
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
    buffer = bytearray(sockets.RECEIVE_OCTETS)
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
