"""Queues: names, life times, counts, and the consumer that is told its queue has gone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pika.exceptions
from pika import spec

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from compat.pika_scenarios.conftest import Scene


def exists(scene: Scene, queue: str) -> bool:
    """Asked on a channel of its own, since a 'no' closes the channel."""
    channel = scene.connections[0].channel()
    try:
        channel.queue_declare(queue, passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    channel.close()
    return True


def test_the_broker_names_a_queue(scene: Scene, channel: BlockingChannel) -> None:
    first = channel.queue_declare("", exclusive=True).method.queue
    second = channel.queue_declare("", exclusive=True).method.queue
    assert first != second
    for name in (first, second):
        assert re.fullmatch(r"amq\.gen-[A-Za-z0-9_-]{22}", name)


def test_the_last_declared_queue_is_meant_by_an_empty_name(
    scene: Scene, channel: BlockingChannel
) -> None:
    queue = scene.queue(channel)
    channel.queue_bind("", "amq.direct", queue)
    channel.basic_publish("amq.direct", queue, b"1")
    channel.basic_publish("amq.direct", queue, b"2")
    message = scene.get(channel, "")
    assert message is not None
    assert message.body == b"1"
    assert channel.queue_purge("").method.message_count == 1


def test_empty_names_of_queue_and_key_bind_by_the_queue_name(
    scene: Scene, channel: BlockingChannel
) -> None:
    queue = scene.queue(channel)
    channel.queue_bind("", "amq.direct", "")
    channel.basic_publish("amq.direct", queue, b"here")
    assert scene.bodies(channel, queue) == [b"here"]


def test_exclusive_queue_ends_with_its_connection(scene: Scene, channel: BlockingChannel) -> None:
    owner = scene.channel()
    queue = scene.queue(owner, exclusive=True)
    scene.fill(owner, queue, b"published from elsewhere")
    assert scene.bodies(owner, queue) == [b"published from elsewhere"]
    owner.connection.close()
    assert not exists(scene, queue)


def test_exclusive_queue_survives_its_channel(
    scene: Scene, connection: pika.BlockingConnection
) -> None:
    channel = connection.channel()
    queue = scene.queue(channel, exclusive=True)
    channel.close()
    assert exists(scene, queue)


def test_auto_delete_queue_ends_with_its_last_consumer(
    scene: Scene, channel: BlockingChannel
) -> None:
    queue = scene.queue(channel, auto_delete=True)
    assert scene.get(channel, queue) is None
    channel.basic_consume(queue, lambda *_: None, consumer_tag="one")
    other = scene.connections[0].channel()
    other.basic_consume(queue, lambda *_: None, consumer_tag="two")
    channel.basic_cancel("one")
    assert exists(scene, queue)
    other.close()
    assert not exists(scene, queue)


def test_auto_delete_queue_without_a_consumer_stays(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel, auto_delete=True)
    channel.close()
    assert exists(scene, queue)


def test_declaring_again_tells_the_counts(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel, durable=True)
    scene.fill(channel, queue, b"1", b"2")
    declared = channel.queue_declare(queue, durable=True).method
    assert (declared.queue, declared.message_count, declared.consumer_count) == (queue, 2, 0)


def test_equal_integers_of_other_widths_are_equal_arguments(
    scene: Scene, channel: BlockingChannel
) -> None:
    """The client picks the width by the value; what counts is the number."""
    queue = scene.queue(channel, arguments={"x-expires": 60_000, "x-unknown": "a"})
    channel.queue_declare(queue, arguments={"x-expires": 60_000, "x-unknown": "b"})


def test_purge_and_delete_tell_how_many_they_removed(
    scene: Scene, channel: BlockingChannel
) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, b"1", b"2", b"3")
    held = scene.get(channel, queue, auto_ack=False)
    assert held is not None
    assert channel.queue_purge(queue).method.message_count == 2
    channel.basic_nack(held.method.delivery_tag, requeue=True)
    assert channel.queue_delete(queue).method.message_count == 1
    assert channel.queue_delete(queue).method.message_count == 0


def test_delete_if_unused_and_if_empty(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    channel.queue_delete(queue, if_unused=True, if_empty=True)
    assert not exists(scene, queue)


def test_deleting_a_queue_cancels_its_consumers(
    scene: Scene, connection: pika.BlockingConnection
) -> None:
    channel, other = connection.channel(), connection.channel()
    queue = scene.queue(channel)
    cancelled: list[Any] = []
    channel.add_on_cancel_callback(cancelled.append)
    channel.basic_consume(queue, lambda *_: None, consumer_tag="told")
    other.queue_delete(queue)
    scene.wait(connection, lambda: cancelled, "basic.cancel")
    (frame,) = cancelled
    assert (frame.method.NAME, frame.method.consumer_tag) == ("Basic.Cancel", "told")
    assert frame.method.nowait
    assert channel.is_open


def test_cancel_of_an_unknown_consumer(scene: Scene, channel: BlockingChannel) -> None:
    implementation = channel._impl
    answered: list[str] = []
    implementation._rpc(
        spec.Basic.Cancel(consumer_tag="nobody"),
        lambda frame: answered.append(frame.method.consumer_tag),
        [spec.Basic.CancelOk],
    )
    scene.wait(channel.connection, lambda: answered, "cancel-ok")
    assert answered == ["nobody"]


def test_the_broker_names_a_consumer(scene: Scene, channel: BlockingChannel) -> None:
    """The client always names its consumers, so the empty tag is sent past it."""
    queue = scene.queue(channel)
    answered: list[str] = []
    channel._impl._rpc(
        spec.Basic.Consume(queue=queue, consumer_tag=""),
        lambda frame: answered.append(frame.method.consumer_tag),
        [spec.Basic.ConsumeOk],
    )
    scene.wait(channel.connection, lambda: answered, "consume-ok")
    assert re.fullmatch(r"amq\.ctag-[A-Za-z0-9_-]{22}", answered[0])
    channel.close()
