"""Queues with x-message-deduplication: what is in the queue does not come in a second time."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker.policies import clear_policy, set_policy
from amqpd.commands import Queue
from amqpd.config import Compat, Limits
from tests.conversation import (
    BrokerUnderTest,
    Channel,
    Delivery,
    Got,
    method,
    properties,
    table,
)

HEADER = "x-deduplication-header"
ON = {"x-message-deduplication": True}


@pytest.fixture
def channel(broker: BrokerUnderTest) -> Channel:
    """A channel beside queue q."""
    channel = broker.client().channel()
    channel.queue_declare("q", arguments=ON)
    return channel


def publish(channel: Channel, *values: Any, mode: int = 1, **more: Any) -> None:
    for value in values:
        said = properties(headers={HEADER: value}, delivery_mode=mode, **more)
        channel.publish("", "q", str(value).encode(), said)


def got(channel: Channel) -> Got:
    found = channel.get("q")
    assert found is not None
    return found


@pytest.mark.parametrize("value", ["this", 42, 4.2, None, False])
def test_one_of_a_kind_until_it_is_acknowledged(channel: Channel, value: Any) -> None:
    publish(channel, value, value, value)
    first = got(channel)
    assert channel.get("q") is None
    publish(channel, value)
    assert channel.get("q") is None
    channel.ack(first.delivery_tag)
    publish(channel, value, value)
    assert len(channel.drain("q")) == 1


def test_without_the_header_everything_comes_in(channel: Channel) -> None:
    for _ in range(3):
        channel.publish("", "q", b"m")
        channel.publish("", "q", b"m", properties(headers={"other": "a"}))
    assert len(channel.drain("q")) == 6


def test_by_whatever_exchange(channel: Channel) -> None:
    channel.queue_bind("q", "amq.fanout")
    publish(channel, "a")
    channel.publish("amq.fanout", "", b"m", properties(headers={HEADER: "a"}))
    assert channel.drain("q") == [b"a"]


def test_another_queue_has_its_own(channel: Channel) -> None:
    for queue in ("other", "plain"):
        channel.queue_declare(queue, arguments=ON if queue == "other" else {})
        channel.queue_bind(queue, "amq.fanout")
    channel.queue_bind("q", "amq.fanout")
    publish(channel, "a")
    for _ in range(2):
        channel.publish("amq.fanout", "", b"m", properties(headers={HEADER: "a"}))
    counts = [len(channel.drain(queue)) for queue in ("q", "other", "plain")]
    assert counts == [1, 1, 2]


def test_gone_by_reject(channel: Channel) -> None:
    publish(channel, "a")
    channel.reject(got(channel).delivery_tag)
    publish(channel, "a")
    first = got(channel)
    assert first.redelivered
    channel.reject(first.delivery_tag, requeue=False)
    publish(channel, "a", "a")
    assert len(channel.drain("q")) == 1


@pytest.mark.parametrize("mode", [1, 2])
def test_gone_by_purge_and_by_get_without_ack(journaled: BrokerUnderTest, mode: int) -> None:
    channel = journaled.client().channel()
    channel.queue_declare("q", arguments=ON)
    publish(channel, "a", "b", mode=mode)
    held = got(channel)
    assert channel.queue_purge("q") == 1
    publish(channel, "a", "b", mode=mode)
    assert channel.drain("q") == [b"b"]
    publish(channel, "b", mode=mode)
    channel.ack(held.delivery_tag)
    publish(channel, "a", mode=mode)
    assert channel.drain("q") == [b"b", b"a"]


def test_gone_by_time(broker: BrokerUnderTest, channel: Channel) -> None:
    publish(channel, "a", expiration="500")
    broker.advance(0.4)
    publish(channel, "a")
    assert channel.counts("q")[0] == 1
    broker.advance(0.2)
    publish(channel, "a", "a")
    assert channel.drain("q") == [b"a"]


def test_gone_by_length(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.queue_declare("q", arguments={**ON, "x-max-length": 1})
    publish(channel, "a", "b", "b", "a")
    assert channel.drain("q") == [b"a"]


def test_delivered_without_acknowledgement(channel: Channel) -> None:
    publish(channel, "a", "a")
    channel.consume("q", "c", no_ack=True)
    publish(channel, "a", "a")
    assert [delivery.body for delivery in channel.deliveries()] == [b"a"] * 3


def test_delivered_and_not_yet_acknowledged(channel: Channel) -> None:
    channel.consume("q", "c")
    publish(channel, "a", "a")
    delivery = channel.take(Delivery)
    channel.expect_nothing()
    channel.ack(delivery.delivery_tag)
    publish(channel, "a")
    assert channel.take(Delivery).body == b"a"


def test_what_a_channel_leaves_behind_is_still_in_the_queue(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    other = broker.client().channel()
    publish(channel, "a")
    assert other.get("q") is not None
    other.close()
    publish(channel, "a")
    assert channel.drain("q") == [b"a"]


@pytest.mark.parametrize(("compat", "buried"), [("3.13", []), ("4.2", [b"a"])])
def test_a_duplicate_is_refused(compat: Compat, buried: list[bytes]) -> None:
    """Seen by its publisher as a nack; from RabbitMQ 4 on also a dead letter."""
    channel = BrokerUnderTest(compat=compat).client().channel()
    channel.queue_declare("dead")
    channel.queue_bind("dead", "amq.fanout")
    channel.queue_declare("q", arguments={**ON, "x-dead-letter-exchange": "amq.fanout"})
    channel.confirm_select()
    publish(channel, "a", "a")
    assert [confirm.ack for confirm in channel.confirms()] == [True, False]
    assert channel.drain("dead") == buried
    assert channel.drain("q") == [b"a"]


def test_dead_letters_that_are_there_already(channel: Channel) -> None:
    dying = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
    channel.queue_declare("source", arguments=dying)
    publish(channel, "a")
    for value in ("a", "b"):
        channel.publish("", "source", value.encode(), properties(headers={HEADER: value}))
        found = channel.get("source")
        assert found is not None
        channel.reject(found.delivery_tag, requeue=False)
    assert channel.drain("q") == [b"a", b"b"]


def test_with_priorities(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.queue_declare("q", arguments={**ON, "x-max-priority": 5})
    publish(channel, "a", "b", priority=1)
    publish(channel, "a", "c", priority=5)
    assert channel.drain("q") == [b"c", b"a", b"b"]
    publish(channel, "a", "b", "c", priority=3)
    assert len(channel.drain("q")) == 3


def test_turned_off(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.queue_declare("q", arguments={"x-message-deduplication": False})
    publish(channel, "a", "a")
    assert len(channel.drain("q")) == 2


def test_a_deleted_queue_leaves_nothing_behind(broker: BrokerUnderTest, channel: Channel) -> None:
    publish(channel, "a")
    channel.queue_delete("q")
    assert broker.core.virtual_hosts["/"].refusing_queues == 0
    channel.queue_declare("q", arguments=ON)
    publish(channel, "a", "a")
    assert channel.drain("q") == [b"a"]


def test_after_a_crash_the_queue_knows_what_it_has(journaled: BrokerUnderTest) -> None:
    channel = journaled.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True), table(ON))
    journaled.journal.commit()
    channel.take_all()
    publish(channel, "kept", "taken", mode=2)
    publish(channel, "transient")
    journaled.journal.commit()
    channel.ack(got(channel).delivery_tag)
    publish(channel, "kept", mode=2)
    journaled.journal.commit()
    publish(channel, "lost", mode=2)
    journaled.crash_and_recover()
    channel = journaled.client().channel()
    publish(channel, "taken", "kept", "lost", "lost", "transient", mode=2)
    assert channel.drain("q") == [b"taken", b"kept", b"lost", b"transient"]
    publish(channel, "kept", mode=2)
    assert channel.drain("q") == [b"kept"]


# By policy


def put(broker: BrokerUnderTest, on: bool) -> None:
    definition = {"x-message-deduplication": on}
    set_policy(broker.core, "/", "dedup", pattern="^q", definition=definition)
    broker.turn()


def test_a_policy_holds_for_what_comes_and_goes_again(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.queue_declare("q")
    publish(channel, "before", "a")
    put(broker, True)
    publish(channel, "a", "a", "b", "b")
    clear_policy(broker.core, "/", "dedup")
    broker.turn()
    publish(channel, "b")
    assert channel.drain("q") == [b"before", b"a", b"a", b"b", b"b"]
    assert broker.core.virtual_hosts["/"].refusing_queues == 0


def test_a_policy_wins_over_the_argument(broker: BrokerUnderTest, channel: Channel) -> None:
    put(broker, False)
    publish(channel, "a", "a")
    assert channel.drain("q") == [b"a", b"a"]
    clear_policy(broker.core, "/", "dedup")
    publish(channel, "a", "a")
    assert channel.drain("q") == [b"a"]
    channel.queue_delete("q")
    assert broker.core.virtual_hosts["/"].refusing_queues == 0


def test_a_policy_leaves_quorum_queues_alone(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum", **ON})
    put(broker, True)
    publish(channel, "a", "a")
    assert channel.drain("q") == [b"a", b"a"]


def test_what_was_handed_out_before_the_policy_came_is_no_concern_of_its(
    broker: BrokerUnderTest,
) -> None:
    channel = broker.client().channel()
    channel.queue_declare("q")
    publish(channel, "a")
    first = got(channel)
    put(broker, True)
    publish(channel, "a", "a")
    channel.ack(first.delivery_tag)
    publish(channel, "a")
    assert channel.drain("q") == [b"a"]


def test_a_policy_is_in_force_after_a_crash(journaled: BrokerUnderTest) -> None:
    channel = journaled.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True))
    put(journaled, True)
    publish(channel, "a", mode=2)
    journaled.journal.commit()
    journaled.crash_and_recover()
    channel = journaled.client().channel()
    publish(channel, "a", "b", "b", mode=2)
    assert channel.drain("q") == [b"a", b"b"]


def test_a_policy_that_comes_to_a_long_queue() -> None:
    """It goes on being on disk for the most part, and what is there comes back in its order."""
    limits = Limits(queue_memory_messages=8, queue_memory_bytes=1000, flow_wait_s=0)
    broker = BrokerUnderTest(journaling=True, limits=limits)
    channel = broker.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True))
    broker.journal.commit()
    channel.take_all()
    for number in range(40):
        publish(channel, number, mode=2)
        broker.journal.commit()
    queue = broker.core.virtual_hosts["/"].queues["q"]
    assert queue.resident <= 12
    put(broker, True)
    for number in range(30, 60):
        publish(channel, number, number, mode=2)
        broker.journal.commit()
    assert queue.resident <= 12
    assert channel.drain("q") == [b"%d" % number for number in (*range(40), *range(30, 60))]
    publish(channel, 59, mode=2)
    assert channel.drain("q") == [b"59"]
