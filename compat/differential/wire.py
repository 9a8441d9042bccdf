"""A client that hears everything: frames of one connection, in order, as `Event`s.

It says what it is told to, byte for byte, and by itself only what AMQP makes it say: the handshake
and the close-oks. Sockets block for sending; `Wire.read` takes what is there.
"""

from __future__ import annotations

import socket
import urllib.parse
from struct import pack
from typing import Any, Final, NamedTuple

from amqpd.commands import Arguments, Basic, Channel, Connection, Frame
from amqpd.protocol.methods import decode_method, encode_method, method_name

GREETING: Final = b"AMQP\x00\x00\x09\x01"
FRAME_MAX: Final = 131072
BUFFER_OCTETS: Final = 4_000_000
HANDSHAKE_SECONDS: Final = 120.0
CAPABILITIES: Final[Arguments] = dict.fromkeys(
    (
        *("publisher_confirms", "exchange_exchange_bindings", "basic.nack"),
        *("consumer_cancel_notify", "connection.blocked", "authentication_failure_close"),
    ),
    ("t", True),
)


class Event(NamedTuple):
    """One method of the broker, with its content if it has any."""

    channel: int
    name: str
    values: dict[str, Any]
    properties: bytes = b""
    body: bytes = b""


class WireError(Exception):
    """The broker sent what no broker may."""


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame."""
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(frame_type: type[Frame], **fields: Any) -> Frame:
    """A method, whatever pamqp's constructor would think of its fields."""
    made = frame_type.__new__(frame_type)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def content(channel: int, properties: bytes, body: bytes) -> bytes:
    """Content header and bodies."""
    head = b"\x00\x3c\x00\x00" + len(body).to_bytes(8, "big") + properties
    step = FRAME_MAX - 8
    bodies = (body[start : start + step] for start in range(0, len(body), step))
    return frame(2, channel, head) + b"".join(frame(3, channel, part) for part in bodies)


class Wire:
    """One connection to a broker."""

    def __init__(self, url: str, user: str, vhost: str = "/") -> None:
        parts = urllib.parse.urlsplit(url)
        address = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self.socket = socket.create_connection(address, HANDSHAKE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_OCTETS)
        self.events: list[Event] = []
        self.alive = True
        """Neither side closed it."""
        self.open: set[int] = set()
        self.flow_oks: dict[int, int] = {}
        """How many there were on a channel: they are the markers of synchronisation."""
        self._buffer = bytearray()
        self._unsent = bytearray()
        self._contents: dict[int, tuple[Event, int, bytes, bytearray]] = {}
        self._handshake(user, vhost)

    def fileno(self) -> int:
        """For selectors."""
        return self.socket.fileno()

    def _handshake(self, user: str, vhost: str) -> None:
        self.send(GREETING)
        self._await("connection.start")
        start_ok = method(
            Connection.StartOk,
            mechanism="PLAIN",
            response=f"\x00{user}\x00{user}".encode(),
            locale="en_US",
        )
        capabilities: Arguments = {"capabilities": ("F", CAPABILITIES)}
        self.send(frame(1, 0, encode_method(start_ok, capabilities)))
        tune = self._await("connection.tune").values
        self.say(
            0,
            method(
                Connection.TuneOk,
                channel_max=tune["channel_max"],
                frame_max=FRAME_MAX,
                heartbeat=0,
            ),
        )
        self.say(0, method(Connection.Open, virtual_host=vhost))
        self._await("connection.open_ok")
        self.events.clear()

    def _await(self, name: str) -> Event:
        while True:
            for event in self.events:
                if event.name == name:
                    self.events.clear()
                    return event
            if not self.read():
                raise WireError(f"{name} did not come")

    # -- out

    def say(self, channel: int, said: Frame, arguments: Arguments | None = None) -> None:
        """One method."""
        self.send(frame(1, channel, encode_method(said, arguments or {})))

    def send(self, data: bytes) -> None:
        """Octets, which go out with the next `flush`: one call for what is said together."""
        self._unsent += data

    def flush(self) -> None:
        """Send what was said; a connection that the broker ended takes it and forgets it."""
        if self._unsent:
            unsent, self._unsent = self._unsent, bytearray()
            try:
                self.socket.sendall(unsent)
            except OSError:
                self._drop()

    def shut(self) -> None:
        """Be done with the socket."""
        self.flush()
        self.alive = False
        self.open.clear()
        self.socket.close()

    # -- in

    def read(self) -> bool:
        """Take what has come, and answer it; false at the end of the connection."""
        self.flush()
        try:
            data = self.socket.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._drop()
            return False
        buffer = self._buffer
        buffer += data
        position = 0
        while len(buffer) - position >= 8:
            size = int.from_bytes(buffer[position + 3 : position + 7], "big")
            stop = position + 7 + size
            if len(buffer) <= stop:
                break
            if buffer[stop] != 0xCE:
                raise WireError(f"no frame end after {bytes(buffer[position : position + 40])!r}")
            channel = int.from_bytes(buffer[position + 1 : position + 3], "big")
            self._hear(buffer[position], channel, bytes(buffer[position + 7 : stop]))
            position = stop + 1
        del buffer[:position]
        self.flush()
        return True

    def _drop(self) -> None:
        if self.alive:
            self.events.append(Event(0, "dropped", {}))
        self.shut()

    def _hear(self, kind: int, channel: int, payload: bytes) -> None:
        if kind == 8:
            return
        if kind == 1:
            if channel in self._contents:
                raise WireError("a method amid content")
            said, _ = decode_method(payload, 100)
            event = Event(channel, method_name(said), dict(said))
            if isinstance(said, Basic.Deliver | Basic.GetOk | Basic.Return):
                self._contents[channel] = (event, -1, b"", bytearray())
            else:
                self._obey(event)
            return
        if channel not in self._contents:
            raise WireError("content without a method")
        event, size, properties, body = self._contents.pop(channel)
        if kind == 2 and size == -1:
            size, properties = int.from_bytes(payload[4:12], "big"), payload[12:]
        elif kind == 3 and size > 0 and payload:
            body += payload
            if len(body) > size:
                raise WireError("a body longer than its header says")
        else:
            raise WireError(f"a frame of type {kind} amid content")
        if len(body) < size:
            self._contents[channel] = (event, size, properties, body)
        else:
            self.events.append(event._replace(properties=properties, body=bytes(body)))

    def _obey(self, event: Event) -> None:
        channel = event.channel
        match event.name:
            case "channel.flow_ok":
                self.flow_oks[channel] = self.flow_oks.get(channel, 0) + 1
                return
            case "channel.open_ok":
                self.open.add(channel)
            case "channel.close":
                self.say(channel, Channel.CloseOk())
                self.open.discard(channel)
            case "channel.close_ok":
                self.open.discard(channel)
            case "connection.close":
                self.say(0, Connection.CloseOk())
                self.alive = False
                self.open.clear()
            case "connection.close_ok":
                self.alive = False
                self.open.clear()
        self.events.append(event)
