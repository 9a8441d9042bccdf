"""Long queues whose messages have levels: what is best comes first, wherever it lies.

A queue here has eight messages in memory or a few more, whatever its priorities are.
"""

from __future__ import annotations

import pytest

from amqpd.commands import Arguments, Basic
from amqpd.commands import Queue as QueueMethods
from amqpd.config import Compat
from amqpd.wire.properties import PRIORITY, read_property
from amqpd_storage.entries import POSITION_BITS
from tests.broker.test_paging import LIMITS, declared, numbers, queue_of, resident, rows
from tests.conversation import BrokerUnderTest, Channel, Got, method, properties

PRIORITIES: Arguments = {"x-max-priority": ("I", 9)}
DEDUPLICATED: Arguments = {"x-message-deduplication": ("t", True)}
QUORUM: Arguments = {"x-queue-type": ("S", "quorum")}


def opened(arguments: Arguments, compat: Compat = "3.13") -> Channel:
    """A channel, and a durable queue q."""
    broker = BrokerUnderTest(journaling=True, limits=LIMITS, compat=compat)
    return declared(broker.client().channel(), "q", arguments)


def reopened(channel: Channel) -> Channel:
    """After a crash."""
    channel.client.broker.crash_and_recover()
    return channel.client.broker.client().channel()


def publish(channel: Channel, number: int, priority: int, mode: int = 2) -> None:
    octets = properties(delivery_mode=mode, priority=priority)
    channel.publish("", "q", b"%d:%d" % (priority, number), octets)
    if number % 3 == 0:
        channel.client.broker.journal.commit()


def take(channel: Channel, count: int) -> list[bytes]:
    """The bodies of the next few, taken for good."""
    found = [channel.get("q", no_ack=True) for _ in range(count)]
    return [got.body for got in found if got is not None]


def consumed(channel: Channel, prefetch: int) -> list[bytes]:
    """The bodies of all that comes to a consumer, who acknowledges each."""
    consumer = channel.client.channel()
    consumer.qos(prefetch)
    consumer.consume("q", "tag")
    seen: list[bytes] = []
    while deliveries := consumer.deliveries():
        for delivery in deliveries:
            seen.append(delivery.body)
            consumer.ack(delivery.delivery_tag)
    return seen


def fill(channel: Channel, count: int, levels: int, mode: int = 2) -> list[bytes]:
    """Publish, of each priority in turn; the bodies in the order in which they are to come."""
    for number in range(count):
        publish(channel, number, number % levels, mode)
    channel.client.broker.journal.commit()
    in_order = sorted(range(count), key=lambda number: (-(number % levels), number))
    return [b"%d:%d" % (number % levels, number) for number in in_order]


@pytest.mark.parametrize("mode", [1, 2], ids=["transient", "persistent"])
def test_a_long_queue_is_on_disk_and_comes_out_by_priority(mode: int) -> None:
    channel = opened(PRIORITIES)
    expected = fill(channel, 200, 10, mode)
    assert queue_of(channel).ready == 200
    assert resident(queue_of(channel)) <= 20

    assert channel.drain("q") == expected
    channel.client.broker.journal.commit()
    assert rows(channel) == 0


@pytest.mark.parametrize("transient_is_better", [False, True])
def test_a_queue_that_is_not_durable_pages_by_priority_too(transient_is_better: bool) -> None:
    channel = opened(PRIORITIES)
    channel.queue_declare("lasting", durable=False, arguments={"x-max-priority": 9})
    for number in range(100):
        level = number % 2
        mode = 1 if bool(level) == transient_is_better else 2
        octets = properties(delivery_mode=mode, priority=level)
        channel.publish("", "lasting", b"%d" % number, octets)
        channel.client.broker.journal.commit()
    assert resident(queue_of(channel, "lasting")) <= 20
    expected = [*range(1, 100, 2), *range(0, 100, 2)]
    assert channel.drain("lasting") == [b"%d" % number for number in expected]


def test_what_is_better_overtakes_what_is_on_disk() -> None:
    channel = opened(PRIORITIES)
    for number in range(100):
        publish(channel, number, 1)
    channel.client.broker.journal.commit()
    publish(channel, 100, 5)
    assert take(channel, 1) == [b"5:100"]
    assert channel.drain("q") == [b"1:%d" % number for number in range(100)]


def test_heads_that_are_worse_wait_for_those_that_are_on_disk() -> None:
    """A few of low priority are in memory when the many of a high one are not any more."""
    channel = opened(PRIORITIES)
    for number in range(4):
        publish(channel, number, 0)
    for number in range(4, 100):
        publish(channel, number, 9)
    channel.client.broker.journal.commit()
    assert resident(queue_of(channel)) <= 20
    expected = [b"9:%d" % number for number in range(4, 100)]
    assert channel.drain("q") == expected + [b"0:%d" % number for number in range(4)]


