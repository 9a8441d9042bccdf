"""One client: a protocol connection and a broker session, introduced to each other.

Still sans-IO: bytes and `now` in, bytes and a deadline out. The TCP server drives it, and so do
tests, the simulator and embedded brokers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from amqpd.broker.access import User
from amqpd.broker.broker import Broker
from amqpd.broker.handlers import handle
from amqpd.broker.limits import require_channel_room
from amqpd.broker.paging import Postponed
from amqpd.broker.publishing import publish, refuse_oversized
from amqpd.broker.session import Origin, Session
from amqpd.commands import Channel, Message, MethodCommand, Oversized, Settle
from amqpd.commands import Connection as Methods
from amqpd.config import SERVER_VERSIONS
from amqpd.errors import (
    CHANNEL_ERROR,
    CONNECTION_FORCED,
    INTERNAL_ERROR,
    NOT_ALLOWED,
    AMQPException,
    ChannelException,
    ConnectionException,
)
from amqpd.protocol.connection import (
    ClosedByPeer,
    Connection,
    Event,
    LoginAttempt,
    OpenAttempt,
    SecretUpdate,
    State,
    server_properties,
    start_frame,
)
from amqpd.protocol.frames import Command
from amqpd.protocol.handshake import mechanisms
from amqpd.protocol.methods import method_ids
from amqpd.runtime.log_limit import LogLimit

logger = logging.getLogger("amqpd.connection")

CONNECTION_BLOCKED: Final = "connection.blocked"
PUBLISH: Final = (60, 40)
LOOPBACK_ADVICE: Final = (
    "make another user (AMQPD_DEFAULT_USER on an empty store, or definitions), "
    "or leave this one out of loopback_users"
)
COMMANDS_MIN: Final = 16
"""Commands of a peer that are handled before it is asked whether to go on."""


def ids_of(command: MethodCommand | Message | Settle | Oversized) -> tuple[int, int]:
    """Class and method id, for the texts of faults."""
    if isinstance(command, MethodCommand):
        return method_ids(command.method)
    return command.method if isinstance(command, Settle) else PUBLISH


@lru_cache(maxsize=8)
def _start(compat: str, cluster_name: str, information: str) -> bytes:
    """connection.start: to encode it took a tenth of what a new connection costs."""
    properties = server_properties(SERVER_VERSIONS[compat], cluster_name, information)
    return start_frame(properties, mechanisms(compat))


def _wake_nobody() -> None:
    """A queue may have the head that a client waited for when the client is gone."""


class Peer:
    """A client and everything it has here."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        is_loopback: bool,
        information: str,
        now: float,
        speaking: list[Connection],
        pausing: Callable[[float], bool] | None = None,
        waking: Callable[[], None] = lambda: None,
        secure: bool = False,
    ) -> None:
        """`name` is `host:port -> host:port`, as RabbitMQ names connections; `secure` with TLS.

        `speaking` collects the connections, this one and others, that have something to send.
        `pausing(now)` says, in the midst of a chunk, whether to leave the rest of it for `go_on`:
        because the turn that began at `now` is long, or because of what the peer does not read.
        `waking()` says that what a command waited for is there: `go_on` then.
        """
        self.broker = broker
        self.name = name
        compat = broker.config.compat
        self.connection = Connection(
            broker.limits,
            _start(compat, broker.cluster_name, information),
            mechanisms(compat),
            strict_sizes=compat != "3.13",
            now=now,
            speaking=speaking,
        )
        self.session: Session | None = None
        self.received_bytes = 0
        self.received_chunks = 0
        self.blocked = False
        """Published during an alarm: not to be read from until all alarms are clear."""
        self.waiting = False
        """A command waits for messages to be read from disk, and all that follows for it."""
        self.held = False
        """Consumers have to catch up with what it published: nothing more of it is acted on."""
        self.held_at = -math.inf
        """When that began last."""
        self._pausing = pausing
        self._waking = waking
        self._left: list[Command] = []
        """Commands not handled yet."""
        self._is_loopback = is_loopback
        self._secure = secure
        self._pid = broker.pid(broker.next_serial())
        self._connected_ms = int((broker.effects.epoch_s + now) * 1000)
        self._channel_errors = LogLimit()
        self._gone = False
        """connection.closed was told."""
        self._user: User | None = None

    @property
    def closed(self) -> bool:
        """Nothing more is read from it; what is to be sent still is."""
        return self.connection.state is State.CLOSED

    @property
    def busy(self) -> bool:
        """Not all that it said was acted on: call `go_on`, and read nothing more before."""
        return not self.closed and (
            bool(self._left) or self.held or self.connection.reader.has_more
        )

    @property
    def may_go_on(self) -> bool:
        """It is busy, and nothing but its turn has to come."""
        return self.busy and not (self.waiting or self.held)

    @property
    def origin(self) -> Origin:
        """What the broker knows of the connection so far."""
        connection = self.connection
        heartbeat = connection.heartbeat
        return Origin(
            name=self.name,
            pid=self._pid,
            secure=self._secure,
            mechanism=connection.mechanism,
            client_properties=connection.client_properties,
            frame_bytes_max=connection.reader.frame_bytes_max,
            channel_max=connection.channel_max,
            heartbeat_s=0 if heartbeat is None else int(heartbeat.interval_s),
            connected_ms=self._connected_ms,
        )

    # -- what comes in

    def receive(self, data: bytes, now: float) -> None:
        """Act on everything that `data` completes."""
        connection = self.connection
        self._count_received(len(data), now)
        if connection.state is State.GREETING:
            data = connection.greet(data)
            if not data:
                return
        if connection.tap is not None:
            data = connection.tap.inbound.filter(data, now)
        self._read(data, now)

    @property
    def placing(self) -> bool:
        """A large body is on its way, and its place is known: see `place`."""
        connection = self.connection
        return connection.reader.placing and connection.tap is None and not self.closed

    def place(self, octets_max: int) -> list[memoryview]:
        """Where the next octets belong, `octets_max` of a body at the most; `receive_placed` then.

        Nothing, if they are to be given to `receive`.
        """
        return self.connection.reader.place(octets_max) if self.placing else []

    def receive_placed(self, octets: int, now: float) -> None:
        """As `receive`, with octets that are in the places that `place` gave."""
        self._count_received(octets, now)
        self._go_through(self.connection.reader.placed(octets), now)

    def _count_received(self, octets: int, now: float) -> None:
        self.connection.received(octets)
        self.received_bytes += octets
        self.received_chunks += 1
        self.broker.now = now

    def _read(self, data: bytes, now: float) -> None:
        self._go_through(self.connection.reader.receive(data), now)

    def _go_through(self, commands: list[Command], now: float) -> None:
        """Act on what was read, and on what the reader has more of."""
        connection = self.connection
        reader = connection.reader
        self._act_on(commands, now)
        pausing = self._pausing
        while reader.has_more and not self._left and not self.held:
            if connection.state is State.CLOSED:
                break
            if pausing is not None and pausing(now):
                break
            self._act_on(reader.receive(b""), now)
        if connection.tap is not None and connection.tap.closed:
            self.lost("cut by the frame tap")
            connection.wake()

    def go_on(self, now: float) -> None:
        """Act on more of what was left: see `may_go_on`."""
        self.broker.now = now
        self._read(b"", now)

    def _act_on(self, commands: list[Command], now: float) -> None:
        if self._left:
            commands = self._left + commands
            self._left = []
        pausing = self._pausing
        crowded = self.broker.flow.crowded
        if pausing is None or len(commands) <= COMMANDS_MIN:
            self._handle_all(commands, now)
        else:
            for start in range(0, len(commands), COMMANDS_MIN):
                if start and (crowded or pausing(now)):
                    self._left = commands[start:]
                    commands = commands[:start]
                    break
                self._handle_all(commands[start : start + COMMANDS_MIN], now)
                if self._left:  # one of these is postponed
                    self._left += commands[start + COMMANDS_MIN :]
                    break
        if crowded and self._published(commands):
            self.held = True
            self.held_at = now
            self.broker.flow.hold(self._release)
        alarms = self.broker.alarms
        if alarms and (self.connection.reader.amid_content or self._published(commands)):
            self._block()

    def handle_timer(self, now: float) -> None:
        """Do what `deadline` announced."""
        self.broker.now = now
        connection = self.connection
        connection.handle_timer(now)
        if connection.tap is not None and not self.closed:
            self._read(connection.tap.inbound.due(now), now)
            connection.wake()
        if self.closed:
            self._end_session()

    def deadline(self) -> float | None:
        """When `handle_timer` has to be called."""
        return self.connection.deadline()

    def lost(self, reason: str) -> None:
        """The socket is gone."""
        self.connection.end(reason)
        self._end_session()

    def forget(self) -> None:
        """The socket is gone, and nothing will be sent or read any more.

        Nothing here is left to the cycle collector, which seldom comes: not a message of 128 MB of
        which half had come, nor megabytes that were never read, nor ten thousand connections.
        """
        self.connection.forget()
        self._left = []
        self._pausing = None
        self._waking = _wake_nobody

    def close(self, reason: str, now: float) -> None:
        """The operator closes the connection."""
        self._fail(ConnectionException(CONNECTION_FORCED, reason), now)

    def attend(self, step: Callable[[float], None], now: float) -> None:
        """Take a step (`receive`, `go_on`). A bug of ours ends this connection, as RabbitMQ's
        crashes do, and no other."""
        try:
            step(now)
        except Exception:
            logger.exception("internal error", extra={"peer": self.name})
            self.crash(now)

    def crash(self, now: float) -> None:
        """Something went wrong in here: 541, which RabbitMQ sends without an explanation."""
        self._fail(ConnectionException(INTERNAL_ERROR, ""), now)

    def sent(self, octets: int) -> None:
        """The peer took that many octets of what it is sent."""
        if self.connection.sent(octets):
            self.resume()

    def resume(self) -> None:
        """It has read enough of what it was sent: deliveries go on."""
        if self.session is not None:
            self.session.resume()

    # -- alarms

    def unblock(self) -> None:
        """All alarms are clear: the peer may publish again."""
        self.blocked = False
        self.connection.resume_heartbeat()
        if CONNECTION_BLOCKED in self.connection.capabilities and self.session is not None:
            self.connection.send_method(0, Methods.Unblocked())

    def _block(self) -> None:
        if self.blocked or self.session is None:
            return
        self.blocked = True
        alarms = self.broker.alarms
        alarms.block(self)
        self.connection.pause_heartbeat()
        if CONNECTION_BLOCKED in self.connection.capabilities:
            self.connection.send_method(0, Methods.Blocked(alarms.reason))

    def _published(self, commands: list[Command]) -> bool:
        return any(isinstance(command, Message | Oversized) for command in commands)

    # -- commands

    def _handle_all(self, commands: list[Command], now: float) -> None:
        session = self.session
        for command in commands:
            channel = None
            # Not by what it is not: classes that are not compiled are looked up by name.
            if session is not None and isinstance(
                command, (Message, Settle, MethodCommand, Oversized)
            ):
                channel = session.channels.get(command.channel)
            try:
                if channel is None:
                    self._handle_other(command, now)
                    session = self.session
                elif channel.committing is not None:
                    self._handle_while_committing(command)
                elif type(command) is Message:
                    publish(channel, command)
                elif type(command) is Settle:
                    channel.settle(command)
                elif type(command) is MethodCommand:
                    method_type = type(command.method)
                    if method_type is Channel.Close or method_type is Channel.Open:
                        self._handle_channel_class(command)
                    else:
                        handle(channel, command)
                elif type(command) is Oversized:
                    refuse_oversized(channel, command)
            except ChannelException as exception:
                if channel is None:
                    # A channel exception without a channel ends the connection.
                    self._fail(exception, now)
                else:
                    self._fail_channel(channel.number, exception)
                session = self.session
            except ConnectionException as exception:
                self._fail(exception, now)
                session = self.session
            except Postponed as postponed:
                self._left = commands[commands.index(command) :]
                self.waiting = True
                postponed.queue.wait_for_head(self._wake)
                return

    def _wake(self) -> None:
        """What a command waited for is there."""
        self.waiting = False
        self._waking()

    def _release(self) -> None:
        """Consumers have caught up."""
        self.held = False
        self._waking()

    def _handle_other(self, command: Command, now: float) -> None:
        """Channel 0, a channel that is not open, or the fault at the end of the commands."""
        connection = self.connection
        if isinstance(command, AMQPException):
            raise command
        method = command.method if isinstance(command, MethodCommand) else None
        if command.channel == 0:
            assert isinstance(command, MethodCommand)
            event = connection.handle(command, now)
            if event is not None:
                self._answer(event, now)
        elif connection.state is not State.RUNNING:
            return
        elif isinstance(method, Channel.Open) and connection.may_open(command.channel):
            assert self.session is not None
            require_channel_room(self.broker, self.session.user)
            outlet = connection.open_channel(command.channel, method)
            self.session.open_channel(command.channel, outlet)
        else:
            connection.stray(command.channel, method, ids_of(command))

    def _handle_channel_class(self, command: MethodCommand) -> None:
        """channel.close, or a second channel.open, on an open channel."""
        if isinstance(command.method, Channel.Open):
            self.connection.open_channel(command.channel, command.method)
        assert self.session is not None
        self.session.end_channel(command.channel)
        self.connection.end_channel(command.channel)

    def _handle_while_committing(self, command: Command) -> None:
        """Until tx.commit-ok is out, RabbitMQ takes nothing on the channel but its end."""
        assert not isinstance(command, AMQPException)
        if isinstance(command, MethodCommand) and isinstance(command.method, Channel.Close):
            self._handle_channel_class(command)
        else:
            text = "unexpected command while processing 'tx.commit'"
            raise ConnectionException(CHANNEL_ERROR, text, ids_of(command))

    # -- the handshake's questions

    def _answer(self, event: Event, now: float) -> None:
        connection = self.connection
        if isinstance(event, LoginAttempt):
            self._login(event, now)
        elif isinstance(event, OpenAttempt):
            assert self._user is not None
            self.session = self.broker.open_session(
                self._user.name, event.virtual_host, self.origin, connection.capabilities
            )
            connection.accept_open()
            logger.info(
                "connection opened",
                extra={"peer": self.name, "user": self._user.name, "vhost": event.virtual_host},
            )
        elif isinstance(event, SecretUpdate):
            self._update_secret(event)
        elif isinstance(event, ClosedByPeer):
            self._end_session()
            if event.text and event.code != 200:
                connection.end_reason = f"closed by the client: {event.code} {event.text}"
            connection.accept_close()

    def _login(self, attempt: LoginAttempt, now: float) -> None:
        access = self.broker.access
        if attempt.credentials.anonymous:
            name = self.broker.config.anonymous_login_user
            user = access.user(name)
        else:
            name = attempt.credentials.user
            user = access.authenticate(name, attempt.credentials.password)
        allowed = user is not None and access.login_allowed(name, self._is_loopback)
        self.broker.count_login("amqp091", allowed)
        if user is not None and allowed:
            self._user = user
            self.connection.accept_login()
            self._tell_login("success", name)
            return
        if user is None:
            reason = "no such user" if access.user(name) is None else "wrong password"
            told = f"user '{name}' - invalid credentials"
        else:
            told = f"user '{name}' can only connect via localhost"
            reason = f"{told}: {LOOPBACK_ADVICE}"
        logger.warning(
            "login refused",
            extra={
                "peer": self.name,
                "user": name,
                "mechanism": attempt.mechanism,
                "reason": reason,
            },
        )
        self.connection.refuse_login(now)
        self._tell_login("failure", name, told)

    def _tell_login(self, outcome: str, user: str, error: str | None = None) -> None:
        """user.authentication.success or .failure, for whoever listens."""
        events = self.broker.events
        if events.wanted:
            properties = self.origin.login(user)
            if error is not None:
                # RabbitMQ forgets to make a string of it: an array of code points.
                properties["error"] = [ord(character) for character in error]
            events.emit(f"user.authentication.{outcome}", properties, None)

    def _update_secret(self, event: SecretUpdate) -> None:
        """The internal backend has no tokens that expire: RabbitMQ accepts any new secret."""
        assert self._user is not None
        if self.broker.access.user(self._user.name) is None:
            raise ConnectionException(
                NOT_ALLOWED, "New secret was refused by one of the backends", (10, 70)
            )
        self.connection.accept_secret()

    # -- ends

    def _fail_channel(self, number: int, exception: AMQPException) -> None:
        if self._channel_errors.admits(self.broker.now):
            extra = {"peer": self.name, "channel": number, "reason": exception.reply_text}
            left_out = self._channel_errors.take_left_out()
            if left_out:
                extra["not_logged_before"] = left_out
            logger.warning("channel closed by the broker", extra=extra)
        assert self.session is not None
        self.session.end_channel(number)
        self.connection.close_channel(number, exception)

    def _fail(self, exception: AMQPException, now: float) -> None:
        # Exclusive queues are gone before the peer hears of the end, as in RabbitMQ.
        self._end_session()
        self.connection.fail(exception, now)

    def _end_session(self) -> None:
        session = self.session
        if session is not None:
            self.session = None
            self.blocked = False  # its close-ok has to be read
            self.broker.alarms.forget(self)
            session.virtual_host.received_bytes += self.received_bytes
            session.virtual_host.sent_bytes += self.connection.sent_bytes
            session.end()
        if not self._gone:
            self._gone = True
            left_out = self._channel_errors.take_left_out()
            if left_out:
                extra = {"peer": self.name, "count": left_out}
                logger.warning("more channels were closed by the broker", extra=extra)
            events = self.broker.events
            if events.wanted:
                events.emit("connection.closed", self.origin.closed(self.broker.node), None)
