"""A link to this broker itself: a client without a socket.

What it sends is a turn of the broker, what the broker has to say to it waits until it is received.
It keeps the same rules as `ClientSocket`: it is not read from while the broker can take no more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from amqpd.protocol.connection import ENDING
from amqpd.runtime.peer import Peer
from amqpd.runtime.trusted_peer import TrustedPeer
from amqpd.timers import Entry

if TYPE_CHECKING:
    from amqpd.runtime.server import Server

CHUNK_BYTES: Final = 256 * 1024


class LocalClient:
    """Both ends of a connection in this process: a client to the server, a transport to links."""

    def __init__(self, server: Server, *, trusted: bool) -> None:
        """Trusted, or to be logged in with user and password like everybody else."""
        self.timer: Entry | None = None
        self.secure = False
        self._server = server
        self._turns = server.turns
        self._changed = anyio.Event()
        self._writes = False
        """What it said last is for the journal."""
        self._dismissed = False
        number = server.broker.next_serial()
        self.peer = server.admit(
            self,
            ("127.0.0.1", 0),
            None,
            name=f"link {number} -> this broker",
            peer_type=TrustedPeer if trusted else Peer,
        )
        self._turns.watch(self)

    # -- as amqpd.links.transport.Transport

    @property
    def name(self) -> str:
        """As connections are listed."""
        return self.peer.name

    async def receive(self) -> bytes:
        """What the broker says next."""
        connection = self.peer.connection
        while not connection.pieces:
            if self.peer.closed:
                await self.aclose()
                raise anyio.EndOfStream
            await self._change()
        # A turn for everybody else, however much there is to be had here.
        await anyio.lowlevel.checkpoint()
        data = connection.take_output(self._turns.now(), CHUNK_BYTES)
        if connection.sent(len(data)):
            self.peer.resume()
            self._turns.finish()
        self._advance()
        return data

    async def send(self, data: bytes) -> None:
        """Say something, once the broker can take it."""
        while not (self._readable() or self.peer.closed):
            await self._change()
        await anyio.lowlevel.checkpoint()
        if self.peer.closed:
            raise anyio.BrokenResourceError
        self._attend(partial(self.peer.receive, data))
        while self.peer.busy:
            if self.peer.may_go_on:
                await anyio.lowlevel.checkpoint()
                self._attend(self.peer.go_on)
            else:
                await self._change()

    async def aclose(self) -> None:
        """Hang up."""
        if not self._dismissed:
            self._dismissed = True
            self.peer.lost("the link ended")
            self._turns.finish()
            self._server.dismiss(self)
            self._advance()

    # -- as the server's client

    def flush(self) -> None:
        """The broker has said something."""
        self._advance()

    def wake(self) -> None:
        """What the peer waited for is there."""
        self._advance()

    def pace(self) -> None:
        """The broker may be able to take more."""
        self._advance()

    def pausing(self, now: float) -> bool:
        """Whether the rest of what was said has to wait, in a turn that began at `now`."""
        return self._turns.now() - now > self._server.limits.turn_s

    def shut_down(self, reason: str, now: float) -> None:
        """The broker stops."""
        self.peer.close(reason, now)

    # -- as amqpd.timers.Timed

    def deadline(self) -> float | None:
        """When the peer has to be asked."""
        return self.peer.deadline()

    def handle_timer(self, now: float) -> None:
        """Ask it."""
        self.peer.handle_timer(now)
        self._advance()

    # -- details

    def _readable(self) -> bool:
        peer, server = self.peer, self._server
        if peer.connection.state in ENDING:
            return True
        swamped = peer.connection.unsent_bytes > server.limits.unsent_pause_bytes
        return not (
            peer.blocked
            or peer.busy
            or swamped
            or (self._writes and self._turns.must_wait_for_journal(self))
        )

    def _attend(self, step: Callable[[float], None]) -> None:
        """A turn of the broker."""
        self.peer.attend(step, self._turns.now())
        self._turns.finish()
        self._writes = self._turns.journaled
        if not self._dismissed:
            self._turns.watch(self)
        self._advance()

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    def _advance(self) -> None:
        self._changed.set()
