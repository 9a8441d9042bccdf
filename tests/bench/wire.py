"""AMQP frames as bytes, built before the clock starts, and the little parsing a load needs.

The load generator shares the cores with the broker it measures, so its hot loops neither encode
nor decode. They send slices of what this module built, and count bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
FRAME_MAX: Final = 131072
"""Asked for in tune-ok; both RabbitMQ and amqpd offer it, and bodies are split by it."""

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
FRAME_END: Final = 0xCE
ENVELOPE: Final = 8
"""Octets around a payload: type, channel, size, and the end octet."""

SETTLE_SIZE: Final = 21
"""A basic.ack, and a basic.nack: 8 around class, method, an 8-octet tag and an octet of bits."""
SETTLE: Final = struct.Struct(">BHIHHQBB")

Method = tuple[int, int]
CONNECTION_START: Final[Method] = (10, 10)
CONNECTION_START_OK: Final[Method] = (10, 11)
CONNECTION_TUNE: Final[Method] = (10, 30)
CONNECTION_TUNE_OK: Final[Method] = (10, 31)
CONNECTION_OPEN: Final[Method] = (10, 40)
CONNECTION_OPEN_OK: Final[Method] = (10, 41)
CONNECTION_CLOSE: Final[Method] = (10, 50)
CONNECTION_CLOSE_OK: Final[Method] = (10, 51)
CHANNEL_OPEN: Final[Method] = (20, 10)
CHANNEL_OPEN_OK: Final[Method] = (20, 11)
CHANNEL_CLOSE: Final[Method] = (20, 40)
CHANNEL_CLOSE_OK: Final[Method] = (20, 41)
EXCHANGE_DECLARE: Final[Method] = (40, 10)
EXCHANGE_DECLARE_OK: Final[Method] = (40, 11)
EXCHANGE_DELETE: Final[Method] = (40, 20)
EXCHANGE_DELETE_OK: Final[Method] = (40, 21)
QUEUE_DECLARE: Final[Method] = (50, 10)
QUEUE_DECLARE_OK: Final[Method] = (50, 11)
QUEUE_BIND: Final[Method] = (50, 20)
QUEUE_BIND_OK: Final[Method] = (50, 21)
QUEUE_DELETE: Final[Method] = (50, 40)
QUEUE_DELETE_OK: Final[Method] = (50, 41)
BASIC_QOS: Final[Method] = (60, 10)
BASIC_QOS_OK: Final[Method] = (60, 11)
BASIC_CONSUME: Final[Method] = (60, 20)
BASIC_CONSUME_OK: Final[Method] = (60, 21)
BASIC_PUBLISH: Final[Method] = (60, 40)
BASIC_DELIVER: Final[Method] = (60, 60)
CONFIRM_SELECT: Final[Method] = (85, 10)
CONFIRM_SELECT_OK: Final[Method] = (85, 11)

Value = str | bool | int


class ProtocolError(Exception):
    """The broker said something that a run can't go on from; the message says what."""


class ChannelClosed(ProtocolError):
    """The broker closed the channel, and waits for close-ok."""


def short(text: str) -> bytes:
    """A shortstr."""
    raw = text.encode()
    return bytes([len(raw)]) + raw


def long(raw: bytes) -> bytes:
    """A longstr."""
    return struct.pack(">I", len(raw)) + raw


def table(entries: Mapping[str, Value]) -> bytes:
    """A field table; ints go as `I`, since no workload needs a larger one."""
    out = bytearray()
    for key, value in entries.items():
        out += short(key)
        if isinstance(value, bool):
            out += b"t" + bytes([value])
        elif isinstance(value, int):
            out += b"I" + struct.pack(">i", value)
        else:
            out += b"S" + long(value.encode())
    return long(bytes(out))


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([FRAME_END])


def method(channel: int, name: Method, arguments: bytes = b"") -> bytes:
    """A method frame."""
    return frame(METHOD, channel, struct.pack(">HH", *name) + arguments)


def properties(
    *,
    delivery_mode: int | None = None,
    headers: Mapping[str, Value] | None = None,
    reply_to: str | None = None,
) -> bytes:
    """Property flags and list of a content header; what is not given is absent."""
    flags, out = 0, b""
    if headers is not None:
        flags |= 1 << 13
        out += table(headers)
    if delivery_mode is not None:
        flags |= 1 << 12
        out += bytes([delivery_mode])
    if reply_to is not None:
        flags |= 1 << 9
        out += short(reply_to)
    return struct.pack(">H", flags) + out


TRANSIENT: Final = properties(delivery_mode=1)
PERSISTENT: Final = properties(delivery_mode=2)


def content(body: bytes, props: bytes, channel: int = 1) -> bytes:
    """Header and body, the body in frames as large as allowed."""
    room = FRAME_MAX - ENVELOPE
    parts = [frame(HEADER, channel, struct.pack(">HHQ", 60, 0, len(body)) + props)]
    parts += [frame(BODY, channel, body[i : i + room]) for i in range(0, len(body), room)]
    return b"".join(parts)


