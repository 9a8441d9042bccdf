"""Quorum queues: what they take, how they count what comes back, and where it goes.

What has no other source was asked of RabbitMQ 3.10.8; what differs from version to version says so.
"""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker import policies
from amqpd.commands import Queue
from amqpd.config import Compat
from amqpd.wire.properties import delivery_mode, read_headers
from amqpd.wire.tables import plain
from tests.conversation import (
    PERSISTENT,
    TRANSIENT,
    BrokerUnderTest,
    Channel,
    Confirmed,
    Delivery,
    Got,
    method,
    properties,
    table,
)
from tests.hyphens import hyphenated

Q = "queue 'q' in vhost '/'"
QUORUM = {"x-queue-type": "quorum"}
PROFILES: tuple[Compat, ...] = ("3.13", "4.2", "4.3")


def declare(channel: Channel, name: str = "q", /, **arguments: object) -> None:
    channel.queue_declare(name, durable=True, arguments={**QUORUM, **hyphenated(arguments)})


def open_with(compat: Compat, **arguments: object) -> Channel:
    """A channel of a broker of this profile, which has a quorum queue `q`."""
    channel = BrokerUnderTest(compat=compat).client().channel()
    declare(channel, **arguments)
    return channel


def publish(channel: Channel, *bodies: bytes) -> None:
    for body in bodies:
        channel.publish("", "q", body, PERSISTENT)


def take(channel: Channel, queue: str = "q") -> Got:
    got = channel.get(queue)
    assert got is not None
    return got


def headers_of(message: Got | Delivery) -> dict[str, Any]:
    return plain(read_headers(message.properties, 64))


# -- declaring and deleting


@pytest.mark.parametrize(
    "key", ["x-max-priority", "x-queue-mode", "x-queue-version", "x-queue-master-locator"]
)
def test_arguments_of_classic_queues_are_refused(channel: Channel, key: str) -> None:
    text = f"PRECONDITION_FAILED - invalid arg '{key}' for {Q} of queue type rabbit_quorum_queue"
    with channel.refuses(406, text, (50, 10)):
        channel.queue_declare("q", durable=True, arguments={**QUORUM, key: 2})


@pytest.mark.parametrize("key", ["x-max-age", "x-initial-cluster-size"])
def test_arguments_of_streams_are_refused(channel: Channel, key: str) -> None:
    text = f"PRECONDITION_FAILED - invalid arg '{key}' for {Q} of queue type rabbit_quorum_queue"
    with channel.refuses(406, text, (50, 10)):
        channel.queue_declare("q", durable=True, arguments={**QUORUM, key: 2})


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("x-dead-letter-strategy", "zz", "invalid_dlx_strategy"),
        ("x-dead-letter-strategy", 5, "{unacceptable_type,signedint}"),
        ("x-quorum-initial-group-size", 0, "{value_zero,0}"),
        ("x-quorum-initial-group-size", -1, "{value_negative,-1}"),
        ("x-quorum-initial-group-size", "a", '"expected integer, got longstr"'),
        ("x-max-in-memory-length", -1, "{value_negative,-1}"),
        ("x-max-in-memory-length", "x", '"expected integer, got longstr"'),
        ("x-max-in-memory-bytes", -1, "{value_negative,-1}"),
        ("x-queue-leader-locator", "zz", "invalid_queue_locator_arg"),
        ("x-max-length", -1, "{value_negative,-1}"),
        ("x-delayed-retry-type", "zz", "invalid_delayed_retry_type"),
        ("x-delayed-retry-min", -1, "{value_negative,-1}"),
        ("x-delayed-retry-max", "a", '"expected integer, got longstr"'),
    ],
)
def test_refused_values(channel: Channel, key: str, value: Any, reason: str) -> None:
    text = f"PRECONDITION_FAILED - invalid arg '{key}' for {Q}: {reason}"
    with channel.refuses(406, text, (50, 10)):
        channel.queue_declare("q", durable=True, arguments={**QUORUM, key: value})


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"x-delivery-limit": 3},
        {"x-delivery-limit": -1},
        {"x-delivery-limit": "a"},
        {"x-overflow": "reject-publish-dlx"},
        {"x-quorum-initial-group-size": 7},
        {"x-max-in-memory-bytes": 5, "x-max-in-memory-length": 0},
        {"x-queue-leader-locator": "balanced"},
        {"x-single-active-consumer": True},
        {"x-dead-letter-strategy": "at-least-once"},
        {"x-consumer-timeout": -1},
        {"x-foo": 1},
    ],
)
def test_accepted_values(channel: Channel, arguments: dict[str, Any]) -> None:
    for _ in range(2):
        channel.queue_declare("q", durable=True, arguments={**QUORUM, **arguments})


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"durable": False}, "non-durable"),
        ({"durable": True, "exclusive": True}, "exclusive-owner"),
        ({"durable": True, "auto_delete": True}, "auto-delete"),
        ({"durable": False, "exclusive": True, "auto_delete": True}, "auto-delete"),
        ({"durable": False, "exclusive": True}, "exclusive-owner"),
    ],
)
@pytest.mark.parametrize("compat", PROFILES)
def test_a_queue_that_would_not_last_is_refused(
    compat: Compat, properties: dict[str, bool], name: str
) -> None:
    channel = BrokerUnderTest(compat=compat).client().channel()
    text = f"PRECONDITION_FAILED - invalid property '{name}' for {Q}"
    with channel.refuses(406, text, (50, 10)):
        channel.queue_declare("q", arguments=QUORUM, **properties)


