"""Acks, nacks, rejects, what comes back and in which order, and how many may be outstanding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pika
import pytest

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from compat.pika_scenarios.conftest import Scene

FOUR = [b"1", b"2", b"3", b"4"]


def test_requeued_messages_return_to_their_places(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *FOUR)
    taken = [scene.get(channel, queue, auto_ack=False) for _ in range(3)]
    tags = [message.method.delivery_tag for message in taken if message]
    assert tags == [1, 2, 3]
    channel.basic_nack(3, requeue=True)
    channel.basic_reject(1, requeue=True)
    channel.basic_nack(2, requeue=True)
    again = [scene.get(channel, queue) for _ in range(4)]
    assert [m.body for m in again if m] == FOUR
    assert [m.method.redelivered for m in again if m] == [True, True, True, False]


def test_nack_multiple_requeues_all_up_to_the_tag(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *FOUR)
    for _ in range(4):
        scene.get(channel, queue, auto_ack=False)
    channel.basic_nack(3, multiple=True, requeue=True)
    assert scene.bodies(channel, queue) == FOUR[:3]
    channel.basic_ack(4)


@pytest.mark.parametrize("way", ["reject", "nack"])
def test_refused_for_good(scene: Scene, channel: BlockingChannel, way: str) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, b"unwanted", b"wanted")
    scene.get(channel, queue, auto_ack=False)
    if way == "reject":
        channel.basic_reject(1, requeue=False)
    else:
        channel.basic_nack(1, requeue=False)
    assert scene.bodies(channel, queue) == [b"wanted"]


def test_ack_multiple(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *FOUR)
    for _ in range(4):
        scene.get(channel, queue, auto_ack=False)
    channel.basic_ack(2, multiple=True)
    channel.close()
    assert scene.bodies(scene.connections[0].channel(), queue) == FOUR[2:]


def test_ack_of_tag_zero_means_all(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *FOUR)
    for _ in range(4):
        scene.get(channel, queue, auto_ack=False)
    channel.basic_ack(0, multiple=True)
    channel.basic_ack(0, multiple=True)
    channel.close()
    assert scene.bodies(scene.connections[0].channel(), queue) == []


def test_a_closed_channel_gives_its_messages_back(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *FOUR)
    other = scene.connections[0].channel()
    received = scene.consumer(other, queue)
    scene.wait(other.connection, lambda: len(received) == 4, "four messages")
    other.basic_ack(2)
    other.close()
    again = [scene.get(channel, queue) for _ in range(3)]
    assert [m.body for m in again if m] == [b"1", b"3", b"4"]
    assert all(m.method.redelivered for m in again if m)


def test_a_lost_connection_gives_its_messages_back(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *FOUR)
    other = scene.channel()
    received = scene.consumer(other, queue)
    scene.wait(other.connection, lambda: len(received) == 4, "four messages")
    scene.lose(other.connection)
    mine = scene.consumer(channel, queue, auto_ack=True)
    scene.wait(channel.connection, lambda: len(mine) == 4, "the messages again")
    assert [m.body for m in mine] == FOUR
    assert all(m.method.redelivered for m in mine)


@pytest.mark.parametrize("prefetch", [1, 3])
def test_prefetch_bounds_what_is_outstanding(
    scene: Scene, channel: BlockingChannel, prefetch: int
) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *[b"x"] * 10)
    channel.basic_qos(prefetch_count=prefetch)
    received = scene.consumer(channel, queue)
    scene.wait(channel.connection, lambda: len(received) == prefetch, "the window")
    scene.settle(channel.connection)
    assert len(received) == prefetch
    channel.basic_ack(prefetch, multiple=True)
    scene.wait(channel.connection, lambda: len(received) == 2 * prefetch, "the next window")
    scene.settle(channel.connection)
    assert len(received) == 2 * prefetch


def test_each_consumer_has_a_window_of_its_own(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *[b"x"] * 10)
    channel.basic_qos(prefetch_count=2)
    first = scene.consumer(channel, queue)
    channel.basic_qos(prefetch_count=3)
    second = scene.consumer(channel, queue)
    scene.wait(channel.connection, lambda: len(first) + len(second) == 5, "both windows")
    scene.settle(channel.connection)
    assert (len(first), len(second)) == (2, 3)


def test_a_global_window_is_shared(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    channel.basic_qos(prefetch_count=3, global_qos=True)
    first = scene.consumer(channel, queue)
    second = scene.consumer(channel, queue)
    scene.fill(channel, queue, *[b"x"] * 10)
    scene.wait(channel.connection, lambda: len(first) + len(second) >= 3, "the window")
    scene.settle(channel.connection)
    assert len(first) + len(second) == 3


def test_prefetch_does_not_bind_automatic_acks(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *[b"x"] * 10)
    channel.basic_qos(prefetch_count=1)
    received = scene.consumer(channel, queue, auto_ack=True)
    scene.wait(channel.connection, lambda: len(received) == 10, "all of them")


def test_consumers_take_turns(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    ours = [scene.consumer(channel, queue, auto_ack=True) for _ in range(3)]
    scene.fill(channel, queue, *[b"x"] * 30)
    scene.wait(channel.connection, lambda: sum(map(len, ours)) == 30, "all of them")
    assert [len(received) for received in ours] == [10, 10, 10]


def test_recover_delivers_again(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *FOUR)
    received = scene.consumer(channel, queue)
    scene.wait(channel.connection, lambda: len(received) == 4, "four messages")
    channel.basic_recover(requeue=True)
    scene.wait(channel.connection, lambda: len(received) == 8, "the same again")
    assert [m.body for m in received[4:]] == FOUR
    assert all(m.method.redelivered for m in received[4:])
    assert [m.method.delivery_tag for m in received] == list(range(1, 9))


def test_cancelled_consumer_may_still_ack(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, b"1", b"2")
    received = scene.consumer(channel, queue, consumer_tag="gone")
    scene.wait(channel.connection, lambda: len(received) == 2, "two messages")
    channel.basic_cancel("gone")
    channel.basic_ack(1)
    channel.close()
    message = scene.get(scene.connections[0].channel(), queue)
    assert message is not None
    assert (message.body, message.method.redelivered) == (b"2", True)


def test_get_counts_what_is_left(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    assert scene.get(channel, queue) is None
    scene.fill(channel, queue, b"1", b"2", b"3")
    taken = [scene.get(channel, queue, auto_ack=False) for _ in range(3)]
    assert [m.method.message_count for m in taken if m] == [2, 1, 0]
    assert [m.method.delivery_tag for m in taken if m] == [1, 2, 3]
    assert {(m.method.exchange, m.method.routing_key) for m in taken if m} == {("", queue)}
    assert scene.get(channel, queue) is None


def test_get_and_consume_share_the_tags(scene: Scene, channel: BlockingChannel) -> None:
    queue, other = scene.queue(channel), scene.queue(channel)
    scene.fill(channel, queue, b"1")
    scene.fill(channel, other, b"2")
    message = scene.get(channel, queue, auto_ack=False)
    assert message is not None
    received = scene.consumer(channel, other)
    scene.wait(channel.connection, lambda: received, "the other message")
    assert (message.method.delivery_tag, received[0].method.delivery_tag) == (1, 2)
    channel.basic_ack(2, multiple=True)


def test_unacknowledged_are_not_counted_as_ready(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, *FOUR)
    scene.get(channel, queue, auto_ack=False)
    declared = channel.queue_declare(queue, passive=True).method
    assert (declared.message_count, declared.consumer_count) == (3, 0)
    scene.consumer(channel, queue)
    declared = channel.queue_declare(queue, passive=True).method
    assert (declared.message_count, declared.consumer_count) == (0, 1)


def test_work_goes_on_after_a_slow_consumer(
    scene: Scene, connection: pika.BlockingConnection
) -> None:
    """With a window of one each, the consumer that does not ack gets no second message."""
    slow, quick = connection.channel(), connection.channel()
    queue = scene.queue(slow)
    for channel in (slow, quick):
        channel.basic_qos(prefetch_count=1)
    held = scene.consumer(slow, queue)
    done: list[bytes] = []

    def on_message(_: object, method: pika.spec.Basic.Deliver, _p: object, body: bytes) -> None:
        done.append(body)
        quick.basic_ack(method.delivery_tag)

    quick.basic_consume(queue, on_message)
    scene.fill(slow, queue, *[b"x"] * 10)
    scene.wait(connection, lambda: len(done) == 9, "nine by the quick one")
    assert len(held) == 1
