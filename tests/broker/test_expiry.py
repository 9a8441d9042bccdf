"""Messages and queues that expire (reference 7.1), on the virtual clock."""

from __future__ import annotations

import pytest

from amqpd.commands import Queue
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Confirmed,
    declare,
    method,
    properties,
    table,
)


def test_a_message_expires_with_its_queues_time_to_live() -> None:
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    declare(channel, x_message_ttl=1000)
    channel.publish("", "q", b"x")
    broker.advance(0.9)
    assert channel.counts("q")[0] == 1
    broker.advance(0.2)
    assert channel.counts("q")[0] == 0


@pytest.mark.parametrize(("own", "of_queue"), [(500, 2000), (2000, 500)])
def test_the_smaller_time_to_live_wins(own: int, of_queue: int) -> None:
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    declare(channel, x_message_ttl=of_queue)
    channel.publish("", "q", b"x", properties(expiration=str(own)))
    broker.advance(0.4)
    assert channel.counts("q")[0] == 1
    broker.advance(0.2)
    assert channel.counts("q")[0] == 0


def test_only_the_head_expires() -> None:
    """A message behind one that does not expire stays, and is counted."""
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    declare(channel)
    channel.publish("", "q", b"for ever")
    channel.publish("", "q", b"short", properties(expiration="100"))
    broker.advance(10)
    assert channel.counts("q")[0] == 2
    assert channel.drain("q") == [b"for ever"]


def test_what_a_get_brings_to_the_head_expires_in_time() -> None:
    """Found by the simulator: nobody was asked for the time of the new head."""
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    declare(channel)
    channel.publish("", "q", b"for ever")
    channel.publish("", "q", b"short", properties(expiration="100"))
    assert channel.get("q") is not None
    broker.advance(0.2)
    assert channel.counts("q")[0] == 0


def test_what_comes_to_the_head_by_a_get_expires_in_its_turn() -> None:
    """At once if its time has come, so that get-ok does not count it; else when it comes."""
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    declare(channel)
    channel.publish("", "q", b"for ever")
    channel.publish("", "q", b"expired", properties(expiration="100"))
    channel.publish("", "q", b"expires later", properties(expiration="20000"))
    broker.advance(10)
    got = channel.get("q", no_ack=True)
    assert got is not None
    assert got.message_count == 1
    broker.advance(11)
    assert channel.counts("q")[0] == 0


def test_nothing_expired_is_ever_delivered() -> None:
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    declare(channel)
    for number in range(5):
        channel.publish("", "q", b"%d" % number, properties(expiration="100"))
    channel.publish("", "q", b"good")
    broker.core.now = broker.now + 1  # the timer has not had its turn yet
    broker.now += 1
    channel.consume("q", no_ack=True)
    assert channel.bodies() == [b"good"]


def test_a_time_to_live_of_zero_lives_only_for_a_waiting_consumer() -> None:
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    declare(channel, x_message_ttl=0)
    channel.publish("", "q", b"nobody waits")
    assert channel.counts("q")[0] == 0
    channel.consume("q")
    channel.publish("", "q", b"somebody does")
    assert channel.bodies() == [b"somebody does"]


def test_a_requeued_message_keeps_its_time() -> None:
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    declare(channel, x_message_ttl=1000)
    channel.publish("", "q", b"x")
    got = channel.get("q")
    assert got is not None
    broker.advance(0.9)
    channel.nack(got.delivery_tag)
    assert channel.counts("q")[0] == 1
    broker.advance(0.2)
    assert channel.counts("q")[0] == 0


def test_an_unacknowledged_message_does_not_expire() -> None:
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    declare(channel, x_message_ttl=1000)
    channel.publish("", "q", b"x")
    got = channel.get("q")
    assert got is not None
    broker.advance(60)
    channel.ack(got.delivery_tag)
    assert channel.counts("q")[0] == 0


