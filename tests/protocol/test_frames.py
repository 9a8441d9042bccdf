"""The frame reader: agreement with pamqp, indifference to how bytes are cut, and every fault."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp.commands import Basic as PamqpBasic

from amqpd.commands import (
    ACK,
    DISCARD,
    REQUEUE,
    Basic,
    Channel,
    Frame,
    Message,
    MethodCommand,
    Oversized,
    Queue,
    Settle,
)
from amqpd.config import Limits
from amqpd.errors import AMQPException, ConnectionException
from amqpd.protocol.frames import ACKS_TOGETHER_MAX, Command, FrameReader
from amqpd.protocol.methods import method_frame, method_ids, method_name
from amqpd.wire.properties import delivery_mode, has_property
from amqpd.wire.tables import encode_table
from tests.protocol.client import (
    NO_PROPERTIES,
    bodies,
    body,
    frame,
    header,
    named,
    pamqp_method,
    pamqp_properties,
    publish,
)

FRAME_MAX = 4096
Told = tuple[Any, ...]
ACKED = (False, ACK, (60, 80))
"""What is told of the ack of one delivery, behind its tag."""


def make_reader(*, strict: bool = False, frame_max: int = FRAME_MAX, **limits: int) -> FrameReader:
    """A reader as it is once the connection is open."""
    reader = FrameReader(Limits(**limits), strict)
    reader.frame_bytes_max = frame_max
    reader.running = True
    reader.stepwise = False
    return reader


def told(command: Command) -> Told:
    """A command as a value that compares."""
    if isinstance(command, Message):
        target = command.target
        return (
            "message",
            command.channel,
            target.exchange,
            target.routing_key,
            target.mandatory,
            target.immediate,
            target.envelope,
            command.properties,
            command.body,
            command.persistent,
            command.special,
        )
    if isinstance(command, Settle):
        return (
            "settle",
            command.channel,
            command.last_tag,
            command.multiple,
            command.outcome,
            command.method,
        )
    if isinstance(command, MethodCommand):
        method = command.method
        return (method_name(method), command.channel, list(method), command.arguments)
    if isinstance(command, Oversized):
        return ("oversized", command.channel, command.target.routing_key, command.body_size)
    return ("fault", command.code, command.reply_text, (command.class_id, command.method_id))


def read(reader: FrameReader, *chunks: bytes) -> list[Told]:
    """Everything that the chunks say; a turn for each, with as many calls as the reader asks."""
    commands: list[Command] = []
    for chunk in chunks:
        commands += reader.receive(chunk)
        calls = 0
        while reader.has_more:
            commands += reader.receive(b"")
            calls += 1
            assert calls <= sum(map(len, chunks)) + 1, "the reader asks for ever"
    return [said for command in commands for said in (*acks_before(command), told(command))]


def acks_before(command: Command) -> list[Told]:
    """What a command says besides: acks that came one behind the other are one."""
    if not isinstance(command, Settle):
        return []
    tags = range(command.delivery_tag, command.last_tag)
    return [("settle", command.channel, tag, *ACKED) for tag in tags]


def read_to_fault(reader: FrameReader, *chunks: bytes) -> list[Told]:
    """As `read`, up to the first fault: what comes after it nobody acts on."""
    heard = read(reader, *chunks)
    kinds = [said[0] for said in heard]
    return heard[: kinds.index("fault") + 1] if "fault" in kinds else heard


def fault_of(reader: FrameReader, *chunks: bytes) -> Told:
    """The one fault, and nothing else."""
    heard = read(reader, *chunks)
    assert heard, "no fault"
    assert heard[0][0] == "fault", heard
    return heard[0][1:]


def method(channel: int, said: Frame) -> bytes:
    return method_frame(channel, said)


def short(octets: bytes) -> bytes:
    return bytes((len(octets),)) + octets


# -- strategies

names = st.text(max_size=20) | st.text("ab.*#", min_size=1, max_size=8)
tables = st.dictionaries(
    st.text(max_size=8),
    st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text(max_size=8) | st.none(),
    max_size=3,
)
properties_values = st.fixed_dictionaries(
    {},
    optional={
        "content_type": names,
        "content_encoding": names,
        "headers": tables,
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 9),
        "correlation_id": names,
        "reply_to": names,
        "expiration": st.integers(0, 10**6).map(str),
        "message_id": names,
        "message_type": names,
        "user_id": names,
        "app_id": names,
    },
)
sizes = st.sampled_from(
    [0, 1, FRAME_MAX - 9, FRAME_MAX - 8, FRAME_MAX - 7, 2 * (FRAME_MAX - 8), 9000]
) | st.integers(0, 300)


@st.composite
def publishes(draw: st.DrawFn, channel: int) -> tuple[list[bytes], list[Told]]:
    """The frames of a publish, all made by pamqp (bodies apart), and what they have to say."""
    exchange, routing_key = draw(names), draw(names)
    mandatory, immediate = draw(st.booleans()), draw(st.booleans())
    values: dict[str, Any] = draw(properties_values)
    properties = pamqp_properties(PamqpBasic.Properties(**values))
    size = draw(sizes)
    octets = draw(st.binary(min_size=1, max_size=4)) * size
    octets = octets[:size]
    publish_method = named(
        Basic.Publish(mandatory=mandatory, immediate=immediate),
        exchange=exchange,
        routing_key=routing_key,
    )
    frames = [pamqp_method(channel, publish_method), header(channel, size, properties)]
    step = draw(st.sampled_from([FRAME_MAX - 8, 1000]))
    frames += [body(channel, octets[at : at + step]) for at in range(0, size, step)]
    flags = int.from_bytes(properties[:2], "big")
    heard = (
        "message",
        channel,
        exchange,
        routing_key,
        mandatory,
        immediate,
        short(exchange.encode()) + short(routing_key.encode()),
        properties,
        octets,
        values.get("delivery_mode") == 2,
        flags & (0x2000 | 0x0200 | 0x0100 | 0x0010) != 0,
    )
    return frames, [heard]


@st.composite
def settlements(draw: st.DrawFn, channel: int) -> tuple[list[bytes], list[Told]]:
    tag = draw(st.integers(0, (1 << 63) - 1))
    flag, requeue = draw(st.booleans()), draw(st.booleans())
    outcome = REQUEUE if requeue else DISCARD
    kind = draw(st.sampled_from(["ack", "nack", "reject"]))
    said: Frame
    if kind == "ack":
        said = Basic.Ack(tag, flag)
        heard = ("settle", channel, tag, flag, ACK, (60, 80))
    elif kind == "nack":
        said = Basic.Nack(tag, flag, requeue)
        heard = ("settle", channel, tag, flag, outcome, (60, 120))
    else:
        said = Basic.Reject(tag, requeue)
        heard = ("settle", channel, tag, False, outcome, (60, 90))
    return [pamqp_method(channel, said)], [heard]


@st.composite
def acks_in_a_row(draw: st.DrawFn, channel: int) -> list[tuple[list[bytes], list[Told]]]:
    """Of one delivery each, of tag after tag; some across the border of the tag's lower half."""
    first = draw(st.integers(0, 300) | st.integers((1 << 32) - 5, (1 << 32) + 5))
    tags = range(first, first + draw(st.integers(2, 8)))
    return [
        ([pamqp_method(channel, Basic.Ack(tag, False))], [("settle", channel, tag, *ACKED)])
        for tag in tags
    ]


