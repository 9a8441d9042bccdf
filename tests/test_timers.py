"""The heap of deadlines, against the plain list that it stands for."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from amqpd.timers import Entry, Timers


class Alarm:
    """Rings at each of its times, once."""

    def __init__(self, *times: float) -> None:
        self.times = sorted(times)
        self.rang: list[float] = []
        self.asked = 0
        self.timer: Entry | None = None

    def deadline(self) -> float | None:
        return self.times[0] if self.times else None

    def handle_timer(self, now: float) -> None:
        self.asked += 1
        while self.times and self.times[0] <= now:
            self.times.pop(0)
            self.rang.append(now)


def test_nothing_is_due_when_nothing_is_watched() -> None:
    timers = Timers()
    assert timers.next_deadline() is None
    timers.advance(1e9)


def test_a_thing_without_a_deadline_is_not_entered() -> None:
    timers = Timers()
    assert not timers.watch(Alarm())
    assert timers.next_deadline() is None


def test_each_deadline_is_met_in_its_turn() -> None:
    timers, alarm = Timers(), Alarm(1.0, 2.0, 5.0)
    timers.watch(alarm)
    assert timers.next_deadline() == 1.0
    timers.advance(0.9)
    assert alarm.rang == []
    timers.advance(1.0)
    assert alarm.rang == [1.0]
    assert timers.next_deadline() == 2.0
    timers.advance(9.0)
    assert alarm.rang == [1.0, 9.0, 9.0]
    assert timers.next_deadline() is None


def test_watching_again_enters_nothing_new_unless_it_is_sooner() -> None:
    timers, alarm = Timers(), Alarm(5.0)
    assert timers.watch(alarm)
    assert not timers.watch(alarm)
    alarm.times = [7.0]
    assert not timers.watch(alarm)  # asked too early, at 5, and then entered again
    timers.advance(5.0)
    assert alarm.asked == 1
    assert alarm.rang == []
    assert timers.next_deadline() == 7.0
    alarm.times = [6.0]
    assert timers.watch(alarm)
    timers.advance(7.0)
    assert alarm.rang == [7.0]
    assert alarm.asked == 2  # the entry at 7 was given up with the one at 6


def test_the_first_is_told_apart() -> None:
    timers = Timers()
    assert timers.watch(Alarm(5.0))
    assert not timers.watch(Alarm(6.0))
    assert timers.watch(Alarm(4.0))


def test_what_is_forgotten_is_not_asked_and_not_kept() -> None:
    timers, alarm = Timers(), Alarm(5.0)
    timers.watch(alarm)
    timers.forget(alarm)
    timers.forget(alarm)
    assert timers.next_deadline() is None
    timers.advance(6.0)
    assert alarm.asked == 0
    timers.watch(alarm)  # it may come back
    timers.forget(alarm)
    reference = weakref.ref(alarm)
    del alarm
    gc.collect()
    assert reference() is None


@given(
    st.lists(
        st.lists(st.integers(0, 50).map(float), max_size=4),
        max_size=6,
    ),
    st.lists(st.integers(0, 50).map(float), max_size=8),
    st.sets(st.integers(0, 5)),
)
def test_it_does_what_asking_everybody_all_the_time_would_do(
    schedules: list[list[float]], moments: list[float], forgotten: set[int]
) -> None:
    timers = Timers()
    alarms = [Alarm(*times) for times in schedules]
    for alarm in alarms:
        timers.watch(alarm)
    for index in forgotten & set(range(len(alarms))):
        timers.forget(alarms[index])
    kept = [alarm for index, alarm in enumerate(alarms) if index not in forgotten]
    for now in sorted(moments):
        timers.advance(now)
        left = [alarm.times[0] for alarm in kept if alarm.times]
        assert all(time > now for time in left)
        assert timers.next_deadline() == min(left, default=None)
    last = max(moments, default=-1)
    for alarm, times in zip(alarms, schedules, strict=True):
        if alarm in kept:
            assert alarm.times == [time for time in sorted(times) if time > last]
            assert len(alarm.rang) == len(times) - len(alarm.times)
        else:
            assert alarm.asked == 0


def test_what_is_forgotten_does_not_pile_up_in_the_heap() -> None:
    timers = Timers()
    first = Alarm(5.0)
    timers.watch(first)
    for number in range(10_000):
        passing = Alarm(1e6 + number)
        timers.watch(passing)
        timers.forget(passing)
    assert len(timers._heap) < 200
    assert timers.next_deadline() == 5.0
