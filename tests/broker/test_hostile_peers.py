"""What a peer may do as often as it likes, and what must not grow or break by that."""

from __future__ import annotations

from itertools import pairwise

import pytest

from amqpd.broker.alarms import Alarm
from amqpd.broker.consumer import ConsumerRing
from amqpd.commands import Basic, Exchange, Queue
from amqpd.protocol.methods import encode_method
from tests.conversation import (
    BODY,
    HEADER,
    METHOD,
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    frame,
    method,
    properties,
)

MANY = 200


# -- exchanges


@pytest.mark.parametrize("end", ["delete", "close", "drop"])
def test_a_long_chain_of_auto_delete_exchanges_goes_at_once(
    broker: BrokerUnderTest, end: str
) -> None:
    client = broker.client()
    channel = client.channel()
    names = [f"link {number}" for number in range(1_200)]
    with client.together():
        for name in names:
            said = method(
                Exchange.Declare,
                exchange=name,
                exchange_type="fanout",
                auto_delete=True,
                nowait=True,
            )
            channel.send(said)
        for source, destination in pairwise(names):
            channel.send(method(Exchange.Bind, destination=destination, source=source, nowait=True))
    channel.queue_declare("last", exclusive=True)
    channel.queue_bind("last", names[-1])
    match end:
        case "delete":
            channel.queue_delete("last")
        case "close":
            client.close()
        case "drop":
            client.drop()
    virtual_host = broker.core.virtual_hosts["/"]
    assert "last" not in virtual_host.queues
    assert not [name for name in virtual_host.exchanges if name.startswith("link")]


def test_a_ring_of_auto_delete_exchanges(channel: Channel) -> None:
    for name in ("a", "b", "c"):
        channel.exchange_declare(name, "fanout", auto_delete=True)
    for source, destination in (("a", "b"), ("b", "c"), ("c", "a"), ("a", "a")):
        channel.exchange_bind(destination, source)
    channel.exchange_delete("b")
    # c lost the last binding to it, not the one from it: only what has none from it goes.
    exchanges = channel.client.broker.core.virtual_hosts["/"].exchanges
    assert [name for name in exchanges if name in ("a", "b", "c")] == ["a", "c"]
    channel.exchange_unbind("a", "a")
    assert [name for name in exchanges if name in ("a", "b", "c")] == []


# -- consumers


def ring_of(channel: Channel, queue: str = "q") -> ConsumerRing:
    return channel.client.broker.core.virtual_hosts["/"].queues[queue].consumers


def test_consumers_leave_from_anywhere_in_the_ring(channel: Channel) -> None:
    channel.queue_declare("q")
    tags = [channel.consume("q", str(number), no_ack=True) for number in range(MANY)]
    channel.publish("", "q", b"")  # the ring has turned
    channel.take_all()
    kept = tags[3::7]
    for tag in reversed([tag for tag in tags if tag not in kept]):
        channel.cancel(tag)
    for _ in range(2 * len(kept)):
        channel.publish("", "q", b"")
    served = [delivery.consumer_tag for delivery in channel.deliveries()]
    assert served == kept * 2


