"""Bodies from frames: the same however they are cut, and not much more memory than came."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import pytest

from amqpd.protocol.bodies import (
    JOINED_BYTES_MAX,
    STEP_BYTES_MAX,
    GrowingBody,
    JoinedBody,
    make_body,
)


def cut(octets: bytes, seed: int) -> Iterator[memoryview]:
    """Pieces of very different lengths, empty ones among them."""
    chance, view, at = random.Random(seed), memoryview(octets), 0
    while at < len(octets):
        size = int(chance.choice([0, 1, 5, 1000, 5000, 130_000]) * chance.random() + 0.5)
        yield view[at : at + size]
        at += size


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        (1, JoinedBody),
        (7_000, JoinedBody),
        (70_000, GrowingBody),
        (JOINED_BYTES_MAX, JoinedBody),
        (JOINED_BYTES_MAX + 1, GrowingBody),
        (3 * STEP_BYTES_MAX + 7, GrowingBody),
    ],
)
def test_a_body_is_what_came(size: int, kind: type) -> None:
    octets = random.Random(size).randbytes(size)
    for seed in range(3):
        body = make_body(size)
        assert type(body) is kind
        for piece in cut(octets, seed):
            body.add(piece)
        whole = body.whole()
        assert type(whole) is bytes
        assert whole == octets


def test_a_small_body_in_one_frame_is_copied_once() -> None:
    body = make_body(100_000)
    tracemalloc.start()
    body.add(memoryview(bytes(100_000)))
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    whole = body.whole()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(whole) == 100_000
    assert most - before < 1_000


@pytest.mark.parametrize("size", [1_000_000, 1 << 30])
def test_a_body_takes_twice_what_came_at_the_most(size: int) -> None:
    body, came = make_body(size), 0
    tracemalloc.start()
    for _ in range(200):
        body.add(memoryview(bytes(4000)))
        came += 4000
        held, _ = tracemalloc.get_traced_memory()
        assert held < 2 * came + 10_000
    tracemalloc.stop()


def test_octets_one_by_one_cost_no_object_each() -> None:
    for size in (10_000, 1 << 30):
        body, octet = make_body(size), memoryview(b"x")
        tracemalloc.start()
        for _ in range(10_000):
            body.add(octet)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 30_000
