"""Runs a shovel: connects, moves bytes and time between sockets and the two clients, starts again.

    reader (source)  ──> Shovel ──> writer (destination)        one task each, and one for deadlines
    reader (dest.)   ──> Shovel ──> writer (source)

A link that failed is tried again after its delay, for ever, with the next of its URIs.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio
from msgspec import Struct

from amqpd.commands import Arguments
from amqpd.links.client import LinkClient, State
from amqpd.links.shovel import LinkFailed, Shovel
from amqpd.links.shovel_definition import ShovelDefinition
from amqpd.links.transport import Transport
from amqpd.links.uri import LinkURI

logger = logging.getLogger("amqpd.shovel")

GOODBYE_S: Final = 2.0
"""Longest wait for a broker to take our last acknowledgements."""
ENDS: Final = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Surroundings(Struct, frozen=True):
    """What links need of the process they run in."""

    connect: Callable[[LinkURI, str], Awaitable[Transport]]
    """To the broker of a URI, on behalf of a virtual host. Raises OSError, LinkFailed."""
    now: Callable[[], float]
    finish_turn: Callable[[], None]
    sleep: Callable[[float], Awaitable[None]]
    cluster_name: Callable[[], str]


class Side:
    """One of the two connections."""

    def __init__(self, client: LinkClient, transport: Transport) -> None:
        self.client = client
        self.transport = transport
        self.changed = anyio.Event()
        """There may be something to send, or the reader may go on."""

    def wake(self) -> None:
        """Let reader and writer look again."""
        self.changed.set()


class ShovelRun:
    """A shovel from its connections' first octet to their last."""

    def __init__(
        self,
        shovel: Shovel,
        sides: tuple[Side, Side],
        now: Callable[[], float],
        on_running: Callable[[], None],
    ) -> None:
        """`on_running()` is called once, when the source is consumed."""
        self.shovel = shovel
        self._on_running: Callable[[], None] | None = on_running
        self._sides = sides
        self._now = now
        self._deadlines_changed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._failure: str | None = None

    async def run(self) -> None:
        """Return when the shovel has done all it had to. Raises LinkFailed when it cannot go on."""
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                for side in self._sides:
                    tasks.start_soon(self._read, side)
                    tasks.start_soon(self._write, side)
                tasks.start_soon(self._watch_deadlines)
        finally:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as goodbyes:
                    for side in self._sides:
                        goodbyes.start_soon(self._say_goodbye, side)
        if self._failure is not None:
            raise LinkFailed(self._failure)

    def _hear(self, side: Side, data: bytes) -> None:
        client = side.client
        before = client.deadline()
        self._let_shovel_hear(side, data)
        if client.deadline() != before:
            self._deadlines_changed.set()
        for either in self._sides:
            if either is side or either.client.unsent_bytes:
                either.wake()

    def _let_shovel_hear(self, side: Side, data: bytes) -> None:
        try:
            self.shovel.hear(side.client, side.client.receive(data, self._now()))
        except LinkFailed as failure:
            self._end(str(failure))
        else:
            if self.shovel.running and self._on_running is not None:
                self._on_running()
                self._on_running = None
            if self.shovel.finished:
                self._end(None)

    def _end(self, failure: str | None) -> None:
        if not self._scope.cancel_called:
            self._failure = failure
            self._scope.cancel()

    def _lost(self, side: Side, reason: str) -> None:
        side.client.lost(reason)
        self._let_shovel_hear(side, b"")

    async def _read(self, side: Side) -> None:
        is_source = side.client is self.shovel.source
        while True:
            while is_source and not self.shovel.wants_source:
                side.client.reading_paused = True
                await self._something_changes(side)
            side.client.reading_paused = False
            try:
                data = await side.transport.receive()
            except ENDS as error:
                self._lost(side, describe_end(error))
                return
            self._hear(side, data)

    async def _write(self, side: Side) -> None:
        client = side.client
        while True:
            while not client.unsent_bytes:
                await self._something_changes(side)
            try:
                await side.transport.send(client.take_output(self._now()))
            except ENDS as error:
                self._lost(side, describe_end(error))
                return
            for either in self._sides:
                either.wake()

    async def _something_changes(self, side: Side) -> None:
        if side.changed.is_set():
            side.changed = anyio.Event()
        await side.changed.wait()

    async def _watch_deadlines(self) -> None:
        while True:
            self._deadlines_changed = anyio.Event()
            ends = (side.client.deadline() for side in self._sides)
            until = min((end for end in ends if end is not None), default=math.inf)
            with anyio.move_on_after(max(0.0, until - self._now())):
                await self._deadlines_changed.wait()
            for side in self._sides:
                side.client.handle_timer(self._now())
                if side.client.state is State.CLOSED:
                    self._let_shovel_hear(side, b"")
                side.wake()

    async def _say_goodbye(self, side: Side) -> None:
        """Let the broker take what was said last, acknowledgements above all."""
        client, transport = side.client, side.transport
        with anyio.move_on_after(GOODBYE_S):
            try:
                client.close(self._now())
                await transport.send(client.take_output(self._now()))
                while client.state is not State.CLOSED:
                    client.receive(await transport.receive(), self._now())
                await transport.send(client.take_output(self._now()))
            except ENDS:
                pass
        with anyio.move_on_after(GOODBYE_S):
            with suppress(*ENDS):
                await transport.aclose()


