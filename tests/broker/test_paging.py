"""Queues longer than memory: what is published comes out, whatever lies on disk meanwhile.

A queue here has eight messages in memory at most, four at each end.
"""

from __future__ import annotations

import pytest

from amqpd.broker.queue import Queue
from amqpd.commands import Arguments, Basic, Exchange
from amqpd.commands import Queue as QueueMethods
from amqpd.config import Limits
from amqpd_storage.entries import PASSING_QUEUE_ID_MIN, POSITION_BITS, DropQueue, DropRange
from tests.conversation import (
    PERSISTENT,
    TRANSIENT,
    BrokerUnderTest,
    Channel,
    Got,
    method,
    properties,
    table,
)

LIMITS = Limits(queue_memory_messages=8, queue_memory_bytes=1000, flow_wait_s=0)


@pytest.fixture
def durable() -> Channel:
    return declared(BrokerUnderTest(journaling=True, limits=LIMITS).client().channel(), "q")


def declared(channel: Channel, name: str, arguments: Arguments | None = None) -> Channel:
    """With a durable queue, which is safe."""
    channel.send(method(QueueMethods.Declare, queue=name, durable=True), arguments)
    channel.client.broker.journal.commit()
    channel.take(QueueMethods.DeclareOk)
    return channel


def fill(
    channel: Channel, first: int, last: int, flags: bytes = PERSISTENT, queue: str = "q"
) -> list[bytes]:
    """Publish the numbers, each in a turn of its own, committed now and then."""
    for number in range(first, last + 1):
        channel.publish("", queue, b"%d" % number, flags)
        if number % 3 == 0:
            channel.client.broker.journal.commit()
    channel.client.broker.journal.commit()
    return numbers(first, last)


