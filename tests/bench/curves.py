"""`make bench-curves`: throughput against how much there is of something, as SVG and a table.

    python -m tests.bench.curves --write docs/curves

Cost has to grow as it should: with the length of a queue, the bindings of an exchange, connections
and queues that are merely there, nothing should change; with the size of messages the octets count.
Each place is measured three times for half a second, and the median is taken. Every curve has a
broker of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import brokers, load, process, sockets, wire
from tests.bench.brokers import Broker
from tests.bench.client import Address, Connection, bind_arguments, declare_arguments
from tests.bench.load import Limit
from tests.bench.plot import Line, line_chart
from tests.bench.site import QUEUE
from tests.bench.target import EXCHANGE, Bench, flood, measure

TRIES: Final = 3
LIMIT: Final = Limit(1_000_000, 0.5)
DECADES: Final = (1, 10, 100, 1000, 10_000, 100_000)
LARGE: Final = 1 << 20
STEP: Final = 20_000
BATCH: Final = 500
"""Requests asked for at once."""

Points = dict[str, list[tuple[float, float]]]
"""What was measured at each place, by the name of the line."""


@dataclass(frozen=True)
class Curve:
    """One of the pictures."""

    name: str
    title: str
    x: str
    y: str
    measure: Callable[[Broker], Points]


def _rate(bench: Bench, messages: list[bytes], limit: Limit = LIMIT) -> float:
    """Deliveries a second through QUEUE with automatic ack; the median of the tries."""
    rates = [measure(bench, "", flood(bench, messages, limit))[0].value for _ in range(TRIES)]
    return statistics.median(rates)


def _small() -> list[bytes]:
    return [wire.publish("", QUEUE, b"x" * 12, wire.TRANSIENT)]


def queue_length(broker: Broker) -> Points:
    """Durable messages of 100 B: while so many are in the queue, as many more, but 20,000 at most,
    are published and confirmed, and as many consumed and acknowledged."""
    address, there = Address.of(broker.url), 0
    points: Points = {"published, confirmed": [], "consumed, acknowledged": []}
    with Connection(address) as control:
        control.declare_queue(QUEUE, durable=True)
    for length in (1000, 10_000, 100_000, 1_000_000):
        _publish(address, length - there)
        step = min(length, STEP)
        rates = [
            (step / _publish(address, step), step / _consume(address, step)) for _ in range(TRIES)
        ]
        there = length
        for line, several in zip(points.values(), zip(*rates, strict=True), strict=True):
            line.append((length, statistics.median(several)))
    return points


def _publish(address: Address, count: int) -> float:
    """Seconds of publishing so many with 1,000 unconfirmed."""
    message = wire.publish("", QUEUE, b"x" * 100, wire.PERSISTENT)
    with Connection(address) as connection:
        connection.confirm_select()
        sockets.make_hot(connection.sock)
        began = time.perf_counter()
        done = load.confirmed(connection.sock, message, Limit(count, 600), began, 1000)
    return done.ended - done.began


def _consume(address: Address, count: int) -> float:
    """Seconds of consuming so many, with an ack for each; the queue keeps the others."""
    with Connection(address) as connection:
        began = time.perf_counter()
        connection.consume(QUEUE, no_ack=False, prefetch=load.WINDOW)
        load.drained(connection, count, count, began)
        ended = time.perf_counter()
        connection.sock.settimeout(load.READY_SECONDS)
    return ended - began


def bindings(broker: Broker) -> Points:
    """A topic exchange: patterns with a wildcard, and 100 keys that match one of them each."""
    bench = Bench(Address.of(broker.url), broker.pids)
    line: list[tuple[float, float]] = []
    with bench.queues(QUEUE) as control:
        control.declare_exchange(EXCHANGE, "topic")
        there = 0
        for count in DECADES:
            asked = [bind_arguments(QUEUE, EXCHANGE, f"{i:06}.*") for i in range(there, count)]
            _ask(control, wire.QUEUE_BIND, asked, wire.QUEUE_BIND_OK)
            there = count
            keys = [f"{i * max(1, count // 100) % count:06}.k" for i in range(100)]
            body = b"x" * 12
            messages = [wire.publish(EXCHANGE, key, body, wire.TRANSIENT) for key in keys]
            line.append((count, _rate(bench, messages)))
    return {"12 B, automatic ack": line}


def _ask(
    control: Connection, request: wire.Method, arguments: list[bytes], reply: wire.Method
) -> None:
    for start in range(0, len(arguments), BATCH):
        part = arguments[start : start + BATCH]
        control.call_many([wire.method(1, request, each) for each in part], reply)


def connections(broker: Broker) -> Points:
    """Connections with a channel that do nothing, beside one publisher and one consumer."""
    bench = Bench(Address.of(broker.url), broker.pids)
    line, idle = list[tuple[float, float]](), list[Connection]()
    with bench.queues(QUEUE):
        for count in DECADES[:-1]:
            idle += [bench.connect() for _ in range(count - len(idle))]
            line.append((count, _rate(bench, _small())))
        for connection in idle:
            connection.sock.close()
    return {"12 B, automatic ack": line}


def queues(broker: Broker) -> Points:
    """Durable queues that nobody uses, beside one that is."""
    bench = Bench(Address.of(broker.url), broker.pids)
    line, there = list[tuple[float, float]](), 0
    with bench.queues(QUEUE) as control:
        for count in DECADES:
            asked = [declare_arguments(f"idle-{i}", True) for i in range(there, count)]
            _ask(control, wire.QUEUE_DECLARE, asked, wire.QUEUE_DECLARE_OK)
            there = count
            line.append((count, _rate(bench, _small())))
    return {"12 B, automatic ack": line}


def message_size(broker: Broker) -> Points:
    """Transient, automatic ack: octets a second."""
    bench = Bench(Address.of(broker.url), broker.pids)
    line = []
    with bench.queues(QUEUE):
        for power in range(0, 25, 2):
            size = 1 << power
            message = wire.publish("", QUEUE, b"x" * size, wire.TRANSIENT)
            # Of large ones only a few come in half a second: begin and end would be what is seen.
            limit = LIMIT if size < LARGE else Limit(LIMIT.count, 4 * LIMIT.seconds)
            line.append((float(size), _rate(bench, [message], limit) * size / 1e6))
    return {"transient, automatic ack": line}


CURVES: Final = (
    Curve("queue-length", "A queue's length", "messages in the queue", "msg/s", queue_length),
    Curve("bindings", "Bindings of a topic exchange", "bindings", "msg/s", bindings),
    Curve("connections", "Idle connections", "connections with a channel", "msg/s", connections),
    Curve("queues", "Idle queues", "durable queues", "msg/s", queues),
    Curve("message-size", "Size of a message", "octets of a body", "MB/s", message_size),
)


def main() -> int:
    """Measure, and write what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.curves", description="Throughput against size, as SVG."
    )
    parser.add_argument("--write", type=Path, metavar="DIR", help="SVG files, a table and JSON")
    parser.add_argument(
        "--only", action="append", default=[], choices=[curve.name for curve in CURVES]
    )
    parser.add_argument("--python", type=Path, help="the amqpd installed for this one")
    parser.add_argument("--rabbitmq", action="store_true", help="of RabbitMQ")
    args = parser.parse_args()
    brokers.raise_file_limit()
    machine, measured = process.machine(Path("/tmp")), dict[str, Points]()
    starter = brokers.rabbitmq if args.rabbitmq else brokers.amqpd(args.python)
    for curve in CURVES:
        if args.only and curve.name not in args.only:
            continue
        with brokers.below(None, starter) as broker:
            measured[curve.name] = curve.measure(broker)
        print("\n".join(table(curve, measured[curve.name])), flush=True)
    if args.write:
        write(args.write, machine, measured)
    return 0


