"""Transactions: what is buffered, when it is checked, what commit and rollback do (5.7)."""

from __future__ import annotations

import pytest

from amqpd.commands import Basic, Frame, Queue, Tx
from amqpd.commands import Channel as ChannelClass
from amqpd.config import Compat
from amqpd.wire.properties import REPLY_TO, read_property
from amqpd_storage.entries import Enqueue, Settle
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    Confirmed,
    Delivery,
    Returned,
    method,
    properties,
)

COMMIT = (90, 20)
ROLLBACK = (90, 30)


@pytest.fixture
def pair(broker: BrokerUnderTest) -> tuple[Channel, Channel]:
    """A transactional channel, and another one; a queue `q`."""
    channel, other = broker.client().channel(), broker.client().channel()
    other.queue_declare("q")
    channel.tx_select()
    return channel, other


def consuming_one_at_a_time(pair: tuple[Channel, Channel]) -> Channel:
    """The transactional channel: it was given `1`, and `2` waits until that is settled."""
    channel, other = pair
    channel.qos(1)
    channel.consume("q", "t")
    other.publish("", "q", b"1")
    other.publish("", "q", b"2")
    assert channel.bodies() == [b"1"]
    return channel


def test_without_select(channel: Channel) -> None:
    text = "PRECONDITION_FAILED - channel is not transactional"
    with channel.refuses(406, text, COMMIT):
        channel.tx_commit()
    channel.open()
    with channel.refuses(406, text, ROLLBACK):
        channel.tx_rollback()


def test_select_is_idempotent(pair: tuple[Channel, Channel]) -> None:
    channel, other = pair
    channel.publish("", "q", b"1")
    channel.tx_select()
    channel.tx_commit()
    assert other.drain("q") == [b"1"]


def test_confirms_and_transactions_exclude_each_other(channel: Channel) -> None:
    channel.tx_select()
    text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode"
    with channel.refuses(406, text, (85, 10)):
        channel.confirm_select()
    channel.open()
    channel.confirm_select()
    text = "PRECONDITION_FAILED - cannot switch from confirm to tx mode"
    with channel.refuses(406, text, (90, 10)):
        channel.tx_select()


def test_publishes_show_at_commit(pair: tuple[Channel, Channel]) -> None:
    channel, other = pair
    for body in (b"1", b"2"):
        channel.publish("", "q", body)
    assert other.counts("q") == (0, 0)
    channel.tx_commit()
    assert other.drain("q") == [b"1", b"2"]
    channel.publish("", "q", b"3")
    assert other.counts("q") == (0, 0)
    channel.tx_commit()
    channel.tx_commit()
    assert other.drain("q") == [b"3"]


def test_rollback_forgets_publishes(pair: tuple[Channel, Channel]) -> None:
    channel, other = pair
    channel.publish("", "q", b"1")
    channel.tx_rollback()
    channel.tx_commit()
    assert other.counts("q") == (0, 0)


def test_publishes_are_checked_at_once(pair: tuple[Channel, Channel]) -> None:
    channel, _ = pair
    channel.publish("", "q", b"1", properties(expiration="x"))
    text = "PRECONDITION_FAILED - invalid expiration 'x': no_integer"
    channel.expect_closed(406, text, (60, 40))
    channel.open()
    channel.publish("nope", "q", b"1")
    text = "NOT_FOUND - no exchange 'nope' in vhost '/'"
    channel.expect_closed(404, text, (60, 40))


def test_returns_come_at_commit_before_commit_ok(pair: tuple[Channel, Channel]) -> None:
    channel, _ = pair
    channel.publish("", "nope", b"1", mandatory=True)
    channel.expect_nothing()
    channel.send(method(Tx.Commit))
    assert channel.take(Returned).body == b"1"
    channel.take(Tx.CommitOk)


def test_returns_come_before_what_committed_acks_make_room_for(
    pair: tuple[Channel, Channel],
) -> None:
    """As with RabbitMQ, whose channel returns them before its queues hear of the acks."""
    channel = consuming_one_at_a_time(pair)
    channel.ack(1)
    channel.publish("", "nope", b"lost", mandatory=True)
    channel.send(method(Tx.Commit))
    assert channel.take(Returned).body == b"lost"
    assert channel.take(Delivery).body == b"2"
    channel.take(Tx.CommitOk)


def test_publishes_are_routed_when_they_come(pair: tuple[Channel, Channel]) -> None:
    """By the bindings of that moment, as in RabbitMQ."""
    channel, other = pair
    other.queue_declare("late")
    other.queue_bind("q", "amq.direct", "k")
    channel.publish("amq.direct", "k", b"1")
    other.queue_unbind("q", "amq.direct", "k")
    other.queue_bind("late", "amq.direct", "k")
    channel.publish("amq.direct", "k", b"2")
    channel.tx_commit()
    assert (other.drain("q"), other.drain("late")) == ([b"1"], [b"2"])


