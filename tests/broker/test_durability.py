"""What outlives the process, and what waits until it does: definitions, messages, replies."""

from __future__ import annotations

import pytest

from amqpd.commands import Basic, Exchange, Frame, Queue
from amqpd.commands import Channel as ChannelClass
from amqpd_exchanges.router import UNBOUND_AT_ONCE
from amqpd_storage.entries import Delivered, Enqueue, Settle
from amqpd_storage.errors import DamagedStore
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    Confirmed,
    Delivery,
    Returned,
    method,
)

CALLS: list[Frame] = [
    method(Exchange.Declare, exchange="new", exchange_type="fanout", durable=True),
    method(Queue.Declare, queue="new", durable=True),
    method(Queue.Bind, queue="q", exchange="amq.direct", routing_key="new"),
    method(Queue.Unbind, queue="q", exchange="x", routing_key="k"),
    method(Exchange.Bind, destination="x", source="amq.direct", routing_key="new"),
    method(Exchange.Unbind, destination="x", source="amq.topic", routing_key="k"),
    method(Queue.Delete, queue="q"),
    method(Exchange.Delete, exchange="x"),
]


@pytest.fixture
def durable(journaled: BrokerUnderTest) -> Channel:
    """A channel beside a durable exchange and two durable queues, all committed."""
    channel = journaled.client().channel()
    for said in (
        method(Exchange.Declare, exchange="x", exchange_type="direct", durable=True),
        method(Queue.Declare, queue="q", durable=True),
        method(Queue.Declare, queue="r", durable=True),
        method(Queue.Bind, queue="q", exchange="x", routing_key="k"),
        method(Queue.Bind, queue="r", exchange="x", routing_key="k"),
        method(Exchange.Bind, destination="x", source="amq.topic", routing_key="k"),
    ):
        channel.send(said)
    journaled.journal.commit()
    channel.take_all()
    return channel


# Replies that wait


@pytest.mark.parametrize("said", CALLS, ids=lambda said: said.name)
def test_a_durable_change_is_answered_after_its_commit(durable: Channel, said: Frame) -> None:
    durable.send(said)
    durable.expect_nothing()
    durable.client.broker.journal.commit()
    (answer,) = durable.take_all()
    assert isinstance(answer, Frame)
    assert answer.name == said.name + "Ok"


@pytest.mark.parametrize("said", CALLS, ids=lambda said: said.name)
def test_a_durable_change_holds_until_its_commit_ends(durable: Channel, said: Frame) -> None:
    """What was appended while a write is under way waits for the next one."""
    journal = durable.client.broker.journal
    durable.send(method(Queue.Declare, queue="first", durable=True))
    journal.begin_commit()
    durable.send(said)
    journal.end_commit()
    assert isinstance(durable.take(Queue.DeclareOk), Queue.DeclareOk)
    durable.expect_nothing()
    journal.commit()
    assert len(durable.take_all()) == 1


def test_transient_things_wait_for_nothing(durable: Channel) -> None:
    durable.queue_declare("t")
    durable.exchange_declare("tx", "fanout")
    durable.queue_bind("t", "tx")
    durable.queue_bind("t", "x", "k")
    durable.exchange_bind("tx", "x", "k")
    durable.queue_declare("e", exclusive=True, durable=True)
    durable.queue_delete("t")
    durable.exchange_delete("tx")
    assert durable.client.broker.journal.commit() == []


def test_nothing_overtakes_a_held_reply(durable: Channel) -> None:
    """Deliveries, confirms and replies of that channel come behind it, in their order."""
    other = durable.client.channel()
    durable.confirm_select()
    durable.consume("q", "t", no_ack=True)
    durable.send(method(Queue.Declare, queue="new", durable=True))
    other.publish("", "q", b"1")
    durable.publish("", "nope", b"2")
    durable.send(method(Queue.Declare, queue="q", passive=True))
    durable.expect_nothing()
    assert other.flow(True)
    durable.client.broker.journal.commit()
    assert durable.take(Queue.DeclareOk).queue == "new"
    assert durable.take(Delivery).body == b"1"
    assert durable.take(Confirmed).number == 1
    assert durable.take(Queue.DeclareOk).queue == "q"
    durable.expect_nothing()


