"""Channels: opening, closing, flow, and what becomes of them after a refusal (reference 1, 5.1)."""

from __future__ import annotations

import pytest

from amqpd.commands import Access, Basic, Connection, Exchange, Frame, Queue
from amqpd.commands import Channel as Methods
from amqpd.config import Limits
from tests.conversation import BrokerUnderTest, Channel, method

Q = "queue 'q' in vhost '/'"


def test_flow_on_is_confirmed(channel: Channel) -> None:
    assert channel.flow(True) is True


def test_flow_off_is_refused(channel: Channel) -> None:
    with channel.client.refuses(540, "NOT_IMPLEMENTED - active=false", (20, 20)):
        channel.flow(False)


def test_access_request_is_granted(channel: Channel) -> None:
    assert channel.call(method(Access.Request, realm="/data"), Access.RequestOk).ticket == 1


def test_a_refused_channel_can_be_opened_again_at_once(channel: Channel) -> None:
    for _ in range(3):
        with channel.refuses(404, f"NOT_FOUND - no {Q}", (50, 10)):
            channel.queue_declare("q", passive=True)
        channel.open()
    channel.queue_declare("q", exclusive=True)


def test_what_comes_after_a_refusal_is_dropped(channel: Channel) -> None:
    """Until close-ok, and publishes with their contents too."""
    with channel.client.together():
        channel.publish("nope", "")
        channel.publish("", "", b"dropped")
        channel.publish("nope", "", b"dropped")
        channel.send(method(Queue.Declare, queue="q", exclusive=True))
    channel.expect_closed(404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (60, 40))
    channel.open()
    with channel.refuses(404, f"NOT_FOUND - no {Q}", (50, 10)):
        channel.queue_declare("q", passive=True)


def test_a_close_that_crosses_ours_is_answered(channel: Channel) -> None:
    with channel.client.together():
        channel.publish("nope", "")
        channel.send(method(Methods.Close, reply_code=200, reply_text="", class_id=0, method_id=0))
    channel.take(Methods.Close)
    channel.take(Methods.CloseOk)
    channel.open()


def test_a_refusal_leaves_other_channels_alone(channel: Channel) -> None:
    other = channel.client.channel()
    channel.publish("nope", "")
    channel.expect_closed(404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (60, 40))
    assert other.flow(True)


def test_a_method_on_a_channel_never_opened(channel: Channel) -> None:
    channel.client.send(7, method(Queue.Declare, queue="q"))
    channel.client.expect_closed(504, "CHANNEL_ERROR - expected 'channel.open'", (50, 10))


def test_a_closed_channel_is_one_never_opened(channel: Channel) -> None:
    channel.close()
    channel.publish("", "q")
    channel.client.expect_closed(504, "CHANNEL_ERROR - expected 'channel.open'", (60, 40))


def test_a_second_open(channel: Channel) -> None:
    channel.send(method(Methods.Open))
    channel.client.expect_closed(504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10))


@pytest.mark.parametrize(
    ("said", "ids"),
    [
        (method(Queue.DeclareOk, queue="q"), (50, 11)),
        (method(Basic.ConsumeOk, consumer_tag="t"), (60, 21)),
        (method(Basic.GetEmpty), (60, 72)),
        (method(Exchange.DeclareOk), (40, 11)),
        (method(Connection.Blocked, reason="r"), (10, 60)),
        (method(Connection.Close, reply_code=200, reply_text=""), (10, 50)),
    ],
    ids=lambda value: value.name if isinstance(value, Frame) else "",
)
def test_methods_that_are_the_servers(channel: Channel, said: Frame, ids: tuple[int, int]) -> None:
    channel.send(said)
    channel.client.expect_closed(503, "COMMAND_INVALID - unimplemented method", ids)


def test_channel_max_limits_the_count_and_not_the_numbers(broker: BrokerUnderTest) -> None:
    client = broker.client(channel_max=2)
    client.channel(9)
    client.channel(500)
    text = "number of channels opened (2) has reached the negotiated channel_max (2)"
    with client.refuses(530, f"NOT_ALLOWED - {text}", (0, 0)):
        client.channel(3)


def test_the_number_of_a_closed_channel_is_free(broker: BrokerUnderTest) -> None:
    client = broker.client(channel_max=1)
    for _ in range(3):
        client.channel(4).close()


def test_consumers_on_a_channel_are_limited() -> None:
    broker = BrokerUnderTest(limits=Limits(consumers_per_channel_max=2))
    channel = broker.client().channel()
    channel.queue_declare("q")
    channel.consume("q", "a")
    channel.consume("q", "b")
    text = "NOT_ALLOWED - reached maximum (2) of consumers per channel"
    with channel.client.refuses(530, text, (60, 20)):
        channel.consume("q", "c")


