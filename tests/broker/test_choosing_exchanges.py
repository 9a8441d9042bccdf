"""Exchanges that choose one of their bindings: consistent hash, modulus hash, random, local random.

How they choose is tested in tests/exchanges; here is what a client sees of it.
"""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.commands import Exchange, Queue
from amqpd.config import Compat
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    Returned,
    method,
    properties,
)

QUEUES = ("a", "b", "c", "d")


def bound(channel: Channel, type: str, key: str, **arguments: Any) -> None:
    """Exchange x with four queues."""
    channel.exchange_declare("x", type, arguments=arguments)
    for queue in QUEUES:
        channel.queue_declare(queue)
        channel.queue_bind(queue, "x", key)


def shares(channel: Channel) -> list[int]:
    """Messages in the queues, which are emptied."""
    return [channel.queue_purge(queue) for queue in QUEUES]


@pytest.mark.parametrize(
    ("type", "key"), [("x-consistent-hash", "1"), ("x-modulus-hash", "k"), ("x-random", "k")]
)
def test_each_message_gets_to_one_queue(channel: Channel, type: str, key: str) -> None:
    bound(channel, type, key)
    for number in range(400):
        channel.publish("x", f"key {number}", b"m")
    counts = shares(channel)
    assert sum(counts) == 400
    assert all(60 < count < 140 for count in counts)


@pytest.mark.parametrize(("type", "key"), [("x-consistent-hash", "1"), ("x-modulus-hash", "k")])
def test_one_key_one_queue(channel: Channel, type: str, key: str) -> None:
    bound(channel, type, key)
    for _ in range(20):
        channel.publish("x", "the key", b"m")
    assert sorted(shares(channel)) == [0, 0, 0, 20]


def test_random_is_random_for_one_key_too(channel: Channel) -> None:
    bound(channel, "x-random", "k")
    for _ in range(400):
        channel.publish("x", "the key", b"m")
    assert all(60 < count < 140 for count in shares(channel))


@pytest.mark.parametrize(
    "type", ["x-consistent-hash", "x-modulus-hash", "x-random", "x-local-random"]
)
def test_without_bindings_a_message_is_returned(type: str) -> None:
    channel = BrokerUnderTest(compat="4.2").client().channel()
    channel.exchange_declare("x", type)
    channel.publish("x", "k", b"m", mandatory=True)
    assert channel.take(Returned).text == "NO_ROUTE"


def test_hash_of_a_header(channel: Channel) -> None:
    bound(channel, "x-consistent-hash", "1", **{"hash-header": "customer"})
    for number in range(100):
        for key in ("one", "two"):
            channel.publish("x", key, b"m", properties(headers={"customer": number}))
    counts = shares(channel)
    assert sum(counts) == 200
    assert all(count and count % 2 == 0 for count in counts)
    for number in range(20):
        channel.publish("x", f"key {number}", b"m")
    assert sorted(shares(channel)) == [0, 0, 0, 20]


@pytest.mark.parametrize("name", ["message_id", "correlation_id", "timestamp"])
def test_hash_of_a_property(channel: Channel, name: str) -> None:
    bound(channel, "x-consistent-hash", "1", **{"hash-property": name})
    for number in range(100):
        value: Any = number if name == "timestamp" else f"id {number}"
        for key in ("one", "two"):
            channel.publish("x", key, b"m", properties(**{name: value}))
    counts = shares(channel)
    assert sum(counts) == 200
    assert all(count and count % 2 == 0 for count in counts)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"hash-property": "app_id"}, "Unsupported property: app_id"),
        (
            {"hash-header": "h", "hash-property": "message_id"},
            "hash-header and hash-property are mutually exclusive",
        ),
    ],
)
def test_arguments_of_consistent_hash(
    channel: Channel, arguments: dict[str, Any], text: str
) -> None:
    with channel.refuses(406, f"PRECONDITION_FAILED - {text}", (40, 10)):
        channel.exchange_declare("x", "x-consistent-hash", arguments=arguments)
    channel.open()
    with channel.refuses(404, "NOT_FOUND - no exchange 'x' in vhost '/'", (40, 10)):
        channel.exchange_declare("x", passive=True)


def test_a_weight_that_is_none(channel: Channel) -> None:
    channel.exchange_declare("x", "x-consistent-hash")
    channel.exchange_declare("y", "fanout")
    channel.queue_declare("q")
    text = 'PRECONDITION_FAILED - The binding key must be an integer: <<"abc">>'
    with channel.refuses(406, text, (50, 20)):
        channel.queue_bind("q", "x", "abc")
    channel.open()
    with channel.refuses(406, text, (40, 30)):
        channel.exchange_bind("y", "x", "abc")
    channel.open()
    text = "PRECONDITION_FAILED - The binding key must be greater than 0"
    with channel.refuses(406, text, (50, 20)):
        channel.queue_bind("q", "x", "0")
    channel.open()
    channel.queue_unbind("q", "x", "abc")


def test_a_restart_moves_no_key(journaled: BrokerUnderTest) -> None:
    channel = journaled.client().channel()
    channel.send(
        method(Exchange.Declare, exchange="x", exchange_type="x-consistent-hash", durable=True)
    )
    for queue in reversed(QUEUES):
        channel.send(method(Queue.Declare, queue=queue, durable=True))
        channel.send(method(Queue.Bind, queue=queue, exchange="x", routing_key="3"))
    journaled.journal.commit()
    channel.take_all()
    for number in range(40):
        channel.publish("x", str(number), str(number).encode(), PERSISTENT)
    journaled.journal.commit()
    before = {queue: channel.drain(queue) for queue in QUEUES}
    journaled.journal.commit()
    journaled.crash_and_recover()
    channel = journaled.client().channel()
    for number in range(40):
        channel.publish("x", str(number), str(number).encode(), PERSISTENT)
    assert {queue: channel.drain(queue) for queue in QUEUES} == before


def test_local_random_is_of_rabbitmq_4(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    with channel.refuses(
        406, "PRECONDITION_FAILED - unknown exchange type 'x-local-random'", (40, 10)
    ):
        channel.exchange_declare("x", "x-local-random")


@pytest.mark.parametrize("compat", ["4.2", "4.3"])
def test_local_random(compat: Compat) -> None:
    channel = BrokerUnderTest(compat=compat).client().channel()
    channel.exchange_declare("x", "x-local-random")
    for queue in QUEUES:
        channel.queue_declare(queue, exclusive=True)
        channel.queue_bind(queue, "x", "")
    for number in range(400):
        channel.publish("x", f"key {number}", b"m")
    counts = shares(channel)
    assert sum(counts) == 400
    assert all(60 < count < 140 for count in counts)
    text = "PRECONDITION_FAILED - Non empty binding 'k' key not permitted"
    with channel.refuses(406, text, (50, 20)):
        channel.queue_bind("a", "x", "k")
    channel.open()
    with channel.refuses(406, "PRECONDITION_FAILED - Destination not found", (40, 30)):
        channel.exchange_bind("amq.fanout", "x", "")
    channel.open()
    channel.queue_declare("quorum", durable=True, arguments={"x-queue-type": "quorum"})
    text = "Queue type rabbit_quorum_queue not valid for this exchange type"
    with channel.refuses(406, f"PRECONDITION_FAILED - {text}", (50, 20)):
        channel.queue_bind("quorum", "x", "")