def test_held_replies_come_out_in_order(durable: Channel) -> None:
    journal = durable.client.broker.journal
    durable.send(method(Queue.Declare, queue="1", durable=True))
    journal.begin_commit()
    durable.send(method(Queue.Declare, queue="2", durable=True))
    durable.send(method(Basic.Get, queue="q"))
    journal.end_commit()
    assert durable.take(Queue.DeclareOk).queue == "1"
    durable.expect_nothing()
    journal.commit()
    assert durable.take(Queue.DeclareOk).queue == "2"
    durable.take(Basic.GetEmpty)


def test_declaring_what_another_client_has_just_declared(durable: Channel) -> None:
    """Its declare-ok promises as much: it waits for the same commit."""
    broker = durable.client.broker
    other = broker.client().channel()
    durable.send(method(Queue.Declare, queue="new", durable=True))
    other.send(method(Queue.Declare, queue="new", durable=True))
    other.expect_nothing()
    broker.journal.commit()
    other.take(Queue.DeclareOk)


def test_a_refusal_behind_a_held_reply(durable: Channel) -> None:
    """The close comes behind it too."""
    durable.send(method(Queue.Declare, queue="new", durable=True))
    durable.publish("nope", "k")
    durable.client.broker.journal.commit()
    assert durable.take(Queue.DeclareOk).queue == "new"
    durable.expect_closed(404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (60, 40))


def test_a_client_that_goes_while_it_waits(durable: Channel) -> None:
    durable.send(method(Queue.Declare, queue="new", durable=True))
    durable.client.drop()
    broker = durable.client.broker
    broker.journal.commit()
    assert broker.client().channel().counts("new") == (0, 0)


# What is there afterwards


def restarted(channel: Channel) -> Channel:
    """Commit, crash, and a new channel."""
    broker = channel.client.broker
    broker.journal.commit()
    broker.crash_and_recover()
    return broker.client().channel()


def test_definitions_survive(durable: Channel) -> None:
    durable.send(
        method(Queue.Declare, queue="args", durable=True, auto_delete=True),
        {"x-max-priority": ("B", 5), "x-odd": ("F", {"a": ("V", None)})},
    )
    durable.send(
        method(Exchange.Declare, exchange="alt", exchange_type="headers", durable=True),
        {"alternate-exchange": ("S", "x")},
    )
    durable.send(method(Queue.Bind, queue="q", exchange="alt", routing_key=""), {"n": ("I", 5)})
    channel = restarted(durable)
    arguments = {"x-max-priority": ("l", 5)}
    channel.queue_declare("args", durable=True, auto_delete=True, arguments=arguments)
    channel.exchange_declare("alt", "headers", durable=True, arguments={"alternate-exchange": "x"})
    channel.publish("amq.topic", "k", b"1")
    channel.publish("alt", "k", b"2")
    assert channel.drain("r") == [b"1", b"2"]
    assert channel.drain("q") == [b"1", b"2"]


def test_transient_things_do_not_survive(durable: Channel) -> None:
    durable.queue_declare("t")
    durable.exchange_declare("tx", "fanout")
    durable.queue_bind("q", "tx")
    durable.queue_bind("t", "x", "k")
    durable.queue_declare("e", exclusive=True)
    durable.publish("", "q", b"1")
    durable.publish("", "t", b"2", PERSISTENT)
    channel = restarted(durable)
    assert channel.counts("q") == (0, 0)
    for name in ("t", "e"):
        text = f"NOT_FOUND - no queue '{name}' in vhost '/'"
        with channel.refuses(404, text, (50, 10)):
            channel.queue_declare(name, passive=True)
        channel.open()
    with channel.refuses(404, "NOT_FOUND - no exchange 'tx' in vhost '/'", (40, 10)):
        channel.exchange_declare("tx", passive=True)


