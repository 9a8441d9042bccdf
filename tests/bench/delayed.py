"""Scenario: millions of delayed messages are held, and those that come due come in time.

Their due times are spread at random over a day that begins in an hour, so that none of them comes
due meanwhile. The first of them are published, which gives a rate; the others are copies of these,
made in the store while the broker is down, since publishing ten million takes longer than anybody
waits. Then probes: messages that say in their bodies when they are due, some of them published
before another restart (they come from the disk), some after it.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from amqpd_storage.sqlite_file import FILE_NAME
from tests.bench import load, sockets, wire
from tests.bench.client import Address, Connection
from tests.bench.load import Gate, Role
from tests.bench.report import Figure
from tests.bench.scenarios import STAGES, Scenario
from tests.bench.site import PHASE_SECONDS, QUEUE, Site, megabytes

EXCHANGE: Final = "bench-later"
KEY: Final = "k"
HOUR_MS: Final = 3_600_000
PROBES: Final = 1000
BODY_OCTETS: Final = 100
PROBE_SECONDS: Final = 0.002
PUBLISHED_MAX: Final = 200_000
WINDOW: Final = 2000
BLOCK: Final = 500


def delayed(site: Site) -> Iterator[Figure]:
    """Hold ten million delayed messages of 100 octets across a restart."""
    count = site.messages or 10_000_000
    if count < STAGES * BLOCK:
        raise load.LoadError(f"--messages {count}: it takes {STAGES * BLOCK:,} at least")
    published = min(count, PUBLISHED_MAX)
    published -= published % (STAGES * BLOCK)
    name = f"{count:,} delayed"
    with site.running():
        fresh = site.at_rest()
        with Connection(site.address) as control:
            _declare(control)
        stages = site.watch(Role("publisher", _fill(site.address, published)))
        of_all = f"{published:,} delayed"
        yield Figure(f"{of_all}: publish", published / sum(stages), "msg/s")
        yield Figure(f"{of_all}: publish, last tenth", published / STAGES / stages[-1], "msg/s")
        yield megabytes(f"{name}: memory before", fresh)
        yield megabytes(f"{of_all}: memory while publishing, most", site.memory_max)
        yield megabytes(f"{of_all}: memory with them, at rest", site.at_rest())
    _multiply(site.home / "data" / FILE_NAME, published, count)
    yield megabytes(f"{name}: disk", site.disk_bytes())
    with site.running() as broker:
        assert broker.start_seconds is not None
        yield Figure(f"{name}: restart, until AMQP answers", broker.start_seconds, "s")
        yield megabytes(f"{name}: memory when AMQP answers again", site.memory())
        with Connection(site.address) as control:
            _probe(control, 20_000, 30_000)
        stopping = time.perf_counter()
    yield Figure(f"{name}: to stop", time.perf_counter() - stopping, "s")
    with site.running():
        late_ms = site.watch(Role("consumer", _late(site.address, [])))
        yield from _lateness(f"{name}: late, from the disk", late_ms)
        late_ms = site.watch(Role("consumer", _late(site.address, [10_000, 20_000])))
        yield from _lateness(f"{name}: late, published just now", late_ms)
        yield megabytes(f"{name}: memory after the probes", site.at_rest())


def _multiply(path: Path, present: int, count: int) -> None:
    """Copy the messages in the store until there are so many, with due times of their own."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as store:
        ((least, most, highest),) = store.execute(
            "SELECT min(due_ms), max(due_ms), max(sequence) FROM delayed"
        )
        store.execute("PRAGMA synchronous = OFF")
        store.execute("DROP INDEX delayed_due")
        for copy in range(present, count, present):
            store.execute(
                "INSERT INTO delayed SELECT sequence + ?, exchange_id,"
                " ? + abs(random()) % ?, record FROM delayed WHERE sequence <= ? LIMIT ?",
                (copy, least, most - least, highest, min(present, count - copy)),
            )
        store.execute("CREATE INDEX delayed_due ON delayed (exchange_id, due_ms)")
        store.execute("UPDATE delayed_count SET messages = ?", (count,))
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _lateness(name: str, late_ms: list[float]) -> list[Figure]:
    ordered = sorted(late_ms)
    return [
        Figure(f"{name}, median", ordered[len(ordered) // 2], "ms"),
        Figure(f"{name}, 99th percentile", ordered[len(ordered) * 99 // 100], "ms"),
        Figure(f"{name}, most", ordered[-1], "ms"),
    ]


def _declare(control: Connection) -> None:
    control.declare_queue(QUEUE, durable=True)
    control.delete_exchange(EXCHANGE)
    arguments = b"\x00\x00" + wire.short(EXCHANGE) + wire.short("x-delayed-message") + b"\x02"
    arguments += wire.table({"x-delayed-type": "direct"})
    control.call(wire.EXCHANGE_DECLARE, arguments, wire.EXCHANGE_DECLARE_OK)
    control.bind(QUEUE, EXCHANGE, KEY)


def _message(delay_ms: int, body: bytes) -> bytes:
    properties = wire.properties(delivery_mode=2, headers={"x-delay": delay_ms})
    return wire.publish(EXCHANGE, KEY, body, properties)


def _fill(address: Address, count: int) -> Callable[[Gate], list[float]]:
    """Publish and have it confirmed: seconds of each stage."""

    def work(gate: Gate) -> list[float]:
        chance = random.Random(count)
        body = b"x" * BODY_OCTETS
        marker = 0x7FFF_FFFF
        message = _message(marker, body)
        head, tail = message.split(struct.pack(">i", marker))
        confirms, published = wire.Confirms(), 0
        seconds: list[float] = []
        with Connection(address) as connection:
            connection.confirm_select()
            sockets.make_hot(connection.sock)
            gate.wait()
            began = time.perf_counter()
            while confirms.count < count:
                if published < count and published - confirms.count <= WINDOW - BLOCK:
                    delays = [HOUR_MS + chance.randrange(24 * HOUR_MS) for _ in range(BLOCK)]
                    pieces = [head + struct.pack(">i", delay) + tail for delay in delays]
                    connection.sock.sendall(b"".join(pieces))
                    published += BLOCK
                    continue
                confirms.receive(connection.sock.recv(65536))
                while confirms.count >= count // STAGES * (len(seconds) + 1):
                    seconds.append(time.perf_counter() - began - sum(seconds))
            return seconds

    return work


def _probe(connection: Connection, least_ms: int, most_ms: int) -> None:
    """Publish probes: the body is when it is due, in nanoseconds."""
    chance = random.Random(least_ms)
    for _ in range(PROBES):
        delay_ms = chance.randrange(least_ms, most_ms)
        due_ns = time.time_ns() + delay_ms * 1_000_000
        connection.sock.sendall(_message(delay_ms, struct.pack(">Q", due_ns)))
        # One at a time: the broker counts from when it reads a message.
        time.sleep(PROBE_SECONDS)
    connection.message_count(QUEUE)  # all of it has been read


def _late(address: Address, publish_within_ms: list[int]) -> Callable[[Gate], list[float]]:
    """Receive the probes: by how many milliseconds each came late."""

    def work(gate: Gate) -> list[float]:
        late: list[float] = []
        with Connection(address) as consumer, Connection(address) as publisher:
            gate.wait()
            consumer.consume(QUEUE, no_ack=True)
            sockets.make_hot(consumer.sock, PHASE_SECONDS)
            if publish_within_ms:
                _probe(publisher, *publish_within_ms)
            while len(late) < PROBES:
                kind, _, payload = consumer.read_frame()
                if kind == wire.BODY:
                    (due_ns,) = struct.unpack(">Q", payload)
                    late.append((time.time_ns() - due_ns) / 1e6)
            consumer.close()
            publisher.close()
        return late

    return work


DELAYED: Final = Scenario("delayed", delayed)