def test_what_comes_back_has_its_place() -> None:
    channel = opened(PRIORITIES)
    expected = fill(channel, 100, 4)
    taken = [channel.get("q") for _ in range(30)]
    for got in reversed(taken):
        assert isinstance(got, Got)
        channel.nack(got.delivery_tag)
    assert channel.drain("q") == expected


def test_consumers_are_served_by_priority_from_disk() -> None:
    channel = opened(PRIORITIES)
    expected = fill(channel, 100, 4)
    assert consumed(channel, 3) == expected


def test_a_start_reads_no_more_than_a_page() -> None:
    channel = opened(PRIORITIES)
    expected = fill(channel, 300, 10)
    channel = reopened(channel)
    assert queue_of(channel).ready == 300
    assert resident(queue_of(channel)) <= 20
    assert channel.drain("q") == expected


def test_redelivered_is_told_by_priority() -> None:
    """What waited behind better messages was not handed out, whatever its position is."""
    channel = opened(PRIORITIES)
    expected = fill(channel, 100, 2)
    for _ in range(20):
        assert isinstance(channel.get("q"), Got)
    channel.client.broker.journal.commit()
    channel = reopened(channel)
    found = [channel.get("q", no_ack=True) for _ in expected]
    assert [got.body for got in found if got is not None] == expected
    assert [got.redelivered for got in found if got is not None] == [True] * 20 + [False] * 80


def test_a_purge_drops_what_is_on_disk_of_every_priority() -> None:
    channel = opened(PRIORITIES)
    fill(channel, 100, 5)
    kept = channel.get("q")
    assert isinstance(kept, Got)
    channel.send(method(QueueMethods.Purge, queue="q"))
    channel.client.broker.journal.commit()
    assert channel.take(QueueMethods.PurgeOk).message_count == 99
    assert rows(channel) == 1
    channel.nack(kept.delivery_tag)
    assert channel.drain("q") == [kept.body]


def test_a_deleted_queue_leaves_nothing_behind() -> None:
    channel = opened(PRIORITIES)
    ids = channel.client.broker.core.queue_ids
    assert ids.in_use == 10
    publish(channel, 1, 3)
    channel.client.broker.journal.commit()
    channel.send(method(QueueMethods.Delete, queue="q"))
    channel.client.broker.journal.commit()
    channel.take(QueueMethods.DeleteOk)
    assert rows(channel) == 0
    assert ids.in_use == 0

    declared(channel, "q", PRIORITIES)
    fill(channel, 100, 5)
    channel.send(method(QueueMethods.Delete, queue="q"))
    channel.client.broker.journal.commit()
    assert rows(channel) == 0


def test_each_priority_has_an_id_of_its_own_in_the_store() -> None:
    channel = opened(PRIORITIES)
    for number in range(20):
        publish(channel, number, number % 5)
    channel.client.broker.journal.commit()
    queue = queue_of(channel)
    for row in channel.client.broker.journal.store.rows.values():
        priority = read_property(row.properties, PRIORITY)
        assert priority is not None
        assert row.key >> POSITION_BITS == queue.queue_id + 9 - priority


def test_a_queue_without_lanes_is_ordered_and_stays_in_memory() -> None:
    """As one is that a store of an earlier version has."""
    channel = opened({})
    host = channel.client.broker.core.virtual_hosts["/"]
    queue_id = channel.client.broker.core.queue_ids.take()
    host.declare_queue(
        "old", durable=True, auto_delete=False, arguments=PRIORITIES, queue_id=queue_id, lanes=1
    )
    for number in range(60):
        octets = properties(delivery_mode=2, priority=number % 3)
        channel.publish("", "old", b"%d" % number, octets)
    channel.client.broker.journal.commit()
    assert resident(queue_of(channel, "old")) == 60
    expected = sorted(range(60), key=lambda number: (-(number % 3), number))
    assert channel.drain("old") == [b"%d" % number for number in expected]


