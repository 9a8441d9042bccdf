"""The stage on which every scenario plays: connections, names nobody else has, and the tidying up.

The broker is the one at AMQP_URL. A scenario owns what it declares through `scene`, so scenarios
do not see one another, in whatever order or number they run.
"""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pika
import pika.exceptions
import pytest
from pika.adapters.blocking_connection import BlockingChannel

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Closure:
    """How the broker ended a channel or a whole connection."""

    scope: str
    code: int
    text: str


@dataclass(frozen=True)
class Message:
    """One delivery, from consume or from get."""

    method: Any
    properties: pika.BasicProperties
    body: bytes


@dataclass
class Scene:
    """One scenario's connections and everything it declared."""

    patience: ClassVar[float] = PATIENCE_SECONDS
    url: str
    connections: list[pika.BlockingConnection] = field(default_factory=list)
    queues: list[str] = field(default_factory=list)
    exchanges: list[str] = field(default_factory=list)
    server_properties: dict[str, Any] = field(default_factory=dict)

    def parameters(self, **changes: Any) -> pika.ConnectionParameters:
        """The URL's parameters with these attributes set."""
        parameters = pika.URLParameters(self.url)
        parameters.blocked_connection_timeout = PATIENCE_SECONDS
        parameters.socket_timeout = parameters.stack_timeout = PATIENCE_SECONDS
        for key, value in changes.items():
            setattr(parameters, key, value)
        return parameters

    def connect(self, **changes: Any) -> pika.BlockingConnection:
        """One more connection, closed at the end."""
        connection = pika.BlockingConnection(self.parameters(**changes))
        self.connections.append(connection)
        self.server_properties = dict(connection._impl.server_properties)
        return connection

    def channel(self, **changes: Any) -> BlockingChannel:
        """A channel on a connection of its own."""
        return self.connect(**changes).channel()

    @property
    def vhost(self) -> str:
        """The virtual host, as the broker's error texts name it."""
        return str(pika.URLParameters(self.url).virtual_host)

    def version(self) -> tuple[int, ...]:
        """The broker's version: some texts and codes changed with 3.12 and 3.13."""
        numbers = re.match(r"\d+(\.\d+)*", self.server_properties["version"])
        assert numbers
        return tuple(int(part) for part in numbers[0].split("."))

    def name(self) -> str:
        """A name nothing else has."""
        return f"scenario-{uuid.uuid4().hex}"

    def queue(self, channel: BlockingChannel, **options: Any) -> str:
        """Declare a queue of a new name, or the one given as `queue`; deleted at the end."""
        name = options.pop("queue", None) or self.name()
        self.queues.append(name)
        channel.queue_declare(name, **options)
        return name

    def exchange(self, channel: BlockingChannel, kind: str, **options: Any) -> str:
        """Declare an exchange of a new name; deleted at the end."""
        name = self.name()
        self.exchanges.append(name)
        channel.exchange_declare(name, kind, **options)
        return name

    def fill(self, channel: BlockingChannel, queue: str, *bodies: bytes) -> None:
        """Publish these bodies to the queue and wait until they are in it."""
        publisher = self.connections[0].channel()
        publisher.confirm_delivery()
        for body in bodies:
            publisher.basic_publish("", queue, body)
        publisher.close()

    def bodies(self, channel: BlockingChannel, queue: str) -> list[bytes]:
        """Take all that is ready in the queue."""
        taken = []
        while (message := self.get(channel, queue)) is not None:
            taken.append(message.body)
        return taken

    def get(self, channel: BlockingChannel, queue: str, auto_ack: bool = True) -> Message | None:
        """basic.get: a message or None."""
        method, properties, body = channel.basic_get(queue, auto_ack=auto_ack)
        return None if method is None else Message(method, properties, body)

    def consumer(self, channel: BlockingChannel, queue: str, **options: Any) -> list[Message]:
        """Start a consumer; the list grows while events are processed."""
        received: list[Message] = []

        def on_message(_: Any, method: Any, properties: Any, body: bytes) -> None:
            received.append(Message(method, properties, body))

        channel.basic_consume(queue, on_message, **options)
        return received

    def wait(
        self, connection: pika.BlockingConnection, done: Callable[[], object], what: str
    ) -> None:
        """Process events until this holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            connection.process_data_events(time_limit=0.02)

    def settle(self, connection: pika.BlockingConnection, seconds: float = 0.15) -> None:
        """Process events for a moment, to see that nothing more comes."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            connection.process_data_events(time_limit=0.02)

    def lose(self, connection: pika.BlockingConnection) -> None:
        """Cut a connection without a goodbye."""
        connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            self.wait(connection, lambda: False, "the end of the connection")

    def refused(self, call: Callable[[], object]) -> Closure:
        """Run what the broker refuses, and tell how it did."""
        with pytest.raises(pika.exceptions.AMQPError) as caught:
            call()
        error = caught.value
        if isinstance(error, pika.exceptions.ChannelClosedByBroker):
            return Closure("channel", error.reply_code, error.reply_text)
        if isinstance(error, pika.exceptions.ConnectionClosedByBroker):
            return Closure("connection", error.reply_code, error.reply_text)
        raise error

    def end(self) -> None:
        """Delete what was declared, by a connection that is left if there is one; close them."""
        left = [connection for connection in self.connections if connection.is_open]
        for connection in left[1:]:
            connection.close()
        if self.queues or self.exchanges:
            tidy = left[0] if left else self.connect()
            channel = tidy.channel()
            for queue in self.queues:
                channel.queue_delete(queue)
            for exchange in self.exchanges:
                channel.exchange_delete(exchange)
            tidy.close()
        elif left:
            left[0].close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A scenario's own stage on the broker at AMQP_URL."""
    url = os.environ.get("AMQP_URL")
    if not url:
        pytest.skip("AMQP_URL names no broker")
    scene = Scene(url)
    yield scene
    scene.end()


@pytest.fixture
def connection(scene: Scene) -> pika.BlockingConnection:
    """The connection most scenarios need."""
    return scene.connect()


@pytest.fixture
def channel(connection: pika.BlockingConnection) -> BlockingChannel:
    """A channel on it."""
    return connection.channel()
