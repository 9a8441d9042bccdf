"""Publisher confirms: numbers, coalescing, and never one that is not safe (reference 5.5, 5.7)."""

from __future__ import annotations

import pytest

from amqpd.commands import Confirm, Frame, Queue
from amqpd_storage.entries import Enqueue, Settle
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    Confirmed,
    Delivery,
    Returned,
    method,
)


def numbers(channel: Channel) -> set[int]:
    """The publish numbers that the confirms heard since cover, counted from the lowest open one."""
    confirmed: set[int] = set()
    for confirm in channel.confirms():
        assert confirm.ack
        confirmed.update(range(1, confirm.number + 1) if confirm.multiple else (confirm.number,))
    return confirmed


@pytest.fixture
def durable(journaled: BrokerUnderTest) -> Channel:
    """A channel in confirm mode, beside two durable queues `q` and `r`, all committed."""
    channel = journaled.client().channel()
    for name in ("q", "r"):
        with channel.client.together():
            channel.send(method(Queue.Declare, queue=name, durable=True))
            channel.send(method(Queue.Bind, queue=name, exchange="amq.fanout", routing_key=""))
    journaled.journal.commit()
    channel.take_all()
    channel.confirm_select()
    return channel


def commit(channel: Channel) -> int:
    """Commit; how many messages were written."""
    written = channel.client.broker.journal.commit()
    return sum(isinstance(entry, Enqueue) for entry in written)


# Without a journal


def test_select_is_idempotent(channel: Channel) -> None:
    channel.confirm_select()
    channel.publish("", "nope")
    channel.confirm_select()
    channel.publish("", "nope")
    assert channel.confirms() == [Confirmed(1), Confirmed(2)]


def test_select_nowait(channel: Channel) -> None:
    channel.send(method(Confirm.Select, nowait=True))
    channel.expect_nothing()
    channel.publish("", "nope")
    assert channel.confirms() == [Confirmed(1)]


def test_numbers_begin_with_select(channel: Channel) -> None:
    """What was published before is not counted; each channel counts for itself."""
    channel.publish("", "nope")
    channel.confirm_select()
    other = channel.client.channel()
    other.confirm_select()
    channel.publish("", "nope")
    other.publish("", "nope")
    channel.publish("", "nope")
    assert channel.confirms() == [Confirmed(1), Confirmed(2)]
    assert other.confirms() == [Confirmed(1)]


def test_numbers_begin_anew_with_the_channel(channel: Channel) -> None:
    channel.confirm_select()
    channel.publish("", "nope")
    channel.close()
    channel.take_all()
    channel.open().confirm_select()
    channel.publish("", "nope")
    assert channel.confirms() == [Confirmed(1)]