@pytest.mark.parametrize(("compat", "levels"), [("4.2", 2), ("4.3", 32)])
def test_quorum_queues_page_by_their_priorities(compat: Compat, levels: int) -> None:
    channel = opened(QUORUM, compat)
    assert queue_of(channel).lanes == levels
    for number in range(120):
        publish(channel, number, number % 12)
    channel.client.broker.journal.commit()
    assert resident(queue_of(channel)) <= 20

    def level(number: int) -> int:
        priority = number % 12
        return int(priority < 5) if compat == "4.2" else -priority

    in_order = sorted(range(120), key=lambda number: (level(number), number))
    expected = [b"%d:%d" % (number % 12, number) for number in in_order]
    returned = [channel.get("q") for _ in range(30)]
    for got in returned:
        assert isinstance(got, Got)
        channel.nack(got.delivery_tag)
    channel.client.broker.journal.commit()
    assert take(channel, 40) == expected[:40]
    channel.client.broker.journal.commit()
    channel = reopened(channel)
    assert channel.drain("q") == expected[40:]


def test_a_quorum_queue_of_another_profile_keeps_its_messages() -> None:
    """It has lanes of other levels than the rules want now: it is read whole, in order."""
    channel = opened(QUORUM, "4.3")
    for number in range(60):
        publish(channel, number, number % 12)
    channel.client.broker.journal.commit()
    channel.client.broker.config = BrokerUnderTest(limits=LIMITS).config
    channel = reopened(channel)
    assert queue_of(channel).compat == "3.13"
    assert resident(queue_of(channel)) == 60
    assert channel.drain("q") == [b"%d:%d" % (number % 12, number) for number in range(60)]
    channel.client.broker.journal.commit()
    assert rows(channel) == 0


def test_a_queue_that_refuses_duplicates_pages_and_knows_them_all() -> None:
    channel = opened(DEDUPLICATED)

    def publish_once(number: int) -> None:
        headers = {"x-deduplication-header": ("S", f"{number}")}
        octets = properties(delivery_mode=2, headers=headers)
        channel.publish("", "q", b"%d" % number, octets)
        channel.client.broker.journal.commit()

    for _ in range(2):
        for number in range(100):
            publish_once(number)
    assert queue_of(channel).ready == 100
    assert resident(queue_of(channel)) <= 12

    channel = reopened(channel)
    assert resident(queue_of(channel)) <= 12
    publish_once(50)
    assert take(channel, 60) == numbers(0, 59)
    publish_once(50)
    publish_once(70)
    assert channel.drain("q") == [*numbers(60, 99), b"50"]


def test_a_purge_lets_duplicates_of_what_was_on_disk_in_again() -> None:
    channel = opened(DEDUPLICATED)
    for number in range(2):
        for header in range(50):
            headers = {"x-deduplication-header": ("S", f"{header}")}
            octets = properties(delivery_mode=2, headers=headers)
            channel.publish("", "q", b"%d" % (number * 50 + header), octets)
            channel.client.broker.journal.commit()
        if not number:
            kept = channel.get("q")
            assert isinstance(kept, Got)
            channel.send(method(QueueMethods.Purge, queue="q"))
            channel.client.broker.journal.commit()
            assert channel.take(QueueMethods.PurgeOk).message_count == 49
    # The one that is still with its consumer is there, and its duplicate is not.
    assert channel.drain("q") == numbers(51, 99)


@pytest.mark.parametrize("gets", range(1, 6))
def test_heads_do_not_leave_while_what_follows_them_is_read(gets: int) -> None:
    """What is read follows them: were they put back before it, it would be passed over them."""
    channel = opened(PRIORITIES)
    for number in range(60):
        publish(channel, number, 1)
    channel.client.broker.journal.commit()
    seen: list[bytes] = []
    while queue_of(channel).ready:
        with channel.client.together():
            # The last of these asks for a page; before it comes, better ones need the room.
            for _ in range(gets):
                channel.send(method(Basic.Get, queue="q", no_ack=True))
            if len(seen) < 100:
                for number in range(20):
                    publish(channel, number, 9)
        seen += [heard.body for heard in channel.take_all() if isinstance(heard, Got)]
        channel.client.broker.journal.commit()
        seen += take(channel, 20)
    worse = [body for body in seen if body.startswith(b"1:")]
    assert worse == [b"1:%d" % number for number in range(60)]


def test_what_was_read_does_not_go_back_for_those_behind_it_that_are_not_safe() -> None:
    """It would be read again, and again, till the journal has written what follows it."""
    channel = opened(PRIORITIES)
    for number in range(4):
        publish(channel, number, 9)
    channel.client.broker.journal.commit()
    for number, priority in enumerate((0, 0, 0, 9, 9, 9, 9, 9, 9, 9), 4):
        octets = properties(delivery_mode=2, priority=priority)
        channel.publish("", "q", b"%d:%d" % (priority, number), octets)
    best = [b"9:%d" % number for number in (*range(4), *range(7, 14))]
    assert consumed(channel, 2) == [*best, b"0:4", b"0:5", b"0:6"]
