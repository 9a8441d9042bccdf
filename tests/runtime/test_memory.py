"""Memory that lay idle is given back to the system; what is in use again and again is not."""

from __future__ import annotations

import pytest

from amqpd.runtime.memory import (
    IDLE_BYTES_MIN,
    IDLE_CHECKS,
    Heap,
    MemoryReturn,
    system_heap,
)
from amqpd.runtime.resources import resident_memory


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
