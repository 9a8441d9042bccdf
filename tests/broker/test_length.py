"""Queues of limited length (reference 7.1)."""

from __future__ import annotations

import pytest

from amqpd.commands import Queue
from amqpd.errors import PRECONDITION_FAILED
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    Confirmed,
    declare,
    method,
    table,
)


def limited(channel: Channel, **arguments: object) -> Channel:
    declare(channel, **arguments)
    return channel


def test_the_oldest_is_dropped(channel: Channel) -> None:
    limited(channel, x_max_length=2)
    for number in range(5):
        channel.publish("", "q", b"%d" % number)
    assert channel.drain("q") == [b"3", b"4"]


def test_bytes_count_bodies(channel: Channel) -> None:
    limited(channel, x_max_length_bytes=10)
    for body in (b"aaaa", b"bbbb", b"cc", b"d"):
        channel.publish("", "q", body)
    assert channel.drain("q") == [b"bbbb", b"cc", b"d"]
    channel.publish("", "q", b"eeeeeeeeee")
    assert channel.drain("q") == [b"eeeeeeeeee"]
    channel.publish("", "q", b"larger than the queue")
    assert channel.drain("q") == []


def test_unacknowledged_messages_do_not_count(channel: Channel) -> None:
    limited(channel, x_max_length=1)
    channel.publish("", "q", b"held")
    assert channel.get("q") is not None
    channel.publish("", "q", b"ready")
    assert channel.counts("q")[0] == 1


def test_what_comes_back_may_be_too_much(channel: Channel) -> None:
    """The limit is enforced again after a requeue, and the head goes (observed on 3.10.8)."""
    limited(channel, x_max_length=1)
    channel.publish("", "q", b"old")
    got = channel.get("q")
    assert got is not None
    channel.publish("", "q", b"new")
    channel.nack(got.delivery_tag)
    assert channel.drain("q") == [b"new"]


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
def test_what_comes_back_to_a_queue_that_refuses_stays(channel: Channel, overflow: str) -> None:
    """Both were confirmed, so that dropping either would lose it (observed on 3.10.8)."""
    limited(channel, x_max_length=1, x_overflow=overflow)
    channel.publish("", "q", b"old")
    got = channel.get("q")
    assert got is not None
    channel.publish("", "q", b"new")
    channel.nack(got.delivery_tag)
    assert channel.drain("q") == [b"old", b"new"]


def test_a_length_of_zero_still_serves_a_waiting_consumer(channel: Channel) -> None:
    limited(channel, x_max_length=0)
    channel.publish("", "q", b"dropped")
    channel.consume("q")
    channel.publish("", "q", b"delivered")
    assert channel.bodies() == [b"delivered"]


def test_a_full_queue_refuses_and_says_so(channel: Channel) -> None:
    limited(channel, x_max_length=1, x_overflow="reject-publish")
    channel.confirm_select()
    for number in range(3):
        channel.publish("", "q", b"%d" % number)
    assert channel.confirms() == [
        Confirmed(1),
        Confirmed(2, ack=False),
        Confirmed(3, ack=False),
    ]
    assert channel.drain("q") == [b"0"]


def test_the_octets_of_the_message_to_come_count(channel: Channel) -> None:
    """Observed on 3.10.8: unlike what is dropped from the head, which may have been the last."""
    limited(channel, x_max_length_bytes=10, x_overflow="reject-publish")
    for body in (b"aaaa", b"bbbb", b"cc", b"d", b"larger than the queue", b"e"):
        channel.publish("", "q", body)
    assert channel.drain("q") == [b"aaaa", b"bbbb", b"cc"]
    channel.publish("", "q", b"larger than the queue")
    channel.publish("", "q", b"f")
    assert channel.drain("q") == [b"f"]


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
def test_a_queue_without_room_refuses_though_a_consumer_waits(
    channel: Channel, overflow: str
) -> None:
    """Observed on 3.10.8: unlike a queue that drops its head."""
    limited(channel, x_max_length=0, x_overflow=overflow)
    channel.consume("q")
    channel.publish("", "q", b"refused")
    channel.expect_nothing()
    channel.queue_declare("bytes", arguments={"x-max-length-bytes": 3, "x-overflow": overflow})
    channel.consume("bytes")
    for body in (b"a", b"bbbb", b"cc", b"ddd"):
        channel.publish("", "bytes", body)
    assert channel.bodies() == [b"a", b"cc", b"ddd"]


def test_without_confirms_a_refusal_is_silent(channel: Channel) -> None:
    limited(channel, x_max_length=1, x_overflow="reject-publish")
    channel.publish("", "q", b"0")
    channel.publish("", "q", b"1", mandatory=True)
    channel.expect_nothing()
    assert channel.drain("q") == [b"0"]


def test_the_other_queues_take_what_one_refuses(channel: Channel) -> None:
    limited(channel, x_max_length=1, x_overflow="reject-publish")
    channel.queue_declare("other")
    for name in ("q", "other"):
        channel.queue_bind(name, "amq.fanout")
    channel.confirm_select()
    channel.publish("amq.fanout", "", b"0")
    channel.publish("amq.fanout", "", b"1")
    assert channel.confirms() == [Confirmed(1), Confirmed(2, ack=False)]
    assert channel.drain("other") == [b"0", b"1"]


def test_a_confirm_never_speaks_for_what_was_refused(channel: Channel) -> None:
    limited(channel, x_max_length=1, x_overflow="reject-publish")
    channel.queue_declare("open")
    channel.confirm_select()
    with channel.client.together():
        for key in ("q", "q", "open", "open"):
            channel.publish("", key, b"x")
    said = channel.confirms()
    assert Confirmed(2, ack=False) in said
    acked = {n for n in range(1, 5) for c in said if c.ack and (n == c.number)}
    assert acked == {1, 3, 4}
    assert not any(c.ack and c.multiple and c.number > 1 for c in said)


def test_a_transaction_that_a_queue_refuses_part_of(channel: Channel) -> None:
    limited(channel, x_max_length=1, x_overflow="reject-publish")
    channel.tx_select()
    channel.publish("", "q", b"0")
    channel.publish("", "q", b"1")
    with channel.refuses(
        PRECONDITION_FAILED, "PRECONDITION_FAILED - partial tx completion", (90, 20)
    ):
        channel.tx_commit()


def test_what_is_dropped_is_gone_from_the_store() -> None:
    broker = BrokerUnderTest(journaling=True)
    channel = broker.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True), table({"x-max-length": 1}))
    for number in range(3):
        channel.publish("", "q", b"%d" % number, PERSISTENT)
        broker.journal.commit()
    assert [row.body for row in broker.journal.store.rows.values()] == [b"2"]
    broker.crash_and_recover()
    assert broker.client().channel().drain("q") == [b"2"]