def test_publishes_go_to_queues_by_name(pair: tuple[Channel, Channel]) -> None:
    """To whatever queue has the name at the commit, or to none."""
    channel, other = pair
    for key, name in (("kept", "q"), ("again", "r"), ("gone", "s")):
        if name != "q":
            other.queue_declare(name)
        other.queue_bind(name, "amq.direct", key)
        channel.publish("amq.direct", key, name.encode(), mandatory=True)
    for name in ("r", "s"):
        other.queue_delete(name)
    other.queue_declare("r")
    channel.send(method(Tx.Commit))
    assert channel.take(Returned).body == b"s"
    channel.take(Tx.CommitOk)
    assert (other.drain("q"), other.drain("r")) == ([b"q"], [b"r"])


def test_the_default_exchange_finds_queues_at_commit(pair: tuple[Channel, Channel]) -> None:
    channel, other = pair
    carbon = properties(headers={"CC": ["later", "q"], "BCC": ["hidden"]})
    channel.publish("", "later", b"1", carbon)
    other.queue_declare("later")
    other.queue_declare("hidden")
    channel.tx_commit()
    assert [other.drain(name) for name in ("later", "q", "hidden")] == [[b"1"]] * 3


def test_a_hidden_recipient_stays_hidden(pair: tuple[Channel, Channel]) -> None:
    channel, other = pair
    other.queue_bind("q", "amq.direct", "k")
    for exchange, key in (("", "q"), ("amq.direct", "k")):
        channel.publish(exchange, key, b"1", properties(headers={"BCC": ["r"], "a": 1}))
        channel.tx_commit()
        got = other.get("q")
        assert got is not None
        assert b"BCC" not in got.properties


@pytest.mark.parametrize("compat", ["3.13", "4.2"])
def test_a_direct_reply_in_a_transaction(compat: Compat) -> None:
    """In RabbitMQ 3.x it is no part of it: it is gone at once, and returned at the commit."""
    broker = BrokerUnderTest(compat=compat)
    requester, channel = broker.client().channel(), broker.client().channel()
    requester.queue_declare("q")
    requester.consume("amq.rabbitmq.reply-to", "r", no_ack=True)
    requester.publish("", "q", b"request", properties(reply_to="amq.rabbitmq.reply-to"))
    request = channel.get("q", no_ack=True)
    assert request is not None
    token = read_property(request.properties, REPLY_TO)
    channel.tx_select()
    channel.publish("", token, b"reply", mandatory=True)
    if compat == "3.13":
        assert requester.bodies() == [b"reply"]
    else:
        requester.expect_nothing()
    channel.send(method(Tx.Commit))
    if compat == "3.13":
        assert channel.take(Returned).body == b"reply"
        requester.expect_nothing()
    else:
        assert requester.bodies() == [b"reply"]
    channel.take(Tx.CommitOk)


def test_acks_count_at_commit(pair: tuple[Channel, Channel]) -> None:
    channel, other = pair
    other.publish("", "q", b"1")
    other.publish("", "q", b"2")
    for _ in range(2):
        assert channel.get("q") is not None
    channel.ack(1)
    channel.tx_commit()
    channel.ack(2)
    channel.close()
    assert other.drain("q") == [b"2"]


def test_rollback_makes_acks_undone(pair: tuple[Channel, Channel]) -> None:
    """Unacknowledged again, not requeued, and in the order of their tags."""
    channel, other = pair
    for body in (b"1", b"2", b"3"):
        other.publish("", "q", body)
    for _ in range(3):
        assert channel.get("q") is not None
    channel.ack(3)
    channel.ack(1)
    channel.tx_rollback()
    assert other.counts("q") == (0, 0)
    channel.ack(2, multiple=True)
    channel.tx_commit()
    channel.close()
    assert other.drain("q") == [b"3"]


def test_an_ack_may_be_said_once_per_transaction(pair: tuple[Channel, Channel]) -> None:
    channel, other = pair
    other.publish("", "q", b"1")
    assert channel.get("q") is not None
    channel.ack(1)
    channel.ack(1)
    text = "PRECONDITION_FAILED - unknown delivery tag 1"
    channel.expect_closed(406, text, (60, 80))


def test_an_unknown_tag_is_refused_at_once(pair: tuple[Channel, Channel]) -> None:
    channel, _ = pair
    channel.nack(7)
    text = "PRECONDITION_FAILED - unknown delivery tag 7"
    channel.expect_closed(406, text, (60, 120))


@pytest.mark.parametrize("requeue", [True, False])
def test_rejects_count_at_commit(pair: tuple[Channel, Channel], requeue: bool) -> None:
    channel, other = pair
    other.publish("", "q", b"1")
    assert channel.get("q") is not None
    channel.reject(1, requeue=requeue)
    assert other.counts("q") == (0, 0)
    channel.tx_commit()
    assert other.drain("q") == ([b"1"] if requeue else [])


def test_an_ack_in_a_transaction_opens_no_window_before_commit(
    pair: tuple[Channel, Channel],
) -> None:
    channel = consuming_one_at_a_time(pair)
    channel.ack(1)
    channel.expect_nothing()
    channel.tx_commit()
    assert channel.bodies() == [b"2"]


