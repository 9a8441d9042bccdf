"""Flow control: publishers wait for quick consumers, and for nobody else.

A queue here has 4,000 messages in memory at most.
"""

from __future__ import annotations

import pytest

from amqpd.broker.flow import QUICK_MESSAGES_PER_S, RETRY_MAX_S, RETRY_MIN_S
from amqpd.broker.queue import Queue
from amqpd.commands import Arguments, Exchange
from amqpd.commands import Queue as QueueMethods
from amqpd.config import Limits
from tests.conversation import BrokerUnderTest, Channel, Client, Delivery, method

WINDOW = 4000
CHECK_S = Limits().flow_wait_s
QUICK_MESSAGES = int(QUICK_MESSAGES_PER_S * CHECK_S)
LIMITS = Limits(queue_memory_messages=WINDOW, queue_memory_bytes=1024 * 1024)


@pytest.fixture(params=[True, False], ids=["journaled", "in-memory"])
def broker(request: pytest.FixtureRequest) -> BrokerUnderTest:
    return BrokerUnderTest(journaling=request.param, limits=LIMITS)


@pytest.fixture
def publisher(broker: BrokerUnderTest) -> Channel:
    channel = broker.client().channel()
    declare(channel, "q")
    return channel


@pytest.fixture
def consumer(broker: BrokerUnderTest, publisher: Channel) -> Channel:
    channel = broker.client().channel()
    channel.qos(QUICK_MESSAGES)
    channel.consume("q")
    return channel


def declare(channel: Channel, name: str, arguments: Arguments | None = None) -> Queue:
    channel.send(method(QueueMethods.Declare, queue=name), arguments)
    channel.take(QueueMethods.DeclareOk)
    return queue_of(channel, name)


def queue_of(channel: Channel, name: str = "q") -> Queue:
    return channel.client.broker.core.virtual_hosts["/"].queues[name]


def publish(channel: Channel, count: int, queue: str = "q", body: bytes = b"x") -> None:
    """Messages in turns of twenty. Those that the broker does not read wait in the socket."""
    for start in range(0, count, 20):
        with channel.client.together():
            for _ in range(min(20, count - start)):
                channel.publish("", queue, body)


