"""The acknowledgement timeout: who is too late, when, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker import policies
from amqpd.commands import Basic
from amqpd.commands import Channel as Methods
from amqpd.config import Compat, Limits
from amqpd.wire.properties import read_headers
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    Delivery,
    Refused,
)
from tests.hyphens import hyphenated

MINUTE = 60.0
HALF_AN_HOUR = 1800.0
OLDER: tuple[Compat, ...] = ("3.13", "4.2")


def text(timeout_ms: int = 1_800_000, channel: int = 1) -> str:
    return (
        f"PRECONDITION_FAILED - delivery acknowledgement on channel {channel} timed out. Timeout"
        f" value used: {timeout_ms} ms. This timeout value can be configured, see consumers doc"
        " guide to learn more"
    )


def declare(channel: Channel, queue_type: str = "classic", **arguments: object) -> None:
    channel.queue_declare(
        "q", durable=True, arguments={"x-queue-type": queue_type, **hyphenated(arguments)}
    )


def publish(channel: Channel, *bodies: bytes) -> None:
    for body in bodies:
        channel.publish("", "q", body, PERSISTENT)


def closed(channel: Channel, timeout_ms: int = 1_800_000) -> bool:
    """Whether the channel was closed for being too late, and nothing else was said."""
    said = channel.take_all()
    if not said:
        return False
    (close,) = said
    assert isinstance(close, Methods.Close)
    Refused(close).check(406, text(timeout_ms, channel.number), (0, 0), of_connection=False)
    return True


@pytest.mark.parametrize("compat", OLDER)
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("consuming", [True, False])
def test_a_channel_that_never_acknowledges_is_closed(
    compat: Compat, queue_type: str, consuming: bool
) -> None:
    broker = BrokerUnderTest(compat=compat)
    channel = broker.client().channel()
    declare(channel, queue_type)
    publish(channel, b"m")
    if consuming:
        channel.consume("q")
        channel.take(Delivery)
    else:
        assert channel.get("q") is not None
    broker.advance(HALF_AN_HOUR - 1)
    assert not closed(channel)
    broker.advance(MINUTE + 1)
    assert closed(channel)
    got = broker.client().channel().get("q")
    assert got is not None
    assert got.redelivered
    (warning,) = [line for line in broker.warnings if "timed out" in line]
    assert "queue 'q' in vhost '/'" in warning
    assert "delivery tag 1;" in warning


def test_the_channel_can_be_opened_again(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    declare(channel)
    publish(channel, b"m")
    channel.consume("q")
    channel.take(Delivery)
    other = channel.client.channel()
    broker.advance(HALF_AN_HOUR + MINUTE)
    channel.expect_closed(406, text(), (0, 0))
    channel.open()
    assert channel.get("q") is not None
    other.expect_nothing()


def test_whoever_acknowledges_in_time_goes_on(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    declare(channel)
    channel.consume("q")
    for _ in range(5):
        publish(channel, b"m")
        broker.advance(HALF_AN_HOUR - 1)
        channel.ack(channel.take(Delivery).delivery_tag)
    broker.advance(10 * HALF_AN_HOUR)
    channel.expect_nothing()


def test_the_oldest_delivery_counts(broker: BrokerUnderTest) -> None:
    """What went out behind it is younger: its own time runs once it is the oldest."""
    channel = broker.client().channel()
    declare(channel)
    channel.consume("q")
    publish(channel, b"1")
    first = channel.take(Delivery)
    broker.advance(1000)
    publish(channel, b"2")
    channel.take(Delivery)
    broker.advance(700)
    channel.ack(first.delivery_tag)
    broker.advance(HALF_AN_HOUR - 701)
    assert not closed(channel)
    broker.advance(MINUTE + 1)
    assert closed(channel)


def test_automatic_acknowledgements_are_never_late(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    declare(channel)
    publish(channel, b"m")
    channel.consume("q", no_ack=True)
    channel.take(Delivery)
    broker.advance(10 * HALF_AN_HOUR)
    channel.expect_nothing()


def test_the_limit_can_be_set_and_switched_off() -> None:
    for limit, late in ((8.0, True), (0.0, False)):
        broker = BrokerUnderTest(limits=Limits(consumer_timeout_s=limit))
        channel = broker.client().channel()
        declare(channel)
        publish(channel, b"m")
        channel.consume("q")
        channel.take(Delivery)
        broker.advance(7.9)
        channel.expect_nothing()
        broker.advance(10 * HALF_AN_HOUR)
        assert closed(channel, 8000) is late


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_queue_may_have_a_timeout_of_its_own(broker: BrokerUnderTest, queue_type: str) -> None:
    channel = broker.client().channel()
    declare(channel, queue_type, x_consumer_timeout=60_000)
    publish(channel, b"m")
    channel.consume("q")
    channel.take(Delivery)
    broker.advance(59)
    assert not closed(channel)
    broker.advance(16)
    assert closed(channel, 60_000)


def test_the_smaller_of_argument_and_policy_holds(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    declare(channel, x_consumer_timeout=600_000)
    policies.set_policy(
        broker.core, "/", "p", pattern=".*", definition={"consumer-timeout": 60_000}
    )
    publish(channel, b"m")
    channel.consume("q")
    channel.take(Delivery)
    broker.advance(80)
    assert closed(channel, 60_000)


def test_a_channel_that_ends_is_watched_no_more(broker: BrokerUnderTest) -> None:
    client = broker.client()
    channel = client.channel()
    declare(channel)
    publish(channel, b"m")
    channel.consume("q")
    channel.close()
    assert broker.core.timers.next_deadline() is None
    channel.open().consume("q")
    client.drop()
    assert broker.core.timers.next_deadline() is None


def test_a_channel_without_consumers_is_watched_no_more(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    declare(channel)
    publish(channel, b"m")
    got = channel.get("q")
    assert got is not None
    channel.ack(got.delivery_tag)
    broker.advance(MINUTE)
    assert broker.core.timers.next_deadline() is None


# -- 4.3


def late_consumer(broker: BrokerUnderTest, **how: Any) -> tuple[Channel, Delivery]:
    """A consumer of a quorum queue that holds a message for half an hour."""
    channel = broker.client(**how).channel()
    declare(channel, "quorum")
    publish(channel, b"m")
    channel.consume("q", "late")
    delivery = channel.take(Delivery)
    broker.advance(HALF_AN_HOUR + MINUTE)
    return channel, delivery


def test_4_3_cancels_the_consumer_and_takes_the_message_back() -> None:
    broker = BrokerUnderTest(compat="4.3")
    channel, delivery = late_consumer(broker)
    assert channel.take(Basic.Cancel).consumer_tag == "late"
    other = broker.client().channel()
    got = other.get("q")
    assert got is not None
    headers = read_headers(got.properties, 64)
    assert headers == {"x-delivery-count": ("l", 0), "x-acquired-count": ("l", 1)}
    # It may still settle what it had, without an effect.
    channel.ack(delivery.delivery_tag)
    channel.ack(delivery.delivery_tag, multiple=True)
    channel.expect_nothing()
    other.nack(got.delivery_tag)
    assert other.counts("q") == (1, 0)


def test_4_3_takes_back_only_what_is_late() -> None:
    broker = BrokerUnderTest(compat="4.3")
    channel = broker.client().channel()
    declare(channel, "quorum")
    channel.consume("q")
    publish(channel, b"1")
    broker.advance(1000)
    publish(channel, b"2")
    broker.advance(HALF_AN_HOUR + MINUTE - 1000)
    first, second, cancel = channel.take_all()
    assert isinstance(first, Delivery)
    assert isinstance(second, Delivery)
    assert isinstance(cancel, Basic.Cancel)
    assert channel.counts("q") == (1, 0)
    broker.advance(1000)
    assert channel.counts("q") == (2, 0)


def test_4_3_leaves_other_consumers_of_the_channel_alone() -> None:
    broker = BrokerUnderTest(compat="4.3")
    channel = broker.client().channel()
    declare(channel, "quorum")
    channel.qos(1)
    for tag, timeout in (("short", 60_000), ("long", 600_000)):
        channel.consume("q", tag, arguments={"x-consumer-timeout": timeout})
    publish(channel, b"1", b"2")
    assert {each.consumer_tag for each in channel.deliveries()} == {"short", "long"}
    broker.advance(80)
    assert channel.take(Basic.Cancel).consumer_tag == "short"
    channel.expect_nothing()
    broker.advance(700)
    assert channel.take(Basic.Cancel).consumer_tag == "long"
    assert channel.counts("q") == (2, 0)


def test_4_3_closes_the_channel_of_a_client_that_knows_no_cancel() -> None:
    broker = BrokerUnderTest(compat="4.3")
    channel, _ = late_consumer(broker, capabilities=())
    assert closed(channel)
    assert broker.client().channel().counts("q") == (1, 0)


def test_4_3_lets_classic_queues_wait() -> None:
    broker = BrokerUnderTest(compat="4.3")
    channel = broker.client().channel()
    declare(channel)
    publish(channel, b"m")
    channel.consume("q")
    channel.take(Delivery)
    broker.advance(10 * HALF_AN_HOUR)
    channel.expect_nothing()


def test_4_3_takes_back_what_was_got() -> None:
    broker = BrokerUnderTest(compat="4.3")
    channel = broker.client().channel()
    declare(channel, "quorum")
    publish(channel, b"m")
    assert channel.get("q") is not None
    broker.advance(HALF_AN_HOUR + MINUTE)
    channel.expect_nothing()
    assert channel.counts("q") == (1, 0)


def test_4_3_knows_the_argument_of_queues_and_consumers() -> None:
    channel = BrokerUnderTest(compat="4.3").client().channel()
    invalid = "PRECONDITION_FAILED - invalid arg 'x-consumer-timeout' for queue 'q' in vhost '/'"
    with channel.refuses(406, f"{invalid}: {{value_negative,-1}}", (50, 10)):
        declare(channel, "quorum", x_consumer_timeout=-1)
    with channel.open().refuses(406, f"{invalid} of queue type rabbit_classic_queue", (50, 10)):
        declare(channel, "classic", x_consumer_timeout=5)
    declare(channel.open(), "quorum", x_consumer_timeout=5)
    reason = '"expected integer, got longstr"'
    with channel.refuses(406, f"{invalid}: {reason}", (60, 20)):
        channel.consume("q", arguments={"x-consumer-timeout": "a"})
