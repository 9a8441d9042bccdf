"""Every known queue argument with every type of field, declared on RabbitMQ and on amqpd.

    python compat/differential/arguments.py

One queue.declare each, of a classic and of a quorum queue; reply codes and texts are compared. What
is known to differ stands in `KNOWN` with its reason. Exit codes as for all suites: 0, 1, 77.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from amqpd.commands import Arguments, Channel, Field, Queue
from compat import harness
from compat.differential.run import brokers
from compat.differential.wire import Wire, method

NAMES: Final = (
    *("x-expires", "x-message-ttl", "x-max-length", "x-max-length-bytes", "x-overflow"),
    *("x-dead-letter-exchange", "x-dead-letter-routing-key", "x-dead-letter-strategy"),
    *("x-max-priority", "x-queue-mode", "x-queue-version", "x-single-active-consumer"),
    *("x-queue-master-locator", "x-queue-leader-locator", "x-quorum-initial-group-size"),
    *("x-delivery-limit", "x-max-in-memory-length", "x-max-in-memory-bytes", "x-consumer-timeout"),
    *("x-max-age", "x-stream-max-segment-size-bytes", "x-initial-cluster-size", "x-queue-type"),
    *("x-message-deduplication", "x-unknown", "unknown"),
)
FIELDS: Final[tuple[Field, ...]] = (
    *(("t", True), ("t", False), ("V", None), ("x", b"drop-head"), ("D", (1, 15))),
    *((octet, 1) for octet in "bBsuIil"),
    *((octet, number) for octet in "Il" for number in (-1, 0, 2, 3, 256)),
    *(("l", 2**32), ("l", 2**62), ("f", 1.0), ("d", 2.5), ("T", 1)),
    *(("A", []), ("A", [("I", 1)]), ("F", {}), ("F", {"a": ("I", 1)})),
    *(("S", text) for text in ("", "1", "drop-head", "reject-publish", "reject-publish-dlx")),
    *(("S", text) for text in ("lazy", "default", "client-local", "random", "min-masters")),
    *(("S", text) for text in ("classic", "quorum", "at-least-once", "7D", "balanced")),
)


class Known(NamedTuple):
    """Where the two may differ, and why."""

    name: str
    kind: str
    """classic, quorum, or both when empty."""
    reason: str


KNOWN: Final = (
    Known("x-queue-master-locator", "classic", "a wrong one is an internal error (541) there"),
    Known("x-queue-leader-locator", "classic", "taken from 3.11 on, refused by 3.10"),
)


def cases() -> Iterator[tuple[str, Arguments]]:
    """What it is called, and the arguments."""
    for kind in ("classic", "quorum"):
        for name in NAMES:
            for field in FIELDS:
                arguments: Arguments = {"x-queue-type": ("S", kind), name: field}
                if name == "x-dead-letter-routing-key":
                    yield f"{kind} {name} {field} alone", arguments
                    arguments = {**arguments, "x-dead-letter-exchange": ("S", "")}
                yield f"{kind} {name} {field}", arguments


class Declarer:
    """One broker that declares, and says what it thinks of it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._wire: Wire | None = None

    def declare(self, arguments: Arguments) -> tuple[str, object, object]:
        """The reply, its code and its text."""
        if self._wire is None or not self._wire.alive:
            self._wire = Wire(self._url, "guest")
        wire = self._wire
        wire.say(1, method(Channel.Open))
        self._heard(wire)
        asked = method(Queue.Declare, queue="probe", durable=True)
        wire.say(1, asked, arguments)
        name, code, text = self._heard(wire)
        if name == "queue.declare_ok":
            wire.say(1, method(Queue.Delete, queue="probe"))
            self._heard(wire)
            wire.say(1, method(Channel.Close, reply_code=200))
            self._heard(wire)
        return name, code, text

    def _heard(self, wire: Wire) -> tuple[str, object, object]:
        while not wire.events:
            wire.read()
        event = wire.events.pop(0)
        return event.name, event.values.get("reply_code"), event.values.get("reply_text")


def compare(urls: tuple[str, str]) -> list[harness.Result]:
    """Every case on both."""
    theirs, ours = map(Declarer, urls)
    results = []
    for name, arguments in cases():
        expected, actual = theirs.declare(arguments), ours.declare(arguments)
        kind, argument, *_ = name.split(" ")
        known = any(row.name == argument and row.kind in ("", kind) for row in KNOWN)
        outcome, detail = harness.Outcome.PASS, ""
        if expected != actual:
            outcome = harness.Outcome.SKIP if known else harness.Outcome.FAIL
            detail = f"RabbitMQ: {expected}\namqpd:    {actual}"
        results.append(harness.Result(name, outcome, detail))
    return results


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="compat/differential/arguments.py")
    parser.add_argument("--broker", choices=("amqpd", "rabbitmq"), default="amqpd")
    parser.add_argument("--amqpd", default="", help="command instead of `python -m amqpd`")
    parser.add_argument("--urls", nargs=2, help="RabbitMQ and amqpd that run already")
    args = parser.parse_args()
    if args.urls:
        results = compare((args.urls[0], args.urls[1]))
    else:
        try:
            with (
                tempfile.TemporaryDirectory(prefix="compat-") as work_dir,
                brokers(args, Path(work_dir)) as urls,
            ):
                results = compare(urls)
        except harness.Unavailable as reason:
            print(f"skipped: {reason}")
            return harness.EXIT_SKIPPED
    report = harness.Report("queue-arguments", results)
    report.print()
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