@st.composite
def other_methods(draw: st.DrawFn, channel: int) -> tuple[list[bytes], list[Told]]:
    said: Frame = draw(
        st.sampled_from(
            [
                Channel.Open(),
                Queue.Declare(queue="q", durable=True),
                Basic.Get(queue="q"),
                Basic.Qos(prefetch_count=3),
                Channel.Close(200, "bye", 0, 0),
            ]
        )
    )
    octets = method(channel, said)
    (heard,) = read(make_reader(), octets)
    return [octets], [heard]


def heartbeat() -> tuple[list[bytes], list[Told]]:
    return [frame(8, 0, b"")], []


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Told]]:
    """Several channels interleaved frame by frame; what is heard comes as each part completes."""
    channels = draw(st.lists(st.integers(1, 65535), min_size=1, max_size=3, unique=True))
    pending: list[list[tuple[list[bytes], list[Told]]]] = []
    for channel in channels:
        part = st.one_of(
            publishes(channel), settlements(channel), other_methods(channel), st.builds(heartbeat)
        )
        some = st.lists(part, max_size=2) | acks_in_a_row(channel)
        pending.append([each for parts in draw(st.lists(some, max_size=3)) for each in parts])
    order = random.Random(draw(st.integers(0, 1 << 32)))
    data = b""
    heard: list[Told] = []
    while any(pending):
        parts = order.choice([parts for parts in pending if parts])
        frames, says = parts[0]
        data += frames.pop(0)
        if not frames:
            heard += says
            parts.pop(0)
    return data, heard


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    points = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [
        data[start:stop] for start, stop in zip([0, *points], [*points, len(data)], strict=True)
    ]


# -- agreement with pamqp


