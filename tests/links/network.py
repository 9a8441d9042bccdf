"""Brokers with links between them, in one process: sockets, time and disks are the test's.

    async with network("a", "b") as net:
        net["b"].upstream("a")                        a parameter, as users set it
        net["b"].policy("x", {"federation-upstream": "a"})
        await net.settle()                            until nobody has anything to say
        net.cut("a")                                  every connection to that broker is gone
        await net.pass_time(3600)

It is the real thing that runs, from the policy to the octets: federation, shovels, keepers and
runs. Bytes arrive in pieces of random size, and connections may be cut after random numbers of
octets, both by the network's seed.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, Final

import anyio
import anyio.lowlevel

from amqpd.broker.broker import Broker
from amqpd.broker.policies import clear_policy, set_policy
from amqpd.links.federation import Federation, FederationKeeper, federation_statuses
from amqpd.links.runner import Surroundings
from amqpd.links.shovels import Shovels
from amqpd.links.transport import Transport
from amqpd.links.uri import LinkURI
from amqpd.runtime.peer import Peer
from amqpd.runtime.trusted_peer import TrustedPeer
from tests.conversation import BrokerUnderTest, Channel, Client
from tests.hyphens import hyphenated

IDLE_ROUNDS: Final = 30
"""Turns of the event loop without a byte moved, after which nobody has anything to say."""


class Connection(Client):
    """A link's connection, as its broker sees it."""

    def __init__(self, site: Site, peer_type: type[Peer]) -> None:
        super().__init__(site, name="link", peer_type=peer_type, heartbeat=0)
        site.clients[self.peer.connection] = self
        self.heard = b""
        self.changed = anyio.Event()
        self.unblocked = anyio.Event()

    def _hear(self, data: bytes) -> None:
        self.heard += data
        self.changed.set()

    def wake(self) -> None:
        self.changed.set()
        self.unblocked.set()


class Wire:
    """The same connection, as the link sees it."""

    def __init__(self, net: Network, site: Site, link_site: Site, *, trusted: bool) -> None:
        self.name = f"link -> {site.name}"
        self.site = site
        self.link_site = link_site
        self.cut = False
        self.octets_left: float = math.inf
        """Until it is cut."""
        self._net = net
        self._connection = Connection(site, TrustedPeer if trusted else Peer)

    @property
    def crosses(self) -> bool:
        """Whether it leaves the broker whose link it is."""
        return self.site is not self.link_site

    async def receive(self) -> bytes:
        connection = self._connection
        while not connection.heard:
            self._require_wire()
            if connection.peer.closed:
                raise anyio.EndOfStream
            connection.changed = anyio.Event()
            await connection.changed.wait()
        self._require_wire()
        await anyio.lowlevel.checkpoint()
        data, connection.heard = self._piece(connection.heard)
        return data

    async def send(self, data: bytes) -> None:
        while data:
            self._require_wire()
            if self._connection.peer.closed:
                raise anyio.BrokenResourceError
            if self._connection.peer.blocked:
                self._connection.unblocked = anyio.Event()
                self._net.blocked.append(self._connection.unblocked)
                await self._connection.unblocked.wait()
                continue
            piece, data = self._piece(data)
            self._connection.send_bytes(piece)
            await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        self.cut = True
        self._net.wires.discard(self)
        if self._connection.peer.connection in self.site.clients:
            self._connection.drop()
            del self.site.clients[self._connection.peer.connection]
        self._connection.wake()

    def _require_wire(self) -> None:
        if self.cut:
            raise anyio.BrokenResourceError

    def _piece(self, data: bytes) -> tuple[bytes, bytes]:
        """What arrives next, and what is left; the wire is cut once it has carried enough."""
        self._net.activity += 1
        size = min(len(data), self._net.piece_size())
        if size >= self.octets_left:
            size = int(self.octets_left)
        self.octets_left -= size
        if not self.octets_left:
            self._net.cuts += 1
            piece = data[:size]
            if piece:
                self._connection.send_bytes(b"")
            self.hang_up()
            raise anyio.BrokenResourceError
        return data[:size], data[size:]


