"""Publishing: checks in their order, returns, CC and BCC, octets that stay (reference 5.5)."""

from __future__ import annotations

from struct import pack

import pytest

from amqpd.config import Limits
from tests.conversation import (
    METHOD,
    PERSISTENT,
    TRANSIENT,
    BrokerUnderTest,
    Channel,
    Confirmed,
    Delivery,
    Returned,
    frame,
    properties,
)

PUBLISH = (60, 40)


# Checks


@pytest.mark.parametrize("exchange", ["", "nope"])
def test_immediate_is_refused_before_anything_else(channel: Channel, exchange: str) -> None:
    channel.publish(exchange, "k", b"1", immediate=True)
    channel.client.expect_closed(540, "NOT_IMPLEMENTED - immediate=true", PUBLISH)


def test_a_missing_exchange(channel: Channel) -> None:
    channel.publish("nope", "k", b"1", properties(expiration="abc", user_id="bob"))
    channel.expect_closed(404, "NOT_FOUND - no exchange 'nope' in vhost '/'", PUBLISH)


def test_messages_above_the_limit() -> None:
    broker = BrokerUnderTest(limits=Limits(message_bytes_max=100, content_bytes_max=1000))
    channel = broker.client().channel()
    channel.publish("", "nope", b"x" * 100)
    channel.publish("nope", "nope", b"x" * 101)
    text = "message size 101 is larger than configured max size 100"
    channel.expect_closed(406, f"PRECONDITION_FAILED - {text}", PUBLISH)
    channel.open()
    channel.publish("", "nope", b"x" * 1001)
    text = "message size 1001 is larger than max size 1000"
    channel.expect_closed(406, f"PRECONDITION_FAILED - {text}", PUBLISH)
    channel.open()
    channel.publish("", "nope", b"x" * 101, immediate=True)
    channel.client.expect_closed(540, "NOT_IMPLEMENTED - immediate=true", PUBLISH)


@pytest.mark.parametrize(
    ("expiration", "reason"),
    [
        ("abc", "no_integer"),
        ("", "no_integer"),
        ("-", "no_integer"),
        (" 5", "no_integer"),
        ("12x", '{leftover_string,"x"}'),
        ("5.5", '{leftover_string,".5"}'),
        ("5 ", '{leftover_string," "}'),
        ("-1", "{value_negative,-1}"),
        ("315360000001", "{value_too_large,315360000001}"),
    ],
)
def test_bad_expirations(channel: Channel, expiration: str, reason: str) -> None:
    channel.publish("", "k", b"1", properties(expiration=expiration))
    text = f"PRECONDITION_FAILED - invalid expiration '{expiration}': {reason}"
    channel.expect_closed(406, text, PUBLISH)


@pytest.mark.parametrize("expiration", ["0", "+5", "007", "315360000000"])
def test_good_expirations(channel: Channel, expiration: str) -> None:
    channel.publish("", "k", b"1", properties(expiration=expiration))
    assert channel.flow(True)


def test_an_expiration_is_wrong_before_the_sender_is(channel: Channel) -> None:
    """From 3.13 on; 3.10.8 looks at user-id first."""
    channel.publish("", "k", b"1", properties(expiration="abc", user_id="bob"))
    text = "PRECONDITION_FAILED - invalid expiration 'abc': no_integer"
    channel.expect_closed(406, text, PUBLISH)


def test_an_expiration_is_wrong_before_cc_is(channel: Channel) -> None:
    channel.publish("", "k", b"1", properties(expiration="abc", headers={"CC": 5}))
    text = "PRECONDITION_FAILED - invalid expiration 'abc': no_integer"
    channel.expect_closed(406, text, PUBLISH)


def test_reply_to_is_wrong_before_an_expiration_is(channel: Channel) -> None:
    reply_to = "amq.rabbitmq.reply-to"
    channel.publish("", "k", b"1", properties(reply_to=reply_to, expiration="abc"))
    text = "PRECONDITION_FAILED - fast reply consumer does not exist"
    channel.expect_closed(406, text, PUBLISH)


def test_a_user_id_has_to_be_ones_own(channel: Channel) -> None:
    channel.publish("", "k", b"1", properties(user_id="guest"))
    channel.publish("", "k", b"1", properties(user_id="bob"))
    text = "user_id property set to 'bob' but authenticated user was 'guest'"
    channel.expect_closed(406, f"PRECONDITION_FAILED - {text}", PUBLISH)
    channel.open()
    channel.publish("", "k", b"1", properties(user_id=""))
    text = "user_id property set to '' but authenticated user was 'guest'"
    channel.expect_closed(406, f"PRECONDITION_FAILED - {text}", PUBLISH)


