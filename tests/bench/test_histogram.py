"""Percentiles from buckets, beside those of the sorted values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amqpd.bench.histogram import Histogram

TIMES = st.lists(st.integers(0, 10**18), min_size=1, max_size=300)


def of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(TIMES, st.floats(0, 100))
def test_a_percentile_is_at_most_a_thirty_second_too_low(values: list[int], percent: float) -> None:
    exact = sorted(values)[max(1, -(-len(values) * percent // 100).__int__()) - 1]
    assert exact * 31 / 32 <= of(values).percentile(percent) <= exact


@given(TIMES, TIMES)
def test_merged_is_as_if_counted_together(some: list[int], others: list[int]) -> None:
    merged, together = of(some), of(some + others)
    merged.merge(of(others))
    for percent in (0, 50, 99, 100):
        assert merged.percentile(percent) == together.percentile(percent)
    assert (merged.count, merged.least, merged.most) == (
        together.count,
        min(some + others),
        max(some + others),
    )


def test_least_and_most_are_exact() -> None:
    histogram = of([1_000_003, 999_999_937])
    assert (histogram.least, histogram.most) == (1_000_003, 999_999_937)


def test_without_times_there_are_none() -> None:
    histogram = Histogram()
    histogram.merge(Histogram())
    assert (histogram.count, histogram.percentile(99)) == (0, 0)
