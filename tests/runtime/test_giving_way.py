"""Who goes first: by a clock, and others who keep the processor as long as they are told to."""

from __future__ import annotations

import pytest

from amqpd.runtime.giving_way import KEPT_MAX, KEPT_MIN, SOON_S, GivingWay


class Machine:
    """A clock, and others on the same processor."""

    def __init__(self) -> None:
        self.time = 100.0
        self.others_take_s = 0.0
        self.gave_way = 0
        self.way = GivingWay(lambda: self.time, self.give_way)

    def give_way(self) -> None:
        self.gave_way += 1
        self.time += self.others_take_s

    def given(self, times: int) -> int:
        """How often others went first, of so many times."""
        before = self.gave_way
        for _ in range(times):
            self.way.let_others_go_first()
        return self.gave_way - before


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_whoever_gives_the_processor_back_soon_goes_first_each_time(machine: Machine) -> None:
    machine.others_take_s = SOON_S / 2
    assert machine.given(100) == 100


def test_whoever_keeps_it_goes_first_half_as_often_each_time(machine: Machine) -> None:
    machine.others_take_s = 3 * SOON_S
    assert machine.given(1 + KEPT_MIN) == 1
    assert machine.given(1 + 2 * KEPT_MIN) == 1
    assert machine.given(20 * KEPT_MAX) <= 27
    machine.given(KEPT_MAX)
    assert machine.given(1 + KEPT_MAX) == 1


def test_once_they_are_quick_again_they_go_first_again(machine: Machine) -> None:
    machine.others_take_s = 3 * SOON_S
    machine.given(20 * KEPT_MAX)
    machine.others_take_s = 0.0
    assert machine.given(3 * KEPT_MAX) > KEPT_MAX / 2
    assert machine.given(100) == 100


def test_one_long_time_is_soon_forgotten(machine: Machine) -> None:
    machine.others_take_s = 3 * SOON_S
    assert machine.given(1) == 1
    machine.others_take_s = 0.0
    machine.given(2 * KEPT_MIN + 5)
    assert machine.given(100) == 100