def publish(exchange: str, routing_key: str, body: bytes, props: bytes, channel: int = 1) -> bytes:
    """A publish, method and content."""
    arguments = b"\x00\x00" + short(exchange) + short(routing_key) + b"\x00"
    return method(channel, BASIC_PUBLISH, arguments) + content(body, props, channel)


def deliver(routing_key: str, body: bytes, props: bytes, channel: int = 1) -> bytes:
    """A delivery from the default exchange; its tag is 0, since nobody reads it."""
    arguments = short("bench") + bytes(9) + short("") + short(routing_key)
    return method(channel, BASIC_DELIVER, arguments) + content(body, props, channel)


def acks(count: int, channel: int = 1, first: int = 1) -> bytes:
    """One basic.ack for each delivery tag from `first` to `count`, none of them multiple."""
    pack = SETTLE.pack
    return b"".join(
        [pack(METHOD, channel, 13, 60, 80, t, 0, FRAME_END) for t in range(first, count + 1)]
    )


def next_frame(received: bytes | bytearray, at: int = 0) -> tuple[int, int, bytes, int] | None:
    """(type, channel, payload, where the next one starts), or None while it is incomplete."""
    if len(received) < at + ENVELOPE:
        return None
    kind, channel, size = struct.unpack_from(">BHI", received, at)
    end = at + size + ENVELOPE
    if len(received) < end:
        return None
    return kind, channel, bytes(received[at + 7 : end - 1]), end


def raise_if_closed(name: Method, payload: bytes) -> None:
    """A channel.close or connection.close ends the run, with the broker's own words."""
    if name in (CHANNEL_CLOSE, CONNECTION_CLOSE):
        code, length = struct.unpack_from(">HB", payload, 4)
        text = payload[7 : 7 + length].decode("utf-8", "replace")
        kind = ChannelClosed if name == CHANNEL_CLOSE else ProtocolError
        raise kind(f"closed by the broker: {code} {text}")


def method_of(payload: bytes) -> Method:
    """Class and method id of a method frame's payload."""
    class_id, method_id = struct.unpack_from(">HH", payload)
    return class_id, method_id


def delivery_size(received: bytes | bytearray) -> int | None:
    """Octets of the first delivery in `received`, all frames of it; None while it is incomplete.

    Deliveries of a workload are of one size: a delivery tag has 8 octets always, and keys,
    consumer tags, properties and bodies of a workload are of one length. The rest of the run is a
    division.
    """
    first = next_frame(received)
    if first is None:
        return None
    if first[0] != METHOD or method_of(first[2]) != BASIC_DELIVER:
        raise_if_closed(method_of(first[2]), first[2])
        raise ProtocolError(f"expected a delivery, got {first[2][:40]!r}")
    header = next_frame(received, first[3])
    if header is None:
        return None
    at, body_left = header[3], struct.unpack_from(">Q", header[2], 4)[0]
    while body_left:
        body = next_frame(received, at)
        if body is None:
            return None
        at, body_left = body[3], body_left - len(body[2])
    return at


class Confirms:
    """How many publishes of a channel are confirmed, from the bytes of its acks.

    Numbers are confirmed in any order, one by one or with all below them, so a count alone is not
    enough: `low` is the number up to which all are confirmed, `beyond` those above it.
    """

    __slots__ = ("beyond", "low", "nacked", "partial")

    def __init__(self) -> None:
        self.low = 0
        self.beyond: set[int] = set()
        self.nacked = 0
        self.partial = b""

    @property
    def count(self) -> int:
        """Publishes that are confirmed."""
        return self.low + len(self.beyond)

    def receive(self, data: bytes) -> None:
        """Take bytes as they came: acks and nacks, both of 21 octets, and nothing else."""
        data = self.partial + data
        whole = len(data) - len(data) % SETTLE_SIZE
        self.partial = data[whole:]
        low, beyond = self.low, self.beyond
        for _, _, size, class_id, method_id, number, bits, _ in SETTLE.iter_unpack(data[:whole]):
            if size != 13 or class_id != 60 or method_id not in (80, 120):
                self._refuse(data)
            if method_id == 120:
                self.nacked += 1
            if bits & 1:
                if number > low:
                    low = number
                    beyond = {n for n in beyond if n > low}
            elif number != low + 1:
                beyond.add(number)
            else:
                low = number
            while low + 1 in beyond:
                low += 1
                beyond.remove(low)
        self.low, self.beyond = low, beyond

    @staticmethod
    def _refuse(data: bytes) -> None:
        at = 0
        while (found := next_frame(data, at)) is not None:
            if found[0] == METHOD:
                raise_if_closed(method_of(found[2]), found[2])
            at = found[3]
        raise ProtocolError(f"expected only confirms, got {data[:60]!r}")


def block_of(messages: Sequence[bytes], octets: int = 65536) -> tuple[bytes, int]:
    """Whole rounds of `messages` up to about `octets`, and how many messages that is.

    One send of this much costs the sender a fraction of a microsecond a message.
    """
    once = b"".join(messages)
    rounds = max(1, octets // len(once))
    return once * rounds, rounds * len(messages)