def test_one_turn_is_one_confirm(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.queue_declare("q")
    channel.confirm_select()
    with channel.client.together():
        for _ in range(1000):
            channel.publish("", "q")
    assert channel.confirms() == [Confirmed(1000, multiple=True)]


def test_everything_is_confirmed(channel: Channel) -> None:
    """Routed to several queues, to none, returned, consumed automatically."""
    channel.confirm_select()
    for name in ("q", "r"):
        channel.queue_declare(name)
        channel.queue_bind(name, "amq.fanout")
    channel.consume("r", "t", no_ack=True)
    with channel.client.together():
        channel.publish("amq.fanout", "", b"1", PERSISTENT)
        channel.publish("", "nope", b"2")
        channel.publish("", "nope", b"3", mandatory=True)
        channel.publish("", "q", b"4")
    heard = channel.take_all()
    assert [item.body for item in heard if isinstance(item, Delivery)] == [b"1"]
    assert [item.body for item in heard if isinstance(item, Returned)] == [b"3"]
    confirmed = {item.number for item in heard if isinstance(item, Confirmed)}
    assert max(confirmed) == 4


# With a journal


def test_a_persistent_message_is_confirmed_by_its_commit(durable: Channel) -> None:
    durable.publish("", "q", b"1", PERSISTENT)
    durable.expect_nothing()
    journal = durable.client.broker.journal
    assert journal.begin_commit() is not None
    durable.publish("", "q", b"2", PERSISTENT)
    durable.expect_nothing()
    journal.end_commit()
    assert durable.confirms() == [Confirmed(1)]
    assert commit(durable) == 1
    assert durable.confirms() == [Confirmed(2)]


def test_what_needs_no_disk_is_confirmed_at_once(durable: Channel) -> None:
    durable.queue_declare("transient")
    durable.publish("", "q", b"1")
    durable.publish("", "nope", b"2", PERSISTENT)
    durable.publish("", "transient", b"3", PERSISTENT)
    assert durable.confirms() == [Confirmed(1), Confirmed(2), Confirmed(3)]
    assert commit(durable) == 0


def test_a_number_in_between_is_not_claimed(durable: Channel) -> None:
    """1 and 3 wait for the disk, 2, 4 and 5 do not: no multiple may cover 1 or 3."""
    with durable.client.together():
        durable.publish("", "q", b"1", PERSISTENT)
        durable.publish("", "q", b"2")
        durable.publish("", "q", b"3", PERSISTENT)
        durable.publish("", "q", b"4")
        durable.publish("", "q", b"5")
    assert sorted(durable.confirms(), key=lambda confirm: confirm.number) == [
        Confirmed(2),
        Confirmed(4),
        Confirmed(5),
    ]
    commit(durable)
    assert numbers(durable) >= {1, 3}


def test_many_commits_in_one_confirm(durable: Channel) -> None:
    with durable.client.together():
        for _ in range(200):
            durable.publish("", "q", b"x", PERSISTENT)
    durable.expect_nothing()
    commit(durable)
    assert durable.confirms() == [Confirmed(200, multiple=True)]


def test_a_message_of_several_queues_waits_for_all_of_them(durable: Channel) -> None:
    durable.publish("amq.fanout", "", b"1", PERSISTENT)
    durable.expect_nothing()
    assert commit(durable) == 2
    assert durable.confirms() == [Confirmed(1)]


def test_a_durable_and_a_transient_queue(durable: Channel) -> None:
    durable.queue_declare("transient")
    durable.queue_bind("transient", "amq.fanout")
    durable.publish("amq.fanout", "", b"1", PERSISTENT)
    assert durable.drain("transient") == [b"1"]
    durable.expect_nothing()
    commit(durable)
    assert durable.confirms() == [Confirmed(1)]


def test_acknowledged_before_it_was_written(durable: Channel) -> None:
    """Then it never is, and is confirmed at once."""
    durable.consume("q", "t")
    durable.publish("", "q", b"1", PERSISTENT)
    (delivery,) = durable.deliveries()
    durable.ack(delivery.delivery_tag)
    assert durable.confirms() == [Confirmed(1)]
    written = durable.client.broker.journal.commit()
    assert not [entry for entry in written if isinstance(entry, Enqueue | Settle)]
    durable.expect_nothing()


def test_delivered_to_an_automatic_consumer(durable: Channel) -> None:
    durable.consume("q", "t", no_ack=True)
    durable.publish("", "q", b"1", PERSISTENT)
    durable.take(Delivery)
    assert durable.confirms() == [Confirmed(1)]
    assert commit(durable) == 0


@pytest.mark.parametrize("how", ["get", "purge", "delete", "reject", "automatic"])
def test_other_ways_to_be_done_with_before_it_was_written(durable: Channel, how: str) -> None:
    other = durable.client.broker.client().channel()
    durable.publish("", "q", b"1", PERSISTENT)
    durable.expect_nothing()
    match how:
        case "get":
            assert other.drain("q") == [b"1"]
        case "purge":
            other.send(method(Queue.Purge, queue="q"))
        case "delete":
            other.send(method(Queue.Delete, queue="q"))
        case "reject":
            assert other.get("q") is not None
            other.reject(1, requeue=False)
        case _:
            other.consume("q", "t", no_ack=True)
    assert durable.confirms() == [Confirmed(1)]
    assert commit(durable) == 0


def test_acknowledged_in_one_of_two_queues(durable: Channel) -> None:
    durable.publish("amq.fanout", "", b"1", PERSISTENT)
    assert durable.drain("q") == [b"1"]
    durable.expect_nothing()
    assert commit(durable) == 1
    assert durable.confirms() == [Confirmed(1)]
    durable.publish("amq.fanout", "", b"2", PERSISTENT)
    assert durable.drain("q") == [b"2"]
    durable.expect_nothing()
    assert durable.drain("r") == [b"1", b"2"]
    assert durable.confirms() == [Confirmed(2)]


def test_acknowledged_while_it_is_being_written(durable: Channel) -> None:
    """It cannot be taken back from that batch: confirmed by its end, settled by the next."""
    journal = durable.client.broker.journal
    durable.publish("", "q", b"1", PERSISTENT)
    journal.begin_commit()
    assert durable.drain("q") == [b"1"]
    durable.expect_nothing()
    journal.end_commit()
    assert durable.confirms() == [Confirmed(1)]
    assert len(journal.store.rows) == 1
    journal.commit()
    assert journal.store.rows == {}


def test_requeued_before_it_was_written(durable: Channel) -> None:
    durable.publish("", "q", b"1", PERSISTENT)
    got = durable.get("q")
    assert got is not None
    durable.nack(got.delivery_tag)
    durable.expect_nothing()
    assert commit(durable) == 1
    assert durable.confirms() == [Confirmed(1)]


def test_a_queue_deleted_while_its_message_is_being_written(durable: Channel) -> None:
    journal = durable.client.broker.journal
    durable.publish("", "q", b"1", PERSISTENT)
    journal.begin_commit()
    durable.send(method(Queue.Delete, queue="q"))
    journal.commit()
    assert journal.store.rows == {}
    assert numbers_and_replies(durable) == ({1}, ["Queue.DeleteOk"])


def numbers_and_replies(channel: Channel) -> tuple[set[int], list[str]]:
    """What was said, apart."""
    heard = channel.take_all()
    confirmed = {item.number for item in heard if isinstance(item, Confirmed)}
    return confirmed, [item.name for item in heard if isinstance(item, Frame)]


def test_a_confirm_for_a_channel_that_has_ended(durable: Channel) -> None:
    """Nothing is said on the number's next life."""
    durable.publish("", "q", b"1", PERSISTENT)
    durable.close()
    durable.open()
    durable.confirm_select()
    commit(durable)
    durable.expect_nothing()
    durable.publish("", "nope")
    assert durable.confirms() == [Confirmed(1)]


def test_a_confirm_for_a_client_that_has_gone(durable: Channel) -> None:
    durable.publish("", "q", b"1", PERSISTENT)
    durable.client.drop()
    assert commit(durable) == 1


def test_after_a_crash_confirmed_messages_are_there(durable: Channel) -> None:
    broker = durable.client.broker
    durable.publish("amq.fanout", "", b"1", PERSISTENT)
    durable.publish("", "q", b"2")
    commit(durable)
    durable.publish("", "q", b"3", PERSISTENT)
    assert numbers(durable) == {1, 2}
    broker.crash_and_recover()
    channel = broker.client().channel()
    assert (channel.drain("q"), channel.drain("r")) == ([b"1"], [b"1"])
