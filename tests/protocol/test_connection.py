"""An open connection: its channels' numbers, its heartbeats, and every way in which it ends."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.commands import Access, Arguments, Basic, Channel, Connection, Exchange, Queue, Tx
from amqpd.config import Limits
from amqpd.protocol.connection import State
from amqpd.protocol.methods import method_frame
from tests.conversation import BrokerUnderTest, method
from tests.protocol.client import (
    FrameClient,
    bodies,
    body,
    channel_close,
    close,
    frame,
    header,
    opened,
    pamqp_method,
    publish,
    stranger,
)

OPEN_EXPECTED = "CHANNEL_ERROR - expected 'channel.open'"
NO_SUCH_QUEUE = "NOT_FOUND - no queue 'nope' in vhost '/'"
HEARTBEAT = frame(8, 0, b"")
BYE = Connection.Close(200, "bye", 0, 0)


@pytest.fixture
def broker() -> BrokerUnderTest:
    return BrokerUnderTest()


def ids(said: Any) -> tuple[int, int]:
    return said.index >> 16, said.index & 0xFFFF


def break_channel(client: FrameClient, channel: int = 1) -> None:
    """Make the broker close it."""
    client.send(channel, Queue.Purge(queue="nope"))
    assert client.heard_now() == [channel_close(channel, 404, NO_SUCH_QUEUE, 50, 30)]


# -- opening channels


def test_any_number_may_be_opened(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1, 2, 2047, 65535)
    assert sorted(client.connection.outlets) == [1, 2, 2047, 65535]


def test_channel_max_counts_channels_and_not_their_numbers(broker: BrokerUnderTest) -> None:
    client = opened(broker, 9, 900, 65535, channel_max=4)
    client.send(1, Channel.Open())
    assert client.heard_now() == [(1, "channel.open_ok", "")]
    client.send(2, Channel.Open())
    text = "NOT_ALLOWED - number of channels opened (4) has reached the negotiated channel_max (4)"
    assert client.heard_now() == [close(530, text, 0, 0)]


def test_channels_that_ended_do_not_count(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1, 2, channel_max=2)
    client.send(1, Channel.Close(200, "", 0, 0))
    break_channel_two = Queue.Purge(queue="nope")
    client.send(2, break_channel_two)
    client.send(3, Channel.Open())
    client.send(4, Channel.Open())
    assert [said[:2] for said in client.heard_now()] == [
        (1, "channel.close_ok"),
        (2, "channel.close"),
        (3, "channel.open_ok"),
        (4, "channel.open_ok"),
    ]


def test_second_open(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.send(1, Channel.Open())
    assert client.heard_now() == [close(504, "CHANNEL_ERROR - second 'channel.open' seen", 20, 10)]


@pytest.mark.parametrize(
    "said",
    [
        Queue.Declare(queue="q"),
        Basic.Get(queue="q"),
        Channel.Close(200, "", 0, 0),
        Channel.CloseOk(),
        Channel.Flow(True),
        Tx.Commit(),
        Basic.Ack(1),
        Basic.Nack(1),
        Basic.Reject(1),
    ],
    ids=lambda said: said.name,
)
def test_method_on_a_channel_that_was_never_opened(broker: BrokerUnderTest, said: Any) -> None:
    client = opened(broker, 1)
    client.send(2, said)
    assert client.heard_now() == [close(504, OPEN_EXPECTED, *ids(said))]


def test_publish_on_a_channel_that_was_never_opened(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.send_bytes(publish(2, "", "q", b"x"))
    assert client.heard_now() == [close(504, OPEN_EXPECTED, 60, 40)]


def test_method_on_a_channel_that_was_closed(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.send(1, Channel.Close(200, "", 0, 0))
    client.send(1, Basic.Get(queue="q"))
    assert client.heard_now() == [
        (1, "channel.close_ok"),
        close(504, OPEN_EXPECTED, 60, 70),
    ]


# -- methods in the wrong place


@pytest.mark.parametrize(
    "said",
    [
        method(Basic.Deliver, consumer_tag="c", delivery_tag=1),
        method(Basic.GetOk, delivery_tag=1),
        method(Basic.Return, reply_code=312),
        Basic.GetEmpty(),
        Basic.ConsumeOk("c"),
        Basic.QosOk(),
        Channel.OpenOk(),
        Channel.CloseOk(),
        Queue.DeclareOk("q", 0, 0),
        Exchange.DeclareOk(),
        Tx.CommitOk(),
        method(Access.RequestOk),
    ],
    ids=lambda said: said.name,
)
def test_methods_of_servers(broker: BrokerUnderTest, said: Any) -> None:
    client = opened(broker, 1)
    client.send(1, said)
    assert client.heard_now() == [close(503, "COMMAND_INVALID - unimplemented method", *ids(said))]


CONNECTION_METHODS: list[Any] = [
    Connection.Start(),
    Connection.StartOk(),
    Connection.Tune(),
    Connection.TuneOk(),
    Connection.Open(),
    Connection.OpenOk(),
    Connection.Blocked(),
    Connection.Unblocked(),
    Connection.UpdateSecretOk(),
]


@pytest.mark.parametrize(
    "said",
    [*CONNECTION_METHODS, BYE, Connection.CloseOk(), Connection.UpdateSecret("s", "r")],
    ids=lambda said: said.name,
)
def test_connection_methods_on_a_channel(broker: BrokerUnderTest, said: Any) -> None:
    client = opened(broker, 1)
    client.send(1, said)
    assert client.heard_now() == [close(503, "COMMAND_INVALID - unimplemented method", *ids(said))]


@pytest.mark.parametrize(
    "said", [*CONNECTION_METHODS, Connection.CloseOk()], ids=lambda said: said.name
)
def test_connection_methods_that_are_not_due(broker: BrokerUnderTest, said: Any) -> None:
    client = opened(broker, 1)
    client.send(0, said)
    assert client.heard_now() == [close(503, "COMMAND_INVALID - unimplemented method", *ids(said))]


@pytest.mark.parametrize(
    "said",
    [Channel.Open(), Queue.Declare(queue="q"), Basic.Publish(), Basic.Ack(1), Tx.Select()],
    ids=lambda said: said.name,
)
def test_channel_methods_on_channel_0(broker: BrokerUnderTest, said: Any) -> None:
    client = opened(broker, 1)
    client.send(0, said)
    text = "CHANNEL_ERROR - unexpected method in connection state running"
    assert client.heard_now() == [close(504, text, *ids(said))]


# -- new secrets


def test_update_secret(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.send(0, method(Connection.UpdateSecret, new_secret=b"new", reason="it expires"))
    assert client.heard_now() == [(0, "connection.update_secret_ok")]
    client.send(1, Queue.Declare(queue="q"))
    assert client.heard_now() == [(1, "queue.declare_ok", "q", 0, 0)]


def test_update_secret_of_a_user_who_is_gone(broker: BrokerUnderTest) -> None:
    client = opened(broker)
    broker.core.journal(broker.core.access.delete_user("guest"))
    client.send(0, method(Connection.UpdateSecret, new_secret=b"new", reason=""))
    text = "NOT_ALLOWED - New secret was refused by one of the backends"
    assert client.heard_now() == [close(530, text, 10, 70)]


# -- channels that close


def test_publish_is_under_way_on_a_number_used_again_in_the_same_chunk(
    broker: BrokerUnderTest,
) -> None:
    """What the reader has of it already must not end with the old channel."""
    client = opened(broker, 1)
    client.send_bytes(
        method_frame(1, Channel.Close(200, "", 0, 0))
        + method_frame(1, Channel.Open())
        + method_frame(1, Queue.Declare(queue="q"))
        + pamqp_method(1, Basic.Publish(exchange="", routing_key="q"))
    )
    client.send_bytes(header(1, 2) + body(1, b"hi") + method_frame(1, Queue.Purge(queue="q")))
    assert [said[1:3] for said in client.heard_now()] == [
        ("channel.close_ok",),
        ("channel.open_ok", ""),
        ("queue.declare_ok", "q"),
        ("queue.purge_ok", 1),
    ]


def test_client_closes_a_channel_and_uses_its_number_again(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.send_bytes(
        method_frame(1, Channel.Close(200, "", 0, 0)) + method_frame(1, Channel.Open())
    )
    assert client.heard_now() == [(1, "channel.close_ok"), (1, "channel.open_ok", "")]
    assert list(client.connection.outlets) == [1]


def test_frames_on_a_channel_that_the_broker_closed_are_dropped(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1, 2)
    break_channel(client)
    for said in (
        Queue.Declare(queue="q"),
        Queue.Purge(queue="nope"),
        Channel.Open(),
        Basic.Ack(5),
        Connection.Open("/"),
        Basic.QosOk(),
    ):
        client.send(1, said)
    client.send_bytes(publish(1, "nope", "q", b"hello"))
    client.send_bytes(publish(1, "", "q", b"", immediate=True))
    assert client.heard_now() == []
    assert "q" not in broker.core.virtual_hosts["/"].queues
    client.send(2, Queue.Declare(queue="q"))
    assert client.heard_now() == [(2, "queue.declare_ok", "q", 0, 0)]


def test_number_can_be_used_again_right_after_close_ok(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    break_channel(client)
    client.send_bytes(method_frame(1, Channel.CloseOk()) + method_frame(1, Channel.Open()))
    assert client.heard_now() == [(1, "channel.open_ok", "")]
    client.send(1, Basic.Get(queue="nope"))
    assert client.heard_now() == [channel_close(1, 404, NO_SUCH_QUEUE, 60, 70)]


def test_channel_is_unknown_after_close_ok(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    break_channel(client)
    client.send(1, Channel.CloseOk())
    client.send(1, Queue.Declare(queue="q"))
    assert client.heard_now() == [close(504, OPEN_EXPECTED, 50, 10)]


@pytest.mark.parametrize("answered", [False, True])
def test_both_close_a_channel_at_once(broker: BrokerUnderTest, answered: bool) -> None:
    """The client's close crosses the broker's. It may answer the broker's, or consider it done."""
    client = opened(broker, 1)
    break_channel(client)
    client.send(1, Channel.Close(200, "", 0, 0))
    assert client.heard_now() == [(1, "channel.close_ok")]
    if answered:
        client.send(1, Channel.CloseOk())
    client.send(1, Channel.Open())
    assert client.heard_now() == [(1, "channel.open_ok", "")]