def table(curve: Curve, points: Points) -> Iterator[str]:
    """In Markdown."""
    yield f"| {curve.x} | {' | '.join(f'{name}, {curve.y}' for name in points)} |"
    yield f"|---|{'---|' * len(points)}"
    for row in zip(*points.values(), strict=True):
        yield f"| {row[0][0]:,.0f} | {' | '.join(f'{value:,.0f}' for _, value in row)} |"
    yield ""


def write(directory: Path, machine: dict[str, object], measured: dict[str, Points]) -> None:
    """A picture for each curve, all tables in a page, and the figures as JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    page = [
        "# Curves",
        "",
        "Written by `make bench-curves`; what it means is in [performance.md](../performance.md).",
        "",
        ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
    ]
    for curve in CURVES:
        if curve.name not in measured:
            continue
        points = measured[curve.name]
        lines = [Line(name, line) for name, line in points.items()]
        picture = line_chart(curve.title, curve.x, curve.y, lines)
        (directory / f"{curve.name}.svg").write_text(picture)
        page += [f"## {curve.title}", "", f"![{curve.title}]({curve.name}.svg)", ""]
        page += table(curve, points)
    (directory / "README.md").write_text("\n".join(page).rstrip() + "\n")
    figures = {"machine": machine, "curves": measured}
    (directory / "curves.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
