"""Publish, consume, get, confirm, return, acknowledge: the daily work."""

from __future__ import annotations

import asyncio
import datetime
import os
from typing import TYPE_CHECKING, Any

import aio_pika
import aiormq
import pytest
from aio_pika.exceptions import DeliveryError, QueueEmpty

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

    from compat.aio_pika_scenarios.conftest import Scene

pytestmark = pytest.mark.anyio


async def test_publish_and_iterate(scene: Scene, channel: AbstractChannel) -> None:
    queue = await scene.queue(channel)
    await channel.set_qos(prefetch_count=10)
    sent = [f"message {n}".encode() for n in range(100)]
    await scene.fill(channel, queue, *sent)
    received = []
    async with queue.iterator(timeout=scene.patience) as messages:
        async for message in messages:
            async with message.process():
                received.append(message.body)
            if len(received) == len(sent):
                break
    assert received == sent
    assert await queue.get(fail=False) is None


async def test_every_property_comes_back(scene: Scene, channel: AbstractChannel) -> None:
    queue = await scene.queue(channel)
    when = datetime.datetime(2024, 2, 29, 12, 30, 15, tzinfo=datetime.UTC)
    sent: dict[str, Any] = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"key": "value"},
        "delivery_mode": aio_pika.DeliveryMode.PERSISTENT,
        "priority": 4,
        "correlation_id": "correlation",
        "reply_to": "somewhere",
        "expiration": 60,
        "message_id": "id-1",
        "timestamp": when,
        "type": "kind",
        "user_id": scene.url.user or "guest",
        "app_id": "scenario",
    }
    await channel.default_exchange.publish(aio_pika.Message(b"x", **sent), queue.name)
    message = await queue.get(no_ack=True)
    assert {key: getattr(message, key) for key in sent} == sent


async def test_header_fields_of_every_type(scene: Scene, channel: AbstractChannel) -> None:
    queue = await scene.queue(channel)
    headers = {
        "true": True,
        "false": False,
        "int8": -7,
        "int16": 1000,
        "int32": 100_000,
        "int64": 2**40,
        "lowest": -(2**63),
        "float": 0.5,
        "text": "grün €",
        "empty": "",
        "bytes": bytearray(b"\x00\xff\x80"),
        "time": datetime.datetime(2024, 2, 29, 12, 30, 15, tzinfo=datetime.timezone.utc),  # noqa: UP017
        "none": None,
        "array": [1, "two", None, [3.5], {"four": 4}],
        "no items": [],
        "table": {"inner": {"deep": [True]}},
        "no fields": {},
    }
    await channel.default_exchange.publish(aio_pika.Message(b"x", headers=headers), queue.name)
    message = await queue.get(no_ack=True)
    assert message.headers == headers


@pytest.mark.parametrize("size", [0, 131064, 131065, 10 << 20])
async def test_body_of_size(scene: Scene, channel: AbstractChannel, size: int) -> None:
    queue = await scene.queue(channel)
    body = os.urandom(size)
    await scene.fill(channel, queue, body)
    assert (await queue.get(no_ack=True)).body == body


async def test_concurrent_publishes_are_confirmed_one_by_one(
    scene: Scene, channel: AbstractChannel
) -> None:
    queue = await scene.queue(channel)
    exchange = channel.default_exchange
    bodies = [str(n).encode() for n in range(500)]
    confirms = await asyncio.gather(
        *(exchange.publish(aio_pika.Message(body), queue.name) for body in bodies)
    )
    assert all(isinstance(c, aiormq.spec.Basic.Ack) for c in confirms)
    assert await scene.bodies(queue) == bodies


async def test_channels_in_parallel(scene: Scene, connection: AbstractConnection) -> None:
    async def work(number: int) -> list[bytes]:
        async with connection.channel() as channel:
            queue = await scene.queue(channel)
            await scene.fill(channel, queue, *[str(number).encode()] * 5)
            return await scene.bodies(queue)

    done = await asyncio.gather(*(work(n) for n in range(30)))
    assert done == [[str(n).encode()] * 5 for n in range(30)]


