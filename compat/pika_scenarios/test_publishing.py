"""Publisher confirms and mandatory messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions
import pytest

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from compat.pika_scenarios.conftest import Scene


def test_confirmed_publishes_are_in_the_queue(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    channel.confirm_delivery()
    for number in range(20):
        channel.basic_publish("", queue, str(number).encode())
    assert channel.queue_declare(queue, passive=True).method.message_count == 20


def test_every_tag_is_confirmed_once(scene: Scene, connection: pika.BlockingConnection) -> None:
    """A thousand publishes in flight: acks may be merged, but cover each tag exactly once."""
    channel = connection.channel()
    queue = scene.queue(channel)
    confirmed: list[int] = []
    implementation = channel._impl

    def on_confirm(frame: Any) -> None:
        ack = frame.method
        assert ack.NAME == "Basic.Ack"
        if not ack.multiple:
            confirmed.append(ack.delivery_tag)
        else:
            known = set(confirmed)
            confirmed.extend(t for t in range(1, ack.delivery_tag + 1) if t not in known)

    implementation.confirm_delivery(on_confirm, callback=lambda _: None)
    for number in range(1000):
        implementation.basic_publish("", queue, str(number).encode())
    scene.wait(connection, lambda: len(confirmed) >= 1000, "1000 confirms")
    assert sorted(confirmed) == list(range(1, 1001))
    assert channel.queue_declare(queue, passive=True).method.message_count == 1000


def test_unroutable_is_dropped_and_confirmed(scene: Scene, channel: BlockingChannel) -> None:
    channel.confirm_delivery()
    channel.basic_publish("", scene.name(), b"nowhere")
    channel.basic_publish("amq.topic", scene.name(), b"nowhere")


def test_mandatory_unroutable_comes_back(scene: Scene, channel: BlockingChannel) -> None:
    channel.confirm_delivery()
    key = scene.name()
    properties = pika.BasicProperties(headers={"a": 1}, message_id="m1", delivery_mode=2)
    with pytest.raises(pika.exceptions.UnroutableError) as caught:
        channel.basic_publish("amq.direct", key, b"body", properties, mandatory=True)
    (returned,) = caught.value.messages
    method = returned.method
    assert (method.reply_code, method.reply_text) == (312, "NO_ROUTE")
    assert (method.exchange, method.routing_key) == ("amq.direct", key)
    assert (returned.body, returned.properties) == (b"body", properties)


def test_mandatory_without_confirms(scene: Scene, channel: BlockingChannel) -> None:
    returned: list[bytes] = []
    channel.add_on_return_callback(lambda _c, _m, _p, body: returned.append(body))
    for body in (b"one", b"", b"three" * 50_000):
        channel.basic_publish("", scene.name(), body, mandatory=True)
    scene.wait(channel.connection, lambda: len(returned) == 3, "three returns")
    assert returned == [b"one", b"", b"three" * 50_000]


def test_the_return_precedes_its_confirm(scene: Scene, connection: pika.BlockingConnection) -> None:
    channel = connection.channel()
    events: list[str] = []
    implementation = channel._impl
    implementation.add_on_return_callback(lambda *_: events.append("return"))
    implementation.confirm_delivery(
        lambda frame: events.append(frame.method.NAME), callback=lambda _: None
    )
    implementation.basic_publish("", scene.name(), b"x", mandatory=True)
    scene.wait(connection, lambda: "Basic.Ack" in events, "the confirm")
    assert events == ["return", "Basic.Ack"]


def test_mandatory_routable_is_not_returned(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"kept", mandatory=True)
    assert scene.bodies(channel, queue) == [b"kept"]


def test_publish_order_over_two_queues(scene: Scene, channel: BlockingChannel) -> None:
    """One channel's messages to several queues keep their order in each of them."""
    exchange = scene.exchange(channel, "fanout")
    queues = [scene.queue(channel) for _ in range(2)]
    for queue in queues:
        channel.queue_bind(queue, exchange)
    sent = [str(n).encode() for n in range(50)]
    for body in sent:
        channel.basic_publish(exchange, "", body)
    for queue in queues:
        assert scene.bodies(channel, queue) == sent
