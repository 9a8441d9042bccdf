"""The link client against the broker's own state machine: every conversation, every cut."""

from __future__ import annotations

import pytest

from amqpd.broker.alarms import Alarm
from amqpd.commands import Basic, Channel, Confirm, MethodCommand
from amqpd.links.client import (
    Blocked,
    ChannelClosed,
    LinkClient,
    Opened,
    State,
    Unblocked,
)
from amqpd.links.reading import Confirmed, Delivery
from amqpd.links.uri import parse_uri
from amqpd.short_string import short_string
from tests.conversation import BrokerUnderTest
from tests.links.wire import URI, WHOLE, Wire

SMALL_FRAMES = parse_uri("amqp://localhost?heartbeat=0&frame_max=4096")
TO_Q = short_string("") + short_string("q")


def opened(broker: BrokerUnderTest, step: int = WHOLE) -> Wire:
    wire = Wire(broker, SMALL_FRAMES, step=step)
    wire.converse()
    assert wire.link.state is State.OPEN
    wire.link.send(1, Channel.Open())
    wire.converse()
    return wire


@pytest.mark.parametrize("step", [1, 2, 3, 7, 8, 9, 100, WHOLE])
def test_publish_confirm_consume_ack_whatever_the_pieces(step: int) -> None:
    broker = BrokerUnderTest()
    other = broker.client().channel()
    other.queue_declare("q")
    wire = opened(broker, step)
    link = wire.link
    properties = b"\x20\x00\x00\x00\x00\x07\x01kI\x00\x00\x00\x05"
    bodies = [b"", b"x", b"y" * 10_000]
    link.send(1, Confirm.Select())
    assert [link.publish(1, TO_Q, properties, body) for body in bodies] == [1, 2, 3]
    events = wire.converse()
    confirmed = [event for event in events if isinstance(event, Confirmed)]
    assert confirmed[-1].publish_number == 3
    assert all(event.safe for event in confirmed)
    link.send(1, Basic.Consume(0, "q", "me"))
    taken = [event for event in wire.converse() if isinstance(event, Delivery)]
    assert [delivery.body for delivery in taken] == bodies
    assert {delivery.properties for delivery in taken} == {properties}
    assert {(delivery.consumer_tag, delivery.envelope) for delivery in taken} == {(b"me", TO_Q)}
    link.nack(1, taken[0].delivery_tag)
    link.ack(1, taken[2].delivery_tag, multiple=True)
    again = [event for event in wire.converse() if isinstance(event, Delivery)]
    assert [(delivery.body, delivery.redelivered) for delivery in again] == [(b"", True)]
    link.ack(1, again[0].delivery_tag)
    link.close(broker.now)
    wire.converse()
    assert (link.state, link.end_reason) == (State.CLOSED, "")
    assert other.counts("q") == (0, 0)


def test_a_channel_closed_by_the_server_can_be_opened_again() -> None:
    broker = BrokerUnderTest()
    wire = opened(broker)
    wire.link.send(1, Basic.Consume(0, "missing", "me"))
    (closed,) = wire.converse()
    assert isinstance(closed, ChannelClosed)
    assert (closed.code, closed.text) == (404, "NOT_FOUND - no queue 'missing' in vhost '/'")
    wire.link.send(1, Channel.Open())
    (answer,) = wire.converse()
    assert isinstance(answer, MethodCommand)
    assert isinstance(answer.method, Channel.OpenOk)


def test_blocked_and_unblocked() -> None:
    broker = BrokerUnderTest()
    wire = opened(broker)
    broker.core.set_alarm(Alarm.MEMORY, True)
    wire.link.publish(1, TO_Q, b"\x00\x00", b"")
    assert [type(event) for event in wire.converse()] == [Blocked]
    broker.core.set_alarm(Alarm.MEMORY, False)
    broker.turn()
    assert [type(event) for event in wire.converse()] == [Unblocked]


def test_a_wrong_password_is_told_in_the_servers_words() -> None:
    wire = Wire(BrokerUnderTest(), parse_uri("amqp://guest:wrong@localhost"))
    wire.converse()
    assert wire.link.state is State.CLOSED
    assert wire.link.end_reason.startswith("closed by the server: 403 ACCESS_REFUSED")


@pytest.mark.parametrize("mechanism", ["plain", "amqplain"])
def test_mechanisms(mechanism: str) -> None:
    wire = Wire(BrokerUnderTest(), parse_uri(f"amqp://localhost?auth_mechanism={mechanism}"))
    assert [type(event) for event in wire.converse()] == [Opened]


def test_a_mechanism_that_the_server_does_not_have() -> None:
    wire = Wire(BrokerUnderTest(), parse_uri("amqp://localhost?auth_mechanism=external"))
    wire.converse()
    assert wire.link.end_reason == "the server offers none of our mechanisms, only PLAIN AMQPLAIN"


def test_an_unknown_vhost() -> None:
    wire = Wire(BrokerUnderTest(), parse_uri("amqp://localhost/missing"))
    wire.converse()
    assert "530 NOT_ALLOWED - vhost missing not found" in wire.link.end_reason


def test_small_frames() -> None:
    broker = BrokerUnderTest()
    other = broker.client().channel()
    other.queue_declare("q")
    wire = Wire(broker, parse_uri("amqp://localhost?frame_max=4096&heartbeat=0"))
    wire.converse()
    wire.link.send(1, Channel.Open())
    wire.link.publish(1, TO_Q, b"\x00\x00", b"z" * 10_000)
    wire.converse()
    assert wire.link.frame_bytes_max == 4096
    assert other.drain("q") == [b"z" * 10_000]


def test_heartbeats_keep_a_quiet_connection_and_end_a_dead_one() -> None:
    broker = BrokerUnderTest()
    wire = Wire(broker, parse_uri("amqp://localhost?heartbeat=10"))
    wire.converse()
    link = wire.link
    for _ in range(20):
        broker.advance(5)
        link.handle_timer(broker.now)
        wire.converse()
    assert link.state is State.OPEN
    now = broker.now
    for _ in range(4):
        now += 10
        link.handle_timer(now)
    assert link.deadline() is None
    assert link.end_reason == "missed heartbeats: silent for 10 s and more"


def test_a_server_that_never_answers() -> None:
    link = LinkClient(parse_uri("amqp://localhost?connection_timeout=3000"), "/", "s", 100.0)
    assert link.deadline() == 103.0
    link.handle_timer(103.0)
    assert link.end_reason == "the server did not answer in time"
    patient = LinkClient(parse_uri("amqp://localhost?connection_timeout=0"), "/", "s", 100.0)
    assert patient.deadline() is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"AMQP\x03\x01\x00\x00", "speaks another protocol than AMQP 0-9-1"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0a\x00", "a frame does not end with 0xCE"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "octets is too large"),
        (b"\x08\x00\x01\x00\x00\x00\x00\xce", "a frame of type 8, on channel 1"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x63\x00\x01\xce", "unknown method 1 of class 99"),
        (b"\x03\x00\x01\x00\x00\x00\x01x\xce", "a content body came where none was due"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x29\xce", "Connection.OpenOk came in state"),
    ],
)
def test_a_server_that_breaks_the_protocol(answer: bytes, reason: str) -> None:
    if reason.startswith("Connection.OpenOk"):
        answer = b"\x01\x00\x00\x00\x00\x00\x05\x00\x0a\x00\x29\x00\xce"
    link = LinkClient(URI, "/", "s", 0.0)
    link.receive(answer, 0.0)
    assert link.state is State.CLOSED
    assert reason in link.end_reason
    assert link.receive(answer, 0.0) == []
