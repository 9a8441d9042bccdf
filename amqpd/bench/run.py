"""Connects everybody, starts the clock, says what happens, and stops."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from amqpd.bench.connection import BenchConnection, BrokerLost
from amqpd.bench.consumer import Consumer
from amqpd.bench.plan import Plan
from amqpd.bench.producer import Producer
from amqpd.bench.speaker import Speaker
from amqpd.bench.summary import Summary, interval_line
from amqpd.bench.tally import Tally
from amqpd.bench.topology import Topology
from amqpd.exit_codes import EX_FORCED, EX_UNAVAILABLE
from amqpd.links.client import LinkClient
from amqpd.links.tls_contexts import TLSContexts
from amqpd.links.uri import server_name_of

OPENED_AT_ONCE: Final = 100
"""Connections that are being opened; more would wait in the broker's backlog anyway."""
LOOK_S: Final = 0.02
"""Between two looks whether everything is done."""
IDLE_S: Final = 1.0
"""Without a message for so long, after the last was published, consumers have got them all."""
GOODBYE_S: Final = 5.0
VHOST: Final = "/"


def bench(plan: Plan, *, as_json: bool) -> int:
    """Run it; the exit code: 0, 69 if the broker cannot be reached or breaks off, or 130 if a
    signal came before there was anything to sum up. Raises OSError for what cannot be said."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            summary = runner.run(_Run(plan, quiet=as_json).run())
    except BrokerLost as error:
        where = f"{plan.uri.host}:{plan.uri.port}"
        print(f"amqpd: bench of {where}: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    except (asyncio.CancelledError, KeyboardInterrupt):
        return EX_FORCED
    print(summary.as_json() if as_json else summary.text())
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _reason(error: OSError | ValueError) -> str:
    """Why there is no connection."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time. Is there a broker?"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused. Is the broker running there? Say where with --uri"
    return getattr(error, "strerror", None) or str(error)


