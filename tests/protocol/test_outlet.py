"""What a channel's outlet writes: the very bytes that pamqp writes, in the right order, counted."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqpd.commands import Basic, Channel, Message, Target, make_message
from amqpd.config import Limits
from amqpd.protocol.connection import Connection
from amqpd.protocol.outlet import LARGE_PIECE_BYTES, ChannelOutlet, Hold
from amqpd.short_string import short_string
from tests.protocol.client import (
    NO_PROPERTIES,
    bodies,
    header,
    named,
    pamqp_method,
    understood,
)

FRAME_MAX = 4096
HEADER_MAX = b"\x80\x00\xff" + b"p" * 255


def make_connection(frame_max: int = FRAME_MAX, **limits: int) -> Connection:
    connection = Connection(Limits(**limits), b"", ("PLAIN",), False, 0.0, [])
    connection.reader.frame_bytes_max = frame_max
    return connection


def make_target(exchange: str = "x", routing_key: str = "k") -> Target:
    envelope = short_string(exchange) + short_string(routing_key)
    return Target(exchange, routing_key, envelope, False, False)


def message(
    octets: bytes, target: Target | None = None, properties: bytes = NO_PROPERTIES
) -> Message:
    return make_message(1, target or make_target(), properties, octets, False, False)


def content(channel: int, sent: Message, frame_max: int = FRAME_MAX) -> bytes:
    return header(channel, len(sent.body), sent.properties) + bodies(
        channel, sent.keep(), frame_max or 1 << 31
    )


def taken(connection: Connection) -> bytes:
    """Everything that is to be sent, which has to be what was counted."""
    data = connection.take_output(1.0)
    assert connection.unsent_bytes == len(data)
    connection.sent(len(data))
    assert connection.unsent_bytes == 0
    return data


names = st.text(max_size=60)
sizes = st.sampled_from(
    [0, 1, FRAME_MAX - 9, FRAME_MAX - 8, FRAME_MAX - 7, 2 * FRAME_MAX - 16, 2 * FRAME_MAX - 15]
) | st.integers(0, 3 * FRAME_MAX)
tags = st.integers(1, (1 << 63) - 1)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    target = make_target(draw(names), draw(names))
    properties = draw(st.sampled_from([NO_PROPERTIES, b"\x10\x00\x02", HEADER_MAX]))
    return message(bytes(draw(sizes)), target, properties)


# -- agreement with pamqp


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    channel=st.integers(1, 65535),
    shared=st.lists(messages(), min_size=1, max_size=3),
    consumer_tags=st.lists(names, min_size=1, max_size=2),
)
def test_every_kind_of_speech_is_pamqp_s(
    data: st.DataObject, channel: int, shared: list[Message], consumer_tags: list[str]
) -> None:
    """Any mixture of them: what an outlet remembers of one must not show in the next."""
    connection = make_connection()
    outlet = ChannelOutlet(connection, channel)
    prefixes = [short_string(tag) for tag in consumer_tags]
    expected = b""
    for _ in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from(["deliver", "get_ok", "return", "ack", "nack", "method"]))
        sent = data.draw(st.sampled_from(shared))
        exchange, routing_key = sent.target.exchange, sent.target.routing_key
        tag, flag = data.draw(tags), data.draw(st.booleans())
        if kind == "deliver":
            number = data.draw(st.integers(0, len(prefixes) - 1))
            outlet.deliver(prefixes[number], tag, flag, sent)
            said = Basic.Deliver("", tag, flag, "x", "")
            named(
                said,
                consumer_tag=consumer_tags[number],
                exchange=exchange,
                routing_key=routing_key,
            )
            expected += pamqp_method(channel, said) + content(channel, sent)
        elif kind == "get_ok":
            count = data.draw(st.integers(0, (1 << 32) - 1))
            outlet.get_ok(tag, flag, count, sent)
            got = named(
                Basic.GetOk(tag, flag, "x", "", count), exchange=exchange, routing_key=routing_key
            )
            expected += pamqp_method(channel, got) + content(channel, sent)
        elif kind == "return":
            outlet.returned(312, "NO_ROUTE", sent)
            back = named(
                Basic.Return(312, "NO_ROUTE", "x", ""), exchange=exchange, routing_key=routing_key
            )
            expected += pamqp_method(channel, back) + content(channel, sent)
        elif kind == "ack":
            outlet.confirm(tag, flag)
            expected += pamqp_method(channel, Basic.Ack(tag, flag))
        elif kind == "nack":
            outlet.refuse(tag, flag)
            # As RabbitMQ says it: to a publisher the flag means nothing.
            expected += pamqp_method(channel, Basic.Nack(tag, flag, True))
        else:
            outlet.method(Basic.CancelOk("c"))
            expected += pamqp_method(channel, Basic.CancelOk("c"))
    assert taken(connection) == expected


@pytest.mark.parametrize("frame_max", [4096, 4097, 131072])
@pytest.mark.parametrize("excess", [-9, -8, -7, 0])
def test_bodies_are_split_at_frame_max(frame_max: int, excess: int) -> None:
    connection = make_connection(frame_max)
    outlet = ChannelOutlet(connection, 3)
    sent = message(random.Random(1).randbytes(frame_max + excess))
    outlet.deliver(short_string("c"), 1, False, sent)
    data = taken(connection)
    assert data == pamqp_method(3, Basic.Deliver("c", 1, False, "x", "k")) + content(
        3, sent, frame_max
    )
    assert understood(data)[0][-1] == sent.body


def test_body_is_whole_without_a_frame_max() -> None:
    connection = make_connection(0)
    sent = message(bytes(200_000))
    ChannelOutlet(connection, 3).get_ok(1, False, 0, sent)
    method = pamqp_method(3, Basic.GetOk(1, False, "x", "k", 0))
    assert taken(connection) == method + content(3, sent, 0)


def test_empty_body_has_no_body_frame() -> None:
    connection = make_connection()
    ChannelOutlet(connection, 1).deliver(short_string("c"), 1, True, message(b""))
    method = pamqp_method(1, Basic.Deliver("c", 1, True, "x", "k"))
    assert taken(connection) == method + header(1, 0)


def test_names_and_properties_leave_as_they_came() -> None:
    connection = make_connection()
    target = Target("?", "?", b"\x02\xff\xfe\x01\x00", False, False)
    properties = b"\x00\x02"  # a flag that means nothing
    ChannelOutlet(connection, 1).deliver(
        short_string("c"), 1, False, message(b"x", target, properties)
    )
    ((*_, exchange, routing_key, heard_properties, octets),) = understood(taken(connection))
    assert exchange.encode("utf-8", "surrogateescape") == b"\xff\xfe"
    assert (routing_key, heard_properties, octets) == ("\x00", properties, b"x")


# -- counting


@settings(max_examples=100, deadline=None)
@given(sent=st.lists(st.tuples(messages(), st.integers(0, 3)), max_size=5))
def test_unsent_bytes_are_the_octets_to_be_sent(sent: list[tuple[Message, int]]) -> None:
    connection = make_connection()
    outlet = ChannelOutlet(connection, 1)
    prefix = short_string("c")
    for one, kind in sent:
        if kind == 0:
            outlet.deliver(prefix, 1, False, one)
        elif kind == 1:
            outlet.get_ok(1, False, 0, one)
        elif kind == 2:
            outlet.returned(312, "NO_ROUTE", one)
        else:
            connection.send_method(0, Channel.OpenOk())
        assert connection.unsent_bytes == sum(map(len, connection.pieces))
    taken(connection)


def test_congestion_begins_above_the_limit_and_ends_at_it() -> None:
    connection = make_connection(unsent_bytes_max=100, unsent_replies_bytes_max=200)
    outlet = ChannelOutlet(connection, 1)
    ack_octets = len(pamqp_method(1, Basic.Ack(1)))
    count = 0
    while connection.unsent_bytes <= 100:
        assert not outlet.congested
        outlet.confirm(1, False)
        count += 1
    assert outlet.congested
    assert not outlet.saturated
    while connection.unsent_bytes <= 200:
        outlet.confirm(1, False)
        count += 1
    assert outlet.saturated
    data = connection.take_output(0.0)
    assert len(data) == count * ack_octets
    # It counts until the peer has taken it.
    assert outlet.congested
    assert not connection.sent(len(data) - 101)
    assert connection.sent(1)
    assert not outlet.congested
    assert not connection.sent(100)
    assert connection.unsent_bytes == 0


# -- waking


def test_connection_speaks_up_once_per_turn() -> None:
    connection = make_connection()
    speaking = connection._speaking
    first, second = ChannelOutlet(connection, 1), ChannelOutlet(connection, 2)
    first.confirm(1, False)
    second.deliver(short_string("c"), 1, False, message(b"x"))
    connection.send_method(0, Channel.OpenOk())
    assert speaking == [connection]
    taken(connection)
    second.deliver(short_string("c"), 1, False, message(b"x"))
    assert speaking == [connection, connection]


# -- holding back


class Speech:
    """An outlet whose words are numbered acks, and what of them has come out."""

    def __init__(self) -> None:
        self.connection = make_connection()
        self.outlet = ChannelOutlet(self.connection, 1)
        self.spoken = 0

    def say(self, count: int = 1) -> None:
        for _ in range(count):
            self.spoken += 1
            self.outlet.confirm(self.spoken, False)

    def heard(self) -> list[int]:
        data = self.connection.take_output(0.0)
        self.connection.sent(len(data))
        return [said[2] for said in understood(data)]


def test_what_is_held_waits_for_its_release() -> None:
    speech = Speech()
    speech.say()
    mark = speech.outlet.hold()
    speech.say(2)
    assert speech.heard() == [1]
    assert speech.heard() == []
    speech.outlet.release(mark)
    assert speech.heard() == [2, 3]
    speech.say()
    assert speech.heard() == [4]


def test_what_is_held_comes_before_what_is_said_after_its_release() -> None:
    speech = Speech()
    mark = speech.outlet.hold()
    speech.say()
    speech.outlet.release(mark)
    speech.say()
    assert speech.heard() == [1, 2]


def test_a_release_reaches_to_the_next_mark() -> None:
    speech = Speech()
    first = speech.outlet.hold()
    speech.say()
    second = speech.outlet.hold()
    speech.say()
    third = speech.outlet.hold()
    speech.say()
    speech.outlet.release(first)
    assert speech.heard() == [1]
    speech.say()
    speech.outlet.release(third)
    assert speech.heard() == []
    speech.outlet.release(second)
    assert speech.heard() == [2, 3, 4]


def test_a_release_out_of_order_waits_for_the_earlier_mark() -> None:
    speech = Speech()
    first = speech.outlet.hold()
    speech.say()
    second = speech.outlet.hold()
    speech.say()
    speech.outlet.release(second)
    assert speech.heard() == []
    speech.say()
    speech.outlet.release(first)
    assert speech.heard() == [1, 2, 3]
    speech.say()
    assert speech.heard() == [4]


def test_an_empty_hold_is_no_harm() -> None:
    speech = Speech()
    marks = [speech.outlet.hold() for _ in range(3)]
    for mark in reversed(marks):
        speech.outlet.release(mark)
    assert speech.heard() == []
    speech.say()
    assert speech.heard() == [1]


def test_a_release_wakes_the_connection() -> None:
    speech = Speech()
    mark = speech.outlet.hold()
    speech.say()
    speech.connection._speaking.clear()
    speech.outlet.release(mark)
    assert speech.connection._speaking
    assert speech.heard() == [1]


def test_other_channels_go_on() -> None:
    speech = Speech()
    other = ChannelOutlet(speech.connection, 2)
    mark = speech.outlet.hold()
    speech.say()
    other.confirm(77, False)
    assert speech.heard() == [77]
    speech.outlet.release(mark)
    other.confirm(78, False)
    assert speech.heard() == [1, 78]


def test_all_kinds_of_speech_can_be_held() -> None:
    connection = make_connection()
    outlet = ChannelOutlet(connection, 1)
    mark = outlet.hold()
    sent = message(b"x" * 5000)
    outlet.method(Channel.OpenOk())
    outlet.deliver(short_string("c"), 1, False, sent)
    outlet.get_ok(2, False, 0, sent)
    outlet.returned(312, "NO_ROUTE", sent)
    outlet.refuse(3, False)
    assert connection.take_output(0.0) == b""
    outlet.release(mark)
    assert [said[1] for said in understood(taken(connection))] == [
        "channel.open_ok",
        "basic.deliver",
        "basic.get_ok",
        "basic.return",
        "basic.nack",
    ]


def test_what_a_closed_outlet_held_is_never_sent() -> None:
    speech = Speech()
    mark = speech.outlet.hold()
    speech.say()
    second = speech.outlet.hold()
    speech.say()
    speech.outlet.close()
    speech.outlet.release(mark)
    speech.outlet.release(second)
    assert speech.heard() == []


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(st.integers(0, 9), max_size=30))
def test_any_holds_and_releases_keep_the_order(steps: list[int]) -> None:
    """Against the rule itself: what lies before the first mark still held has come out."""
    speech = Speech()
    marks: list[tuple[Hold, int]] = []
    released: set[Hold] = set()
    heard: list[int] = []
    for step in steps:
        held = [(mark, since) for mark, since in marks if mark not in released]
        if step < 5:
            speech.say()
        elif step < 7:
            marks.append((speech.outlet.hold(), speech.spoken))
        elif held:
            mark, _ = held[step % len(held)]
            released.add(mark)
            speech.outlet.release(mark)
        heard += speech.heard()
        through = min(
            (since for mark, since in marks if mark not in released), default=speech.spoken
        )
        assert heard == list(range(1, through + 1))
    for mark, _ in marks:
        if mark not in released:
            speech.outlet.release(mark)
    heard += speech.heard()
    assert heard == list(range(1, speech.spoken + 1))
    assert speech.connection.unsent_bytes == 0


# -- in pieces


def test_large_bodies_are_sent_without_a_copy() -> None:
    connection = make_connection(0)
    outlet = ChannelOutlet(connection, 1)
    bodies = [bytes(LARGE_PIECE_BYTES), b"small", bytes(LARGE_PIECE_BYTES + 1)]
    for tag, body in enumerate(bodies):
        outlet.deliver(b"\x01t", tag, False, message(body))
    pieces = connection.take_pieces(1.0, 1 << 30)
    large = [piece for piece in pieces if len(piece) >= LARGE_PIECE_BYTES]
    assert large[0] is bodies[0]
    assert large[1] is bodies[2]
    assert len(pieces) == 5
    assert sum(map(len, pieces)) == connection.unsent_bytes
    assert connection.take_pieces(1.0, 1 << 30) == []


@given(
    sizes=st.lists(st.sampled_from([0, 100, LARGE_PIECE_BYTES, 200_000]), min_size=1, max_size=6),
    octets_max=st.sampled_from([1, 50_000, 1 << 30]),
)
def test_pieces_are_what_is_sent_as_one(sizes: list[int], octets_max: int) -> None:
    whole, cut = make_connection(131072), make_connection(131072)
    for connection in (whole, cut):
        outlet = ChannelOutlet(connection, 1)
        for tag, size in enumerate(sizes):
            outlet.deliver(b"\x01t", tag, False, message(b"%d" % tag * size))
    sent = b""
    while pieces := cut.take_pieces(1.0, octets_max):
        octets = sum(map(len, pieces))
        assert octets <= octets_max + 131072
        cut.sent(octets)
        sent += b"".join(pieces)
    assert cut.unsent_bytes == 0
    assert sent == taken(whole)
