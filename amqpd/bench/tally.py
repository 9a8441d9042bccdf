"""What all producers and consumers did, since the start and since the last interval."""

from __future__ import annotations

from typing import Final

from amqpd.bench.histogram import Histogram

FOREIGN_NS: Final = 3600 * 10**9
"""A message that seems older is not of this run: what it begins with is no time of ours."""


class Tally:
    """Counts of one span of time."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Another span begins."""
        self.sent = 0
        self.confirmed = 0
        self.nacked = 0
        self.returned = 0
        self.received = 0
        self.latency = Histogram()
        """From publishing to receiving."""
        self.confirm_latency = Histogram()
        """From publishing to the confirm."""

    @property
    def moved(self) -> int:
        """Grows with whatever happens."""
        return self.sent + self.confirmed + self.nacked + self.received

    def add_latency(self, value_ns: int) -> None:
        """Of a message that came, if it is of this run."""
        if 0 <= value_ns < FOREIGN_NS:
            self.latency.add(value_ns)

    def add(self, other: Tally) -> None:
        """All of another span as well."""
        self.sent += other.sent
        self.confirmed += other.confirmed
        self.nacked += other.nacked
        self.returned += other.returned
        self.received += other.received
        self.latency.merge(other.latency)
        self.confirm_latency.merge(other.confirm_latency)