def test_consuming_and_declaring_are_not_transactional(pair: tuple[Channel, Channel]) -> None:
    channel, other = pair
    channel.queue_declare("r")
    other.publish("", "r", b"1")
    channel.consume("r", "t")
    assert channel.bodies() == [b"1"]
    channel.tx_rollback()
    assert other.counts("r") == (0, 1)


def test_what_recover_means_within_a_transaction(pair: tuple[Channel, Channel]) -> None:
    """What was acked in it is not given back; the rest is."""
    channel, other = pair
    for body in (b"1", b"2"):
        other.publish("", "q", body)
    for _ in range(2):
        assert channel.get("q") is not None
    channel.ack(1)
    channel.recover()
    assert other.counts("q") == (1, 0)
    channel.tx_commit()
    assert other.drain("q") == [b"2"]


# On disk


@pytest.fixture
def durable(journaled: BrokerUnderTest) -> Channel:
    """A transactional channel beside two durable queues, bound to amq.fanout."""
    channel = journaled.client().channel()
    for name in ("q", "r"):
        channel.send(method(Queue.Declare, queue=name, durable=True))
        channel.send(method(Queue.Bind, queue=name, exchange="amq.fanout", routing_key=""))
    journaled.journal.commit()
    channel.take_all()
    channel.tx_select()
    return channel


def test_commit_ok_waits_for_the_disk(durable: Channel) -> None:
    broker = durable.client.broker
    durable.publish("amq.fanout", "", b"1", PERSISTENT)
    durable.publish("", "q", b"2", PERSISTENT)
    assert broker.journal.commit() == []
    durable.send(method(Tx.Commit))
    durable.expect_nothing()
    written = broker.journal.commit()
    assert sum(isinstance(entry, Enqueue) for entry in written) == 3
    durable.take(Tx.CommitOk)
    broker.crash_and_recover()
    channel = broker.client().channel()
    assert (channel.drain("q"), channel.drain("r")) == ([b"1", b"2"], [b"1"])


def test_a_transaction_without_anything_durable_needs_no_disk(durable: Channel) -> None:
    durable.publish("", "q", b"1")
    durable.tx_commit()


def test_committed_acks_wait_for_the_disk(durable: Channel) -> None:
    broker = durable.client.broker
    durable.publish("", "q", b"1", PERSISTENT)
    durable.send(method(Tx.Commit))
    broker.journal.commit()
    durable.take(Tx.CommitOk)
    assert durable.get("q") is not None
    durable.ack(1)
    broker.journal.commit()
    assert len(broker.journal.store.rows) == 1
    durable.send(method(Tx.Commit))
    durable.expect_nothing()
    assert any(isinstance(entry, Settle) for entry in broker.journal.commit())
    durable.take(Tx.CommitOk)


@pytest.mark.parametrize(
    ("said", "ids"),
    [
        (method(Basic.Ack, delivery_tag=0, multiple=True), (60, 80)),
        (method(Queue.Declare, queue="x", passive=True), (50, 10)),
        (method(Tx.Commit), (90, 20)),
        (method(Basic.Get, queue="q"), (60, 70)),
    ],
    ids=["ack", "declare", "commit", "get"],
)
def test_nothing_may_be_said_while_it_commits(
    durable: Channel, said: Basic.Ack | Queue.Declare, ids: tuple[int, int]
) -> None:
    durable.publish("", "q", b"1", PERSISTENT)
    durable.send(method(Tx.Commit))
    durable.send(said)
    text = "CHANNEL_ERROR - unexpected command while processing 'tx.commit'"
    durable.client.expect_closed(504, text, ids)
    durable.client.broker.journal.commit()


def test_a_publish_while_it_commits(durable: Channel) -> None:
    durable.publish("", "q", b"1", PERSISTENT)
    durable.send(method(Tx.Commit))
    durable.publish("", "q", b"2")
    text = "CHANNEL_ERROR - unexpected command while processing 'tx.commit'"
    durable.client.expect_closed(504, text, (60, 40))


def test_a_close_while_it_commits(durable: Channel) -> None:
    """Answered after commit-ok, which nothing of the channel overtakes."""
    durable.publish("", "q", b"1", PERSISTENT)
    durable.send(method(Tx.Commit))
    durable.send(method(ChannelClass.Close, reply_code=200, reply_text=""))
    durable.client.broker.journal.commit()
    assert [item.name for item in durable.take_all() if isinstance(item, Frame)][-1] == (
        "Channel.CloseOk"
    )


def test_other_channels_go_on_while_it_commits(durable: Channel) -> None:
    other = durable.client.channel()
    durable.publish("", "q", b"1", PERSISTENT)
    durable.send(method(Tx.Commit))
    assert other.drain("q") == [b"1"]
    other.confirm_select()
    other.publish("", "q", b"2")
    assert other.confirms() == [Confirmed(1)]
    durable.client.broker.journal.commit()
    durable.take(Tx.CommitOk)
