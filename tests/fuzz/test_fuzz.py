"""The fuzzer's rounds, and the same damage chosen by Hypothesis, which makes failures small."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqpd.commands import Connection
from amqpd.config import Limits
from tests.fuzz.fuzzer import HOSTILE_LIMITS, Arena, Speaker, check_what_was_heard, handshake, run
from tests.protocol.client import GREETING, frame, opened

ROUNDS = 350


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Thousands of warnings help nobody."""
    logger = logging.getLogger("amqpd")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.mark.parametrize("journaling", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_hostile_rounds(seed: int, journaling: bool) -> None:
    run(seed, ROUNDS, journaling=journaling)


def test_rounds_are_the_same_each_time() -> None:
    """A seed is worth something only if it leads to the same place."""
    assert conversation(7) == conversation(7)
    assert conversation(7) != conversation(8)


# -- damage by Hypothesis


@cache
def arena(journaling: bool = False) -> Arena:
    """One for all examples: what one leaves behind fails in its own check."""
    return Arena(journaling=journaling)


def conversation(seed: int, length: int = 25) -> list[bytes]:
    """What a client says that does nothing wrong, frame by frame, greeting first."""
    random = Random(seed)
    frames = handshake(random, "3.13") + Speaker(random).converse(length)
    return [GREETING, *(frame(*raw) for raw in frames)]


CONVERSATIONS = [conversation(seed) for seed in range(12)]

edits = st.lists(
    st.tuples(
        st.sampled_from(["put", "insert", "delete"]),
        st.integers(0, 1 << 20),
        st.binary(min_size=1, max_size=8),
    ),
    max_size=6,
)


def edited(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    octets = bytearray(data)
    for kind, position, value in changes:
        at = position % (len(octets) + 1)
        if kind == "put":
            octets[at : at + len(value)] = value
        elif kind == "insert":
            octets[at:at] = value
        else:
            del octets[at : at + len(value)]
    return bytes(octets)


@settings(max_examples=150, deadline=None)
@given(
    frames=st.sampled_from(CONVERSATIONS),
    changes=edits,
    chunk_octets=st.sampled_from([1 << 20, 4096, 100, 7]),
    journaling=st.booleans(),
)
def test_octets_changed_anywhere(
    frames: list[bytes], changes: list[tuple[str, int, bytes]], chunk_octets: int, journaling: bool
) -> None:
    data = edited(b"".join(frames), changes)
    with arena(journaling).visitor() as client:
        for start in range(0, len(data), chunk_octets):
            client.send_bytes(data[start : start + chunk_octets])


@settings(max_examples=100, deadline=None)
@given(
    frames=st.sampled_from(CONVERSATIONS),
    order=st.lists(st.integers(0, 1 << 10), max_size=60),
    journaling=st.booleans(),
)
def test_frames_in_any_order(frames: list[bytes], order: list[int], journaling: bool) -> None:
    """Behind a handshake, frames of a conversation, dropped, repeated and mixed."""
    with arena(journaling).visitor() as client:
        client.send_bytes(b"".join(frames[:4]))
        client.send_bytes(b"".join(frames[4 + index % (len(frames) - 4)] for index in order))


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 3), st.binary(max_size=60)), max_size=10
    ),
    greeted=st.integers(0, 4),
)
def test_frames_of_anything_in_any_state(parts: list[tuple[int, int, bytes]], greeted: int) -> None:
    """At each step of the handshake, and behind it."""
    with arena().visitor() as client:
        client.send_bytes(b"".join(CONVERSATIONS[0][:greeted]))
        client.send_bytes(b"".join(frame(*part) for part in parts))


@settings(max_examples=100, deadline=None)
@given(octets=st.binary(max_size=200), greeted=st.integers(0, 5))
def test_octets_of_anything_in_any_state(octets: bytes, greeted: int) -> None:
    with arena().visitor() as client:
        client.send_bytes(b"".join(CONVERSATIONS[1][:greeted]) + octets)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), frames=st.sampled_from(CONVERSATIONS))
def test_any_cuts_are_answered_alike(data: st.DataObject, frames: list[bytes]) -> None:
    """The whole broker, not the reader alone: the same octets in, the same words out."""
    octets = b"".join(frames)
    points = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    answers = []
    for cuts in ([], points):
        # A new broker each time: generated names are to be the same. And with room for what is
        # unsent: what pauses deliveries depends on what was sent between two chunks.
        one = Arena(journaling=False, limits=Limits(frame_bytes_max=8192))
        with one.visitor() as client:
            for start, stop in zip([0, *cuts], [*cuts, len(octets)], strict=True):
                client.send_bytes(octets[start:stop])
        # Confirms of one turn are merged.
        answers.append([said for _, said in client.timeline if "basic.ack" not in said])
    whole, parts = answers
    assert parts == whole


# -- memory that one peer can hold


def test_frame_that_never_ends_is_refused_before_it_is_kept() -> None:
    one = arena()
    with one.visitor() as client:
        client.send_bytes(b"".join(CONVERSATIONS[0][:4]))
        client.send_bytes(b"\x03\x00\x01\xff\xff\xff\xff")
        for _ in range(100):
            client.send_bytes(bytes(10_000))
        kept = sum(map(len, client.connection.reader._chunks))
        assert kept <= HOSTILE_LIMITS.frame_bytes_max + 10_000


def test_broken_connection_keeps_nothing_of_what_it_is_still_sent() -> None:
    one = arena()
    with one.visitor() as client:
        client.send_bytes(b"".join(CONVERSATIONS[0][:4]) + frame(1, 1, b"", end=0))
        for _ in range(100):
            client.send_bytes(bytes(10_000))
        assert sum(map(len, client.connection.reader._chunks)) == 0


def test_doomed_connection_is_bounded() -> None:
    """Whoever fails to log in is ignored for three seconds, not collected."""
    one = arena()
    with one.visitor() as client:
        client.send_bytes(GREETING + frame(1, 0, b"\x00\x0a\x00\x1f" + bytes(8)))
        assert client.timeline[-1][1][1] == "connection.start"
        for _ in range(50):
            client.send_bytes(frame(2, 0, bytes(1000)) + frame(1, 0, bytes(10)))
        assert sum(map(len, client.connection.reader._chunks)) == 0


def test_channels_closed_and_never_answered_are_bounded() -> None:
    """close-ok never comes, and the next number is opened each time."""
    one = Arena(journaling=False, limits=Limits(channel_max=10))
    client = opened(one.broker)
    purge = b"\x00\x32\x00\x1e\x00\x00\x04nope\x00"
    for number in range(1, 2000):
        client.send_bytes(frame(1, number, b"\x00\x14\x00\x0a\x00") + frame(1, number, purge))
    assert len(client.connection.closing_channels) == 1999
    assert len(client.connection.outlets) == 0
    client.send(0, Connection.Close(200, "bye", 0, 0))
    check_what_was_heard(client)
