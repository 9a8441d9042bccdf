"""A client that speaks in frames and hears tuples, for tests of the protocol itself.

    client = opened(BrokerUnderTest())
    client.send(1, Channel.Open())
    assert client.heard_now() == [(1, "channel.open_ok", "")]

What is heard is `(channel, name, *arguments)`, followed by properties and body where there is
content. `tests.conversation` has the broker, its time, and a client that speaks AMQP's verbs.
"""

from __future__ import annotations

from typing import Any, Final

from pamqp import frame as pamqp_frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from amqpd.commands import Arguments, Channel, Connection, Frame
from amqpd.protocol.connection import Connection as ProtocolConnection
from amqpd.protocol.methods import decode_method, method_name
from tests import conversation
from tests.conversation import BrokerUnderTest, method

GREETING: Final = b"AMQP\x00\x00\x09\x01"
PLAIN_GUEST: Final = b"\x00guest\x00guest"
NO_PROPERTIES: Final = b"\x00\x00"

Heard = tuple[Any, ...]
"""`(channel, name, *arguments)`, or `(channel, "heartbeat")`."""


# -- bytes


def frame(kind: int, channel: int, payload: bytes, end: int = 0xCE) -> bytes:
    """Any frame, sensible or not."""
    header = bytes((kind,)) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big")
    return header + payload + bytes((end,))


def header(
    channel: int,
    body_size: int,
    properties: bytes = NO_PROPERTIES,
    class_id: int = 60,
    weight: int = 0,
) -> bytes:
    """A content header frame."""
    head = class_id.to_bytes(2, "big") + weight.to_bytes(2, "big") + body_size.to_bytes(8, "big")
    return frame(2, channel, head + properties)


def body(channel: int, octets: bytes) -> bytes:
    """A content body frame."""
    return frame(3, channel, octets)


def bodies(channel: int, octets: bytes, frame_max: int) -> bytes:
    """As many body frames as it takes."""
    step = frame_max - 8
    return b"".join(
        body(channel, octets[start : start + step]) for start in range(0, len(octets), step)
    )


def pamqp_method(channel: int, said: Frame) -> bytes:
    """The frame as pamqp writes it, without what its `validate` refuses."""
    checked = type(said)
    said.__class__ = type(checked.__name__, (checked,), {"validate": lambda self: None})
    try:
        return pamqp_frame.marshal(said, channel)
    finally:
        said.__class__ = checked


def named(said: Frame, **values: Any) -> Frame:
    """The method with values that pamqp's constructors refuse."""
    for name, value in values.items():
        setattr(said, name, value)
    return said


def pamqp_properties(properties: Basic.Properties | None = None) -> bytes:
    """A property list as pamqp writes it."""
    payload = pamqp_frame.marshal(ContentHeader(0, 0, properties), 1)[7:-1]
    return payload[12:]


def publish(
    channel: int,
    exchange: str,
    routing_key: str,
    octets: bytes,
    properties: bytes = NO_PROPERTIES,
    *,
    mandatory: bool = False,
    immediate: bool = False,
    frame_max: int = 131072,
) -> bytes:
    """basic.publish with its content: the method by pamqp, the rest by hand."""
    said = named(
        Basic.Publish(mandatory=mandatory, immediate=immediate),
        exchange=exchange,
        routing_key=routing_key,
    )
    return (
        pamqp_method(channel, said)
        + header(channel, len(octets), properties)
        + bodies(channel, octets, frame_max)
    )


def split_frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """(kind, channel, payload) of whole frames; fails for anything else."""
    frames: list[tuple[int, int, bytes]] = []
    position = 0
    while position < len(data):
        kind = data[position]
        channel = int.from_bytes(data[position + 1 : position + 3], "big")
        size = int.from_bytes(data[position + 3 : position + 7], "big")
        stop = position + 7 + size
        assert data[stop : stop + 1] == b"\xce", f"no frame at octet {position}: {data!r}"
        frames.append((kind, channel, data[position + 7 : stop]))
        position = stop + 1
    return frames


