"""The matrix of suites as Markdown: written by `python -m compat.run` from what the suites said.

`results.json` keeps the last report of each suite. From it come `README.md` in this folder, and the
table between two markers in docs/compatibility.md. A suite that was skipped keeps the row of the
run before, if there was one.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
COVERAGE = HERE / "coverage.toml"
TOPICS = (
    *("publish and consume", "confirms", "returns", "nack", "qos", "RPC", "reconnect", "TLS"),
    *("large bodies", "header types", "errors"),
)
README = HERE / "README.md"
PAGE = HERE.parent / "docs" / "compatibility.md"
BEGIN = "<!-- written by python -m compat.run: begin -->"
END = "<!-- written by python -m compat.run: end -->"
HEAD = """\
# The clients' own test suites are the judge

Each folder here is a suite: the tests that come with a client, or scenario programs of ours where
it brings none. Clients and tests come from their language's registry when a suite is run; no code
of others is kept here. `expected.json` names the tests that pass on RabbitMQ 3.10.8: one that does
not run here is a failure. `known.toml` names the tests that may fail, each with its reason.

    make compat                                  all of them; ARGS="--jobs 3": three at a time
    make compat-quick                            those that take less than a minute
    make compat ARGS=lapin                       one
    make compat AMQPD_COMPILE=0                  the sources, not what `pip install .` compiles
    make compat ARGS="--broker rabbitmq lapin"   what Debian's rabbitmq-server does
    .venv/bin/python compat/lapin/run.py --only TEST       one test

A suite whose toolchain is missing is skipped, and says so. Up to ten tests that fail are run once
more, alone, since clients' tests lose races of their own on a busy machine; what that mended is
told apart. How a suite is written stands at the head of [harness.py](harness.py);
[differential/](differential/README.md) plays random operations on both brokers at once. What
follows is written by the run.

"""


def merge(before: Iterable[dict[str, Any]], reports: Iterable[dict[str, Any]]) -> list[Any]:
    """The reports of before with these in their place; sorted by suite.

    Random operations are another matter: a longer run that passed stays, unless one fails.
    """
    kept = {report["suite"]: report for report in before}
    for report in reports:
        last = kept.get(report["suite"])
        if last is None or not ("skipped_because" in report or _is_less(report, last)):
            kept[report["suite"]] = report
    return [kept[name] for name in sorted(kept)]


def _is_less(report: dict[str, Any], last: dict[str, Any]) -> bool:
    """Whether it says the same as the last, of fewer random operations."""
    passed = bool(report.get("ok") and last.get("ok"))
    return passed and report.get("operations", 0) < last.get("operations", 0)


def record(reports: Iterable[dict[str, Any]]) -> None:
    """Keep these results, and write both tables."""
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    results = merge(before, reports)
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    README.write_text(readme(results))
    PAGE.write_text(page(PAGE.read_text(), results))


def readme(results: Sequence[dict[str, Any]]) -> str:
    """The page of this folder."""
    return "\n".join([HEAD + table(results), "", *scenarios(), *excuses(results)])


def page(text: str, results: Sequence[dict[str, Any]]) -> str:
    """docs/compatibility.md with a new table between the markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"


def table(results: Sequence[dict[str, Any]]) -> str:
    """A row for each client."""
    head = ["client", "version", "language", "suite", "tests", "amqpd's build"]
    head += ["pass on RabbitMQ 3.10.8", "passed", "failed", "left out or let fail"]
    rows = [head, ["---"] * 6 + ["--:"] * 4]
    rows += [_row(report, client) for report in results for client in report.get("clients", [])]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(report: dict[str, Any], client: dict[str, Any]) -> list[str]:
    first = [client["client"], client["version"], client["language"]]
    first += [f"`{report['suite']}`", client["tests"]]
    if reason := report.get("skipped_because"):
        return [*first, "", "", "", "", f"not run: {reason}"]
    first.append(report.get("build") or "plain Python")
    figures = [client[key] for key in ("on_rabbitmq", "passed", "failed", "skipped")]
    return [*first, *(f"{figure:,}" for figure in figures)]


def scenarios() -> list[str]:
    """Which of our scenarios there are for each client; `coverage.toml` names them."""
    rows = [["client", *TOPICS], ["---"] * (len(TOPICS) + 1)]
    reasons = []
    for client, shown in coverage().items():
        rows.append([client, *("yes" if topic in shown.tests else "-" for topic in TOPICS)])
        for topic, reason in shown.without.items():
            reasons.append(f"- {client} without {topic}: {reason}")
    lines = ["## What our scenarios show", "", "By name in [coverage.toml](coverage.toml).", ""]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), "", *reasons, ""]


@dataclass(frozen=True)
class Coverage:
    """What our scenarios with a client show."""

    suite: str
    tests: dict[str, str]
    """The test that shows a topic."""
    without: dict[str, str]
    """Why nothing shows a topic."""


def coverage() -> dict[str, Coverage]:
    """For each client."""
    found = {}
    for client, said in tomllib.loads(COVERAGE.read_text()).items():
        suite, without = said.pop("suite"), said.pop("without", {})
        found[client] = Coverage(suite, said, without)
    return found


def excuses(results: Sequence[dict[str, Any]]) -> list[str]:
    """What may fail, by suite, with its reason."""
    lines = ["## What is left out or let fail", ""]
    for report in results:
        for known in report.get("known", []):
            number = f", {known['tests']} tests" if known["tests"] > 1 else ""
            what = f"- `{report['suite']}`: `{known['test']}` ({known['needs']}{number}):"
            lines.append(f"{what} {known['reason']}")
    again = [(report["suite"], one) for report in results for one in report.get("again", [])]
    if again:
        lines += ["", "## What failed, and passed when it was run again, alone", ""]
        lines += [f"- `{suite}`: `{one['test']}`: {one['why']}" for suite, one in again]
    return [*lines, ""]
