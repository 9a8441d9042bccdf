"""A small blocking AMQP client that hides nothing: what arrives while a reply is awaited is kept.

It answers neither heartbeats nor connection.close by itself, so that tests can do without them.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

from pamqp import base, commands, frame

from tests.patience import PATIENCE_S

GREETING: Final = b"AMQP\x00\x00\x09\x01"
FRAME_BYTES_MAX: Final = 131072
METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
PERSISTENT: Final = b"\x10\x00\x02"
TRANSIENT: Final = b"\x10\x00\x01"
HEADERS: Final = 0x2000
DELIVERY_MODE: Final = 0x1000
CAPABILITIES: Final = {
    "authentication_failure_close": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


class Closed(Exception):
    """The broker closed the channel or the connection."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class Gone(Exception):
    """The socket has ended."""


class Delivery(NamedTuple):
    """A message from basic.deliver, basic.get-ok or basic.return."""

    delivery_tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    persistent: bool
    body: bytes


class Client:
    """A connection, with channel 1 open unless told otherwise."""

    def __init__(
        self,
        address: str,
        *,
        user: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        heartbeat: int = 0,
        channel: bool = True,
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
        capabilities: Mapping[str, bool] = CAPABILITIES,
    ) -> None:
        self.sock = connect(address, tls, receive_buffer_bytes)
        self.received = bytearray()
        self.deliveries: deque[Delivery] = deque()
        self.returned: deque[Delivery] = deque()
        self.cancelled: list[str] = []
        self.published = 0
        self.confirmed = 0
        """All publishes up to this number are confirmed."""
        self._confirmed_beyond: set[int] = set()
        self._user = user
        self.server_properties: Mapping[str, Any] = {}
        try:
            self._open(user, password, vhost, heartbeat, capabilities)
            if channel:
                self.call(commands.Channel.Open())
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _open(
        self,
        user: str,
        password: str,
        vhost: str,
        heartbeat: int,
        capabilities: Mapping[str, bool],
    ) -> None:
        self.sock.sendall(GREETING)
        start = self.expect(commands.Connection.Start)
        self.server_properties = start.server_properties or {}
        login = f"\x00{user}\x00{password}"
        properties: dict[str, Any] = {"capabilities": dict(capabilities)}
        self.send(commands.Connection.StartOk(properties, "PLAIN", login, "en_US"), 0)
        tune = self.expect(commands.Connection.Tune)
        self.send(commands.Connection.TuneOk(tune.channel_max, FRAME_BYTES_MAX, heartbeat), 0)
        self.send(commands.Connection.Open(vhost), 0)
        self.expect(commands.Connection.OpenOk)

    # -- methods

    def send(self, method: base.Frame, channel: int = 1) -> None:
        """Send a method and wait for nothing."""
        self.sock.sendall(frame.marshal(method, channel))

    def call(self, method: base.Frame, channel: int = 1) -> Any:
        """Send a method; the reply to it. Raises Closed."""
        self.send(method, channel)
        replies = tuple(reply.rpartition(".")[2] for reply in method.valid_responses)
        while True:
            answer = self.step()
            if answer is not None and type(answer).__name__ in replies:
                return answer

    def expect(self, kind: type[base.Frame]) -> Any:
        """Read until this method comes. Raises Closed."""
        while not isinstance(answer := self.step(), kind):
            pass
        return answer

    def close(self) -> None:
        """Say goodbye; the broker has forgotten the connection when this returns."""
        self.send(commands.Connection.Close(200, "goodbye", 0, 0), 0)
        self.expect(commands.Connection.CloseOk)
        self.sock.close()

    # -- messages

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        persistent: bool = True,
        mandatory: bool = False,
        channel: int = 1,
        priority: int | None = None,
        properties: bytes | None = None,
    ) -> int:
        """Publish; the number under which it will be confirmed.

        `properties` are the encoded list, in place of what the other arguments say.
        """
        if properties is None:
            properties = PERSISTENT if persistent else TRANSIENT
        if priority is not None:
            properties = bytes((0x18, 0, properties[2], priority))
        octets = publish_frames(
            exchange, routing_key, body, persistent, mandatory, channel, properties
        )
        self.sock.sendall(octets)
        self.published += 1
        return self.published

    def confirm_select(self) -> None:
        """Publishes are confirmed from now on."""
        self.call(commands.Confirm.Select())

    def wait_confirmed(self, publish_number: int | None = None) -> None:
        """Return when everything up to that number (or everything published) is confirmed."""
        number = self.published if publish_number is None else publish_number
        while self.confirmed < number:
            self.step()

    def get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        """basic.get."""
        self.send(commands.Basic.Get(0, queue, no_ack))
        while True:
            if isinstance(self.step(), commands.Basic.GetEmpty):
                return None
            if self.deliveries:
                return self.deliveries.popleft()

    def consume(self, queue: str, *, no_ack: bool = False, prefetch: int = 0) -> str:
        """Start a consumer; its tag."""
        if prefetch:
            self.call(commands.Basic.Qos(0, prefetch, False))
        tag: str = self.call(commands.Basic.Consume(0, queue, "", False, no_ack)).consumer_tag
        return tag

    def next_delivery(self) -> Delivery:
        """The next message of a consumer."""
        while not self.deliveries:
            self.step()
        return self.deliveries.popleft()

    def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """basic.ack."""
        self.send(commands.Basic.Ack(delivery_tag, multiple))

    def declare(self, queue: str, *, durable: bool = True, **flags: Any) -> Any:
        """queue.declare."""
        return self.call(commands.Queue.Declare(0, queue, durable=durable, **flags))

    def message_count(self, queue: str) -> int:
        """How many messages are ready."""
        count: int = self.call(commands.Queue.Declare(0, queue, passive=True)).message_count
        return count

    def exists(self, method: base.Frame) -> bool:
        """Whether a passive declaration succeeds; on a channel of its own."""
        self.call(commands.Channel.Open(), 2)
        try:
            self.call(method, 2)
        except Closed as closed:
            if closed.code != 404:
                raise
            return False
        self.call(commands.Channel.Close(200, "", 0, 0), 2)
        return True

    # -- frames

    def step(self) -> base.Frame | None:
        """Take in one frame, or one message with its content; the method, unless it is content.

        Raises Closed when the broker closes, Gone when the socket ends.
        """
        kind, number, payload = self.read_frame()
        if kind == HEARTBEAT:
            return None
        assert kind == METHOD, (kind, payload)
        method = decode(number, payload)
        match method:
            case commands.Basic.Deliver() | commands.Basic.GetOk():
                delivery = self._content(
                    method.delivery_tag or 0, method.redelivered or False, method
                )
                self.deliveries.append(delivery)
                return None
            case commands.Basic.Return():
                self.returned.append(self._content(0, False, method))
                return None
            case commands.Basic.Ack():
                self._confirm(method.delivery_tag or 0, method.multiple or False)
            case commands.Basic.Nack():
                raise AssertionError(f"publish {method.delivery_tag} refused")
            case commands.Basic.Cancel():
                self.cancelled.append(method.consumer_tag or "")
            case commands.Channel.Close():
                self.send(commands.Channel.CloseOk(), number)
                raise Closed(method.reply_code or 0, method.reply_text or "")
            case commands.Connection.Close():
                raise Closed(method.reply_code or 0, method.reply_text or "")
        return method

    def read_frame(self) -> tuple[int, int, bytes]:
        """Type, channel and payload. Raises Gone."""
        head = self._take(7)
        kind, number, size = struct.unpack(">BHI", head)
        payload = self._take(size)
        assert self._take(1) == b"\xce"
        return kind, number, payload

    def wait_gone(self) -> bytes:
        """Read until the broker ends the socket; everything that came."""
        try:
            while True:
                self._receive()
        except (Gone, ConnectionResetError):
            return bytes(self.received)

    def _content(self, tag: int, redelivered: bool, method: Any) -> Delivery:
        kind, _, header = self.read_frame()
        assert kind == HEADER
        _, _, size, flags = struct.unpack_from(">HHQH", header)
        parts = []
        while size:
            kind, _, part = self.read_frame()
            assert kind == BODY
            parts.append(part)
            size -= len(part)
        assert size == 0
        at = 14
        if flags & HEADERS:  # of dead letters: before the delivery mode, the next one
            at += 4 + int.from_bytes(header[at : at + 4], "big")
        persistent = flags & DELIVERY_MODE != 0 and header[at] == 2
        return Delivery(
            tag, redelivered, method.exchange, method.routing_key, persistent, b"".join(parts)
        )

    def _confirm(self, number: int, multiple: bool) -> None:
        if multiple:
            self.confirmed = max(self.confirmed, number or self.published)
        else:
            self._confirmed_beyond.add(number)
        while self.confirmed + 1 in self._confirmed_beyond:
            self.confirmed += 1
            self._confirmed_beyond.discard(self.confirmed)

    def _take(self, size: int) -> bytes:
        received = self.received
        while len(received) < size:
            self._receive()
        taken = bytes(received[:size])
        del received[:size]
        return taken

    def _receive(self) -> None:
        data = self.sock.recv(1 << 17)
        if not data:
            raise Gone
        self.received += data