def test_an_impersonator_may_name_others(broker: BrokerUnderTest) -> None:
    broker.add_user("actor", "impersonator")
    broker.permit("actor", ".*", ".*", ".*")
    channel = broker.client("actor").channel()
    channel.queue_declare("q")
    channel.publish("", "q", b"1", properties(user_id="bob"))
    assert channel.drain("q") == [b"1"]


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({"CC": "k"}, '"CC",longstr'),
        ({"CC": 5}, '"CC",signedint'),
        ({"BCC": {"a": 1}}, '"BCC",table'),
        ({"CC": "k", "BCC": "k"}, '"CC",longstr'),
    ],
)
def test_cc_and_bcc_have_to_be_arrays(
    channel: Channel, headers: dict[str, object], shown: str
) -> None:
    channel.publish("", "k", b"1", properties(headers=headers))
    text = f"PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,{shown}}}"
    channel.expect_closed(406, text, PUBLISH)


# CC and BCC


def test_cc_and_bcc_route_as_well(channel: Channel) -> None:
    """BCC is gone on delivery and CC stays; the routing key is the publisher's."""
    for name in ("q", "cc1", "cc2", "bcc", "other"):
        channel.queue_declare(name)
    headers = {"a": 1, "CC": ["cc1", "cc2", "q"], "BCC": ["bcc", "nope"], "b": 2}
    channel.publish("", "q", b"1", properties(headers=headers))
    kept = properties(headers={"a": 1, "CC": ["cc1", "cc2", "q"], "b": 2})
    for name in ("q", "cc1", "cc2", "bcc"):
        got = channel.get(name)
        assert got is not None
        assert (got.exchange, got.routing_key, got.message_count) == ("", "q", 0)
        assert got.properties == kept
    assert channel.get("other") is None


