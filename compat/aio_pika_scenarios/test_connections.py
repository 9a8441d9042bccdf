"""Refusals at the door, secrets, heartbeats, and connections that come back by themselves."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import TYPE_CHECKING

import aio_pika
import pytest
from aio_pika.exceptions import AMQPError, ProbableAuthenticationError
from yarl import URL

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

    from compat.aio_pika_scenarios.conftest import Scene

pytestmark = pytest.mark.anyio
HEARTBEAT_SECONDS = 4
"""The broker gives a client up after two of them: long enough for a machine that has much to do."""


async def test_missing_virtual_host(scene: Scene) -> None:
    """The client hides the text: it says that it had expected another method."""
    with pytest.raises(AMQPError):
        await scene.connect(scene.url.with_path("/" + scene.name()))


async def test_wrong_password(scene: Scene) -> None:
    with pytest.raises(ProbableAuthenticationError) as caught:
        await scene.connect(scene.url.with_password("wrong"))
    assert "Login was refused using authentication mechanism PLAIN" in str(caught.value)


async def test_update_secret(scene: Scene, connection: AbstractConnection) -> None:
    await connection.update_secret(scene.url.password or "guest", reason="it was time")
    assert await connection.channel()


async def test_heartbeats(scene: Scene) -> None:
    connection = await scene.connect(scene.url.update_query(heartbeat=str(HEARTBEAT_SECONDS)))
    channel = await connection.channel()
    await asyncio.sleep(3.2 * HEARTBEAT_SECONDS)
    await scene.queue(channel)
    assert not connection.is_closed


async def test_a_robust_consumer_comes_back(scene: Scene) -> None:
    """Queue, binding, qos and consumer are restored, and what was unacknowledged comes again."""
    proxy, url = await scene.proxy()
    robust = await aio_pika.connect_robust(url.update_query(reconnect_interval="0.1"))
    scene.connections.append(robust)
    channel = await robust.channel()
    await channel.set_qos(prefetch_count=2)
    exchange = await scene.exchange(channel, "topic")
    queue = await scene.queue(channel)
    await queue.bind(exchange, "a.#")
    received: list[AbstractIncomingMessage] = []

    async def on_message(message: AbstractIncomingMessage) -> None:
        received.append(message)
        if message.body != b"held":
            await message.ack()

    await queue.consume(on_message)
    publisher = await scene.channel()
    target = await publisher.get_exchange(exchange.name)
    await target.publish(aio_pika.Message(b"before"), "a.b")
    await target.publish(aio_pika.Message(b"held"), "a.b")
    await scene.until(lambda: len(received) == 2, "the first messages")
    proxy.cut()
    await scene.until(lambda: len(received) == 3, "the held message again")
    assert (received[2].body, received[2].redelivered) == (b"held", True)
    await robust.ready()
    await target.publish(aio_pika.Message(b"after"), "a.c")
    await scene.until(lambda: len(received) == 4, "a message after the cut")
    assert received[3].body == b"after"


async def test_a_robust_publisher_comes_back(scene: Scene) -> None:
    """An exclusive queue goes with the connection and is declared again with the next one."""
    proxy, url = await scene.proxy()
    robust = await aio_pika.connect_robust(url.update_query(reconnect_interval="0.1"))
    scene.connections.append(robust)
    channel = await robust.channel()
    name = scene.name()
    queue = await channel.declare_queue(name, exclusive=True)
    await scene.fill(channel, queue, b"lost with the queue")
    for round_number in range(2):
        reconnected = asyncio.Event()
        robust.reconnect_callbacks.add(lambda *_, e=reconnected: e.set())
        proxy.cut()
        await asyncio.wait_for(reconnected.wait(), scene.patience)
        await channel.ready()
        body = str(round_number).encode()
        await scene.fill(channel, queue, body)
        assert await scene.bodies(queue) == [body]


async def test_closing_with_work_in_hand(scene: Scene) -> None:
    """Closing a connection gives its unacknowledged messages back at once."""
    channel = await scene.channel()
    queue = await scene.queue(channel)
    await scene.fill(channel, queue, b"1", b"2")
    other = await scene.connect()
    same = await (await other.channel()).get_queue(queue.name)
    assert (await same.get()).body == b"1"
    await other.close()
    message = await queue.get(no_ack=True)
    assert (message.body, message.redelivered) == (b"1", True)


async def test_twenty_connections(scene: Scene) -> None:
    connections = await asyncio.gather(*(scene.connect() for _ in range(20)))
    channels = await asyncio.gather(*(connection.channel() for connection in connections))
    queue = await scene.queue(channels[0])
    await asyncio.gather(
        *(scene.fill(channel, queue, str(n).encode()) for n, channel in enumerate(channels))
    )
    assert sorted(map(int, await scene.bodies(queue))) == list(range(20))


async def test_tls(scene: Scene) -> None:
    trusting = ssl.create_default_context(cafile=os.environ["CERTIFICATES"] + "/ca.pem")
    secure = await scene.connect(URL(os.environ["AMQPS_URL"]), ssl_context=trusting)
    channel = await secure.channel()
    queue = await scene.queue(channel)
    body = os.urandom(1 << 20)
    await scene.fill(channel, queue, body)
    assert await scene.bodies(queue) == [body]


async def test_tls_with_an_authority_that_is_not_trusted(scene: Scene) -> None:
    doubting = ssl.create_default_context(cafile=os.environ["CERTIFICATES"] + "/other-ca.pem")
    with pytest.raises(ConnectionError, match="certificate"):
        await scene.connect(URL(os.environ["AMQPS_URL"]), ssl_context=doubting)
