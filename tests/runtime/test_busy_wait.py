"""How long the loop is kept awake: by a clock and a loop that do as they are told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from amqpd.runtime.busy_wait import SHORTEST_S, BusyWait

LONGEST_S = 0.000_2


class Machine:
    """A clock, and an event loop whose turns take a microsecond each."""

    def __init__(self) -> None:
        self.time = 100.0
        self.soon: list[Callable[[], None]] = []
        self.gave_way = 0
        self.wait = BusyWait(self, self.now, LONGEST_S, self.give_way)

    def now(self) -> float:
        return self.time

    def call_soon(self, callback: Callable[[], None], /) -> None:
        self.soon.append(callback)

    def give_way(self) -> None:
        self.gave_way += 1

    def turn(self, after_s: float, *, writing: bool = False) -> bool:
        """Something comes after so long; whether the loop was awake."""
        comes_at = self.time + after_s
        while self.soon and self.time < comes_at:
            assert len(self.soon) == 1
            self.time += 0.000_001
            self.soon.pop()()
        awake = bool(self.soon)
        self.time = max(self.time, comes_at)
        self.wait.turn_ended(writing=writing)
        return awake

    def awake_s(self) -> float:
        """How long it stays awake if nothing comes."""
        began = self.time
        while self.soon:
            self.time += 0.000_001
            self.soon.pop()()
        return self.time - began


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_loop_that_has_little_to_do_sleeps_at_once(machine: Machine) -> None:
    for _ in range(10):
        assert not machine.turn(0.01)
    assert not machine.soon


def test_what_comes_soon_again_and_again_is_looked_for_longer_and_longer(machine: Machine) -> None:
    # 25 us, 50, 100: the fourth time that something comes after 90 us, the loop is awake.
    assert [machine.turn(0.000_09) for _ in range(6)] == [False, False, False, True, True, True]
    assert machine.awake_s() == pytest.approx(0.000_1, abs=3e-6)


def test_nobody_is_looked_for_longer_than_is_allowed(machine: Machine) -> None:
    stayed = []
    for _ in range(20):
        machine.turn(0.000_01)
        stayed.append(machine.awake_s())
    assert max(stayed) == pytest.approx(LONGEST_S, abs=3e-6)


def test_it_is_given_up_when_it_does_not_pay(machine: Machine) -> None:
    for _ in range(6):
        machine.turn(0.000_09)
    stayed = []
    for _ in range(5):
        machine.turn(0.01)
        stayed.append(machine.awake_s())
    assert stayed == [
        pytest.approx(0.000_05, abs=3e-6),
        pytest.approx(SHORTEST_S, abs=3e-6),
        0,
        0,
        0,
    ]


def test_the_loop_sleeps_while_the_journal_is_written_and_after_it(machine: Machine) -> None:
    for _ in range(6):
        machine.turn(0.000_09)
    machine.turn(0.000_01, writing=True)
    assert machine.awake_s() <= 0.000_002
    assert not machine.turn(0.005)  # the commit; how long the disk took teaches nothing
    assert not machine.soon
    assert not machine.turn(0.000_15)
    assert machine.awake_s() == pytest.approx(LONGEST_S, abs=3e-6)


def test_it_gives_way_when_it_looks_in_vain_only(machine: Machine) -> None:
    for _ in range(6):
        machine.turn(0.000_09)
    machine.awake_s()
    machine.gave_way = 0
    machine.turn(0.000_01)
    for _ in range(50):
        assert machine.turn(0.000_001)  # one after the other: there is no time to give
    assert machine.gave_way == 0
    machine.awake_s()
    assert machine.gave_way > 90
