"""Bytes of a server -> what it says: the framing layer of AMQP 0-9-1 (§4.2.3) from the other end.

The broker's `FrameReader` puts publishes together; a client is sent deliveries and returns. Both
share the codec of methods and the rule of raw bytes: properties and body stay as they came.
Any split of the input into chunks gives the same; tests/links/test_client.py holds it to that.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from amqpd.commands import MethodCommand
from amqpd.protocol.bodies import Body, make_body
from amqpd.protocol.frames import (
    BASIC,
    BASIC_ACK,
    BASIC_NACK,
    BODY,
    CONTENT,
    FRAME,
    FRAME_END,
    FRAME_OVERHEAD,
    HEADER,
    HEARTBEAT,
    METHOD,
)
from amqpd.protocol.methods import decode_method

DELIVER: Final = b"\x00\x3c\x00\x3c"
RETURN: Final = b"\x00\x3c\x00\x32"
TAG: Final = Struct(">Q")
CODE: Final = Struct(">H")


class ServerFault(Exception):
    """The server said what no server may say; `str()` tells what."""


class Delivery:
    """A message from a consumer: basic.deliver."""

    __slots__ = ("body", "consumer_tag", "delivery_tag", "envelope", "properties", "redelivered")

    def __init__(
        self, consumer_tag: bytes, delivery_tag: int, redelivered: bool, envelope: bytes
    ) -> None:
        self.consumer_tag = consumer_tag
        self.delivery_tag = delivery_tag
        self.redelivered = redelivered
        self.envelope = envelope
        """Exchange and routing key as the two short strings that came."""
        self.properties = b""
        """The content header from its property flags on."""
        self.body = b""


class Returned:
    """A mandatory message that the server could not route: basic.return."""

    __slots__ = ("body", "code", "envelope", "properties", "text")

    def __init__(self, code: int, text: str, envelope: bytes) -> None:
        self.code = code
        self.text = text
        self.envelope = envelope
        self.properties = b""
        self.body = b""


class Confirmed:
    """basic.ack (`safe`) or basic.nack for what was published on a channel."""

    __slots__ = ("channel", "multiple", "publish_number", "safe")

    def __init__(self, channel: int, publish_number: int, multiple: bool, safe: bool) -> None:
        self.channel = channel
        self.publish_number = publish_number
        self.multiple = multiple
        self.safe = safe


Said = Delivery | Returned | Confirmed | MethodCommand


class _Content:
    """A message that has not wholly arrived."""

    __slots__ = ("body", "message", "remaining")

    def __init__(self, message: Delivery | Returned) -> None:
        self.message = message
        self.remaining = -1
        """Octets of body still to come; -1 until the content header came."""
        self.body: Body | None = None


class ServerReader:
    """Turns the server's bytes into what it says. Not to be used after a ServerFault."""

    def __init__(self, frame_bytes_max: int, body_bytes_max: int, table_depth_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        """0 is no limit."""
        self._body_bytes_max = body_bytes_max
        self._table_depth_max = table_depth_max
        self._contents: dict[int, _Content] = {}
        self._chunks: list[bytes] = []
        self._chunks_bytes = 0
        self._needed_bytes = 0

    def receive(self, data: bytes) -> list[Said]:
        """What `data` completes. Raises ServerFault."""
        if self._chunks:
            self._chunks.append(data)
            self._chunks_bytes += len(data)
            if self._chunks_bytes < self._needed_bytes:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
        said: list[Said] = []
        position = self._walk(data, said)
        if position < len(data):
            rest = data[position:]
            self._chunks.append(rest)
            self._chunks_bytes = len(rest)
            size = FRAME.unpack_from(rest)[2] if len(rest) >= FRAME.size else 0
            self._needed_bytes = size + FRAME_OVERHEAD
        return said

    def _walk(self, data: bytes, said: list[Said]) -> int:
        """Read the whole frames of `data`; where the rest of it begins."""
        position, end = 0, len(data)
        while end - position >= FRAME.size:
            kind, channel, size = FRAME.unpack_from(data, position)
            if self.frame_bytes_max and size + FRAME_OVERHEAD > self.frame_bytes_max:
                raise ServerFault(f"a frame of {size + FRAME_OVERHEAD} octets is too large")
            start = position + FRAME.size
            stop = start + size
            if stop >= end:
                break
            if data[stop] != FRAME_END:
                raise ServerFault("a frame does not end with 0xCE")
            position = stop + 1
            if kind == BODY:
                self._body(channel, memoryview(data)[start:stop], said)
            elif kind == HEADER:
                self._header(channel, data[start:stop], said)
            elif kind == METHOD:
                self._method(channel, data[start:stop], said)
            elif kind != HEARTBEAT or channel or size:
                raise ServerFault(f"a frame of type {kind}, on channel {channel}")
        return position

    def _method(self, channel: int, payload: bytes, said: list[Said]) -> None:
        if channel in self._contents:
            raise ServerFault("a method came where content was due")
        index = payload[:4]
        try:
            if index == DELIVER:
                self._contents[channel] = _Content(_delivery(payload))
                return
            if index == RETURN:
                self._contents[channel] = _Content(_returned(payload))
                return
        except IndexError:
            raise ServerFault("a method with content is cut off") from None
        if index in (BASIC_ACK, BASIC_NACK) and len(payload) == 13:
            number = TAG.unpack_from(payload, 4)[0]
            multiple = payload[12] & 1 == 1
            said.append(Confirmed(channel, number, multiple, index == BASIC_ACK))
            return
        method, arguments = decode_method(payload, self._table_depth_max)
        said.append(MethodCommand(channel, method, arguments))

    def _header(self, channel: int, payload: bytes, said: list[Said]) -> None:
        content = self._contents.get(channel)
        if content is None or content.remaining >= 0 or len(payload) < CONTENT.size + 2:
            raise ServerFault("a content header came where none was due")
        class_id, _, size = CONTENT.unpack_from(payload)
        if class_id != BASIC:
            raise ServerFault(f"a content header of class {class_id}")
        if size > self._body_bytes_max:
            text = f"a message of {size} octets is larger than the {self._body_bytes_max} allowed"
            raise ServerFault(text)
        content.message.properties = payload[CONTENT.size :]
        content.remaining = size
        if not size:
            self._complete(channel, content, said)

    def _body(self, channel: int, payload: memoryview, said: list[Said]) -> None:
        content = self._contents.get(channel)
        if content is None or content.remaining < len(payload):
            raise ServerFault("a content body came where none was due")
        if content.body is None:
            content.body = make_body(content.remaining)
        content.body.add(payload)
        content.remaining -= len(payload)
        if not content.remaining:
            self._complete(channel, content, said)

    def _complete(self, channel: int, content: _Content, said: list[Said]) -> None:
        del self._contents[channel]
        if content.body is not None:
            content.message.body = content.body.whole()
        said.append(content.message)


def _envelope(payload: bytes, start: int) -> bytes:
    """Exchange and routing key, which end the payload."""
    key = start + 1 + payload[start]
    if key + 1 + payload[key] != len(payload):
        raise IndexError
    return payload[start:]


def _delivery(payload: bytes) -> Delivery:
    """Consumer tag (short string), delivery tag, redelivered, envelope."""
    tag_end = 5 + payload[4]
    redelivered = payload[tag_end + 8] & 1 == 1
    delivery_tag = TAG.unpack_from(payload, tag_end)[0]
    envelope = _envelope(payload, tag_end + 9)
    return Delivery(payload[5:tag_end], delivery_tag, redelivered, envelope)


def _returned(payload: bytes) -> Returned:
    """Reply code, reply text (short string), envelope."""
    text_end = 7 + payload[6]
    text = payload[7:text_end].decode("utf-8", "replace")
    return Returned(CODE.unpack_from(payload, 4)[0], text, _envelope(payload, text_end))
