"""Queues: declaring, binding, purging, deleting, and how they end (reference 5.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from amqpd.commands import Basic, Queue
from amqpd.config import Compat
from tests.conversation import CAPABILITIES, BrokerUnderTest, Channel, method, table

Q = "queue 'q' in vhost '/'"
LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could"
    " be originally declared on another connection or the exclusive property value does not match"
    " that of the original declaration."
)


# Declaring


def test_declare_counts_ready_messages_and_consumers(channel: Channel) -> None:
    channel.queue_declare("q")
    for body in (b"1", b"2", b"3"):
        channel.publish("", "q", body)
    assert channel.get("q") is not None
    ok = channel.queue_declare("q")
    assert (ok.queue, ok.message_count, ok.consumer_count) == ("q", 2, 0)
    channel.qos(1)
    channel.consume("q")
    assert channel.counts("q") == (1, 1)


def test_declare_passively(channel: Channel) -> None:
    """Whatever flags come along."""
    channel.queue_declare("q", durable=True, arguments={"x-max-priority": 5})
    ok = channel.queue_declare("q", passive=True, auto_delete=True, arguments={"x-expires": 0})
    assert ok.queue == "q"
    with channel.refuses(404, "NOT_FOUND - no queue 'nope' in vhost '/'", (50, 10)):
        channel.queue_declare("nope", passive=True)


@pytest.mark.parametrize(
    ("first", "again", "text"),
    [
        ({}, {"durable": True}, "'durable' for {q}: received 'true' but current is 'false'"),
        ({"durable": True}, {}, "'durable' for {q}: received 'false' but current is 'true'"),
        (
            {},
            {"auto_delete": True},
            "'auto_delete' for {q}: received 'true' but current is 'false'",
        ),
        (
            {"durable": True},
            {"auto_delete": True, "arguments": {"x-expires": 5}},
            "'durable' for {q}: received 'false' but current is 'true'",
        ),
        (
            {},
            {"auto_delete": True, "arguments": {"x-expires": 5}},
            "'auto_delete' for {q}: received 'true' but current is 'false'",
        ),
    ],
)
def test_declare_again_as_something_else(
    channel: Channel, first: dict[str, Any], again: dict[str, Any], text: str
) -> None:
    channel.queue_declare("q", **first)
    with channel.refuses(
        406, f"PRECONDITION_FAILED - inequivalent arg {text.format(q=Q)}", (50, 10)
    ):
        channel.queue_declare("q", **again)


def test_exclusive_queues_are_never_durable(channel: Channel) -> None:
    """So the durable bit does not count when they are declared again."""
    channel.queue_declare("q", exclusive=True, durable=True)
    channel.queue_declare("q", exclusive=True)


def test_transient_queues_by_profile() -> None:
    """4.3 denies transient queues that are not exclusive; before, they are permitted."""
    permitting: list[Compat] = ["3.13", "4.2"]
    for compat in permitting:
        BrokerUnderTest(compat=compat).client().channel().queue_declare("q")
    channel = BrokerUnderTest(compat="4.3").client().channel()
    channel.queue_declare("", exclusive=True)
    channel.queue_declare("d", durable=True)
    text = "Feature `transient_nonexcl_queues` is deprecated.\nIts use is not permitted"
    with channel.client.refuses(541, f"INTERNAL_ERROR - {text}", (50, 10)):
        channel.queue_declare("q")


# Exclusive queues


LOCKED_ACTIONS: list[tuple[Callable[[Channel], object], tuple[int, int]]] = [
    (lambda channel: channel.queue_declare("q", exclusive=True), (50, 10)),
    (lambda channel: channel.queue_declare("q"), (50, 10)),
    (lambda channel: channel.queue_declare("q", passive=True), (50, 10)),
    (lambda channel: channel.queue_delete("q"), (50, 40)),
    (lambda channel: channel.queue_purge("q"), (50, 30)),
    (lambda channel: channel.get("q"), (60, 70)),
    (lambda channel: channel.consume("q"), (60, 20)),
    (lambda channel: channel.queue_bind("q", "amq.direct", "k"), (50, 20)),
    (lambda channel: channel.queue_unbind("q", "amq.direct", "k"), (50, 50)),
]


@pytest.mark.parametrize(("action", "ids"), LOCKED_ACTIONS)
def test_an_exclusive_queue_is_locked_for_others(
    broker: BrokerUnderTest, action: Callable[[Channel], object], ids: tuple[int, int]
) -> None:
    owner, other = broker.client().channel(), broker.client().channel()
    owner.queue_declare("q", exclusive=True)
    owner.publish("", "q", b"1")
    owner.queue_bind("q", "amq.direct", "k")
    with other.refuses(405, LOCKED, ids):
        action(other)
    assert owner.counts("q") == (1, 0)


@pytest.mark.parametrize("exclusive", [True, False])
def test_redeclaring_with_another_exclusive_bit(channel: Channel, exclusive: bool) -> None:
    """405 also for the owner, whatever else differs."""
    channel.queue_declare("q", exclusive=exclusive)
    with channel.refuses(405, LOCKED, (50, 10)):
        channel.queue_declare("q", exclusive=not exclusive, durable=True, auto_delete=True)


def test_an_exclusive_queue_is_open_to_all_channels_of_its_connection(channel: Channel) -> None:
    channel.queue_declare("q", exclusive=True)
    other = channel.client.channel()
    other.publish("", "q", b"1")
    channel.close()
    assert other.drain("q") == [b"1"]


def test_anybody_may_publish_to_an_exclusive_queue(broker: BrokerUnderTest) -> None:
    owner, other = broker.client().channel(), broker.client().channel()
    owner.queue_declare("q", exclusive=True)
    other.publish("", "q", b"1", mandatory=True)
    other.expect_nothing()
    assert owner.drain("q") == [b"1"]


def test_an_exclusive_queue_ends_with_its_connection(broker: BrokerUnderTest) -> None:
    """Whichever way that ends; and the name is free before close-ok is out."""
    for ending in ("close", "drop", "refusal"):
        owner, other = broker.client().channel(), broker.client().channel()
        owner.queue_declare("q", exclusive=True)
        if ending == "close":
            owner.client.close()
        elif ending == "drop":
            owner.client.drop()
        else:
            owner.publish("", "q", immediate=True)
            owner.client.expect_closed(540, "NOT_IMPLEMENTED - immediate=true", (60, 40))
        other.queue_declare("q", exclusive=True)
        other.queue_delete("q")


# Auto-delete


def gone(channel: Channel, name: str = "q") -> None:
    """The queue does not exist."""
    with channel.refuses(404, f"NOT_FOUND - no queue '{name}' in vhost '/'", (50, 10)):
        channel.queue_declare(name, passive=True)


def test_auto_delete_when_the_last_consumer_is_cancelled(channel: Channel) -> None:
    channel.queue_declare("q", auto_delete=True)
    channel.consume("q", "a")
    channel.consume("q", "b")
    channel.cancel("a")
    assert channel.counts("q") == (0, 1)
    channel.cancel("b")
    channel.expect_nothing()
    gone(channel)


@pytest.mark.parametrize("ending", ["channel", "connection", "refusal", "drop"])
def test_auto_delete_when_the_consumers_end(broker: BrokerUnderTest, ending: str) -> None:
    channel, other = broker.client().channel(), broker.client().channel()
    channel.queue_declare("q", auto_delete=True)
    channel.publish("", "q", b"1")
    channel.consume("q", "a")
    channel.consume("q", "b")
    assert channel.bodies() == [b"1"]
    match ending:
        case "channel":
            channel.close()
        case "connection":
            channel.client.close()
        case "drop":
            channel.client.drop()
        case _:
            channel.publish("nope", "")
            text = "NOT_FOUND - no exchange 'nope' in vhost '/'"
            channel.expect_closed(404, text, (60, 40))
    gone(other)


def test_auto_delete_never_without_a_consumer(channel: Channel) -> None:
    """basic.get does not count."""
    channel.queue_declare("q", auto_delete=True)
    channel.publish("", "q", b"1")
    assert channel.drain("q") == [b"1"]
    channel.close()
    assert channel.open().counts("q") == (0, 0)


def test_auto_delete_while_others_hold_deliveries(channel: Channel) -> None:
    """What a cancelled consumer has not settled goes with the queue, and can still be settled."""
    channel.queue_declare("q", auto_delete=True)
    channel.publish("", "q", b"1")
    channel.consume("q", "a")
    (delivery,) = channel.deliveries()
    channel.cancel("a")
    channel.nack(delivery.delivery_tag)
    channel.expect_nothing()
    gone(channel)


# Bindings


def test_bind_needs_queue_and_exchange(channel: Channel) -> None:
    channel.queue_declare("q")
    with channel.refuses(404, "NOT_FOUND - no queue 'nope' in vhost '/'", (50, 20)):
        channel.queue_bind("nope", "amq.direct", "k")
    channel.open()
    with channel.refuses(404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (50, 20)):
        channel.queue_bind("q", "nope", "k")


def test_bind_with_both_missing(channel: Channel) -> None:
    """RabbitMQ 3.10.8 names the exchange."""
    with channel.refuses(404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (50, 20)):
        channel.queue_bind("nope", "nope", "k")


def test_bind_twice_is_one_binding(channel: Channel) -> None:
    channel.queue_declare("q")
    for _ in range(2):
        channel.queue_bind("q", "amq.direct", "k")
    channel.queue_unbind("q", "amq.direct", "k")
    channel.publish("amq.direct", "k")
    assert channel.counts("q") == (0, 0)


def test_bindings_differ_by_key_and_arguments(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.direct", "k")
    channel.queue_bind("q", "amq.direct", "k", {"a": 1})
    channel.queue_unbind("q", "amq.direct", "k")
    channel.publish("amq.direct", "k")
    assert channel.counts("q") == (1, 0)
    channel.queue_unbind("q", "amq.direct", "k", {"a": 2})
    channel.queue_unbind("q", "amq.direct", "k", {"a": 1})
    channel.publish("amq.direct", "k")
    assert channel.counts("q") == (1, 0)


def test_unbind_what_is_not_there_from_a_locked_queue(broker: BrokerUnderTest) -> None:
    """RabbitMQ 3.10.8: only where there is a binding, the lock is looked at."""
    broker.client().channel().queue_declare("q", exclusive=True)
    broker.client().channel().queue_unbind("q", "amq.direct", "k")


def test_unbind_what_is_not_there(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_unbind("q", "amq.direct", "k")
    channel.queue_unbind("q", "nope", "k")
    channel.queue_unbind("nope", "amq.direct", "k")
    channel.queue_unbind("nope", "nope", "k")


# Purge


def test_purge_takes_ready_messages_alone(channel: Channel) -> None:
    channel.queue_declare("q")
    for body in (b"1", b"2", b"3"):
        channel.publish("", "q", body)
    got = channel.get("q")
    assert got is not None
    assert channel.queue_purge("q") == 2
    assert channel.queue_purge("q") == 0
    channel.nack(got.delivery_tag)
    assert channel.drain("q") == [b"1"]
    with channel.refuses(404, "NOT_FOUND - no queue 'nope' in vhost '/'", (50, 30)):
        channel.queue_purge("nope")


# Delete


def test_delete_counts_ready_messages(channel: Channel) -> None:
    channel.queue_declare("q")
    for body in (b"1", b"2", b"3"):
        channel.publish("", "q", body)
    assert channel.get("q") is not None
    assert channel.queue_delete("q") == 2
    assert channel.queue_delete("q") == 0
    gone(channel)


@pytest.mark.parametrize("flags", [{"if_unused": True}, {"if_empty": True}])
def test_delete_what_is_not_there_with_flags(channel: Channel, flags: dict[str, bool]) -> None:
    assert channel.queue_delete("q", **flags) == 0


def test_delete_if_unused(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.consume("q", "t")
    with channel.refuses(406, f"PRECONDITION_FAILED - {Q} in use", (50, 40)):
        channel.queue_delete("q", if_unused=True)
    channel.open()
    assert channel.queue_delete("q", if_unused=True) == 0


def test_delete_if_empty(channel: Channel) -> None:
    """Only ready messages count."""
    channel.queue_declare("q")
    channel.publish("", "q", b"1")
    other = channel.client.channel()
    with other.refuses(406, f"PRECONDITION_FAILED - {Q} not empty", (50, 40)):
        other.queue_delete("q", if_empty=True)
    assert channel.get("q") is not None
    assert channel.queue_delete("q", if_empty=True) == 0


def test_delete_if_unused_and_empty(channel: Channel) -> None:
    """Of the two, that it is not empty comes first."""
    channel.queue_declare("q")
    channel.qos(1)
    channel.consume("q", "t")
    channel.publish("", "q", b"1")
    channel.publish("", "q", b"2")
    other = channel.client.channel()
    with other.refuses(406, f"PRECONDITION_FAILED - {Q} not empty", (50, 40)):
        other.queue_delete("q", if_empty=True, if_unused=True)


def test_deletion_cancels_consumers(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    deaf = broker.client(
        capabilities=[name for name in CAPABILITIES if name != "consumer_cancel_notify"]
    ).channel()
    channel.queue_declare("q")
    channel.qos(1)
    deaf.qos(1)
    channel.consume("q", "a")
    deaf.consume("q", "b")
    channel.publish("", "q", b"1")
    channel.publish("", "q", b"2")
    (delivery,) = channel.deliveries()
    assert deaf.bodies() == [b"2"]
    broker.client().channel().queue_delete("q")
    cancel = channel.take(Basic.Cancel)
    assert (cancel.consumer_tag, cancel.nowait) == ("a", True)
    deaf.expect_nothing()
    # What it had been sent can be settled until the channel ends, and the tag is free.
    channel.ack(delivery.delivery_tag)
    channel.queue_declare("q")
    channel.consume("q", "a")
    deaf.consume("q", "b")
    channel.publish("", "q", b"3")
    assert channel.bodies() == [b"3"]


def test_deletion_by_the_consuming_channel_itself(channel: Channel) -> None:
    """RabbitMQ 3.10.8: the consumer's own channel hears of it as well, after delete-ok."""
    channel.queue_declare("q")
    channel.consume("q", "a")
    channel.consume("q", "b")
    channel.send(method(Queue.Delete, queue="q"), table({}))
    assert channel.take(Queue.DeleteOk).message_count == 0
    assert channel.take(Basic.Cancel).consumer_tag == "a"
    assert channel.take(Basic.Cancel).consumer_tag == "b"


def test_deletion_without_an_answer_cancels_consumers(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.consume("q", "a")
    channel.send(method(Queue.Delete, queue="q", nowait=True), table({}))
    assert channel.take(Basic.Cancel).consumer_tag == "a"
    channel.expect_nothing()


def test_messages_of_a_deleted_queue_do_not_come_back(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.publish("", "q", b"1")
    got = channel.get("q")
    assert got is not None
    channel.queue_delete("q")
    channel.queue_declare("q")
    channel.nack(got.delivery_tag)
    channel.close()
    assert channel.open().counts("q") == (0, 0)


def test_a_new_queue_of_the_same_name_has_no_bindings(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.direct", "k")
    channel.queue_delete("q")
    channel.queue_declare("q")
    channel.publish("amq.direct", "k")
    assert channel.counts("q") == (0, 0)
