"""What the suites share: what is tried again, the ports of programs, several suites at a time."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from compat import harness, matrix, run
from compat.harness import Outcome, Result

COUNTING = """
import pathlib, sys
path = pathlib.Path(sys.argv[1])
tries = len(path.read_text()) if path.exists() else 0
path.write_text("x" * (tries + 1))
sys.exit(tries < int(sys.argv[2]))
"""


def failures(*names: str) -> list[Result]:
    """Tests that failed."""
    return [Result(name, Outcome.FAIL, "first line\nlost a race") for name in names]


def test_what_failed_is_run_again_and_told_apart() -> None:
    asked: list[str] = []

    def once(only: Sequence[str]) -> list[Result]:
        asked.extend(only)
        return [Result("a", Outcome.PASS), *failures("b"), Result("c", Outcome.PASS)]

    first = [Result("c", Outcome.PASS), *failures("a", "b")]
    results, again = harness.tried_again(first, failures("a", "b"), once)
    assert asked == ["a", "b"]
    assert {r.name: r.outcome for r in results} == {
        "a": Outcome.PASS,
        "b": Outcome.FAIL,
        "c": Outcome.PASS,
    }
    assert again == failures("a")
    report = harness.Report("s", results, again=again)
    assert [r.name for r in report.failed] == ["b"]
    line = "- `s`: `a`: lost a race"
    assert line in matrix.readme([report.as_json()]).splitlines()


def test_many_failures_are_no_accident() -> None:
    many = failures(*(f"t{number}" for number in range(harness.AGAIN_MAX + 1)))
    assert harness.tried_again(many, many, lambda only: pytest.fail("it ran again")) == (many, [])


def test_nothing_is_run_again_when_all_passed() -> None:
    good = [Result("a", Outcome.PASS)]
    assert harness.tried_again(good, [], lambda only: pytest.fail("it ran again")) == (good, [])


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_a_registry_is_asked_again(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "FETCH_PAUSES_SECONDS", (0.0, 0.0))
    counter = tmp_path / "tries"
    line: list[str | Path] = [sys.executable, "-c", COUNTING, counter, str(fails)]
    assert harness.fetched(line, "fetching", timeout=60).code == 0
    assert len(counter.read_text()) == fails + 1


def test_a_registry_that_stays_away_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "FETCH_PAUSES_SECONDS", (0.0,))
    line: list[str | Path] = [sys.executable, "-c", COUNTING, tmp_path / "tries", "9"]
    with pytest.raises(harness.SuiteError, match="fetching: exit code 1"):
        harness.fetched(line, "fetching", timeout=60)
    assert len((tmp_path / "tries").read_text()) == 2


def test_free_ports_are_none_that_the_system_hands_out() -> None:
    low, high = harness.FREE_PORTS
    assert high <= 32_768
    assert all(low <= harness.free_port() < high for _ in range(20))


SUITE = """
import json, pathlib, sys, time
name = pathlib.Path(__file__).parent.name
report = sys.argv[sys.argv.index("--json") + 1]
print("of", name)
place = pathlib.Path(__file__).parents[1]
(place / f"{name}.began").touch()
others = {"one": "two", "two": "one"}
until = time.monotonic() + 60
while not (place / f"{others[name]}.began").exists() and time.monotonic() < until:
    time.sleep(0.01)
met = (place / f"{others[name]}.began").exists()
said = {"suite": name, "ok": met, "passed": int(met), "failed": int(not met), "skipped": 0}
pathlib.Path(report).write_text(json.dumps(said))
"""


def test_several_suites_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each of the two waits for the other to begin."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.py").write_text(SUITE)
    monkeypatch.setattr(run, "HERE", tmp_path)
    args = argparse.Namespace(broker="amqpd", amqpd="", amqp_url=None, work_dir=None, jobs=2)
    reports = run.Run(args, tmp_path).all(["one", "two"])
    assert [(report["suite"], report["ok"]) for report in reports] == [("one", True), ("two", True)]
    assert "=== one is done\nof one" in capfd.readouterr().out


def test_the_longest_suite_begins_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"one": 3, "two": 9, "three": 5}.items():
        (tmp_path / name).mkdir()
        expected = json.dumps({"seconds": seconds, "passed": []})
        (tmp_path / name / "expected.json").write_text(expected)
    monkeypatch.setattr(run, "HERE", tmp_path)
    assert run.longest_first(["one", "two", "three"]) == ["two", "three", "one"]
