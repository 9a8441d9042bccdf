"""What a workload is given: the broker under test, and pairs of publisher and consumer for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.bench import load, sockets, wire
from tests.bench.client import Address, Connection, delete_arguments
from tests.bench.load import Gate, Limit, Progress, Role
from tests.bench.report import Figure
from tests.bench.sockets import REPLY_SECONDS

QUEUE: Final = "bench-q"
EXCHANGE: Final = "bench-x"
PIPELINE: Final = 100
"""Requests on the way at once, where a workload has more than one."""


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

    def connect(self, *, is_awake: bool = False) -> Connection:
        """One more connection."""
        return Connection(self.address, is_awake=is_awake)

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


def flood(bench: Bench, messages: Sequence[bytes], limit: Limit) -> Publish:
    """A publisher without confirms."""

    def work(gate: Gate) -> load.Published:
        connection = bench.connect()
        sockets.make_hot(connection.sock)
        done = load.flood(connection.sock, messages, limit, gate.wait())
        finish(connection)
        return done

    return work


def finish(connection: Connection) -> None:
    """Close, and wait for it: RabbitMQ drops what a vanished connection's channel still held."""
    connection.sock.settimeout(2 * REPLY_SECONDS)
    connection.close()


def confirmed(bench: Bench, message: bytes, limit: Limit, window: int) -> Publish:
    """A publisher with at most `window` unconfirmed."""

    def work(gate: Gate) -> load.Published:
        connection = bench.connect()
        connection.confirm_select()
        sockets.make_hot(connection.sock)
        return load.confirmed(connection.sock, message, limit, gate.wait(), window)

    return work


def consume(
    bench: Bench, queues: Sequence[str], progress: Progress, acked: int = 0
) -> Callable[[Gate], load.Consumed]:
    """Consumers that are there before the first publish; acks for up to `acked` deliveries."""

    def work(gate: Gate) -> load.Consumed:
        acks, prefetch = wire.acks(acked), load.WINDOW if acked else 0
        inlets = load.open_inlets(bench.address, queues, acks=acks, prefetch=prefetch)
        gate.wait()
        return load.consume(inlets, progress)

    return work


def measure(
    bench: Bench,
    name: str,
    publish: Publish,
    queues: Sequence[str] = (QUEUE,),
    acked: int = 0,
) -> list[Figure]:
    """Publisher and consumer at once: deliveries a second."""
    progress = Progress()
    consumer = Role("consumer", consume(bench, queues, progress, acked))
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


def delete_queues(connection: Connection, count: int) -> None:
    """Those of so many numbers."""
    for begin in range(0, count, PIPELINE):
        names = [f"{QUEUE}-{i}" for i in range(begin, min(count, begin + PIPELINE))]
        requests = [wire.method(1, wire.QUEUE_DELETE, delete_arguments(name)) for name in names]
        connection.call_many(requests, wire.QUEUE_DELETE_OK)