def test_wrong_arguments_come_before_wrong_properties(channel: Channel) -> None:
    text = f"PRECONDITION_FAILED - invalid arg 'x-max-priority' for {Q}"
    with channel.refuses(406, f"{text} of queue type rabbit_quorum_queue", (50, 10)):
        channel.queue_declare("q", arguments={**QUORUM, "x-max-priority": 5})


@pytest.mark.parametrize("kind", ["quorum", "stream"])
def test_a_queue_without_a_name_is_refused(channel: Channel, kind: str) -> None:
    text = "PRECONDITION_FAILED - Cannot declare a server-named queue for type"
    with channel.refuses(406, f"{text} rabbit_{kind}_queue", (50, 10)):
        channel.queue_declare("", durable=True, arguments={"x-queue-type": kind})


def test_streams_are_refused(channel: Channel) -> None:
    text = f"PRECONDITION_FAILED - invalid arg 'x-queue-type' for {Q}:"
    with channel.refuses(406, f"{text} \"unsupported queue type 'stream'\"", (50, 10)):
        channel.queue_declare("q", durable=True, arguments={"x-queue-type": "stream"})


@pytest.mark.parametrize(
    ("arguments", "key", "difference"),
    [
        (
            {},
            "x-queue-type",
            "received none but current is the value 'quorum' of type 'longstr'",
        ),
        (
            {"x-queue-type": "classic"},
            "x-queue-type",
            "received 'classic' but current is 'quorum'",
        ),
        (
            QUORUM,
            "x-delivery-limit",
            "received none but current is the value '3' of type 'signedint'",
        ),
        (
            {**QUORUM, "x-delivery-limit": 4},
            "x-delivery-limit",
            "received '4' but current is '3'",
        ),
        (
            {**QUORUM, "x-delivery-limit": 3, "x-dead-letter-strategy": "at-least-once"},
            "x-dead-letter-strategy",
            "received the value 'at-least-once' of type 'longstr' but current is none",
        ),
        (
            {**QUORUM, "x-delivery-limit": 3, "x-quorum-initial-group-size": 3},
            "x-quorum-initial-group-size",
            "received the value '3' of type 'signedint' but current is none",
        ),
    ],
)
def test_what_differs_is_refused(
    channel: Channel, arguments: dict[str, Any], key: str, difference: str
) -> None:
    declare(channel, x_delivery_limit=3)
    text = f"PRECONDITION_FAILED - inequivalent arg '{key}' for {Q}: {difference}"
    with channel.refuses(406, text, (50, 10)):
        channel.queue_declare("q", durable=True, arguments=arguments)


@pytest.mark.parametrize("key", ["x-max-priority", "x-queue-mode", "x-consumer-timeout", "x-foo"])
def test_arguments_that_a_quorum_queue_does_not_know_are_not_compared(
    channel: Channel, key: str
) -> None:
    declare(channel)
    channel.queue_declare("q", durable=True, arguments={**QUORUM, key: 5})


