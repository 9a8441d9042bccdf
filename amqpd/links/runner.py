"""Runs one attempt of a link: moves bytes and time between sockets and the two clients.

reader (source)  ──> Link ──> writer (destination)        one task each, and one for deadlines
reader (dest.)   ──> Link ──> writer (source)
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio
from msgspec import Struct

from amqpd.links.client import LinkClient, State
from amqpd.links.link import Link, LinkFailed
from amqpd.links.transport import Transport
from amqpd.links.uri import LinkURI

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
    wait: Callable[[anyio.Event, float], Awaitable[None]]
    """For the event, but no longer than that many seconds; it may return early."""
    cluster_name: Callable[[], str]


class Side:
    """One of the two connections."""

    def __init__(self, client: LinkClient, transport: Transport) -> None:
        self.client = client
        self.transport = transport
        self.changed = anyio.Event()
        """There may be something to send, or the reader may go on."""
        self.sending: anyio.CancelScope | None = None
        """What is being sent goes out as a whole, even if the link ends meanwhile."""
        self.broken = False
        """It did not: nothing more can be said here."""

    def wake(self) -> None:
        """Let reader and writer look again."""
        self.changed.set()


class LinkRun:
    """A link from its connections' first octet to their last."""

    def __init__(
        self,
        link: Link,
        sides: tuple[Side, Side],
        around: Surroundings,
        on_running: Callable[[], None],
    ) -> None:
        """`on_running()` is called once, when messages may flow."""
        self.link = link
        self._on_running: Callable[[], None] | None = on_running
        self._sides = sides
        self._now = around.now
        self._wait = around.wait
        self._all_sent = anyio.Event()
        self._deadlines_changed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._failure: str | None = None

    async def run(self) -> None:
        """Return when the link has done all it had to. Raises LinkFailed when it cannot go on."""
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                for side in self._sides:
                    tasks.start_soon(self._read, side)
                    tasks.start_soon(self._write, side)
                tasks.start_soon(self._watch_deadlines)
                tasks.start_soon(self._hurry)
        finally:
            self.link.leave()
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as goodbyes:
                    for side in self._sides:
                        goodbyes.start_soon(self._say_goodbye, side)
        if self._failure is not None:
            raise LinkFailed(self._failure)

    def wake(self) -> None:
        """Somebody else has let the link say something, or want something."""
        self._deadlines_changed.set()
        for side in self._sides:
            side.wake()

    def retire(self) -> None:
        """Let the link settle what it has taken, and end."""
        self.link.retire()
        if self.link.finished:
            self.end(None)
        self.wake()

    def _hear(self, side: Side, data: bytes) -> None:
        before = self._deadline()
        self._let_link_hear(side, data)
        if self._deadline() != before:
            self._deadlines_changed.set()
        for either in self._sides:
            if either is side or either.client.unsent_bytes:
                either.wake()

    def _let_link_hear(self, side: Side, data: bytes) -> None:
        try:
            self.link.hear(side.client, side.client.receive(data, self._now()))
        except LinkFailed as failure:
            self.end(str(failure))
        else:
            if self.link.running and self._on_running is not None:
                self._on_running()
                self._on_running = None
            if self.link.finished:
                self.end(None)

    def end(self, failure: str | None) -> None:
        """No more of this: it has failed, or None if all is done."""
        if not self._scope.cancel_called:
            self._failure = failure
            self._scope.cancel()

    def _lost(self, side: Side, reason: str) -> None:
        side.client.lost(reason)
        self._let_link_hear(side, b"")

    async def _read(self, side: Side) -> None:
        is_source = side.client is self.link.source
        while True:
            while is_source and not self.link.wants_source:
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
                with anyio.CancelScope(shield=True) as side.sending:
                    await side.transport.send(client.take_output(self._now()))
            except ENDS as error:
                side.broken = True
                self._lost(side, describe_end(error))
                return
            finally:
                side.broken = side.broken or (
                    side.sending is not None and side.sending.cancel_called
                )
                side.sending = None
                if not any(either.sending for either in self._sides):
                    self._all_sent.set()
            for either in self._sides:
                either.wake()

    async def _something_changes(self, side: Side) -> None:
        if side.changed.is_set():
            side.changed = anyio.Event()
        await side.changed.wait()

    def _deadline(self) -> float:
        """When somebody's timer is due; infinite for never."""
        ends = [side.client.deadline() for side in self._sides] + [self.link.deadline()]
        return min((end for end in ends if end is not None), default=math.inf)

    async def _watch_deadlines(self) -> None:
        while True:
            self._deadlines_changed = anyio.Event()
            await self._wait(self._deadlines_changed, max(0.0, self._deadline() - self._now()))
            self._handle_timers(self._now())

    def _handle_timers(self, now: float) -> None:
        for side in self._sides:
            side.client.handle_timer(now)
            if side.client.state is State.CLOSED:
                self._let_link_hear(side, b"")
            side.wake()
        due = self.link.deadline()
        if due is not None and now >= due:
            try:
                self.link.handle_timer(now)
            except LinkFailed as failure:
                self.end(str(failure))

    async def _hurry(self) -> None:
        """When the link ends, what is being sent has a while to go out, and no longer."""
        try:
            await anyio.sleep_forever()
        finally:
            sending = [side.sending for side in self._sides if side.sending is not None]
            if sending:
                self._all_sent = anyio.Event()
                with anyio.CancelScope(shield=True):
                    await self._wait(self._all_sent, GOODBYE_S)
                for scope in sending:
                    scope.cancel()

    async def _say_goodbye(self, side: Side) -> None:
        """Let the broker take what was said last, acknowledgements above all."""
        if not side.broken:
            await self._patiently(self._close, side)
        await self._patiently(self._hang_up, side)

    async def _close(self, side: Side) -> None:
        client, transport = side.client, side.transport
        client.close(self._now())
        await transport.send(client.take_output(self._now()))
        while client.state is not State.CLOSED:
            client.receive(await transport.receive(), self._now())
        await transport.send(client.take_output(self._now()))

    async def _hang_up(self, side: Side) -> None:
        await side.transport.aclose()

    async def _patiently(self, step: Callable[[Side], Awaitable[None]], side: Side) -> None:
        """Do the step, or leave it if the socket ends or it takes too long."""
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                await self._wait(anyio.Event(), GOODBYE_S)
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up)
            with suppress(*ENDS):
                await step(side)
            tasks.cancel_scope.cancel()


async def wait_until(event: anyio.Event, seconds: float) -> None:
    """`Surroundings.wait` in real time."""
    with anyio.move_on_after(seconds):
        await event.wait()


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
