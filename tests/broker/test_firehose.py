"""The firehose: what is copied, in the form in which RabbitMQ 3.10.8 was seen to copy it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from amqpd.commands import Field
from amqpd.wire.properties import DELIVERY_MODE, has_property, read_headers
from tests.conversation import BrokerUnderTest, Channel, properties

TRACE = "amq.rabbitmq.trace"
CLIENT = "127.0.0.1:50000 -> 127.0.0.1:5672"
S = "S"


class Copy(NamedTuple):
    """One copy, its headers with their types."""

    key: str
    headers: dict[str, Field]
    body: bytes


class Tap:
    """A client with a queue for all copies. Its own fetching is copied, too: it comes last."""

    def __init__(self, broker: BrokerUnderTest, key: str = "#") -> None:
        self.broker = broker
        self.channel = broker.client(name="tap").channel()
        self.channel.queue_declare("copies")
        self.channel.queue_bind("copies", TRACE, key)

    def take(self) -> list[Copy]:
        """What was copied since the last time."""
        copies: list[Copy] = []
        while (got := self.channel.get("copies", no_ack=True)) is not None:
            assert got.exchange == TRACE
            assert not has_property(got.properties, DELIVERY_MODE)
            copies.append(Copy(got.routing_key, read_headers(got.properties, 64), got.body))
        return copies

    def keys(self) -> list[str]:
        """The routing keys alone."""
        return [copy.key for copy in self.take()]


def trace(broker: BrokerUnderTest, on: bool = True) -> None:
    """trace_on, trace_off."""
    broker.core.virtual_hosts["/"].set_tracing(on)


@pytest.fixture
def tap(broker: BrokerUnderTest) -> Tap:
    """Tracing is on."""
    trace(broker)
    return Tap(broker)


@pytest.fixture
def channel(broker: BrokerUnderTest) -> Channel:
    """A channel beside a queue `q`."""
    channel = broker.client(name=CLIENT).channel()
    channel.queue_declare("q")
    return channel


def strings(*values: str) -> Field:
    """An array of strings."""
    return ("A", [(S, value) for value in values])


def common(broker: BrokerUnderTest) -> dict[str, Any]:
    """What all copies of that client's messages say."""
    return {
        "node": (S, broker.core.node),
        "vhost": (S, "/"),
        "connection": (S, CLIENT),
        "channel": ("I", 1),
        "user": (S, "guest"),
    }


def test_published_and_fetched(broker: BrokerUnderTest, tap: Tap, channel: Channel) -> None:
    said = properties(
        content_type="text/plain",
        headers={"h": 1},
        delivery_mode=2,
        priority=4,
        correlation_id="c",
        timestamp=1234567890,
    )
    channel.publish("", "q", b"hello", said)
    published = Copy(
        "publish.",
        common(broker)
        | {
            "exchange_name": (S, ""),
            "routing_keys": strings("q"),
            "properties": (
                "F",
                {
                    "timestamp": ("I", 1234567890),
                    "correlation_id": (S, "c"),
                    "priority": ("I", 4),
                    "delivery_mode": ("I", 2),
                    "headers": ("F", {"h": ("I", 1)}),
                    "content_type": (S, "text/plain"),
                },
            ),
            "routed_queues": strings("q"),
        },
        b"hello",
    )
    assert tap.take() == [published]
    for redelivered in (0, 1):
        got = channel.get("q")
        assert got is not None
        assert got.properties == said
        headers = published.headers | {"redelivered": ("I", redelivered)}
        del headers["routed_queues"]
        assert tap.take() == [Copy("deliver.q", headers, b"hello")]
        channel.nack(got.delivery_tag)


def test_the_order_of_headers(broker: BrokerUnderTest, tap: Tap, channel: Channel) -> None:
    channel.publish("", "q", b"1")
    (copy,) = tap.take()
    assert list(copy.headers) == [
        "exchange_name",
        "routing_keys",
        "properties",
        "node",
        "vhost",
        "connection",
        "channel",
        "user",
        "routed_queues",
    ]


@pytest.mark.parametrize("no_ack", [True, False])
def test_a_consumer_of_before_and_one_of_after(
    broker: BrokerUnderTest, channel: Channel, no_ack: bool
) -> None:
    channel.consume("q", tag="before", no_ack=no_ack)
    trace(broker)
    tap = Tap(broker, "deliver.#")
    channel.publish("", "q", b"1")
    assert [(copy.key, copy.body) for copy in tap.take()] == [("deliver.q", b"1")]
    channel.cancel("before")
    channel.consume("q", tag="after", no_ack=no_ack)
    channel.publish("", "q", b"2")
    assert [(copy.key, copy.body) for copy in tap.take()] == [("deliver.q", b"2")]
    trace(broker, on=False)
    channel.publish("", "q", b"3")
    assert tap.keys() == []
    assert channel.bodies() == [b"1", b"2", b"3"]


