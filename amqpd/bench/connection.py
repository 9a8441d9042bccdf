"""A socket of a run, and the speakers on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Final, cast

from amqpd.bench.consumer import Consumer
from amqpd.bench.producer import Producer
from amqpd.bench.speaker import Speaker
from amqpd.bench.tally import Tally
from amqpd.links.client import (
    Blocked,
    ChannelClosed,
    Event,
    LinkClient,
    Opened,
    State,
    Unblocked,
)
from amqpd.links.reading import Confirmed, Delivery, Returned

WRITE_BYTES: Final = 65536
"""About what is published before the loop looks at everybody else."""
BATCH_MESSAGES: Final = 200
PACE_S: Final = 0.001
"""Between two looks at a rate."""
HEARTBEAT_LOOK_S: Final = 1.0


class BrokerLost(Exception):
    """A connection ended, or a channel was closed; `str()` says why."""


class BenchConnection(asyncio.Protocol):
    """Moves bytes between a socket and a client, and lets its speakers work."""

    def __init__(
        self,
        client: LinkClient,
        speakers: Sequence[Speaker],
        tally: Tally,
        fail: Callable[[str], None],
    ) -> None:
        """`fail(why)` is called once if the connection ends before `close`."""
        self.client = client
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """All speakers are prepared."""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._speakers = {speaker.channel: speaker for speaker in speakers}
        self._producers = [speaker for speaker in speakers if isinstance(speaker, Producer)]
        self._by_tag = {
            speaker.tag: speaker for speaker in speakers if isinstance(speaker, Consumer)
        }
        self._tally = tally
        self._fail: Callable[[str], None] | None = fail
        self._writable = True
        self._blocked = False
        self._working = False
        self._look: asyncio.Handle | None = None

    # -- as asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there: greet."""
        transport = self._transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=2 * WRITE_BYTES)
        self._flush()
        self._tend()

    def data_received(self, data: bytes) -> None:
        """The broker said something."""
        client = self.client
        now_ns = perf_counter_ns()
        for event in client.receive(data, self._loop.time()):
            if isinstance(event, Delivery):
                self._by_tag[event.consumer_tag].deliver(event, now_ns)
            elif isinstance(event, Confirmed):
                producer = self._speakers[event.channel]
                assert isinstance(producer, Producer)
                producer.confirmed(event, now_ns)
            else:
                self._hear(event)
        if self._working and self._producers:
            self._come_back(self._produce())
        self._flush()
        if client.state is State.CLOSED:
            self._end(client.end_reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.client.lost("the broker closed the socket" if exc is None else str(exc))
        self._end(self.client.end_reason)

    def pause_writing(self) -> None:
        """The broker does not read as fast as it is published to."""
        self._writable = False

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable = True
        self._go_on()

    # -- for the run

    def start(self) -> None:
        """Everybody is ready: publish."""
        self._working = True
        now_ns = perf_counter_ns()
        for speaker in self._speakers.values():
            if isinstance(speaker, Producer | Consumer):
                speaker.start(now_ns)
        self._go_on()

    def stop(self) -> None:
        """Publish nothing more."""
        self._working = False

    def close(self) -> None:
        """Say goodbye; `closed` is done when the broker answered."""
        self._working, self._fail = False, None
        self.client.close(self._loop.time())
        self._flush()
        if self.client.state is State.CLOSED:
            self._end("")

    # -- details

    def _hear(self, event: Event) -> None:
        if isinstance(event, Opened):
            for speaker in self._speakers.values():
                speaker.begin()
        elif isinstance(event, Returned):
            self._tally.returned += 1
        elif isinstance(event, ChannelClosed):
            self._break(f"the broker closed a channel: {event.code} {event.text}")
        elif isinstance(event, Blocked):
            self._blocked = True
        elif isinstance(event, Unblocked):
            self._blocked = False
        elif not isinstance(event, Delivery | Confirmed):
            if event.method.name == "Basic.Cancel":
                self._break("the broker cancelled a consumer: its queue is gone")
                return
            self._speakers[event.channel].answered(event.method)
            if not self.ready.done() and all(each.ready for each in self._speakers.values()):
                self.ready.set_result(None)

    def _go_on(self) -> None:
        """A turn of the speakers that have something to do without being told."""
        self._look = None
        if not self._working or self.closed.done():
            return
        again = self._produce()
        now_ns = perf_counter_ns()
        for consumer in self._by_tag.values():
            consumer.take(now_ns)
        self._flush()
        self._come_back(again)

    def _come_back(self, again: float | None) -> None:
        """See `_produce`."""
        if again is None or self._look is not None:
            return
        if again:
            self._look = self._loop.call_later(again, self._go_on)
        else:
            self._look = self._loop.call_soon(self._go_on)

    def _produce(self) -> float | None:
        """Publish what may be published; when to look again, None if something will tell."""
        paced = any(consumer.paced for consumer in self._by_tag.values())
        again = PACE_S if paced else None
        if not self._writable or self._blocked:
            return again
        for producer in self._producers:
            now_ns = perf_counter_ns()
            room = producer.room(now_ns)
            most = max(1, min(BATCH_MESSAGES, WRITE_BYTES // producer.body_bytes))
            count = most if room is None else min(room, most)
            if count:
                producer.produce(count, now_ns)
            if room is None or room > count:
                again = 0.0
            elif producer.paced and again is None:
                again = PACE_S
        return again

    def _tend(self) -> None:
        """Heartbeats, and what is due by time."""
        if self.closed.done():
            return
        self.client.handle_timer(self._loop.time())
        self._flush()
        if self.client.state is State.CLOSED:
            self._end(self.client.end_reason)
        else:
            self._loop.call_later(HEARTBEAT_LOOK_S, self._tend)

    def _flush(self) -> None:
        transport = self._transport
        if self.client.unsent_bytes and transport is not None and not transport.is_closing():
            transport.write(self.client.take_output(self._loop.time()))

    def _break(self, why: str) -> None:
        fail, self._fail = self._fail, None
        if fail is not None:
            fail(why)

    def _end(self, why: str) -> None:
        """Nothing more will be said here."""
        if self._transport is not None:
            self._transport.close()
        self._break(why)
        if not self.ready.done():
            self.ready.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