class ShovelKeeper:
    """Keeps one shovel going, and knows how it is."""

    def __init__(
        self, vhost: str, name: str, definition: ShovelDefinition, epoch_s: Callable[[], float]
    ) -> None:
        self.vhost = vhost
        self.name = name
        self.definition = definition
        self.state = "starting"
        """starting, running or terminated."""
        self.reason = ""
        """Why it is terminated."""
        self.changed_epoch_s = epoch_s()
        self.shovel: Shovel | None = None
        self.src_uri = definition.src_uris[0]
        self.dest_uri = definition.dest_uris[0]
        self._epoch_s = epoch_s
        self._attempts = 0

    @property
    def told_state(self) -> str:
        """Of what RabbitMQ tells: starting, running, blocked or terminated."""
        shovel = self.shovel
        if self.state == "running" and shovel is not None and shovel.blocked:
            return "blocked"
        return self.state

    async def run(self, around: Surroundings) -> bool:
        """Move messages. True when delete-after was reached; False when it failed and is not to
        be tried again."""
        delay_s = self.definition.reconnect_delay_s
        while True:
            self._set("starting")
            try:
                await self._attempt(around)
                return True
            except LinkFailed as failure:
                self._set("terminated", str(failure))
                logger.warning(
                    "shovel failed",
                    extra={
                        "shovel": self.name,
                        "vhost": self.vhost,
                        "reason": str(failure),
                        "retry_s": delay_s or "never",
                    },
                )
            self.shovel = None
            if not delay_s:
                return False
            await around.sleep(delay_s)

    async def _attempt(self, around: Surroundings) -> None:
        """Connect and run to the end. Raises LinkFailed."""
        definition = self.definition
        number, self._attempts = self._attempts, self._attempts + 1
        self.src_uri = definition.src_uris[number % len(definition.src_uris)]
        self.dest_uri = definition.dest_uris[number % len(definition.dest_uris)]
        source = await self._connect(around, "source", self.src_uri)
        try:
            destination = await self._connect(around, "destination", self.dest_uri)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await source.transport.aclose()
            raise
        self.shovel = Shovel(
            definition,
            source.client,
            destination.client,
            self._forward_entry(around.cluster_name()),
            self._epoch_s,
        )
        sides = (source, destination)
        await ShovelRun(self.shovel, sides, around.now, self._runs).run()

    def _runs(self) -> None:
        self._set("running")
        logger.info("shovel running", extra={"shovel": self.name, "vhost": self.vhost})

    async def _connect(self, around: Surroundings, side: str, uri: LinkURI) -> Side:
        try:
            transport = await around.connect(uri, self.vhost)
        except (OSError, ssl.SSLError) as error:
            reason = describe_end(error)
            raise LinkFailed(f"{side}: cannot connect to {uri.shown}: {reason}") from None
        client = LinkClient(uri, self.vhost, f"Shovel {self.name}", around.now())
        return Side(client, transport)

    def _forward_entry(self, cluster_name: str) -> Arguments:
        """What `x-shovelled` says, in RabbitMQ's order."""
        definition = self.definition
        said = {
            "shovelled-by": cluster_name,
            "shovel-type": "dynamic",
            "shovel-name": self.name,
            "shovel-vhost": self.vhost,
            "src-uri": self.src_uri.shown,
            "dest-uri": self.dest_uri.shown,
            **definition.source_fields,
            **definition.destination_fields,
        }
        return {name: ("S", value) for name, value in said.items()}

    def fail(self, reason: str) -> None:
        """It is over, for a reason that is not the link's."""
        self._set("terminated", reason)

    def _set(self, state: str, reason: str = "") -> None:
        if state != self.state or reason != self.reason:
            self.state, self.reason = state, reason
            self.changed_epoch_s = self._epoch_s()


def describe_end(error: BaseException) -> str:
    """In plain words, why a socket ended or could not be had."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, anyio.EndOfStream):
        return "the broker closed the socket"
    cause = error.__cause__ or error
    return getattr(cause, "strerror", None) or str(cause) or "the socket ended"
