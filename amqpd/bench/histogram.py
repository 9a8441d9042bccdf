"""Times, counted in buckets that are some percent wide: percentiles of any number of them.

A value keeps its six leading bits; what is below them is dropped, so that a percentile is at most
1/32 too low. Ten years in nanoseconds need some 1,800 buckets.
"""

from __future__ import annotations

from typing import Final

KEPT_BITS: Final = 6


class Histogram:
    """Of times in nanoseconds."""

    __slots__ = ("_counts", "count", "least", "most")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.least = 0
        self.most = 0

    def add(self, value_ns: int) -> None:
        """One more; a time below nothing is none."""
        value_ns = max(0, value_ns)
        dropped = value_ns.bit_length() - KEPT_BITS
        bucket = value_ns if dropped <= 0 else value_ns >> dropped << dropped
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        if not self.count or value_ns < self.least:
            self.least = value_ns
        self.most = max(self.most, value_ns)
        self.count += 1

    def merge(self, other: Histogram) -> None:
        """All of another one as well."""
        if not other.count:
            return
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.least = min(self.least, other.least) if self.count else other.least
        self.most = max(self.most, other.most)
        self.count += other.count

    def percentile(self, percent: float) -> int:
        """The time that so many of a hundred do not exceed, in nanoseconds; 0 if there are none."""
        rank = max(1, -(-self.count * percent // 100))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                return max(bucket, self.least)
        return self.most
