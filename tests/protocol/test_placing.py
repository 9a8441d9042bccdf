"""Large bodies read to their place: the same commands as if every octet had been given."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from amqpd.protocol.frames import FrameReader
from tests.protocol.client import body, frame, header, publish
from tests.protocol.test_frames import Told, make_reader, read, told

FRAME_MAX = 131_072


def take(reader: FrameReader, octets: bytes, chance: random.Random) -> list[Told]:
    """Read `octets` as a socket would be: wherever there is a place for them, to that place."""
    heard: list[Told] = []
    at = 0
    while at < len(octets):
        size = chance.choice([1, 7, 8, 9, 300, 5000, 70_000, 131_064, 131_072, 300_000])
        if reader.placing and chance.random() < 0.9:
            placed = 0
            for place in reader.place(chance.choice([1, 4096, 100_000, 1 << 20])):
                part = octets[at + placed : at + min(placed + len(place), size)]
                place[: len(part)] = part
                placed += len(part)
            commands = reader.placed(placed)
            heard += [told(command) for command in commands]
            at += placed
        else:
            heard += read(reader, octets[at : at + size])
            at += size
        while reader.has_more:
            heard += read(reader, b"")
    return heard


def content(channel: int, octets: bytes, *steps: int) -> Iterator[bytes]:
    """Publish, header and body in frames of these sizes, the last of them again and again."""
    yield publish(channel, "", "q", b"")[: -len(header(channel, 0))]
    yield header(channel, len(octets))
    at, sizes = 0, list(steps)
    while at < len(octets):
        step = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        yield body(channel, octets[at : at + step])
        at += step


def interleaved(conversations: list[list[bytes]], chance: random.Random) -> bytes:
    """Frames of several channels, in turns."""
    said = []
    while conversations:
        parts = chance.choice(conversations)
        said.append(parts.pop(0))
        if not parts:
            conversations.remove(parts)
    return b"".join(said)


def large(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def whole(octets: bytes) -> list[Told]:
    """What it says if it comes in one chunk."""
    return read(make_reader(frame_max=FRAME_MAX), octets)


CONVERSATIONS = {
    "one body": [[*content(1, large(1_000_000), FRAME_MAX - 8)]],
    "one after the other": [
        [*content(1, large(500_000), FRAME_MAX - 8), *content(1, large(200_000), FRAME_MAX - 8)]
    ],
    "frames of various sizes": [[*content(1, large(900_000), 100_000, 90_000, 1, 8, 120_000)]],
    "frames of the least frame_max": [[*content(1, large(300_000), 4088)]],
    "two channels": [
        [*content(1, large(700_000), FRAME_MAX - 8)],
        [*content(2, large(400_000), FRAME_MAX - 8)],
    ],
    "heartbeats and small messages": [
        [*content(1, large(700_000), FRAME_MAX - 8)],
        [frame(8, 0, b"")] * 5,
        [publish(2, "", "q", b"small")] * 20,
    ],
    "just one frame": [[*content(1, large(FRAME_MAX - 8), FRAME_MAX - 8)]],
    "an octet more than one frame": [[*content(1, large(FRAME_MAX - 7), FRAME_MAX - 8)]],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_placed_octets_give_the_same_commands(name: str) -> None:
    for seed in range(20):
        chance = random.Random(seed)
        octets = interleaved([list(parts) for parts in CONVERSATIONS[name]], chance)
        reader = make_reader(frame_max=FRAME_MAX)
        assert take(reader, octets, chance) == whole(octets), seed
        assert not reader.amid_content


def test_placed_octets_give_the_same_faults() -> None:
    """Frames that do not fit each other, wherever they are cut."""
    start = b"".join(content(1, large(400_000), FRAME_MAX - 8))
    faults = []
    for seed in range(60):
        chance = random.Random(seed)
        at = chance.choice([0, FRAME_MAX, 2 * FRAME_MAX]) + chance.randint(-12, 12)
        at += len(start) - 400_000 - 4 * 8
        octets = bytearray(start + publish(1, "", "q", b"small"))
        octets[at] ^= chance.choice([1, 0x10, 0xFF])
        heard = take(make_reader(frame_max=FRAME_MAX), bytes(octets), chance)
        expected = whole(bytes(octets))
        kinds = [said[0] for said in expected]
        if "fault" in kinds:
            faults.append(expected)
            end = kinds.index("fault") + 1
            assert heard[:end] == expected[:end], seed
        else:
            assert heard == expected, seed
    assert len({str(said) for said in faults}) > 5


def test_the_rest_of_a_body_goes_to_one_object_in_one_read() -> None:
    octets = b"".join(content(1, large(1_000_000), FRAME_MAX - 8))
    reader = make_reader(frame_max=FRAME_MAX)
    read(reader, octets)
    assert read(reader, octets[:256_000]) == []
    at = 256_000
    places = reader.place(1 << 20)
    assert sum(map(len, places)) == len(octets) - at
    for place in places:
        place[:] = octets[at : at + len(place)]
        at += len(place)
    (message,) = map(told, reader.placed(len(octets) - 256_000))
    assert message == whole(octets)[0]


def test_nobody_claims_memory_ahead_who_has_not_sent_as_much() -> None:
    reader = make_reader(frame_max=FRAME_MAX)
    begun = b"".join(content(1, bytes(1_000_000), FRAME_MAX - 8))[:20_000]
    read(reader, begun)
    assert sum(map(len, reader.place(1 << 20))) < 25_000


def test_one_body_at_a_time_is_given_memory_ahead() -> None:
    reader = make_reader(frame_max=FRAME_MAX)
    read(reader, b"".join(content(3, large(2_000_000), FRAME_MAX - 8)))
    for channel in (1, 2):
        read(reader, b"".join(content(channel, bytes(1_000_000), FRAME_MAX - 8))[:20_000])
        if channel == 1:
            assert sum(map(len, reader.place(1 << 20))) > 900_000
            reader.placed(0)
            # The rest of the frame, so that another channel may speak.
            rest = b"".join(content(1, bytes(1_000_000), FRAME_MAX - 8))
            read(reader, rest[20_000 : len(rest) - (1_000_000 - (FRAME_MAX - 8)) - 7 * 8])
    assert sum(map(len, reader.place(1 << 20))) < 25_000


def test_a_reader_that_is_told_to_forget_has_no_place() -> None:
    reader = make_reader(frame_max=FRAME_MAX)
    read(reader, b"".join(content(1, bytes(1_000_000), FRAME_MAX - 8))[:20_000])
    assert reader.place(100)
    reader.forget()
    assert not reader.placing
    assert reader.place(100) == []
    assert reader.placed(0) == []


def test_a_closing_connection_drops_the_rest_of_a_body() -> None:
    octets = b"".join(content(1, large(500_000), FRAME_MAX - 8))
    reader = make_reader(frame_max=FRAME_MAX)
    read(reader, octets[:20_000])
    reader.discard_content()
    assert not reader.placing
    (said,) = read(reader, octets[20_000:])
    assert said[0] == "oversized"
