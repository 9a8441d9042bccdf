"""What is measured, by name, and the process that runs one of them.

A workload is bounded in messages and in seconds; the slower broker meets the second bound. Its
rate is messages over the time from the first publish to the last delivery or confirm, so a broker
that reads faster than it delivers gains nothing by it.

    python -m tests.bench.workloads auto-ack --url amqp://127.0.0.1:5672 [--pids 12,13] [--quick]

prints figures as JSON. To add a workload: a function `(Bench) -> list[Figure]` in the file of its
kind, and a line in WORKLOADS; the runner, the report and --only take it from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from tests.bench import at_rest, generator_speed, load, one_queue, requests, routing, wire
from tests.bench.client import Address
from tests.bench.report import Figure
from tests.bench.target import Bench


@dataclass(frozen=True)
class Workload:
    """An entry of the list."""

    name: str
    measure: Callable[[Bench], list[Figure]]
    quick: bool = False
    """Part of --quick: the figures of the front page."""
    default: bool = True
    """Part of a run that names none; the others take long, or say nothing of the broker."""
    fresh: bool = False
    """Of a broker that has done nothing yet: the first round has it alone."""

    def in_run(self, quick: bool) -> bool:
        """Whether a run that names no workload has it."""
        return self.quick if quick else self.default


WORKLOADS: Final = (
    Workload("memory", at_rest.memory, quick=True, fresh=True),
    Workload("auto-ack", one_queue.auto_ack, quick=True),
    Workload("manual-ack", one_queue.manual_ack, quick=True),
    Workload("persistent", one_queue.persistent, quick=True),
    Workload("stored", one_queue.stored),
    Workload("one-in-flight", one_queue.one_in_flight),
    Workload("fan-out", routing.fan_out),
    Workload("topic", routing.topic),
    Workload("headers", routing.headers),
    Workload("64k", partial(one_queue.large, size=65536, name="64 KB bodies", count=40_000)),
    Workload("1m", partial(one_queue.large, size=1 << 20, name="1 MB bodies", count=4000)),
    Workload("100-pairs", routing.many_queues),
    Workload("rpc", requests.rpc),
    Workload("declarations", requests.declarations),
    Workload("connections", requests.connections),
    Workload("connection-churn", requests.connection_churn),
    Workload("channel-churn", requests.channel_churn),
    Workload("latency", partial(at_rest.latency, per_second=2000, size=12, seconds=4)),
    Workload("latency-10k", partial(at_rest.latency, per_second=10_000, size=1024, seconds=4)),
    Workload("backlog-transient", one_queue.backlog_transient, default=False),
    Workload("generator", generator_speed.generator, default=False),
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
