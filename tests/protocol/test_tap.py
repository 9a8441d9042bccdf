"""The frame tap: what it sees, and what its verdicts do."""

from __future__ import annotations

import struct

from amqpd.protocol.tap import (
    CLOSE,
    DROP,
    PASS,
    Direction,
    Tap,
    TapFilter,
    TappedFrame,
    Verdict,
    delay,
)


def frame(channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", 1, channel, len(payload)) + payload + b"\xce"


class Script:
    """Answers with the verdict that is written for a payload, PASS for others."""

    def __init__(self, verdicts: dict[bytes, Verdict]) -> None:
        self.verdicts = verdicts
        self.seen: list[TappedFrame] = []

    def frame(self, frame: TappedFrame, now: float) -> Verdict:
        self.seen.append(frame)
        return self.verdicts.get(frame.payload, PASS)


def test_every_split_shows_the_same_frames() -> None:
    octets = frame(1, b"one") + frame(2, b"") + frame(3, b"three")
    for split in range(len(octets)):
        script = Script({})
        tapped = TapFilter(script, Direction.INBOUND)
        out = tapped.filter(octets[:split], 0.0) + tapped.filter(octets[split:], 0.0)
        assert out == octets
        assert [(seen.channel, seen.payload) for seen in script.seen] == [
            (1, b"one"),
            (2, b""),
            (3, b"three"),
        ]


def test_a_dropped_frame_is_missing_and_nothing_else() -> None:
    tapped = TapFilter(Script({b"bad": DROP}), Direction.OUTBOUND)
    out = tapped.filter(frame(1, b"a") + frame(1, b"bad") + frame(1, b"b"), 0.0)
    assert out == frame(1, b"a") + frame(1, b"b")


def test_a_delayed_frame_holds_back_what_follows_it() -> None:
    tapped = TapFilter(Script({b"slow": delay(5.0)}), Direction.INBOUND)
    octets = frame(1, b"a") + frame(1, b"slow") + frame(1, b"b")
    assert tapped.filter(octets, 10.0) == frame(1, b"a")
    assert tapped.deadline() == 15.0
    assert tapped.due(14.9) == b""
    assert tapped.filter(frame(1, b"c"), 14.9) == b""
    assert tapped.due(15.0) == frame(1, b"slow") + frame(1, b"b") + frame(1, b"c")
    assert tapped.deadline() is None


def test_nothing_passes_after_close() -> None:
    tap = Tap(Script({b"cut": CLOSE}))
    assert tap.inbound.filter(frame(1, b"a") + frame(1, b"cut") + frame(1, b"b"), 0.0) == frame(
        1, b"a"
    )
    assert tap.closed
    assert tap.inbound.filter(frame(1, b"c"), 0.0) == b""
