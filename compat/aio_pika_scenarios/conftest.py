"""The stage on which every scenario plays: connections, names nobody else has, and the tidying up.

The broker is the one at AMQP_URL. The scenarios run on asyncio by anyio's pytest plug-in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractQueue
from yarl import URL

PATIENCE_SECONDS = 60.0


class Proxy:
    """A TCP proxy before the broker, to cut connections as a bad network does."""

    def __init__(self, url: URL) -> None:
        self.target = (url.host or "127.0.0.1", url.port or 5672)
        self.server: asyncio.Server | None = None
        self.writers: set[asyncio.StreamWriter] = set()
        self.pumps: set[asyncio.Task[None]] = set()

    async def start(self) -> tuple[str, int]:
        """Listen; the address."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self.server.sockets[0].getsockname()
        return host, port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(*self.target)
        self.writers |= {writer, back_writer}
        for pair in ((reader, back_writer), (back_reader, writer)):
            task = asyncio.create_task(self._pump(*pair))
            self.pumps.add(task)
            task.add_done_callback(self.pumps.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while octets := await reader.read(65536):
                writer.write(octets)
                await writer.drain()
        self.writers.discard(writer)
        writer.close()

    def cut(self) -> None:
        """Drop every connection; new ones are let through."""
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def stop(self) -> None:
        """Cut, and listen no more."""
        if self.server:
            self.server.close()
        self.cut()
        await asyncio.gather(*self.pumps, return_exceptions=True)


class Scene:
    """One scenario's connections and everything it declared."""

    patience = PATIENCE_SECONDS

    def __init__(self, url: str) -> None:
        self.url = URL(url)
        self.connections: list[AbstractConnection] = []
        self.queues: list[str] = []
        self.exchanges: list[str] = []
        self.proxies: list[Proxy] = []

    async def connect(self, url: URL | None = None, **options: Any) -> AbstractConnection:
        """One more connection, closed at the end."""
        connection = await aio_pika.connect(url or self.url, timeout=PATIENCE_SECONDS, **options)
        self.connections.append(connection)
        return connection

    async def channel(self, **options: Any) -> AbstractChannel:
        """A channel on a connection of its own."""
        return await (await self.connect()).channel(**options)

    async def proxy(self) -> tuple[Proxy, URL]:
        """A proxy before the broker, and the URL by way of it."""
        proxy = Proxy(self.url)
        self.proxies.append(proxy)
        host, port = await proxy.start()
        return proxy, self.url.with_host(host).with_port(port)

    @property
    def vhost(self) -> str:
        """The virtual host, as the broker's error texts name it."""
        return self.url.path[1:] or "/"

    def name(self) -> str:
        """A name nothing else has."""
        return f"scenario-{uuid.uuid4().hex}"

    async def queue(self, channel: AbstractChannel, **options: Any) -> AbstractQueue:
        """Declare a queue of a new name; deleted at the end."""
        name = self.name()
        self.queues.append(name)
        return await channel.declare_queue(name, **options)

    async def exchange(
        self, channel: AbstractChannel, kind: str, **options: Any
    ) -> AbstractExchange:
        """Declare an exchange of a new name; deleted at the end."""
        name = self.name()
        self.exchanges.append(name)
        return await channel.declare_exchange(name, kind, **options)

    async def fill(self, channel: AbstractChannel, queue: AbstractQueue, *bodies: bytes) -> None:
        """Publish these bodies to the queue."""
        for body in bodies:
            await channel.default_exchange.publish(aio_pika.Message(body), queue.name)

    async def bodies(self, queue: AbstractQueue) -> list[bytes]:
        """Take all that is ready in the queue."""
        taken = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            taken.append(message.body)
        return taken

    async def until(self, done: Callable[[], object], what: str) -> None:
        """Wait until this holds."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not done():
            assert asyncio.get_running_loop().time() < deadline, f"waited in vain for {what}"
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        """Delete what was declared, then close what is open."""
        for connection in self.connections:
            await connection.close()
        for proxy in self.proxies:
            await proxy.stop()
        if self.queues or self.exchanges:
            async with await aio_pika.connect(self.url) as connection:
                channel = await connection.channel()
                for queue in self.queues:
                    await channel.queue_delete(queue)
                for exchange in self.exchanges:
                    await channel.exchange_delete(exchange)


@pytest.fixture
def anyio_backend() -> str:
    """The client is made for asyncio."""
    return "asyncio"


@pytest.fixture
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    """A scenario's own stage on the broker at AMQP_URL."""
    url = os.environ.get("AMQP_URL")
    if not url:
        pytest.skip("AMQP_URL names no broker")
    scene = Scene(url)
    yield scene
    await scene.end()


@pytest.fixture
async def connection(scene: Scene) -> AbstractConnection:
    """The connection most scenarios need."""
    return await scene.connect()


@pytest.fixture
async def channel(connection: AbstractConnection) -> AbstractChannel:
    """A channel on it, with confirms, as the client opens them."""
    return await connection.channel()