class Site(BrokerUnderTest):
    """A broker with its links."""

    def __init__(self, net: Network, name: str, **how: Any) -> None:
        self.name = name
        self.net = net
        self.away = False
        """Refuses connections."""
        self.scope = anyio.CancelScope()
        self._committing = True
        super().__init__(**how)
        self.core.parameters.set_global("cluster_name", name)
        self._committing = False
        self.turn()
        self.channel: Channel = self.client().channel()

    def turn(self) -> None:
        """As for any broker; disks are quick, unless the network says otherwise."""
        super().turn()
        if self.net.commits and self.journaling and not self._committing:
            self._committing = True
            self.journal.commit()
            self._committing = False

    def _new_core(self) -> Broker:
        core = super()._new_core()
        core.federation = Federation(core)
        core.parameters.register(Shovels(core))
        return core

    @property
    def surroundings(self) -> Surroundings:
        return Surroundings(
            connect=self.connect,
            now=lambda: self.net.now,
            finish_turn=self.turn,
            sleep=self.net.sleep,
            wait=self.net.wait,
            cluster_name=lambda: self.core.cluster_name,
        )

    async def run(self) -> None:
        """Its links, until it is killed."""
        federation, shovels = self.core.federation, self.core.parameters.component("shovel")
        assert isinstance(federation, Federation)
        assert isinstance(shovels, Shovels)
        with anyio.CancelScope() as self.scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(federation.run, self.surroundings)
                tasks.start_soon(shovels.run, self.surroundings)

    async def connect(self, uri: LinkURI, vhost: str) -> Transport:
        """A link of this broker goes somewhere."""
        await anyio.lowlevel.checkpoint()
        site = self if uri.is_local else self.net.sites.get(uri.host)
        if site is None or site.away:
            raise ConnectionRefusedError(111, "Connection refused")
        self.net.activity += 1
        wire = Wire(self.net, site, self, trusted=uri.is_local)
        self.net.wires.add(wire)
        if wire.crosses:
            wire.octets_left = self.net.lifetime()
        return wire

    # -- what users do

    def upstream(self, name: str, **fields: Any) -> None:
        """An upstream of the name of its broker."""
        value = {"uri": f"amqp://{name}?heartbeat=0"}
        value |= hyphenated(fields)
        self.core.parameters.set("/", "federation-upstream", name, value)
        self.turn()

    def policy(self, pattern: str, definition: dict[str, Any], name: str = "p") -> None:
        """For exchanges and queues whose name has the pattern."""
        set_policy(self.core, "/", name, pattern=pattern, definition=definition)
        self.turn()

    def clear_policy(self, name: str = "p") -> None:
        clear_policy(self.core, "/", name)
        self.turn()

    def links(self) -> list[dict[str, Any]]:
        return federation_statuses(self.core)

    def keepers(self) -> list[FederationKeeper]:
        """What keeps its links of federation going."""
        federation = self.core.federation
        assert isinstance(federation, Federation)
        return list(federation.keepers)

    def link(self) -> dict[str, Any]:
        """The only one."""
        (link,) = self.links()
        return link

    def bindings_of(self, exchange: str) -> list[tuple[str, str]]:
        """Destination and routing key of the bindings from an exchange."""
        table = self.core.virtual_hosts["/"].exchanges[exchange].table
        return sorted((item.destination.name, item.routing_key) for item in table.bindings)

    def queues(self) -> list[str]:
        return sorted(self.core.virtual_hosts["/"].queues)

    def internal_exchanges(self) -> list[str]:
        exchanges = self.core.virtual_hosts["/"].exchanges.values()
        return sorted(item.name for item in exchanges if item.name.startswith("federation: "))