def test_cc_through_a_topic_exchange_and_as_the_only_way(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.topic", "a.*")
    headers = {"CC": ["a.b", "a.c"]}
    channel.publish("amq.topic", "x", b"1", properties(headers=headers), mandatory=True)
    channel.expect_nothing()
    assert channel.drain("q") == [b"1"]


def test_cc_to_a_missing_queue_is_returned(channel: Channel) -> None:
    channel.publish("", "x", b"1", properties(headers={"CC": ["y"]}), mandatory=True)
    assert channel.take(Returned).body == b"1"


def test_bcc_is_removed_where_it_was_the_only_header(channel: Channel) -> None:
    """What is left is an empty table, present."""
    channel.queue_declare("q")
    channel.publish("", "x", b"1", properties(headers={"BCC": ["q"]}, priority=3))
    got = channel.get("q")
    assert got is not None
    assert got.properties == properties(headers={}, priority=3)


# Returns


def test_unroutable_and_mandatory(channel: Channel) -> None:
    sent = properties(content_type="text/plain", headers={"a": 1}, delivery_mode=2)
    channel.publish("amq.direct", "nope", b"x" * 300_000, sent, mandatory=True)
    assert channel.take(Returned) == Returned(
        312, "NO_ROUTE", "amq.direct", "nope", sent, b"x" * 300_000
    )
    channel.publish("amq.direct", "nope", b"", TRANSIENT, mandatory=True)
    assert channel.take(Returned).body == b""
    channel.publish("amq.direct", "nope", b"dropped")
    assert channel.flow(True)
    channel.expect_nothing()


def test_a_return_comes_before_its_confirm(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.confirm_select()
    with channel.client.together():
        channel.publish("", "q", b"1", mandatory=True)
        channel.publish("", "nope", b"2", mandatory=True)
        channel.publish("", "nope", b"3")
        channel.publish("", "nope", b"4", mandatory=True)
    confirmed = 0
    for heard in channel.take_all():
        if isinstance(heard, Returned):
            assert int(heard.body) > confirmed
        else:
            assert isinstance(heard, Confirmed)
            confirmed = max(confirmed, heard.number)
    assert confirmed == 4


def test_the_owner_of_no_queue_gets_its_message_back_on_its_own_channel(
    broker: BrokerUnderTest,
) -> None:
    one, other = broker.client().channel(), broker.client().channel()
    one.publish("", "nope", b"1", mandatory=True)
    other.expect_nothing()
    assert one.take(Returned).body == b"1"


# Octets


EVERY_TYPE = {
    "t": ("t", True),
    "b": ("b", -1),
    "B": ("B", 255),
    "s": ("s", -300),
    "u": ("u", 65535),
    "I": ("I", -5),
    "i": ("i", 4294967295),
    "l": ("l", -(2**62)),
    "f": ("f", 0.5),
    "d": ("d", 0.1),
    "D": ("D", (2, 314)),
    "S": ("S", "text"),
    "A": ("A", [("I", 1), ("S", "two"), ("F", {"three": ("l", 3)})]),
    "T": ("T", 1700000000),
    "F": ("F", {"z": ("I", 1), "a": ("F", {})}),
    "V": ("V", None),
    "x": ("x", b"\x00\xff"),
    "": ("S", ""),
}


def long(octets: bytes) -> bytes:
    """With a length in front."""
    return pack(">I", len(octets)) + octets


ODD_TABLES = {
    "a name twice": b"\x01aI\x00\x00\x00\x01\x01aI\x00\x00\x00\x02",
    "not sorted": b"\x01zt\x01\x01at\x00",
    "a true that is not 1": b"\x01at\x07",
    "not UTF-8": b"\x02\xff\xfeS\x00\x00\x00\x02\xc3\x28",
    "64-bit L": b"\x01aL\xff\xff\xff\xff\xff\xff\xff\xff",
    "nested": b"\x01aF" + long(b"\x01bA" + long(b"F" + long(b"\x01cV"))),
}


@pytest.mark.parametrize(
    "sent",
    [
        properties(),
        properties(headers={}),
        properties(headers=EVERY_TYPE),
        *(pack(">H", 1 << 13) + long(octets) for octets in ODD_TABLES.values()),
        properties(content_type="", reply_to="", message_id="", cluster_id=""),
        properties(
            content_type="text/plain",
            content_encoding="utf-8",
            headers={"a": 1},
            delivery_mode=2,
            priority=255,
            correlation_id="ü" * 127,
            reply_to="q",
            expiration="100000",
            message_id="m",
            timestamp=2**63,
            type="t",
            user_id="guest",
            app_id="a",
            cluster_id="c",
        ),
        properties(delivery_mode=0),
        properties(delivery_mode=77, timestamp=0),
        pack(">H", 1 << 7) + b"\x02\xff\xfe",
    ],
)
def test_properties_leave_as_they_came(channel: Channel, sent: bytes) -> None:
    """Delivered, fetched and returned: octet for octet.

    RabbitMQ 3.10.8 refuses a delivery mode above 2 (406, `delivery_mode_unknown`); 3.13 echoes it.
    """
    channel.queue_declare("q")
    channel.publish("", "q", b"1", sent)
    channel.publish("", "q", b"2", sent)
    got = channel.get("q", no_ack=True)
    assert got is not None
    assert got.properties == sent
    channel.consume("q", "t", no_ack=True)
    assert channel.take(Delivery).properties == sent
    channel.publish("", "nope", b"3", sent, mandatory=True)
    assert channel.take(Returned).properties == sent


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 8176, 8177, 100_000])
def test_bodies_of_any_size(broker: BrokerUnderTest, size: int) -> None:
    """Split at frame_max - 8 on the way out (the client checks every frame's size)."""
    channel = broker.client(frame_max=4096).channel()
    body = bytes(index % 251 for index in range(size))
    channel.queue_declare("q")
    channel.publish("", "q", body, PERSISTENT)
    got = channel.get("q")
    assert got is not None
    assert got.body == body
    channel.nack(got.delivery_tag)
    channel.consume("q", "t", no_ack=True)
    assert channel.bodies() == [body]


def test_publishes_of_several_channels_interleaved(channel: Channel) -> None:
    """Frame by frame; each channel's message is put together from its own frames."""
    other = channel.client.channel()
    channel.queue_declare("q")
    payload = b"\x00\x3c\x00\x28\x00\x00\x00\x01q\x00"
    client = channel.client
    for number in (1, 2):
        client.send_bytes(frame(METHOD, number, payload))
    for number in (2, 1):
        client.send_bytes(frame(2, number, pack(">HHQ", 60, 0, 2) + b"\x00\x00"))
    for number, octet in ((1, b"a"), (2, b"x"), (2, b"y"), (1, b"b")):
        client.send_bytes(frame(3, number, octet))
    assert channel.drain("q") == [b"xy", b"ab"]
    other.expect_nothing()


def test_routing_keys_may_be_any_octets(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.fanout")
    payload = b"\x00\x3c\x00\x28\x00\x00\x0aamq.fanout\x02\xff\xfe\x00"
    content = frame(2, 1, pack(">HHQ", 60, 0, 0) + b"\x00\x00")
    channel.client.send_bytes(frame(METHOD, 1, payload) + content)
    got = channel.get("q")
    assert got is not None
    assert got.routing_key.encode("utf-8", "surrogateescape") == b"\xff\xfe"
