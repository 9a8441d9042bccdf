"""Long queues, and what else queues do: each of these once went wrong, or nearly did."""

from __future__ import annotations

from amqpd.broker.policies import set_policy
from amqpd.commands import Basic
from amqpd.commands import Queue as QueueMethods
from amqpd.config import Limits
from tests.broker.test_paging import LIMITS, declared, fill, numbers, queue_of, resident, rows
from tests.conversation import PERSISTENT, BrokerUnderTest, Channel, Got, method, properties


def opened(limits: Limits = LIMITS) -> Channel:
    """A channel, and a durable queue q."""
    return declared(BrokerUnderTest(journaling=True, limits=limits).client().channel(), "q")


def delete(channel: Channel, name: str = "q") -> None:
    channel.send(method(QueueMethods.Delete, queue=name))
    channel.client.broker.journal.commit()
    channel.take(QueueMethods.DeleteOk)


def purge(channel: Channel) -> int | None:
    channel.send(method(QueueMethods.Purge, queue="q"))
    channel.client.broker.journal.commit()
    return channel.take(QueueMethods.PurgeOk).message_count


def records(channel: Channel) -> list[tuple[str, str]]:
    """What the store knows of messages that came back."""
    definitions = channel.client.broker.journal.store.definitions
    return [(kind, key) for kind, key in definitions if kind == "return"]


def test_a_queue_purged_while_it_was_long_leaves_its_id_alone() -> None:
    channel = opened()
    fill(channel, 1, 100)
    purge(channel)
    delete(channel)
    declared(channel, "next")

    # The rows of the purge may still be there, and are to be deleted by their keys.
    published = fill(channel, 1, 100, queue="next")
    assert channel.drain("next") == published


def test_a_get_after_the_last_of_a_heavy_queue_is_answered() -> None:
    channel = opened()
    for _ in range(2):
        # More than is to be in memory, so that the queue pages, though there is nothing to page.
        channel.publish("", "q", b"x" * 1200, PERSISTENT)
        assert [len(body) for body in channel.drain("q")] == [1200]


def test_what_expired_behind_an_empty_head_is_not_handed_out() -> None:
    channel = opened()
    for number in range(1, 12):
        expiration = "1000" if number > 4 else None
        octets = properties(delivery_mode=2, expiration=expiration)
        channel.publish("", "q", b"%d" % number, octets)  # none of them is safe
    channel.client.broker.advance(2)
    assert channel.drain("q") == numbers(1, 4)


def test_quorum_queue_whose_messages_are_all_returned_stays_out_of_memory() -> None:
    channel = declared(
        BrokerUnderTest(journaling=True, limits=LIMITS).client().channel(),
        "q",
        {"x-queue-type": ("S", "quorum")},
    )
    fill(channel, 1, 60)
    for _ in range(60):
        got = channel.get("q")
        assert isinstance(got, Got)
        channel.nack(got.delivery_tag)
        channel.client.broker.journal.commit()
    assert resident(queue_of(channel)) <= 12
    assert channel.drain("q") == numbers(1, 60)


def test_a_tail_does_not_grow_while_the_head_is_consumed() -> None:
    channel = opened()
    fill(channel, 1, 200)
    for number in range(201, 300):
        channel.publish("", "q", b"%d" % number, PERSISTENT)
        channel.client.broker.journal.commit()
        assert isinstance(channel.get("q", no_ack=True), Got)
        assert isinstance(channel.get("q", no_ack=True), Got)
        assert resident(queue_of(channel)) <= 16
    assert channel.drain("q") == numbers(199, 299)


def test_large_messages_leave_memory_while_the_head_is_consumed() -> None:
    channel = opened(Limits(queue_memory_messages=100, queue_memory_bytes=1000, flow_wait_s=0))
    for number in range(300):
        channel.publish("", "q", b"%099d" % number, PERSISTENT)
        channel.client.broker.journal.commit()
        if number >= 100:
            assert isinstance(channel.get("q", no_ack=True), Got)
            assert resident(queue_of(channel)) <= 80  # pages of 25, and a tail as heavy
    assert [int(body) for body in channel.drain("q")] == list(range(200, 300))


def test_purge_forgets_what_was_known_of_messages_on_disk() -> None:
    channel = declared(
        BrokerUnderTest(journaling=True, limits=LIMITS).client().channel(),
        "q",
        {"x-queue-type": ("S", "quorum")},
    )
    fill(channel, 1, 30)
    for _ in range(30):
        got = channel.get("q")
        assert isinstance(got, Got)
        channel.nack(got.delivery_tag)
    fill(channel, 31, 40)
    assert len(records(channel)) == 30
    purge(channel)
    assert rows(channel) == 0
    assert records(channel) == []


def test_purge_after_a_restart_forgets_what_was_known_of_messages_on_disk() -> None:
    channel = declared(
        BrokerUnderTest(journaling=True, limits=LIMITS).client().channel(),
        "q",
        {"x-queue-type": ("S", "quorum")},
    )
    fill(channel, 1, 30)
    consumer = channel.client.channel()
    consumer.consume("q")
    consumer.close()  # all 30 are counted as returned
    channel.client.broker.journal.commit()
    assert len(records(channel)) == 30
    broker = channel.client.broker
    broker.crash_and_recover()
    channel = broker.client().channel()
    assert purge(channel) == 30
    assert rows(channel) == 0
    assert records(channel) == []


def test_a_limit_that_comes_before_the_first_page() -> None:
    channel = opened()
    fill(channel, 1, 60)
    broker = channel.client.broker
    broker.crash_and_recover()
    set_policy(broker.core, "/", "short", pattern="q", definition={"max-length": 3})
    broker.turn()
    broker.journal.commit()
    assert broker.client().channel().counts("q") == (3, 0)


def test_a_client_goes_while_its_get_waits() -> None:
    channel = opened()
    fill(channel, 1, 60)
    broker = channel.client.broker
    broker.crash_and_recover()
    client = broker.client()
    getting = client.channel()
    with client.together():
        for _ in range(3):
            getting.send(method(Basic.Get, queue="q"))
    client.drop()
    broker.turn()
    left = broker.client().channel()
    assert left.drain("q") == numbers(1, 60)


def test_a_window_of_one_message() -> None:
    for most in (1, 2, 3):
        channel = opened(Limits(queue_memory_messages=most, flow_wait_s=0))
        published = fill(channel, 1, 20)
        assert channel.drain("q") == published


def test_transient_queues_of_a_client_that_goes_leave_nothing() -> None:
    broker = BrokerUnderTest(journaling=True, limits=LIMITS)
    client = broker.client()
    channel = client.channel()
    channel.queue_declare("mine", exclusive=True)
    fill(channel, 1, 60, queue="mine")
    client.drop()
    broker.turn()
    broker.journal.commit()
    assert not broker.journal.store.rows
