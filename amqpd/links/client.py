"""A connection to another broker, as a client, without a socket: bytes in, what happened out.

    GREETED ──start──> AUTHENTICATING ──tune──> OPENING ──open-ok──> OPEN ──close──> CLOSING
       |                    |                      |                   |                |
       +────────────────────+───── a fault, the server's close ────────+───────────────>+──> CLOSED

`receive` turns the server's bytes into events; calls append to what `take_output` gives.
Methods, replies and content of open channels go through as they are: what to do with them is for
the link. Rules kept:

- Nothing waits here: who calls `send` reads the reply among the events.
- A message's properties and body are bytes, in and out.
- Time is an argument, and `deadline` says when `handle_timer` is due: handshake and heartbeats.
- After CLOSED there are no events and no output any more; `end_reason` says why.
"""

from __future__ import annotations

from enum import Enum, auto
from struct import Struct
from typing import Final

from amqpd import __version__
from amqpd.commands import Arguments, Channel, Connection, Frame, MethodCommand
from amqpd.errors import ConnectionException
from amqpd.links.reading import Said, ServerFault, ServerReader
from amqpd.links.uri import LinkURI
from amqpd.protocol.frames import FRAME_OVERHEAD
from amqpd.protocol.handshake import GREETING
from amqpd.protocol.heartbeat import HEARTBEAT_FRAME, Heartbeat
from amqpd.protocol.methods import method_frame
from amqpd.wire.tables import encode_table

FRAME_MIN: Final = 4096
FRAME_BYTES_MAX: Final = 131072
"""Largest frame that is asked for where the URI says none."""
BODY_BYTES_MAX: Final = 512 * 1024 * 1024
"""RabbitMQ's own largest message (max_message_size)."""
TABLE_DEPTH_MAX: Final = 64
LOCALE: Final = "en_US"
CAPABILITIES: Final = (
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "authentication_failure_close",
)
FRAME_OPEN: Final = Struct(">BHI")
HEADER_OPEN: Final = Struct(">BHIHHQ")
PUBLISH_HEAD: Final = b"\x00\x3c\x00\x28\x00\x00"
SETTLE: Final = Struct(">BHIHHQBB")
ACK_METHOD: Final = 80
NACK_METHOD: Final = 120
END: Final = b"\xce"


class State(Enum):
    """Of a client's connection."""

    GREETED = auto()
    AUTHENTICATING = auto()
    OPENING = auto()
    OPEN = auto()
    CLOSING = auto()
    CLOSED = auto()


class Opened:
    """The connection may be used; `LinkClient.server_properties` is known."""