def test_what_was_deleted_stays_away(durable: Channel) -> None:
    durable.publish("", "q", b"1", PERSISTENT)
    durable.client.broker.journal.commit()
    durable.send(method(Queue.Delete, queue="q"))
    durable.send(method(Exchange.Delete, exchange="x"))
    durable.send(method(Queue.Declare, queue="q", durable=True))
    durable.send(method(Exchange.Declare, exchange="x", exchange_type="direct", durable=True))
    channel = restarted(durable)
    channel.publish("amq.topic", "k", b"2")
    channel.publish("x", "k", b"3")
    assert channel.counts("q") == (0, 0)
    assert channel.counts("r") == (0, 0)


def test_an_auto_delete_exchange_goes_from_the_disk_too(durable: Channel) -> None:
    durable.send(
        method(
            Exchange.Declare, exchange="a", exchange_type="fanout", durable=True, auto_delete=True
        )
    )
    durable.send(method(Queue.Bind, queue="q", exchange="a", routing_key=""))
    durable.client.broker.journal.commit()
    durable.send(method(Queue.Delete, queue="q"))
    channel = restarted(durable)
    with channel.refuses(404, "NOT_FOUND - no exchange 'a' in vhost '/'", (40, 10)):
        channel.exchange_declare("a", passive=True)


def test_an_auto_delete_queue_goes_from_the_disk_too(durable: Channel) -> None:
    durable.send(method(Queue.Declare, queue="a", durable=True, auto_delete=True))
    durable.client.broker.journal.commit()
    durable.take_all()
    durable.consume("a", "t")
    durable.publish("", "a", b"1", PERSISTENT)
    durable.client.drop()
    broker = durable.client.broker
    broker.journal.commit()
    assert broker.journal.store.rows == {}
    broker.crash_and_recover()
    channel = broker.client().channel()
    with channel.refuses(404, "NOT_FOUND - no queue 'a' in vhost '/'", (50, 10)):
        channel.queue_declare("a", passive=True)


def bind_often(channel: Channel, exchange: str, queue: str = "q") -> None:
    """More bindings than are unbound at once, committed."""
    home = channel.client.broker.core.virtual_hosts["/"]
    for number in range(2 * UNBOUND_AT_ONCE):
        home.bind(home.exchanges[exchange], home.queues[queue], f"n{number}", {})
    channel.client.broker.turn()
    channel.client.broker.journal.commit()


def bindings_in_store(broker: BrokerUnderTest) -> int:
    return sum(kind == "binding" for kind, _ in broker.journal.store.definitions)


def test_a_queue_with_many_bindings_goes_at_once_and_is_swept_later(durable: Channel) -> None:
    broker = durable.client.broker
    auto_delete = method(
        Exchange.Declare, exchange="auto", exchange_type="topic", durable=True, auto_delete=True
    )
    durable.send(auto_delete)
    for exchange in ("x", "amq.topic", "auto"):
        bind_often(durable, exchange)
    before = bindings_in_store(broker)
    durable.take_all()
    durable.send(method(Queue.Delete, queue="q"))
    written = broker.journal.commit()
    assert len(written) < 20, "one word for all bindings of an exchange"
    durable.receive(Queue.DeleteOk)
    assert before - bindings_in_store(broker) == 6 * UNBOUND_AT_ONCE + 1
    assert "auto" not in broker.core.virtual_hosts["/"].exchanges
    router = broker.core.virtual_hosts["/"].router
    assert not router.is_swept
    durable.publish("amq.topic", "n7", b"1", mandatory=True)
    assert isinstance(durable.take(Returned), Returned)
    # A new queue of that name has nothing of the old one.
    durable.send(method(Queue.Declare, queue="q", durable=True))
    durable.send(method(Queue.Bind, queue="q", exchange="amq.topic", routing_key="n9"))
    broker.journal.commit()
    durable.take_all()
    broker.advance(0.01)
    assert router.is_swept
    for crash in (False, True):
        channel = restarted(durable) if crash else durable
        for key in ("n8", "n9"):
            channel.publish("amq.topic", key, key.encode(), PERSISTENT)
        assert channel.drain("q") == [b"n9"]