def test_an_expired_message_is_confirmed_all_the_same() -> None:
    broker = BrokerUnderTest(journaling=True)
    channel = broker.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True), table({"x-message-ttl": 0}))
    broker.journal.commit()
    channel.take_all()
    channel.confirm_select()
    channel.publish("", "q", b"x", PERSISTENT)
    assert channel.confirms() == [Confirmed(1)]
    assert broker.journal.commit() == []


def test_times_survive_a_crash() -> None:
    broker = BrokerUnderTest(journaling=True)
    channel = broker.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True), table({"x-message-ttl": 1000}))
    channel.publish("", "q", b"x", PERSISTENT)
    broker.journal.commit()
    broker.advance(0.5)
    broker.crash_and_recover()
    broker.turn()
    survivor = broker.client().channel()
    assert survivor.counts("q")[0] == 1
    broker.advance(0.6)
    assert survivor.counts("q")[0] == 0


def test_an_unused_queue_expires_and_its_messages_are_not_dead_lettered() -> None:
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    channel.queue_declare("dead")
    declare(channel, x_expires=1000, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    channel.publish("", "q", b"x")
    broker.advance(0.9)
    assert "q" in broker.core.virtual_hosts["/"].queues
    broker.advance(0.2)
    assert "q" not in broker.core.virtual_hosts["/"].queues
    assert channel.counts("dead")[0] == 0


def test_get_and_declare_renew_a_queues_life_and_a_consumer_keeps_it_alive() -> None:
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    queues = broker.core.virtual_hosts["/"].queues
    declare(channel, x_expires=1000)
    broker.advance(0.9)
    channel.get("q")
    broker.advance(0.9)
    declare(channel, x_expires=1000)
    broker.advance(0.9)
    channel.counts("q")
    broker.advance(0.9)
    tag = channel.consume("q")
    broker.advance(60)
    assert "q" in queues
    channel.cancel(tag)
    broker.advance(0.9)
    assert "q" in queues
    broker.advance(0.2)
    assert "q" not in queues


def test_a_deleted_queue_leaves_no_timer_behind() -> None:
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    declare(channel, x_expires=3_600_000)
    channel.queue_delete("q")
    assert not broker.core.timers._watched


@pytest.mark.parametrize("end", ["channel", "connection"])
def test_an_unused_queues_time_begins_when_its_consumer_is_gone(end: str) -> None:
    broker = BrokerUnderTest()
    client = broker.client()
    channel = client.channel()
    declare(channel, x_expires=1000)
    channel.consume("q")
    broker.advance(60)
    if end == "channel":
        channel.close()
    else:
        client.drop()
    broker.advance(0.9)
    assert "q" in broker.core.virtual_hosts["/"].queues
    broker.advance(0.2)
    assert "q" not in broker.core.virtual_hosts["/"].queues


@pytest.mark.parametrize("before", [True, False])
def test_the_time_of_day_is_set(before: bool) -> None:
    """As after a start with a wrong clock that is corrected later, or after a night's sleep."""
    broker = BrokerUnderTest(journaling=True)
    channel = broker.client().channel()
    arguments = table({"x-message-ttl": 3_600_000})
    channel.send(method(Queue.Declare, queue="q", durable=True), arguments)
    broker.journal.commit()
    channel.take(Queue.DeclareOk)
    if before:
        channel.publish("", "q", b"x", PERSISTENT)
    day_s = broker.core.effects.epoch_s + 86_400
    broker.core.set_epoch(day_s)
    broker.turn()
    if not before:
        channel.publish("", "q", b"x", PERSISTENT)
    broker.advance(1)
    broker.journal.commit()
    assert broker.core.virtual_hosts["/"].queues["q"].ready == (not before)
    broker.crash_and_recover()
    broker.core.set_epoch(day_s)
    broker.turn()
    broker.advance(1)
    assert broker.core.virtual_hosts["/"].queues["q"].ready == (not before)
