"""Who gets the next message: prefetch, turns, priorities, single active consumers (5.6, 7.3)."""

from __future__ import annotations

import pytest

from amqpd.config import Limits
from tests.conversation import BrokerUnderTest, Channel

Q = "queue 'q' in vhost '/'"


def publish(channel: Channel, *bodies: bytes) -> None:
    for body in bodies:
        channel.publish("", "q", body)


# Prefetch


def test_prefetch_holds_for_consumers_that_start_later(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.consume("q", "before")
    channel.qos(1)
    publish(channel, b"1", b"2", b"3")
    assert channel.bodies() == [b"1", b"2", b"3"]
    channel.cancel("before")
    channel.consume("q", "after")
    publish(channel, b"4", b"5")
    assert channel.bodies() == [b"4"]


def test_each_consumer_has_a_window_of_its_own(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.qos(2)
    channel.consume("q", "a")
    channel.qos(1)
    channel.consume("q", "b")
    publish(channel, b"1", b"2", b"3", b"4", b"5")
    deliveries = channel.deliveries()
    assert [item.consumer_tag for item in deliveries] == ["a", "b", "a"]
    channel.ack(2)
    assert [item.consumer_tag for item in channel.deliveries()] == ["b"]
    channel.ack(1)
    assert [item.consumer_tag for item in channel.deliveries()] == ["a"]


def test_a_window_of_the_whole_channel(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.qos(2, of_channel=True)
    channel.consume("q", "a")
    channel.consume("q", "b")
    publish(channel, b"1", b"2", b"3", b"4")
    assert channel.bodies() == [b"1", b"2"]
    channel.ack(1)
    assert channel.bodies() == [b"3"]
    channel.qos(3, of_channel=True)
    assert channel.bodies() == [b"4"]
    publish(channel, b"5", b"6")
    channel.expect_nothing()
    channel.qos(0, of_channel=True)
    assert channel.bodies() == [b"5", b"6"]


def test_a_window_of_the_channel_counts_consumers_deliveries_alone(channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, b"1", b"2", b"3", b"4")
    channel.qos(2, of_channel=True)
    assert channel.get("q") is not None
    assert channel.get("q") is not None
    channel.consume("q", "a")
    assert channel.bodies() == [b"3", b"4"]


def test_a_window_of_the_channel_counts_what_was_sent_before(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.consume("q", "a")
    publish(channel, b"1", b"2")
    assert channel.bodies() == [b"1", b"2"]
    channel.qos(2, of_channel=True)
    publish(channel, b"3")
    channel.expect_nothing()
    channel.ack(1)
    assert channel.bodies() == [b"3"]


def test_both_windows_at_once(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.qos(2)
    channel.qos(3, of_channel=True)
    channel.consume("q", "a")
    channel.consume("q", "b")
    publish(channel, *(b"%d" % number for number in range(6)))
    assert [item.consumer_tag for item in channel.deliveries()] == ["a", "b", "a"]
    channel.ack(2)
    assert [item.consumer_tag for item in channel.deliveries()] == ["b"]


def test_windows_of_channels_are_their_own(channel: Channel) -> None:
    channel.queue_declare("q")
    other = channel.client.channel()
    channel.qos(1, of_channel=True)
    channel.consume("q", "a")
    other.consume("q", "b")
    publish(channel, b"1", b"2", b"3")
    assert channel.bodies() == [b"1"]
    assert other.bodies() == [b"2", b"3"]


def test_automatic_acknowledgement_knows_no_window(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.qos(1)
    channel.qos(1, of_channel=True)
    channel.consume("q", "a", no_ack=True)
    publish(channel, b"1", b"2", b"3")
    assert channel.bodies() == [b"1", b"2", b"3"]


def test_prefetch_size_is_not_supported(channel: Channel) -> None:
    with channel.client.refuses(540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)", (60, 10)):
        channel.qos(1, size=10)


def test_global_windows_by_profile() -> None:
    """4.3 takes global=1 for global=0."""
    channel = BrokerUnderTest(compat="4.3").client().channel()
    channel.queue_declare("q", durable=True)
    channel.qos(1, of_channel=True)
    channel.consume("q", "a")
    channel.consume("q", "b")
    publish(channel, b"1", b"2", b"3")
    assert channel.bodies() == [b"1", b"2"]


def test_settling_many_refills_all_windows(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.qos(2)
    channel.consume("q", "a")
    channel.consume("q", "b")
    publish(channel, *(b"%d" % number for number in range(8)))
    assert len(channel.deliveries()) == 4
    channel.ack(4, multiple=True)
    assert [item.body for item in channel.deliveries()] == [b"4", b"5", b"6", b"7"]


def test_a_cancelled_consumer_is_never_served_again(channel: Channel) -> None:
    """Also when its window opens afterwards."""
    channel.queue_declare("q")
    channel.qos(1)
    channel.consume("q", "a")
    publish(channel, b"1", b"2", b"3")
    assert channel.bodies() == [b"1"]
    channel.cancel("a")
    channel.ack(1)
    channel.expect_nothing()
    assert channel.counts("q") == (2, 0)


# Turns


def test_consumers_take_turns(channel: Channel) -> None:
    channel.queue_declare("q")
    for tag in "abc":
        channel.consume("q", tag)
    publish(channel, *(b"%d" % number for number in range(99)))
    tags = [item.consumer_tag for item in channel.deliveries()]
    assert tags == ["a", "b", "c"] * 33


def test_a_consumer_without_room_is_passed_over(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.qos(1)
    channel.consume("q", "a")
    channel.qos(0)
    channel.consume("q", "b")
    publish(channel, b"1", b"2", b"3", b"4")
    assert [item.consumer_tag for item in channel.deliveries()] == ["a", "b", "b", "b"]
    channel.ack(1)
    publish(channel, b"5", b"6")
    assert sorted(item.consumer_tag for item in channel.deliveries()) == ["a", "b"]


# Priorities


def test_higher_priority_first_and_lower_while_it_is_busy(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.qos(2)
    channel.consume("q", "low", arguments={"x-priority": -1})
    channel.consume("q", "middle")
    channel.consume("q", "high", arguments={"x-priority": 10})
    publish(channel, *(b"%d" % number for number in range(7)))
    tags = [item.consumer_tag for item in channel.deliveries()]
    assert tags == ["high", "high", "middle", "middle", "low", "low"]
    channel.ack(1)
    assert [item.consumer_tag for item in channel.deliveries()] == ["high"]
    channel.ack(5)
    channel.ack(2)
    publish(channel, b"7", b"8", b"9")
    assert [item.consumer_tag for item in channel.deliveries()] == ["high", "low"]


def test_a_window_of_the_channel_opens_for_those_of_high_priority(channel: Channel) -> None:
    """As with RabbitMQ, whose queues let all of a channel go on at once."""
    channel.queue_declare("q")
    publish(channel, *(b"%d" % number for number in range(6)))
    channel.qos(1, of_channel=True)
    for tag, priority in (("low", 0), ("lower", -1), ("high", 1), ("as high", 1)):
        channel.consume("q", tag, arguments={"x-priority": priority})
    tags = [item.consumer_tag for item in channel.deliveries()]
    for delivery_tag in range(1, 6):
        channel.ack(delivery_tag)
        tags += [item.consumer_tag for item in channel.deliveries()]
    assert tags == ["low", "high", "as high", "high", "as high", "high"]


def test_turns_within_a_priority(channel: Channel) -> None:
    channel.queue_declare("q")
    for tag in ("a", "b"):
        channel.consume("q", tag, arguments={"x-priority": 5})
    channel.consume("q", "c")
    publish(channel, *(b"%d" % number for number in range(6)))
    assert [item.consumer_tag for item in channel.deliveries()] == ["a", "b"] * 3


# Single active consumer


SINGLE = {"x-single-active-consumer": True}


def test_the_first_consumer_is_active(channel: Channel) -> None:
    """The others wait, whatever their priority, and are counted."""
    channel.queue_declare("q", arguments=SINGLE)
    for tag, priority in (("a", 0), ("b", 0), ("c", 5)):
        channel.consume("q", tag, arguments={"x-priority": priority})
    publish(channel, b"1", b"2", b"3")
    assert [item.consumer_tag for item in channel.deliveries()] == ["a"] * 3
    assert channel.counts("q") == (0, 3)


def test_the_next_takes_over_at_once(channel: Channel) -> None:
    """The one of highest priority, then the oldest; even with deliveries of the old one open."""
    channel.queue_declare("q", arguments=SINGLE)
    for tag, priority in (("a", 0), ("b", 0), ("c", 5), ("d", 5)):
        channel.consume("q", tag, arguments={"x-priority": priority})
    publish(channel, b"1")
    for tag in "acdb":
        assert channel.deliveries()[-1].consumer_tag == tag
        channel.cancel(tag)
        publish(channel, b"2")
    channel.expect_nothing()
    assert channel.counts("q") == (1, 0)


@pytest.mark.parametrize("ending", ["channel", "connection", "drop"])
def test_the_next_takes_over_when_the_active_ones_channel_ends(
    broker: BrokerUnderTest, ending: str
) -> None:
    one, other = broker.client().channel(), broker.client().channel()
    one.queue_declare("q", arguments=SINGLE)
    one.consume("q", "a")
    one.consume("q", "b")
    other.consume("q", "c")
    publish(other, b"1", b"2")
    assert one.bodies() == [b"1", b"2"]
    match ending:
        case "channel":
            one.close()
        case "connection":
            one.client.close()
        case _:
            one.client.drop()
    deliveries = other.deliveries()
    assert [(item.body, item.redelivered) for item in deliveries] == [(b"1", True), (b"2", True)]


def test_a_busy_active_consumer_stays_active(channel: Channel) -> None:
    channel.queue_declare("q", arguments=SINGLE)
    channel.qos(1)
    channel.consume("q", "a")
    channel.consume("q", "b")
    publish(channel, b"1", b"2")
    assert channel.bodies() == [b"1"]
    channel.ack(1)
    assert [item.consumer_tag for item in channel.deliveries()] == ["a"]


def test_a_waiting_consumer_goes_away_unnoticed(channel: Channel) -> None:
    channel.queue_declare("q", arguments=SINGLE)
    channel.consume("q", "a")
    channel.consume("q", "b")
    channel.cancel("b")
    publish(channel, b"1")
    assert [item.consumer_tag for item in channel.deliveries()] == ["a"]


def test_get_beside_a_single_active_consumer(channel: Channel) -> None:
    channel.queue_declare("q", arguments=SINGLE)
    channel.qos(1)
    channel.consume("q", "a")
    publish(channel, b"1", b"2")
    got = channel.client.channel().get("q")
    assert got is not None
    assert got.body == b"2"


def test_exclusive_consumers_and_single_active_do_not_go_together(channel: Channel) -> None:
    channel.queue_declare("q", arguments=SINGLE)
    with channel.refuses(403, f"ACCESS_REFUSED - {Q} in exclusive use", (60, 20)):
        channel.consume("q", exclusive=True)


# Peers that do not read


def stalled() -> tuple[Channel, Channel]:
    """A consumer that does not read, and a publisher, on a broker that keeps 1 KB for each."""
    broker = BrokerUnderTest(limits=Limits(unsent_bytes_max=1000))
    consumer, publisher = broker.client().channel(), broker.client().channel()
    consumer.queue_declare("q")
    consumer.consume("q", "a", no_ack=True)
    consumer.client.reading = False
    return consumer, publisher


def test_deliveries_pause_for_a_peer_that_does_not_read() -> None:
    consumer, publisher = stalled()
    publish(publisher, *(b"x" * 100 for _ in range(100)))
    ready, _ = publisher.counts("q")
    assert 80 < ready < 100
    heard = 0
    for _ in range(100):
        consumer.client.read()
        heard += len(consumer.deliveries())
    assert heard == 100


def test_others_are_served_meanwhile() -> None:
    _, publisher = stalled()
    publish(publisher, *(b"x" * 100 for _ in range(20)))
    ready, _ = publisher.counts("q")
    publisher.consume("q", "b", no_ack=True)
    assert len(publisher.deliveries()) == ready
    publish(publisher, b"1", b"2", b"3")
    assert publisher.bodies() == [b"1", b"2", b"3"]


def test_what_a_dying_connection_gives_back_is_not_served_to_itself(
    broker: BrokerUnderTest,
) -> None:
    """With automatic acknowledgement it would be lost; the simulator found it."""
    client, other = broker.client(), broker.client()
    first, second = client.channel(), client.channel()
    first.queue_declare("q")
    first.qos(1)
    first.consume("q")
    first.publish("", "q", b"unacknowledged")
    second.consume("q", no_ack=True)
    client.drop()
    got = other.channel().get("q")
    assert got is not None
    assert (got.body, got.redelivered) == (b"unacknowledged", True)
