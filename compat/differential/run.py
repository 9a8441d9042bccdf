"""The same random operations on amqpd and on RabbitMQ; what they say is compared.

    python compat/differential/run.py --seed 7 --operations 1000000 [--seconds 600] [--jobs 4]
    python compat/differential/run.py --seed 7 --sequence 12           that one sequence
    python compat/differential/run.py --broker rabbitmq                RabbitMQ with itself: the
                                                                       harness must find nothing

Jobs share the two brokers, each with a virtual host of its own: most of the time is spent in
waiting for RabbitMQ to answer. A sequence starts with an empty virtual host. One that shows a
difference is played again (what does not show twice was a race in RabbitMQ, and is counted as
skipped), then cut to the shortest that shows it. Every difference is reported once. SIGTERM and
Ctrl-C end a run as --seconds does, and what was played until then is reported; --record keeps it in
the tables of `make compat`. Exit codes as for all suites: 0, 1, 77.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, matrix, rabbitmq_server
from compat.differential.operations import Generator, Operation
from compat.differential.play import Difference, Players, Unsettled
from compat.differential.shrink import shrink
from compat.differential.wire import WireError

NAME = "differential"
HERE = Path(__file__).resolve().parent
DEFINITIONS = HERE / "definitions.json"
LENGTH = 120
"""Operations of a sequence."""
SHRINK_SECONDS = 25.0
FINDINGS_MAX = 30
RABBITMQCTL_SECONDS = 300.0
Addresses = tuple[tuple[str, str], tuple[str, str]]
"""RabbitMQ's and the other broker's."""
FORK = multiprocessing.get_context("fork")
STOP = FORK.Event()
"""Set once the run is to end: every job ends after its sequence."""


REPLAYS: Final = 2
"""How often a difference has to show again: a race in RabbitMQ may well do so once."""


@dataclass
class Tally:
    """What a run found."""

    results: list[harness.Result] = field(default_factory=list)
    findings: dict[str, int] = field(default_factory=dict)
    """Differences by signature, and how often."""
    signatures: dict[str, str] = field(default_factory=dict)
    """Of failed sequences, by their name."""
    operations: int = 0
    sequences: int = 0
    excuses: Counter[str] = field(default_factory=Counter)
    """Rules that were needed, and how often."""
    heard: Counter[str] = field(default_factory=Counter)
    """What RabbitMQ said, by name."""
    build: str = ""
    """Of amqpd (see `harness.Broker`)."""

    def add(self, other: Tally) -> None:
        """What another job found. A difference that both found is one."""
        for result in other.results:
            signature = other.signatures.get(result.name)
            if signature is None or signature not in self.findings:
                self.results.append(result)
        for signature, count in other.findings.items():
            self.findings[signature] = self.findings.get(signature, 0) + count
        self.operations += other.operations
        self.sequences += other.sequences
        self.excuses += other.excuses
        self.heard += other.heard


def sequence(seed: int, number: int, length: int = LENGTH) -> list[Operation]:
    """The operations of one sequence."""
    return list(Generator(Random(f"{seed}/{number}")).sequence(length))


def difference(players: Players, operations: Sequence[Operation]) -> Difference | None:
    """Play; where they differ."""
    try:
        players.play(operations)
    except Difference as found:
        return found
    return None


def examine(players: Players, seed: int, number: int, tally: Tally) -> None:
    """Play one sequence and note what comes of it; a difference known by now only counts."""
    name = f"--seed {seed} --sequence {number}"
    operations = sequence(seed, number)
    tally.operations += len(operations)
    tally.sequences += 1
    begun = time.monotonic()
    outcome, detail = harness.Outcome.PASS, ""
    try:
        found = difference(players, operations)
        if found is not None:
            signature = found.signature
            if signature in tally.findings:
                tally.findings[signature] += 1
                return
            outcome, detail = judge(players, operations, found, name, tally)
    except Unsettled as reason:
        outcome, detail = harness.Outcome.SKIP, str(reason)
    except (OSError, RuntimeError, WireError, http.client.HTTPException):
        # What the other sequences showed is not lost.
        outcome, detail = harness.Outcome.FAIL, traceback.format_exc()
    tally.results.append(harness.Result(name, outcome, detail, time.monotonic() - begun))


def judge(
    players: Players, operations: list[Operation], found: Difference, name: str, tally: Tally
) -> tuple[harness.Outcome, str]:
    """Whether the difference is one, and the shortest sequence that shows it."""
    signature = found.signature

    def fails(shorter: Sequence[Operation]) -> bool:
        with contextlib.suppress(Unsettled):
            again = difference(players, shorter)
            return again is not None and again.signature == signature
        return False

    if not all(fails(operations) for _ in range(REPLAYS)):
        print(f"not shown again: {name}: {found}", flush=True)
        return harness.Outcome.SKIP, f"not shown again: {found}"
    tally.findings[signature] = 1
    tally.signatures[name] = signature
    shortest = shrink(operations, fails, SHRINK_SECONDS)
    final = difference(players, shortest) or found
    lines = [str(final), *map(str, shortest)]
    print(f"found: {name}: {final.where}", flush=True)
    return harness.Outcome.FAIL, "\n".join(lines)


def vhost_of(job: int) -> str:
    """The virtual host of a job."""
    return f"job{job}" if job else "/"


def definitions_for(jobs: int) -> dict[str, Any]:
    """The users, and what they may in each job's virtual host."""
    definitions: dict[str, Any] = json.loads(DEFINITIONS.read_text())
    for kind in ("permissions", "topic_permissions"):
        definitions[kind] = [
            {**permission, "vhost": vhost_of(job)}
            for job in range(jobs)
            for permission in definitions[kind]
        ]
    definitions["vhosts"] = [{"name": vhost_of(job)} for job in range(jobs)]
    return definitions


