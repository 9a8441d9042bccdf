"""What a report says of figures and goals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench.goals import CPU, Goal
from tests.bench.report import Figure, Report, spread

RATE = Goal("rate", least=400, ratio=5)


def report(*goals: Goal, peer: float = 100.0) -> Report:
    made = Report({"fdatasync_ms": 2.0}, {"amqpd": "1", "rabbitmq": "2"}, goals)
    made.add("amqpd", [Figure("rate", value, "msg/s", cpu_us=3.0) for value in (600, 400, 450)])
    made.add("rabbitmq", [Figure("rate", peer, "msg/s", cpu_us=12.0)])
    return made


def test_a_figure_is_the_median_of_its_rounds() -> None:
    taken = report().samples["rate"]["amqpd"]
    assert spread(taken) == "±22 %"
    assert spread(taken[:1]) == ""
    assert dict(report().rows())["rate"]["amqpd"].value == 450


def test_a_goal_is_a_value_a_ratio_or_both() -> None:
    least, ratio = report(RATE).verdicts()
    assert (least.wanted, least.met) == (">= 400", True)
    assert (ratio.wanted, ratio.reached, ratio.met) == ("5 x rabbitmq", 4.5, False)


def test_less_is_better_for_costs() -> None:
    most, ratio = report(Goal(f"rate: {CPU}", most=2.2, ratio=1, less_is_better=True)).verdicts()
    assert (most.reached, most.met) == (3.0, False)
    assert (ratio.reached, ratio.met) == (4.0, True)


def test_a_goal_may_depend_on_the_disk() -> None:
    (verdict,) = report(Goal("rate", per_flush=0.8)).verdicts()
    assert (verdict.wanted, verdict.met) == (">= 400", True)


def test_a_peer_without_a_figure_gives_no_verdict() -> None:
    verdicts = report(RATE, peer=0.0).verdicts()
    assert [verdict.met for verdict in verdicts] == [True, None]


def test_figures_stay_where_the_next_phase_breaks_off() -> None:
    def phases() -> Iterator[Figure]:
        yield Figure("declared", 600, "queues/s")
        raise TimeoutError("not ready")

    made = report()
    with pytest.raises(TimeoutError):
        made.add("rabbitmq", phases())
    assert dict(made.rows())["declared"]["rabbitmq"].value == 600


def test_what_was_not_measured_has_no_verdict() -> None:
    assert report(Goal("another figure", least=1)).verdicts() == []


def test_the_table_ends_with_the_goals() -> None:
    text = report(RATE).text()
    assert "±22 %" in text
    assert "NOT MET" in text
    assert text.endswith("1 of 2 goals met")
