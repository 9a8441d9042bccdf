"""One client's socket: a task that reads, a task that writes, and the peer between them.

Each chunk read is one turn of the broker. The writer sends what has piled up, whole, when it is
woken; while it waits for a slow peer, more piles up, until deliveries to that peer pause.

When a connection is over, its last words still have to go out. A peer that does not take them
within `Limits.linger_s` is dropped.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import SocketStream, TaskGroup
from anyio.streams.tls import TLSStream

from amqpd.protocol.connection import UNTRUSTED, State
from amqpd.runtime.peer import Peer
from amqpd.timers import Entry

if TYPE_CHECKING:
    from amqpd.runtime.server import Server

logger = logging.getLogger("amqpd.connection")

LOST: Final = (BrokenResourceError, ClosedResourceError, OSError)
"""How a socket ends that was not closed; ssl.SSLError is an OSError."""
CALM_ENDS: Final = frozenset({"closed by the client", "closed by the broker"})


class ConnectionTask:
    """Runs one connection from its first octet to its last."""

    def __init__(self, server: Server, stream: SocketStream | TLSStream, peer: Peer) -> None:
        self.peer = peer
        self.timer: Entry | None = None
        self._server = server
        self._stream = stream
        self._speak = anyio.Event()
        self._drained = anyio.Event()
        self._resumed = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._drop_at: float | None = None
        """When a peer that does not take our last words is dropped."""
        self._gone = False
        """The peer's end of the socket is closed: there is nobody to linger for."""

    async def run(self) -> None:
        """Serve the client until it is gone."""
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._write)
                await self._read()
        finally:
            self.peer.lost("connection lost")
            self._server.finish_turn()
            self._log_end()
            await self._hang_up()

    def speak(self) -> None:
        """There is something to send, or nothing will be any more."""
        self._speak.set()

    def resume(self) -> None:
        """An alarm changed: a blocked publisher may be read from again."""
        self._resumed.set()

    def shut_down(self, reason: str, now: float) -> None:
        """The broker stops: ask the client to go. Who has not said who he is is not asked."""
        if self.peer.connection.state in UNTRUSTED:
            self.peer.lost(reason)
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
                self._drop()
            return
        if self._server.journal_full:
            # Nobody is read from while the disk is behind: silence says nothing about the peer.
            self.peer.connection.received(1)
        self.peer.handle_timer(now)
        if self.peer.closed:
            self._last_words()

    def _last_words(self) -> None:
        """The connection is over: send what is left to say, for a while."""
        self.speak()
        if self._drop_at is None:
            self._drop_at = self._server.clock.now() + self._server.limits.linger_s
            self._server.watch(self)

    def _drop(self) -> None:
        self._drop_at = None
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            self.resume()

    # -- reading

    async def _read(self) -> None:
        server, peer = self._server, self.peer
        read_bytes = server.limits.read_bytes
        connection = peer.connection
        try:
            while not peer.closed:
                data = await self._stream.receive(read_bytes)
                self._receive(data)
                server.finish_turn()
                server.watch(self)
                if peer.blocked:
                    await self._wait_unblocked()
                if connection.unsent_bytes > server.limits.unsent_pause_bytes:
                    await self._wait_drained()
                if server.journal_full:
                    await server.wait_for_journal()
        except EndOfStream:
            self._gone = True
            if connection.state is State.GREETING:
                connection.end("closed by the client before it said anything")
            peer.lost("client closed the socket without closing the connection")
        except LOST as error:
            self._gone = True
            peer.lost(describe_loss(error))
        server.finish_turn()
        self._last_words()

    def _receive(self, data: bytes) -> None:
        now = self._server.clock.now()
        try:
            self.peer.receive(data, now)
        except Exception:
            # A bug of ours: it ends this connection, as RabbitMQ's crashes do, and no other.
            logger.exception("internal error", extra={"peer": self.peer.name})
            self.peer.crash(now)

    async def _wait_unblocked(self) -> None:
        while self.peer.blocked and not self.peer.closed:
            self._resumed = anyio.Event()
            await self._resumed.wait()

    async def _wait_drained(self) -> None:
        pause_bytes = self._server.limits.unsent_pause_bytes
        while self.peer.connection.unsent_bytes > pause_bytes and not self.peer.closed:
            self._drained = anyio.Event()
            await self._drained.wait()

    # -- writing

    async def _write(self) -> None:
        server, peer = self._server, self.peer
        connection = peer.connection
        try:
            while True:
                await self._speak.wait()
                self._speak = anyio.Event()
                data = connection.take_output(server.clock.now())
                if data:
                    await self._stream.send(data)
                    peer.sent(len(data))
                    self._drained.set()
                    server.finish_turn()
                if peer.closed and not connection.pieces:
                    break
        except LOST as error:
            self._gone = True
            peer.lost(describe_loss(error))
            server.finish_turn()
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()

    async def _hang_up(self) -> None:
        """Close without cutting off our last words: a reset would take them from the peer."""
        stream = self._stream
        transport = stream.transport_stream if isinstance(stream, TLSStream) else stream
        assert isinstance(transport, SocketStream)
        try:
            with (
                anyio.move_on_after(self._server.limits.linger_s),
                contextlib.suppress(EndOfStream, *LOST),
            ):
                if isinstance(stream, TLSStream):
                    await stream.unwrap()
                await transport.send_eof()
                while True:
                    await transport.receive()
        finally:
            with anyio.CancelScope(shield=True), contextlib.suppress(*LOST):
                await transport.aclose()

    def _log_end(self) -> None:
        reason = self.peer.connection.end_reason
        level = logging.INFO if reason in CALM_ENDS else logging.WARNING
        logger.log(level, "connection closed", extra={"peer": self.peer.name, "reason": reason})


def describe_loss(error: Exception) -> str:
    """Why a socket ended, as the system puts it."""
    cause = error.__cause__ if isinstance(error, BrokenResourceError) else error
    said = getattr(cause, "strerror", None) or str(cause or "")
    return f"socket error: {said}" if said else "socket error"