def addresses_of(broker: harness.Broker) -> tuple[str, str]:
    """Of AMQP, and of the HTTP API."""
    assert broker.management_url is not None
    return broker.url, broker.management_url


@contextlib.contextmanager
def brokers(args: argparse.Namespace, work_dir: Path) -> Iterator[tuple[Addresses, str]]:
    """RabbitMQ and the other one, with the same users; the other one's build."""
    definitions = work_dir / "definitions.json"
    definitions.write_text(json.dumps(definitions_for(args.jobs)))
    with contextlib.ExitStack() as stack:
        urls, build = [], ""
        for _ in range(2 if args.broker == "rabbitmq" else 1):
            broker = stack.enter_context(rabbitmq_server.server(work_dir, management=True))
            line = [broker.env["RABBITMQCTL"], "import_definitions", str(definitions)]
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL, timeout=RABBITMQCTL_SECONDS)
            urls.append(addresses_of(broker))
        if len(urls) < 2:
            extra = ["--definitions", str(definitions)]
            ours = stack.enter_context(harness.amqpd(work_dir, shlex.split(args.amqpd), extra))
            urls.append(addresses_of(ours))
            build = ours.build
        yield (urls[0], urls[1]), build


@dataclass(frozen=True)
class Job:
    """A part of a run."""

    brokers: Addresses
    number: int
    of: int
    seed: int
    sequence: int | None
    operations: int
    seconds: float


def play_all(job: Job) -> Tally:
    """Every so manieth sequence, until there were enough."""
    tally = Tally()
    players = Players(*job.brokers, vhost_of(job.number))
    tally.heard = players.heard
    deadline = time.monotonic() + job.seconds
    number = job.number
    told = begun = time.monotonic()
    if job.sequence is not None:
        examine(players, job.seed, job.sequence, tally)
        deadline = begun
    while (
        tally.operations < job.operations / job.of
        and time.monotonic() < deadline
        and not STOP.is_set()
        and len(tally.findings) < FINDINGS_MAX
    ):
        examine(players, job.seed, number, tally)
        number += job.of
        if time.monotonic() - told > 30:
            told = time.monotonic()
            rate = tally.operations / (told - begun)
            print(f"{tally.operations} operations of job {job.number}, {rate:.0f}/s", flush=True)
    tally.excuses = Counter(players.excuses)
    return tally


def play_jobs(first: Job) -> Tally:
    """All jobs at once."""
    if first.of == 1 or first.sequence is not None:
        return play_all(first)
    tally = Tally()
    with ProcessPoolExecutor(first.of, FORK, initializer=_follow_the_parent) as pool:
        jobs = [replace(first, number=number) for number in range(first.of)]
        for found in pool.map(play_all, jobs):
            tally.add(found)
    return tally


def _follow_the_parent() -> None:
    """A job's process: the parent hears the signals, and when it is gone so is this."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _stop_at_a_signal() -> None:
    """The first is a wish, which takes as long as a sequence; the second an order."""

    def stop(number: int, _: object) -> None:
        if STOP.is_set():
            sys.exit(128 + number)
        STOP.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compat/differential/run.py")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most this long")
    parser.add_argument("--jobs", type=int, default=6, help="so many sequences at once")
    parser.add_argument("--sequence", type=int, help="this one alone")
    parser.add_argument(
        "--broker",
        choices=("amqpd", "rabbitmq", "rabbitmq-management"),
        default="amqpd",
        help="what is held against RabbitMQ",
    )
    parser.add_argument("--amqpd", default="", help="command instead of `python -m amqpd`")
    parser.add_argument("--work-dir", type=Path, help="kept; default: a temporary directory")
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--record", action="store_true", help="keep the result in the tables")
    parser.add_argument("--amqp-url", help="not for this suite: it needs two brokers of its own")
    return parser


def about(tests: str) -> harness.About:
    """The row of the matrix."""
    return harness.About("frames of our own", "-", "Python", tests)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    _stop_at_a_signal()
    args = _parser().parse_args(argv)
    tally = Tally()
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        if args.work_dir:
            work_dir = args.work_dir.resolve()
            work_dir.mkdir(parents=True, exist_ok=True)
        else:
            work_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compat-")))
        try:
            with brokers(args, work_dir) as (urls, build):
                limits = args.sequence, args.operations, args.seconds
                tally = play_jobs(Job(urls, 0, args.jobs, args.seed, *limits))
            tally.build = build
        except harness.Unavailable as reason:
            print(f"{NAME}: skipped: {reason}")
            if args.json:
                body = harness.skipped_json(NAME, str(reason), [about("random operations")])
                args.json.write_text(json.dumps(body, indent=1))
            return harness.EXIT_SKIPPED
        except harness.SuiteError as reason:
            failure = harness.Result("the run itself", harness.Outcome.FAIL, str(reason))
            tally.results.append(failure)
    print("heard:", ", ".join(f"{name} {count}" for name, count in tally.heard.most_common()))
    for name, count in sorted(tally.excuses.items()):
        print(f"rule used: {name}: {count} times")
    for signature, count in tally.findings.items():
        if count > 1:
            print(f"{count} times: {signature[:150]}")
    print(f"{tally.operations} operations in {tally.sequences} sequences")
    report = harness.Report(
        NAME,
        tally.results,
        seconds=time.monotonic() - begun,
        about=[about(f"{tally.operations:,} random operations, by sequence")],
        build=tally.build,
    )
    report.print()
    body = {**report.as_json(), "operations": tally.operations}
    if args.json:
        args.json.write_text(json.dumps(body, indent=1) + "\n")
    if args.record:
        matrix.record([body])
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
