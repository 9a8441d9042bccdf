"""Ids of queues: the lowest that is free, each given once."""

from __future__ import annotations

import random

import pytest

from amqpd.broker.queue_ids import QueueIds


def test_the_lowest_free_id_is_taken() -> None:
    ids = QueueIds(10, 20)
    assert [ids.take() for _ in range(5)] == [10, 11, 12, 13, 14]
    ids.release(13)
    ids.release(11)
    assert ids.in_use == 3
    assert [ids.take() for _ in range(3)] == [11, 13, 15]
    assert ids.in_use == 6


def test_what_is_found_in_a_store_is_in_use() -> None:
    ids = QueueIds(10, 20)
    ids.recovered({3, 11, 14, 25})
    assert ids.in_use == 2
    assert [ids.take() for _ in range(4)] == [10, 12, 13, 15]
    ids.recovered(set())
    assert (ids.in_use, ids.take()) == (0, 10)


def test_no_id_beyond_the_last() -> None:
    ids = QueueIds(10, 12)
    ids.take(), ids.take()
    with pytest.raises(AssertionError, match="no queue id is left"):
        ids.take()


def test_against_a_set() -> None:
    chance, ids, used = random.Random(1), QueueIds(1, 1000), set[int]()
    for _ in range(3000):
        if used and chance.random() < 0.48:
            gone = chance.choice(sorted(used))
            used.remove(gone)
            ids.release(gone)
        else:
            taken = ids.take()
            assert taken == min(set(range(1, len(used) + 2)) - used)
            used.add(taken)
        assert ids.in_use == len(used)
