"""Alarms: who is blocked, what they are told, and when they may go on (reference 2.5)."""

from __future__ import annotations

from amqpd.broker.alarms import Alarm, Alarms
from amqpd.commands import Connection
from tests.conversation import BrokerUnderTest


class Blocked:
    def __init__(self) -> None:
        self.unblocked = 0

    def unblock(self) -> None:
        self.unblocked += 1


def test_the_reason_names_all_that_is_short() -> None:
    alarms = Alarms()
    assert not alarms
    alarms.set(Alarm.DISK, True)
    assert alarms.reason == "low on disk"
    alarms.set(Alarm.MEMORY, True)
    assert alarms.reason == "low on memory & disk"
    alarms.set(Alarm.DISK, False)
    assert alarms.reason == "low on memory"


def test_connections_are_unblocked_when_the_last_alarm_clears() -> None:
    alarms, blocked, gone = Alarms(), Blocked(), Blocked()
    assert alarms.set(Alarm.DISK, True)
    assert not alarms.set(Alarm.DISK, True)
    alarms.set(Alarm.MEMORY, True)
    alarms.block(blocked)
    alarms.block(gone)
    alarms.forget(gone)
    alarms.set(Alarm.DISK, False)
    assert blocked.unblocked == 0
    alarms.set(Alarm.MEMORY, False)
    assert (blocked.unblocked, gone.unblocked) == (1, 0)


def test_the_first_publish_after_an_alarm_is_taken_and_blocks() -> None:
    broker = BrokerUnderTest()
    client = broker.client()
    channel = client.channel()
    channel.queue_declare("q")
    broker.core.alarms.set(Alarm.MEMORY, True)
    assert not client.peer.blocked
    channel.publish("", "q", b"taken")
    assert client.receive(Connection.Blocked).reason == "low on memory"
    assert client.peer.blocked
    channel.publish("", "q", b"read before the socket was left alone")
    assert channel.counts("q")[0] == 2
    broker.core.alarms.set(Alarm.MEMORY, False)
    broker.turn()
    client.receive(Connection.Unblocked)
    assert not client.peer.blocked


def test_who_only_consumes_is_never_blocked() -> None:
    broker = BrokerUnderTest()
    publisher, consumer = broker.client(), broker.client()
    channel = consumer.channel()
    channel.queue_declare("q")
    publisher.channel().publish("", "q", b"before")
    broker.core.alarms.set(Alarm.DISK, True)
    got = channel.get("q")
    assert got is not None
    channel.ack(got.delivery_tag)
    assert not consumer.peer.blocked


def test_a_client_without_the_capability_is_blocked_without_a_word() -> None:
    broker = BrokerUnderTest()
    client = broker.client(capabilities=())
    channel = client.channel()
    broker.core.alarms.set(Alarm.DISK, True)
    channel.publish("", "nowhere", b"x")
    assert client.peer.blocked
    broker.core.alarms.set(Alarm.DISK, False)
    broker.turn()
    assert not client.peer.blocked
    assert not any(isinstance(heard, Connection.Blocked) for _, heard in client.log)


def test_the_silence_of_a_blocked_peer_is_not_held_against_it() -> None:
    broker = BrokerUnderTest()
    client = broker.client(heartbeat=10)
    channel = client.channel()
    broker.core.alarms.set(Alarm.DISK, True)
    channel.publish("", "nowhere", b"x")
    for _ in range(20):
        broker.advance(10)
    assert not client.peer.closed
    broker.core.alarms.set(Alarm.DISK, False)
    for _ in range(4):
        broker.advance(10)
    assert client.peer.closed


def test_a_connection_that_ends_blocked_is_forgotten() -> None:
    broker = BrokerUnderTest()
    client = broker.client()
    broker.core.alarms.set(Alarm.DISK, True)
    client.channel().publish("", "nowhere", b"x")
    client.drop()
    broker.core.alarms.set(Alarm.DISK, False)
