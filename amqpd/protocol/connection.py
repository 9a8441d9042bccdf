"""One AMQP connection without its socket: greeting, handshake, channels' life and death, closing.

Bytes go in through `greet` and the `FrameReader`; bytes come out of `take_output`; time comes in
as `now` and the next deadline goes out as a value. What needs the broker (is the password right,
may this user enter the virtual host) goes out as an event, and the answer comes back as a call.

The states, and what each accepts from the peer:

    GREETING --greeting-->  STARTING --start-ok--> AUTHENTICATING --accept_login--> TUNING
    TUNING --tune-ok--> OPENING --open--> ENTERING --accept_open--> RUNNING
    any --fail--> CLOSING --close-ok--> CLOSED        RUNNING --close--> CLOSED
    before TUNING, a peer that breaks the rules is not told why: DOOMED, and dropped after a pause

A channel number is open, closing (the broker closed it and awaits close-ok), or neither.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final, NamedTuple, cast

from amqpd.commands import Arguments, Channel, Field, Frame, MethodCommand
from amqpd.commands import Connection as Methods
from amqpd.config import Limits
from amqpd.errors import (
    ACCESS_REFUSED,
    CHANNEL_ERROR,
    COMMAND_INVALID,
    NOT_ALLOWED,
    SYNTAX_ERROR,
    AMQPException,
    ConnectionException,
    cut,
)
from amqpd.protocol.frames import FrameReader
from amqpd.protocol.handshake import (
    ACCEPTED_GREETINGS,
    GREETING,
    GREETING_OCTETS,
    LOCALES,
    Credentials,
    agree_channel_max,
    agree_frame_max,
    capabilities,
    describe_greeting,
    read_response,
)
from amqpd.protocol.heartbeat import HEARTBEAT_FRAME, Heartbeat
from amqpd.protocol.methods import method_frame, method_ids
from amqpd.protocol.outlet import LARGE_PIECE_BYTES, ChannelOutlet
from amqpd.protocol.tap import FrameTap, Tap

CAPABILITIES: Final = (
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
)
"""What connection.start says that this broker can do beyond the standard."""


class State(Enum):
    """Where a connection is in its life."""

    GREETING = auto()
    STARTING = auto()
    AUTHENTICATING = auto()
    TUNING = auto()
    OPENING = auto()
    ENTERING = auto()
    RUNNING = auto()
    CLOSING = auto()
    DOOMED = auto()
    CLOSED = auto()


HANDSHAKE: Final = frozenset(
    {
        State.GREETING,
        State.STARTING,
        State.AUTHENTICATING,
        State.TUNING,
        State.OPENING,
        State.ENTERING,
    }
)
UNTRUSTED: Final = frozenset({State.GREETING, State.STARTING, State.AUTHENTICATING})
ENDING: Final = frozenset({State.CLOSING, State.DOOMED, State.CLOSED})

STATE_NAMES: Final[dict[State, str]] = {
    State.STARTING: "starting",
    State.AUTHENTICATING: "securing",
    State.TUNING: "tuning",
    State.OPENING: "opening",
    State.ENTERING: "opening",
    State.RUNNING: "running",
    State.CLOSING: "closing",
    State.CLOSED: "closed",
}


class LoginAttempt(NamedTuple):
    """The peer sent credentials: answer with `accept_login` or `refuse_login`."""

    mechanism: str
    credentials: Credentials


class OpenAttempt(NamedTuple):
    """The peer wants to enter a virtual host: answer with `accept_open` or `fail`."""

    virtual_host: str


class SecretUpdate(NamedTuple):
    """The running connection sent a new password: answer with `accept_secret` or `fail`."""

    secret: bytes


class ClosedByPeer(NamedTuple):
    """The peer asked to close: end its channels, then call `accept_close`."""

    code: int
    text: str


Event = LoginAttempt | OpenAttempt | SecretUpdate | ClosedByPeer


class Connection:
    """The protocol side of one connection."""

    def __init__(
        self,
        limits: Limits,
        start: bytes,
        mechanisms: tuple[str, ...],
        strict_sizes: bool,
        now: float,
        speaking: list[Connection],
    ) -> None:
        """`start` is the frame of connection.start, see `start_frame`.

        `speaking` collects, for the runtime, the connections that have something to send.
        """
        self.limits = limits
        self._speaking = speaking
        self.reader = FrameReader(limits, strict_sizes)
        self.state = State.GREETING
        self.pieces: list[bytes | memoryview] = []
        """What is to be sent at the end of this turn."""
        self.has_large = False
        """There may be pieces of LARGE_PIECE_BYTES or more among them."""
        self.unsent_bytes = 0
        self.in_flight_bytes = 0
        """Of these, what was taken to be sent."""
        self.unsent_bytes_max = limits.unsent_bytes_max
        self.sent_bytes = 0
        self.sent_chunks = 0
        self.outlets: dict[int, ChannelOutlet] = {}
        """The open channels."""
        self._ended_outlets: dict[int, ChannelOutlet] = {}
        """Of channels that ended while replies of theirs waited for the journal."""
        self.closing_channels: dict[int, bool] = {}
        """Channels that the broker closed, and whether the peer has closed them as well."""
        self.channel_max = limits.channel_max
        self.heartbeat: Heartbeat | None = None
        self.client_properties: Arguments = {}
        self.capabilities: frozenset[str] = frozenset()
        self.mechanism = ""
        self.tap: Tap | None = None
        self.end_reason = ""
        """Why the connection ended, for the log; empty while it lives."""
        self.peer_hangs_up = False
        """The peer asked for the end and has its close-ok: its socket is the first to close."""
        self._greeting = b""
        self._start = start
        self._mechanisms = mechanisms
        self._deadline: float | None = now + limits.handshake_timeout_s
        """Of the handshake, of the pause before a drop, or of the wait for close-ok."""

    def attach_tap(self, tap: FrameTap) -> None:
        """Show every frame from here on to `tap`; see `amqpd.protocol.tap`."""
        self.tap = Tap(tap)

    def forget(self) -> None:
        """The socket is gone: hold nothing of what came or was to be sent."""
        self.reader.forget()
        self.pieces.clear()
        self.outlets.clear()

    # -- what comes in

    def received(self, octets: int) -> None:
        """Note that the peer is alive."""
        if self.heartbeat is not None:
            self.heartbeat.octets_received += octets

    def greet(self, data: bytes) -> bytes:
        """Take the protocol header off the front of `data`; return what is left for the reader."""
        data = self._greeting + data
        # Whether a peer speaks AMQP shows in its first octets: do not wait for eight from others.
        if len(data) < GREETING_OCTETS and GREETING.startswith(data[:4]):
            self._greeting = data
            return b""
        greeting, rest = data[:GREETING_OCTETS], data[GREETING_OCTETS:]
        self._greeting = b""
        if greeting not in ACCEPTED_GREETINGS:
            # 0-9-1 §4.2.2: answer with the version spoken here, then close.
            self._send(GREETING)
            self.end(f"refused {describe_greeting(data[:64])}")
            return b""
        self.state = State.STARTING
        self._send(self._start)
        return rest

    def handle(self, command: MethodCommand, now: float) -> Event | None:
        """A method on channel 0."""
        method = command.method
        state = self.state
        if state is State.RUNNING:
            return self._handle_running(method)
        if isinstance(method, Methods.Close) and state not in UNTRUSTED and state not in ENDING:
            return ClosedByPeer(method.reply_code or 0, method.reply_text or "")
        if state is State.STARTING and isinstance(method, Methods.StartOk):
            return self._handle_start_ok(method, command.arguments)
        if state is State.TUNING and isinstance(method, Methods.TuneOk):
            self._handle_tune_ok(method, now)
            return None
        if state is State.OPENING and isinstance(method, Methods.Open):
            self.state = State.ENTERING
            return OpenAttempt(method.virtual_host or "/")
        if state is State.CLOSING:
            self._handle_closing(method)
            return None
        if state in ENDING:
            return None
        raise ConnectionException(
            CHANNEL_ERROR,
            f"unexpected method in connection state {STATE_NAMES.get(state, 'closed')}",
            method_ids(method),
        )

    # -- the broker's answers

    def accept_login(self) -> None:
        """The credentials are good: tune."""
        self.state = State.TUNING
        limits = self.limits
        self.send_method(
            0, Methods.Tune(limits.channel_max, limits.frame_bytes_max, limits.heartbeat_s)
        )

    def refuse_login(self, now: float) -> None:
        """The credentials are bad. Only clients that asked for it are told (RabbitMQ's way)."""
        if "authentication_failure_close" in self.capabilities:
            self.fail(
                ConnectionException(
                    ACCESS_REFUSED,
                    f"Login was refused using authentication mechanism {self.mechanism}. "
                    "For details see the broker logfile.",
                ),
                now,
            )
        else:
            self.doom(now, "login refused")

    def accept_open(self) -> None:
        """The user may enter: the connection is open."""
        self.state = State.RUNNING
        self.reader.running = True
        self.reader.stepwise = False
        self._deadline = None
        self.send_method(0, Methods.OpenOk())

    def accept_secret(self) -> None:
        """The new password is good."""
        self.send_method(0, Methods.UpdateSecretOk())

    def accept_close(self) -> None:
        """Everything of the connection has ended: say close-ok and drop it."""
        self.send_method(0, Methods.CloseOk())
        self.peer_hangs_up = True
        self.end("closed by the client")

    # -- channels

    def open_channel(self, number: int, method: Frame) -> ChannelOutlet:
        """channel.open on a number that is free."""
        if number in self.outlets:
            raise ConnectionException(
                CHANNEL_ERROR, "second 'channel.open' seen", method_ids(method)
            )
        if self.channel_max and len(self.outlets) >= self.channel_max:
            count, most = len(self.outlets), self.channel_max
            raise ConnectionException(
                NOT_ALLOWED,
                f"number of channels opened ({count}) has reached "
                f"the negotiated channel_max ({most})",
            )
        self.closing_channels.pop(number, None)
        # What the number's last channel still has to say comes before anything of the new one.
        outlet = self._ended_outlets.pop(number, None) or ChannelOutlet(self, number)
        self.outlets[number] = outlet
        outlet.method(Channel.OpenOk())
        return outlet

    def close_channel(self, number: int, exception: AMQPException) -> None:
        """The broker closes a channel: until close-ok comes, what arrives on it is dropped."""
        close = Channel.Close(
            exception.code, reply_text(exception), exception.class_id, exception.method_id
        )
        self._end_outlet(number, close)
        self.closing_channels[number] = False

    def end_channel(self, number: int) -> None:
        """The peer closed the channel, and the broker has ended it: answer."""
        self._end_outlet(number, Channel.CloseOk())

    def stray(self, number: int, method: Frame | None, ids: tuple[int, int]) -> None:
        """Something on a channel that is not open: part of a close handshake, or a fault.

        Raises `ConnectionException` 504 for a channel that was never opened.
        """
        if number not in self.closing_channels:
            raise ConnectionException(CHANNEL_ERROR, "expected 'channel.open'", ids)
        if isinstance(method, Channel.CloseOk):
            del self.closing_channels[number]
        elif isinstance(method, Channel.Close):
            # Both sides closed at once. The peer may answer our close as well, or open the
            # number again without doing so.
            self.closing_channels[number] = True
            ended = self._ended_outlets.get(number)
            if ended is None:
                self.send_method(number, Channel.CloseOk())
            else:
                ended.method(Channel.CloseOk())

    def may_open(self, number: int) -> bool:
        """Whether channel.open on the number is one to act on: not if it waits for close-ok."""
        return self.closing_channels.get(number, True)

    # -- the end

    def fail(self, exception: AMQPException, now: float) -> None:
        """Close with the reason, as far as the peer may know it."""
        if self.state in ENDING:
            return
        told_login_failed = exception.code == ACCESS_REFUSED
        if self.state in UNTRUSTED and not told_login_failed:
            self.doom(now, exception.reply_text)
            return
        self.state = State.CLOSING
        self.end_reason = exception.reply_text
        heartbeat_s = self.heartbeat.interval_s if self.heartbeat else 0
        wait_s = self.limits.closing_timeout_s
        self._deadline = now + (min(heartbeat_s, wait_s) if heartbeat_s else wait_s)
        self._close_outlets()
        self.reader.stepwise = False
        self.reader.discard_content()
        self.send_method(
            0,
            Methods.Close(
                exception.code, reply_text(exception), exception.class_id, exception.method_id
            ),
        )

    def doom(self, now: float, reason: str) -> None:
        """Drop the connection without a word, but not at once: guessing must not be cheap."""
        self.state = State.DOOMED
        self.end_reason = reason
        self._deadline = now + self.limits.authentication_failure_delay_s

    def end(self, reason: str) -> None:
        """Nothing more is read; what is in `pieces` is still sent."""
        self.state = State.CLOSED
        self.end_reason = self.end_reason or reason
        self._deadline = None
        self.heartbeat = None
        self._close_outlets()

    # -- time

    def deadline(self) -> float | None:
        """When `handle_timer` has to be called, in seconds of the caller's clock."""
        deadline = self._deadline
        if self.heartbeat is not None and self.state not in ENDING:
            beat = self.heartbeat.deadline()
            deadline = beat if deadline is None else min(beat, deadline)
        tapped = None if self.tap is None else self.tap.deadline()
        if tapped is None:
            return deadline
        return tapped if deadline is None else min(tapped, deadline)

    def handle_timer(self, now: float) -> None:
        """Do what is due: heartbeat, drop of a silent peer, end of a wait."""
        if self._deadline is not None and now >= self._deadline:
            if self.state in HANDSHAKE:
                self.end(f"handshake not finished in {self.limits.handshake_timeout_s:g} s")
            else:
                self.end("no close-ok came")
            return
        heartbeat = self.heartbeat
        if heartbeat is None or self.state in ENDING:
            return
        if heartbeat.silent(now):
            self.end(f"missed heartbeats from client, timeout: {heartbeat.interval_s:g}s")
        elif heartbeat.due(now):
            self._send(HEARTBEAT_FRAME)
            heartbeat.sent_at = now

    def pause_heartbeat(self) -> None:
        """The peer is not read from for a while: do not take that for silence."""
        if self.heartbeat is not None:
            self.heartbeat.paused = True

    def resume_heartbeat(self) -> None:
        """The peer is read from again."""
        if self.heartbeat is not None:
            self.heartbeat.paused = False

    # -- what goes out

    def send_method(self, number: int, method: Frame, table: Arguments | None = None) -> None:
        """Send a method outside any outlet: on channel 0, or where no channel is left.

        `table` stands for its table argument, if it has one.
        """
        self._send(method_frame(number, method, table))

    def wake(self) -> None:
        """Called when output appears where there was none."""
        self._speaking.append(self)

    def take_output(self, now: float, octets_max: int | None = None) -> bytes:
        """What is to be sent now, as one piece. The caller reports it with `sent`.

        Of more than `octets_max`, the first so many; the rest stays in `pieces`, which are small
        where bodies are: a peer may ask for one large message again and again.
        """
        pieces = self.pieces
        if octets_max is not None and self.unsent_bytes > octets_max:
            data = self._cut_output(octets_max)
        else:
            data = b"".join(pieces)
            pieces.clear()
        # The answer to a foreign greeting is not a frame: no tap sees it.
        if self.tap is not None and data[:4] != GREETING[:4]:
            octets = len(data)
            data = self.tap.outbound.filter(data, now)
            self.unsent_bytes += len(data) - octets
        if data:
            self._count_sent(len(data), now)
        return data

    def take_pieces(self, now: float, octets_max: int) -> list[bytes | memoryview]:
        """The same as `take_output`, for who can send several pieces at once.

        Large bodies are not copied: each is a piece.
        """
        if not self.has_large or self.tap is not None:
            data = self.take_output(now, octets_max)
            return [data] if data else []
        taken: list[bytes | memoryview] = []
        between: list[bytes | memoryview] = []
        count = octets = 0
        for piece in self.pieces:
            count += 1
            octets += len(piece)
            if len(piece) < LARGE_PIECE_BYTES:
                between.append(piece)
            else:
                if between:
                    taken.append(b"".join(between))
                    between.clear()
                taken.append(piece)
            if octets >= octets_max:
                break
        if between:
            taken.append(b"".join(between))
        del self.pieces[:count]
        self.has_large = bool(self.pieces)
        self._count_sent(octets, now)
        return taken

    def _count_sent(self, octets: int, now: float) -> None:
        self.in_flight_bytes += octets
        self.sent_bytes += octets
        self.sent_chunks += 1
        if self.heartbeat is not None:
            self.heartbeat.sent_at = now

    def _cut_output(self, octets_max: int) -> bytes:
        pieces = self.pieces
        count = octets = 0
        for piece in pieces:
            count += 1
            octets += len(piece)
            if octets >= octets_max:
                break
        data = b"".join(pieces[:count])
        del pieces[:count]
        return data

    def sent(self, octets: int) -> bool:
        """The peer took `octets`; True when deliveries that had paused may go on."""
        congested = self.unsent_bytes > self.unsent_bytes_max
        self.unsent_bytes -= octets
        self.in_flight_bytes -= octets
        return congested and self.unsent_bytes <= self.unsent_bytes_max

    # -- details

    def _send(self, piece: bytes) -> None:
        if not self.pieces:
            self.wake()
        self.unsent_bytes += len(piece)
        self.pieces.append(piece)

    def _end_outlet(self, number: int, last_word: Frame) -> None:
        outlet = self.outlets.pop(number)
        outlet.method(last_word)
        if outlet.holding:
            self._ended_outlets[number] = outlet

    def all_said(self, number: int, outlet: ChannelOutlet) -> None:
        """Nothing that the outlet said is held any more: if its channel ended, so does it."""
        if self._ended_outlets.get(number) is outlet:
            del self._ended_outlets[number]

    def _close_outlets(self) -> None:
        for outlets in (self.outlets, self._ended_outlets):
            for outlet in outlets.values():
                outlet.close()

    def _handle_start_ok(self, method: Methods.StartOk, properties: Arguments) -> Event:
        self.client_properties = properties
        self.capabilities = capabilities(properties)
        self.mechanism = method.mechanism or ""
        credentials = None
        if self.mechanism in self._mechanisms:
            response = cast(Any, method).response  # octets, whatever pamqp declares
            credentials = read_response(self.mechanism, response, self.limits.table_depth_max)
        if credentials is None:
            raise ConnectionException(
                SYNTAX_ERROR, f"no credentials in a {self.mechanism!r} response"
            )
        self.state = State.AUTHENTICATING
        return LoginAttempt(self.mechanism, credentials)

    def _handle_tune_ok(self, method: Methods.TuneOk, now: float) -> None:
        self.reader.frame_bytes_max = agree_frame_max(method.frame_max or 0, self.limits)
        self.channel_max = agree_channel_max(method.channel_max or 0, self.limits)
        if method.heartbeat:
            # The client's value wins, for both directions.
            self.heartbeat = Heartbeat(method.heartbeat, now)
        self.state = State.OPENING

    def _handle_running(self, method: Frame) -> Event | None:
        if isinstance(method, Methods.Close):
            return ClosedByPeer(method.reply_code or 0, method.reply_text or "")
        if isinstance(method, Methods.UpdateSecret):
            secret = cast(Any, method).new_secret  # octets, too
            return SecretUpdate(secret)
        if method_ids(method)[0] != 10:
            raise ConnectionException(
                CHANNEL_ERROR,
                "unexpected method in connection state running",
                method_ids(method),
            )
        raise ConnectionException(COMMAND_INVALID, "unimplemented method", method_ids(method))

    def _handle_closing(self, method: Frame) -> None:
        if isinstance(method, Methods.CloseOk):
            self.end("closed by the broker")
        elif isinstance(method, Methods.Close):
            # Both sides closed at once (0-9-1 §1.4.2.10): answered, and that is the end.
            self.send_method(0, Methods.CloseOk())
            self.peer_hangs_up = True
            self.end("closed by both sides")


def reply_text(exception: AMQPException) -> str:
    """The words of a close as UTF-8, which names in a publish need not be."""
    text = exception.reply_text
    if text.isascii():
        return text
    return cut(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def start_frame(properties: Arguments, mechanisms: tuple[str, ...]) -> bytes:
    """connection.start, the same for all clients of a broker."""
    return method_frame(0, Methods.Start(0, 9, {}, " ".join(mechanisms), LOCALES), properties)


def server_properties(version: str, cluster_name: str, information: str) -> Arguments:
    """What connection.start says of this broker. Clients branch on product and version."""

    def text(value: str) -> Field:
        return ("S", value)

    supported: Arguments = dict.fromkeys(CAPABILITIES, ("t", True))
    return {
        "capabilities": ("F", supported),
        "cluster_name": text(cluster_name),
        "copyright": text("Copyright the authors of amqpd"),
        "information": text(information),
        "platform": text("Python"),
        "product": text("RabbitMQ"),
        "version": text(version),
    }
