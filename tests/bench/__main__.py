"""Runs the workloads against one broker, or against several in turns, and prints the report."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench import brokers, load, peers, perftest, process, wire, workloads
from tests.bench.brokers import Broker, BrokerError, Starter
from tests.bench.delayed import DELAYED
from tests.bench.goals import GOALS, core_goals
from tests.bench.links import LINKS
from tests.bench.report import Figure, Report, number
from tests.bench.scenarios import SCENARIOS as OTHER_SCENARIOS
from tests.bench.scenarios import Scenario
from tests.bench.site import Site
from tests.bench.workloads import Workload

SCENARIOS: Final = (*OTHER_SCENARIOS, DELAYED, LINKS)
WORKLOAD_SECONDS: Final = 300.0
"""A load process that takes longer hangs; each workload bounds itself far below that."""
START: Final = "start"
"""Not a workload: it is measured here, where brokers are started."""
CORE: Final = "in-process"
"""Not a workload either: the core alone, without a broker's process and without sockets."""
STARTS: Final = 3
PEER_ROUNDS: Final = 3
QUICK_START: Final = 2.0
"""A broker that was ready within this is started again, for a median; a slow one is not."""


Measurement = Callable[[Broker], list[Figure]]


@dataclass(frozen=True)
class Plan:
    """What the options amount to."""

    starters: tuple[Starter, ...]
    measurements: tuple[tuple[str, Measurement], ...]
    """By the name of the workload."""
    rounds: int
    work_dir: Path
    with_start: bool
    with_core: bool
    with_goals: bool = False
    scenarios: tuple[Scenario, ...] = ()
    messages: int | None = None
    seconds: float | None = None


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure amqpd, alone or beside another broker."
    )
    parser.add_argument("--quick", action="store_true", help="the front page figures only, 30 s")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        choices=[
            CORE,
            START,
            *(workload.name for workload in workloads.WORKLOADS),
            *(scenario.name for scenario in SCENARIOS),
        ],
        help="one workload or scenario of --list; repeatable",
    )
    parser.add_argument("--messages", type=int, help="how many, in a scenario that counts them")
    parser.add_argument("--seconds", type=float, help="how long, in a scenario that has a length")
    parser.add_argument("--list", action="store_true", help="the workloads by name")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="OTHER",
        help="rabbitmq, qpid, plain (amqpd, not compiled), an amqp:// URL, or a Python whose "
        "installed amqpd is compared; repeatable",
    )
    parser.add_argument("--url", help="measure this running broker, not an amqpd of our own")
    parser.add_argument("--pid", type=int, help="its process, for CPU time and memory")
    parser.add_argument("--rabbitmq", action="store_true", help="measure RabbitMQ, not amqpd")
    parser.add_argument("--python", type=Path, help="measure the amqpd installed for this one")
    parser.add_argument(
        "--option", action="append", default=[], help="one more argument for amqpd serve"
    )
    parser.add_argument("--rounds", type=int, help="repeat, and report the median  [default: 1]")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="every broker there is to compare with, in three rounds, and the goals; see peers.py",
    )
    parser.add_argument(
        "--generator",
        choices=["ours", "perftest"],
        default="ours",
        help="who makes the load: see load.py, and perftest.py for RabbitMQ's own",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--work-dir", type=Path, default=Path(tempfile.gettempdir()), help="data goes below it"
    )
    return parser.parse_args()


def plan_of(args: argparse.Namespace) -> Plan:
    """Which brokers, which workloads."""
    if args.url:
        first = brokers.running(args.url, args.pid)
    elif args.rabbitmq:
        first = brokers.rabbitmq
    else:
        first = brokers.amqpd(args.python, args.option)
    others = [_other(name) for name in args.against]
    others += peers.beside(args.python) if args.peers else []
    ours = args.generator == "ours"
    own_core = ours and not (args.url or args.rabbitmq or args.python)
    return Plan(
        (first, *others),
        _ours(args) if ours else _neutral(args),
        args.rounds or (PEER_ROUNDS if args.peers else 1),
        args.work_dir,
        with_start=ours and (not args.only or START in args.only),
        with_core=own_core and (not args.only or CORE in args.only),
        with_goals=ours and not (args.url or args.rabbitmq),
        scenarios=tuple(scenario for scenario in SCENARIOS if scenario.name in args.only),
        messages=args.messages,
        seconds=args.seconds,
    )


def _ours(args: argparse.Namespace) -> tuple[tuple[str, Measurement], ...]:
    """Workloads of our own generator. With --peers, --quick halves them and leaves none out."""
    only_quick = args.quick and not args.peers
    return tuple(
        (workload.name, partial(measure, workload, args.quick))
        for workload in workloads.WORKLOADS
        if (workload.name in args.only if args.only else workload.in_run(only_quick))
    )


def _neutral(args: argparse.Namespace) -> tuple[tuple[str, Measurement], ...]:
    """Those that PerfTest can do, too. Raises BrokerError without Java."""
    generator = perftest.PerfTest()
    return tuple(
        (workload.name, partial(generator.measure, workload, args.quick))
        for workload in perftest.WORKLOADS
        if not args.only or workload.name in args.only
    )


def _other(name: str) -> Starter:
    if name in peers.PEERS:
        return peers.PEERS[name]
    if "://" in name:
        return brokers.running(name, label=name.partition("://")[2].rpartition("@")[2])
    return brokers.amqpd(Path(name), label=name)


