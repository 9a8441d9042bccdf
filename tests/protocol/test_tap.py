"""The frame tap: what it sees, and what its verdicts do."""

from __future__ import annotations

import struct

from pamqp import commands

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
from tests.conversation import BrokerUnderTest, method


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


# -- on a connection


DELIVER = b"\x00\x3c\x00\x3c"
PUBLISH = b"\x00\x3c\x00\x28"


class OnMethod:
    """One verdict for one method of one direction; frames of its content follow it."""

    def __init__(self, direction: Direction, method: bytes, verdict: Verdict) -> None:
        self.direction = direction
        self.method = method
        self.verdict = verdict

    def frame(self, frame: TappedFrame, now: float) -> Verdict:
        wanted = frame.direction is self.direction and frame.payload[:4] == self.method
        return self.verdict if wanted else PASS


def test_a_delayed_publish_arrives_later_and_in_order() -> None:
    broker = BrokerUnderTest()
    client, other = broker.client(), broker.client()
    channel = client.channel()
    channel.queue_declare("q")
    client.peer.connection.attach_tap(OnMethod(Direction.INBOUND, PUBLISH, delay(5.0)))
    with client.together():
        channel.publish("", "q", b"slow")
        channel.send(method(commands.Queue.Declare, queue="behind it"))
    counts = other.channel().counts
    assert counts("q")[0] == 0
    broker.advance(4.9)
    assert counts("q")[0] == 0
    broker.advance(0.2)
    assert counts("q")[0] == 1
    assert counts("behind it")[0] == 0


def test_a_delayed_delivery_arrives_later() -> None:
    broker = BrokerUnderTest()
    client = broker.client()
    channel = client.channel()
    channel.queue_declare("q")
    channel.consume("q")
    client.peer.connection.attach_tap(OnMethod(Direction.OUTBOUND, DELIVER, delay(5.0)))
    channel.publish("", "q", b"slow")
    assert channel.bodies() == []
    broker.advance(5.1)
    assert channel.bodies() == [b"slow"]


def test_a_connection_that_the_tap_cuts_is_gone_at_once() -> None:
    broker = BrokerUnderTest()
    client, other = broker.client(), broker.client()
    channel = client.channel()
    channel.queue_declare("q")
    other.channel().publish("", "q", b"unacknowledged")
    assert channel.get("q") is not None
    client.peer.connection.attach_tap(OnMethod(Direction.INBOUND, PUBLISH, CLOSE))
    client.send_bytes(frame(1, PUBLISH + b"\x00\x00\x00\x01q\x00"))
    assert client.peer.closed
    assert client.peer.connection.end_reason == "cut by the frame tap"
    got = other.channel().get("q")
    assert got is not None
    assert got.redelivered
