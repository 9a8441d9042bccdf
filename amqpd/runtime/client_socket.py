"""One client's socket: between the event loop's transport and the sans-IO peer.

    transport ──data_received──> [TLS] ──> Peer          one chunk is one turn of the broker
    transport <──────flush─────── [TLS] <── pieces        one write a connection and turn

A callback protocol, not a pair of tasks: a small chunk costs a turn of the broker and no switch of
tasks (docs/decisions/0007). While the transport cannot take more, pieces pile up, until deliveries
to this peer pause; while the broker cannot take more, the socket is not read. Nobody gets more than
a turn at a time: what a long chunk leaves to be done (`Peer.busy`), what is left to be sent, and
deliveries to a peer that has just read, wait until the loop has looked at all the others.

In the midst of a large body the transport rests, and the socket is read from here: straight to the
body's place, and as much at a time as there is. By way of the transport each octet would be copied
three times, in chunks of 256 KB, and every call wakes the sender, who shares the machine.

When a connection is over, its last words still have to go out, and the peer has to read them before
the socket is closed: a reset would take them away. Who closed the connection closes its socket
first, as with RabbitMQ. A peer that does not close its end within `Limits.linger_s` is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from amqpd.protocol.connection import ENDING, UNTRUSTED, State
from amqpd.runtime.peer import Peer
from amqpd.runtime.tls_layer import TLSFailed, TLSLayer
from amqpd.timers import Entry

if TYPE_CHECKING:
    from amqpd.runtime.server import Server

logger = logging.getLogger("amqpd.connection")

WRITE_BYTES_MAX: Final = 1024 * 1024
"""Most that is joined for one write."""
PIECES_BYTES_MAX: Final = 2 * WRITE_BYTES_MAX
"""Most that is written at a time as it is: a body of a megabyte and its frames are one write."""
BULK_BYTES: Final = 1024 * 1024
"""Most that is read at a time of large bodies."""
BULK_BODY_BYTES_MIN: Final = 32 * 1024
"""From this size on a body is large."""
HUGE_BODY_BYTES_MIN: Final = BULK_BYTES // 2
"""From this size on it has reads of its own, for its beginning and for the rest."""
HUGE_BEGIN_BYTES: Final = 64 * 1024
"""What is read where a huge body begins: its place is not known yet."""
CALM_ENDS: Final = frozenset({"closed by the client", "closed by the broker"})


class ClientSocket:
    """Runs one connection from its first octet to its last: an `asyncio.Protocol` in what it does.

    Not in what it extends: then it would not be compiled, and every chunk passes here.
    """

    def __init__(
        self, server: Server, tls: TLSLayer | None, sock: socket.socket | None = None
    ) -> None:
        """`sock` is what the transport reads from, if it may be read from here as well."""
        self.timer: Entry | None = None
        self.peer: Peer
        self._server = server
        self._turns = server.turns
        self._limits = server.limits
        self._tls = tls
        self._transport: asyncio.Transport
        self._socket = sock
        self._reading = True
        self._in_bulk = False
        """The transport rests, `_read_bulk` reads."""
        self._writes = False
        """What it said last is for the journal."""
        self._full = False
        """The transport takes no more for now."""
        self._buffered = 0
        """What was left in the transport when the peer was last asked."""
        self._drop_at: float | None = None
        """When a peer that does not take our last words is dropped."""
        self._going_on = False
        """The loop was asked to come back, see `_go_on`."""
        self._resuming = False
        """The peer has read: deliveries to it go on then."""
        self._said_all = False
        self._left_early = False
        """The client went before it said who it is."""

    @property
    def secure(self) -> bool:
        """Over TLS."""
        return self._tls is not None

    # -- as asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._loop = asyncio.get_event_loop()
        self._transport = cast(asyncio.Transport, transport)
        self.peer = self._server.admit(
            self, transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        )
        self._turns.watch(self)

    def data_received(self, data: bytes) -> None:
        """A chunk came: one turn of the broker."""
        if self._tls is not None:
            try:
                data = self._tls.receive(data)
            except TLSFailed as failure:
                self._fail_tls(failure)
                return
            self._send(b"")
        peer = self.peer
        if data and not peer.closed:
            peer.attend(partial(peer.receive, data), self._turns.now())
        self._end_turn()
        if peer.placing and self._reading and self._tls is None and self._socket is not None:
            self._in_bulk = True
            self._transport.pause_reading()
            self._loop.call_soon(self._read_bulk, self._socket)

    def eof_received(self) -> bool:
        """The peer will say nothing more; the transport closes when ours is out, or is dropped."""
        self._lost("client closed the socket without closing the connection")
        self._linger()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._lost("client closed the socket" if exc is None else describe_loss(exc))
        self._server.dismiss(self)
        reason = self.peer.connection.end_reason
        if reason:
            extra = {"peer": self.peer.name, "reason": reason}
            logger.log(self._end_level(reason), "connection closed", extra=extra)
        self.peer.forget()

    def pause_writing(self) -> None:
        """The peer does not read as fast as it is sent to."""
        self._full = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._full = False
        self.peer.sent(self.peer.connection.in_flight_bytes)
        self.flush()
        self._turns.finish()
        self.pace()
        if self.peer.may_go_on:
            self._go_on_soon()

    # -- for the server

    def flush(self) -> None:
        """Send what has piled up, if the transport can take it."""
        if self._full:
            return
        connection = self.peer.connection
        now = self._turns.now()
        if connection.has_large and self._tls is None:
            pieces = connection.take_pieces(now, PIECES_BYTES_MAX)
            octets = sum(map(len, pieces))
            if pieces and not self._transport.is_closing():
                self._transport.writelines(pieces)
        else:
            data = connection.take_output(now, WRITE_BYTES_MAX)
            octets = len(data)
            if data:
                self._send(data)
        if octets:
            if self._full:
                return
            self._resuming = connection.sent(octets) or self._resuming
            if not self._reading:
                self.pace()
            if connection.pieces or self._resuming or self.peer.may_go_on:
                self._go_on_soon()
                return
        if self.peer.closed:
            self._last_words()

    def wake(self) -> None:
        """What the peer waited for is there."""
        self._go_on_soon()

    def pausing(self, now: float) -> bool:
        """Whether the rest of what the peer said has to wait, in a turn that began at `now`."""
        return self._turns.now() - now > self._limits.turn_s or self._swamped()

    def pace(self) -> None:
        """Read from the peer while the broker can take more of it, and no longer."""
        peer = self.peer
        readable = not peer.busy and (
            peer.connection.state in ENDING
            or not (
                peer.blocked
                or self._swamped()
                or (self._writes and self._turns.must_wait_for_journal(self))
            )
        )
        if readable != self._reading and not self._transport.is_closing():
            self._reading = readable
            if self._in_bulk:
                return
            if readable:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def shut_down(self, reason: str, now: float) -> None:
        """The broker stops: ask the client to go. Who has not said who he is is not asked."""
        if self.peer.connection.state in UNTRUSTED:
            self._lost(reason)
            self._last_words()
        else:
            self.peer.close(reason, now)

    # -- as `amqpd.timers.Timed`

    def deadline(self) -> float | None:
        """When the peer has to be asked, or to be dropped."""
        return self.peer.deadline() if self._drop_at is None else self._drop_at

    def handle_timer(self, now: float) -> None:
        """Ask the peer, or drop it."""
        if self._drop_at is not None:
            if now >= self._drop_at:
                self._drop_at = None
                if not self._said_all:
                    self._hang_up()
                self._transport.abort()
            return
        if not self._reading:
            # It is the broker that does not read: silence says nothing about the peer, unless the
            # broker waits for the peer to read, and it does not.
            buffered, self._buffered = self._buffered, self._transport.get_write_buffer_size()
            if not self._swamped() or self._buffered != buffered:
                self.peer.connection.received(1)
        self.peer.handle_timer(now)
        if self.peer.closed:
            self._last_words()

    # -- details

    def _read_bulk(self, sock: socket.socket) -> None:
        """One chunk of large bodies; again when the loop has looked at everybody else."""
        peer = self.peer
        if self._transport.is_closing():
            return
        if not self._reading or peer.closed:
            self._end_bulk()
            return
        try:
            if peer.placing:
                octets = sock.recvmsg_into(peer.place(BULK_BYTES))[0]
                step = partial(peer.receive_placed, octets)
            else:
                size = peer.connection.reader.latest_body_bytes
                data = sock.recv(BULK_BYTES if size < HUGE_BODY_BYTES_MIN else HUGE_BEGIN_BYTES)
                octets = len(data)
                step = partial(peer.receive, data)
        except (BlockingIOError, InterruptedError):
            self._end_bulk()
            return
        except OSError as error:
            self._lost(describe_loss(error))
            self._transport.abort()
            return
        if octets:
            peer.attend(step, self._turns.now())
            self._end_turn()
            size = peer.connection.reader.latest_body_bytes
            if size >= BULK_BODY_BYTES_MIN:
                if size < HUGE_BODY_BYTES_MIN:  # with huge ones it makes no difference
                    self._turns.let_others_go_first()
                self._loop.call_soon(self._read_bulk, sock)
                return
        self._end_bulk()  # the end of what it says is for the transport to see

    def _end_bulk(self) -> None:
        """Leave the reading to the transport again."""
        self._in_bulk = False
        if self._reading and not self._transport.is_closing():
            self._transport.resume_reading()

    def _end_level(self, reason: str) -> int:
        """How loud the end is in the log. Health checks connect and go, every few seconds."""
        if self._left_early:
            return logging.DEBUG
        return logging.INFO if reason in CALM_ENDS else logging.WARNING

    def _go_on_soon(self) -> None:
        """Come back when the loop has looked at everybody else."""
        if not self._going_on:
            self._going_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Another turn, with what the last one left."""
        self._going_on = False
        if self._transport.is_closing():
            return
        peer = self.peer
        if self._resuming:
            self._resuming = False
            peer.resume()
        if peer.may_go_on and not self._swamped():
            peer.attend(peer.go_on, self._turns.now())
        self.flush()
        self._end_turn()

    def _end_turn(self) -> None:
        peer, turns = self.peer, self._turns
        turns.finish()
        self._writes = turns.journaled
        turns.watch(self)
        self.pace()
        if peer.closed:
            self._last_words()
        elif peer.may_go_on and not self._swamped():
            self._go_on_soon()

    def _swamped(self) -> bool:
        """So much waits for the peer to read that nothing more is done for it before it does."""
        connection = self.peer.connection
        return (
            connection.unsent_bytes > self._limits.unsent_pause_bytes
            and connection.state not in ENDING
        )

    def _send(self, data: bytes) -> None:
        """Write, through TLS if there is any: then `data` may be empty and its records not."""
        if self._tls is not None:
            data = self._tls.send(data)
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _lost(self, reason: str) -> None:
        peer = self.peer
        if peer.closed:
            return
        state = peer.connection.state
        self._left_early = state in (State.GREETING, State.STARTING)
        if state is State.GREETING:
            reason = "closed by the client before it said anything"
        peer.lost(reason)
        self._turns.finish()

    def _fail_tls(self, failure: TLSFailed) -> None:
        """No TLS with this client: say so in TLS, if it can be said, and hang up."""
        logger.warning(
            "TLS handshake failed", extra={"peer": self.peer.name, "reason": str(failure)}
        )
        self.peer.lost("")
        if failure.alert and not self._transport.is_closing():
            self._transport.write(failure.alert)
        self._last_words()

    def _last_words(self) -> None:
        """The connection is over: say what is left, then wait for the peer to close its end."""
        if self._said_all:
            return
        self._linger()
        connection = self.peer.connection
        if connection.pieces:
            self.flush()
        elif not self._full and not self._peer_hangs_up():
            self._hang_up()

    def _linger(self) -> None:
        """Give the peer some time to read our last words, and no more."""
        if self._drop_at is None:
            self._drop_at = self._turns.now() + self._limits.linger_s
            self._turns.watch(self)
            self.pace()

    def _peer_hangs_up(self) -> bool:
        """It closed the connection: an end of ours on the heels of close-ok is an error to some
        clients, so it goes first. In TLS it may wait for us after it said that it goes."""
        if not self.peer.connection.peer_hangs_up:
            return False
        return self._tls is None or not self._tls.peer_closed

    def _hang_up(self) -> None:
        self._said_all = True
        if self._tls is not None:
            self._tls.close()
            self._send(b"")
        if not self._transport.is_closing():
            with suppress(OSError):  # it may have been reset, and the loop not know yet
                self._transport.write_eof()


def describe_loss(error: BaseException) -> str:
    """In plain words, how a socket ended that was not closed."""
    cause: Any = error.__cause__ or error
    reason = getattr(cause, "strerror", None) or str(cause)
    return f"socket error: {reason}" if reason else "socket error"
