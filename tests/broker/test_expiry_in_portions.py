"""Much that expires at once is dropped a portion at a time, and nobody gets any of it meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from amqpd.broker import queue
from amqpd.broker.queue import EXPIRED_AT_ONCE
from amqpd.commands import Basic, Queue
from tests.constants import replace_constant
from tests.conversation import (
    BrokerUnderTest,
    Delivery,
    Got,
    Heard,
    Refused,
    method,
    properties,
)

TTL_S = 0.1
ALL = 10**6


def ready(broker: BrokerUnderTest) -> int:
    return broker.core.virtual_hosts["/"].queues["q"].ready


@pytest.fixture
def broker() -> BrokerUnderTest:
    """With a queue in which everything but the last message has just expired, less one portion."""
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    channel.queue_declare("q")
    for _ in range(2 * EXPIRED_AT_ONCE + 1):
        channel.publish("", "q", b"too late", properties(expiration="100"))
    channel.publish("", "q", b"for ever")
    broker.advance(TTL_S)
    assert ready(broker) == EXPIRED_AT_ONCE + 2
    return broker


def test_the_rest_follows_at_once(broker: BrokerUnderTest) -> None:
    broker.advance(0.001)
    assert ready(broker) == 1


def test_others_have_their_turns_between_two_portions(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.queue_declare("other")
    channel.publish("", "other", b"x")
    assert channel.drain("other") == [b"x"]
    assert ready(broker) == EXPIRED_AT_ONCE + 2


def test_a_consumer_gets_what_is_behind_it(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.consume("q")
    channel.expect_nothing()
    broker.advance(0.001)
    assert channel.bodies() == [b"for ever"]


def test_get_waits_for_what_is_behind_it(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.send(method(Basic.Get, queue="q", no_ack=True))
    channel.expect_nothing()
    broker.advance(0.001)
    (got,) = channel.take_all()
    assert isinstance(got, Got)
    assert got.body == b"for ever"


def test_what_is_published_goes_to_the_end(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.consume("q", no_ack=True)
    channel.publish("", "q", b"later")
    channel.expect_nothing()
    broker.advance(0.001)
    assert channel.bodies() == [b"for ever", b"later"]


@pytest.mark.parametrize("end", ["purge", "delete"])
def test_a_get_is_answered_when_the_queue_is_emptied(broker: BrokerUnderTest, end: str) -> None:
    waiting, other = broker.client().channel(), broker.client().channel()
    waiting.send(method(Basic.Get, queue="q"))
    if end == "purge":
        other.call(method(Queue.Purge, queue="q"), Queue.PurgeOk)
        broker.advance(0.001)
        waiting.receive(Basic.GetEmpty)
    else:
        other.call(method(Queue.Delete, queue="q"), Queue.DeleteOk)
        broker.advance(0.001)
        with pytest.raises(Refused) as refused:
            waiting.receive(Basic.GetEmpty)
        assert refused.value.code == 404
    assert not broker.core.timers.next_deadline()


step = st.sampled_from(["publish", "short", "get", "consume", "cancel", "purge", "wait"])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(step, max_size=40), st.booleans())
@example(["short", "short", "wait", "publish", "publish"], True)
@example(["short", "short", "wait", "purge"], False)
@example(["short", "wait", "publish", "consume", "consume"], False)
def test_portions_make_no_difference(
    monkeypatch: pytest.MonkeyPatch, steps: list[str], prioritized: bool
) -> None:
    said = []
    for portion in (1, 2, ALL):
        replace_constant(monkeypatch, queue, "EXPIRED_AT_ONCE", portion)
        said.append(conversation(steps, prioritized))
    assert said[0] == said[2]
    assert said[1] == said[2]


def conversation(steps: list[str], prioritized: bool) -> tuple[list[object], list[bytes]]:
    """What one client is answered about such a queue; and what is delivered to it, at the end the
    dead letters as well. Deliveries may come some answers later."""
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    channel.queue_declare("dead")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    channel.queue_declare("q", arguments=arguments | ({"x-max-priority": 3} if prioritized else {}))
    for number, what in enumerate(steps):
        body = b"%d" % number
        if what == "purge" or (prioritized and what in ("publish", "short")):
            # What is to be dropped yet would be purged, or hidden behind a higher priority.
            broker.advance(0.001)
        if what == "publish":
            channel.publish("", "q", body, properties(priority=number % 3))
        elif what == "short":
            channel.publish("", "q", body, properties(priority=number % 3, expiration="100"))
        elif what == "get":
            channel.send(method(Basic.Get, queue="q", no_ack=True))
        elif what == "consume":
            channel.send(method(Basic.Consume, queue="q", consumer_tag=f"c{number}", no_ack=True))
        elif what == "cancel":
            channel.send(method(Basic.Cancel, consumer_tag="c0"))
        elif what == "purge":
            channel.send(method(Queue.Purge, queue="q"))
        else:
            broker.advance(TTL_S)
    broker.advance(1)
    for name in ("dead", "q"):
        channel.send(method(Basic.Consume, queue=name, no_ack=True))
        broker.advance(1)
    heard = channel.take_all()
    answers = [gist(said) for said in heard if not isinstance(said, Delivery)]
    return answers, [said.body for said in heard if isinstance(said, Delivery)]


def gist(said: Heard) -> object:
    """Counts aside: of what has expired, it depends on the portion how much is still counted."""
    return said.body if isinstance(said, Got) else type(said)