def connect(
    address: str, tls: ssl.SSLContext | None = None, receive_buffer_bytes: int | None = None
) -> socket.socket:
    """A socket to `host:port`."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.settimeout(PATIENCE_S)
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.connect((host, int(port)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return tls.wrap_socket(sock, server_hostname=host) if tls is not None else sock
    except BaseException:
        sock.close()
        raise


def reset(sock: socket.socket) -> None:
    """End a socket without a goodbye: the other side reads a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_to_end(sock: socket.socket) -> bytes:
    """Everything that comes until the other side closes or resets."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received


def decode(channel: int, payload: bytes) -> base.Frame:
    """A method frame's payload as pamqp's method."""
    octets = struct.pack(">BHI", METHOD, channel, len(payload)) + payload + b"\xce"
    _, _, method = frame.unmarshal(octets)
    assert isinstance(method, base.Frame)
    return method


def short(text: str) -> bytes:
    """A short string."""
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


def encode_frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def publish_frames(
    exchange: str,
    routing_key: str,
    body: bytes,
    persistent: bool = True,
    mandatory: bool = False,
    channel: int = 1,
    properties: bytes | None = None,
) -> bytes:
    """basic.publish with its content; a hundred times faster than pamqp's frames."""
    if properties is None:
        properties = PERSISTENT if persistent else TRANSIENT
    method = struct.pack(">HHH", 60, 40, 0) + short(exchange) + short(routing_key)
    method += bytes((mandatory,))
    header = struct.pack(">HHQ", 60, 0, len(body)) + properties
    pieces = [encode_frame(METHOD, channel, method), encode_frame(HEADER, channel, header)]
    room = FRAME_BYTES_MAX - 8
    pieces += [
        encode_frame(BODY, channel, body[at : at + room]) for at in range(0, len(body), room)
    ]
    return b"".join(pieces)