@settings(max_examples=150, deadline=None)
@given(conversation=conversations())
def test_what_pamqp_wrote_is_read_in_one_chunk(conversation: tuple[bytes, list[Told]]) -> None:
    data, heard = conversation
    assert read(make_reader(), data) == heard


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_cuts_give_the_same_commands(data: st.DataObject) -> None:
    octets, heard = data.draw(conversations())
    chunks = data.draw(cuts(octets))
    assert read(make_reader(), *chunks) == heard


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_cuts_give_the_same_commands_up_to_a_fault(data: st.DataObject) -> None:
    """With some octets changed, so that a fault comes at any place."""
    octets = bytearray(data.draw(conversations())[0])
    for _ in range(data.draw(st.integers(0, 3))):
        if octets:
            octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    whole = bytes(octets)
    chunks = data.draw(cuts(whole))
    assert read_to_fault(make_reader(), *chunks) == read_to_fault(make_reader(), whole)


@settings(max_examples=100, deadline=None)
@given(values=properties_values)
def test_persistence_and_rules_are_read_from_any_properties(values: dict[str, Any]) -> None:
    properties = pamqp_properties(PamqpBasic.Properties(**values))
    (message,) = make_reader().receive(publish(1, "x", "k", b"m", properties))
    assert isinstance(message, Message)
    assert message.persistent == (delivery_mode(properties) == 2)
    rules = 0x2000, 0x0200, 0x0100, 0x0010
    assert message.special == any(has_property(properties, flag) for flag in rules)


def test_names_of_a_publish_may_be_any_octets() -> None:
    payload = b"\x00\x3c\x00\x28\x00\x00" + short(b"\xff\x00") + short(b"\xfe" * 255) + b"\x00"
    (message,) = make_reader().receive(frame(1, 1, payload) + header(1, 0))
    assert isinstance(message, Message)
    assert message.target.exchange.encode("utf-8", "surrogateescape") == b"\xff\x00"
    assert message.target.routing_key.encode("utf-8", "surrogateescape") == b"\xfe" * 255
    assert message.envelope == payload[6:-1]


# -- acks in a row


def spans(*frames: bytes) -> list[tuple[int, int, int]]:
    """Channel, first and last tag of each command."""
    commands = make_reader().receive(b"".join(frames))
    assert all(isinstance(command, Settle) for command in commands)
    return [
        (command.channel, command.delivery_tag, command.last_tag)
        for command in commands
        if isinstance(command, Settle)
    ]


def ack(tag: int, channel: int = 1, *, multiple: bool = False) -> bytes:
    return method(channel, Basic.Ack(tag, multiple))


def test_acks_of_tag_after_tag_are_one_command() -> None:
    assert spans(ack(7), ack(8), ack(9)) == [(1, 7, 9)]


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param((ack(7), ack(9)), id="a tag is missing"),
        pytest.param((ack(7), ack(7)), id="the same tag again"),
        pytest.param((ack(8), ack(7)), id="backwards"),
        pytest.param((ack(7), ack(8, channel=2)), id="of another channel"),
        pytest.param((ack(7), ack(8, multiple=True)), id="of all before it, too"),
        pytest.param((ack(7, multiple=True), ack(8)), id="behind one of all before it"),
        pytest.param((ack(7), method(1, Basic.Reject(8, False))), id="a reject"),
        pytest.param((ack(0xFFFFFFFF), ack(0x1_0000_0000)), id="the lower half is full"),
        pytest.param((ack(0xFFFFFFFF), ack(0)), id="the lower half begins again"),
        pytest.param((ack(7), ack(8 + (1 << 32))), id="another upper half"),
    ],
)
def test_other_acks_are_commands_of_their_own(frames: tuple[bytes, ...]) -> None:
    assert [first == last for _, first, last in spans(*frames)] == [True, True]


def test_acks_in_a_row_are_cut_where_a_peer_may_have_had_its_turn() -> None:
    many = [ack(tag) for tag in range(1, 2 * ACKS_TOGETHER_MAX + 2)]
    most = ACKS_TOGETHER_MAX
    assert spans(*many) == [(1, 1, most), (1, most + 1, 2 * most), (1, 2 * most + 1, 2 * most + 1)]


def test_an_ack_that_is_no_frame_is_a_fault_behind_those_before_it() -> None:
    broken = bytearray(ack(9))
    broken[-1] = 0
    first, second, fault, *_ = read(make_reader(), ack(7) + ack(8) + bytes(broken))
    assert [first[2], second[2], fault[0]] == [7, 8, "fault"]


# -- cutting, exhaustively


def rich_conversation() -> bytes:
    """Everything that the reader has a way of its own for."""
    persistent = pamqp_properties(PamqpBasic.Properties(delivery_mode=2, headers={"a": 1}))
    return b"".join(
        (
            method(1, Channel.Open()),
            publish(1, "", "q", b""),
            publish(1, "x", "k", b"hello", persistent, mandatory=True),
            frame(8, 0, b""),
            pamqp_method(2, named(Basic.Publish(), exchange="y", routing_key="z")),
            publish(1, "", "q", b"between"),
            header(2, 6, persistent),
            pamqp_method(1, Basic.Ack(1, True)),
            body(2, b"two"),
            body(2, b""),
            pamqp_method(3, Basic.Nack(7, False, True)),
            body(2, b"bit"),
            pamqp_method(1, Basic.Reject(1 << 40, False)),
            method(0, named(Queue.Purge(queue="q"))),
            publish(1, "", "q", b"\xce" * 30, frame_max=18),
            method(1, Queue.Declare(queue="q")),
        )
    )


