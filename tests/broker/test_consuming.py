"""Consuming: consume, cancel, deliveries and their tags, settling, get, recover (reference 5.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from amqpd.commands import Basic
from tests.conversation import BrokerUnderTest, Channel, Delivery, method

Q = "queue 'q' in vhost '/'"


def fill(channel: Channel, count: int, queue: str = "q") -> list[bytes]:
    """A queue of that many messages: 1, 2, 3 ..."""
    channel.queue_declare(queue)
    bodies = [b"%d" % number for number in range(1, count + 1)]
    for body in bodies:
        channel.publish("", queue, body)
    return bodies


# Consume and cancel


def test_consume_ok_comes_first(channel: Channel) -> None:
    fill(channel, 2)
    channel.send(method(Basic.Consume, queue="q", consumer_tag="t"))
    assert channel.take(Basic.ConsumeOk).consumer_tag == "t"
    first, second = channel.deliveries()
    assert first == Delivery("t", 1, False, "", "q", b"\x00\x00", b"1")
    assert second == Delivery("t", 2, False, "", "q", b"\x00\x00", b"2")


def test_consume_from_a_missing_queue(channel: Channel) -> None:
    with channel.refuses(404, f"NOT_FOUND - no {Q}", (60, 20)):
        channel.consume("q")


def test_a_consumer_tag_cannot_be_used_twice(channel: Channel) -> None:
    fill(channel, 0)
    channel.consume("q", "t")
    channel.client.channel(9).consume("q", "t")
    with channel.client.refuses(530, "NOT_ALLOWED - attempt to reuse consumer tag 't'", (60, 20)):
        channel.consume("nope", "t")


def test_a_cancelled_tag_is_free(channel: Channel) -> None:
    fill(channel, 0)
    for _ in range(2):
        channel.consume("q", "t")
        channel.cancel("t")


def test_cancel(channel: Channel) -> None:
    """No delivery after cancel-ok; what was delivered can be settled. Unknown tags are fine."""
    fill(channel, 1)
    channel.consume("q", "t")
    (delivery,) = channel.deliveries()
    channel.cancel("t")
    channel.publish("", "q", b"2")
    channel.expect_nothing()
    assert channel.counts("q") == (1, 0)
    channel.nack(delivery.delivery_tag)
    assert channel.drain("q") == [b"1", b"2"]
    channel.cancel("t")
    channel.cancel("never")


def test_cancel_does_not_requeue(channel: Channel) -> None:
    fill(channel, 1)
    channel.consume("q", "t")
    (delivery,) = channel.deliveries()
    channel.cancel("t")
    assert channel.counts("q") == (0, 0)
    channel.ack(delivery.delivery_tag)
    channel.close()
    assert channel.open().counts("q") == (0, 0)


def test_exclusive_consumers(broker: BrokerUnderTest) -> None:
    one, other = broker.client().channel(), broker.client().channel()
    one.queue_declare("q")
    text = f"ACCESS_REFUSED - {Q} in exclusive use"
    one.consume("q", "a")
    with other.refuses(403, text, (60, 20)):
        other.consume("q", "b", exclusive=True)
    other.open()
    one.cancel("a")
    one.consume("q", "a", exclusive=True)
    for exclusive in (False, True):
        with other.refuses(403, text, (60, 20)):
            other.consume("q", "b", exclusive=exclusive)
        other.open()
    with one.refuses(403, text, (60, 20)):
        one.consume("q", "b")
    other.consume("q", "b", exclusive=True)


def test_an_exclusive_consumer_leaves_get_alone(broker: BrokerUnderTest) -> None:
    one, other = broker.client().channel(), broker.client().channel()
    one.queue_declare("q")
    one.qos(1)
    one.consume("q", "a", exclusive=True)
    fill(one, 2)
    got = other.get("q")
    assert got is not None
    assert got.body == b"2"


def test_no_local_is_ignored(channel: Channel) -> None:
    fill(channel, 0)
    channel.consume("q", "t", no_local=True)
    channel.publish("", "q", b"1")
    assert channel.bodies() == [b"1"]


@pytest.mark.parametrize(
    ("priority", "got"), [("high", "longstr"), (1.5, "double"), (True, "bool"), (None, "void")]
)
def test_a_priority_that_is_no_integer(channel: Channel, priority: Any, got: str) -> None:
    fill(channel, 0)
    text = f"invalid arg 'x-priority' for {Q}: \"expected integer, got {got}\""
    with channel.refuses(406, f"PRECONDITION_FAILED - {text}", (60, 20)):
        channel.consume("q", arguments={"x-priority": priority})


def test_unknown_consumer_arguments(channel: Channel) -> None:
    fill(channel, 1)
    channel.consume("q", arguments={"x-foo": ["bar"], "x-priority": ("l", -(2**40))})
    assert channel.bodies() == [b"1"]


# Delivery tags


def test_one_counter_for_all_deliveries_of_a_channel(channel: Channel) -> None:
    fill(channel, 6)
    got = channel.get("q")
    assert got is not None
    assert got.delivery_tag == 1
    got = channel.get("q", no_ack=True)
    assert got is not None
    assert got.delivery_tag == 2
    channel.qos(1)
    channel.consume("q", "a")
    assert [delivery.delivery_tag for delivery in channel.deliveries()] == [3]
    channel.consume("q", "b", no_ack=True)
    assert [delivery.delivery_tag for delivery in channel.deliveries()] == [4, 5, 6]
    other = channel.client.channel()
    other.publish("", "q", b"7")
    assert [delivery.delivery_tag for delivery in channel.deliveries()] == [7]
    channel.close()
    got = channel.open().get("q")
    assert got is not None
    assert got.delivery_tag == 1


@pytest.mark.parametrize(
    ("settle", "ids"),
    [
        (Channel.ack, (60, 80)),
        (Channel.nack, (60, 120)),
        (Channel.reject, (60, 90)),
    ],
)
def test_settling_what_is_not_there(
    channel: Channel, settle: Callable[[Channel, int], None], ids: tuple[int, int]
) -> None:
    """Never delivered, settled before, delivered as settled, or delivered elsewhere."""
    other = channel.client.channel()
    for tag in (99, 1, 2, 0):
        fill(channel, 2)
        assert channel.get("q") is not None
        assert channel.get("q", no_ack=True) is not None
        channel.ack(1)
        settle(channel, tag)
        text = f"PRECONDITION_FAILED - unknown delivery tag {tag}"
        channel.expect_closed(406, text, ids)
        channel.open()
    assert channel.get("q") is None
    fill(channel, 1)
    assert channel.get("q") is not None
    settle(other, 1)
    other.expect_closed(406, "PRECONDITION_FAILED - unknown delivery tag 1", ids)


@pytest.mark.parametrize(("settle", "ids"), [(Channel.ack, (60, 80)), (Channel.nack, (60, 120))])
def test_settling_many_up_to_what_is_not_there(
    channel: Channel, settle: Callable[..., None], ids: tuple[int, int]
) -> None:
    fill(channel, 2)
    assert channel.get("q") is not None
    assert channel.get("q") is not None
    settle(channel, 3, multiple=True)
    channel.expect_closed(406, "PRECONDITION_FAILED - unknown delivery tag 3", ids)
    channel.open()
    # Nothing of it was done.
    assert channel.counts("q") == (2, 0)


def test_settling_many_up_to_one_settled_before(channel: Channel) -> None:
    fill(channel, 3)
    for _ in range(3):
        assert channel.get("q") is not None
    channel.ack(2)
    channel.ack(2, multiple=True)
    channel.expect_closed(406, "PRECONDITION_FAILED - unknown delivery tag 2", (60, 80))


def test_ack_many(channel: Channel) -> None:
    fill(channel, 5)
    for _ in range(5):
        assert channel.get("q") is not None
    channel.ack(2)
    channel.ack(3, multiple=True)
    channel.nack(4)
    channel.close()
    assert channel.open().drain("q") == [b"4", b"5"]


@pytest.mark.parametrize("outstanding", [0, 3])
def test_tag_zero_with_multiple_is_everything(channel: Channel, outstanding: int) -> None:
    fill(channel, outstanding)
    for _ in range(outstanding):
        assert channel.get("q") is not None
    channel.ack(0, multiple=True)
    channel.nack(0, multiple=True)
    channel.close()
    assert channel.open().counts("q") == (0, 0)


# Requeueing


def test_a_rejected_message_is_dropped(channel: Channel) -> None:
    fill(channel, 3)
    for _ in range(3):
        assert channel.get("q") is not None
    channel.reject(1, requeue=False)
    channel.nack(2, requeue=False)
    channel.nack(3, multiple=True, requeue=False)
    channel.close()
    assert channel.open().counts("q") == (0, 0)


def test_a_requeued_message_returns_to_its_place(channel: Channel) -> None:
    bodies = fill(channel, 5)
    tags = []
    for _ in range(4):
        got = channel.get("q")
        assert got is not None
        tags.append(got.delivery_tag)
    channel.nack(tags[2])
    channel.reject(tags[0])
    channel.nack(tags[3])
    channel.nack(tags[1])
    seen = []
    while (got := channel.get("q")) is not None:
        seen.append((got.body, got.redelivered))
    assert seen == [(body, body != b"5") for body in bodies]


def test_places_among_several_consumers(broker: BrokerUnderTest) -> None:
    one, other = broker.client().channel(), broker.client().channel()
    one.queue_declare("q")
    for channel in (one, other):
        channel.qos(3)
        channel.consume("q", "t")
    fill(one, 8)
    assert one.bodies() == [b"1", b"3", b"5"]
    assert other.bodies() == [b"2", b"4", b"6"]
    one.cancel("t")
    other.cancel("t")
    other.nack(2, multiple=True)
    one.nack(3)
    assert [got.body for got in gets(broker, 4)] == [b"2", b"4", b"5", b"7"]
    other.client.drop()
    one.close()
    assert [got.body for got in gets(broker, 6)] == [b"1", b"2", b"3", b"4", b"5", b"6"]


def gets(broker: BrokerUnderTest, count: int) -> list[Any]:
    """The first messages of `q`, looked at on a connection of their own that gives them back."""
    channel = broker.client().channel()
    got = [channel.get("q") for _ in range(count)]
    channel.client.close()
    return got


def test_a_requeued_message_goes_to_a_consumer_at_once(channel: Channel) -> None:
    fill(channel, 1)
    channel.consume("q", "t")
    (delivery,) = channel.deliveries()
    assert not delivery.redelivered
    channel.reject(delivery.delivery_tag)
    (delivery,) = channel.deliveries()
    assert delivery.redelivered
    assert delivery.delivery_tag == 2
    channel.ack(2)
    channel.publish("", "q", b"2")
    assert [delivery.redelivered for delivery in channel.deliveries()] == [False]


def test_nack_many_redelivers_in_order(channel: Channel) -> None:
    bodies = fill(channel, 4)
    channel.consume("q", "t")
    assert channel.bodies() == bodies
    channel.nack(3, multiple=True)
    deliveries = channel.deliveries()
    assert [delivery.body for delivery in deliveries] == bodies[:3]
    assert all(delivery.redelivered for delivery in deliveries)
    assert [delivery.delivery_tag for delivery in deliveries] == [5, 6, 7]


def test_recover(channel: Channel) -> None:
    """recover-ok; every unacknowledged delivery comes again, got or consumed."""
    bodies = fill(channel, 3)
    assert channel.get("q") is not None
    channel.consume("q", "t")
    assert channel.bodies() == bodies[1:]
    channel.ack(2)
    channel.recover()
    deliveries = channel.deliveries()
    assert sorted(delivery.body for delivery in deliveries) == [b"1", b"3"]
    assert all(delivery.redelivered for delivery in deliveries)
    assert sorted(delivery.delivery_tag for delivery in deliveries) == [4, 5]


def test_recover_async_is_not_answered(channel: Channel) -> None:
    fill(channel, 1)
    assert channel.get("q") is not None
    channel.send(method(Basic.RecoverAsync, requeue=True))
    channel.expect_nothing()
    assert channel.counts("q") == (1, 0)


@pytest.mark.parametrize(
    ("said", "ids"),
    [(Basic.Recover, (60, 110)), (Basic.RecoverAsync, (60, 100))],
)
def test_recover_without_requeue(
    channel: Channel, said: type[Basic.Recover], ids: tuple[int, int]
) -> None:
    channel.send(method(said, requeue=False))
    channel.client.expect_closed(540, "NOT_IMPLEMENTED - requeue=false", ids)


def test_redelivered_tells_whether_it_was_delivered_before(channel: Channel) -> None:
    """Prefetched by a consumer that ended without looking at it counts."""
    fill(channel, 2)
    other = channel.client.channel()
    other.qos(1)
    other.consume("q", "t")
    other.close()
    got = [channel.get("q"), channel.get("q")]
    assert [item.redelivered for item in got if item is not None] == [True, False]


# Get


def test_get(channel: Channel) -> None:
    fill(channel, 3)
    got = channel.get("q")
    assert got is not None
    assert (got.body, got.redelivered, got.message_count) == (b"1", False, 2)
    assert (got.exchange, got.routing_key) == ("", "q")
    got = channel.get("q", no_ack=True)
    assert got is not None
    assert got.message_count == 1
    channel.close()
    assert channel.open().drain("q") == [b"1", b"3"]
    assert channel.get("q") is None


def test_get_from_a_missing_queue(channel: Channel) -> None:
    with channel.refuses(404, f"NOT_FOUND - no {Q}", (60, 70)):
        channel.get("q")


def test_get_ignores_prefetch(channel: Channel) -> None:
    fill(channel, 3)
    channel.qos(1)
    channel.qos(1, of_channel=True)
    assert channel.get("q") is not None
    assert channel.get("q") is not None
    assert channel.get("q") is not None