def take(channel: Channel, count: int) -> None:
    """Acknowledge so many, in twos; for each acknowledged the next one comes."""
    for _ in range(count // 2):
        first, second = channel.take(Delivery), channel.take(Delivery)
        assert second.delivery_tag == first.delivery_tag + 1
        channel.ack(second.delivery_tag, multiple=True)


def held(client: Client) -> bool:
    return client.peer.held


def test_a_flood_is_held_until_quick_consumers_took_a_part_of_the_queue(
    publisher: Channel, consumer: Channel
) -> None:
    flood = WINDOW + QUICK_MESSAGES + 100
    publish(publisher, flood)
    queue = queue_of(publisher)
    assert held(publisher.client)
    assert WINDOW < queue.ready < WINDOW + 50
    assert queue.ready == queue.resident

    took = 0
    while held(publisher.client):
        take(consumer, 10)
        took += 10
    assert WINDOW // 4 <= took < WINDOW // 4 + 50
    while queue.ready:
        take(consumer, 2)
    assert queue.published == flood, "what waited in the socket came as well"


def test_it_is_shown_as_in_flow_and_reads_nothing_meanwhile(
    publisher: Channel, consumer: Channel
) -> None:
    publish(publisher, 2 * WINDOW)
    assert publisher.client.peer.held_at == publisher.client.broker.now
    publisher.send(method(QueueMethods.Declare, queue="another"))
    assert "another" not in publisher.client.broker.core.virtual_hosts["/"].queues
    assert not held(consumer.client)


def test_consumers_that_are_slow_hold_nobody(publisher: Channel, consumer: Channel) -> None:
    broker = publisher.client.broker
    publish(publisher, 3 * WINDOW)
    take(consumer, QUICK_MESSAGES // 4)
    assert held(publisher.client)

    broker.advance(CHECK_S)
    assert not held(publisher.client)
    assert queue_of(publisher).published == 3 * WINDOW

    publish(publisher, WINDOW)
    assert not held(publisher.client), "nor a moment later"

    broker.advance(RETRY_MAX_S)
    publish(publisher, 2 * WINDOW)
    assert held(publisher.client), "they may have become quick"


def test_consumers_are_waited_for_as_long_as_they_are_quick(
    publisher: Channel, consumer: Channel
) -> None:
    broker = publisher.client.broker
    publish(publisher, WINDOW + QUICK_MESSAGES + 100)
    assert 3 * QUICK_MESSAGES < WINDOW // 4
    for _ in range(3):
        take(consumer, QUICK_MESSAGES)
        broker.advance(CHECK_S)
        assert held(publisher.client)
    broker.advance(CHECK_S)
    assert not held(publisher.client)


def test_each_wait_has_its_full_time(publisher: Channel, consumer: Channel) -> None:
    """The timer of one that is over does not end the next."""
    broker = publisher.client.broker
    publish(publisher, WINDOW + QUICK_MESSAGES + 100)
    broker.advance(CHECK_S * 0.9)
    while held(publisher.client):
        take(consumer, 10)
    publish(publisher, WINDOW)
    assert held(publisher.client)
    broker.advance(CHECK_S * 0.9)
    assert held(publisher.client)
    broker.advance(CHECK_S * 0.1)
    assert not held(publisher.client)


def test_the_slower_consumers_prove_the_less_is_waited_for_them(
    publisher: Channel, consumer: Channel
) -> None:
    broker = publisher.client.broker
    pause_s = RETRY_MIN_S
    for _ in range(3):
        publish(publisher, WINDOW + QUICK_MESSAGES + 100)
        assert held(publisher.client)
        broker.advance(CHECK_S)
        broker.advance(pause_s - 0.001)
        publish(publisher, WINDOW)
        assert not held(publisher.client)
        pause_s *= 2
        broker.advance(0.002)


def test_without_consumers_nobody_waits(publisher: Channel) -> None:
    publish(publisher, 3 * WINDOW)
    assert not held(publisher.client)
    assert queue_of(publisher).ready == 3 * WINDOW


def test_those_who_leave_are_not_waited_for(publisher: Channel, consumer: Channel) -> None:
    publish(publisher, 2 * WINDOW)
    assert held(publisher.client)
    consumer.client.drop()
    assert not held(publisher.client)
    assert queue_of(publisher).ready == 2 * WINDOW


def test_a_queue_that_is_deleted_or_purged_holds_nobody(
    publisher: Channel, consumer: Channel
) -> None:
    publish(publisher, 2 * WINDOW)
    assert consumer.queue_purge("q") >= WINDOW
    assert not held(publisher.client)

    publish(publisher, 2 * WINDOW)
    assert held(publisher.client)
    consumer.queue_delete("q")
    assert not held(publisher.client)


def test_heavy_messages_count_by_their_weight(publisher: Channel, consumer: Channel) -> None:
    consumer.qos(1)
    body = b"x" * 100_000
    publish(publisher, 40 + QUICK_MESSAGES, body=body)
    assert held(publisher.client)
    assert queue_of(publisher).ready_bytes < 1024 * 1024 + 20 * len(body)


def test_of_several_queues_the_last_lets_go(publisher: Channel, consumer: Channel) -> None:
    declare(publisher, "q2")
    publisher.call(
        method(Exchange.Declare, exchange="all", exchange_type="fanout"), Exchange.DeclareOk
    )
    for queue in ("q", "q2"):
        publisher.queue_bind(queue, "all")
    second = consumer.client.broker.client().channel()
    second.qos(QUICK_MESSAGES)
    second.consume("q2")
    with publisher.client.together():
        for _ in range(WINDOW + QUICK_MESSAGES + 1):
            publisher.publish("all", "", b"x")
    assert held(publisher.client)
    take(consumer, WINDOW // 2)
    assert held(publisher.client)
    take(second, WINDOW // 2)
    assert not held(publisher.client)


def test_a_publisher_that_goes_away_is_forgotten(publisher: Channel, consumer: Channel) -> None:
    publish(publisher, 2 * WINDOW)
    publisher.client.drop()
    take(consumer, WINDOW // 2)
    publisher.client.broker.advance(CHECK_S)
    assert publisher.client.broker.core.flow.deadline() is None


@pytest.mark.parametrize("broker", [True], indirect=True)
def test_a_backlog_that_is_worked_off_quickly_goes_down(
    publisher: Channel, consumer: Channel
) -> None:
    """It is on disk already, so it does not have to be in memory before publishers go on."""
    publish(publisher, 5 * WINDOW)
    broker = publisher.client.broker
    broker.advance(CHECK_S)
    for _ in range(2):
        broker.journal.commit()
        publish(publisher, WINDOW)
    queue = queue_of(publisher)
    assert queue.resident < queue.ready

    broker.advance(RETRY_MAX_S)
    lengths = []
    for _ in range(3):
        while not held(publisher.client):
            publish(publisher, 20)
            broker.journal.commit()
        while held(publisher.client):
            take(consumer, 10)
        lengths.append(queue.ready)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] > WINDOW


def test_flow_control_can_be_switched_off() -> None:
    limits = Limits(queue_memory_messages=WINDOW, flow_wait_s=0)
    broker = BrokerUnderTest(journaling=True, limits=limits)
    publisher, consumer = broker.client().channel(), broker.client().channel()
    declare(publisher, "q")
    consumer.qos(QUICK_MESSAGES)
    consumer.consume("q")
    publish(publisher, 2 * WINDOW)
    assert not held(publisher.client)
    assert queue_of(publisher).published == 2 * WINDOW