def test_every_single_cut_gives_the_same_commands() -> None:
    data = rich_conversation()
    heard = read(make_reader(), data)
    assert [said[0] for said in heard] == [
        "channel.open",
        "message",
        "message",
        "message",
        "settle",
        "settle",
        "message",
        "settle",
        "queue.purge",
        "message",
        "queue.declare",
    ]
    for cut in range(len(data) + 1):
        assert read(make_reader(), data[:cut], data[cut:]) == heard, cut


def test_octet_by_octet_gives_the_same_commands() -> None:
    data = rich_conversation()
    octets = [data[at : at + 1] for at in range(len(data))]
    assert read(make_reader(), *octets) == read(make_reader(), data)


def test_commands_come_as_soon_as_their_last_octet() -> None:
    reader = make_reader()
    data = publish(1, "", "q", b"hello")
    assert read(reader, data[:-1]) == []
    assert [said[0] for said in read(reader, data[-1:])] == ["message"]


def test_stepwise_reading_returns_one_method_at_a_time() -> None:
    reader = FrameReader(Limits(), False)
    data = method(0, Channel.Open()) + method(0, Channel.CloseOk()) + method(0, Channel.Open())[:5]
    assert [told(command)[0] for command in reader.receive(data)] == ["channel.open"]
    assert reader.has_more
    assert [told(command)[0] for command in reader.receive(b"")] == ["channel.close_ok"]
    assert reader.receive(b"") == []
    assert not reader.has_more
    rest = method(0, Channel.Open())[5:]
    assert [told(command)[0] for command in reader.receive(rest)] == ["channel.open"]


# -- the faults of the reference, section 3: what, and how it is answered

OPEN = method(1, Channel.Open())
PUBLISH = pamqp_method(1, named(Basic.Publish(), exchange="", routing_key="q"))
NO_IDS = (0, 0)


def bare_method(class_id: int, method_id: int, arguments: bytes = b"", channel: int = 1) -> bytes:
    head = class_id.to_bytes(2, "big") + method_id.to_bytes(2, "big")
    return frame(1, channel, head + arguments)


HEADER_EXPECTED = (
    505,
    "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
    (60, 40),
)
BODY_EXPECTED = (
    505,
    "UNEXPECTED_FRAME - expected content body, got non content body frame instead",
    (60, 40),
)
METHOD_EXPECTED = (
    505,
    "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
    NO_IDS,
)

LOSING_FAULTS = {
    "end octet": (
        frame(1, 1, bytes((0, 20, 0, 10, 0)), end=0),
        (
            501,
            "FRAME_ERROR - type 1, all octets = <<0,20,0,10,0>>: {invalid_frame_end_marker,0}",
            NO_IDS,
        ),
    ),
    "end octet of a long frame": (
        frame(1, 1, bytes(range(17)), end=0xFF),
        (
            501,
            "FRAME_ERROR - type 1, first 16 octets = <<0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15>>: "
            "{invalid_frame_end_marker,255}",
            NO_IDS,
        ),
    ),
    "end octet of a header": (
        PUBLISH + frame(2, 1, header(1, 0)[7:-1], end=1),
        (
            501,
            "FRAME_ERROR - type 2, all octets = <<0,60,0,0,0,0,0,0,0,0,0,0,0,0>>: "
            "{invalid_frame_end_marker,1}",
            NO_IDS,
        ),
    ),
    "end octet of a body": (
        PUBLISH + header(1, 3) + frame(3, 1, b"abc", end=2),
        (
            501,
            'FRAME_ERROR - type 3, all octets = <<"abc">>: {invalid_frame_end_marker,2}',
            NO_IDS,
        ),
    ),
    "too large": (
        frame(3, 1, bytes(FRAME_MAX + 1)),
        (501, "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4097,4088}", NO_IDS),
    ),
    "too large method": (
        frame(1, 1, bytes(FRAME_MAX + 1)),
        (501, "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4097,4088}", NO_IDS),
    ),
    "too large header": (
        PUBLISH + frame(2, 1, bytes(FRAME_MAX + 1)),
        (501, "FRAME_ERROR - type 2, all octets = <<>>: {frame_too_large,4097,4088}", NO_IDS),
    ),
}

