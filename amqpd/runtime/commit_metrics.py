"""What the journal's writer has done, counted: for the log, the management API and Prometheus.

A commit costs one `observe`: three binary searches in short tuples. Nothing is counted for a
message.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from amqpd_storage.journal import Batch

ENTRIES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000)
BYTES: Final = tuple(1000 * 4**power for power in range(11))
"""1 KB to 1 GB."""
SECONDS: Final[tuple[float, ...]] = (  # mypyc loses one that is told item by item
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    60.0,
)


class Histogram:
    """How many values were up to each bound, and their sum: what Prometheus calls a histogram."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Values above the bound before, up to this one; the last one has no bound."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The bound below which this share of the values lies; infinity behind the last one."""
        wanted, seen = share * self.count, 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            seen += count
            if seen >= wanted:
                return bound
        return float("inf")


class Waiting(NamedTuple):
    """What is not on the disk yet, the batch under way included."""

    entries: int
    bytes: int


class CommitMetrics:
    """All commits since the start."""

    __slots__ = ("bytes", "elided", "entries", "retries", "seconds", "waiting_bytes_max")

    def __init__(self) -> None:
        self.entries = Histogram(ENTRIES)
        """Entries written by a commit."""
        self.bytes = Histogram(BYTES)
        """What a batch took of memory, roughly what it writes."""
        self.seconds = Histogram(SECONDS)
        """From handing a batch to the store until it was flushed."""
        self.elided = 0
        """Batches of which nothing was left to be written."""
        self.retries = 0
        """Attempts that found the disk full or failing."""
        self.waiting_bytes_max = 0
        """The most that waited when a batch was taken."""

    def observe(self, batch: Batch, seconds: float) -> None:
        """A batch was flushed."""
        self.entries.observe(len(batch.entries))
        self.bytes.observe(batch.size_bytes)
        self.seconds.observe(seconds)
        self.waiting_bytes_max = max(self.waiting_bytes_max, batch.size_bytes)

    def summary(self) -> dict[str, object]:
        """A few numbers for a log line. Quantiles are bounds of the histograms."""
        commits = self.seconds.count
        return {
            "commits": commits,
            "entries": int(self.entries.sum),
            "bytes": int(self.bytes.sum),
            "entries_p50": self.entries.quantile(0.5),
            "seconds_p50": self.seconds.quantile(0.5),
            "seconds_p99": self.seconds.quantile(0.99),
            "waiting_bytes_max": self.waiting_bytes_max,
            "elided": self.elided,
            "retries": self.retries,
        }