def test_a_classic_queue_is_no_quorum_queue(channel: Channel) -> None:
    channel.queue_declare("q", durable=True)
    text = f"PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for {Q}: received the value"
    with channel.refuses(406, f"{text} 'quorum' of type 'longstr' but current is none", (50, 10)):
        declare(channel)
    channel.open().queue_declare("q", durable=True, arguments={"x-delivery-limit": 3})


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"if_unused": True}, "if-unused"),
        ({"if_empty": True}, "if-empty"),
        ({"if_unused": True, "if_empty": True}, "if-unused"),
    ],
)
def test_no_conditions_on_a_delete(
    broker: BrokerUnderTest, flags: dict[str, bool], named: str
) -> None:
    client = broker.client()
    channel = client.channel()
    declare(channel)
    text = f"NOT_IMPLEMENTED - cannot delete {Q}. queue.delete operations with {named} flag set"
    with client.refuses(540, f"{text} are not supported by quorum queues", (50, 40)):
        channel.queue_delete("q", **flags)


def test_delete(channel: Channel) -> None:
    declare(channel)
    publish(channel, b"1", b"2")
    assert channel.queue_delete("q") == 2


# -- consuming


def test_global_qos_is_refused(broker: BrokerUnderTest) -> None:
    client = broker.client()
    channel = client.channel()
    declare(channel)
    channel.qos(1, of_channel=True)
    with client.refuses(540, f"NOT_IMPLEMENTED - {Q} does not support global qos", (60, 20)):
        channel.consume("q")


def test_global_qos_that_limits_nothing_or_comes_later_is_taken(channel: Channel) -> None:
    declare(channel)
    channel.qos(0, of_channel=True)
    channel.consume("q")
    channel.qos(1, of_channel=True)


def test_exclusive_consumers_are_none(channel: Channel) -> None:
    declare(channel)
    for exclusive in (True, False, True):
        channel.consume("q", exclusive=exclusive)
    assert channel.counts("q") == (0, 3)


def test_get_from_a_single_active_consumer_queue(channel: Channel) -> None:
    declare(channel, x_single_active_consumer=True)
    text = f"RESOURCE_LOCKED - cannot obtain access to locked {Q}. basic.get operations are not"
    text += " supported by quorum queues with single active consumer"
    with channel.refuses(405, text, (60, 70)):
        channel.get("q")


def test_the_first_delivery_has_no_count(channel: Channel) -> None:
    declare(channel)
    publish(channel, b"1", b"2")
    assert take(channel).properties == PERSISTENT
    channel.consume("q")
    assert channel.take(Delivery).properties == PERSISTENT


@pytest.mark.parametrize("no_ack", [False, True])
def test_what_comes_back_says_how_often(channel: Channel, no_ack: bool) -> None:
    declare(channel)
    given = properties(headers={"mine": "x"}, delivery_mode=2, message_id="m")
    channel.publish("", "q", b"1", given)
    for count in (1, 2):
        channel.nack(take(channel).delivery_tag)
        expected = properties(
            headers={"mine": "x", "x-delivery-count": ("l", count)},
            delivery_mode=2,
            message_id="m",
        )
        if count == 1:
            got = take(channel)
            assert (got.redelivered, got.properties) == (True, expected)
            channel.nack(got.delivery_tag)
            channel.consume("q", no_ack=no_ack)
            delivery = channel.take(Delivery)
            assert (delivery.redelivered, headers_of(delivery)) == (
                True,
                {"mine": "x", "x-delivery-count": 2},
            )
            break


@pytest.mark.parametrize(
    ("compat", "nacked", "rejected", "lost"),
    [
        ("3.13", {"x-delivery-count": 1}, {"x-delivery-count": 1}, {"x-delivery-count": 1}),
        ("4.2", {"x-delivery-count": 1}, {"x-delivery-count": 1}, {"x-delivery-count": 1}),
        (
            "4.3",
            {"x-delivery-count": 0, "x-acquired-count": 1},
            {"x-delivery-count": 1, "x-acquired-count": 1},
            {"x-delivery-count": 1, "x-acquired-count": 1},
        ),
    ],
)
def test_what_counts(
    compat: Compat, nacked: dict[str, int], rejected: dict[str, int], lost: dict[str, int]
) -> None:
    """4.3 tells failed deliveries from those that were only given back."""
    channel = open_with(compat, x_delivery_limit=5)
    publish(channel, b"m")
    channel.nack(take(channel).delivery_tag)
    assert headers_of(take(channel)) == nacked
    channel.recover()
    twice = headers_of(take(channel))
    assert twice == {key: 2 * count for key, count in nacked.items()}
    channel.ack(0, multiple=True)

    publish(channel, b"m")
    channel.reject(take(channel).delivery_tag)
    got = take(channel)
    assert headers_of(got) == rejected
    channel.ack(got.delivery_tag)

    publish(channel, b"m")
    take(channel)
    channel.close()
    assert headers_of(take(channel.open())) == lost


