"""Priority queues (reference 7.3)."""

from __future__ import annotations

import tracemalloc

import pytest

from amqpd.commands import Queue
from tests.conversation import BrokerUnderTest, Channel, method, properties, table


def publish(
    channel: Channel, body: bytes, priority: int | None, *, persistent: bool = False
) -> None:
    mode = 2 if persistent else None
    channel.publish("", "q", body, properties(priority=priority, delivery_mode=mode))


@pytest.fixture
def channel() -> Channel:
    channel = BrokerUnderTest().client().channel()
    channel.queue_declare("q", durable=True, arguments={"x-max-priority": 5})
    return channel


def test_the_highest_comes_first_and_equals_in_order(channel: Channel) -> None:
    for body, priority in ((b"a1", 1), (b"c3", 3), (b"none", None), (b"d3", 3), (b"b1", 1)):
        publish(channel, body, priority)
    assert channel.drain("q") == [b"c3", b"d3", b"a1", b"b1", b"none"]


def test_what_is_above_the_maximum_counts_as_the_maximum(channel: Channel) -> None:
    publish(channel, b"5", 5)
    publish(channel, b"200", 200)
    publish(channel, b"5 again", 5)
    assert channel.drain("q") == [b"5", b"200", b"5 again"]


def test_a_maximum_of_zero_is_one_level(channel: Channel) -> None:
    """Observed on 3.10.8."""
    channel.queue_declare("zero", arguments={"x-max-priority": 0})
    for priority in (0, 1, 5, None):
        channel.publish("", "zero", b"%r" % priority, properties(priority=priority))
    assert channel.drain("zero") == [b"0", b"1", b"5", b"None"]


def test_consumers_are_served_by_priority(channel: Channel) -> None:
    for priority in (0, 2, 1):
        publish(channel, b"%d" % priority, priority)
    channel.consume("q", no_ack=True)
    assert channel.bodies() == [b"2", b"1", b"0"]


def test_what_was_handed_out_when_it_came_returns_with_its_priority(channel: Channel) -> None:
    """Found by the simulator: it had no place in the order yet, and came back before all others."""
    channel.qos(1)
    channel.consume("q")
    publish(channel, b"low", 1)
    publish(channel, b"high", 4)
    (got,) = channel.deliveries()
    channel.cancel(got.consumer_tag)
    channel.nack(got.delivery_tag)
    assert channel.drain("q") == [b"high", b"low"]


def test_a_requeued_message_returns_to_its_place_within_its_priority(channel: Channel) -> None:
    for number in range(3):
        publish(channel, b"low %d" % number, 1)
    got = channel.get("q")
    assert got is not None
    publish(channel, b"high", 4)
    channel.nack(got.delivery_tag)
    assert channel.drain("q") == [b"high", b"low 0", b"low 1", b"low 2"]


def test_what_a_consumer_holds_is_not_overtaken(channel: Channel) -> None:
    channel.qos(1)
    channel.consume("q")
    publish(channel, b"low", 1)
    publish(channel, b"high", 4)
    (first,) = channel.deliveries()
    channel.ack(first.delivery_tag)
    assert [first.body, *channel.bodies()] == [b"low", b"high"]


def test_priorities_survive_a_crash() -> None:
    broker = BrokerUnderTest(journaling=True)
    channel = broker.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True), table({"x-max-priority": 9}))
    for number, priority in enumerate((1, 9, 1, 5)):
        publish(channel, b"%d:%d" % (priority, number), priority, persistent=True)
    broker.journal.commit()
    got = channel.get("q")
    assert got is not None
    channel.ack(got.delivery_tag)
    broker.turn()
    broker.journal.commit()
    broker.crash_and_recover()
    survivor = broker.client().channel()
    assert survivor.drain("q") == [b"5:3", b"1:0", b"1:2"]


def test_a_full_priority_queue_drops_its_head(channel: Channel) -> None:
    """RabbitMQ's documented surprise: the head is what has the highest priority."""
    arguments = {"x-max-priority": 5, "x-max-length": 2}
    channel.queue_declare("short", arguments=arguments)
    for priority in (1, 4, 2):
        channel.publish("", "short", b"%d" % priority, properties(priority=priority))
    assert channel.drain("short") == [b"2", b"1"]


def memory_of_queues(levels: int) -> int:
    """Octets that a hundred empty queues take, and one with a message of each of ten priorities."""
    channel = BrokerUnderTest().client().channel()
    channel.queue_declare("first", arguments={"x-max-priority": levels})
    tracemalloc.start()
    for number in range(100):
        channel.queue_declare(f"q{number}", arguments={"x-max-priority": levels})
    for priority in range(10):
        channel.publish("", "q0", b"x", properties(priority=priority))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size


def test_levels_cost_nothing_while_they_are_unused() -> None:
    """255 of them take no more memory than one: there is one heap, whatever the levels."""
    assert memory_of_queues(255) < 1.5 * memory_of_queues(1)
