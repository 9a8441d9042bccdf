"""The client's own patterns, and direct reply-to by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aio_pika
import pytest
from aio_pika.patterns import RPC, Master

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

    from compat.aio_pika_scenarios.conftest import Scene

pytestmark = pytest.mark.anyio
REPLY_TO = "amq.rabbitmq.reply-to"


async def test_rpc_pattern(scene: Scene, connection: AbstractConnection) -> None:
    """It uses an exclusive reply queue, a headers exchange as dead letter exchange, and expiry."""
    server = await RPC.create(await connection.channel())
    client = await RPC.create(await (await scene.connect()).channel())
    method = scene.name()

    async def double(*, number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return number * 2

    await server.register(method, double, auto_delete=True)
    answers = await asyncio.gather(*(client.call(method, kwargs={"number": n}) for n in range(20)))
    assert answers == [n * 2 for n in range(20)]
    with pytest.raises(ValueError, match="negative"):
        await client.call(method, kwargs={"number": -1})
    await server.unregister(double)
    await client.close()
    await server.close()


async def test_master_and_workers(scene: Scene, connection: AbstractConnection) -> None:
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=1)
    master = Master(channel)
    done: list[int] = []
    name = scene.name()

    async def work(*, task_id: int) -> None:
        done.append(task_id)

    worker = await master.create_worker(name, work, auto_delete=True)
    for number in range(20):
        await master.create_task(name, kwargs={"task_id": number})
    await scene.until(lambda: len(done) == 20, "the work")
    assert done == list(range(20))
    await worker.close()


async def test_direct_reply_to(scene: Scene, connection: AbstractConnection) -> None:
    server = await connection.channel()
    requests = await scene.queue(server)

    async def answer(message: AbstractIncomingMessage) -> None:
        async with message.process():
            reply = aio_pika.Message(message.body.upper(), correlation_id=message.correlation_id)
            assert message.reply_to
            await server.default_exchange.publish(reply, message.reply_to, mandatory=False)

    await requests.consume(answer)
    client = await (await scene.connect()).channel()
    replies: asyncio.Queue[Any] = asyncio.Queue()
    callback_queue = await client.get_queue(REPLY_TO, ensure=False)
    await callback_queue.consume(replies.put, no_ack=True)
    for number in range(5):
        request = aio_pika.Message(b"call", reply_to=REPLY_TO, correlation_id=str(number))
        await client.default_exchange.publish(request, requests.name)
    received = [await asyncio.wait_for(replies.get(), 5) for _ in range(5)]
    assert [message.correlation_id for message in received] == list("01234")
    assert {message.body for message in received} == {b"CALL"}


async def test_reply_queue(scene: Scene, channel: AbstractChannel) -> None:
    requests = await scene.queue(channel)
    mine = await channel.declare_queue(exclusive=True)
    request = aio_pika.Message(b"call", reply_to=mine.name, correlation_id="1")
    await channel.default_exchange.publish(request, requests.name)
    call = await requests.get(no_ack=True)
    reply = aio_pika.Message(b"answer", correlation_id=call.correlation_id)
    assert call.reply_to
    await channel.default_exchange.publish(reply, call.reply_to)
    answer = await mine.get(no_ack=True)
    assert (answer.body, answer.correlation_id) == (b"answer", "1")