def test_a_nack_within_a_transaction_counts_as_one() -> None:
    channel = open_with("4.3")
    publish(channel, b"n", b"r")
    channel.tx_select()
    first, second = take(channel), take(channel)
    channel.nack(first.delivery_tag)
    channel.reject(second.delivery_tag)
    channel.tx_commit()
    assert headers_of(take(channel)) == {"x-delivery-count": 0, "x-acquired-count": 1}
    assert headers_of(take(channel)) == {"x-delivery-count": 1, "x-acquired-count": 1}


# -- the order of what comes back


def test_without_a_limit_what_is_nacked_goes_to_the_end(channel: Channel) -> None:
    declare(channel)
    publish(channel, b"0", b"1", b"2", b"3", b"4", b"5")
    tags = [take(channel).delivery_tag for _ in range(4)]
    channel.nack(tags[2])
    channel.nack(tags[0])
    other = channel.client.channel()
    assert other.drain("q") == [b"4", b"5", b"2", b"0"]
    channel.close()
    assert other.drain("q") == [b"1", b"3"]


@pytest.mark.parametrize("compat", PROFILES)
def test_with_a_limit_what_comes_back_is_ahead_in_the_order_of_return(compat: Compat) -> None:
    channel = open_with(compat, x_delivery_limit=5)
    publish(channel, b"0", b"1", b"2", b"3", b"4", b"5")
    tags = [take(channel).delivery_tag for _ in range(4)]
    channel.nack(tags[2])
    channel.nack(tags[0])
    other = channel.client.channel()
    assert other.drain("q") == [b"2", b"0", b"4", b"5"]
    channel.close()
    assert other.drain("q") == [b"1", b"3"]


def test_from_4_0_on_there_is_a_limit_by_default() -> None:
    channel = open_with("4.2")
    publish(channel, b"0", b"1")
    channel.nack(take(channel).delivery_tag)
    assert channel.drain("q") == [b"0", b"1"]


def test_a_limit_below_zero_is_none() -> None:
    channel = open_with("4.2", x_delivery_limit=-1)
    publish(channel, b"0", b"1")
    channel.nack(take(channel).delivery_tag)
    assert channel.drain("q") == [b"1", b"0"]


@pytest.mark.parametrize("limit", [{}, {"x_delivery_limit": 5}])
def test_what_a_channel_leaves_behind_is_ahead(channel: Channel, limit: dict[str, int]) -> None:
    declare(channel, **limit)
    publish(channel, b"0", b"1", b"2", b"3", b"4", b"5")
    tags = [take(channel).delivery_tag for _ in range(4)]
    channel.ack(tags[1])
    channel.close()
    assert channel.open().drain("q") == [b"0", b"2", b"3", b"4", b"5"]


def test_recover_without_a_limit_goes_to_the_end(channel: Channel) -> None:
    declare(channel)
    publish(channel, b"0", b"1", b"2")
    take(channel)
    take(channel)
    channel.recover()
    assert channel.drain("q") == [b"2", b"0", b"1"]


# -- the delivery limit


