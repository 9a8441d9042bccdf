"""What is published comes back as it was: properties, header fields, bodies of every size."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import os
import struct
from typing import TYPE_CHECKING, Any

import pika
import pytest

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from compat.pika_scenarios.conftest import Scene


def round_trip(
    scene: Scene, channel: BlockingChannel, body: bytes, properties: Any = None
) -> tuple[Any, bytes]:
    queue = scene.queue(channel)
    channel.basic_publish("", queue, body, properties)
    received = scene.consumer(channel, queue, auto_ack=True)
    scene.wait(channel.connection, lambda: received, "the message")
    return received[0].properties, received[0].body


def test_publish_and_consume(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    tag = "a-consumer"
    received = scene.consumer(channel, queue, consumer_tag=tag)
    for number in range(100):
        channel.basic_publish("", queue, f"message {number}".encode())
    scene.wait(channel.connection, lambda: len(received) == 100, "100 messages")
    assert [m.body for m in received] == [f"message {n}".encode() for n in range(100)]
    assert [m.method.delivery_tag for m in received] == list(range(1, 101))
    first = received[0].method
    assert (first.consumer_tag, first.exchange, first.routing_key) == (tag, "", queue)
    assert not any(m.method.redelivered for m in received)
    channel.basic_ack(100, multiple=True)
    assert channel.basic_cancel(tag) == []
    assert scene.get(channel, queue) is None


def test_every_property_comes_back(scene: Scene, channel: BlockingChannel) -> None:
    sent = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"key": "value"},
        "delivery_mode": 2,
        "priority": 4,
        "correlation_id": "correlation",
        "reply_to": "somewhere",
        "expiration": "60000",
        "message_id": "id-1",
        "timestamp": 1_700_000_000,
        "type": "kind",
        "user_id": channel.connection._impl.params.credentials.username,
        "app_id": "scenario",
        "cluster_id": "cluster",
    }
    properties, _ = round_trip(scene, channel, b"x", pika.BasicProperties(**sent))
    assert {key: getattr(properties, key) for key in sent} == sent


def test_properties_that_were_not_set_stay_unset(scene: Scene, channel: BlockingChannel) -> None:
    properties, _ = round_trip(scene, channel, b"x", pika.BasicProperties(app_id=""))
    given = {key: value for key, value in vars(properties).items() if value is not None}
    assert given == {"app_id": ""}


def test_an_empty_header_table_stays_present(scene: Scene, channel: BlockingChannel) -> None:
    properties, _ = round_trip(scene, channel, b"x", pika.BasicProperties(headers={}))
    assert properties.headers == {}


def test_header_fields_as_the_client_writes_them(scene: Scene, channel: BlockingChannel) -> None:
    headers = {
        "true": True,
        "false": False,
        "int": 7,
        "negative": -7,
        "long": 2**40,
        "lowest": -(2**63),
        "decimal": decimal.Decimal("3.14"),
        "text": "grün €",
        "empty": "",
        "bytes": b"\x00\xff\x80",
        "time": datetime.datetime(2024, 2, 29, 12, 30, 15),
        "none": None,
        "array": [1, "two", None, [3], {"four": 4}],
        "no items": [],
        "table": {"inner": {"deep": [True]}},
        "no fields": {},
        "x" * 128: "a long name",
    }
    properties, _ = round_trip(scene, channel, b"x", pika.BasicProperties(headers=headers))
    assert properties.headers == {**headers, "time": properties.headers["time"]}
    assert properties.headers["time"].replace(tzinfo=None) == headers["time"]


class RawHeaders(pika.BasicProperties):
    """A header table in octets of our own: the client knows some types only, and some wrongly."""

    def __init__(self, fields: bytes) -> None:
        super().__init__()
        self.fields = fields

    def encode(self) -> list[bytes]:
        return [struct.pack(">HI", self.FLAG_HEADERS, len(self.fields)), self.fields]


FIELDS = {
    "boolean": b"t\x01",
    "int8": b"b\x80",
    "uint8": b"B\xff",
    "int16": b"s\x80\x00",
    "uint16": b"u\xff\xff",
    "int32": b"I\x80\x00\x00\x00",
    "uint32": b"i\xff\xff\xff\xff",
    "int64": b"l" + struct.pack(">q", -5),
    "int64, by its other name": b"L" + struct.pack(">q", 2**62),
    "float": b"f" + struct.pack(">f", 0.1),
    "double": b"d" + struct.pack(">d", 0.1),
    "decimal": b"D\x02" + struct.pack(">I", 314),
    "long string": b"S\x00\x00\x00\x03abc",
    "long string that is no text": b"S\x00\x00\x00\x02\xff\xfe",
    "byte array": b"x\x00\x00\x00\x03a\x00c",
    "timestamp": b"T" + struct.pack(">Q", 1_700_000_000),
    "array": b"A\x00\x00\x00\x04s\x00\x01V",
    "empty array": b"A\x00\x00\x00\x00",
    "table": b"F\x00\x00\x00\x05\x01ks\x00\x07",
    "empty table": b"F\x00\x00\x00\x00",
    "void": b"V",
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS.keys())
def test_header_field_comes_back_octet_for_octet(
    scene: Scene, channel: BlockingChannel, monkeypatch: pytest.MonkeyPatch, field: bytes
) -> None:
    seen: list[bytes] = []

    def decode(properties: pika.BasicProperties, encoded: bytes, offset: int = 0) -> Any:
        seen.append(encoded[offset:])
        return properties

    monkeypatch.setattr(pika.BasicProperties, "decode", decode)
    sent = RawHeaders(b"\x05field" + field)
    round_trip(scene, channel, b"x", sent)
    assert seen == [b"".join(sent.encode())]


@pytest.mark.parametrize("size", [0, 1, 131063, 131064, 131065, 262128, 262129])
def test_body_at_the_edges_of_frames(scene: Scene, channel: BlockingChannel, size: int) -> None:
    body = os.urandom(size)
    _, received = round_trip(scene, channel, body)
    assert received == body


def test_body_of_ten_megabytes(scene: Scene, channel: BlockingChannel) -> None:
    body = os.urandom(1 << 20) * 10
    _, received = round_trip(scene, channel, body)
    assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()


def test_small_frames(scene: Scene) -> None:
    """The client asks for the least frame size there is, and both sides split bodies by it."""
    connection = scene.connect()
    least = 8192 if scene.version() >= (4, 1) else 4096
    channel = scene.channel(frame_max=least)
    assert channel.connection._impl.params.frame_max == least
    body = os.urandom(100_000)
    _, received = round_trip(scene, channel, body)
    assert received == body
    assert connection.is_open


def test_bodies_larger_and_smaller_in_one_stream(scene: Scene, channel: BlockingChannel) -> None:
    """Contents of one channel never mix, whatever number of frames each of them takes."""
    queue = scene.queue(channel)
    bodies = [bytes([n % 256]) * (n * 7919 % 300_000) for n in range(40)]
    for body in bodies:
        channel.basic_publish("", queue, body)
    received = scene.consumer(channel, queue, auto_ack=True)
    scene.wait(channel.connection, lambda: len(received) == len(bodies), "all bodies")
    assert [m.body for m in received] == bodies


def test_persistent_message_in_a_durable_queue(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel, durable=True)
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"kept", pika.BasicProperties(delivery_mode=2))
    message = scene.get(channel, queue)
    assert message is not None
    assert (message.body, message.properties.delivery_mode) == (b"kept", 2)
