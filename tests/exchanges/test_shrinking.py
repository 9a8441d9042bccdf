"""A table that hardly has any keys left becomes small."""

from __future__ import annotations

from sys import getsizeof

from amqpd_exchanges.shrinking import shrink


def test_a_table_shrinks_as_its_keys_go() -> None:
    table = {number: str(number) for number in range(100_000)}
    full = getsizeof(table)
    sizes = []
    for number in range(99_997):
        del table[number]
        shrink(table)
        sizes.append(getsizeof(table))
    assert table == {number: str(number) for number in range(99_997, 100_000)}
    assert sizes[50_000] == full
    assert sizes[-1] < 4096
    assert len(set(sizes)) < 10  # made anew a few times, and not with every key


def test_a_small_table_stays() -> None:
    table = dict.fromkeys(range(10), 0)
    before = getsizeof(table)
    table.clear()
    shrink(table)
    assert table == {}
    assert getsizeof(table) <= before
