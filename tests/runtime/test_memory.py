"""Memory that lay idle is given back to the system; what is in use again and again is not."""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys

import pytest

from amqpd.runtime.memory import (
    FREED_BLOCKS_MIN,
    IDLE_BYTES_MIN,
    IDLE_CHECKS,
    Heap,
    MemoryReturn,
    Reserves,
    system_heap,
)
from amqpd.runtime.resources import ResidentMemory, resident_memory


class Stage:
    """A heap whose free bytes are told."""

    def __init__(self) -> None:
        self.free = 0
        self.trims = 0
        self.memory = MemoryReturn(Heap(lambda: self.free, self.trim))

    def trim(self) -> None:
        self.trims += 1

    def seconds(self, *free: int) -> list[bool]:
        """One check for each of these."""
        said = []
        for octets in free:
            self.free = octets
            said.append(self.memory.is_due)
            if said[-1]:
                self.memory.trim()
        return said


def test_what_was_free_all_the_time_goes() -> None:
    stage = Stage()
    said = stage.seconds(*[IDLE_BYTES_MIN] * IDLE_CHECKS)
    assert said == [False] * (IDLE_CHECKS - 1) + [True]


def test_what_was_needed_meanwhile_stays() -> None:
    stage = Stage()
    stage.seconds(*[IDLE_BYTES_MIN * 9, IDLE_BYTES_MIN - 1] * IDLE_CHECKS)
    assert stage.trims == 0


def test_what_was_given_back_is_not_given_back_again() -> None:
    stage = Stage()
    stage.seconds(*[IDLE_BYTES_MIN] * IDLE_CHECKS * 3)
    assert stage.trims == 1
    # It was in use again, and lies idle again.
    stage.seconds(0, *[IDLE_BYTES_MIN] * IDLE_CHECKS)
    assert stage.trims == 2


def test_the_systems_heap() -> None:
    """After a burst that something small at its end outlives."""
    heap = system_heap()
    if heap is None:
        pytest.skip("no glibc with mallinfo2")
    burst = [bytes(1000) for _ in range(100_000)]
    at_most = resident_memory()
    kept = burst[::1000]
    del burst
    assert heap.free_bytes() > 50_000_000
    heap.trim()
    assert resident_memory() < at_most - 50_000_000
    assert len(kept) == 100


def test_without_such_a_heap_nothing_is_due() -> None:
    memory = MemoryReturn(None)
    assert not any(memory.is_due for _ in range(20))


class Objects:
    """As many as are told, and a clock; a collection takes 50 ms."""

    def __init__(self) -> None:
        self.count = 0
        self.now = 100.0
        self.collected: list[float] = []
        self.reserves = Reserves(lambda: self.count, self.collect, lambda: self.now)

    def collect(self) -> None:
        self.collected.append(self.now)
        self.now += 0.05

    def seconds(self, *counts: int) -> None:
        """A look at each of these."""
        for count in counts:
            self.count = count
            self.now += 1.0
            if self.reserves.is_due:
                self.reserves.collect()


def test_python_collects_when_a_burst_is_over() -> None:
    objects = Objects()
    objects.seconds(*[5_000_000] * 10, 20_000)
    assert objects.collected == []
    objects.seconds(20_000)
    assert len(objects.collected) == 1
    objects.seconds(*[20_000] * 200)
    assert len(objects.collected) == 1


def test_python_does_not_collect_in_the_midst_of_one() -> None:
    objects = Objects()
    objects.seconds(*[5_000_000, 20_000] * 20)
    objects.seconds(*range(5_000_000, 20_000, -10_000))
    assert objects.collected == []
    objects.seconds(*[20_000] * 5)
    assert len(objects.collected) == 1


def test_python_does_not_collect_for_little() -> None:
    objects = Objects()
    objects.seconds(*[20_000 + FREED_BLOCKS_MIN - 1] * 20, *[20_000] * 20)
    assert objects.collected == []


def test_python_collects_for_a_thousandth_of_the_time_at_most() -> None:
    objects = Objects()
    objects.seconds(*[5_000_000, 20_000, 20_000] * 100)
    assert 5 <= len(objects.collected) <= 7
    assert all(b - a >= 50 for a, b in itertools.pairwise(objects.collected))


PROGRAM = """
import resource, sys
from amqpd.runtime.memory import keep_for_the_next_turn
if sys.argv[1] == "keep" and not keep_for_the_next_turn():
    raise SystemExit(77)
def turn():
    return [bytes(1024) for _ in range(4096)]
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_what_a_turn_frees_is_there_for_the_next_one() -> None:
    """Four megabytes, fifty times: a thousand pages each time if they were given back."""
    faults = {}
    for how in ("keep", "leave"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False
        )
        if done.returncode == 77:
            pytest.skip("this C library has no mallopt")
        assert done.returncode == 0, done.stderr
        faults[how] = int(done.stdout)
    assert faults["keep"] < 2000 < faults["leave"], faults


def test_memory_is_known_when_descriptors_run_out() -> None:
    resident = ResidentMemory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert (resident.occupied_bytes() or 0) > 0
        assert ResidentMemory().occupied_bytes() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