def numbers(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


def queue_of(channel: Channel, name: str = "q") -> Queue:
    return channel.client.broker.core.virtual_hosts["/"].queues[name]


def resident(queue: Queue) -> int:
    """How many ready messages are in memory."""
    return queue.resident


def rows(channel: Channel) -> int:
    return len(channel.client.broker.journal.store.rows)


@pytest.mark.parametrize("flags", [PERSISTENT, TRANSIENT], ids=["persistent", "transient"])
def test_a_long_queue_is_on_disk_and_comes_out_in_order(durable: Channel, flags: bytes) -> None:
    published = fill(durable, 1, 100, flags)
    assert queue_of(durable).ready == 100
    assert resident(queue_of(durable)) <= 12
    assert 0 < queue_of(durable).resident_bytes < queue_of(durable).ready_bytes

    assert durable.drain("q") == published
    durable.client.broker.journal.commit()
    assert rows(durable) == 0


def test_persistent_and_transient_messages_keep_their_order(durable: Channel) -> None:
    published: list[bytes] = []
    for number in range(1, 61):
        flags = PERSISTENT if number % 3 else TRANSIENT
        published += fill(durable, number, number, flags)
    assert resident(queue_of(durable)) <= 12

    assert durable.drain("q") == published


def test_a_queue_that_is_not_durable_pages_too(durable: Channel) -> None:
    durable.queue_declare("lasting", durable=False)
    published = fill(durable, 1, 50, PERSISTENT, "lasting")
    assert resident(queue_of(durable, "lasting")) <= 12
    assert durable.drain("lasting") == published


def test_what_is_not_safe_stays_in_memory(durable: Channel) -> None:
    for number in range(1, 51):
        durable.publish("", "q", b"%d" % number, PERSISTENT)
    assert resident(queue_of(durable)) == 50

    durable.client.broker.journal.commit()
    durable.publish("", "q", b"51", PERSISTENT)
    for _ in range(20):
        durable.publish("", "q", b"more", PERSISTENT)
    assert resident(queue_of(durable)) <= 32


def test_large_messages_leave_memory_before_they_are_many(durable: Channel) -> None:
    for _ in range(6):
        durable.publish("", "q", b"x" * 400, PERSISTENT)
        durable.client.broker.journal.commit()
    assert resident(queue_of(durable)) <= 3
    assert queue_of(durable).ready_bytes == 2400
    assert durable.drain("q") == [b"x" * 400] * 6
    assert queue_of(durable).ready_bytes == 0


def test_the_head_is_read_ahead_as_far_as_memory_goes() -> None:
    """By number, and by weight: a page of large messages is one message."""
    limits = Limits(queue_memory_messages=80, queue_memory_bytes=1000, flow_wait_s=0)
    durable = declared(BrokerUnderTest(journaling=True, limits=limits).client().channel(), "q")
    durable.client.broker.journal.store.page_bytes_max = 1
    for number in range(50):
        durable.publish("", "q", b"%02d" % number * 200, PERSISTENT)
        durable.client.broker.journal.commit()
    consumer = durable.client.channel()
    consumer.qos(1)
    consumer.consume("q", "tag")
    seen: list[bytes] = []
    while deliveries := consumer.deliveries():
        assert queue_of(durable).resident_bytes <= 1400
        (delivery,) = deliveries
        seen.append(delivery.body[:2])
        consumer.ack(delivery.delivery_tag)
    assert seen == [b"%02d" % number for number in range(50)]


def test_a_consumer_gets_them_all(durable: Channel) -> None:
    published = fill(durable, 1, 100)
    consumer = durable.client.channel()
    consumer.qos(7)
    consumer.consume("q", "tag")
    seen: list[bytes] = []
    while deliveries := consumer.deliveries():
        seen += [delivery.body for delivery in deliveries]
        consumer.ack(deliveries[-1].delivery_tag, multiple=True)
    assert seen == published
    assert queue_of(durable).ready == 0


def test_consumers_and_publishers_at_once(durable: Channel) -> None:
    fill(durable, 1, 40)
    consumer = durable.client.channel()
    consumer.qos(3)
    consumer.consume("q", "tag")
    seen: list[bytes] = []
    for number in range(41, 141):
        durable.publish("", "q", b"%d" % number, PERSISTENT)
        if number % 4 == 0:
            durable.client.broker.journal.commit()
        for delivery in consumer.deliveries():
            seen.append(delivery.body)
            consumer.ack(delivery.delivery_tag)
    while deliveries := consumer.deliveries():
        for delivery in deliveries:
            seen.append(delivery.body)
            consumer.ack(delivery.delivery_tag)
    assert seen == numbers(1, 140)


def test_what_comes_back_comes_before_what_is_paged(durable: Channel) -> None:
    fill(durable, 1, 30)
    taker = durable.client.channel()
    taker.qos(5)
    taker.consume("q", "tag")
    assert [delivery.body for delivery in taker.deliveries()] == numbers(1, 5)
    taker.close()
    assert durable.drain("q") == numbers(1, 30)


def test_restart_reads_no_messages_and_loses_none(durable: Channel) -> None:
    fill(durable, 1, 50)
    fill(durable, 51, 60, TRANSIENT)
    broker = durable.client.broker
    assert any(key >> POSITION_BITS >= PASSING_QUEUE_ID_MIN for key in broker.journal.store.rows)

    broker.crash_and_recover()

    queue = broker.core.virtual_hosts["/"].queues["q"]
    assert queue.ready == 50
    assert resident(queue) <= 1  # the first one, to know when it expires
    channel = broker.client().channel()
    assert channel.drain("q") == numbers(1, 50)


def test_redelivered_after_a_restart(durable: Channel) -> None:
    """Seven were handed out before: they say so, the others do not."""
    fill(durable, 1, 30)
    taker = durable.client.channel()
    taker.qos(7)
    taker.consume("q", "tag")
    broker = durable.client.broker
    broker.journal.commit()

    broker.crash_and_recover()

    channel = broker.client().channel()
    channel.qos(0)
    channel.consume("q", "again")
    assert [(d.body, d.redelivered) for d in channel.deliveries()] == [
        (b"%d" % number, number <= 7) for number in range(1, 31)
    ]


def test_purge_is_one_entry_for_what_is_on_disk(durable: Channel) -> None:
    fill(durable, 1, 100)
    durable.send(method(QueueMethods.Purge, queue="q"))
    batch = durable.client.broker.journal.commit()
    assert durable.take(QueueMethods.PurgeOk).message_count == 100
    assert sum(isinstance(entry, DropRange) for entry in batch) == 1
    assert len(batch) < 20
    assert (queue_of(durable).ready, queue_of(durable).ready_bytes, rows(durable)) == (0, 0, 0)

    assert fill(durable, 101, 130) == durable.drain("q")


def test_deleting_a_long_queue_frees_its_id_later(durable: Channel) -> None:
    fill(durable, 1, 100, TRANSIENT)
    fill(durable, 101, 200)
    before = queue_of(durable).queue_id
    durable.send(method(QueueMethods.Delete, queue="q"))
    batch = durable.client.broker.journal.commit()
    assert durable.take(QueueMethods.DeleteOk).message_count == 200
    drops = [entry for entry in batch if isinstance(entry, DropQueue)]
    assert [drop.is_long for drop in drops] == [True, True]
    assert rows(durable) == 0

    declared(durable, "q")
    assert queue_of(durable).queue_id != before


def test_a_purge_that_is_not_swept_yet_keeps_the_id_over_a_restart(durable: Channel) -> None:
    """Another queue with that id would publish to keys that are still to be deleted."""
    fill(durable, 1, 30)
    durable.send(method(QueueMethods.Purge, queue="q"))
    broker = durable.client.broker
    broker.journal.commit()
    broker.crash_and_recover()
    assert broker.journal.store.dropped

    channel = broker.client().channel()
    before = queue_of(channel).queue_id
    fill(channel, 31, 35)  # so few that nothing of it is on disk only
    channel.send(method(QueueMethods.Delete, queue="q"))
    broker.journal.commit()
    channel.take(QueueMethods.DeleteOk)

    declared(channel, "q")
    assert queue_of(channel).queue_id != before
    assert fill(channel, 1, 30) == channel.drain("q")


def test_get_waits_for_the_page_and_what_follows_waits_with_it(durable: Channel) -> None:
    """All in one chunk: the answers come in order, and each get its own message."""
    fill(durable, 1, 40)
    durable.client.broker.crash_and_recover()
    channel = durable.client.broker.client().channel()
    with channel.client.together():
        for _ in range(20):
            channel.send(method(Basic.Get, queue="q", no_ack=True))
        channel.publish("", "q", b"41", PERSISTENT)
    heard = channel.take_all()
    assert [got.body for got in heard if isinstance(got, Got)] == numbers(1, 20)
    channel.client.broker.journal.commit()
    assert channel.drain("q") == numbers(21, 41)


def test_expired_heads_on_disk(durable: Channel) -> None:
    short = properties(expiration="1000", delivery_mode=2)
    fill(durable, 1, 40, short)
    fill(durable, 41, 60)
    durable.client.broker.advance(2)
    assert queue_of(durable).ready == 20
    assert durable.drain("q") == numbers(41, 60)


def test_expired_heads_after_a_restart(durable: Channel) -> None:
    fill(durable, 1, 40, properties(expiration="1000", delivery_mode=2))
    broker = durable.client.broker
    broker.crash_and_recover()
    broker.turn()
    broker.advance(2)
    assert broker.core.virtual_hosts["/"].queues["q"].ready == 0


def test_what_comes_up_after_a_trim_expires_after_a_restart(durable: Channel) -> None:
    """Nobody has read it yet, so nobody knows that it expires."""
    declared(durable, "short", {"x-max-length": ("I", 12)})
    short = properties(expiration="1000", delivery_mode=2)
    fill(durable, 1, 1, queue="short")
    fill(durable, 2, 12, short, queue="short")
    broker = durable.client.broker
    broker.crash_and_recover()
    broker.advance(2)
    channel = broker.client().channel()
    channel.publish("", "short", b"13", PERSISTENT)  # the first has to go
    broker.journal.commit()
    broker.turn()
    queue = broker.core.virtual_hosts["/"].queues["short"]
    assert queue.ready == 1
    assert channel.drain("short") == [b"13"]


def test_length_limit_above_what_memory_holds(durable: Channel) -> None:
    declared(durable, "short", table({"x-max-length": 30}))
    fill(durable, 1, 100, PERSISTENT, "short")
    assert queue_of(durable, "short").ready == 30
    assert durable.drain("short") == numbers(71, 100)


def test_shared_messages_page_in_each_queue(durable: Channel) -> None:
    declared(durable, "r")
    durable.send(method(Exchange.Declare, exchange="x", exchange_type="fanout", durable=True))
    for name in ("q", "r"):
        durable.send(method(QueueMethods.Bind, queue=name, exchange="x"))
    durable.client.broker.journal.commit()
    durable.take_all()
    for number in range(1, 41):
        durable.publish("x", "", b"%d" % number, PERSISTENT)
        durable.client.broker.journal.commit()
    store = durable.client.broker.journal.store
    assert len(store.shared) == 40
    assert durable.drain("q") == numbers(1, 40)
    durable.client.broker.journal.commit()
    assert len(store.shared) == 40
    assert durable.drain("r") == numbers(1, 40)
    durable.client.broker.journal.commit()
    assert (store.shared, store.rows) == (set(), {})


def test_without_a_journal_everything_stays_in_memory() -> None:
    broker = BrokerUnderTest(limits=LIMITS)
    channel = broker.client().channel()
    channel.queue_declare("q")
    for number in range(1, 101):
        channel.publish("", "q", b"%d" % number)
    assert resident(queue_of(channel)) == 100
    assert channel.drain("q") == numbers(1, 100)