class Blocked:
    """The server takes no publishes for now."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Unblocked:
    """It takes them again."""


class ChannelClosed:
    """The server closed a channel; its number may be opened again."""

    def __init__(self, channel: int, code: int, text: str) -> None:
        self.channel = channel
        self.code = code
        self.text = text


Event = Opened | Blocked | Unblocked | ChannelClosed | Said


class LinkClient:
    """One connection to a server."""

    def __init__(self, uri: LinkURI, vhost: str, connection_name: str, now: float) -> None:
        """`vhost` is for a URI that names none."""
        self.state = State.GREETED
        self.end_reason = ""
        """Why it is CLOSED; empty if we closed it."""
        self.end_code = 0
        """The reply code with which the server closed it, if it did."""
        self.is_remote = not uri.is_local
        """It is not this broker itself."""
        self.server_properties: Arguments = {}
        self.channel_max = uri.channel_max
        self.frame_bytes_max = uri.frame_max or FRAME_BYTES_MAX
        self.unsent_bytes = 0
        """Octets that `take_output` has not given yet."""
        self.reading_paused = False
        """The link does not read for now: the server's silence says nothing."""
        self._uri = uri
        self._vhost = uri.vhost if uri.vhost is not None else vhost
        self._connection_name = connection_name
        self._reader = ServerReader(FRAME_BYTES_MAX, BODY_BYTES_MAX, TABLE_DEPTH_MAX)
        self._heartbeat: Heartbeat | None = None
        self._opened_by = self._patience_ends(now)
        self._pieces: list[bytes] = []
        self._published: dict[int, int] = {}
        self.now = now
        """When bytes came last."""
        self._heard = False
        self._push(GREETING)

    # -- bytes

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What the server's bytes bring about. After a fault the state is CLOSED."""
        self.now = now
        events: list[Event] = []
        if self.state is State.CLOSED:
            return events
        if self._heartbeat is not None:
            self._heartbeat.octets_received += len(data)
        first, self._heard = not self._heard, self._heard or bool(data)
        if first and data[:1] == GREETING[:1]:
            self._end("the server speaks another protocol than AMQP 0-9-1")
            return events
        try:
            for said in self._reader.receive(data):
                self._hear(said, events)
                if self._closed:
                    break
        except ServerFault as fault:
            self._end(f"the server broke the protocol: {fault}")
        except ConnectionException as fault:
            self._end(f"the server broke the protocol: {fault.reply_text}")
        return events

    def take_output(self, now: float) -> bytes:
        """What is to be sent."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        self.unsent_bytes = 0
        if data and self._heartbeat is not None:
            self._heartbeat.sent_at = now
        return data

    def lost(self, reason: str) -> None:
        """The socket is gone."""
        if self.state is State.CLOSING:
            self._end("")
        elif self.state in (State.AUTHENTICATING, State.OPENING):
            # RabbitMQ's way of refusing where a close was not negotiated, and a user's usual fault.
            self._end(f"{reason} during login: user, password or virtual host may be wrong")
        else:
            self._end(reason)

    # -- time

    def deadline(self) -> float | None:
        """When `handle_timer` has to be called."""
        if self.state is State.CLOSED:
            return None
        heartbeat = self._heartbeat
        ends = [self._opened_by, None if heartbeat is None else heartbeat.deadline()]
        return min((end for end in ends if end is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Send a heartbeat if it is time, or give up a server that is silent."""
        if self.state is State.CLOSED:
            return
        if self._opened_by is not None and now >= self._opened_by:
            self._end("the server did not answer in time")
            return
        heartbeat = self._heartbeat
        if heartbeat is None:
            return
        heartbeat.paused = self.reading_paused
        if heartbeat.silent(now):
            self._end(f"missed heartbeats: silent for {heartbeat.interval_s:g} s and more")
        elif heartbeat.due(now):
            self._push(HEARTBEAT_FRAME)
            heartbeat.sent_at = now

    # -- calls

    def send(self, channel: int, method: Frame, arguments: Arguments | None = None) -> None:
        """Any method without content; `arguments` is its table. Raises ValueError for names that
        the wire cannot carry."""
        if isinstance(method, Channel.Open):
            self._published[channel] = 0
        self._push(method_frame(channel, method, arguments or {}))

    def publish(
        self,
        channel: int,
        envelope: bytes,
        properties: bytes,
        body: bytes,
        *,
        mandatory: bool = False,
    ) -> int:
        """basic.publish to exchange and routing key, two short strings; its publish number."""
        number = self._published[channel] = self._published[channel] + 1
        pieces = self._pieces
        size = len(body)
        pieces += (
            FRAME_OPEN.pack(1, channel, len(envelope) + 7),
            PUBLISH_HEAD,
            envelope,
            b"\x01\xce" if mandatory else b"\x00\xce",
            HEADER_OPEN.pack(2, channel, 12 + len(properties), 60, 0, size),
            properties,
            END,
        )
        octets_max = self.frame_bytes_max - FRAME_OVERHEAD
        if 0 < size <= octets_max:
            pieces += (FRAME_OPEN.pack(3, channel, size), body, END)
        else:
            for start in range(0, size, octets_max):
                part = body[start : start + octets_max]
                pieces += (FRAME_OPEN.pack(3, channel, len(part)), part, END)
        self.unsent_bytes += size + len(envelope) + len(properties)
        return number

    def ack(self, channel: int, delivery_tag: int, *, multiple: bool = False) -> None:
        """basic.ack."""
        self._push(SETTLE.pack(1, channel, 13, 60, ACK_METHOD, delivery_tag, multiple, 0xCE))

    def nack(self, channel: int, delivery_tag: int) -> None:
        """basic.nack of one delivery, back into its queue."""
        self._push(SETTLE.pack(1, channel, 13, 60, NACK_METHOD, delivery_tag, 2, 0xCE))

    def close(self, now: float, code: int = 200, text: str = "Goodbye") -> None:
        """Say goodbye; CLOSED when the server answered, or did not in time."""
        if self.state is State.OPEN:
            self.state = State.CLOSING
            self._opened_by = self._patience_ends(now)
            self._push(method_frame(0, Connection.Close(code, text, 0, 0)))
        elif self.state is not State.CLOSING:
            self._end("")

    # -- what the server says

    def _hear(self, said: Said, events: list[Event]) -> None:
        if not isinstance(said, MethodCommand):
            if self.state is State.OPEN:
                events.append(said)
            elif self.state is not State.CLOSING:
                raise ServerFault("content came before the connection was open")
        elif said.channel == 0:
            self._hear_connection(said, events)
        elif isinstance(said.method, Channel.Close):
            method = said.method
            self._push(method_frame(said.channel, Channel.CloseOk()))
            if self.state is State.OPEN:
                code, text = method.reply_code or 0, method.reply_text or ""
                events.append(ChannelClosed(said.channel, code, text))
        elif self.state is State.OPEN:
            events.append(said)

    def _hear_connection(self, said: MethodCommand, events: list[Event]) -> None:
        method = said.method
        if isinstance(method, Connection.Close):
            self._push(method_frame(0, Connection.CloseOk()))
            self.end_code = method.reply_code or 0
            self._end(f"closed by the server: {method.reply_code} {method.reply_text}")
        elif self.state is State.GREETED and isinstance(method, Connection.Start):
            self._log_in(method, said.arguments)
        elif self.state is State.AUTHENTICATING and isinstance(method, Connection.Tune):
            self._tune(method)
        elif self.state is State.OPENING and isinstance(method, Connection.OpenOk):
            self.state = State.OPEN
            self._opened_by = None
            events.append(Opened())
        elif self.state is State.CLOSING:
            if isinstance(method, Connection.CloseOk):
                self._end("")
        elif self.state is State.OPEN and isinstance(method, Connection.Blocked):
            events.append(Blocked(method.reason))
        elif self.state is State.OPEN and isinstance(method, Connection.Unblocked):
            events.append(Unblocked())
        else:
            raise ServerFault(f"{method.name} came in state {self.state.name.lower()}")

    def _log_in(self, start: Connection.Start, arguments: Arguments) -> None:
        self.server_properties = arguments
        offered = str(start.mechanisms).split()
        for mechanism in self._uri.mechanisms:
            if mechanism.upper() in offered:
                break
        else:
            self._end(f"the server offers none of our mechanisms, only {' '.join(offered)}")
            return
        properties: Arguments = {
            "product": ("S", "amqpd"),
            "version": ("S", __version__),
            "platform": ("S", "Python"),
            "capabilities": ("F", dict.fromkeys(CAPABILITIES, ("t", True))),
            "connection_name": ("S", self._connection_name),
        }
        method = Connection.StartOk.__new__(Connection.StartOk)
        method.mechanism = mechanism.upper()
        method.response = self._response(mechanism)  # type: ignore[assignment]
        method.locale = LOCALE
        self._push(method_frame(0, method, properties))
        self.state = State.AUTHENTICATING

    def _response(self, mechanism: str) -> bytes:
        uri = self._uri
        user, password = ("guest", "guest") if uri.user is None else (uri.user, uri.password)
        if mechanism == "plain":
            return f"\x00{user}\x00{password}".encode()
        if mechanism == "amqplain":
            table = encode_table({"LOGIN": ("S", user), "PASSWORD": ("S", password)})
            return table[4:]
        return b""

    def _tune(self, tune: Connection.Tune) -> None:
        """The lower of both limits, where 0 is none (0-9-1 connection.tune-ok)."""
        frame_max = _lower(tune.frame_max, self._uri.frame_max or FRAME_BYTES_MAX)
        if frame_max < FRAME_MIN:
            self._end(f"the server wants frames of {frame_max} octets, AMQP has {FRAME_MIN}")
            return
        self.frame_bytes_max = self._reader.frame_bytes_max = frame_max
        self.channel_max = _lower(tune.channel_max, self._uri.channel_max)
        heartbeat_s = _lower(tune.heartbeat, self._uri.heartbeat_s) if self._uri.heartbeat_s else 0
        if heartbeat_s:
            self._heartbeat = Heartbeat(heartbeat_s, self.now)
        self._push(method_frame(0, Connection.TuneOk(self.channel_max, frame_max, heartbeat_s)))
        opening = Connection.Open.__new__(Connection.Open)
        opening.virtual_host = self._vhost
        self._push(method_frame(0, opening))
        self.state = State.OPENING

    def _patience_ends(self, now: float) -> float | None:
        """When to stop waiting for the server; a timeout of 0 is none."""
        return now + self._uri.connection_timeout_s if self._uri.connection_timeout_s else None

    @property
    def _closed(self) -> bool:
        return self.state is State.CLOSED

    def _end(self, reason: str) -> None:
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.end_reason = reason

    def _push(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.unsent_bytes += len(piece)


def _lower(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other