def understood(data: bytes) -> list[Heard]:
    """What whole frames of a broker say."""
    heard: list[Heard] = []
    open_content: dict[int, tuple[Heard, int, bytes, bytes]] = {}
    for kind, channel, payload in split_frames(data):
        if kind == 8:
            assert (channel, payload) == (0, b"")
            heard.append((0, "heartbeat"))
            continue
        if kind == 1:
            assert channel not in open_content, "a method amid content"
            told, _ = decode_method(payload, 64)
            said = (channel, method_name(told), *(value for _, value in told))
            if payload[:4] in (b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x47", b"\x00\x3c\x00\x32"):
                open_content[channel] = (said, -1, b"", b"")
            else:
                heard.append(said)
            continue
        said, remaining, properties, octets = open_content.pop(channel)
        if kind == 2:
            assert remaining == -1
            assert payload[:4] == b"\x00\x3c\x00\x00"
            remaining, properties = int.from_bytes(payload[4:12], "big"), payload[12:]
        else:
            assert kind == 3
            assert payload
            assert len(payload) <= remaining
            remaining -= len(payload)
            octets += payload
        if remaining:
            open_content[channel] = (said, remaining, properties, octets)
        else:
            heard.append((*said, properties, octets))
    assert not open_content, "content without its end"
    return heard


# -- clients


class FrameClient(conversation.Client):
    """Speaks in octets and methods, and hears tuples; nothing is said or checked by itself."""

    def __init__(self, broker: BrokerUnderTest, *, is_loopback: bool = True) -> None:
        super().__init__(broker, is_loopback=is_loopback)
        self.timeline: list[tuple[float, Heard]] = []
        """Everything that was ever heard, and when."""
        self.raw = b""
        """The same as octets."""
        self._heard_before = 0

    @property
    def connection(self) -> ProtocolConnection:
        """The broker's side of it."""
        return self.peer.connection

    @property
    def dropped(self) -> bool:
        """The broker would close the socket."""
        return self.peer.closed

    @property
    def end_reason(self) -> str:
        """Why, for the log."""
        return self.connection.end_reason

    # -- speaking

    def start_ok(
        self,
        mechanism: str = "PLAIN",
        response: bytes = PLAIN_GUEST,
        capabilities: Arguments | None = None,
    ) -> None:
        """Log in."""
        start_ok = method(
            Connection.StartOk, mechanism=mechanism, response=response, locale="en_US"
        )
        properties: Arguments = {"product": ("S", "tests")}
        if capabilities is not None:
            properties["capabilities"] = ("F", capabilities)
        self.send(0, start_ok, properties)

    def tune_ok(self, channel_max: int = 2047, frame_max: int = 131072, heartbeat: int = 0) -> None:
        """Agree."""
        self.send(0, Connection.TuneOk(channel_max, frame_max, heartbeat))

    def tuned(self, **tuning: int) -> FrameClient:
        """Up to tune-ok; what was heard of it is forgotten."""
        self.send_bytes(GREETING)
        self.start_ok()
        names = [said[1] for said in self.heard_now()]
        assert names == ["connection.start", "connection.tune"]
        self.tune_ok(**tuning)
        return self

    def opened(
        self, *channels: int, capabilities: Arguments | None = None, **tuning: int
    ) -> FrameClient:
        """The whole handshake, and these channels; what was heard of it is forgotten."""
        limits = self.broker.core.limits
        self.send_bytes(GREETING)
        self.start_ok(capabilities=capabilities)
        tuning.setdefault("channel_max", limits.channel_max)
        tuning.setdefault("frame_max", limits.frame_bytes_max)
        self.tune_ok(**tuning)
        self.send(0, Connection.Open("/"))
        names = [said[1] for said in self.heard_now()]
        assert names == ["connection.start", "connection.tune", "connection.open_ok"]
        for number in channels:
            self.send(number, Channel.Open())
        assert self.heard_now() == [(number, "channel.open_ok", "") for number in channels]
        return self

    # -- hearing

    def take_output(self) -> None:
        """Take what the broker has for us."""
        connection = self.connection
        while self.reading and connection.pieces:
            data = connection.take_output(self.broker.now)
            self.raw += data
            if data != GREETING:
                self.timeline += [(self.broker.now, said) for said in understood(data)]
            self.peer.sent(len(data))

    def heard_now(self) -> list[Heard]:
        """What came since the last question."""
        heard = [said for _, said in self.timeline[self._heard_before :]]
        self._heard_before = len(self.timeline)
        return heard


def stranger(broker: BrokerUnderTest, *, is_loopback: bool = True) -> FrameClient:
    """Somebody connects, and has not said anything yet."""
    client = FrameClient(broker, is_loopback=is_loopback)
    broker.clients[client.connection] = client
    return client


def opened(broker: BrokerUnderTest, *channels: int, **how: Any) -> FrameClient:
    """A client with an open connection and these channels."""
    return stranger(broker).opened(*channels, **how)


def close(code: int, text: str, class_id: int = 0, method_id: int = 0) -> Heard:
    """connection.close, as it is heard."""
    return (0, "connection.close", code, text, class_id, method_id)


def channel_close(
    channel: int, code: int, text: str, class_id: int = 0, method_id: int = 0
) -> Heard:
    """channel.close, as it is heard."""
    return (channel, "channel.close", code, text, class_id, method_id)


__all__ = [
    "GREETING",
    "PLAIN_GUEST",
    "FrameClient",
    "Heard",
    "bodies",
    "body",
    "channel_close",
    "close",
    "frame",
    "header",
    "named",
    "opened",
    "pamqp_method",
    "pamqp_properties",
    "publish",
    "split_frames",
    "stranger",
    "understood",
]
