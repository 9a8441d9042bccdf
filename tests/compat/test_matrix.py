"""The tables of suites are what the run writes, and name every suite as it is pinned."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from compat import harness, matrix

ROOT = Path(__file__).resolve().parents[2]
SUITES = sorted(path.parent.name for path in (ROOT / "compat").glob("*/run.py"))
OF_A_RUN = {"differential"}
"""What it did stands in its row, so its row is known after a run only."""


def results() -> list[dict[str, Any]]:
    """What the last runs found."""
    return list(json.loads(matrix.RESULTS.read_text()))


def about(suite: str) -> list[harness.About]:
    """The clients that a suite names."""
    found = importlib.import_module(f"compat.{suite}.run").ABOUT
    return [found] if isinstance(found, harness.About) else list(found)


def test_both_tables_are_as_the_run_wrote_them() -> None:
    assert matrix.README.read_text() == matrix.readme(results())
    page = matrix.PAGE.read_text()
    assert page == matrix.page(page, results())


def test_every_suite_has_a_row() -> None:
    assert [report["suite"] for report in results()] == SUITES


@pytest.mark.parametrize("suite", [name for name in SUITES if name not in OF_A_RUN])
def test_a_row_names_the_pinned_version(suite: str) -> None:
    report = next(report for report in results() if report["suite"] == suite)
    rows = [(row["client"], row["version"], row["language"]) for row in report["clients"]]
    assert rows == [(a.client, a.version, a.language) for a in about(suite)]


@pytest.mark.parametrize("client", matrix.coverage())
def test_scenarios_that_are_told_of_pass_on_rabbitmq(client: str) -> None:
    shown = matrix.coverage()[client]
    assert client in {one.client for one in about(shown.suite)}
    passed = harness.load_expected(ROOT / "compat" / shown.suite).passed
    assert set(shown.tests.values()) <= set(passed)


@pytest.mark.parametrize("client", matrix.coverage())
def test_what_no_scenario_shows_has_its_reason(client: str) -> None:
    shown = matrix.coverage()[client]
    assert sorted([*shown.tests, *shown.without]) == sorted(matrix.TOPICS)


def test_fewer_random_operations_replace_more_only_when_they_fail() -> None:
    long = {"suite": "differential", "ok": True, "operations": 1000}
    short = {"suite": "differential", "ok": True, "operations": 10}
    broken = {**short, "ok": False}
    assert matrix.merge([long], [short]) == [long]
    assert matrix.merge([long], [broken]) == [broken]
    assert matrix.merge([broken], [short]) == [short]
    assert matrix.merge([short], [long]) == [long]


def test_a_skipped_suite_keeps_the_row_of_the_run_before() -> None:
    before = [{"suite": "a", "passed": 3}, {"suite": "b", "passed": 5}]
    now = [{"suite": "b", "skipped_because": "no b"}, {"suite": "c", "skipped_because": "no c"}]
    assert matrix.merge(before, now) == [*before, now[1]]


def test_a_failure_shows_in_the_table() -> None:
    client = {"client": "x", "version": "1", "language": "Y", "tests": "its own"}
    figures = {"on_rabbitmq": 1200, "passed": 1199, "failed": 1, "skipped": 0}
    table = matrix.table([{"suite": "s", "clients": [{**client, **figures}]}])
    assert (
        table.splitlines()[-1]
        == "| x | 1 | Y | `s` | its own | plain Python | 1,200 | 1,199 | 1 | 0 |"
    )


def test_a_suite_that_never_ran_says_why() -> None:
    skipped = harness.skipped_json(
        "s", "ruby is not installed", [harness.About("x", "1", "Y", "z")]
    )
    assert matrix.table([skipped]).splitlines()[-1].endswith("| not run: ruby is not installed |")
