"""A connection of a link: the link has it as its transport, the broker as one of its ends.

    link ──send──> [in flight] ──> [arrived, not read] ──> Peer
    link <──receive── [arrived] <── [in flight] <───────── Peer

Octets arrive in pieces of any size, later and in order. Little of them is under way at a time: who
does not read stops the other, as over TCP. A connection between machines may be cut

- so that both sides hear of it, the broker's at once or later, or
- silently: nothing passes any more, and each side notices when it misses heartbeats.

What was in flight then never arrives.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from amqpd.runtime.peer import Peer
from amqpd.runtime.trusted_peer import TrustedPeer

if TYPE_CHECKING:
    from tests.simulation.links.machine import Process

LOCAL_WINDOW: Final = 1 << 20
LOCAL_PIECE: Final = 1 << 18
NOTICED_LATE_S: Final = 40.0
"""By when a broker hears at the latest that a connection was cut."""


class Wire:
    """From the link of one process to another process, or to its own."""

    name = "link"

    def __init__(self, owner: Process, target: Process, *, heartbeats: bool) -> None:
        world = owner.world
        self.owner = owner
        self.target = target
        self.world = world
        self.remote = owner is not target
        self.octets_left = world.lifetime() if self.remote else math.inf
        """Until it is cut."""
        self._heartbeats = heartbeats
        self._passes = True
        """Octets arrive."""
        self._dead = False
        """The link knows that it is over."""
        self._goodbye = False
        """The end of it has arrived at the broker, behind everything else."""
        self._window = world.plan.window if self.remote else LOCAL_WINDOW
        self._coming = deque[bytes]()
        """To the broker, in order: timers of the same time are in none."""
        self._going = deque[bytes]()
        self._unread: list[bytes] = []
        self._to_broker = 0
        """Octets sent and not read by the broker."""
        self._heard = b""
        self._to_link = 0
        """Octets said by the broker and not read by the link."""
        self._in_at = self._out_at = world.now
        """When what was sent last arrives, to the broker and to the link."""
        self._changed = anyio.Event()
        self.peer = (Peer if self.remote else TrustedPeer)(
            target.core,
            f"link {world.next_number()}",
            is_loopback=True,
            information="",
            now=world.now,
            speaking=target.speaking,
            waking=lambda: target.later(0.0, self.resume),
        )
        target.ends[self.peer.connection] = self

    # -- as the link's transport

    async def receive(self) -> bytes:
        """What arrived."""
        while not self._heard:
            self._require_life()
            if self.peer.closed and self._passes and not self._to_link:
                self._flush()
                if not self._to_link:
                    raise anyio.EndOfStream
            await self._change()
        self._require_life()
        await anyio.lowlevel.checkpoint()
        data, self._heard = self._heard, b""
        self._to_link -= len(data)
        if self.target.alive:
            self.peer.sent(len(data))
            self._flush()
            self.target.turn()
        return data

    async def send(self, data: bytes) -> None:
        """All of it is under way."""
        while data:
            self._require_life()
            if self.peer.closed:
                raise anyio.BrokenResourceError
            room = self._window - self._to_broker
            if room <= 0:
                await self._change()
                continue
            size = min(len(data), room, self._piece_size())
            self._set_out(data[:size])
            data = data[size:]
            await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """What was sent still arrives, and then the broker hears that the link is gone."""
        self.owner.wires.pop(self, None)
        if self._dead:
            return
        self._dead = True
        self.target.later(max(0.0, self._in_at - self.world.now), self._say_goodbye)

    # -- as the broker's client

    def flush(self) -> None:
        """The broker has something to say."""
        self._flush()
        self._changed.set()

    def resume(self) -> None:
        """It may read on."""
        peer, now = self.peer, self.world.now
        if not self.target.alive:
            return
        while peer.may_go_on:
            peer.go_on(now)
        while self._unread and not (peer.busy or peer.blocked or peer.closed):
            piece = self._unread.pop(0)
            self._to_broker -= len(piece)
            self.world.record(piece)
            peer.receive(piece, now)
            while peer.may_go_on:
                peer.go_on(now)
        self.target.turn()
        self._changed.set()
        if self._goodbye and not self._unread and not peer.busy:
            self._end_at_broker()

    def lost(self) -> None:
        """The process of the broker is gone."""
        self._passes = False
        if not (self.world.troubled and self._heartbeats and self.world.chance.random() < 0.3):
            self._break()

    # -- what happens to it

    def cut(self) -> None:
        """The network fails."""
        if self._dead or not self._passes:
            return
        world = self.world
        self._passes = False
        world.broke()
        world.counts["cuts"] += 1
        drawn = world.chance.random()
        if drawn < 0.25 and self._heartbeats:
            return
        self._break()
        late = world.chance.random() * NOTICED_LATE_S if drawn < 0.6 else 0.0
        self.target.later(late, self._end_at_broker)

    def mend(self) -> None:
        """Who waits for heartbeats that will not come is told the truth."""
        if not self._passes:
            self._break()
            self._end_at_broker()

    def abandon(self) -> None:
        """The process of the link is gone: the broker hears of it, now or later."""
        self._passes = False
        self._break()
        late = self.world.chance.choice((0.0, self.world.chance.random() * NOTICED_LATE_S))
        self.target.later(late, self._end_at_broker)

    # -- details

    def _require_life(self) -> None:
        if self._dead:
            raise anyio.BrokenResourceError

    def _break(self) -> None:
        self._dead = True
        self.owner.wires.pop(self, None)
        self._changed.set()

    def _say_goodbye(self) -> None:
        if self._coming and self._passes:
            self.target.later(0.0, self._say_goodbye)
            return
        self._goodbye = True
        self.resume()

    def _end_at_broker(self) -> None:
        if self.target.alive and self.target.ends.pop(self.peer.connection, None) is not None:
            self.peer.lost("cut by the simulator")
            self.target.turn()
            self._changed.set()

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    def _piece_size(self) -> int:
        return self.world.piece_size() if self.remote else LOCAL_PIECE

    def _spend(self, octets: int) -> bool:
        """So many more were carried; whether they were too many."""
        self.octets_left -= octets
        if self.octets_left <= 0:
            self.cut()
        return not self._passes

    def _set_out(self, piece: bytes) -> None:
        """Towards the broker."""
        self._to_broker += len(piece)
        if not self._passes or self._spend(len(piece)):
            return
        latency = self.world.latency() if self.remote else 0.0
        self._in_at = max(self._in_at, self.world.now + latency)
        self._coming.append(piece)
        self.target.later(self._in_at - self.world.now, self._arrive_at_broker)

    def _arrive_at_broker(self) -> None:
        piece = self._coming.popleft()
        if self._passes and not self.peer.closed:
            self._unread.append(piece)
            self.resume()

    def _flush(self) -> None:
        """Towards the link, as much as may be under way."""
        connection = self.peer.connection
        while connection.pieces and self._passes and self._to_link < self._window:
            piece = connection.take_output(self.world.now, self._piece_size())
            self._to_link += len(piece)
            if self._spend(len(piece)):
                return
            latency = self.world.latency() if self.remote else 0.0
            self._out_at = max(self._out_at, self.world.now + latency)
            self._going.append(piece)
            self.world.later(self._out_at - self.world.now, self._arrive_at_link)

    def _arrive_at_link(self) -> None:
        piece = self._going.popleft()
        if self._passes and not self._dead:
            self.world.record(piece)
            self._heard += piece
            self._changed.set()
