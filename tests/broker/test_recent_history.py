"""Exchanges of type x-recent-history: what came before a binding is delivered to it."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.commands import Exchange, Queue
from amqpd.config import Limits
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    Confirmed,
    Delivery,
    Returned,
    method,
    properties,
    table,
)

LENGTH = "x-recent-history-length"


def publish(channel: Channel, *bodies: str, how: bytes = PERSISTENT) -> None:
    for body in bodies:
        channel.publish("x", "k", body.encode(), how)


def history(channel: Channel) -> list[bytes]:
    """What a new queue gets."""
    queue = channel.queue_declare("").queue or ""
    channel.queue_bind(queue, "x")
    return channel.drain(queue)


def durable(broker: BrokerUnderTest, length: int = 20, **arguments: Any) -> Channel:
    """A channel beside a durable exchange of recent history that is safe."""
    channel = broker.client().channel()
    said = method(Exchange.Declare, exchange="x", exchange_type="x-recent-history", durable=True)
    channel.send(said, table({LENGTH: length, **arguments}))
    broker.journal.commit()
    channel.take_all()
    return channel


def again(broker: BrokerUnderTest) -> Channel:
    broker.crash_and_recover()
    return broker.client().channel()


def test_a_new_binding_gets_the_last_twenty(channel: Channel) -> None:
    channel.exchange_declare("x", "x-recent-history")
    publish(channel, *map(str, range(25)))
    assert history(channel) == [b"%d" % number for number in range(5, 25)]


@pytest.mark.parametrize("octet", "bsIlL")
def test_a_length_of_its_own(channel: Channel, octet: str) -> None:
    channel.exchange_declare("x", "x-recent-history", arguments={LENGTH: (octet, 3)})
    assert history(channel) == []
    publish(channel, "1", "2")
    assert history(channel) == [b"1", b"2"]
    publish(channel, "3", "4")
    assert history(channel) == [b"2", b"3", b"4"]
    assert history(channel) == [b"2", b"3", b"4"]


def test_it_is_a_fanout_beside(channel: Channel) -> None:
    channel.exchange_declare("x", "x-recent-history")
    channel.publish("x", "k", b"unroutable", mandatory=True)
    assert channel.take(Returned).body == b"unroutable"
    for queue in ("a", "b"):
        channel.queue_declare(queue)
        channel.queue_bind(queue, "x", "whatever")
    assert [channel.drain("a"), channel.drain("b")] == [[b"unroutable"]] * 2
    publish(channel, "now")
    assert [channel.drain("a"), channel.drain("b")] == [[b"now"]] * 2


def test_messages_come_as_they_were_published(channel: Channel) -> None:
    channel.exchange_declare("x", "x-recent-history")
    how = properties(headers={"h": 1.5}, message_id="id", delivery_mode=2)
    channel.publish("x", "the key", b"m", how)
    channel.queue_declare("q")
    channel.consume("q", "c", no_ack=True)
    channel.queue_bind("q", "x")
    delivery = channel.take(Delivery)
    assert (delivery.exchange, delivery.routing_key) == ("x", "the key")
    assert (delivery.properties, delivery.redelivered) == (how, False)


def test_the_same_binding_again_brings_nothing_another_key_does(channel: Channel) -> None:
    channel.exchange_declare("x", "x-recent-history")
    publish(channel, "m")
    channel.queue_declare("q")
    for key, bodies in (("k", [b"m"]), ("k", []), ("l", [b"m"])):
        channel.queue_bind("q", "x", key)
        assert channel.drain("q") == bodies


@pytest.mark.parametrize("value", [True, False, "true", 1])
def test_what_is_not_to_be_stored(channel: Channel, value: Any) -> None:
    channel.exchange_declare("x", "x-recent-history")
    channel.queue_declare("q")
    channel.queue_bind("q", "x")
    publish(channel, "m", how=properties(headers={"x-recent-history-no-store": value}))
    assert channel.drain("q") == [b"m"]
    assert history(channel) == ([] if value is True else [b"m"])


def test_an_exchange_that_is_bound_passes_the_history_on(channel: Channel) -> None:
    channel.exchange_declare("x", "x-recent-history")
    publish(channel, "1", "2")
    channel.publish("x", "other", b"3")
    channel.exchange_declare("y", "direct")
    channel.exchange_bind("y", "x")  # leads nowhere yet, which RabbitMQ answers with 541
    channel.queue_declare("q")
    channel.queue_bind("q", "y", "k")
    assert channel.drain("q") == []
    channel.exchange_bind("y", "x", "once more")
    assert channel.drain("q") == [b"1", b"2"]


def test_what_comes_through_another_exchange_is_kept_too(channel: Channel) -> None:
    channel.exchange_declare("x", "x-recent-history")
    channel.exchange_bind("x", "amq.topic", "#")
    channel.publish("amq.topic", "k", b"1")
    channel.publish("amq.topic", "k", b"2")
    assert history(channel) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (-1, "-1"),
        ("abc", '<<"abc">>'),
        (True, "true"),
        (None, "undefined"),
        (("u", 5), "5"),
        ([1], "[{signedint,1}]"),
    ],
)
def test_lengths_that_are_refused(channel: Channel, value: Any, shown: str) -> None:
    text = f"Invalid argument {shown}, '{LENGTH}' must be a positive integer"
    with channel.refuses(406, f"PRECONDITION_FAILED - {text}", (40, 10)):
        channel.exchange_declare("x", "x-recent-history", arguments={LENGTH: value})


def test_the_length_has_a_limit() -> None:
    broker = BrokerUnderTest(limits=Limits(recent_history_max=5))
    channel = broker.client().channel()
    channel.exchange_declare("x", "x-recent-history", arguments={LENGTH: 5})
    text = f"PRECONDITION_FAILED - Invalid argument 6, '{LENGTH}' must not be greater than 5"
    with channel.refuses(406, text, (40, 10)):
        channel.exchange_declare("y", "x-recent-history", arguments={LENGTH: 6})


# Across a restart


def test_a_durable_exchange_keeps_persistent_messages(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled, length=12)
    publish(channel, *map(str, range(15)))
    publish(channel, "transient", how=properties())
    journaled.journal.commit()
    assert history(channel) == [b"%d" % number for number in range(4, 15)] + [b"transient"]
    channel = again(journaled)
    assert history(channel) == [b"%d" % number for number in range(4, 15)]
    publish(channel, "15", "16")
    journaled.journal.commit()
    assert history(again(journaled)) == [b"%d" % number for number in range(5, 17)]


def test_messages_come_back_as_they_were(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled)
    how = properties(headers={"h": None, "s": "\udcff"}, delivery_mode=2, priority=3)
    channel.publish("x", "kéy", b"\x00\xff", how)
    journaled.journal.commit()
    channel = again(journaled)
    channel.queue_declare("q")
    channel.queue_bind("q", "x")
    got = channel.get("q")
    assert got is not None
    assert (got.exchange, got.routing_key, got.body) == ("x", "kéy", b"\x00\xff")
    assert got.properties == how


def test_a_confirm_waits_for_the_history(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled)
    channel.confirm_select()
    publish(channel, "m")
    channel.expect_nothing()
    journaled.journal.commit()
    assert channel.take(Confirmed).number == 1


def test_what_was_not_committed_is_gone(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled)
    publish(channel, "kept")
    journaled.journal.commit()
    publish(channel, "lost")
    assert history(again(journaled)) == [b"kept"]


def test_a_transaction_is_kept_at_its_commit(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled)
    channel.tx_select()
    publish(channel, "rolled back")
    channel.tx_rollback()
    assert history(channel) == []


def test_nothing_is_left_of_a_deleted_exchange(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled)
    publish(channel, "1", "2")
    journaled.journal.commit()
    channel.send(method(Exchange.Delete, exchange="x"))
    journaled.journal.commit()
    assert not [kind for kind, _ in journaled.journal.store.definitions if kind == "history"]
    assert history(durable(journaled)) == []


def test_what_a_queue_got_from_the_history_is_its_own(journaled: BrokerUnderTest) -> None:
    """A message that went to two queues, and is settled there, still comes whole to a third."""
    channel = durable(journaled)
    for queue in ("a", "b", "c"):
        channel.send(method(Queue.Declare, queue=queue, durable=True))
    for queue in ("a", "b"):
        channel.send(method(Queue.Bind, queue=queue, exchange="x"))
    journaled.journal.commit()
    publish(channel, "m")
    journaled.journal.commit()
    channel.take_all()
    assert channel.drain("a") + channel.drain("b") == [b"m", b"m"]
    journaled.journal.commit()
    channel.send(method(Queue.Bind, queue="c", exchange="x"))
    journaled.journal.commit()
    assert again(journaled).drain("c") == [b"m"]