async def test_unroutable_raises(scene: Scene) -> None:
    """This client publishes with mandatory unless told not to."""
    channel = await scene.channel(on_return_raises=True)
    with pytest.raises(DeliveryError) as caught:
        await channel.default_exchange.publish(aio_pika.Message(b"x"), scene.name())
    returned = caught.value.message
    assert returned is not None
    assert returned.delivery.reply_code == 312
    assert returned.delivery.reply_text == "NO_ROUTE"
    await channel.default_exchange.publish(aio_pika.Message(b"x"), scene.name(), mandatory=False)


async def test_return_callback(scene: Scene, channel: AbstractChannel) -> None:
    returned: list[AbstractIncomingMessage] = []
    channel.return_callbacks.add(lambda _, message: returned.append(message))
    key = scene.name()
    await channel.default_exchange.publish(aio_pika.Message(b"back"), key)
    await scene.until(lambda: returned, "the return")
    assert (returned[0].body, returned[0].routing_key) == (b"back", key)


async def test_without_confirms(scene: Scene) -> None:
    channel = await scene.channel(publisher_confirms=False)
    queue = await scene.queue(channel)
    await scene.fill(channel, queue, b"1", b"2")
    assert await scene.bodies(queue) == [b"1", b"2"]


async def test_get_of_nothing(scene: Scene, channel: AbstractChannel) -> None:
    queue = await scene.queue(channel)
    with pytest.raises(QueueEmpty):
        await queue.get()


async def test_process_requeues_once(scene: Scene, channel: AbstractChannel) -> None:
    queue = await scene.queue(channel)
    await scene.fill(channel, queue, b"hard")
    message = await queue.get()
    assert not message.redelivered
    with pytest.raises(ValueError, match="too hard"):
        async with message.process(requeue=True):
            raise ValueError("too hard")
    message = await queue.get()
    assert message.redelivered
    with pytest.raises(ValueError, match="still"):
        async with message.process(requeue=True, reject_on_redelivered=True):
            raise ValueError("still")
    assert await queue.get(fail=False) is None


async def test_requeue_keeps_the_order(scene: Scene, channel: AbstractChannel) -> None:
    queue = await scene.queue(channel)
    await scene.fill(channel, queue, b"1", b"2", b"3")
    taken = [await queue.get() for _ in range(3)]
    await taken[2].reject(requeue=True)
    await taken[0].nack(requeue=True)
    await taken[1].nack(requeue=True)
    again = [await queue.get() for _ in range(3)]
    assert [message.body for message in again] == [b"1", b"2", b"3"]
    assert all(message.redelivered for message in again)
    await again[2].ack(multiple=True)
    assert await queue.get(fail=False) is None


async def test_prefetch(scene: Scene, channel: AbstractChannel) -> None:
    queue = await scene.queue(channel)
    await scene.fill(channel, queue, *[b"x"] * 10)
    await channel.set_qos(prefetch_count=3)
    held: list[AbstractIncomingMessage] = []

    async def hold(message: AbstractIncomingMessage) -> None:
        held.append(message)

    await queue.consume(hold)
    await scene.until(lambda: len(held) == 3, "the window")
    await asyncio.sleep(0.1)
    assert len(held) == 3
    await held[-1].ack(multiple=True)
    await scene.until(lambda: len(held) == 6, "the next window")


async def test_cancel_and_consume_again(scene: Scene, channel: AbstractChannel) -> None:
    queue = await scene.queue(channel)
    received: list[bytes] = []

    async def on_message(message: AbstractIncomingMessage) -> None:
        async with message.process():
            received.append(message.body)

    for round_number in range(3):
        tag = await queue.consume(on_message)
        await scene.fill(channel, queue, str(round_number).encode())
        await scene.until(lambda n=round_number: len(received) == n + 1, "the message")
        await queue.cancel(tag)
    assert received == [b"0", b"1", b"2"]


async def test_two_tasks_publish_on_one_channel(scene: Scene, channel: AbstractChannel) -> None:
    """Contents of several frames never interleave, whoever sends them."""
    queues = [await scene.queue(channel) for _ in range(2)]
    bodies = [bytes([n]) * 300_000 for n in range(10)]
    await asyncio.gather(*(scene.fill(channel, queue, *bodies) for queue in queues))
    for queue in queues:
        assert await scene.bodies(queue) == bodies
