"""Shovels between two brokers, in one process and without a socket."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker.alarms import Alarm
from amqpd.links.client import State
from amqpd.links.link import LinkFailed
from amqpd.links.shovel_definition import ShovelDefinition, check_definition, read_definition
from amqpd.wire.properties import read_headers, read_property
from tests.conversation import PERSISTENT, BrokerUnderTest, properties
from tests.hyphens import hyphenated
from tests.links.wire import WHOLE, ShovelUnderTest

BODIES = [b"%d" % number for number in range(10)]


def definition(**fields: Any) -> ShovelDefinition:
    value: dict[str, Any] = {"src-uri": "amqp://a", "dest-uri": "amqp://b"}
    value |= hyphenated(fields)
    assert check_definition("s", value) == []
    return read_definition(value)


class Brokers:
    """A source with messages in queue `from`, and an empty destination."""

    def __init__(self, bodies: list[bytes] | None = None, **queue: Any) -> None:
        self.source, self.destination = BrokerUnderTest(), BrokerUnderTest()
        self.here = self.source.client().channel()
        self.there = self.destination.client().channel()
        self.here.queue_declare("from", durable=True, **queue)
        self.fill(BODIES if bodies is None else bodies)

    def fill(self, bodies: list[bytes]) -> None:
        for body in bodies:
            self.here.publish("", "from", body)

    def shovel(self, step: int = WHOLE, **fields: Any) -> ShovelUnderTest:
        fields = {"src_queue": "from", "dest_queue": "to"} | fields
        return ShovelUnderTest(self.source, self.destination, definition(**fields), step)


@pytest.mark.parametrize("ack_mode", ["on-confirm", "on-publish", "no-ack"])
@pytest.mark.parametrize("step", [1, 5, WHOLE])
def test_everything_arrives_once_and_in_order(ack_mode: str, step: int) -> None:
    brokers = Brokers()
    shovel = brokers.shovel(step, ack_mode=ack_mode)
    shovel.settle()
    brokers.fill([b"later"])
    shovel.settle()
    assert shovel.shovel.running
    assert brokers.there.drain("to") == [*BODIES, b"later"]
    shovel.leave()
    assert brokers.here.counts("from") == (0, 0)


def test_nothing_is_acknowledged_before_the_destination_has_it_on_disk() -> None:
    brokers = Brokers([])
    brokers.destination = BrokerUnderTest(journaling=True)
    brokers.there = brokers.destination.client().channel()
    shovel = brokers.shovel()
    while shovel.move() or brokers.destination.journal.commit():
        pass
    for body in BODIES:
        brokers.here.publish("", "from", body, PERSISTENT)
    shovel.settle()
    assert (shovel.shovel.forwarded, shovel.shovel.unconfirmed) == (10, 10)
    shovel.source.cut()
    assert brokers.here.counts("from") == (10, 0)


def test_a_cut_at_every_octet_loses_nothing() -> None:
    """The link is cut after each number of moved octets, and begun again: at least once."""
    for octets in range(1, 3000, 97):
        brokers = Brokers()
        shovel = brokers.shovel(step=octets)
        for _ in range(3):
            shovel.move()
        shovel.source.cut()
        shovel.destination.cut()
        brokers.shovel().settle()
        arrived = brokers.there.drain("to")
        assert set(arrived) == set(BODIES), octets
        assert brokers.here.counts("from")[0] == 0


def test_what_the_destination_refuses_goes_back() -> None:
    brokers = Brokers()
    brokers.there.queue_declare(
        "to", durable=True, arguments={"x-max-length": 4, "x-overflow": "reject-publish"}
    )
    shovel = brokers.shovel(src_delete_after=4, src_prefetch_count=1)
    shovel.settle()
    assert shovel.shovel.finished
    shovel.leave()
    assert brokers.there.drain("to") == BODIES[:4]
    assert brokers.here.drain("from") == BODIES[4:]


@pytest.mark.parametrize(
    ("delete_after", "moved"), [("queue-length", 10), (3, 3), (0, 0), ("never", 11)]
)
def test_delete_after(delete_after: str | int, moved: int) -> None:
    brokers = Brokers()
    shovel = brokers.shovel(src_delete_after=delete_after)
    while not shovel.shovel.running and shovel.move():
        pass
    brokers.fill([b"late"])
    shovel.settle()
    assert shovel.shovel.finished == (delete_after != "never")
    shovel.leave()
    everything = [*BODIES, b"late"]
    brokers.there.queue_declare("to", durable=True)
    assert brokers.there.drain("to") == everything[:moved]
    assert brokers.here.drain("from") == everything[moved:]


def test_queue_length_beyond_the_prefetch_is_drained() -> None:
    """RabbitMQ deletes such a shovel before its time (rabbitmq-server#14636)."""
    bodies = [b"%d" % number for number in range(50)]
    brokers = Brokers(bodies)
    shovel = brokers.shovel(src_delete_after="queue-length", src_prefetch_count=7)
    shovel.settle()
    assert shovel.shovel.finished
    assert brokers.there.drain("to") == bodies


def test_memory_is_bounded_by_the_prefetch_while_the_destination_is_blocked() -> None:
    brokers = Brokers([b"first"])
    shovel = brokers.shovel(src_prefetch_count=3)
    shovel.settle()
    brokers.destination.core.set_alarm(Alarm.MEMORY, True)
    brokers.fill([b"second"])
    shovel.settle()
    assert shovel.shovel.blocked
    brokers.fill(BODIES)
    shovel.settle()
    assert shovel.shovel.pending + shovel.shovel.unconfirmed == 3
    brokers.destination.core.set_alarm(Alarm.MEMORY, False)
    brokers.destination.turn()
    shovel.settle()
    assert brokers.there.drain("to") == [b"first", b"second", *BODIES]


def test_without_a_prefetch_the_source_is_not_read_while_much_waits() -> None:
    brokers = Brokers()
    shovel = brokers.shovel(ack_mode="no-ack")
    shovel.settle()
    assert shovel.shovel.wants_source
    shovel.destination.link.publish(1, b"\x00\x02to", b"\x00\x00", bytes(2 << 20))
    assert not shovel.shovel.wants_source
    shovel.settle()
    assert shovel.shovel.wants_source


def test_the_source_is_not_read_while_much_waits_for_a_blocked_destination() -> None:
    brokers = Brokers([b"first"])
    shovel = brokers.shovel(ack_mode="no-ack")
    shovel.settle()
    brokers.destination.core.set_alarm(Alarm.MEMORY, True)
    brokers.fill([b"second"])
    shovel.settle()
    assert shovel.shovel.blocked
    brokers.fill([bytes(1 << 20)])
    shovel.settle()
    assert not shovel.shovel.wants_source
    brokers.destination.core.set_alarm(Alarm.MEMORY, False)
    brokers.destination.turn()
    shovel.settle()
    assert shovel.shovel.wants_source
    assert brokers.there.drain("to") == [b"first", b"second", bytes(1 << 20)]


def test_who_does_not_answer_while_it_is_prepared_is_given_up() -> None:
    brokers = Brokers()
    shovel = brokers.shovel()
    link = shovel.shovel
    for wire in (shovel.source, shovel.destination):
        while wire.link.state is not State.OPEN:
            link.hear(wire.link, wire.move() or [])
    asked_at = brokers.destination.now
    assert link.deadline() == asked_at + 60
    link.handle_timer(asked_at + 59)
    with pytest.raises(LinkFailed, match=r"destination: Channel\.Open was not answered in 60 s"):
        link.handle_timer(asked_at + 60)
    shovel.settle()
    assert link.running
    link.handle_timer(asked_at + 60)


def test_properties_pass_as_they_are() -> None:
    brokers = Brokers([])
    said = properties(headers={"k": 5, "t": [True, 1.5]}, type="x", timestamp=7, message_id="")
    brokers.here.publish("", "from", b"m", said)
    shovel = brokers.shovel()
    shovel.settle()
    got = brokers.there.get("to")
    assert got is not None
    assert got.properties == said


def test_forward_headers_timestamp_and_properties() -> None:
    brokers = Brokers([])
    said = properties(headers={"x-shovelled": [{"shovel-name": "other"}]}, user_id="guest")
    brokers.here.publish("", "from", b"m", said)
    shovel = brokers.shovel(
        dest_add_forward_headers=True,
        dest_add_timestamp_header=True,
        dest_publish_properties={"delivery_mode": 2, "app_id": "shovel", "user_id": "guest"},
    )
    shovel.settle()
    got = brokers.there.get("to")
    assert got is not None
    headers = read_headers(got.properties, 8)
    octet, entries = headers["x-shovelled"]
    assert octet == "A"
    assert [entry["shovel-name"] for _, entry in entries] == [("S", "s"), ("S", "other")]
    assert headers["x-shovelled-timestamp"] == ("l", 1_700_000_000)
    assert read_property(got.properties, 0x0008) == "shovel"
    assert read_property(got.properties, 0x1000) == 2


@pytest.mark.parametrize(
    ("fields", "exchange", "key"),
    [
        ({"dest_exchange": "x", "dest_exchange_key": "k"}, "x", "k"),
        ({"dest_exchange": "x"}, "x", "original"),
        ({"dest_exchange_key": "k"}, "amq.topic", "k"),
        ({}, "amq.topic", "original"),
    ],
)
def test_exchange_to_exchange(fields: dict[str, str], exchange: str, key: str) -> None:
    brokers = Brokers([])
    brokers.there.exchange_declare("x", "topic")
    brokers.there.queue_declare("all")
    for name in ("x", "amq.topic"):
        brokers.there.queue_bind("all", name, "#")
    where = definition(src_exchange="amq.topic", src_exchange_key="original", **fields)
    shovel = ShovelUnderTest(brokers.source, brokers.destination, where)
    shovel.settle()
    brokers.here.publish("amq.topic", "original", b"m")
    brokers.here.publish("amq.topic", "other", b"n")
    shovel.settle()
    got = brokers.there.get("all")
    assert got is not None
    assert (got.exchange, got.routing_key, got.body) == (exchange, key, b"m")
    assert brokers.there.get("all") is None


def test_queues_are_declared_with_their_arguments_where_they_are_missing() -> None:
    brokers = Brokers([])
    shovel = brokers.shovel(
        src_queue="new", src_queue_args={"x-max-length": 5}, dest_queue_args={"x-expires": 60000}
    )
    shovel.settle()
    brokers.here.queue_declare("new", durable=True, arguments={"x-max-length": 5})
    brokers.there.queue_declare("to", durable=True, arguments={"x-expires": 60000})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"src_queue": "no", "src_predeclared": True}, "404 NOT_FOUND - no queue 'no'"),
        ({"dest_predeclared": True}, "404 NOT_FOUND - no queue 'to'"),
        (
            {"src_queue": None, "src_exchange": "no", "src_predeclared": True},
            "404 NOT_FOUND - no exchange 'no'",
        ),
        ({"src_queue": None, "src_exchange": "no"}, "source: 404 NOT_FOUND - no exchange 'no'"),
        (
            {"dest_queue": None, "dest_exchange": "no", "dest_predeclared": True},
            "404 NOT_FOUND - no exchange 'no'",
        ),
        ({"dest_queue": None, "dest_exchange": "no"}, "destination: 404 NOT_FOUND - no exchange"),
        ({"dest_queue_args": {"x-max-length": -1}}, "destination: 406 PRECONDITION_FAILED"),
    ],
)
def test_what_cannot_be_had_is_told(fields: dict[str, Any], reason: str) -> None:
    brokers = Brokers()
    fields = {"src_queue": "from", "dest_queue": "to"} | fields
    fields = {name: value for name, value in fields.items() if value is not None}
    shovel = ShovelUnderTest(brokers.source, brokers.destination, definition(**fields))
    with pytest.raises(LinkFailed, match=reason):
        shovel.settle()


def test_a_source_queue_that_is_deleted_ends_the_link() -> None:
    brokers = Brokers()
    shovel = brokers.shovel()
    shovel.settle()
    brokers.here.queue_delete("from")
    with pytest.raises(LinkFailed, match="the consumer was cancelled"):
        shovel.settle()


def test_the_end_of_either_connection_ends_the_link() -> None:
    brokers = Brokers()
    shovel = brokers.shovel()
    shovel.settle()
    shovel.destination.peer.close("maintenance", brokers.destination.now)
    brokers.destination.turn()
    with pytest.raises(LinkFailed, match=r"destination: closed by the server: 320 .* maintenance"):
        shovel.settle()
