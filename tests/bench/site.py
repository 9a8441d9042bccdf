"""Where a scenario has its broker: started as often as it likes, and watched meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from tests.bench import load, process
from tests.bench.brokers import Broker, Starter
from tests.bench.client import Address
from tests.bench.load import Role
from tests.bench.process import SAMPLE_SECONDS
from tests.bench.report import Figure

T = TypeVar("T")

QUEUE: Final = "bench-q"
SETTLE_SECONDS: Final = 8.0
"""Before memory at rest is read: brokers tidy up on their own time, amqpd after some seconds."""
PHASE_SECONDS: Final = 3600.0
"""A phase of a scenario that takes longer hangs."""


@dataclass
class Site:
    """Where a scenario has its broker, and what it knows of it."""

    home: Path
    start: Starter
    messages: int | None = None
    """How many, where a scenario has a number of messages that one may want to choose."""
    seconds: float | None = None
    """How long, where a scenario has a length that one may want to choose."""
    broker: Broker | None = None
    memory_max: int = 0
    """The most resident memory seen since `watch` began, in bytes."""

    @contextlib.contextmanager
    def running(self) -> Iterator[Broker]:
        """The broker, on what its last life left."""
        (self.home / "ready.json").unlink(missing_ok=True)
        with self.start(self.home) as broker:
            self.broker = broker
            try:
                yield broker
            finally:
                self.broker = None

    @property
    def address(self) -> Address:
        """Of the broker that runs."""
        assert self.broker is not None
        return Address.of(self.broker.url)

    def memory(self) -> int:
        """Resident bytes of the broker's processes now."""
        assert self.broker is not None
        octets = process.resident_bytes(self.broker.pids)
        self.memory_max = max(self.memory_max, octets)
        return octets

    def at_rest(self) -> int:
        """Resident bytes after a pause."""
        time.sleep(SETTLE_SECONDS)
        return self.memory()

    def watch(self, part: Role[T]) -> T:
        """Let a role do its work, with an eye on the memory, and return its result."""
        self.memory_max = 0
        with load.roles(part):
            part.await_ready()
            part.go()
            deadline = time.perf_counter() + PHASE_SECONDS
            self.memory()
            while not part.finished(SAMPLE_SECONDS) and time.perf_counter() < deadline:
                self.memory()
            return part.result(0)

    def disk_bytes(self) -> int:
        """What the data directory holds."""
        return sum(path.stat().st_size for path in (self.home / "data").rglob("*"))


def megabytes(name: str, octets: float) -> Figure:
    """A figure of memory or disk."""
    return Figure(name, octets / 1e6, "MB")