def test_an_exchange_with_many_bindings_goes_in_one_word(durable: Channel) -> None:
    broker = durable.client.broker
    bind_often(durable, "x")
    bind_often(durable, "amq.topic")
    durable.send(method(Exchange.Delete, exchange="x"))
    assert len(broker.journal.commit()) < 20
    durable.send(method(Exchange.Declare, exchange="x", exchange_type="direct", durable=True))
    channel = restarted(durable)
    channel.publish("x", "n7", b"1", PERSISTENT)
    channel.publish("amq.topic", "n7", b"2", PERSISTENT)
    assert channel.drain("q") == [b"2"]


def test_messages_survive_in_order_and_with_their_octets(durable: Channel) -> None:
    for number in range(5):
        durable.publish("x", "k", b"%d" % number, PERSISTENT)
        durable.publish("x", "k", b"transient")
    assert durable.drain("r")[:2] == [b"0", b"transient"]
    channel = restarted(durable)
    got = channel.get("q")
    assert got is not None
    assert (got.exchange, got.routing_key, got.properties) == ("x", "k", PERSISTENT)
    assert channel.drain("q") == [b"1", b"2", b"3", b"4"]
    assert channel.drain("r") == []


def test_redelivered_after_a_crash(durable: Channel) -> None:
    """True for what was handed out, as far as the journal heard of it."""
    for body in (b"1", b"2", b"3", b"4"):
        durable.publish("", "q", body, PERSISTENT)
    for _ in range(3):
        assert durable.get("q") is not None
    durable.ack(2)
    channel = restarted(durable)
    got = [channel.get("q") for _ in range(3)]
    assert [(item.body, item.redelivered) for item in got if item is not None] == [
        (b"1", True),
        (b"3", True),
        (b"4", False),
    ]


def test_positions_are_not_used_again(durable: Channel) -> None:
    """A new message after a crash is not taken for one that was delivered before."""
    for body in (b"1", b"2"):
        durable.publish("", "q", body, PERSISTENT)
    assert durable.drain("q") == [b"1", b"2"]
    channel = restarted(durable)
    channel.publish("", "q", b"3", PERSISTENT)
    channel = restarted(channel)
    got = channel.get("q")
    assert got is not None
    assert (got.body, got.redelivered) == (b"3", False)


def test_a_new_queue_with_the_id_of_an_old_one(durable: Channel) -> None:
    """It begins without marks and messages of the old one."""
    durable.publish("", "r", b"1", PERSISTENT)
    assert durable.get("r") is not None
    durable.client.broker.journal.commit()
    durable.send(method(Queue.Delete, queue="r"))
    durable.send(method(Queue.Declare, queue="s", durable=True))
    durable.publish("", "s", b"2", PERSISTENT)
    # The old delivery is settled now, which must not touch the new queue's message.
    durable.ack(1)
    channel = restarted(durable)
    got = channel.get("s")
    assert got is not None
    assert (got.body, got.redelivered) == (b"2", False)


# What is written


def written(channel: Channel) -> list[object]:
    return list(channel.client.broker.journal.commit())


def test_a_message_of_many_queues_is_written_once(durable: Channel) -> None:
    store = durable.client.broker.journal.store
    durable.publish("x", "k", b"1", PERSISTENT)
    durable.client.broker.journal.commit()
    assert len(store.shared) == 1
    assert durable.drain("q") == [b"1"]
    assert [type(entry) for entry in written(durable)] == [Settle, Delivered]
    assert durable.drain("r") == [b"1"]
    assert Delivered in [type(entry) for entry in written(durable)]
    assert (store.shared, store.rows) == (set(), {})


def test_neighbours_that_are_settled_in_one_turn_are_one_entry(durable: Channel) -> None:
    store = durable.client.broker.journal.store
    for number in range(6):
        durable.publish("", "q", b"%d" % number, PERSISTENT)
    durable.publish("x", "k", b"shared", PERSISTENT)
    durable.client.broker.journal.commit()
    tags = [got.delivery_tag for got in iter(lambda: durable.get("q"), None)]
    assert len(tags) == 7

    durable.ack(tags[1])
    durable.ack(tags[-1], multiple=True)

    settled = [entry for entry in written(durable) if isinstance(entry, Settle)]
    assert [(entry.messages, bool(entry.message_id)) for entry in settled] == [
        (1, False),
        (1, False),
        (4, False),
        (1, True),
    ]
    assert [row.body for row in store.rows.values()] == [b"shared"]


