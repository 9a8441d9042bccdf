"""Delayed retry (RabbitMQ 4.3, here for every type of queue): who waits, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.commands import Queue
from amqpd.config import Compat
from tests.conversation import PERSISTENT, BrokerUnderTest, Channel, Delivery, method, table
from tests.hyphens import hyphenated


def arguments(queue_type: str, retry: str, /, **more: object) -> dict[str, Any]:
    return {"x-queue-type": queue_type, "x-delayed-retry-type": retry, **hyphenated(more)}


def open_with(broker: BrokerUnderTest, *what: Any, **more: object) -> Channel:
    """A channel that consumes from `q`; one message at a time."""
    channel = broker.client().channel()
    channel.queue_declare("q", durable=True, arguments=arguments(*what, **more))
    channel.qos(1)
    channel.consume("q")
    return channel


def publish(channel: Channel, *bodies: bytes) -> None:
    for body in bodies:
        channel.publish("", "q", body, PERSISTENT)


def waits_for(broker: BrokerUnderTest, channel: Channel, ms: int) -> Delivery:
    """The next delivery, which comes after so many milliseconds and no earlier."""
    if ms:
        channel.expect_nothing()
        broker.advance(ms / 1000 - 0.001)
        channel.expect_nothing()
        broker.advance(0.001)
    return channel.take(Delivery)


@pytest.mark.parametrize("compat", ["3.13", "4.2", "4.3"])
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_the_wait_grows_with_every_failure(compat: Compat, queue_type: str) -> None:
    broker = BrokerUnderTest(compat=compat)
    retry = {"x_delayed_retry_min": 1000, "x_delayed_retry_max": 2500}
    channel = open_with(broker, queue_type, "all", **retry)
    publish(channel, b"m")
    delivery = channel.take(Delivery)
    assert not delivery.redelivered
    for ms in (1000, 2000, 2500, 2500):
        channel.reject(delivery.delivery_tag)
        assert channel.client.channel().counts("q") == (0, 1)
        delivery = waits_for(broker, channel, ms)
        assert delivery.redelivered


def test_what_did_not_fail_waits_the_minimum(broker: BrokerUnderTest) -> None:
    channel = open_with(broker, "quorum", "all", x_delayed_retry_min=1000)
    publish(channel, b"m")
    delivery = channel.take(Delivery)
    for _ in range(3):
        channel.nack(delivery.delivery_tag)
        delivery = waits_for(broker, channel, 1000)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize(
    ("retry", "nacked_ms", "rejected_ms"),
    [("all", 1000, 1000), ("failed", 0, 1000), ("returned", 1000, 0), ("disabled", 0, 0)],
)
def test_whom_it_concerns(
    broker: BrokerUnderTest, queue_type: str, retry: str, nacked_ms: int, rejected_ms: int
) -> None:
    channel = open_with(broker, queue_type, retry, x_delayed_retry_min=1000)
    publish(channel, b"m")
    channel.nack(channel.take(Delivery).delivery_tag)
    delivery = waits_for(broker, channel, nacked_ms)
    channel.reject(delivery.delivery_tag)
    waits_for(broker, channel, rejected_ms)


def test_without_a_minimum_nobody_waits(broker: BrokerUnderTest) -> None:
    channel = open_with(broker, "quorum", "all", x_delayed_retry_max=1000)
    publish(channel, b"m")
    channel.reject(channel.take(Delivery).delivery_tag)
    assert channel.take(Delivery).redelivered


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_lost_channel_is_a_failure(broker: BrokerUnderTest, queue_type: str) -> None:
    channel = open_with(broker, queue_type, "failed", x_delayed_retry_min=1000)
    publish(channel, b"1", b"2")
    other = broker.client().channel()
    channel.client.drop()
    assert other.drain("q") == [b"2"]
    broker.advance(1)
    assert other.drain("q") == [b"1"]


def test_others_are_delivered_meanwhile(broker: BrokerUnderTest) -> None:
    channel = open_with(broker, "classic", "all", x_delayed_retry_min=1000)
    publish(channel, b"1", b"2", b"3")
    channel.reject(channel.take(Delivery).delivery_tag)
    delivery = channel.take(Delivery)
    assert delivery.body == b"2"
    broker.advance(1)
    channel.ack(delivery.delivery_tag)
    # It is back in its own place.
    assert channel.take(Delivery).body == b"1"


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_purge_takes_those_that_wait(broker: BrokerUnderTest, queue_type: str) -> None:
    channel = open_with(broker, queue_type, "all", x_delayed_retry_min=1000)
    publish(channel, b"m")
    channel.reject(channel.take(Delivery).delivery_tag)
    assert channel.queue_purge("q") == 1
    broker.advance(10)
    channel.expect_nothing()


def test_a_queue_that_is_deleted_waits_for_nothing(broker: BrokerUnderTest) -> None:
    channel = open_with(broker, "quorum", "all", x_delayed_retry_min=1000)
    publish(channel, b"m")
    channel.reject(channel.take(Delivery).delivery_tag)
    other = broker.client().channel()
    assert other.queue_delete("q") == 1
    broker.advance(10)
    assert not [said for said in channel.take_all() if isinstance(said, Delivery)]


def test_the_limit_comes_before_the_wait(broker: BrokerUnderTest) -> None:
    channel = open_with(broker, "quorum", "all", x_delayed_retry_min=1000, x_delivery_limit=1)
    publish(channel, b"m")
    channel.reject(channel.take(Delivery).delivery_tag)
    channel.reject(waits_for(broker, channel, 1000).delivery_tag)
    broker.advance(10)
    channel.expect_nothing()


def test_a_message_that_expired_while_it_waited_is_dropped(broker: BrokerUnderTest) -> None:
    channel = open_with(broker, "classic", "all", x_delayed_retry_min=1000, x_message_ttl=500)
    publish(channel, b"m")
    channel.reject(channel.take(Delivery).delivery_tag)
    broker.advance(1)
    channel.expect_nothing()
    assert broker.client().channel().counts("q") == (0, 1)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_wait_goes_on_after_a_restart(journaled: BrokerUnderTest, queue_type: str) -> None:
    channel = journaled.client().channel()
    retry = arguments(queue_type, "all", x_delayed_retry_min=10_000)
    channel.send(method(Queue.Declare, queue="q", durable=True), table(retry))
    journaled.journal.commit()
    channel.receive(Queue.DeclareOk)
    publish(channel, b"1", b"2")
    got = channel.get("q")
    assert got is not None
    channel.reject(got.delivery_tag)
    journaled.journal.commit()
    journaled.advance(4)
    journaled.crash_and_recover()
    channel = journaled.client().channel()
    assert channel.drain("q") == [b"2"]
    channel.consume("q")
    assert waits_for(journaled, channel, 6_000).body == b"1"
    channel.ack(0, multiple=True)
    journaled.journal.commit()
    assert not any(kind == "return" for kind, _ in journaled.journal.store.definitions)
