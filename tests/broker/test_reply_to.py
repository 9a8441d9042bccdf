"""Direct reply-to: replies without a reply queue (reference 5.8)."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.commands import Basic, Queue
from amqpd.config import Compat, Limits
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

REPLY_TO = "amq.rabbitmq.reply-to"


def read_reply_to(octets: bytes) -> str:
    """Of a property list with reply-to alone."""
    assert octets[:2] == b"\x02\x00"
    assert len(octets) == 3 + octets[2]
    return octets[3:].decode()


def ask(requester: Channel, queue: str = "server") -> str:
    """A request; the token that its server is to answer to."""
    server = requester.client.channel()
    server.queue_declare(queue)
    requester.publish("", queue, b"?", properties(reply_to=REPLY_TO))
    got = server.get(queue, no_ack=True)
    assert got is not None
    server.close()
    return read_reply_to(got.properties)


def test_request_and_reply(broker: BrokerUnderTest) -> None:
    requester = broker.client().channel()
    server = broker.client().channel()
    assert requester.consume(REPLY_TO, "t", no_ack=True) == "t"
    token = ask(requester)
    assert token.startswith(REPLY_TO + ".")
    assert ask(requester) == token
    server.publish("", token, b"1", properties(correlation_id="c", headers={"a": 1}))
    server.publish("", token, b"2")
    # RabbitMQ 3.10.8 gives all replies the tag of the channel's next delivery.
    first, second = requester.deliveries()
    assert first == Delivery(
        "t", 1, False, "", token, properties(correlation_id="c", headers={"a": 1}), b"1"
    )
    assert (second.delivery_tag, second.body) == (2, b"2")


def test_other_properties_of_the_request_stay(channel: Channel) -> None:
    channel.queue_declare("server")
    channel.consume(REPLY_TO, "t", no_ack=True)
    sent = {"headers": {"b": 1, "a": ("V", None)}, "priority": 4, "expiration": "5000"}
    channel.publish("", "server", b"?", properties(reply_to=REPLY_TO, **sent))  # type: ignore[arg-type]
    got = channel.get("server", no_ack=True)
    assert got is not None
    token = ask(channel, "other")
    assert got.properties == properties(reply_to=token, **sent)  # type: ignore[arg-type]


@pytest.mark.parametrize("reply_to", ["q", REPLY_TO + "x", "amq.rabbitmq", ""])
def test_any_other_reply_to_stays(channel: Channel, reply_to: str) -> None:
    channel.queue_declare("q")
    channel.publish("", "q", b"?", properties(reply_to=reply_to))
    got = channel.get("q")
    assert got is not None
    assert got.properties == properties(reply_to=reply_to)


def test_a_token_is_of_its_channel(channel: Channel) -> None:
    other = channel.client.channel()
    for asker in (channel, other):
        asker.consume(REPLY_TO, "t", no_ack=True)
    tokens = [ask(channel), ask(other)]
    assert tokens[0] != tokens[1]
    other.publish("", tokens[0], b"1")
    assert channel.bodies() == [b"1"]
    other.expect_nothing()


def test_the_reply_consumer_cannot_acknowledge(channel: Channel) -> None:
    text = "PRECONDITION_FAILED - reply consumer cannot acknowledge"
    with channel.refuses(406, text, (60, 20)):
        channel.consume(REPLY_TO, "t")


def test_a_second_reply_consumer(channel: Channel) -> None:
    for tag in ("t", "u"):
        channel.consume(REPLY_TO, "t", no_ack=True)
        with channel.refuses(406, "PRECONDITION_FAILED - reply consumer already set", (60, 20)):
            channel.consume(REPLY_TO, tag, no_ack=True)
        channel.open()


def test_its_tag_cannot_be_used_twice(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.consume("q", "t")
    text = "NOT_ALLOWED - attempt to reuse consumer tag 't'"
    with channel.client.refuses(530, text, (60, 20)):
        channel.consume(REPLY_TO, "t", no_ack=True)


def test_nor_by_an_ordinary_consumer(channel: Channel) -> None:
    """RabbitMQ 3.10.8 lets it, and then has two consumers of one tag."""
    channel.queue_declare("q")
    channel.consume(REPLY_TO, "t", no_ack=True)
    text = "NOT_ALLOWED - attempt to reuse consumer tag 't'"
    with channel.client.refuses(530, text, (60, 20)):
        channel.consume("q", "t")


def test_its_tag_may_be_generated(channel: Channel) -> None:
    assert channel.consume(REPLY_TO, no_ack=True).startswith("amq.ctag-")


def test_publish_without_a_reply_consumer(channel: Channel) -> None:
    channel.client.channel().consume(REPLY_TO, "t", no_ack=True)
    channel.publish("", "q", b"?", properties(reply_to=REPLY_TO))
    text = "PRECONDITION_FAILED - fast reply consumer does not exist"
    channel.expect_closed(406, text, (60, 40))


@pytest.mark.parametrize("flags", [{}, {"passive": True}, {"exclusive": True, "durable": True}])
def test_the_pseudo_queue_can_be_declared(channel: Channel, flags: dict[str, Any]) -> None:
    """With any flags; it has a consumer and no messages. So has a token that lives."""
    ok = channel.queue_declare(REPLY_TO, **flags)
    assert (ok.queue, ok.message_count, ok.consumer_count) == (REPLY_TO, 0, 1)
    channel.consume(REPLY_TO, "t", no_ack=True)
    token = ask(channel)
    ok = channel.client.broker.client().channel().queue_declare(token, **flags)
    assert (ok.queue, ok.message_count, ok.consumer_count) == (token, 0, 1)


@pytest.mark.parametrize("passive", [False, True])
def test_a_dead_token_is_no_queue(channel: Channel, passive: bool) -> None:
    other = channel.client.channel()
    other.consume(REPLY_TO, "t", no_ack=True)
    token = ask(other)
    other.close()
    for dead in (token, REPLY_TO + ".garbage"):
        with channel.refuses(404, f"NOT_FOUND - no queue '{dead}' in vhost '/'", (50, 10)):
            channel.queue_declare(dead, passive=passive)
        channel.open()


@pytest.mark.parametrize("ending", ["cancel", "channel", "connection", "drop"])
def test_replies_to_nobody(broker: BrokerUnderTest, ending: str) -> None:
    """The token is dead: dropped, returned if mandatory, and confirmed."""
    requester, server = broker.client().channel(), broker.client().channel()
    requester.consume(REPLY_TO, "t", no_ack=True)
    token = ask(requester)
    match ending:
        case "cancel":
            requester.cancel("t")
        case "channel":
            requester.close()
        case "connection":
            requester.client.close()
        case _:
            requester.client.drop()
    server.confirm_select()
    server.publish("", token, b"1")
    assert server.confirms() == [Confirmed(1)]
    server.publish("", token, b"2", mandatory=True)
    assert server.take(Returned).text == "NO_ROUTE"
    assert server.confirms() == [Confirmed(2)]
    if ending == "cancel":
        requester.expect_nothing()


@pytest.mark.parametrize("compat", ["3.13", "4.2", "4.3"])
def test_a_mandatory_reply_that_finds_its_requester(compat: Compat) -> None:
    """RabbitMQ 3.x passes it on, and returns it all the same."""
    broker = BrokerUnderTest(compat=compat)
    channel, server = broker.client().channel(), broker.client().channel()
    channel.consume(REPLY_TO, "t", no_ack=True)
    channel.queue_declare("server", durable=True)
    channel.publish("", "server", b"?", properties(reply_to=REPLY_TO))
    got = server.get("server")
    assert got is not None
    server.confirm_select()
    server.publish("", read_reply_to(got.properties), b"1", PERSISTENT, mandatory=True)
    if compat == "3.13":
        assert server.take(Returned).body == b"1"
    assert server.confirms() == [Confirmed(1)]
    assert channel.bodies() == [b"1"]


def test_a_cancelled_reply_consumer_can_be_set_again(channel: Channel) -> None:
    channel.consume(REPLY_TO, "t", no_ack=True)
    before = ask(channel)
    channel.cancel("t")
    channel.consume(REPLY_TO, "t", no_ack=True)
    after = ask(channel)
    channel.publish("", after, b"1")
    assert channel.bodies() == [b"1"]
    assert before.startswith(REPLY_TO)


def test_the_pseudo_queue_cannot_be_bound(channel: Channel) -> None:
    """3.x: there is no such queue."""
    text = f"NOT_FOUND - no queue '{REPLY_TO}' in vhost '/'"
    with channel.refuses(404, text, (50, 20)):
        channel.queue_bind(REPLY_TO, "amq.direct", "k")


def test_replies_through_other_exchanges_do_not_arrive(channel: Channel) -> None:
    channel.consume(REPLY_TO, "t", no_ack=True)
    token = ask(channel)
    channel.publish("amq.direct", token, b"1", mandatory=True)
    assert channel.take(Returned).body == b"1"
    channel.expect_nothing()


def test_get_and_purge_and_delete_know_no_pseudo_queue(channel: Channel) -> None:
    text = f"NOT_FOUND - no queue '{REPLY_TO}' in vhost '/'"
    with channel.refuses(404, text, (60, 70)):
        channel.get(REPLY_TO)
    channel.open()
    with channel.refuses(404, text, (50, 30)):
        channel.queue_purge(REPLY_TO)
    channel.open()
    assert channel.queue_delete(REPLY_TO) == 0


def test_nowait(channel: Channel) -> None:
    channel.send(method(Queue.Declare, queue=REPLY_TO, nowait=True))
    consume = method(Basic.Consume, queue=REPLY_TO, consumer_tag="t", no_ack=True, nowait=True)
    channel.send(consume)
    channel.expect_nothing()
    channel.publish("", ask(channel), b"1")
    assert channel.bodies() == [b"1"]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_replies_are_no_part_of_a_transaction(channel: Channel, end: str) -> None:
    """RabbitMQ 3.10.8 passes them on at once, committed or not."""
    channel.consume(REPLY_TO, "t", no_ack=True)
    token = ask(channel)
    server = channel.client.broker.client().channel()
    server.tx_select()
    server.publish("", token, b"1")
    assert channel.bodies() == [b"1"]
    if end == "commit":
        server.tx_commit()
    else:
        server.tx_rollback()
    channel.expect_nothing()


def test_replies_are_never_journaled(journaled: BrokerUnderTest) -> None:
    channel = journaled.client().channel()
    channel.consume(REPLY_TO, "t", no_ack=True)
    token = ask(channel)
    server = journaled.client().channel()
    server.confirm_select()
    server.publish("", token, b"1", PERSISTENT)
    assert server.confirms() == [Confirmed(1)]
    assert journaled.journal.commit() == []


def test_a_requester_that_never_reads_costs_no_more_than_its_limit() -> None:
    broker = BrokerUnderTest(limits=Limits(unsent_replies_bytes_max=1000))
    channel, server = broker.client().channel(), broker.client().channel()
    channel.consume(REPLY_TO, "t", no_ack=True)
    token = ask(channel)
    channel.client.reading = False
    for _ in range(100):
        server.publish("", token, b"x" * 100)
    channel.client.read()
    assert 1 <= len(channel.deliveries()) < 10
    server.publish("", token, b"1")
    assert channel.bodies() == [b"1"]