def test_a_client_may_ask_on_without_waiting(channel: Channel) -> None:
    """Pipelining: answers come in the order of the questions."""
    with channel.client.together():
        channel.send(method(Queue.Declare, queue="q", exclusive=True))
        channel.send(method(Queue.Bind, queue="q", exchange="amq.direct", routing_key="k"))
        channel.publish("amq.direct", "k", b"1")
        channel.send(method(Basic.Get, queue="q", no_ack=True))
        channel.send(method(Queue.Delete, queue="q"))
    assert [type(heard).__name__ for heard in channel.take_all()] == [
        "DeclareOk",
        "BindOk",
        "Got",
        "DeleteOk",
    ]


def test_nowait_methods_are_not_answered(channel: Channel) -> None:
    """The next synchronous call sees their effect."""
    channel.send(method(Exchange.Declare, exchange="x", exchange_type="fanout", nowait=True))
    channel.send(method(Queue.Declare, queue="q", nowait=True))
    channel.send(method(Queue.Bind, queue="q", exchange="x", routing_key="", nowait=True))
    channel.send(
        method(Exchange.Bind, destination="x", source="amq.direct", routing_key="k", nowait=True)
    )
    channel.publish("amq.direct", "k", b"1")
    channel.send(method(Queue.Purge, queue="q", nowait=True))
    channel.publish("amq.direct", "k", b"2")
    channel.send(method(Basic.Consume, queue="q", consumer_tag="t", no_ack=True, nowait=True))
    assert channel.bodies() == [b"2"]
    channel.send(method(Basic.Cancel, consumer_tag="t", nowait=True))
    channel.send(
        method(Exchange.Unbind, destination="x", source="amq.direct", routing_key="k", nowait=True)
    )
    channel.send(method(Queue.Delete, queue="q", nowait=True))
    channel.send(method(Exchange.Delete, exchange="x", nowait=True))
    channel.expect_nothing()
    with channel.refuses(404, "NOT_FOUND - no exchange 'x' in vhost '/'", (40, 10)):
        channel.exchange_declare("x", passive=True)


def test_a_refused_nowait_method_closes_as_any_other(channel: Channel) -> None:
    channel.send(method(Queue.Bind, queue="q", exchange="amq.direct", nowait=True))
    channel.expect_closed(404, f"NOT_FOUND - no {Q}", (50, 20))


def test_long_reply_texts_are_cut(channel: Channel) -> None:
    """A reply text is a short string: 255 octets, the last three of them dots."""
    name = "q" * 255
    with channel.refuses(404, f"NOT_FOUND - no queue '{name}"[:252] + "...", (50, 10)):
        channel.queue_declare(name, passive=True)


def test_closing_a_channel_gives_back_what_it_held(channel: Channel) -> None:
    channel.queue_declare("q", auto_delete=False)
    channel.publish("", "q", b"1")
    channel.publish("", "q", b"2")
    channel.consume("q")
    assert channel.bodies() == [b"1", b"2"]
    other = channel.client.channel()
    assert other.counts("q") == (0, 1)
    channel.close()
    assert other.counts("q") == (2, 0)
    got = other.get("q")
    assert got is not None
    assert (got.body, got.redelivered, got.message_count) == (b"1", True, 1)
    other.queue_delete("q")


@pytest.mark.parametrize("ending", ["close", "drop", "refusal"])
def test_the_end_of_a_connection_gives_back_what_it_held(
    broker: BrokerUnderTest, ending: str
) -> None:
    channel = broker.client().channel()
    other = broker.client().channel()
    other.queue_declare("q")
    other.publish("", "q", b"1")
    channel.consume("q")
    assert channel.bodies() == [b"1"]
    if ending == "close":
        channel.client.close()
    elif ending == "drop":
        channel.client.drop()
    else:
        channel.publish("", "q", b"", immediate=True)
        channel.client.expect_closed(540, "NOT_IMPLEMENTED - immediate=true", (60, 40))
    got = other.get("q")
    assert got is not None
    assert (got.body, got.redelivered) == (b"1", True)


def test_closing_a_channel_drops_its_transaction(channel: Channel) -> None:
    other = channel.client.channel()
    other.queue_declare("q")
    other.publish("", "q", b"1")
    channel.tx_select()
    got = channel.get("q")
    assert got is not None
    channel.ack(got.delivery_tag)
    channel.publish("", "q", b"2")
    channel.close()
    assert other.drain("q") == [b"1"]