@pytest.mark.parametrize(("limit", "deliveries"), [(0, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("compat", PROFILES)
def test_delivery_limit(compat: Compat, limit: int, deliveries: int) -> None:
    broker = BrokerUnderTest(compat=compat)
    channel = broker.client().channel()
    channel.exchange_declare("dlx", "fanout")
    channel.queue_declare("dead", durable=True)
    channel.queue_bind("dead", "dlx")
    declare(channel, x_delivery_limit=limit, x_dead_letter_exchange="dlx")
    channel.publish("", "q", b"m", properties(delivery_mode=1))
    count = 0
    while (got := channel.get("q")) is not None:
        count += 1
        channel.reject(got.delivery_tag)
    assert count == deliveries
    dead = take(channel, "dead")
    death = headers_of(dead)["x-death"][0]
    assert (death["reason"], death["queue"], death["count"]) == ("delivery_limit", "q", 1)
    assert headers_of(dead)["x-first-death-reason"] == "delivery_limit"
    assert "x-delivery-count" not in headers_of(dead)
    assert delivery_mode(dead.properties) == 1


def test_the_default_limit_is_20_from_4_0_on() -> None:
    def deliveries(compat: Compat) -> int:
        channel = open_with(compat)
        publish(channel, b"m")
        count = 0
        while count < 50 and (got := channel.get("q")) is not None:
            channel.reject(got.delivery_tag)
            count += 1
        return count

    assert [deliveries(compat) for compat in PROFILES] == [50, 21, 21]


def test_4_3_does_not_hold_nacks_against_a_message() -> None:
    channel = open_with("4.3", x_delivery_limit=1)
    publish(channel, b"m")
    for _ in range(10):
        channel.nack(take(channel).delivery_tag)
    assert headers_of(take(channel)) == {"x-delivery-count": 0, "x-acquired-count": 10}


def test_without_dead_letters_what_exceeds_the_limit_is_dropped(channel: Channel) -> None:
    declare(channel, x_delivery_limit=0)
    publish(channel, b"1", b"2")
    channel.nack(take(channel).delivery_tag)
    assert channel.drain("q") == [b"2"]


def test_what_a_consumer_left_behind_too_often_is_buried(channel: Channel) -> None:
    declare(channel, x_delivery_limit=1)
    publish(channel, b"m")
    for _ in range(2):
        channel.consume("q")
        channel.close()
        channel.open()
    assert channel.counts("q") == (0, 0)


# -- what is kept, and what a restart knows


def test_transient_messages_are_kept(journaled: BrokerUnderTest) -> None:
    channel = journaled.client().channel()
    channel.send(
        method(Queue.Declare, queue="q", durable=True),
        {"x-queue-type": ("S", "quorum")},
    )
    journaled.journal.commit()
    channel.receive(Queue.DeclareOk)
    channel.confirm_select()
    channel.publish("", "q", b"m", TRANSIENT)
    channel.expect_nothing()
    journaled.journal.commit()
    assert channel.confirms() == [Confirmed(1)]
    journaled.crash_and_recover()
    got = take(journaled.client().channel())
    assert (got.body, got.properties, got.redelivered) == (b"m", TRANSIENT, False)


def restart(broker: BrokerUnderTest) -> Channel:
    broker.journal.commit()
    broker.crash_and_recover()
    return broker.client().channel()


def declare_safely(broker: BrokerUnderTest, **arguments: object) -> Channel:
    channel = broker.client().channel()
    channel.send(
        method(Queue.Declare, queue="q", durable=True), table({**QUORUM, **hyphenated(arguments)})
    )
    broker.journal.commit()
    channel.receive(Queue.DeclareOk)
    return channel


@pytest.mark.parametrize("limit", [{}, {"x_delivery_limit": 5}])
def test_counts_survive_a_restart(journaled: BrokerUnderTest, limit: dict[str, int]) -> None:
    channel = declare_safely(journaled, **limit)
    publish(channel, b"1", b"2", b"3")
    for _ in range(2):
        channel.nack(take(channel).delivery_tag)
    channel = restart(journaled)
    counts = {}
    while (got := channel.get("q", no_ack=True)) is not None:
        counts[got.body] = (got.redelivered, headers_of(got))
    nacked = {b"1": 2} if limit else {b"1": 1, b"2": 1}
    assert counts == {
        body: (True, {"x-delivery-count": nacked[body]}) if body in nacked else (False, {})
        for body in (b"1", b"2", b"3")
    }


def test_what_a_consumer_had_when_the_broker_stopped_was_lost_once(
    journaled: BrokerUnderTest,
) -> None:
    channel = declare_safely(journaled)
    publish(channel, b"1", b"2")
    take(channel)
    channel = restart(journaled)
    assert headers_of(take(channel)) == {"x-delivery-count": 1}
    assert headers_of(take(channel)) == {}


def test_the_journal_forgets_counts_with_their_messages(journaled: BrokerUnderTest) -> None:
    channel = declare_safely(journaled, x_delivery_limit=5)
    publish(channel, b"1", b"2", b"3")
    journaled.journal.commit()
    got = [take(channel) for _ in range(3)]
    for each in got:
        channel.nack(each.delivery_tag)
    journaled.journal.commit()

    def kept() -> int:
        return sum(kind == "return" for kind, _ in journaled.journal.store.definitions)

    assert kept() == 3
    channel.ack(take(channel).delivery_tag)
    journaled.journal.commit()
    assert kept() == 2
    unsettled = take(channel)
    channel.send(method(Queue.Delete, queue="q"))
    journaled.journal.commit()
    assert channel.take(Queue.DeleteOk).message_count == 1
    assert kept() == 0
    channel.ack(unsettled.delivery_tag)
    restart(journaled)


def test_a_message_written_anew_keeps_its_publishers_waiting(journaled: BrokerUnderTest) -> None:
    """It is nacked before it was ever written: the confirm belongs to its new place."""
    channel = declare_safely(journaled)
    channel.confirm_select()
    publish(channel, b"m")
    other = channel.client.channel()
    other.nack(take(other).delivery_tag)
    channel.expect_nothing()
    journaled.journal.commit()
    assert channel.confirms() == [Confirmed(1)]
    channel = restart(journaled)
    assert take(channel).body == b"m"
    assert channel.get("q") is None


# -- length


def test_a_quorum_queue_refuses_above_its_limit_until_it_is_well_below(channel: Channel) -> None:
    declare(channel, x_max_length=5, x_overflow="reject-publish")
    channel.confirm_select()
    for number in range(1, 9):
        publish(channel, b"%d" % number)
        assert channel.confirms() == [Confirmed(number, ack=number <= 6)]
    other = channel.client.channel()
    assert other.get("q", no_ack=True) is not None
    assert other.get("q", no_ack=True) is not None  # four are left
    publish(channel, b"9")
    assert channel.confirms() == [Confirmed(9)]


def test_what_comes_back_to_a_full_queue_stays(channel: Channel) -> None:
    declare(channel, x_max_length=1, x_overflow="reject-publish")
    publish(channel, b"1", b"2")
    channel.nack(take(channel).delivery_tag)
    assert channel.drain("q") == [b"2", b"1"]


def test_drop_head(channel: Channel) -> None:
    declare(channel, x_max_length=2, x_overflow="reject-publish-dlx")
    publish(channel, b"1", b"2", b"3")
    got = take(channel)
    publish(channel, b"4")
    assert channel.counts("q") == (2, 0)
    channel.nack(got.delivery_tag)
    assert channel.drain("q") == [b"4", b"2"]


# -- priorities


@pytest.mark.parametrize(
    ("compat", "order"),
    [
        ("3.13", [b"none", b"0", b"4", b"5", b"31", b"200", b"3", b"9"]),
        ("4.2", [b"5", b"31", b"200", b"9", b"none", b"0", b"4", b"3"]),
        ("4.3", [b"31", b"200", b"9", b"5", b"none", b"4", b"3", b"0"]),
    ],
)
def test_priorities(compat: Compat, order: list[bytes]) -> None:
    channel = open_with(compat)
    for priority in (None, 0, 4, 5, 31, 200, 3, 9):
        body = b"none" if priority is None else b"%d" % priority
        channel.publish("", "q", body, properties(priority=priority))
    assert channel.drain("q") == order


@pytest.mark.parametrize("compat", ["4.2", "4.3"])
def test_what_comes_back_is_ahead_of_every_priority(compat: Compat) -> None:
    channel = open_with(compat)
    for priority in (0, 9):
        channel.publish("", "q", b"%d" % priority, properties(priority=priority))
    high, low = take(channel), take(channel)
    channel.nack(low.delivery_tag)
    channel.nack(high.delivery_tag)
    channel.publish("", "q", b"31", properties(priority=31))
    assert channel.drain("q") == [b"0", b"9", b"31"]


def test_without_a_limit_what_comes_back_loses_its_priority() -> None:
    channel = open_with("4.2", x_delivery_limit=-1)
    for priority in (9, 0):
        channel.publish("", "q", b"%d" % priority, properties(priority=priority))
    channel.nack(take(channel).delivery_tag)
    assert channel.drain("q") == [b"0", b"9"]


def test_priorities_survive_a_restart() -> None:
    broker = BrokerUnderTest(journaling=True, compat="4.3")
    channel = declare_safely(broker)
    for priority in (0, 9, 5):
        channel.publish("", "q", b"%d" % priority, properties(priority=priority))
    assert take(channel).body == b"9"
    assert restart(broker).drain("q") == [b"9", b"5", b"0"]


# -- single active consumers


def attach(channel: Channel, *priorities: int) -> list[Channel]:
    """A consumer of each priority, each on a channel of its own."""
    channels = []
    for number, priority in enumerate(priorities):
        consumer = channel.client.channel()
        consumer.consume("q", f"c{number}", arguments={"x-priority": priority})
        channels.append(consumer)
    return channels


def who(channel: Channel, consumers: list[Channel]) -> int:
    """Which of the consumers a message goes to; it is acknowledged."""
    publish(channel, b"?")
    for number, consumer in enumerate(consumers):
        if consumer.heard:
            consumer.ack(consumer.take(Delivery).delivery_tag)
            return number
    return -1


def test_the_oldest_consumer_is_next_in_3_13(channel: Channel) -> None:
    declare(channel, x_single_active_consumer=True)
    consumers = attach(channel, 0, 1, 5)
    assert channel.counts("q") == (0, 1)
    assert who(channel, consumers) == 0
    consumers[0].close()
    assert who(channel, consumers) == 1
    consumers[1].cancel("c1")
    assert who(channel, consumers) == 2


@pytest.mark.parametrize("compat", ["4.2", "4.3"])
def test_the_highest_priority_takes_over_from_4_0_on(compat: Compat) -> None:
    channel = open_with(compat, x_single_active_consumer=True)
    consumers = attach(channel, 0, 5, 5)
    assert who(channel, consumers) == 1
    consumers[1].cancel("c1")
    assert who(channel, consumers) == 2
    consumers[2].close()
    assert who(channel, consumers) == 0


def test_the_active_consumer_settles_before_it_makes_way() -> None:
    channel = open_with("4.2", x_single_active_consumer=True)
    (low,) = attach(channel, 0)
    publish(channel, b"1", b"2")
    first, second = low.deliveries()
    high = channel.client.channel()
    high.consume("q", arguments={"x-priority": 1})
    publish(channel, b"3")
    low.expect_nothing()
    high.expect_nothing()
    low.ack(first.delivery_tag)
    high.expect_nothing()
    low.nack(second.delivery_tag)
    assert high.bodies() == [b"2", b"3"]
    high.close()  # the older one is back in turn
    assert low.bodies() == [b"2", b"3"]


def test_a_consumer_that_ends_while_it_makes_way() -> None:
    channel = open_with("4.2", x_single_active_consumer=True)
    (low,) = attach(channel, 0)
    publish(channel, b"1")
    low.take(Delivery)
    high = channel.client.channel()
    high.consume("q", arguments={"x-priority": 1})
    publish(channel, b"2")
    low.cancel("c0")
    assert high.bodies() == [b"2"]
    low.nack(0, multiple=True)
    assert high.bodies() == [b"1"]


def test_one_that_comes_and_goes_leaves_the_active_one_active() -> None:
    """It had to make way for a consumer that is gone by the time it could."""
    channel = open_with("4.2", x_single_active_consumer=True)
    (low,) = attach(channel, 0)
    publish(channel, b"1")
    delivery = low.take(Delivery)
    high = channel.client.channel()
    high.consume("q", arguments={"x-priority": 1})
    high.close()
    publish(channel, b"2")
    low.ack(delivery.delivery_tag)
    assert low.bodies() == [b"2"]


# -- dead letters at least once


def stage_at_least_once(channel: Channel, **arguments: object) -> None:
    declare(
        channel,
        x_dead_letter_exchange="dlx",
        x_dead_letter_strategy="at-least-once",
        x_overflow="reject-publish",
        **arguments,
    )


def test_without_an_exchange_a_dead_message_stays(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    stage_at_least_once(channel)
    publish(channel, b"m")
    channel.reject(take(channel).delivery_tag, requeue=False)
    assert channel.counts("q") == (0, 0)
    assert channel.get("q") is None
    channel.exchange_declare("dlx", "fanout")
    broker.advance(180)  # it cannot be routed yet
    channel.queue_declare("dead", durable=True)
    channel.queue_bind("dead", "dlx")
    broker.advance(179)
    assert channel.get("dead") is None
    broker.advance(1)
    dead = take(channel, "dead")
    assert dead.body == b"m"
    assert headers_of(dead)["x-death"][0]["reason"] == "rejected"
    broker.advance(1000)
    assert channel.get("dead") is None


def test_a_target_that_refuses_is_asked_again(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.exchange_declare("dlx", "fanout")
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    for name, arguments in (("dead", full), ("other", {})):
        channel.queue_declare(name, durable=True, arguments=arguments)
        channel.queue_bind(name, "dlx")
    stage_at_least_once(channel)
    publish(channel, b"1", b"2")
    for _ in range(2):
        channel.reject(take(channel).delivery_tag, requeue=False)
    assert channel.drain("other") == [b"1"]
    assert channel.drain("dead") == [b"1"]
    broker.advance(180)
    assert channel.drain("dead") == [b"2"]
    assert channel.drain("other") == [b"2"]


def test_dead_messages_that_stay_count_in_the_length(channel: Channel) -> None:
    stage_at_least_once(channel, x_max_length=3)
    publish(channel, b"1", b"2")
    channel.reject(take(channel).delivery_tag, requeue=False)
    channel.confirm_select()
    publish(channel, b"3", b"4", b"5", b"6")
    said = channel.confirms()
    assert [(each.number, each.ack) for each in said] == [
        (1, True),
        (2, True),
        (3, False),
        (4, False),
    ]
    assert channel.counts("q") == (3, 0)
    assert channel.queue_purge("q") == 4


def test_a_dead_message_that_stays_survives_a_restart(journaled: BrokerUnderTest) -> None:
    channel = declare_safely(
        journaled,
        x_dead_letter_exchange="dlx",
        x_dead_letter_strategy="at-least-once",
        x_overflow="reject-publish",
    )
    publish(channel, b"m")
    channel.reject(take(channel).delivery_tag, requeue=False)
    channel = restart(journaled)
    assert channel.get("q") is None
    channel.exchange_declare("dlx", "fanout")
    channel.queue_declare("dead")
    channel.queue_bind("dead", "dlx")
    journaled.advance(180)
    dead = take(channel, "dead")
    assert headers_of(dead)["x-death"][0]["reason"] == "rejected"
    channel = restart(journaled)
    assert channel.get("q") is None


@pytest.mark.parametrize(
    "missing", ["x_dead_letter_exchange", "x_dead_letter_strategy", "x_overflow"]
)
def test_at_least_once_needs_all_of_its_conditions(channel: Channel, missing: str) -> None:
    conditions = {
        "x_dead_letter_exchange": "dlx",
        "x_dead_letter_strategy": "at-least-once",
        "x_overflow": "reject-publish",
    }
    del conditions[missing]
    declare(channel, **conditions)
    publish(channel, b"m")
    channel.reject(take(channel).delivery_tag, requeue=False)
    assert channel.queue_purge("q") == 0


def test_queues_end_as_ever(broker: BrokerUnderTest) -> None:
    """Their dead wait for nothing once they are deleted."""
    channel = broker.client().channel()
    stage_at_least_once(channel)
    publish(channel, b"m")
    channel.reject(take(channel).delivery_tag, requeue=False)
    assert channel.queue_delete("q") == 1
    broker.advance(1000)
    declare(channel)
    assert channel.counts("q") == (0, 0)


# -- policies


def set_policy(broker: BrokerUnderTest, definition: dict[str, Any]) -> None:
    policies.set_policy(
        broker.core, "/", "p", pattern=".*", definition=definition, apply_to="quorum_queues"
    )
    broker.turn()


def test_a_policy_may_set_what_the_arguments_leave_open() -> None:
    broker = BrokerUnderTest(compat="4.3")
    channel = broker.client().channel()
    declare(channel)
    definition = {"delivery-limit": 0, "delayed-retry-type": "all", "delayed-retry-min": 1000}
    set_policy(broker, definition)
    publish(channel, b"m")
    channel.reject(take(channel).delivery_tag)
    broker.advance(1)
    assert channel.get("q") is None
    set_policy(broker, {**definition, "delivery-limit": 5})
    publish(channel, b"m")
    channel.reject(take(channel).delivery_tag)
    assert channel.get("q") is None
    broker.advance(1)
    assert headers_of(take(channel)) == {"x-delivery-count": 1, "x-acquired-count": 1}


@pytest.mark.parametrize(
    ("argument", "policy", "deliveries"), [(1, 3, 2), (3, 1, 2), (-1, 3, 4), (3, -1, 4)]
)
def test_the_lower_limit_holds_and_any_limit_is_lower_than_none(
    argument: int, policy: int, deliveries: int
) -> None:
    broker = BrokerUnderTest(compat="4.2")
    channel = broker.client().channel()
    declare(channel, x_delivery_limit=argument)
    set_policy(broker, {"delivery-limit": policy})
    publish(channel, b"m")
    count = 0
    while (got := channel.get("q")) is not None:
        count += 1
        channel.nack(got.delivery_tag)
    assert count == deliveries


def test_the_overflow_of_a_policy_wins(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    declare(channel, x_max_length=1, x_overflow="drop-head")
    set_policy(broker, {"overflow": "reject-publish"})
    publish(channel, b"1", b"2", b"3")
    assert channel.drain("q") == [b"1", b"2"]
