"""Run the compat suites, each against a broker of its own; print the matrix.

python compat/run.py                     all of them, against this amqpd, one after the other
python compat/run.py --jobs 3            three at a time, the longest first
python compat/run.py --quick             only those that take up to a minute
python compat/run.py lapin amqp_tools    these, quick or not
python compat/run.py --broker rabbitmq   what RabbitMQ does, for comparison

What the suites found here is kept in results.json, and the tables of README.md and
docs/compatibility.md are written from it; --no-record leaves them as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compat import harness, matrix

HERE = Path(__file__).resolve().parent
QUICK_SECONDS = 60
SUITE_SECONDS = harness.TESTS_SECONDS + 3000
"""A suite's bound, build and download included."""


def suites() -> list[str]:
    """Every folder here that can be run."""
    return sorted(path.parent.name for path in HERE.glob("*/run.py"))


def longest_first(names: Iterable[str]) -> list[str]:
    """So that the last to end is not one that began late."""
    return sorted(names, key=lambda name: -harness.load_expected(HERE / name).seconds)


class Run:
    """Suites at work, and what they reported."""

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        self._args = args
        self._scratch = scratch
        self._at_work: set[subprocess.Popen[bytes]] = set()

    def all(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Their reports, in the order of the names. Several at a time print when they are done."""
        if self._args.jobs == 1:
            return [self.one(name) for name in names]
        with ThreadPoolExecutor(self._args.jobs) as pool:
            try:
                running = {
                    name: pool.submit(self.one, name, apart=True) for name in longest_first(names)
                }
                return [running[name].result() for name in names]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in [*self._at_work]:
                    harness.stop_group(process, harness.BROKER_STOP_SECONDS * 2)
                raise

    def one(self, name: str, *, apart: bool = False) -> dict[str, Any]:
        """Run a suite; its report, or one that says why there is none."""
        report, log = self._scratch / f"{name}.json", self._scratch / f"{name}.log"
        print(f"=== {name}", flush=True)
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(log.open("wb")) if apart else None
            process = subprocess.Popen(
                self._line(name, report),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            self._at_work.add(process)
            try:
                why = f"exit code {process.wait(SUITE_SECONDS)}"
            except subprocess.TimeoutExpired:
                why = f"not done in {SUITE_SECONDS:.0f} s"
            finally:
                harness.stop_group(process, harness.BROKER_STOP_SECONDS * 2)
                self._at_work.discard(process)
        if apart:
            print(f"=== {name} is done\n{log.read_text(errors='replace')}", flush=True)
        if report.exists():
            found: dict[str, Any] = json.loads(report.read_text())
            return found
        return {"suite": name, "ok": False, "passed": 0, "failed": 1, "skipped": 0, "why": why}

    def _line(self, name: str, report: Path) -> list[str]:
        args = self._args
        line = [sys.executable, str(HERE / name / "run.py"), "--json", str(report)]
        line += ["--broker", args.broker, "--amqpd", args.amqpd]
        if args.amqp_url:
            line += ["--amqp-url", args.amqp_url]
        if args.work_dir:
            line += ["--work-dir", str(args.work_dir / name)]
        return line


def row(report: dict[str, Any]) -> str:
    """One line of the matrix."""
    name = report["suite"]
    if reason := report.get("skipped_because"):
        return f"{name:22} {'-':>7} {'-':>7} {'-':>7} {'-':>7}  skipped: {reason}"
    figures = [report["passed"], report["failed"], report["skipped"], report.get("seconds", "-")]
    verdict = "ok" if report["ok"] else f"FAILED {report.get('why', '')}".rstrip()
    return " ".join([f"{name:22}", *(f"{figure:>7}" for figure in figures), f" {verdict}"])


def main() -> int:
    """The exit code: 0 when no suite failed, 77 when every one was skipped."""
    parser = argparse.ArgumentParser(description="Run the clients' own test suites.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(suites()))
    parser.add_argument("--quick", action="store_true", help=f"up to {QUICK_SECONDS} s each")
    parser.add_argument("--amqp-url", help="a broker that runs already, for all of them")
    parser.add_argument(
        "--broker", choices=("amqpd", "rabbitmq", "rabbitmq-management"), default="amqpd"
    )
    parser.add_argument("--amqpd", default="", help="command instead of `python -m amqpd`")
    parser.add_argument("--work-dir", type=Path, help="kept, so that builds are reused")
    parser.add_argument("--jobs", type=int, default=1, help="so many suites at a time")
    parser.add_argument("--json", type=Path, help="write all reports there")
    parser.add_argument("--no-record", action="store_true", help="leave the tables as they are")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stop the suites too
    if unknown := set(args.suites) - set(suites()):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    chosen = args.suites or suites()
    if args.quick and not args.suites:
        slow = [s for s in chosen if harness.load_expected(HERE / s).seconds > QUICK_SECONDS]
        chosen = [s for s in chosen if s not in slow]
        print(f"left out by --quick: {', '.join(slow) or 'none'}")
    with tempfile.TemporaryDirectory(prefix="compat-reports-") as scratch:
        reports = Run(args, Path(scratch)).all(chosen)
    if args.json:
        args.json.write_text(json.dumps(reports, indent=1) + "\n")
    if args.broker == "amqpd" and not (args.amqp_url or args.no_record):
        matrix.record(report for report in reports if "clients" in report)
    print(f"\n{'suite':22} {'passed':>7} {'failed':>7} {'skipped':>7} {'seconds':>7}")
    for report in reports:
        print(row(report))
    ran = [report for report in reports if "skipped_because" not in report]
    totals = [sum(report[key] for report in ran) for key in ("passed", "failed", "skipped")]
    print("{} passed, {} failed, {} skipped".format(*totals), flush=True)
    if not ran:
        return harness.EXIT_SKIPPED
    return 0 if all(report["ok"] for report in ran) else 1


if __name__ == "__main__":
    sys.exit(main())
