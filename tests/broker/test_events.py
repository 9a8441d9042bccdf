"""The event exchange: who hears of what, in the form of RabbitMQ's rabbitmq_event_exchange.

The properties are those that RabbitMQ 3.10.8 was seen to send for the same operations, with what
later versions added.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import pytest

from amqpd.broker.alarms import Alarm
from amqpd.broker.definitions import VhostRecord
from amqpd.broker.events import address_term
from amqpd.commands import Queue
from amqpd.wire.properties import DELIVERY_MODE, TIMESTAMP, read_headers, read_property
from amqpd.wire.tables import plain
from tests.conversation import BrokerUnderTest, Channel, Refused, method

EVENTS = "amq.rabbitmq.event"
CLIENT = "127.0.0.1:50000 -> 127.0.0.1:5672"


class Heard(NamedTuple):
    """One event, its headers in the order they came."""

    key: str
    headers: dict[str, Any]


class Listener:
    """A client with a queue for the events that match `key`."""

    def __init__(self, broker: BrokerUnderTest, key: str = "#") -> None:
        self.channel = broker.client(name="listener").channel()
        self.channel.queue_declare("events", durable=True)
        self.channel.queue_bind("events", EVENTS, key)
        self.take()

    def take(self) -> list[Heard]:
        """What was heard since the last time; the time that every event has is taken out."""
        heard: list[Heard] = []
        while (got := self.channel.get("events", no_ack=True)) is not None:
            assert got.exchange == EVENTS
            assert got.body == b""
            assert read_property(got.properties, DELIVERY_MODE) == 2
            headers = read_headers(got.properties, 64)
            milliseconds = headers.pop("timestamp_in_ms")
            assert milliseconds[0] == "l"
            assert read_property(got.properties, TIMESTAMP) == milliseconds[1] // 1000
            heard.append(Heard(got.routing_key, plain(headers)))
        return heard

    def keys(self) -> list[str]:
        """The routing keys alone."""
        return [event.key for event in self.take()]


@pytest.fixture
def listener(broker: BrokerUnderTest) -> Listener:
    """It listens to everything."""
    return Listener(broker)


@pytest.fixture
def channel(broker: BrokerUnderTest, listener: Listener) -> Channel:
    """A channel whose opening nobody needs to hear of."""
    channel = broker.client(name=CLIENT).channel()
    listener.take()
    return channel


def test_the_exchange_is_internal_and_in_the_default_virtual_host(broker: BrokerUnderTest) -> None:
    broker.add_vhost("other")
    assert EVENTS not in broker.core.virtual_hosts["other"].exchanges
    exchange = broker.core.virtual_hosts["/"].exchanges[EVENTS]
    assert (exchange.type, exchange.durable, exchange.internal) == ("topic", True, True)


def test_without_a_binding_nothing_is_made(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    events = broker.core.events
    assert not events.wanted
    channel.queue_declare("events")
    events.emit("some.thing", {})
    assert not broker.core.internal_publishing.pending
    channel.queue_bind("events", EVENTS, "#")
    assert events.wanted
    channel.queue_unbind("events", EVENTS, "#")
    assert not events.wanted


def test_the_first_binding_hears_of_itself(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.queue_declare("events")
    channel.queue_bind("events", EVENTS, "binding.*")
    got = channel.get("events")
    assert got is not None
    assert got.routing_key == "binding.created"


def test_a_queue(listener: Listener, channel: Channel) -> None:
    channel.queue_declare("q", durable=True, arguments={"x-max-length": 5})
    channel.queue_delete("q")
    created, deleted = listener.take()
    assert tuple(created) == (
        "queue.created",
        {
            "user_who_performed_action": "guest",
            "type": "rabbit_classic_queue",
            "exclusive": False,
            "owner_pid": "",
            "arguments": ['{<<"x-max-length">>,signedint,5}'],
            "auto_delete": False,
            "durable": True,
            "name": "q",
            "vhost": "/",
        },
    )
    assert next(iter(created.headers)) == "user_who_performed_action"
    assert list(created.headers)[-2:] == ["name", "vhost"]
    expected = {"user_who_performed_action": "guest", "name": "q", "vhost": "/"}
    assert deleted == ("queue.deleted", expected)


def test_a_queue_that_is_there_already_is_no_news(listener: Listener, channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_declare("q")
    assert listener.keys() == ["queue.created"]


def test_an_exclusive_queue_names_its_owner(
    broker: BrokerUnderTest, listener: Listener, channel: Channel
) -> None:
    channel.queue_declare("mine", exclusive=True)
    (created,) = listener.take()
    session = channel.client.peer.session
    assert session is not None
    assert created.headers["owner_pid"] == session.origin.pid
    assert created.headers["exclusive"] is True
    channel.client.close()
    heard = {event.key: event.headers for event in listener.take()}
    assert heard["queue.deleted"]["user_who_performed_action"] == "rmq-internal"


def test_an_exchange_and_its_bindings(listener: Listener, channel: Channel) -> None:
    channel.queue_declare("q")
    listener.take()
    channel.exchange_declare("x", "topic", durable=True, arguments={"alternate-exchange": "a"})
    channel.queue_bind("q", "x", "a.b", {"foo": "bar"})
    channel.exchange_bind("x", "amq.fanout", "k")
    channel.queue_unbind("q", "x", "a.b", {"foo": "bar"})
    heard = listener.take()
    assert heard[0] == (
        "exchange.created",
        {
            "user_who_performed_action": "guest",
            "policy": "",
            "arguments": ['{<<"alternate-exchange">>,longstr,<<"a">>}'],
            "internal": False,
            "auto_delete": False,
            "durable": True,
            "type": "topic",
            "name": "x",
            "vhost": "/",
        },
    )
    binding = {
        "user_who_performed_action": "guest",
        "vhost": "/",
        "arguments": ['{<<"foo">>,longstr,<<"bar">>}'],
        "routing_key": "a.b",
        "destination_kind": "queue",
        "destination_name": "q",
        "source_kind": "exchange",
        "source_name": "x",
    }
    to_exchange = binding | {
        "arguments": [],
        "routing_key": "k",
        "destination_kind": "exchange",
        "destination_name": "x",
        "source_name": "amq.fanout",
    }
    assert heard[1:] == [
        ("binding.created", binding),
        ("binding.created", to_exchange),
        ("binding.deleted", binding),
    ]
    channel.exchange_delete("x")
    assert listener.take() == [
        ("exchange.deleted", {"user_who_performed_action": "guest", "name": "x", "vhost": "/"}),
        ("binding.deleted", to_exchange),
    ]


def test_what_deletes_itself(listener: Listener, channel: Channel) -> None:
    channel.exchange_declare("x", auto_delete=True)
    channel.queue_declare("q", auto_delete=True)
    channel.queue_bind("q", "x", "k")
    channel.consume("q", tag="c")
    listener.take()
    channel.cancel("c")
    heard = listener.take()
    assert sorted(event.key for event in heard) == [
        "binding.deleted",
        "consumer.deleted",
        "exchange.deleted",
        "queue.deleted",
    ]
    users = {event.key: event.headers["user_who_performed_action"] for event in heard}
    assert users.pop("consumer.deleted") == "guest"
    assert set(users.values()) == {"rmq-internal"}


def test_a_consumer(broker: BrokerUnderTest, listener: Listener, channel: Channel) -> None:
    channel.queue_declare("q")
    channel.qos(7)
    listener.take()
    channel.consume("q", tag="c", arguments={"x-priority": 3})
    channel.cancel("c")
    session = channel.client.peer.session
    assert session is not None
    pid = session.channels[channel.number].pid
    told = {
        "user_who_performed_action": "guest",
        "queue": "q",
        "vhost": "/",
        "channel": pid,
        "consumer_tag": "c",
    }
    more = {
        "arguments": ['{<<"x-priority">>,signedint,3}'],
        "prefetch_count": 7,
        "ack_required": True,
        "exclusive": False,
    }
    assert listener.take() == [("consumer.created", told | more), ("consumer.deleted", told)]


@pytest.mark.parametrize("end", ["channel", "connection", "queue"])
def test_consumers_end_once(listener: Listener, channel: Channel, end: str) -> None:
    channel.queue_declare("q")
    channel.consume("q", tag="c")
    listener.take()
    if end == "channel":
        channel.close()
    elif end == "connection":
        channel.client.close()
    else:
        channel.queue_delete("q")
    assert (
        listener.keys()
        == {
            "channel": ["consumer.deleted", "channel.closed"],
            "connection": ["consumer.deleted", "channel.closed", "connection.closed"],
            "queue": ["consumer.deleted", "queue.deleted"],
        }[end]
    )


def test_a_connection_and_a_channel(broker: BrokerUnderTest, listener: Listener) -> None:
    client = broker.client(name=CLIENT, heartbeat=60)
    channel = client.channel()
    session = client.peer.session
    assert session is not None
    pid, channel_pid = session.origin.pid, session.channels[channel.number].pid
    client.close()
    heard = {event.key: event.headers for event in listener.take()}
    assert list(heard) == [
        "user.authentication.success",
        "connection.created",
        "channel.created",
        "channel.closed",
        "connection.closed",
    ]
    assert heard["user.authentication.success"] == {
        "ssl": False,
        "auth_mechanism": "PLAIN",
        "protocol": "{0,9,1}",
        "peer_port": 50000,
        "peer_host": "{127,0,0,1}",
        "connection_name": CLIENT,
        "host": "{127,0,0,1}",
        "name": "guest",
        "connection_type": "network",
    }
    created = heard["connection.created"]
    assert created["pid"] == pid
    assert created["name"] == CLIENT
    assert (created["port"], created["peer_port"]) == (5672, 50000)
    assert (created["user"], created["vhost"], created["timeout"]) == ("guest", "/", 60)
    assert (created["frame_max"], created["channel_max"]) == (131072, 2047)
    assert created["connected_at"] == int(broker.now * 1000)
    assert any("consumer_cancel_notify" in term for term in created["client_properties"])
    assert heard["channel.created"] == {
        "user_who_performed_action": "guest",
        "vhost": "/",
        "user": "guest",
        "number": 1,
        "connection": pid,
        "name": f"{CLIENT} (1)",
        "pid": channel_pid,
    }
    assert heard["channel.closed"] == {"user_who_performed_action": "guest", "pid": channel_pid}
    closed = heard["connection.closed"]
    assert (closed["name"], closed["pid"]) == (CLIENT, pid)
    assert closed["client_properties"] == created["client_properties"]


def test_a_lost_socket_closes_the_connection_once(
    broker: BrokerUnderTest, listener: Listener, channel: Channel
) -> None:
    channel.client.drop()
    channel.client.peer.lost("again")
    broker.turn()
    assert listener.keys() == ["channel.closed", "connection.closed"]


def test_a_refused_login(broker: BrokerUnderTest, listener: Listener) -> None:
    with pytest.raises(Refused):
        broker.client(password="wrong")
    failure, *_ = listener.take()
    assert failure.key == "user.authentication.failure"
    assert failure.headers["name"] == "guest"
    # RabbitMQ sends an array of code points.
    error = "".join(map(chr, failure.headers["error"]))
    assert error == "user 'guest' - invalid credentials"


def test_users_and_permissions(broker: BrokerUnderTest, listener: Listener) -> None:
    access = broker.core.access
    access.put_user("bob", "", "rabbit_password_hashing_sha256", ("monitoring",), by="ann")
    other_hash = access.users()[0].password_hash
    access.put_user("bob", other_hash, "rabbit_password_hashing_sha256", ("monitoring",), by="ann")
    access.put_user("bob", "", "rabbit_password_hashing_sha256", ("monitoring",), by="ann")
    access.put_permission("bob", "/", ".*", "a", "", by="ann")
    access.put_permission("bob", "/", ".*", "a", "", by="ann")  # as it was: no news
    access.put_topic_permission("bob", "/", "amq.topic", "w", "r", by="ann")
    access.delete_topic_permission("bob", "/", by="ann")
    access.delete_permission("bob", "/", by="ann")
    access.delete_user("bob", by="ann")
    broker.turn()
    who = {"user_who_performed_action": "ann"}
    bob = {"user": "bob", "vhost": "/"}
    assert listener.take() == [
        ("user.created", who | {"name": "bob"}),
        ("user.tags.set", who | {"name": "bob", "tags": ["monitoring"]}),
        ("user.password.changed", who | {"name": "bob"}),
        ("user.password.cleared", who | {"name": "bob"}),
        ("permission.created", who | bob | {"configure": ".*", "write": "a", "read": ""}),
        (
            "topic.permission.created",
            who | bob | {"exchange": "amq.topic", "write": "w", "read": "r"},
        ),
        ("topic.permission.deleted", who | bob),
        ("permission.deleted", who | bob),
        ("user.deleted", who | {"name": "bob"}),
    ]


def test_a_virtual_host(broker: BrokerUnderTest, listener: Listener) -> None:
    broker.core.add_virtual_host(VhostRecord(name="v"), user="ann")
    broker.turn()
    *exchanges, vhost = listener.take()
    assert {event.key for event in exchanges} == {"exchange.created"}
    assert {event.headers["name"] for event in exchanges} >= {"", "amq.direct", "amq.match"}
    assert vhost.key == "vhost.created"
    assert vhost.headers["name"] == "v"
    assert vhost.headers["user_who_performed_action"] == "ann"
    assert vhost.headers["metadata"] == "#{description => <<>>,tags => []}"
    assert vhost.headers["cluster_state"] == {broker.core.node: "running"}


def test_an_alarm(broker: BrokerUnderTest, listener: Listener) -> None:
    broker.core.set_alarm(Alarm.DISK, True)
    broker.core.set_alarm(Alarm.DISK, True)
    broker.core.set_alarm(Alarm.DISK, False)
    broker.turn()
    told = {"source": "disk", "node": broker.core.node}
    assert listener.take() == [("alarm.set", told), ("alarm.cleared", told)]


def test_binding_keys_choose(broker: BrokerUnderTest) -> None:
    listener = Listener(broker, "queue.*")
    listener.channel.queue_declare("q")
    listener.channel.queue_bind("q", "amq.direct", "k")
    assert listener.keys() == ["queue.created"]


def test_what_another_component_tells(broker: BrokerUnderTest, listener: Listener) -> None:
    definition = {"max-length": 5, "list": [1, True, 0.5], "nothing": {}}
    told = {"vhost": "/", "name": "p", "priority": 2, "definition": definition}
    broker.core.events.emit("policy.set", told, "ann")
    broker.turn()
    heard = told | {"definition": definition | {"nothing": []}, "user_who_performed_action": "ann"}
    assert listener.take() == [("policy.set", heard)]


def test_events_survive_with_their_queue(journaled: BrokerUnderTest) -> None:
    channel = journaled.client().channel()
    channel.send(method(Queue.Declare, queue="events", durable=True))
    channel.send(method(Queue.Bind, queue="events", exchange=EVENTS, routing_key="queue.#"))
    channel.send(method(Queue.Declare, queue="q", durable=True))
    journaled.journal.commit()
    journaled.crash_and_recover()
    channel = journaled.client().channel()
    got = channel.get("events", no_ack=True)
    assert got is not None
    assert read_headers(got.properties, 64)["name"] == ("S", "q")
    assert journaled.core.events.wanted


def test_another_virtual_host_may_have_the_exchange_next_time() -> None:
    broker = BrokerUnderTest(journaling=True)
    channel = broker.client().channel()
    channel.send(method(Queue.Declare, queue="events", durable=True))
    channel.send(method(Queue.Bind, queue="events", exchange=EVENTS, routing_key="#"))
    broker.add_vhost("other")
    broker.journal.commit()
    broker.config = msgspec.structs.replace(broker.config, event_exchange_vhost="other")
    broker.crash_and_recover()
    assert not broker.core.events.wanted
    assert EVENTS in broker.core.virtual_hosts["other"].exchanges
    # What was bound before is still there.
    (binding,) = broker.core.virtual_hosts["/"].exchanges[EVENTS].table.bindings
    assert binding.routing_key == "#"


@pytest.mark.parametrize(
    ("host", "term"),
    [
        ("127.0.0.1", "{127,0,0,1}"),
        ("[::1]", "{0,0,0,0,0,0,0,1}"),
        ("fe80::1%eth0", "{65152,0,0,0,0,0,0,1}"),
        ("client", "client"),
    ],
)
def test_addresses_are_erlang_terms(host: str, term: str) -> None:
    assert address_term(host) == term
