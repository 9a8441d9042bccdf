"""A consumer that is written as the documentation has it goes on after its connection was cut."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions

from compat.cutting_proxy import CuttingProxy

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from compat.pika_scenarios.conftest import Scene

LAST = b"last"


def consume_for_ever(url: str, queue: str, received: set[bytes]) -> None:
    """Connect again whenever the connection is lost; until the last message."""

    def on_message(channel: BlockingChannel, method: Any, _: Any, body: bytes) -> None:
        received.add(body)
        channel.basic_ack(method.delivery_tag)
        if body == LAST:
            channel.stop_consuming()

    while LAST not in received:
        try:
            connection = pika.BlockingConnection(pika.URLParameters(url))
            channel = connection.channel()
            channel.basic_qos(prefetch_count=1)
            channel.basic_consume(queue, on_message)
            channel.start_consuming()
        except pika.exceptions.AMQPConnectionError:
            continue


def test_the_documented_loop_goes_on_after_cuts(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel, durable=True)
    received: set[bytes] = set()
    with CuttingProxy(scene.url) as proxy:
        consumer = threading.Thread(target=consume_for_ever, args=(proxy.url, queue, received))
        consumer.start()
        for body in (b"1", b"2", b"3", LAST):
            scene.fill(channel, queue, body)
            scene.wait(channel.connection, lambda body=body: body in received, "the message")
            proxy.cut()
        consumer.join(scene.patience)
    assert not consumer.is_alive()
    assert received == {b"1", b"2", b"3", LAST}