KEEPING_FAULTS = {
    "unknown type": (
        frame(4, 1, b""),
        (501, "FRAME_ERROR - type 4, all octets = <<>>: unknown_frame", NO_IDS),
    ),
    "unknown type of much": (
        frame(255, 0, bytes(20)),
        (
            501,
            "FRAME_ERROR - type 255, first 16 octets = "
            "<<0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0>>: unknown_frame",
            NO_IDS,
        ),
    ),
    "method without its ids": (
        frame(1, 1, b"\x00\x0a\x00"),
        (501, "FRAME_ERROR - type 1, all octets = <<0,10,0>>: unknown_frame", NO_IDS),
    ),
    "empty method": (
        frame(1, 0, b""),
        (501, "FRAME_ERROR - type 1, all octets = <<>>: unknown_frame", NO_IDS),
    ),
    "header too short": (
        PUBLISH + frame(2, 1, b"\x00\x3c"),
        (501, "FRAME_ERROR - type 2, all octets = <<0,60>>: unknown_frame", NO_IDS),
    ),
    "heartbeat with payload": (
        frame(8, 0, b"abc"),
        (501, 'FRAME_ERROR - type 8, all octets = <<"abc">>: unknown_frame', NO_IDS),
    ),
    "heartbeat on a channel": (
        frame(8, 1, b""),
        (505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", NO_IDS),
    ),
    "header on channel 0": (
        header(0, 0),
        (
            505,
            "UNEXPECTED_FRAME - type 2, all octets = <<0,60,0,0,0,0,0,0,0,0,0,0,0,0>>",
            NO_IDS,
        ),
    ),
    "body on channel 0": (
        body(0, b"abc"),
        (505, 'UNEXPECTED_FRAME - type 3, all octets = <<"abc">>', NO_IDS),
    ),
    "header for another class": (
        PUBLISH + header(1, 0, class_id=50),
        (
            505,
            "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead",
            (60, 40),
        ),
    ),
    "weight": (PUBLISH + header(1, 0, weight=1), HEADER_EXPECTED),
    "publish instead of a header": (PUBLISH + PUBLISH, HEADER_EXPECTED),
    "ack instead of a header": (PUBLISH + pamqp_method(1, Basic.Ack(1)), HEADER_EXPECTED),
    "nack instead of a header": (PUBLISH + pamqp_method(1, Basic.Nack(1)), HEADER_EXPECTED),
    "method instead of a header": (
        PUBLISH + method(1, Channel.Close(200, "", 0, 0)),
        HEADER_EXPECTED,
    ),
    "body instead of a header": (PUBLISH + body(1, b"x"), HEADER_EXPECTED),
    "header instead of a body": (PUBLISH + header(1, 1) + header(1, 1), BODY_EXPECTED),
    "publish instead of a body": (PUBLISH + header(1, 1) + PUBLISH, BODY_EXPECTED),
    "ack instead of a body": (
        PUBLISH + header(1, 1) + pamqp_method(1, Basic.Ack(1)),
        BODY_EXPECTED,
    ),
    "method instead of a body": (
        PUBLISH + header(1, 2) + body(1, b"x") + method(1, Basic.Get(queue="q")),
        BODY_EXPECTED,
    ),
    "stray header": (header(1, 0), METHOD_EXPECTED),
    "stray body": (body(1, b"x"), METHOD_EXPECTED),
    "body of an empty message": (
        PUBLISH + header(1, 1) + body(1, b"xy"),
        BODY_EXPECTED,
    ),
    "unknown method": (
        bare_method(60, 99),
        (503, "COMMAND_INVALID - unknown method 99 of class 60", (60, 99)),
    ),
    "unknown class": (
        bare_method(7, 10, channel=0),
        (503, "COMMAND_INVALID - unknown method 10 of class 7", (7, 10)),
    ),
    "arguments cut off": (
        bare_method(60, 70, b"\x00\x00"),
        (501, "FRAME_ERROR - cannot decode <<0,0>>", (60, 70)),
    ),
    "arguments of an ack cut off": (
        bare_method(60, 80, b"\x00\x00"),
        (501, "FRAME_ERROR - cannot decode <<0,0>>", (60, 80)),
    ),
    "octets left over": (
        bare_method(20, 10, b"\x00\x01"),
        (501, "FRAME_ERROR - cannot decode <<0,1>>", (20, 10)),
    ),
    "publish cut off": (
        bare_method(60, 40, b"\x00\x00\x05ab"),
        (501, "FRAME_ERROR - cannot decode <<0,0,5,97,98>>", (60, 40)),
    ),
    "publish without anything": (
        bare_method(60, 40),
        (501, "FRAME_ERROR - cannot decode <<>>", (60, 40)),
    ),
    "publish with octets left over": (
        bare_method(60, 40, b"\x00\x00\x00\x00\x00\x00"),
        (501, "FRAME_ERROR - cannot decode <<0,0,0,0,0,0>>", (60, 40)),
    ),
    "table cut off": (
        bare_method(50, 10, b"\x00\x00\x01q\x00\x00\x00\x00\x05"),
        (501, "FRAME_ERROR - cannot decode <<0,0,1,113,0,0,0,0,5>>", (50, 10)),
    ),
    "unknown type octet": (
        bare_method(50, 10, b"\x00\x00\x01q\x00\x00\x00\x00\x03\x01aU"),
        (501, "FRAME_ERROR - cannot decode <<0,0,1,113,0,0,0,0,3,1,97,85>>", (50, 10)),
    ),
    "not UTF-8": (
        bare_method(50, 30, b"\x00\x00" + short(b"\xff") + b"\x00"),
        (501, "FRAME_ERROR - Malformed UTF-8 in shortstr", NO_IDS),
    ),
    "properties cut off": (
        PUBLISH + header(1, 0, b"\x80\x00"),
        (501, "FRAME_ERROR - cannot decode properties <<128,0>>", (60, 40)),
    ),
    "properties with octets left over": (
        PUBLISH + header(1, 0, b"\x00\x00\x00"),
        (501, "FRAME_ERROR - cannot decode properties <<0,0,0>>", (60, 40)),
    ),
    "properties with a second word of flags": (
        PUBLISH + header(1, 0, b"\x00\x01\x00\x00"),
        (501, "FRAME_ERROR - cannot decode properties <<0,1,0,0>>", (60, 40)),
    ),
    "properties cut off, and a body": (
        PUBLISH + header(1, 1, b"\x10\x00") + body(1, b"x"),
        (501, "FRAME_ERROR - cannot decode properties <<16,0>>", (60, 40)),
    ),
}


@pytest.mark.parametrize("name", [*LOSING_FAULTS, *KEEPING_FAULTS])
def test_fault_has_its_code_text_and_ids(name: str) -> None:
    data, fault = (LOSING_FAULTS | KEEPING_FAULTS)[name]
    assert fault_of(make_reader(), data) == fault


@pytest.mark.parametrize("name", [*LOSING_FAULTS, *KEEPING_FAULTS])
def test_fault_comes_after_what_came_before_it_and_wherever_the_bytes_are_cut(name: str) -> None:
    data, fault = (LOSING_FAULTS | KEEPING_FAULTS)[name]
    before = method(2, Channel.Open()) + publish(2, "", "q", b"before")
    whole = before + data
    expected = [*read(make_reader(), before), ("fault", *fault)]
    assert [said[0] for said in expected] == ["channel.open", "message", "fault"]
    assert read_to_fault(make_reader(), whole) == expected
    for cut in range(len(before), min(len(whole), len(before) + 60)):
        assert read_to_fault(make_reader(), whole[:cut], whole[cut:]) == expected, cut


@pytest.mark.parametrize("name", KEEPING_FAULTS)
def test_reading_goes_on_after_a_fault_within_a_frame(name: str) -> None:
    """close-ok has to be understood behind it."""
    data, _ = KEEPING_FAULTS[name]
    close_ok = bare_method(10, 51, channel=0)
    heard = read(make_reader(), data + close_ok)
    assert heard[0][0] == "fault"
    assert heard[-1][:2] == ("connection.close_ok", 0)
    reader = make_reader()
    read(reader, data)
    assert [said[:2] for said in read(reader, close_ok)] == [("connection.close_ok", 0)]


@pytest.mark.parametrize("name", LOSING_FAULTS)
def test_reading_stops_after_a_fault_that_loses_the_framing(name: str) -> None:
    data, _ = LOSING_FAULTS[name]
    reader = make_reader()
    assert len(read(reader, data + OPEN)) == 1
    assert not reader.has_more
    assert read(reader, OPEN, OPEN) == []


def test_frame_too_large_is_refused_by_its_first_octets() -> None:
    reader = make_reader()
    data = frame(3, 1, bytes(1 << 20))
    assert fault_of(reader, data[:8])[:1] == (501,)


def test_frame_too_large_is_not_waited_for_however_it_begins() -> None:
    """Seven octets are the whole of a frame's header: none of its payload may be kept."""
    reader = make_reader()
    huge = b"\x03\x00\x01\xff\xff\xff\xff"
    assert read(reader, huge) == []
    assert fault_of(reader, b"\x00") == (
        501,
        "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4294967295,4088}",
        NO_IDS,
    )


def test_payload_may_be_eight_octets_larger_than_frame_max_allows() -> None:
    data = PUBLISH + header(1, FRAME_MAX) + body(1, bytes(FRAME_MAX))
    assert [said[0] for said in read(make_reader(), data)] == ["message"]
    # The same without the short cut: a frame of its own for each part of the body.
    data = PUBLISH + header(1, 2 * FRAME_MAX) + body(1, bytes(FRAME_MAX)) * 2
    assert [said[0] for said in read(make_reader(), data)] == ["message"]


def test_unlimited_frame_max() -> None:
    octets = bytes(3 << 20)
    data = PUBLISH + header(1, len(octets)) + body(1, octets)
    reader = make_reader(frame_max=0)
    assert [said[0] for said in read(reader, data[:100], data[100:])] == ["message"]


def test_frame_larger_than_any_message_is_refused_without_frame_max() -> None:
    reader = make_reader(frame_max=0, content_bytes_max=1000)
    assert fault_of(reader, frame(3, 1, bytes(1001)))[0] == 501


# -- sizes of content


def test_body_longer_than_announced() -> None:
    data = PUBLISH + header(1, 3) + body(1, b"ab") + body(1, b"cd")
    assert fault_of(make_reader(), data) == BODY_EXPECTED
    assert fault_of(make_reader(strict=True), data) == (
        501,
        "FRAME_ERROR - content body frame exceeds remaining content size",
        NO_IDS,
    )


@pytest.mark.parametrize("strict", [False, True])
def test_message_above_the_limit_is_read_and_not_kept(strict: bool) -> None:
    reader = make_reader(strict=strict, message_bytes_max=10)
    kept = publish(1, "", "q", bytes(10))
    dropped = publish(1, "", "q", bytes(11)) + publish(1, "", "q", bytes(20), frame_max=15)
    heard = read(reader, kept + dropped + kept)
    assert [said[0] for said in heard] == ["message", "oversized", "oversized", "message"]
    assert heard[1:3] == [("oversized", 1, "q", 11), ("oversized", 1, "q", 20)]


def test_content_above_the_ceiling_is_refused_at_its_header_by_new_profiles() -> None:
    data = PUBLISH + header(1, 536870913)
    assert read(make_reader(), data) == []
    assert fault_of(make_reader(strict=True), data) == (
        501,
        "FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912",
        NO_IDS,
    )


def test_content_above_the_ceiling_is_waited_for_by_old_profiles() -> None:
    reader = make_reader(message_bytes_max=10, content_bytes_max=100)
    data = publish(1, "", "q", bytes(101), frame_max=60)
    assert read(reader, data) == [("oversized", 1, "q", 101)]
    assert read(make_reader(strict=True, content_bytes_max=100), PUBLISH + header(1, 100)) == []


def test_memory_of_an_oversized_body_is_not_kept() -> None:
    reader = make_reader(message_bytes_max=10)
    read(reader, PUBLISH + header(1, 1 << 40))
    for _ in range(10):
        read(reader, body(1, bytes(4000)))
    (assembly,) = reader._assemblies.values()
    assert assembly.body is None


def test_a_content_header_claims_no_memory() -> None:
    reader = make_reader(message_bytes_max=1 << 30)
    tracemalloc.start()
    for number in range(1, 1001):
        said = publish(number, "", "q", b"")
        read(reader, said[: -len(header(number, 0))] + header(number, 1 << 30))
        read(reader, body(number, bytes(100)))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2_000_000


def test_a_large_body_is_never_there_twice() -> None:
    """Its last frame makes no copy of it."""
    reader, part, count = make_reader(), bytes(4000), 2000
    read(reader, PUBLISH + header(1, len(part) * count))
    framed = body(1, part)
    tracemalloc.start()
    for _ in range(count - 1):
        assert reader.receive(framed) == []
    (message,) = reader.receive(framed)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(message, Message)
    assert message.body == part * count
    assert type(message.body) is bytes
    assert most < 1.3 * len(part) * count  # it grows by an eighth at a time


def test_empty_body_frames_are_no_harm() -> None:
    data = PUBLISH + header(1, 2) + body(1, b"") + body(1, b"a") + body(1, b"") + body(1, b"b")
    ((kind, *_, octets, _, _),) = read(make_reader(), data)
    assert (kind, octets) == ("message", b"ab")


# -- limits


def nested(depth: int) -> bytes:
    """A table that holds a table that ..., `depth` of them within the outermost."""
    value: Any = {}
    for _ in range(depth):
        value = {"a": ("F", value)}
    return encode_table(value)


def test_nesting_of_arguments() -> None:
    def declare(depth: int) -> bytes:
        return bare_method(50, 10, b"\x00\x00\x01q\x00" + nested(depth))

    reader = make_reader(table_depth_max=5)
    assert [said[0] for said in read(reader, declare(5))] == ["queue.declare"]
    assert fault_of(reader, declare(6))[0] == 501


def test_nesting_of_headers() -> None:
    reader = make_reader(table_depth_max=5)
    fine = b"\x20\x00" + nested(5)
    deep = b"\x20\x00" + nested(6)
    assert [said[0] for said in read(reader, publish(1, "", "q", b"x", fine))] == ["message"]
    assert fault_of(reader, publish(1, "", "q", b"x", deep))[0] == 501


def test_nesting_as_deep_as_a_frame_can_carry_is_refused_and_not_followed() -> None:
    reader = make_reader(frame_max=131072)
    array = b""
    for _ in range(20000):
        array = b"A" + len(array).to_bytes(4, "big") + array
        if len(array) > 100000:
            break
    fields = b"\x01a" + array
    table = len(fields).to_bytes(4, "big") + fields
    assert fault_of(reader, bare_method(50, 10, b"\x00\x00\x01q\x00" + table))[0] == 501


def test_parsed_publish_methods_are_kept_up_to_a_limit() -> None:
    reader = make_reader(publish_targets_max=3)
    for number in range(10):
        (message,) = reader.receive(publish(1, "x", str(number), b""))
        assert isinstance(message, Message)
        assert message.target.routing_key == str(number)
        assert len(reader._targets) <= 3
    first, second = (reader.receive(publish(1, "x", "same", b""))[0] for _ in range(2))
    assert isinstance(first, Message)
    assert isinstance(second, Message)
    assert first.target is second.target


def test_shapes_of_properties_are_kept_up_to_a_limit() -> None:
    reader = make_reader()
    for number in range(3000):
        properties = pamqp_properties(PamqpBasic.Properties(message_id=str(number)))
        reader.receive(publish(1, "x", "k", b"", properties))
    assert len(reader._shapes) <= 1024


def test_content_is_awaited_on_no_more_channels_than_can_be_open() -> None:
    reader = make_reader(channel_max=3)
    begin = [
        pamqp_method(number, named(Basic.Publish(), exchange="", routing_key="q"))
        for number in range(1, 5)
    ]
    assert read(reader, *begin[:3]) == []
    assert fault_of(reader, begin[3]) == (
        504,
        "CHANNEL_ERROR - expected 'channel.open'",
        (60, 40),
    )


# -- before the connection is open


def test_frames_on_channels_before_the_connection_is_open() -> None:
    for data in (OPEN, PUBLISH, header(1, 0), body(1, b""), pamqp_method(1, Basic.Ack(1))):
        reader = make_reader()
        reader.running = False
        code, text, ids = fault_of(reader, data)
        assert (code, ids) == (505, NO_IDS)
        kind = data[0]
        assert text.startswith(f"UNEXPECTED_FRAME - type {kind}, ")
    reader = make_reader()
    reader.running = False
    assert fault_of(reader, OPEN)[1] == ("UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>")


def test_frames_before_login_are_limited_to_the_least_frame_max() -> None:
    reader = FrameReader(Limits(), False)
    assert fault_of(reader, frame(1, 0, bytes(4097))) == (
        501,
        "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4097,4088}",
        NO_IDS,
    )


def test_publish_and_ack_on_channel_0_are_methods_like_others() -> None:
    payload = pamqp_method(0, named(Basic.Publish(), exchange="", routing_key="q"))
    assert read(make_reader(), payload)[0][:2] == ("basic.publish", 0)
    assert read(make_reader(), pamqp_method(0, Basic.Ack(1)))[0][:2] == ("basic.ack", 0)


def test_faults_are_connection_exceptions() -> None:
    for data, _ in (LOSING_FAULTS | KEEPING_FAULTS).values():
        reader = make_reader()
        commands = reader.receive(data)
        assert isinstance(commands[-1], ConnectionException)
        assert isinstance(commands[-1], AMQPException)


@settings(max_examples=200, deadline=None)
@given(octets=st.binary(max_size=400), running=st.booleans(), strict=st.booleans())
def test_any_octets_are_commands_or_faults(octets: bytes, running: bool, strict: bool) -> None:
    reader = make_reader(strict=strict)
    reader.running = running
    read(reader, octets)


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3, 8, 4]),
            st.integers(0, 2),
            st.sampled_from(
                [
                    b"",
                    b"\x00\x3c\x00\x28",
                    b"\x00\x3c\x00\x28\x00\x00\x00\x01q\x00",
                    b"\x00\x3c\x00\x00" + bytes(7) + b"\x01" + NO_PROPERTIES,
                    b"\x00\x3c\x00\x50" + bytes(9),
                    b"x",
                ]
            )
            | st.binary(max_size=20),
        ),
        max_size=8,
    )
)
def test_any_frames_are_commands_or_faults(parts: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(frame(kind, channel, payload) for kind, channel, payload in parts)
    whole = read_to_fault(make_reader(), data)
    for cut in (1, 7, 8, len(data) // 2):
        assert read_to_fault(make_reader(), data[:cut], data[cut:]) == whole


def test_bodies_are_cut_as_asked() -> None:
    """The tests' own encoder, which the tests above rely on."""
    assert bodies(1, b"abcde", 10) == body(1, b"ab") + body(1, b"cd") + body(1, b"e")
    assert method_ids(Basic.Publish()) == (60, 40)
