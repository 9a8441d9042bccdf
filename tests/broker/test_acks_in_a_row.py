"""Acks that arrive together, of one delivery each: they are worth what they are one by one."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conversation import BrokerUnderTest, Channel, Delivery

ACK = (60, 80)
QUEUES = ("a", "b")


class Plan(NamedTuple):
    """Two channels of one connection with consumers, and what they acknowledge when."""

    quorum: bool
    single_active: bool
    windows: list[int]
    """The global prefetch of each channel; 0 is none."""
    consumers: list[tuple[int, int, int, int]]
    """Each one's channel, queue, prefetch and priority."""
    messages: list[int]
    """The queue of each that is ready before."""
    acks: list[list[tuple[int, int, int]]]
    """Chunk after chunk: a channel, which of its outstanding deliveries is the first to be
    acknowledged, and how many."""


plans = st.builds(
    Plan,
    quorum=st.booleans(),
    single_active=st.booleans(),
    windows=st.lists(st.sampled_from([0, 0, 2, 3, 5]), min_size=2, max_size=2),
    consumers=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(1, 4), st.integers(0, 1)),
        min_size=2,
        max_size=5,
    ),
    messages=st.lists(st.integers(0, 1), min_size=12, max_size=40),
    acks=st.lists(
        st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(2, 6)),
            min_size=1,
            max_size=3,
        ),
        min_size=2,
        max_size=5,
    ),
)


def play(plan: Plan, *, together: bool) -> list[list[Delivery]]:
    """What each channel is delivered, with each chunk of acks as one turn or a turn for each."""
    client = BrokerUnderTest().client()
    channels = [client.channel(), client.channel()]
    arguments = {
        "x-queue-type": "quorum" if plan.quorum else "classic",
        "x-single-active-consumer": plan.single_active,
    }
    for name in QUEUES:
        channels[0].queue_declare(name, durable=True, arguments=arguments)
    for channel, window in zip(channels, plan.windows, strict=True):
        if not plan.quorum:  # as with RabbitMQ, their consumers have no global prefetch
            channel.qos(window, of_channel=True)
    for tag, (number, queue, prefetch, priority) in enumerate(plan.consumers):
        channels[number].qos(prefetch)
        channels[number].consume(QUEUES[queue], str(tag), arguments={"x-priority": priority})
    for body, queue in enumerate(plan.messages):
        channels[0].publish("", QUEUES[queue], b"%d" % body)
    heard = [channel.deliveries() for channel in channels]
    unacked = [[delivery.delivery_tag for delivery in deliveries] for deliveries in heard]
    for chunk in plan.acks:
        with client.together() if together else nullcontext():
            for number, first, count in chunk:
                tags = unacked[number][first : first + count]
                del unacked[number][first : first + count]
                for tag in tags:
                    channels[number].ack(tag)
        for number, channel in enumerate(channels):
            deliveries = channel.deliveries()
            heard[number] += deliveries
            unacked[number] += [delivery.delivery_tag for delivery in deliveries]
    return heard


@settings(max_examples=150, deadline=None)
@given(plan=plans)
def test_the_same_is_delivered_as_if_they_came_one_by_one(plan: Plan) -> None:
    assert play(plan, together=True) == play(plan, together=False)


def fill(channel: Channel, count: int) -> list[Delivery]:
    """Messages 1 to `count` on the queue `q`, and those that its consumers are given."""
    for body in range(1, count + 1):
        channel.publish("", "q", b"%d" % body)
    return channel.deliveries()


def test_one_that_is_not_known_ends_the_channel_behind_those_before_it(
    broker: BrokerUnderTest,
) -> None:
    client = broker.client()
    channel, other = client.channel(), client.channel()
    channel.queue_declare("q")
    channel.qos(3)
    channel.consume("q")
    fill(channel, 4)
    channel.ack(2)
    assert channel.bodies() == [b"4"]
    unknown = "PRECONDITION_FAILED - unknown delivery tag 2"
    with channel.refuses(406, unknown, ACK), client.together():
        for tag in (1, 2, 3):
            channel.ack(tag)
    assert other.drain("q") == [b"3", b"4"]


def test_in_a_transaction_they_wait_for_its_end(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.consume("q")
    fill(channel, 3)
    channel.tx_select()
    with channel.client.together():
        for tag in (1, 2, 3):
            channel.ack(tag)
    channel.tx_rollback()
    with channel.client.together():
        for tag in (1, 2):
            channel.ack(tag)
    channel.tx_commit()
    channel.recover()
    assert channel.bodies() == [b"3"]


@pytest.mark.parametrize("outcome", ["nack", "reject"])
def test_what_comes_back_between_them_is_delivered_again_in_its_turn(
    channel: Channel, outcome: str
) -> None:
    channel.queue_declare("q")
    channel.qos(4)
    channel.consume("q")
    fill(channel, 8)
    with channel.client.together():
        channel.ack(1)
        channel.ack(2)
        getattr(channel, outcome)(3)
        channel.ack(4)
    deliveries = channel.deliveries()
    assert [delivery.body for delivery in deliveries] == [b"5", b"6", b"3", b"7"]
    assert [delivery.redelivered for delivery in deliveries] == [False, False, True, False]