def measure(workload: Workload, quick: bool, broker: Broker) -> list[Figure]:
    """One workload in a process of its own, so that nothing of it is left for the next one.

    Meanwhile the broker's memory is looked at: the most of it stands beside each rate.
    """
    argv = [sys.executable, "-m", "tests.bench.workloads", workload.name, "--url", broker.url]
    argv += ["--pids", ",".join(map(str, broker.pids)), *(["--quick"] if quick else [])]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            argv, cwd=brokers.ROOT, stdout=out, stderr=err, start_new_session=True
        )
        try:
            code, memory = process.watched(child, broker.pids, WORKLOAD_SECONDS)
        finally:
            brokers.stop_session(child, 5)
        out.seek(0)
        err.seek(0)
        if code != 0:
            said = err.read().decode("utf-8", "replace").strip()[-2000:]
            raise BrokerError(said or f"not finished in {WORKLOAD_SECONDS:.0f} s")
        figures = [Figure(**figure) for figure in json.loads(out.read())]
    if not memory:
        return figures
    return [replace(figure, memory_mb=memory / 1e6) for figure in figures]


def start_figure(first: Broker, start: Starter, work_dir: Path) -> list[Figure]:
    """Start-up time: the start that happened, and a few more if they are cheap."""
    if first.start_seconds is None:
        return []
    samples = [first.start_seconds]
    while len(samples) < STARTS and samples[0] < QUICK_START:
        with brokers.below(work_dir, start) as again:
            assert again.start_seconds is not None
            samples.append(again.start_seconds)
    seconds = sorted(samples)[len(samples) // 2]
    return [Figure("start to ready", seconds, "s")]


def core_figures() -> list[Figure]:
    """The core of this checkout, bytes in and bytes out, in a process of its own."""
    argv = [sys.executable, "-m", "tests.bench.inprocess", "--json"]
    said = subprocess.run(
        argv, cwd=brokers.ROOT, check=True, capture_output=True, timeout=WORKLOAD_SECONDS
    )
    return [Figure(name, value, "µs") for name, value in json.loads(said.stdout).items()]


def run(plan: Plan, progress: bool) -> Report:
    """All workloads; brokers take turns within each."""
    core = core_figures() if plan.with_core else []
    goals = (*GOALS, *core_goals(brokers.compiled())) if plan.with_goals else ()
    report = Report(process.machine(plan.work_dir), {}, goals)
    with contextlib.ExitStack() as stack:
        started: list[Broker] = []
        for starter in plan.starters:
            broker = stack.enter_context(brokers.below(plan.work_dir, starter))
            started.append(_distinct(broker, started))
        report.brokers = {broker.label: broker.version for broker in started}
        report.add(started[0].label, core)
        if plan.with_start:
            for broker, starter in zip(started, plan.starters, strict=True):
                report.add(broker.label, start_figure(broker, starter, plan.work_dir))
        fresh = {workload.name for workload in workloads.WORKLOADS if workload.fresh}
        for name, measurement in plan.measurements:
            for _ in range(1 if name in fresh else plan.rounds):
                for broker in started:
                    _one(report, name, measurement, broker, progress)
        labels = [broker.label for broker in started]
    for scenario in plan.scenarios:
        for label, starter in zip(labels, plan.starters, strict=True):
            _stage(report, scenario, label, starter, plan)
    return report


def _stage(report: Report, scenario: Scenario, label: str, starter: Starter, plan: Plan) -> None:
    """A scenario, in a directory of its own. The brokers of the workloads have ended."""
    home = Path(tempfile.mkdtemp(prefix="amqpd-bench-", dir=plan.work_dir))
    try:
        site = Site(home, starter, plan.messages, plan.seconds)
        report.add(label, scenario.measure(site))
    except (BrokerError, load.LoadError, wire.ProtocolError, OSError) as error:
        report.failures.append(f"{scenario.name}, {label}: {type(error).__name__}: {error}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _distinct(broker: Broker, others: list[Broker]) -> Broker:
    """The same broker twice shows how far apart two runs of one thing are."""
    same = sum(other.label.partition("#")[0] == broker.label for other in others)
    return replace(broker, label=f"{broker.label}#{same + 1}") if same else broker


def _one(
    report: Report, name: str, measurement: Measurement, broker: Broker, progress: bool
) -> None:
    try:
        figures = measurement(broker)
    except BrokerError as error:
        report.failures.append(f"{name}, {broker.label}: {error}")
        figures = []
    report.add(broker.label, figures)
    if progress:
        said = ", ".join(f"{number(figure)} {figure.unit}" for figure in figures)
        print(f"{name}, {broker.label}: {said or 'no figure'}", file=sys.stderr)


def _list_workloads() -> None:
    print(f"{CORE:<20}quick")
    print(f"{START:<20}quick")
    for workload in workloads.WORKLOADS:
        mark = "quick" if workload.quick else "" if workload.default else "only when named"
        print(f"{workload.name:<20}{mark}".rstrip())
    for scenario in SCENARIOS:
        print(f"{scenario.name:<20}scenario, only when named")


def main() -> int:
    """Exit code 1 if a workload had no figure."""
    args = options()
    if args.list:
        _list_workloads()
        return 0
    # SystemExit, so that every broker is stopped and every directory removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    brokers.raise_file_limit()
    began = time.monotonic()
    try:
        report = run(plan_of(args), progress=os.isatty(2))
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1
    print(report.text())
    print(f"\n{time.monotonic() - began:.0f} s")
    if args.json:
        report.write(args.json)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
