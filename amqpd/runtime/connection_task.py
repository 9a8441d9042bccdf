"""One client's socket: a task that reads, a task that writes, and the peer between them.

Each chunk read is one turn of the broker. The writer sends what has piled up, whole, when it is
woken; while it waits for a slow peer, more piles up, until deliveries to that peer pause.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Final

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ByteStream, TaskGroup

from amqpd.protocol.connection import State
from amqpd.runtime.peer import Peer

if TYPE_CHECKING:
    from amqpd.runtime.server import Server

logger = logging.getLogger("amqpd.connection")

LOST: Final = (BrokenResourceError, ClosedResourceError, OSError, ssl.SSLError)
CALM_ENDS: Final = frozenset({"closed by the client", "closed by the broker"})


class ConnectionTask:
    """Runs one connection from its first octet to its last."""

    def __init__(self, server: Server, stream: ByteStream, peer: Peer) -> None:
        self.peer = peer
        self.timer_at: float | None = None
        self._server = server
        self._stream = stream
        self._speak = anyio.Event()
        self._drained = anyio.Event()
        self._tasks: TaskGroup | None = None
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
            with anyio.CancelScope(shield=True):
                await self._hang_up()

    def speak(self) -> None:
        """There is something to send, or nothing will be any more."""
        self._speak.set()

    # -- as `amqpd.timers.Timed`

    def deadline(self) -> float | None:
        """When the peer has to be asked."""
        return self.peer.deadline()

    def handle_timer(self, now: float) -> None:
        """Ask the peer."""
        self.peer.handle_timer(now)
        if self.peer.closed:
            self.speak()

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
            peer.lost(f"socket error: {error}" if str(error) else "socket error")
        server.finish_turn()
        self.speak()

    def _receive(self, data: bytes) -> None:
        now = self._server.clock.now()
        try:
            self.peer.receive(data, now)
        except Exception:
            # A bug of ours: it ends this connection, as RabbitMQ's crashes do, and no other.
            logger.exception("internal error", extra={"peer": self.peer.name})
            self.peer.crash(now)

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
            peer.lost(f"socket error: {error}" if str(error) else "socket error")
            server.finish_turn()
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()

    async def _hang_up(self) -> None:
        """Close without cutting off our last words: a reset would take them from the peer."""
        with anyio.move_on_after(self._server.limits.linger_s):
            try:
                if not self._gone and hasattr(self._stream, "send_eof"):
                    await self._stream.send_eof()
                    while True:
                        await self._stream.receive()
            except (EndOfStream, NotImplementedError, RuntimeError, *LOST):
                pass  # RuntimeError: what uvloop says of a transport that is closed already
        with anyio.move_on_after(1):
            try:
                await self._stream.aclose()
            except LOST:
                pass

    def _log_end(self) -> None:
        reason = self.peer.connection.end_reason
        level = logging.INFO if reason in CALM_ENDS else logging.WARNING
        logger.log(level, "connection closed", extra={"peer": self.peer.name, "reason": reason})