def test_order_of_frames_is_checked_on_a_channel_that_closes(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    break_channel(client)
    client.send_bytes(body(1, b"stray"))
    text = "UNEXPECTED_FRAME - expected method frame, got non method frame instead"
    assert client.heard_now() == [close(505, text)]


def test_content_under_way_when_the_broker_closes_its_channel(broker: BrokerUnderTest) -> None:
    """A publish whose method came before the error, and whose content comes after it."""
    client = opened(broker, 1, 2)
    # The reader has the publish, the fault is that of an earlier message of the same chunk.
    client.send_bytes(
        publish(1, "nope", "q", b"x")
        + pamqp_method(1, Basic.Publish(exchange="", routing_key="q"))
        + header(1, 4)
    )
    text = "NOT_FOUND - no exchange 'nope' in vhost '/'"
    assert client.heard_now() == [channel_close(1, 404, text, 60, 40)]
    client.send_bytes(body(1, b"late") + method_frame(1, Channel.CloseOk()))
    client.send(1, Channel.Open())
    client.send_bytes(publish(1, "", "q", b"fine"))
    assert client.heard_now() == [(1, "channel.open_ok", "")]


def test_commands_before_a_fault_are_acted_on(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.send_bytes(
        method_frame(1, Queue.Declare(queue="q"))
        + publish(1, "", "q", b"x")
        + method_frame(1, Basic.Get(queue="q", no_ack=True))
        + frame(9, 0, b"")
        + method_frame(1, Queue.Declare(queue="never"))
    )
    assert [said[1] for said in client.heard_now()] == [
        "queue.declare_ok",
        "basic.get_ok",
        "connection.close",
    ]
    assert "never" not in broker.core.virtual_hosts["/"].queues


def test_names_that_are_not_text_are_made_text_in_a_close(broker: BrokerUnderTest) -> None:
    """Clients that take the standard at its word could not read it otherwise."""
    client = opened(broker, 1, 2)
    for channel, name, shown in ((1, b"a\xff\xc3\xa9", "a\ufffdé'"), (2, b"\xff" * 255, "")):
        payload = b"\x00\x3c\x00\x28\x00\x00" + bytes((len(name),)) + name + b"\x01k\x00"
        client.send_bytes(frame(1, channel, payload) + header(channel, 0))
        ((_, _, code, text, *_),) = client.heard_now()
        assert code == 404
        assert text.startswith(f"NOT_FOUND - no exchange '{shown}")
        assert len(text.encode()) <= 255
    assert text.endswith("...")


def test_content_too_large_for_a_message_closes_its_channel() -> None:
    broker = BrokerUnderTest(limits=Limits(message_bytes_max=10))
    client = opened(broker, 1, 2)
    client.send_bytes(publish(1, "", "q", bytes(10)))
    assert client.heard_now() == []
    client.send_bytes(publish(1, "", "q", bytes(11)))
    text = "PRECONDITION_FAILED - message size 11 is larger than configured max size 10"
    assert client.heard_now() == [channel_close(1, 406, text, 60, 40)]
    client.send(2, Basic.Qos())
    assert client.heard_now() == [(2, "basic.qos_ok")]


def test_content_too_large_for_anything() -> None:
    limits = Limits(message_bytes_max=10, content_bytes_max=20)
    client = opened(BrokerUnderTest(limits=limits), 1)
    client.send_bytes(publish(1, "", "q", bytes(21)))
    text = "PRECONDITION_FAILED - message size 21 is larger than max size 20"
    assert client.heard_now() == [channel_close(1, 406, text, 60, 40)]

    client = opened(BrokerUnderTest(limits=limits, compat="4.2"), 1)
    client.send_bytes(pamqp_method(1, Basic.Publish(exchange="", routing_key="q")) + header(1, 21))
    text = "FRAME_ERROR - content body size 21 exceeds maximum allowed size 20"
    assert client.heard_now() == [close(501, text)]


def test_consumers_on_a_channel_are_limited_where_it_is_wanted() -> None:
    broker = BrokerUnderTest(limits=Limits(consumers_per_channel_max=2))
    client = opened(broker, 1, 2)
    client.send(1, Queue.Declare(queue="q"))
    for _ in range(2):
        client.send(1, Basic.Consume(queue="q"))
    client.send(2, Basic.Consume(queue="q"))
    assert len(client.heard_now()) == 4
    client.send(1, Basic.Consume(queue="q"))
    text = "NOT_ALLOWED - reached maximum (2) of consumers per channel"
    assert client.heard_now() == [close(530, text, 60, 20)]


# -- a peer that does not read


def test_deliveries_pause_for_a_peer_that_does_not_read_and_resume() -> None:
    broker = BrokerUnderTest(limits=Limits(unsent_bytes_max=10_000))
    slow, quick, publisher = opened(broker, 1), opened(broker, 1), opened(broker, 1)
    publisher.send(1, Queue.Declare(queue="q"))
    publisher.heard_now()
    slow.send(1, Basic.Consume(queue="q", consumer_tag="slow", no_ack=True))
    assert slow.heard_now() == [(1, "basic.consume_ok", "slow")]
    slow.reading = False
    for number in range(50):
        publisher.send_bytes(publish(1, "", "q", number.to_bytes(2, "big") + bytes(998)))
    queue = broker.core.virtual_hosts["/"].queues["q"]
    unsent = slow.connection.unsent_bytes
    # One delivery beyond the limit, and no more.
    assert 10_000 < unsent < 12_000
    assert queue.ready == 50 - unsent // 1000
    # The rest is for whoever reads.
    quick.send(1, Basic.Get(queue="q", no_ack=True))
    ((*_, octets),) = quick.heard_now()
    taken = int.from_bytes(octets[:2], "big")
    slow.read()
    numbers = [int.from_bytes(said[-1][:2], "big") for said in slow.heard_now()]
    assert numbers == [number for number in range(50) if number != taken]
    assert queue.ready == 0
    assert slow.connection.unsent_bytes == 0


def test_direct_replies_to_a_peer_that_does_not_read_are_dropped() -> None:
    limits = Limits(unsent_bytes_max=1000, unsent_replies_bytes_max=10_000)
    broker = BrokerUnderTest(limits=limits)
    requester, replier = opened(broker, 1), opened(broker, 1)
    requester.send(1, Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True))
    (token,) = broker.core.reply_consumers
    requester.heard_now()
    requester.reading = False
    for _ in range(50):
        replier.send_bytes(publish(1, "", token, bytes(1000)))
    assert 10_000 < requester.connection.unsent_bytes < 12_000
    requester.read()
    assert 9 <= len(requester.heard_now()) <= 11
    replier.send_bytes(publish(1, "", token, b"again"))
    assert [said[-1] for said in requester.heard_now()] == [b"again"]


# -- heartbeats


def heard_at(client: FrameClient, since: float) -> list[float]:
    """When heartbeats came, in seconds from `since`."""
    return [at - since for at, said in client.timeline if said == (0, "heartbeat")]


def test_heartbeats_are_sent_when_half_an_interval_passed_in_silence(
    broker: BrokerUnderTest,
) -> None:
    client = opened(broker, 1, heartbeat=10)
    began = broker.now
    for _ in range(4):
        client.send_bytes(HEARTBEAT)
        broker.advance(5)
    assert heard_at(client, began) == [5, 10, 15, 20]


def test_whatever_is_sent_puts_off_the_heartbeat(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1, heartbeat=10)
    began = broker.now
    broker.advance(4)
    client.send(1, Basic.Qos())
    assert client.heard_now() == [(1, "basic.qos_ok")]
    broker.advance(4.9)
    assert heard_at(client, began) == []
    broker.advance(0.1)
    assert heard_at(client, began) == [9]


@pytest.mark.parametrize("last_word_after", [0.0, 0.5, 9.5, 10.5, 19.9, 25.0])
def test_silent_peer_is_dropped_after_two_to_three_intervals(
    broker: BrokerUnderTest, last_word_after: float
) -> None:
    client = opened(broker, 1, heartbeat=10)
    broker.advance(last_word_after)
    client.send_bytes(HEARTBEAT[:1])  # any octet is a sign of life
    last = broker.now
    while not client.dropped:
        broker.advance(0.1)
        assert broker.now < last + 31
    assert broker.now - last + 0.1 >= 20
    assert broker.now - last <= 30.1
    assert client.end_reason == "missed heartbeats from client, timeout: 10s"
    names = {said[1] for said in client.heard_now()}
    assert names <= {"heartbeat"}, "no close frame"
    assert broker.core.sessions == {}


def test_peer_that_speaks_lives(broker: BrokerUnderTest) -> None:
    client = opened(broker, heartbeat=10)
    for _ in range(100):
        broker.advance(9.9)
        client.send_bytes(HEARTBEAT)
    assert not client.dropped


def test_heartbeats_begin_with_tune_ok(broker: BrokerUnderTest) -> None:
    client = stranger(broker).tuned(heartbeat=2)
    began = broker.now
    broker.advance(3)
    assert heard_at(client, began) == [1, 2, 3]
    broker.advance(3)
    assert client.dropped


def test_no_heartbeats_where_the_client_wants_none(broker: BrokerUnderTest) -> None:
    client = opened(broker, heartbeat=0)
    broker.advance(100_000)
    assert not client.dropped
    assert client.heard_now() == []
    assert client.peer.deadline() is None


def test_client_s_interval_wins(broker: BrokerUnderTest) -> None:
    client = opened(broker, heartbeat=600)
    assert client.connection.heartbeat is not None
    assert client.connection.heartbeat.interval_s == 600


def test_heartbeat_offered_is_the_configured_one() -> None:
    client = stranger(BrokerUnderTest(limits=Limits(heartbeat_s=7)))
    client.send_bytes(b"AMQP\x00\x00\x09\x01")
    client.start_ok()
    assert client.heard_now()[-1] == (0, "connection.tune", 2047, 131072, 7)


# -- the client closes


def test_client_closes(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1, 2)
    client.send(1, Queue.Declare(queue="mine", exclusive=True))
    client.heard_now()
    client.send(0, BYE)
    assert client.heard_now() == [(0, "connection.close_ok")]
    assert client.dropped
    assert client.end_reason == "closed by the client"
    assert broker.core.sessions == {}
    assert broker.core.virtual_hosts["/"].queues == {}
    assert client.peer.deadline() is None


def test_client_closes_with_a_complaint(broker: BrokerUnderTest) -> None:
    client = opened(broker)
    client.send(0, Connection.Close(541, "out of coffee", 0, 0))
    assert client.heard_now() == [(0, "connection.close_ok")]
    assert client.end_reason == "closed by the client: 541 out of coffee"


def test_nothing_behind_the_client_s_close_counts(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.send_bytes(
        method_frame(0, BYE)
        + method_frame(1, Queue.Declare(queue="q"))
        + publish(1, "nope", "", b"x")
        + method_frame(0, Connection.CloseOk())
        + method_frame(0, BYE)
        + frame(77, 0, b"")
    )
    client.send_bytes(HEARTBEAT)
    client.send(1, Queue.Declare(queue="q"))
    assert client.heard_now() == [(0, "connection.close_ok")]
    assert broker.core.virtual_hosts["/"].queues == {}


def test_client_is_gone_without_a_word(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.send(1, Queue.Declare(queue="mine", exclusive=True))
    client.drop()
    assert client.dropped
    assert broker.core.sessions == {}
    assert broker.core.virtual_hosts["/"].queues == {}


# -- the broker closes


def closing(broker: BrokerUnderTest, heartbeat: int = 0) -> FrameClient:
    """A client whose connection the broker has just closed."""
    client = opened(broker, 1, heartbeat=heartbeat)
    client.send(1, Queue.Declare(queue="mine", exclusive=True))
    client.heard_now()
    client.send(0, Queue.Purge(queue="q"))
    ((_, name, *_),) = client.heard_now()
    assert name == "connection.close"
    assert client.connection.state is State.CLOSING
    return client


def test_exclusive_queues_are_gone_before_the_close_goes_out(broker: BrokerUnderTest) -> None:
    closing(broker)
    assert broker.core.virtual_hosts["/"].queues == {}
    assert broker.core.sessions == {}


def test_close_ok_ends_it(broker: BrokerUnderTest) -> None:
    client = closing(broker)
    client.send(0, Connection.CloseOk())
    assert client.dropped
    assert client.heard_now() == []
    assert client.end_reason.startswith("CHANNEL_ERROR - unexpected method")


def test_everything_but_close_and_close_ok_is_dropped(broker: BrokerUnderTest) -> None:
    client = closing(broker)
    for channel, said in (
        (1, Queue.Declare(queue="q")),
        (7, Channel.Open()),
        (0, Connection.Open("/")),
        (0, Channel.Open()),
        (1, Connection.CloseOk()),
    ):
        client.send(channel, said)
    client.send_bytes(publish(1, "nope", "q", b"x"))
    client.send_bytes(frame(9, 9, b"junk") + body(1, b"stray"))
    client.send_bytes(HEARTBEAT)
    assert client.heard_now() == []
    assert not client.dropped
    client.send(0, Connection.CloseOk())
    assert client.dropped


def test_both_close_at_once(broker: BrokerUnderTest) -> None:
    client = closing(broker)
    client.send(0, BYE)
    assert client.heard_now() == [(0, "connection.close_ok")]
    assert client.dropped


@pytest.mark.parametrize(("heartbeat", "wait"), [(0, 30), (10, 10), (29, 29), (600, 30)])
def test_close_ok_is_waited_for_no_longer_than_a_heartbeat(
    broker: BrokerUnderTest, heartbeat: int, wait: int
) -> None:
    client = closing(broker, heartbeat)
    broker.advance(wait - 0.1)
    assert not client.dropped
    broker.advance(0.1)
    assert client.dropped
    assert client.heard_now() == [], "no heartbeats while closing"


def test_wait_for_close_ok_has_its_limit() -> None:
    client = closing(BrokerUnderTest(limits=Limits(closing_timeout_s=3.0)))
    client.broker.advance(3)
    assert client.dropped


def test_only_the_first_fault_is_told(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.send_bytes(frame(9, 0, b"") + frame(10, 0, b"") + body(1, b"") + header(1, 0))
    assert client.heard_now() == [
        close(501, "FRAME_ERROR - type 9, all octets = <<>>: unknown_frame")
    ]


def test_lost_framing_is_told_and_nothing_more_is_read(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.send_bytes(frame(1, 1, b"\x00\x14\x00\x0a\x00", end=0) + method_frame(0, BYE))
    text = "FRAME_ERROR - type 1, all octets = <<0,20,0,10,0>>: {invalid_frame_end_marker,0}"
    assert client.heard_now() == [close(501, text)]
    client.send_bytes(bytes(100_000))
    client.send(0, Connection.CloseOk())
    assert client.heard_now() == []
    broker.advance(30)
    assert client.dropped


def test_operator_closes(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.peer.close("Closed via management plugin", broker.now)
    broker.turn()
    text = "CONNECTION_FORCED - Closed via management plugin"
    assert client.heard_now() == [close(320, text)]
    client.peer.close("again", broker.now)
    broker.turn()
    assert client.heard_now() == []
    client.send(0, Connection.CloseOk())
    assert client.end_reason == text


def test_bug_of_ours_is_told_without_a_reason(broker: BrokerUnderTest) -> None:
    client = opened(broker, 1)
    client.peer.crash(broker.now)
    broker.turn()
    assert client.heard_now() == [close(541, "INTERNAL_ERROR")]


def test_broker_closes_during_the_handshake(broker: BrokerUnderTest) -> None:
    """Who has not logged in is told nothing."""
    waiting = stranger(broker)
    waiting.peer.close("shutdown", broker.now)
    tuned = stranger(broker).tuned()
    tuned.peer.close("shutdown", broker.now)
    broker.turn()
    assert waiting.raw == b""
    broker.advance(3)
    assert waiting.dropped
    assert tuned.heard_now() == [close(320, "CONNECTION_FORCED - shutdown")]
    tuned.send(0, BYE)
    assert tuned.heard_now() == [(0, "connection.close_ok")]
    assert tuned.dropped


@pytest.mark.parametrize("cut", [0, 5, 8, 20])
def test_socket_ends_amid_the_handshake(broker: BrokerUnderTest, cut: int) -> None:
    client = stranger(broker)
    client.send_bytes((b"AMQP\x00\x00\x09\x01" + frame(1, 0, bytes(20)))[:cut])
    client.drop()
    assert client.dropped
    assert client.peer.deadline() is None


# -- replies that wait for the journal, and ends that do not


def test_replies_that_waited_are_not_sent_behind_a_close() -> None:
    broker = BrokerUnderTest(journaling=True)
    client = opened(broker, 1, 2)
    client.send(1, Queue.Declare(queue="q", durable=True))
    client.send(1, Basic.Qos())
    client.send(2, Basic.Qos())
    assert client.heard_now() == [(2, "basic.qos_ok")]
    client.send_bytes(frame(9, 0, b""))
    assert [said[1] for said in client.heard_now()] == ["connection.close"]
    broker.journal.commit()
    assert client.heard_now() == []
    assert broker.core.effects.barriers == {}
    client.send(0, Connection.CloseOk())
    assert client.dropped


def test_channel_close_waits_behind_replies_of_its_channel() -> None:
    broker = BrokerUnderTest(journaling=True)
    client = opened(broker, 1)
    client.send(1, Queue.Declare(queue="q", durable=True))
    client.send(1, Queue.Purge(queue="nope"))
    assert client.heard_now() == []
    broker.journal.commit()
    assert client.heard_now() == [
        (1, "queue.declare_ok", "q", 0, 0),
        channel_close(1, 404, NO_SUCH_QUEUE, 50, 30),
    ]


def test_close_ok_of_a_channel_waits_behind_its_replies() -> None:
    broker = BrokerUnderTest(journaling=True)
    client = opened(broker, 1)
    client.send(1, Queue.Declare(queue="q", durable=True))
    client.send(1, Channel.Close(200, "", 0, 0))
    assert client.heard_now() == []
    broker.journal.commit()
    assert client.heard_now() == [
        (1, "queue.declare_ok", "q", 0, 0),
        (1, "channel.close_ok"),
    ]


def test_number_used_again_without_waiting_hears_its_answers_in_order() -> None:
    """A client that says everything at once: close-ok of the old channel, then open-ok."""
    broker = BrokerUnderTest(journaling=True)
    client = opened(broker, 1)
    client.send(1, Queue.Declare(queue="q", durable=True))
    client.send(1, Channel.Close(200, "", 0, 0))
    client.send(1, Channel.Open())
    client.send(1, Basic.Qos())
    broker.journal.commit()
    assert client.heard_now() == [
        (1, "queue.declare_ok", "q", 0, 0),
        (1, "channel.close_ok"),
        (1, "channel.open_ok", ""),
        (1, "basic.qos_ok"),
    ]


def test_ended_channels_say_nothing_behind_the_end_of_the_connection() -> None:
    broker = BrokerUnderTest(journaling=True)
    client = opened(broker, 1)
    client.send(1, Queue.Declare(queue="q", durable=True))
    client.send(1, Channel.Close(200, "", 0, 0))
    client.send(0, BYE)
    assert client.heard_now() == [(0, "connection.close_ok")]
    broker.journal.commit()
    assert client.heard_now() == []


def test_both_close_a_channel_while_its_replies_wait() -> None:
    broker = BrokerUnderTest(journaling=True)
    client = opened(broker, 1)
    client.send(1, Queue.Declare(queue="q", durable=True))
    client.send(1, Queue.Purge(queue="nope"))
    client.send(1, Channel.Close(200, "", 0, 0))
    client.send(1, Channel.Open())
    assert client.heard_now() == []
    broker.journal.commit()
    assert client.heard_now() == [
        (1, "queue.declare_ok", "q", 0, 0),
        channel_close(1, 404, NO_SUCH_QUEUE, 50, 30),
        (1, "channel.close_ok"),
        (1, "channel.open_ok", ""),
    ]


# -- what clients claim of themselves


@pytest.mark.parametrize(
    ("capabilities", "known"),
    [
        ({"a": ("t", True), "b": ("t", False), "c": ("S", "yes"), "d": ("I", 1)}, {"a"}),
        ({}, set()),
        (None, set()),
    ],
)
def test_capabilities_are_those_with_a_true_value(
    broker: BrokerUnderTest, capabilities: Arguments | None, known: set[str]
) -> None:
    client = stranger(broker).opened(capabilities=capabilities)
    assert client.connection.capabilities == known
    assert client.connection.client_properties["product"] == ("S", "tests")


def test_bodies_leave_as_large_as_the_client_can_take() -> None:
    broker = BrokerUnderTest()
    small, large = opened(broker, 1, frame_max=4096), opened(broker, 1)
    octets = bytes(range(256)) * 40
    large.send(1, Queue.Declare(queue="q"))
    for _ in range(2):
        large.send_bytes(publish(1, "", "q", octets))
    for client, frame_max in ((small, 4096), (large, 131072)):
        client.raw = b""
        client.heard_now()
        client.send(1, Basic.Get(queue="q", no_ack=True))
        assert client.heard_now()[0][-1] == octets
        assert client.raw.endswith(header(1, len(octets)) + bodies(1, octets, frame_max))