class Network:
    """Brokers by name, the wires between them, and the time."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 1000.0
        self.sites: dict[str, Site] = {}
        self.wires: set[Wire] = set()
        self.commits = True
        """Disks write; if not, nothing that is told them is safe."""
        self.activity = 0
        self.cuts = 0
        self.blocked: list[anyio.Event] = []
        """Those that wait for an alarm to end."""
        self.lifetime: Callable[[], float] = lambda: math.inf
        """Octets that a new connection between two brokers carries before it is cut."""
        self.pieces: tuple[int, ...] = (1 << 20,)
        """Sizes in which bytes arrive."""
        self.tasks: anyio.abc.TaskGroup
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self._numbers = count()

    def __getitem__(self, name: str) -> Site:
        return self.sites[name]

    def piece_size(self) -> int:
        return self.random.choice(self.pieces)

    def add(self, name: str, **how: Any) -> Site:
        """One more broker, which runs from now on."""
        site = self.sites[name] = Site(self, name, **how)
        site.now = site.core.now = self.now
        self.tasks.start_soon(site.run)
        return site

    def cut(self, name: str | None = None) -> None:
        """Every connection to or from this broker is gone, or all there are between brokers."""
        for wire in list(self.wires):
            if wire.crosses and name in (None, wire.site.name, wire.link_site.name):
                wire.hang_up()

    async def kill(self, name: str) -> None:
        """kill -9 of a broker; it starts again at once, from what is on its disk."""
        site = self.sites[name]
        for wire in list(self.wires):
            if site in (wire.site, wire.link_site):
                wire.cut = True
                wire.hang_up()
        site.scope.cancel()
        await anyio.lowlevel.checkpoint()
        if site.journaling:
            site.crash_and_recover()
            site.turn()
        else:
            site = self.sites[name] = Site(self, name)
            site.now = site.core.now = self.now
        site.channel = site.client().channel()
        self.tasks.start_soon(site.run)

    def end(self) -> None:
        """Nobody waits for anybody any more."""
        for wire in list(self.wires):
            wire.hang_up()
        self.unblock()

    async def settle(self) -> None:
        """Until nobody has anything to say."""
        idle = 0
        while idle < IDLE_ROUNDS:
            before = self.activity
            await anyio.lowlevel.checkpoint()
            idle = idle + 1 if self.activity == before else 0

    async def pass_time(self, seconds: float) -> None:
        """Everything that is due within it happens, in order."""
        await self.settle()
        until = self.now + seconds
        while True:
            due = [self._sleepers[0][0]] if self._sleepers else []
            for site in self.sites.values():
                ends = [client.peer.deadline() for client in site.clients.values()]
                ends.append(site.core.timers.next_deadline())
                due += [end for end in ends if end is not None]
            at = min(due, default=math.inf)
            if at > until:
                break
            self._set_time(max(at, self.now))
            await self.settle()
        self._set_time(until)

    def _set_time(self, now: float) -> None:
        self.now = now
        for site in self.sites.values():
            site.advance(max(0.0, now - site.now))
        while self._sleepers and self._sleepers[0][0] <= now:
            heappop(self._sleepers)[2].set()
        self.activity += 1

    async def sleep(self, seconds: float) -> None:
        await self.wait(anyio.Event(), seconds)

    async def wait(self, event: anyio.Event, seconds: float) -> None:
        if seconds != math.inf:
            heappush(self._sleepers, (self.now + seconds, next(self._numbers), event))
        await event.wait()

    def unblock(self) -> None:
        """Alarms are over: who waited looks again."""
        waiting, self.blocked = self.blocked, []
        for event in waiting:
            event.set()
        self.activity += 1


@asynccontextmanager
async def network(*names: str, seed: int = 0, **how: Any) -> AsyncIterator[Network]:
    """Brokers of these names; `how` is what `BrokerUnderTest` takes."""
    net = Network(seed)
    async with anyio.create_task_group() as net.tasks:
        for name in names:
            net.add(name, **how)
        try:
            yield net
        finally:
            net.tasks.cancel_scope.cancel()
            net.end()