class _Run:
    def __init__(self, plan: Plan, *, quiet: bool) -> None:
        self._plan = plan
        self._quiet = quiet
        self._tally = Tally()
        """Of the interval under way."""
        self._connections: list[BenchConnection] = []
        self._producers: list[Producer] = []
        self._consumers: list[Consumer] = []
        self._contexts: TLSContexts
        self._lost: str | None = None
        self._stopped = False
        self._preparing: asyncio.Task[object] | None = None
        """Who connects, until everybody is ready."""

    async def run(self) -> Summary:
        """All of it. Raises BrokerLost, and OSError for lines that cannot be said."""
        plan = self._plan
        self._preparing = asyncio.current_task()
        self._contexts = TLSContexts()
        try:
            with self._signals():
                topology = await self._connect("topology", 0, self._declaring)
                # What is in a queue already comes as soon as there is a consumer.
                began = time.perf_counter()
                await self._open(plan.consumers, "consumer", self._consuming)
                await self._open(plan.producers, "producer", self._producing)
                if plan.producers:
                    began = time.perf_counter()
                self._preparing = None
                return await self._work(topology.client, began)
        finally:
            await self._close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run, with its summary if it has begun."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self._stopped = True
        if self._preparing is not None:
            self._preparing.cancel()

    # -- connections

    def _declaring(self, client: LinkClient, index: int) -> Sequence[Speaker]:
        return [Topology(client, index + 1, self._plan)]

    def _consuming(self, client: LinkClient, index: int) -> Sequence[Speaker]:
        plan, channels = self._plan, self._plan.consumer_channels
        found = [
            Consumer(client, channel + 1, plan, index * channels + channel, self._tally)
            for channel in range(channels)
        ]
        self._consumers += found
        return found

    def _producing(self, client: LinkClient, index: int) -> Sequence[Speaker]:
        plan, channels = self._plan, self._plan.producer_channels
        found = [
            Producer(client, channel + 1, plan, index * channels + channel, self._tally)
            for channel in range(channels)
        ]
        self._producers += found
        return found

    async def _open(
        self, count: int, role: str, speakers: Callable[[LinkClient, int], Sequence[Speaker]]
    ) -> None:
        for start in range(0, count, OPENED_AT_ONCE):
            numbers = range(start, min(count, start + OPENED_AT_ONCE))
            await asyncio.gather(*(self._connect(role, number, speakers) for number in numbers))

    async def _connect(
        self, role: str, index: int, speakers: Callable[[LinkClient, int], Sequence[Speaker]]
    ) -> BenchConnection:
        """One connection, its speakers ready. Raises BrokerLost."""
        loop, uri = asyncio.get_running_loop(), self._plan.uri
        name = f"amqpd bench {self._plan.id}: {role} {index}"
        client = LinkClient(uri, VHOST, name, loop.time())
        made = BenchConnection(client, speakers(client, index), self._tally, self._lose)
        self._connections.append(made)
        server_name = server_name_of(uri) if uri.tls else None
        try:
            async with asyncio.timeout(uri.connection_timeout_s or None):
                context = await self._contexts.context(uri) if uri.tls else None
                await loop.create_connection(
                    lambda: made, uri.host, uri.port, ssl=context, server_hostname=server_name
                )
                await asyncio.shield(made.ready)
        except asyncio.CancelledError:
            if self._lost is None:
                raise
            raise BrokerLost(self._lost) from None
        except (OSError, ValueError) as error:
            raise BrokerLost(_reason(error)) from None
        return made

    def _lose(self, why: str) -> None:
        self._lost = self._lost or why
        for connection in self._connections:
            if not connection.ready.done():
                connection.ready.cancel()

    async def _close(self) -> None:
        for connection in self._connections:
            if connection.ready.done() and not connection.closed.done():
                connection.close()
        closing = [each.closed for each in self._connections if each.ready.done()]
        if closing:
            await asyncio.wait(closing, timeout=GOODBYE_S)

    # -- the clock

    async def _work(self, client: LinkClient, began: float) -> Summary:
        plan, tally = self._plan, self._tally
        summary = Summary(plan, client.server_properties)
        shown = began
        cpu = time.process_time()
        for connection in self._connections:
            connection.start()
        moved, moved_at = 0, began
        while not self._stopped:
            await asyncio.sleep(LOOK_S)
            now = time.perf_counter()
            if self._lost is not None:
                raise BrokerLost(self._lost)
            if summary.total.moved + tally.moved != moved:
                moved, moved_at = summary.total.moved + tally.moved, now
            if self._over(now - began) or (self._published and now - moved_at >= IDLE_S):
                break
            if now - shown >= plan.interval_s:
                self._show(summary, now - shown, now - began)
                shown = now
        # Waiting for what did not come does not count.
        ended = moved_at if self._published else time.perf_counter()
        for connection in self._connections:
            connection.stop()
        if tally.moved:
            self._show(summary, ended - shown, ended - began)
        summary.finish(ended - began, time.process_time() - cpu)
        return summary

    def _over(self, elapsed: float) -> bool:
        """Whether the time is up, or everybody has done what there was to do."""
        plan = self._plan
        if plan.seconds and elapsed >= plan.seconds:
            return True
        if plan.consumer_messages and self._consumers:
            received = all(consumer.done for consumer in self._consumers)
            return received and (not plan.producer_messages or self._published)
        return self._published and not self._consumers

    @property
    def _published(self) -> bool:
        """All that was to be published is, and confirmed."""
        if not self._plan.producer_messages or not self._producers:
            return False
        return all(producer.done for producer in self._producers)

    def _show(self, summary: Summary, seconds: float, elapsed: float) -> None:
        """An interval is over."""
        summary.add(self._tally, seconds, elapsed)
        if not self._quiet:
            print(interval_line(self._plan, self._tally, seconds, elapsed), flush=True)
        self._tally.reset()
