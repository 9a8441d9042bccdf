"""Run the compat suites, one after the other, each against a broker of its own; print the matrix.

python compat/run.py                     all of them, against this amqpd
python compat/run.py --quick             only those that take up to a minute
python compat/run.py lapin amqp_tools    these, quick or not
python compat/run.py --broker rabbitmq   what RabbitMQ does, for comparison

What the suites found here is kept in results.json, and the tables of README.md and
docs/compatibility.md are written from it; --no-record leaves them as they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compat import harness, matrix

HERE = Path(__file__).resolve().parent
QUICK_SECONDS = 60
SUITE_SECONDS = 2400
"""A suite's bound, build and download included."""


def suites() -> list[str]:
    """Every folder here that can be run."""
    return sorted(path.parent.name for path in HERE.glob("*/run.py"))


def one(name: str, args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run a suite; its report, or one that says why there is none."""
    report = scratch / f"{name}.json"
    line = [sys.executable, str(HERE / name / "run.py"), "--json", str(report)]
    line += ["--broker", args.broker, "--amqpd", args.amqpd]
    if args.amqp_url:
        line += ["--amqp-url", args.amqp_url]
    if args.work_dir:
        line += ["--work-dir", str(args.work_dir / name)]
    print(f"=== {name}", flush=True)
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, start_new_session=True)
    why = ""
    try:
        code = process.wait(SUITE_SECONDS)
        why = f"exit code {code}"
    except subprocess.TimeoutExpired:
        why = f"not done in {SUITE_SECONDS} s"
    finally:
        harness.stop_group(process, harness.BROKER_STOP_SECONDS * 2)
    if report.exists():
        found: dict[str, Any] = json.loads(report.read_text())
        return found
    return {"suite": name, "ok": False, "passed": 0, "failed": 1, "skipped": 0, "why": why}


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
    parser.add_argument("--json", type=Path, help="write all reports there")
    parser.add_argument("--no-record", action="store_true", help="leave the tables as they are")
    args = parser.parse_args()
    if unknown := set(args.suites) - set(suites()):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    chosen = args.suites or suites()
    if args.quick and not args.suites:
        slow = [s for s in chosen if harness.load_expected(HERE / s).seconds > QUICK_SECONDS]
        chosen = [s for s in chosen if s not in slow]
        print(f"left out by --quick: {', '.join(slow) or 'none'}")
    with tempfile.TemporaryDirectory(prefix="compat-reports-") as scratch:
        reports = [one(name, args, Path(scratch)) for name in chosen]
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