def test_a_shared_message_half_of_which_was_settled_before_it_was_written(
    durable: Channel,
) -> None:
    store = durable.client.broker.journal.store
    durable.publish("x", "k", b"1", PERSISTENT)
    assert durable.drain("q") == [b"1"]
    assert [isinstance(entry, Enqueue) for entry in written(durable)].count(True) == 1
    channel = restarted(durable)
    assert channel.drain("r") == [b"1"]
    assert Settle in [type(entry) for entry in written(channel)]
    assert (store.shared, store.rows) == (set(), {})


def test_a_shared_message_none_of_which_is_written(durable: Channel) -> None:
    store = durable.client.broker.journal.store
    durable.publish("x", "k", b"1", PERSISTENT)
    assert (durable.drain("q"), durable.drain("r")) == ([b"1"], [b"1"])
    assert not [entry for entry in written(durable) if not isinstance(entry, Delivered)]
    assert (store.shared, store.rows) == (set(), {})


def test_a_shared_message_of_a_deleted_queue(durable: Channel) -> None:
    store = durable.client.broker.journal.store
    durable.publish("x", "k", b"1", PERSISTENT)
    durable.client.broker.journal.commit()
    assert durable.get("q") is not None
    for name in ("q", "r"):
        durable.send(method(Queue.Delete, queue=name))
        durable.client.broker.journal.commit()
    durable.ack(1)
    durable.client.broker.journal.commit()
    assert (store.shared, store.rows) == (set(), {})


def test_marks_are_written_once_a_turn(durable: Channel) -> None:
    with durable.client.together():
        for body in (b"1", b"2", b"3"):
            durable.publish("", "q", body, PERSISTENT)
        durable.send(method(Basic.Consume, queue="q", consumer_tag="t"))
    marks = [entry for entry in written(durable) if isinstance(entry, Delivered)]
    assert [mark.below for mark in marks] == [4]


def test_without_a_journal_nothing_is_kept(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.queue_declare("q", durable=True)
    channel.queue_bind("q", "amq.fanout")
    channel.publish("amq.fanout", "", b"1", PERSISTENT)
    channel.tx_select()
    channel.publish("amq.fanout", "", b"2", PERSISTENT)
    channel.tx_commit()
    assert channel.drain("q") == [b"1", b"2"]
    assert broker.core.effects.entries == []


def test_messages_whose_queue_is_not_defined_are_not_dropped(durable: Channel) -> None:
    """Definition and messages go in one transaction: only damage can part them."""
    broker = durable.client.broker
    durable.publish("", "q", b"x", PERSISTENT)
    broker.journal.commit()
    store = broker.journal.store
    lost = [key for key in store.definitions if key[0] == "queue" and '"q"' in key[1]]
    for key in lost:
        del store.definitions[key]
    for key in [key for key in store.definitions if key[0] == "binding" and '"q"' in key[1]]:
        del store.definitions[key]
    with pytest.raises(DamagedStore, match="queue 1, which is not defined"):
        broker.crash_and_recover()


@pytest.mark.parametrize("by_client", [True, False])
def test_a_channel_that_ended_is_forgotten_when_all_is_said(
    durable: Channel, by_client: bool
) -> None:
    """Not only when its number is used again, which may be never."""
    connection = durable.client.peer.connection
    durable.send(method(Queue.Declare, queue="new", durable=True))
    if by_client:
        durable.send(method(ChannelClass.Close, reply_code=200, reply_text=""))
    else:
        durable.publish("nope", "k", b"")
    assert list(connection._ended_outlets) == [durable.number]
    durable.expect_nothing()
    durable.client.broker.journal.commit()
    assert connection._ended_outlets == {}
    assert [said.name for said in durable.heard if isinstance(said, Frame)] == [
        "Queue.DeclareOk",
        "Channel.CloseOk" if by_client else "Channel.Close",
    ]
