"""The conversation itself: that its brokers and clients behave as tests rely on."""

from __future__ import annotations

from amqpd.commands import Queue
from tests.conversation import PERSISTENT, BrokerUnderTest, Confirmed, method


def test_publish_to_missing_exchange(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.publish("nope", "key", b"x")
    channel.expect_closed(404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (60, 40))
    channel.open()
    with channel.refuses(404, "NOT_FOUND - no queue 'q' in vhost '/'", (50, 10)):
        channel.queue_declare("q", passive=True)


def test_crash_keeps_what_was_committed(journaled: BrokerUnderTest) -> None:
    channel = journaled.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True))
    channel.expect_nothing()
    journaled.journal.commit()
    channel.take_all()
    channel.confirm_select()
    channel.publish("", "q", b"kept", PERSISTENT)
    channel.expect_nothing()
    journaled.journal.commit()
    assert channel.confirms() == [Confirmed(1)]
    channel.publish("", "q", b"lost", PERSISTENT)
    journaled.crash_and_recover()
    assert journaled.client().channel().drain("q") == [b"kept"]