def test_switching_it_shows_at_the_next_message(broker: BrokerUnderTest, channel: Channel) -> None:
    """Although the route of the channel's publishes is known by then."""
    tap = Tap(broker, "publish.#")
    channel.publish("", "q", b"1")
    assert not broker.core.virtual_hosts["/"].tracing
    for on in (True, True, False, True):
        trace(broker, on)
        channel.publish("", "q", b"2")
        channel.publish("", "q", b"3")
        assert len(tap.take()) == (2 if on else 0)


def test_only_one_virtual_host_is_traced(broker: BrokerUnderTest, tap: Tap) -> None:
    broker.add_vhost("other")
    other = broker.client(vhost="other").channel()
    other.queue_declare("q")
    other.publish("", "q", b"1")
    assert tap.keys() == []


def test_carbon_copies(tap: Tap, channel: Channel) -> None:
    copies = properties(headers={"CC": strings("q", "cc"), "BCC": strings("b")})
    channel.publish("amq.direct", "none", b"1", copies)
    (copy,) = tap.take()
    assert copy.key == "publish.amq.direct"
    assert copy.headers["routing_keys"] == strings("none", "q", "cc", "b")
    # Whom else it went to is in the keys alone.
    carbon = {"headers": ("F", {"CC": strings("q", "cc")})}
    assert copy.headers["properties"] == ("F", carbon)
    assert copy.headers["routed_queues"] == strings()
    channel.publish("", "q", b"2", copies)
    (copy,) = tap.take()
    # The default exchange leads to names, queues or not.
    assert copy.headers["routed_queues"] == strings("b", "cc", "q")
    channel.get("q")
    (copy,) = tap.take()
    assert copy.headers["routing_keys"] == strings("q", "q", "cc", "b")


def test_routed_queues(tap: Tap, channel: Channel) -> None:
    channel.queue_declare("r")
    for name in ("q", "r"):
        channel.queue_bind(name, "amq.fanout", "")
    channel.publish("amq.fanout", "k", b"1")
    (copy,) = tap.take()
    assert copy.headers["routed_queues"] == strings("q", "r")


def test_in_a_transaction_it_shows_what_is_published(tap: Tap, channel: Channel) -> None:
    channel.tx_select()
    channel.publish("", "q", b"1")
    channel.publish("amq.direct", "k", b"2")
    assert tap.keys() == ["publish.", "publish.amq.direct"]
    channel.tx_commit()
    assert tap.keys() == []


def test_direct_replies(tap: Tap, channel: Channel) -> None:
    """Published is copied, delivered is not, as in RabbitMQ."""
    channel.consume("amq.rabbitmq.reply-to", tag="r", no_ack=True)
    channel.publish("", "q", b"1", properties(reply_to="amq.rabbitmq.reply-to"))
    (copy,) = tap.take()
    _, (_, token) = "reply_to", copy.headers["properties"][1]["reply_to"]
    assert token.startswith("amq.rabbitmq.reply-to.")
    channel.publish("", token, b"reply")
    (copy,) = tap.take()
    assert copy.headers["routed_queues"] == strings()
    assert channel.bodies() == [b"reply"]


def test_numbers_are_int32(tap: Tap, channel: Channel) -> None:
    channel.publish("", "q", b"1", properties(timestamp=2**32 - 1))
    (copy,) = tap.take()
    assert copy.headers["properties"] == ("F", {"timestamp": ("I", -1)})


def test_headers_that_are_nested_too_deeply_for_a_copy(tap: Tap, channel: Channel) -> None:
    nested: dict[str, Any] = {}
    for _ in range(63):
        nested = {"t": nested}
    said = properties(headers=nested)
    channel.publish("", "q", b"1", said)
    got = channel.get("q")
    assert got is not None
    assert got.properties == said
    copies = tap.take()
    assert [copy.key for copy in copies] == ["publish.", "deliver.q"]
    assert copies[0].headers["properties"] == ("F", {"headers": ("F", {})})


def test_a_long_key_is_cut(tap: Tap, channel: Channel) -> None:
    name = "x" * 255
    channel.exchange_declare(name, "fanout")
    channel.publish(name, "", b"1")
    assert tap.keys() == [f"publish.{name}"[:255]]


def test_a_circle_of_queues_ends_no_turn_late(broker: BrokerUnderTest, channel: Channel) -> None:
    """Copies have no room, are dead-lettered and delivered; that is copied, and so on for ever."""
    channel.exchange_declare("dead", "fanout")
    channel.queue_declare("copies", arguments={"x-max-length": 0, "x-dead-letter-exchange": "dead"})
    channel.queue_bind("copies", TRACE, "deliver.#")
    channel.queue_bind("q", "dead", "")
    channel.consume("q", tag="c", no_ack=True)
    trace(broker)
    channel.publish("", "q", b"1")
    heard = len(channel.deliveries())
    assert heard <= 3
    broker.advance(0.01)
    more = len(channel.deliveries())
    assert 5 <= more <= 15
    trace(broker, on=False)
    broker.advance(1)
    channel.deliveries()
    broker.advance(1)
    channel.expect_nothing()
