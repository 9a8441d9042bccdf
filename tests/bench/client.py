"""A blocking connection with one channel: enough AMQP to declare, bind, consume and ask.

Used outside of what is timed, and by the workloads that time these very requests. It answers no
heartbeats: it asks for none.
"""

from __future__ import annotations

import socket
import struct
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench import sockets, wire
from tests.bench.sockets import REPLY_SECONDS


@dataclass(frozen=True)
class Address:
    """Where a broker is, and who we are there."""

    host: str
    port: int
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"

    @classmethod
    def of(cls, url: str) -> Address:
        """From amqp://user:password@host:port/vhost; what is missing is RabbitMQ's default."""
        parts = urllib.parse.urlsplit(url)
        unquote = urllib.parse.unquote
        return cls(
            parts.hostname or "127.0.0.1",
            parts.port or 5672,
            unquote(parts.username or "guest"),
            unquote(parts.password or "guest"),
            unquote(parts.path[1:]) or "/",
        )


class Connection:
    """An open connection with channel 1 open."""

    def __init__(self, address: Address, *, channel: bool = True, is_awake: bool = False) -> None:
        """`is_awake`: it looks for replies, and does not sleep while it waits."""
        self.sock = socket.create_connection((address.host, address.port), REPLY_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self._receive = sockets.receive
        if is_awake:
            sockets.make_hot(self.sock)
            self._receive = sockets.receive_awake
        self.server_properties = b""
        self._handshake(address)
        if channel:
            self.call(wire.CHANNEL_OPEN, b"\x00", wire.CHANNEL_OPEN_OK)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _handshake(self, address: Address) -> None:
        self.sock.sendall(wire.PROTOCOL_HEADER)
        self.server_properties = self.expect(wire.CONNECTION_START)
        login = f"\x00{address.user}\x00{address.password}".encode()
        capabilities = wire.table({"product": "amqpd bench"})
        arguments = capabilities + wire.short("PLAIN") + wire.long(login) + wire.short("en_US")
        self.sock.sendall(wire.method(0, wire.CONNECTION_START_OK, arguments))
        channel_max, frame_max, _ = struct.unpack_from(">HIH", self.expect(wire.CONNECTION_TUNE), 4)
        if 0 < frame_max < wire.FRAME_MAX:
            raise wire.ProtocolError(f"frame_max {frame_max}: figures need {wire.FRAME_MAX}")
        tune = struct.pack(">HIH", channel_max, wire.FRAME_MAX, 0)
        opening = wire.short(address.vhost) + b"\x00\x00"
        self.sock.sendall(
            wire.method(0, wire.CONNECTION_TUNE_OK, tune)
            + wire.method(0, wire.CONNECTION_OPEN, opening)
        )
        self.expect(wire.CONNECTION_OPEN_OK)

    def close(self) -> None:
        """The polite end, so that the broker has forgotten the connection when this returns."""
        arguments = struct.pack(">H", 200) + wire.short("done") + b"\x00\x00\x00\x00"
        self.sock.sendall(wire.method(0, wire.CONNECTION_CLOSE, arguments))
        self.expect(wire.CONNECTION_CLOSE_OK)
        self.sock.close()

    def read_frame(self) -> tuple[int, int, bytes]:
        """The next frame: type, channel, payload."""
        while (found := wire.next_frame(self.received)) is None:
            self.received += self._receive(self.sock)
        kind, channel, payload, end = found
        del self.received[:end]
        return kind, channel, payload

    def expect(self, name: wire.Method) -> bytes:
        """The next frame has to be this method: its payload, ids included."""
        kind, _, payload = self.read_frame()
        got = wire.method_of(payload)
        if kind != wire.METHOD or got != name:
            wire.raise_if_closed(got, payload)
            raise wire.ProtocolError(f"expected {name}, got frame type {kind}, {got}")
        return payload

    def call(self, request: wire.Method, arguments: bytes, reply: wire.Method) -> bytes:
        """One request on channel 1, and its reply."""
        self.sock.sendall(wire.method(1, request, arguments))
        return self.expect(reply)

    def call_many(self, requests: list[bytes], reply: wire.Method) -> None:
        """Encoded requests sent in one go, then all their replies."""
        self.sock.sendall(b"".join(requests))
        for _ in requests:
            self.expect(reply)

    def declare_exchange(self, name: str, kind: str) -> None:
        """A transient exchange, deleted first if a run before this one left it."""
        self.delete_exchange(name)
        arguments = b"\x00\x00" + wire.short(name) + wire.short(kind) + b"\x00" + wire.table({})
        self.call(wire.EXCHANGE_DECLARE, arguments, wire.EXCHANGE_DECLARE_OK)

    def delete_exchange(self, name: str) -> None:
        """Gone afterwards, whether it was there or not."""
        arguments = b"\x00\x00" + wire.short(name) + b"\x00"
        self._forget(wire.EXCHANGE_DELETE, arguments, wire.EXCHANGE_DELETE_OK)

    def declare_queue(self, name: str, *, durable: bool = False) -> None:
        """An empty queue of this name."""
        self.delete_queue(name)
        self.call(wire.QUEUE_DECLARE, declare_arguments(name, durable), wire.QUEUE_DECLARE_OK)

    def delete_queue(self, name: str) -> None:
        """Gone afterwards, whether it was there or not."""
        self._forget(wire.QUEUE_DELETE, delete_arguments(name), wire.QUEUE_DELETE_OK)

    def _forget(self, request: wire.Method, arguments: bytes, reply: wire.Method) -> None:
        """To RabbitMQ what is not there is deleted; others close the channel."""
        try:
            self.call(request, arguments, reply)
        except wire.ChannelClosed:
            self.sock.sendall(wire.method(1, wire.CHANNEL_CLOSE_OK))
            self.call(wire.CHANNEL_OPEN, b"\x00", wire.CHANNEL_OPEN_OK)

    def message_count(self, name: str) -> int:
        """Ready messages of a queue, after everything this channel published to it."""
        arguments = b"\x00\x00" + wire.short(name) + b"\x01" + wire.table({})
        payload = self.call(wire.QUEUE_DECLARE, arguments, wire.QUEUE_DECLARE_OK)
        count: int = struct.unpack_from(">I", payload, 5 + payload[4])[0]
        return count

    def bind(
        self, queue: str, exchange: str, key: str, arguments: Mapping[str, wire.Value] | None = None
    ) -> None:
        """Bind a queue."""
        self.call(
            wire.QUEUE_BIND, bind_arguments(queue, exchange, key, arguments), wire.QUEUE_BIND_OK
        )

    def confirm_select(self) -> None:
        """Publishes of this channel are confirmed from now on."""
        self.call(wire.CONFIRM_SELECT, b"\x00", wire.CONFIRM_SELECT_OK)

    def consume(self, queue: str, *, no_ack: bool, prefetch: int = 0) -> None:
        """Start a consumer; what follows the reply in `received` is deliveries."""
        if prefetch:
            arguments = struct.pack(">IHB", 0, prefetch, 0)
            self.call(wire.BASIC_QOS, arguments, wire.BASIC_QOS_OK)
        arguments = b"\x00\x00" + wire.short(queue) + wire.short("bench") + bytes([2 * no_ack])
        self.call(wire.BASIC_CONSUME, arguments + wire.table({}), wire.BASIC_CONSUME_OK)


def declare_arguments(name: str, durable: bool) -> bytes:
    """Arguments of queue.declare."""
    return b"\x00\x00" + wire.short(name) + bytes([2 * durable]) + wire.table({})


def delete_arguments(name: str) -> bytes:
    """Arguments of queue.delete, used or not, empty or not."""
    return b"\x00\x00" + wire.short(name) + b"\x00"


def bind_arguments(
    queue: str, exchange: str, key: str, arguments: Mapping[str, wire.Value] | None = None
) -> bytes:
    """Arguments of queue.bind."""
    names = wire.short(queue) + wire.short(exchange) + wire.short(key)
    return b"\x00\x00" + names + b"\x00" + wire.table(arguments or {})
