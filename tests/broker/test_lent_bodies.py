"""Large bodies that go out at once are lent by the chunk they came in; who keeps one copies it.

A chunk is in memory for as long as it lends anything, which is what is counted here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from amqpd.commands import Queue
from amqpd.config import Limits
from tests.conversation import BrokerUnderTest, Channel, Returned, method, properties, table
from tests.hyphens import hyphenated
from tests.protocol.client import publish

LARGE = b"large " * 10_000


def chunk(routing_key: str, *bodies: bytes, exchange: str = "", head: bytes = b"\0\0") -> bytes:
    """Publishes on channel 1, as they come from the socket."""
    return b"".join(publish(1, exchange, routing_key, body, head) for body in bodies)


def lent(octets: bytes, publisher: Channel) -> int:
    """Say it, and how many references to it are left then that were not there before."""
    before = sys.getrefcount(octets)
    publisher.client.send_bytes(octets)
    return sys.getrefcount(octets) - before


def consumer_that_does_not_read(broker: BrokerUnderTest) -> Channel:
    consumer = broker.client().channel()
    consumer.queue_declare("q")
    consumer.consume("q", no_ack=True)
    consumer.client.reading = False
    return consumer


def test_a_large_body_goes_out_as_it_came_in(broker: BrokerUnderTest) -> None:
    consumer, publisher = consumer_that_does_not_read(broker), broker.client().channel()
    octets = chunk("q", LARGE, LARGE[::-1])
    assert lent(octets, publisher) > 0
    consumer.client.read()
    assert consumer.bodies() == [LARGE, LARGE[::-1]]
    assert lent(octets, publisher) == 0  # The consumer reads it at once.


def test_what_is_but_a_small_part_of_its_chunk_is_copied(broker: BrokerUnderTest) -> None:
    consumer, publisher = consumer_that_does_not_read(broker), broker.client().channel()
    bodies = [LARGE[:20_000]] * 17
    octets = chunk("q", *bodies)
    assert lent(octets, publisher) == 0
    consumer.client.read()
    assert consumer.bodies() == bodies


def test_a_small_body_is_copied(broker: BrokerUnderTest) -> None:
    consumer, publisher = consumer_that_does_not_read(broker), broker.client().channel()
    assert lent(chunk("q", b"small"), publisher) == 0
    consumer.client.read()
    assert consumer.bodies() == [b"small"]


def test_a_peer_that_does_not_read_ties_up_no_more_chunks_than_its_limit_of_unsent_octets() -> None:
    broker = BrokerUnderTest(limits=Limits(unsent_bytes_max=10**8, unsent_replies_bytes_max=10**8))
    consumer, publisher = consumer_that_does_not_read(broker), broker.client().channel()
    chunks = [chunk("q", LARGE, bytes((number,)) * 300_000) for number in range(100)]
    before = [sys.getrefcount(octets) for octets in chunks]
    for octets in chunks:
        publisher.client.send_bytes(octets)
    tied_up = [sys.getrefcount(octets) for octets in chunks]
    assert 1 <= sum(map(int.__gt__, tied_up, before)) <= 4
    consumer.client.read()
    assert [body[:6] for body in consumer.bodies()][::2] == [b"large "] * 100


def test_a_transport_that_is_behind_ties_up_none(broker: BrokerUnderTest) -> None:
    consumer, publisher = consumer_that_does_not_read(broker), broker.client().channel()
    connection = consumer.client.peer.connection
    assert lent(chunk("q", LARGE), publisher) > 0
    taken = connection.take_output(broker.now)
    assert lent(chunk("q", LARGE), publisher) == 0
    taken += connection.take_output(broker.now)
    consumer.client.peer.sent(len(taken))
    assert lent(chunk("q", LARGE), publisher) > 0


def declare(channel: Channel, queue: str, **arguments: object) -> None:
    """A durable queue, once the journal has it."""
    options = hyphenated(arguments)
    channel.send(method(Queue.Declare, queue=queue, durable=True), table(options))
    channel.client.broker.journal.commit()
    channel.receive(Queue.DeclareOk)


def nobody(channel: Channel) -> str:
    declare(channel, "q")
    return ""


def manual_ack(channel: Channel) -> str:
    declare(channel, "q")
    channel.consume("q")
    return ""


def quorum(channel: Channel) -> str:
    declare(channel, "q", x_queue_type="quorum")
    return ""


def priorities(channel: Channel) -> str:
    declare(channel, "q", x_max_priority=3)
    return ""


def two_queues(channel: Channel) -> str:
    channel.exchange_declare("two", "fanout")
    for queue in ("a", "b"):
        declare(channel, queue)
        channel.queue_bind(queue, "two")
    return "two"


def two_queues_and_a_consumer(channel: Channel) -> str:
    exchange = two_queues(channel)
    channel.consume("a", no_ack=True)
    return exchange


def transaction(channel: Channel) -> str:
    declare(channel, "q")
    channel.tx_select()
    return ""


def delayed(channel: Channel) -> str:
    channel.exchange_declare("later", "x-delayed-message", arguments={"x-delayed-type": "direct"})
    declare(channel, "q")
    channel.queue_bind("q", "later", "q")
    return "later"


def recent_history(channel: Channel) -> str:
    channel.exchange_declare("recent", "x-recent-history")
    return "recent"


def dead_letters(channel: Channel) -> str:
    declare(channel, "dead")
    declare(
        channel,
        "q",
        x_dead_letter_exchange="",
        x_dead_letter_routing_key="dead",
        x_max_length=0,
    )
    return ""


KEEPERS = [
    nobody,
    manual_ack,
    quorum,
    priorities,
    two_queues,
    two_queues_and_a_consumer,
    transaction,
    delayed,
    recent_history,
    dead_letters,
]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("keeper", KEEPERS)
def test_who_keeps_a_message_lets_go_of_its_chunk(
    keeper: Callable[[Channel], str], persistent: bool
) -> None:
    broker = BrokerUnderTest(journaling=True)
    publisher = broker.client().channel()
    exchange = keeper(publisher)
    mode = 2 if persistent else 1
    head = properties(delivery_mode=mode, headers={"x-delay": 1000})
    assert lent(chunk("q", LARGE, exchange=exchange, head=head), publisher) == 0


def test_a_message_that_comes_back_is_whole(channel: Channel) -> None:
    octets = publish(1, "", "nowhere", LARGE, mandatory=True)
    assert lent(octets, channel) == 0
    assert channel.take(Returned).body == LARGE
