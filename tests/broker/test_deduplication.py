"""Exchanges of type x-message-deduplication: what has passed lately does not pass again."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker.policies import clear_policy, set_policy
from amqpd.commands import Exchange, Queue
from amqpd.config import Limits
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    Confirmed,
    Returned,
    method,
    properties,
    table,
)
from tests.hyphens import hyphenated

SIZE = "x-cache-size"
TTL = "x-cache-ttl"
PERSISTENCE = "x-cache-persistence"


def declared(broker: BrokerUnderTest, **arguments: Any) -> Channel:
    """A channel beside exchange x, bound to queue q."""
    channel = broker.client().channel()
    sized = {SIZE: 10, **hyphenated(arguments)}
    channel.exchange_declare("x", "x-message-deduplication", arguments=sized)
    channel.queue_declare("q")
    channel.queue_bind("q", "x")
    return channel


def durable(broker: BrokerUnderTest, **arguments: Any) -> Channel:
    """The same, durable and committed."""
    channel = broker.client().channel()
    sized = {SIZE: 10, **hyphenated(arguments)}
    said = method(
        Exchange.Declare, exchange="x", exchange_type="x-message-deduplication", durable=True
    )
    channel.send(said, table(sized))
    channel.send(method(Queue.Declare, queue="q", durable=True))
    channel.send(method(Queue.Bind, queue="q", exchange="x"))
    broker.journal.commit()
    channel.take_all()
    return channel


def publish(channel: Channel, *values: Any, x_cache_ttl: Any = None) -> None:
    for value in values:
        headers = {"x-deduplication-header": value}
        if x_cache_ttl is not None:
            headers[TTL] = x_cache_ttl
        channel.publish("x", "k", b"m", properties(headers=headers, delivery_mode=2))


def passed(channel: Channel) -> int:
    """How many messages have come to the queue."""
    return len(channel.drain("q"))


def seen(broker: BrokerUnderTest) -> int:
    """Headers in the store."""
    return sum(kind == "seen" for kind, _ in broker.journal.store.definitions)


@pytest.mark.parametrize(
    "value", ["this", 42, 4.2, None, True, b"octets", [1, "a"], {"a": 1}, "long" * 1000]
)
def test_one_of_a_kind(broker: BrokerUnderTest, value: Any) -> None:
    channel = declared(broker)
    publish(channel, *[value] * 5)
    assert passed(channel) == 1


def test_values_of_different_kinds_differ(broker: BrokerUnderTest) -> None:
    channel = declared(broker)
    publish(channel, "1", 1, 1.0, True, None, "")
    assert passed(channel) == 6
    publish(channel, ("l", 1), ("b", 1), ("u", 1))
    assert passed(channel) == 0


def test_without_the_header_everything_passes(broker: BrokerUnderTest) -> None:
    channel = declared(broker)
    for _ in range(3):
        channel.publish("x", "k", b"m")
        channel.publish("x", "k", b"m", properties(headers={"other": 1}))
    assert passed(channel) == 6


def test_a_full_cache_forgets_the_oldest(broker: BrokerUnderTest) -> None:
    channel = declared(broker, x_cache_size=2)
    publish(channel, "a", "b", "a", "b")
    assert passed(channel) == 2
    publish(channel, "c", "b", "c")
    assert passed(channel) == 1
    publish(channel, "a")
    assert passed(channel) == 1


def test_time_to_live(broker: BrokerUnderTest) -> None:
    channel = declared(broker, x_cache_ttl=1000)
    publish(channel, "a")
    broker.advance(0.9)
    publish(channel, "a", "b")
    assert passed(channel) == 2
    broker.advance(0.2)
    publish(channel, "a", "b")
    assert passed(channel) == 1


@pytest.mark.parametrize("ttl", [500, ("L", 500), ("b", 100)])
def test_a_message_with_a_time_of_its_own(broker: BrokerUnderTest, ttl: Any) -> None:
    channel = declared(broker, x_cache_ttl=5000)
    publish(channel, "a", x_cache_ttl=ttl)
    publish(channel, "b", x_cache_ttl="not a number")
    publish(channel, "a", "b")
    assert passed(channel) == 2
    broker.advance(0.6)
    publish(channel, "a", "b")
    assert passed(channel) == 1


def test_a_time_that_is_over_at_once(broker: BrokerUnderTest) -> None:
    channel = declared(broker)
    publish(channel, "a", "a", "a", x_cache_ttl=-5)
    assert passed(channel) == 3


def test_what_has_expired_makes_room_first(broker: BrokerUnderTest) -> None:
    channel = declared(broker, x_cache_size=3)
    publish(channel, "old", x_cache_ttl=100)
    publish(channel, "a", "b")
    broker.advance(1)
    publish(channel, "c", "a", "b", "c")
    assert passed(channel) == 4


def test_a_duplicate_is_confirmed_and_returned_if_mandatory(broker: BrokerUnderTest) -> None:
    """To RabbitMQ it is a message that no binding matched."""
    channel = declared(broker)
    channel.confirm_select()
    publish(channel, "a", "a")
    assert [confirm.number for confirm in channel.confirms()] == [1, 2]
    said = properties(headers={"x-deduplication-header": "a"})
    channel.publish("x", "k", b"again", said, mandatory=True)
    assert channel.take(Returned).body == b"again"
    assert channel.take(Confirmed).number == 3


def test_a_duplicate_goes_to_the_alternate_exchange(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    arguments = {SIZE: 10, "alternate-exchange": "amq.fanout"}
    channel.exchange_declare("x", "x-message-deduplication", arguments=arguments)
    for queue, exchange in (("q", "x"), ("duplicates", "amq.fanout")):
        channel.queue_declare(queue)
        channel.queue_bind(queue, exchange)
    publish(channel, "a", "a", "a")
    assert (passed(channel), channel.queue_purge("duplicates")) == (1, 2)


def test_bound_to_another_exchange(broker: BrokerUnderTest) -> None:
    channel = declared(broker)
    channel.exchange_bind("x", "amq.direct", "k")
    for _ in range(3):
        said = properties(headers={"x-deduplication-header": "a"})
        channel.publish("amq.direct", "k", b"m", said)
    assert passed(channel) == 1


def test_what_a_queue_refused_may_be_tried_again(broker: BrokerUnderTest) -> None:
    channel = declared(broker)
    channel.confirm_select()
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("full", arguments=full)
    channel.queue_bind("full", "x")
    publish(channel, "a", "b", "b")
    assert passed(channel) == 3  # "b" twice: it was refused by the other queue both times
    assert [confirm.ack for confirm in channel.confirms()] == [True, False, False]
    channel.queue_purge("full")
    publish(channel, "b", "b")
    assert channel.queue_purge("full") == 1


def test_a_transaction(broker: BrokerUnderTest) -> None:
    channel = declared(broker)
    channel.tx_select()
    publish(channel, "a", "a")
    channel.tx_rollback()
    publish(channel, "a", "a")
    assert passed(channel) == 0
    channel.tx_commit()
    assert passed(channel) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, f"Missing or invalid argument, '{SIZE}' must be an integer greater than 0"),
        ({SIZE: 0}, f"Missing or invalid argument, '{SIZE}' must be an integer greater than 0"),
        ({SIZE: "x"}, f"Missing or invalid argument, '{SIZE}' must be an integer greater than 0"),
        ({SIZE: True}, f"Missing or invalid argument, '{SIZE}' must be an integer greater than 0"),
        ({SIZE: 1, TTL: 0}, f"Invalid argument, '{TTL}' must be an integer greater than 0"),
        ({SIZE: 1, TTL: None}, f"Invalid argument, '{TTL}' must be an integer greater than 0"),
        (
            {SIZE: 1, PERSISTENCE: "tape"},
            f"Invalid argument, '{PERSISTENCE}' must be either 'disk' or 'memory'",
        ),
        ({SIZE: 1_000_001}, f"Invalid argument 1000001, '{SIZE}' must not be greater than 1000000"),
    ],
)
def test_arguments_that_are_refused(channel: Channel, arguments: dict[str, Any], text: str) -> None:
    with channel.refuses(406, f"PRECONDITION_FAILED - {text}", (40, 10)):
        channel.exchange_declare("x", "x-message-deduplication", arguments=arguments)


@pytest.mark.parametrize("octet", "bBsuIilL")
def test_arguments_that_are_taken(channel: Channel, octet: str) -> None:
    for name, arguments in (
        ("x", {SIZE: (octet, 10), TTL: (octet, 100), PERSISTENCE: "memory"}),
        ("y", {SIZE: "10", TTL: "100", PERSISTENCE: "disk"}),
    ):
        channel.exchange_declare(name, "x-message-deduplication", arguments=arguments)


def test_the_cache_has_a_limit() -> None:
    broker = BrokerUnderTest(limits=Limits(deduplication_cache_max=5))
    channel = declared(broker, x_cache_size="5")
    text = f"PRECONDITION_FAILED - Invalid argument 6, '{SIZE}' must not be greater than 5"
    with channel.refuses(406, text, (40, 10)):
        channel.exchange_declare("y", "x-message-deduplication", arguments={SIZE: "6"})


# By policy


def put(broker: BrokerUnderTest, **settings: Any) -> None:
    definition = hyphenated(settings)
    set_policy(broker.core, "/", "cache", pattern="^x", definition=definition)
    broker.turn()


def clear(broker: BrokerUnderTest) -> None:
    clear_policy(broker.core, "/", "cache")
    broker.turn()


def test_a_policy_wins_over_the_arguments_and_goes_again(broker: BrokerUnderTest) -> None:
    channel = declared(broker, x_cache_size=1)
    put(broker, x_cache_size=3)
    publish(channel, "a", "b", "c", "a", "b", "c")
    assert passed(channel) == 3
    clear(broker)
    publish(channel, "c", "b", "c")
    assert passed(channel) == 2


def test_a_size_by_policy_has_the_same_limit() -> None:
    broker = BrokerUnderTest(limits=Limits(deduplication_cache_max=2))
    channel = declared(broker, x_cache_size=1)
    put(broker, x_cache_size=1000)
    publish(channel, "a", "b", "c", "a")
    assert passed(channel) == 4


def test_a_time_by_policy_holds_for_what_comes(broker: BrokerUnderTest) -> None:
    channel = declared(broker, x_cache_ttl=60_000)
    publish(channel, "a")
    put(broker, x_cache_ttl=1000)
    publish(channel, "b")
    broker.advance(1.5)
    publish(channel, "a", "b")
    assert passed(channel) == 3


@pytest.mark.parametrize("kept", ["disk", "memory"])
def test_where_it_is_kept_by_policy(journaled: BrokerUnderTest, kept: str) -> None:
    other = {"disk": "memory", "memory": "disk"}[kept]
    channel = durable(journaled, x_cache_persistence=other)
    publish(channel, "a")
    put(journaled, x_cache_persistence=kept)
    publish(channel, "b")
    journaled.journal.commit()
    assert seen(journaled) == (2 if kept == "disk" else 0)
    journaled.crash_and_recover()
    channel = journaled.client().channel()
    assert passed(channel) == 2
    publish(channel, "a", "b")
    assert passed(channel) == (0 if kept == "disk" else 2)
    clear(journaled)
    journaled.journal.commit()
    assert seen(journaled) == (0 if kept == "disk" else 2)


# Across a restart


@pytest.mark.parametrize("how", [{}, {"x_cache_persistence": "disk"}])
def test_a_durable_exchange_knows_after_a_crash_what_has_passed(
    journaled: BrokerUnderTest, how: dict[str, Any]
) -> None:
    channel = durable(journaled, **how)
    publish(channel, "a", 1, "long" * 100)
    journaled.journal.commit()
    publish(channel, "lost")
    journaled.crash_and_recover()
    channel = journaled.client().channel()
    assert passed(channel) == 3
    publish(channel, "a", 1, "long" * 100)
    assert passed(channel) == 0
    publish(channel, "lost", "lost")
    assert passed(channel) == 1


def test_the_order_and_the_times_survive(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled, x_cache_size=12)
    publish(channel, "short", x_cache_ttl=1000)
    publish(channel, *[f"n{number}" for number in range(11)])
    journaled.journal.commit()
    journaled.crash_and_recover()
    channel = journaled.client().channel()
    publish(channel, "short")
    assert passed(channel) == 12
    journaled.advance(2)
    publish(channel, "short")
    assert passed(channel) == 1
    publish(channel, "new")  # the oldest goes: n0
    publish(channel, "n1", "n10")
    assert passed(channel) == 1
    publish(channel, "n0")
    assert passed(channel) == 1


def test_a_cache_in_memory_is_empty_after_a_restart(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled, x_cache_persistence="memory")
    publish(channel, "a")
    journaled.journal.commit()
    assert seen(journaled) == 0
    journaled.crash_and_recover()
    channel = journaled.client().channel()
    publish(channel, "a")
    assert passed(channel) == 2


def test_every_crash_has_both_or_neither(journaled: BrokerUnderTest) -> None:
    """Message and header are in one batch, however the batches fall."""
    channel = durable(journaled)
    for number in range(6):
        publish(channel, f"n{number}", f"n{number // 2}")
        if number % 2:
            journaled.journal.begin_commit()
            publish(channel, f"late{number}")
            journaled.journal.end_commit()
        journaled.crash_and_recover()
        channel = journaled.client().channel()
        in_queue = channel.queue_declare("q", passive=True).message_count
        assert seen(journaled) == in_queue


def test_the_confirm_of_a_duplicate_waits_for_the_first(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled)
    other = journaled.client().channel()
    channel.confirm_select()
    other.confirm_select()
    publish(channel, "a")
    publish(other, "a")
    channel.expect_nothing()
    other.expect_nothing()
    journaled.journal.commit()
    assert channel.take(Confirmed).number == other.take(Confirmed).number == 1
    publish(other, "a")
    journaled.journal.commit()
    assert other.take(Confirmed).number == 2


def test_a_confirm_without_a_queue_waits_for_the_header(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled)
    channel.send(method(Queue.Delete, queue="q"))
    journaled.journal.commit()
    channel.take_all()
    channel.confirm_select()
    publish(channel, "a")
    channel.expect_nothing()
    journaled.journal.commit()
    assert channel.take(Confirmed).number == 1


def test_what_is_forgotten_leaves_the_store(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled, x_cache_size=3)
    publish(channel, *"abcdef")
    journaled.journal.commit()
    assert seen(journaled) == 3
    publish(channel, "g", x_cache_ttl=1)
    journaled.journal.commit()
    assert seen(journaled) == 3
    channel.send(method(Exchange.Delete, exchange="x"))
    journaled.journal.commit()
    assert seen(journaled) == 0
    journaled.crash_and_recover()


def test_a_refused_message_leaves_nothing(journaled: BrokerUnderTest) -> None:
    channel = durable(journaled)
    channel.send(
        method(Queue.Declare, queue="full", durable=True),
        table({"x-max-length": 0, "x-overflow": "reject-publish"}),
    )
    channel.send(method(Queue.Bind, queue="full", exchange="x"))
    channel.publish("x", "k", b"m", PERSISTENT)
    publish(channel, "a")
    journaled.journal.commit()
    assert seen(journaled) == 0