def test_a_consumer_that_left_is_not_kept_for_long(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.queue_declare("q")
    channel.queue_declare("busy", arguments={"x-single-active-consumer": True})
    channel.consume("busy", "active")
    for _ in range(MANY):
        client = broker.client()
        other = client.channel()
        other.consume("q")
        other.consume("busy")
        client.drop()
    ring = ring_of(channel)
    assert len(ring) == 0
    assert not ring._levels
    assert len(ring_of(channel, "busy")._waiting) <= 2


def test_priorities_of_busy_consumers_cost_nothing(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.qos(1)
    for priority in range(MANY):
        channel.consume("q", str(priority), arguments={"x-priority": priority})
    for number in range(MANY + 1):
        channel.publish("", "q", str(number).encode())
    deliveries = channel.deliveries()
    assert [delivery.consumer_tag for delivery in deliveries] == [
        str(priority) for priority in reversed(range(MANY))
    ]
    assert len(ring_of(channel)._levels) == 1, "each publish looks at all of them"
    channel.ack(deliveries[10].delivery_tag)
    assert [delivery.consumer_tag for delivery in channel.deliveries()] == [str(MANY - 11)]
    for tag in (5, 7, 6):
        channel.ack(deliveries[MANY - 1 - tag].delivery_tag)
    for _ in range(3):
        channel.publish("", "q", b"")
    assert [delivery.consumer_tag for delivery in channel.deliveries()] == ["7", "6", "5"]


def test_the_next_single_active_consumer_is_found_among_many(channel: Channel) -> None:
    channel.queue_declare("q", arguments={"x-single-active-consumer": True})
    for number in range(MANY):
        channel.consume("q", str(number), no_ack=True, arguments={"x-priority": number % 3})
    by_turn = sorted(range(1, MANY), key=lambda number: (-(number % 3), number))
    # One that leaves before its turn is passed over.
    channel.cancel(str(by_turn.pop(4)))
    channel.cancel(str(by_turn.pop(40)))
    for number in [0, *by_turn]:
        channel.publish("", "q", b"")
        assert [delivery.consumer_tag for delivery in channel.deliveries()] == [str(number)]
        channel.cancel(str(number))
    assert len(ring_of(channel)) == 0


def test_an_exclusive_consumer_is_known_at_once(channel: Channel) -> None:
    channel.queue_declare("q")
    tag = channel.consume("q", exclusive=True)
    text = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"
    other = channel.client.channel()
    with other.refuses(403, text, (60, 20)):
        other.consume("q")
    channel.cancel(tag)
    other.open()
    other.consume("q")


def test_a_full_channel_window_passes_round(channel: Channel) -> None:
    """Consumers that share a window are served in turn, not always the first of them."""
    channel.qos(1, of_channel=True)
    for name in ("a", "b", "c"):
        channel.queue_declare(name)
        channel.consume(name, name)
        for _ in range(3):
            channel.publish("", name, b"")
    served = []
    while deliveries := channel.deliveries():
        assert len(deliveries) == 1
        served.append(deliveries[0].consumer_tag)
        channel.ack(deliveries[0].delivery_tag)
    # The first of them was turned away first, with its second message.
    assert served == list("aabcabcbc")


def test_a_queue_that_goes_takes_its_busy_consumers_with_it(channel: Channel) -> None:
    channel.qos(1)
    channel.queue_declare("q")
    channel.consume("q", "c")
    for body in (b"1", b"2"):
        channel.publish("", "q", body)
    (delivery,) = channel.deliveries()
    channel.queue_delete("q")
    channel.take_all()
    channel.ack(delivery.delivery_tag)
    channel.qos(5, of_channel=True)
    channel.expect_nothing()
    session = channel.client.peer.session
    assert session is not None
    assert not session.channels[channel.number].blocked


# -- acknowledgements


@pytest.mark.parametrize("step", [1, 3, 50])
def test_multiple_acks_with_gaps(channel: Channel, step: int) -> None:
    channel.queue_declare("q")
    channel.consume("q")
    for number in range(MANY):
        channel.publish("", "q", str(number).encode())
    tags = [delivery.delivery_tag for delivery in channel.deliveries()]
    single = tags[::2]
    for tag in single:
        channel.ack(tag)
    left = [tag for tag in tags if tag not in single]
    for tag in left[::step]:
        channel.ack(tag, multiple=True)
        with_remains = [other for other in left if other > tag]
        session = channel.client.peer.session
        assert session is not None
        assert list(session.channels[1].unacked) == with_remains
    # Far beyond what is left: the tags between were never in the ledger.
    channel.ack(0, multiple=True)
    channel.consume("q", no_ack=True, tag="n")
    channel.cancel("n")
    channel.publish("", "q", b"late")
    (late,) = channel.deliveries()
    channel.ack(late.delivery_tag, multiple=True)
    with channel.refuses(406, f"PRECONDITION_FAILED - unknown delivery tag {tags[1]}", (60, 80)):
        channel.ack(tags[1], multiple=True)


def test_multiple_ack_far_above_the_ledger(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_declare("fast")
    channel.consume("q", "slow")
    channel.consume("fast", "fast", no_ack=True)
    channel.publish("", "q", b"first")
    for _ in range(MANY):
        channel.publish("", "fast", b"")
    channel.publish("", "q", b"second")
    channel.publish("", "q", b"third")
    slow = [item for item in channel.deliveries() if item.consumer_tag == "slow"]
    channel.ack(slow[1].delivery_tag, multiple=True)
    session = channel.client.peer.session
    assert session is not None
    assert list(session.channels[1].unacked) == [slow[2].delivery_tag]
    channel.ack(slow[2].delivery_tag, multiple=True)
    assert not session.channels[1].unacked


def test_multiple_acks_after_a_rollback(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.consume("q")
    channel.tx_select()
    for _ in range(10):
        channel.publish("", "q", b"x")
    channel.tx_commit()
    tags = [item.delivery_tag for item in channel.take_all() if hasattr(item, "delivery_tag")]
    channel.ack(tags[6], multiple=True)
    channel.tx_rollback()
    channel.ack(tags[4], multiple=True)
    channel.tx_commit()
    session = channel.client.peer.session
    assert session is not None
    assert list(session.channels[1].unacked) == tags[5:]


# -- what is kept of publishes


def test_targets_do_not_keep_large_results(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    for number in range(100):
        channel.queue_declare(f"q{number}")
        channel.queue_bind(f"q{number}", "amq.fanout")
    channel.queue_bind("q1", "amq.topic", "#")
    for number in range(50):
        channel.publish("amq.fanout", f"key {number}", b"")
        channel.publish("amq.topic", f"key {number}", b"")
    targets = channel.client.peer.connection.reader._targets.values()
    kept = {target.exchange: target.route for target in targets if target.route is not None}
    assert "amq.fanout" not in kept
    assert len(kept["amq.topic"]) == 1
    assert channel.counts("q1") == (100, 0)


@pytest.mark.parametrize("name", ["CC", "BCC"])
def test_keys_are_found_amid_other_headers(channel: Channel, name: str) -> None:
    channel.queue_declare("q")
    headers = {"a": 1, "x": {"CC": ["elsewhere"]}, name: ["q"], "z": "CC"}
    channel.publish("", "nowhere", b"found", properties(headers=headers))
    assert channel.drain("q") == [b"found"]
    channel.publish("", "nowhere", b"lost", properties(headers={"x": {"CC": ["q"]}}))
    assert channel.drain("q") == []


# -- bodies that never end


def begin_publish(channel: Channel, size: int, body: bytes) -> bytes:
    said = method(Basic.Publish, exchange="", routing_key="q")
    header = b"\x00\x3c\x00\x00" + size.to_bytes(8, "big") + b"\x00\x00"
    return (
        frame(METHOD, channel.number, encode_method(said))
        + frame(HEADER, channel.number, header)
        + frame(BODY, channel.number, body)
    )


def test_an_alarm_blocks_who_has_only_begun_to_publish(broker: BrokerUnderTest) -> None:
    client = broker.client()
    channel = client.channel()
    broker.core.alarms.set(Alarm.MEMORY, True)
    client.send_bytes(begin_publish(channel, 1_000_000, b"x" * 1_000))
    assert client.peer.blocked
    broker.core.alarms.set(Alarm.MEMORY, False)
    assert not client.peer.blocked


def test_who_is_closing_sends_bodies_for_nothing(broker: BrokerUnderTest) -> None:
    client = broker.client()
    half, other = client.channel(), client.channel()
    client.send_bytes(begin_publish(half, 1_000_000, b"x" * 100_000))
    half.send(method(Queue.Declare, queue="not content"))  # 505: the connection is closing
    for _ in range(5):
        client.send_bytes(frame(BODY, half.number, b"x" * 100_000))
    client.send_bytes(begin_publish(other, 1_000_000, b"x" * 100_000))
    kept = client.peer.connection.reader._assemblies.values()
    assert kept
    assert all(assembly.body is None for assembly in kept)


def test_many_faults_in_one_chunk_cost_no_copies(broker: BrokerUnderTest) -> None:
    client = broker.client()
    faults = frame(8, 1, b"") * 1_000
    client.send_bytes(faults)
    reader = client.peer.connection.reader
    assert not reader.has_more
    assert reader.receive(faults)
    (chunk,) = reader._chunks
    assert chunk is faults
    while reader.has_more:
        reader.receive(b"")


def test_one_message_got_again_and_again_is_joined_in_pieces(broker: BrokerUnderTest) -> None:
    client = broker.client()
    channel = client.channel()
    channel.queue_declare("q")
    channel.publish("", "q", b"x" * 100_000)
    client.reading = False
    with client.together():
        for _ in range(50):
            channel.send(method(Basic.Get, queue="q"))
            channel.send(method(Basic.RecoverAsync, requeue=True))
    connection = client.peer.connection
    assert connection.unsent_bytes > 5_000_000
    octets = 0
    while data := connection.take_output(0.0, 1_000_000):
        assert len(data) < 1_200_000
        octets += len(data)
        connection.sent(len(data))
    assert octets > 5_000_000
    assert connection.unsent_bytes == 0


# -- what is told of definitions


@pytest.mark.parametrize("again", ["active", "passive"])
def test_a_declaration_without_answer_is_safe_when_the_next_is_answered(
    journaled: BrokerUnderTest, again: str
) -> None:
    channel = journaled.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True, nowait=True))
    channel.send(method(Queue.Declare, queue="q", durable=True, passive=again == "passive"))
    channel.expect_nothing()
    journaled.journal.commit()
    channel.receive(Queue.DeclareOk)
    channel.send(method(Queue.Declare, queue="q", durable=True))
    channel.receive(Queue.DeclareOk)


def test_a_binding_without_answer_is_safe_when_the_next_is_answered(
    journaled: BrokerUnderTest,
) -> None:
    channel = journaled.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True, nowait=True))
    bind = method(Queue.Bind, queue="q", exchange="amq.direct", routing_key="k", nowait=True)
    channel.send(bind)
    journaled.journal.begin_commit()
    bind.nowait = False
    channel.send(bind)
    channel.expect_nothing()
    journaled.journal.commit()
    channel.receive(Queue.BindOk)


def test_messages_alone_hold_no_declaration_back(journaled: BrokerUnderTest) -> None:
    channel = journaled.client().channel()
    channel.send(method(Queue.Declare, queue="q", durable=True))
    journaled.journal.commit()
    channel.receive(Queue.DeclareOk)
    channel.publish("", "q", b"x", PERSISTENT)
    channel.send(method(Queue.Declare, queue="q", durable=True, passive=True))
    channel.receive(Queue.DeclareOk)
