"""The differential run itself: names, what may be cut short, and that a signal loses nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from compat.differential import play, run

SIDE = ("amqp://127.0.0.1:1/", "http://127.0.0.1:1")


def test_a_symbol_stands_for_what_the_broker_made_up() -> None:
    side = play.Side(SIDE, "RabbitMQ", "/")
    generated = "amq.gen-" + "a" * 22
    assert side.symbolic(f"no queue '{generated}'") == "no queue '$gen1'"
    assert side.actual("$gen1") == generated


def test_a_symbol_that_stands_for_nothing_is_a_name() -> None:
    """A queue that is declared by it is one like others, and is found when all are deleted."""
    side = play.Side(SIDE, "RabbitMQ", "/")
    assert side.actual("$token1") == "token1"
    assert side.symbolic("token1") == "token1"


@pytest.mark.parametrize(
    ("theirs", "ours", "cut"),
    [
        ([], ["return"], True),
        (["return"], ["return", "return"], True),
        (["return"], ["return"], False),
        (["get"], ["return", "return"], False),
        (["return"], [], False),
    ],
)
def test_what_may_be_missing_is_the_end(theirs: list[Any], ours: list[Any], cut: bool) -> None:
    assert play.is_cut_short(theirs, ours) is cut


def test_a_run_that_is_to_stop_reports_what_was_played(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[int] = []

    def examine(players: Any, seed: int, number: int, tally: run.Tally) -> None:
        played.append(number)
        tally.operations += 1
        if len(played) == 3:
            run.STOP.set()

    monkeypatch.setattr(run, "examine", examine)
    monkeypatch.setattr(run, "Players", lambda *_: NoPlayers())
    monkeypatch.setattr(run, "STOP", run.FORK.Event())
    job = run.Job((SIDE, SIDE), 0, 1, 7, None, 1000, 600.0)
    assert run.play_all(job).operations == 3
    assert played == [0, 1, 2]


class NoPlayers:
    """In place of two brokers."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        self.excuses: dict[str, int] = {}
