"""Nobody gets more than a turn at a time, and nothing that was put off is forgotten."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest
import trustme
from pamqp import commands, frame

from amqpd.broker.administration import close_connection, delete_vhost
from amqpd.broker.alarms import Alarm
from amqpd.config import Config, Limits
from amqpd.runtime.client_socket import WRITE_BYTES_MAX, ClientSocket
from amqpd.runtime.clock import MonotonicClock
from amqpd.runtime.server import Server, make_broker
from amqpd.runtime.tls_layer import TLSFailed, TLSLayer
from amqpd.timers import Entry
from tests.runtime.client import Client
from tests.runtime.process import BrokerProcess
from tests.runtime.test_client_socket import LOGIN, Wire, connect, make_server, publish

DECLARE = frame.marshal(commands.Queue.Declare(queue="q"), 1)
GET = frame.marshal(commands.Basic.Get(queue="q"), 1)
RECOVER = bytes.fromhex("01 0001 00000005 003c0064 01 ce")
"""basic.recover-async with requeue, which pamqp would rather not say."""
CLOSE = frame.marshal(commands.Connection.Close(200, "bye", 0, 0), 0)
COUNT = 500


@pytest.fixture(autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """What is put off is asked of a loop."""
    new = asyncio.new_event_loop()
    asyncio.set_event_loop(new)
    yield new
    asyncio.set_event_loop(None)
    new.close()


class BufferedWire(Wire):
    """A transport that says how much it has not sent yet."""

    buffered = 0

    def get_write_buffer_size(self) -> int:
        return self.buffered


def connect_with_heartbeats(
    server: Server, room: int = 1 << 30
) -> tuple[ClientSocket, BufferedWire]:
    client = ClientSocket(server, None)
    wire = BufferedWire(client, room)
    client.connection_made(wire)
    for data in LOGIN[:2]:
        client.data_received(data)
    client.data_received(frame.marshal(commands.Connection.TuneOk(2047, 131072, 10), 0))
    for data in LOGIN[3:]:
        client.data_received(data)
    return client, wire


def one_round(loop: asyncio.AbstractEventLoop) -> None:
    """Everything that is due now, and nothing of what that leads to."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def ready(server: Server, queue: str = "q") -> int:
    return server.broker.virtual_hosts["/"].queues[queue].ready


def impatient_server(**limits: int) -> Server:
    """One whose turns are over as soon as that may be."""
    return make_server(Limits(turn_s=-1.0, **limits))


# -- long chunks


def test_a_long_chunk_takes_several_turns(loop: asyncio.AbstractEventLoop) -> None:
    server = impatient_server()
    client, wire = connect(server)
    other, _ = connect(server)
    client.data_received(DECLARE)
    client.data_received(publish("q", b"x") * COUNT)
    seen = [ready(server)]
    assert not wire.reading
    while client.peer.busy:
        other.data_received(frame.marshal(commands.Queue.Purge(queue="none", nowait=True), 2))
        one_round(loop)
        seen.append(ready(server))
    assert seen[-1] == COUNT
    assert len(seen) > COUNT / 20, "it had too much at a time"
    assert seen == sorted(set(seen)), "a turn did nothing"
    assert wire.reading


def test_what_a_chunk_left_is_in_order_with_the_next_chunk(
    loop: asyncio.AbstractEventLoop,
) -> None:
    server = impatient_server()
    client, _ = connect(server)
    client.data_received(DECLARE)
    bodies = [str(number).encode() for number in range(COUNT)]
    client.data_received(b"".join(publish("q", body) for body in bodies[:300]))
    client.data_received(b"".join(publish("q", body) for body in bodies[300:]))
    while client.peer.busy:
        one_round(loop)
    queue = server.broker.virtual_hosts["/"].queues["q"]
    got = []
    while (stored := queue.get()) is not None:
        got.append(stored.content.body)
    assert got == bodies


def test_a_close_behind_a_long_chunk(loop: asyncio.AbstractEventLoop) -> None:
    server = impatient_server()
    client, wire = connect(server)
    client.data_received(DECLARE)
    client.data_received(publish("q", b"x") * COUNT + CLOSE)
    assert not client.peer.closed
    for _ in range(COUNT):
        one_round(loop)
    assert client.peer.closed
    assert ready(server) == COUNT
    assert wire.written.endswith(frame.marshal(commands.Connection.CloseOk(), 0))


def test_a_fault_behind_a_long_chunk(loop: asyncio.AbstractEventLoop) -> None:
    server = impatient_server()
    client, _ = connect(server)
    client.data_received(DECLARE)
    close_ok = frame.marshal(commands.Connection.CloseOk(), 0)
    client.data_received(
        publish("q", b"x") * COUNT + b"\x08\x00\x01\x00\x00\x00\x00\xce" + close_ok
    )
    for _ in range(COUNT):
        one_round(loop)
    assert ready(server) == COUNT
    assert client.peer.connection.end_reason.startswith("UNEXPECTED_FRAME")
    assert client.peer.closed


def test_faults_without_end_take_several_turns(loop: asyncio.AbstractEventLoop) -> None:
    server = impatient_server()
    client, wire = connect(server)
    client.data_received(b"\x08\x00\x01\x00\x00\x00\x00\xce" * COUNT)
    assert client.peer.busy
    assert not wire.reading
    for _ in range(COUNT):
        one_round(loop)
    assert not client.peer.busy
    assert wire.reading


def test_a_client_that_is_lost_amid_a_chunk(loop: asyncio.AbstractEventLoop) -> None:
    server = impatient_server()
    client, _ = connect(server)
    client.data_received(DECLARE)
    client.data_received(publish("q", b"x") * COUNT)
    client.connection_lost(None)
    count = ready(server)
    for _ in range(COUNT):
        one_round(loop)
    assert ready(server) == count
    assert not client.peer.busy


def test_a_bug_in_a_later_turn_ends_one_connection(loop: asyncio.AbstractEventLoop) -> None:
    server = impatient_server()
    client, _ = connect(server)
    client.data_received(publish("q", b"x") * COUNT)

    left: list[object] = client.peer._left  # type: ignore[assignment]
    left[0] = "no command at all"
    one_round(loop)
    assert client.peer.connection.end_reason.startswith("INTERNAL_ERROR")


def test_a_blocked_publisher_finishes_its_chunk(loop: asyncio.AbstractEventLoop) -> None:
    server = impatient_server()
    client, wire = connect(server)
    client.data_received(DECLARE)
    server.set_alarm(Alarm.MEMORY, True)
    client.data_received(publish("q", b"x") * COUNT)
    for _ in range(COUNT):
        one_round(loop)
    assert ready(server) == COUNT
    assert not wire.reading
    server.set_alarm(Alarm.MEMORY, False)
    assert wire.reading


# -- who does not read


def test_who_asks_for_much_and_reads_nothing_gets_little(loop: asyncio.AbstractEventLoop) -> None:
    pause_bytes = 4_000_000
    server = make_server(Limits(unsent_pause_bytes=pause_bytes))
    client, wire = connect(server, room=100_000)
    client.data_received(DECLARE + publish("q", b"x" * 100_000))
    client.data_received((GET + RECOVER) * COUNT)
    connection = client.peer.connection
    assert connection.unsent_bytes < pause_bytes + 16 * 100_100
    assert not wire.reading
    one_round(loop)
    assert client.peer.busy
    rounds = 0
    before = len(wire.written)
    while client.peer.busy or connection.unsent_bytes:
        wire.make_room(100_000)
        assert len(wire.written) - before <= 2 * (WRITE_BYTES_MAX + 200_000)
        before = len(wire.written)
        one_round(loop)
        rounds += 1
        assert rounds < 10 * COUNT, "it is never done"
    assert wire.written.count(b"x" * 100_000) == COUNT
    assert wire.reading


def test_a_fast_reader_with_a_backlog_has_turns_as_others(
    loop: asyncio.AbstractEventLoop,
) -> None:
    server = make_server()
    client, _ = connect(server)
    client.data_received(DECLARE)
    for _ in range(COUNT):
        client.data_received(publish("q", b"x" * 100_000))
    reader, wire = connect(server)  # with room for everything
    consume = frame.marshal(commands.Basic.Consume(queue="q", no_ack=True), 1)
    reader.data_received(consume)
    turns = 0
    while ready(server) or reader.peer.connection.unsent_bytes:
        before = len(wire.written)
        one_round(loop)
        assert len(wire.written) - before < 3 * WRITE_BYTES_MAX
        turns += 1
        assert turns < COUNT
    assert turns > 20
    assert wire.written.count(b"x" * 100_000) == COUNT


def test_what_was_held_for_the_disk_counts_no_more_once_sent() -> None:
    """Nothing waits in the transport, so nobody will say that there is room again."""
    server = make_server(Limits(unsent_pause_bytes=10_000))
    client, wire = connect(server)
    client.data_received(DECLARE + publish("q", b"x" * 20_000))
    session = client.peer.session
    assert session is not None
    outlet = session.channels[1].outlet
    mark = outlet.hold()
    client.data_received(GET)
    assert not wire.reading
    outlet.release(mark)
    server.turns.finish()
    assert client.peer.connection.unsent_bytes == 0
    assert wire.reading


def test_who_neither_reads_nor_lets_itself_be_read_is_silent() -> None:
    server = make_server(Limits(unsent_pause_bytes=10_000))
    client, wire = connect_with_heartbeats(server, room=1_000)
    client.data_received(DECLARE + publish("q", b"x" * 20_000) + GET)
    assert not wire.reading
    now = server.clock.now()
    for taken in range(10):
        wire.buffered = 20_000 - taken  # a thin line, but it reads
        client.handle_timer(now := now + 10)
    assert not client.peer.closed
    for _ in range(3):
        client.handle_timer(now := now + 10)
    assert client.peer.connection.end_reason.startswith("missed heartbeats")


def test_who_is_not_read_from_for_our_sake_is_not_silent() -> None:
    server = make_server()
    client, wire = connect_with_heartbeats(server)
    server.set_alarm(Alarm.MEMORY, True)
    client.data_received(publish("nowhere", b"x"))
    assert not wire.reading
    now = server.clock.now()
    for _ in range(10):
        client.handle_timer(now := now + 10)
    assert not client.peer.closed


# -- ends


class Reset(Wire):
    """A socket that was reset a moment ago."""

    def write_eof(self) -> None:
        raise OSError(107, "Transport endpoint is not connected")


def test_a_reset_that_the_loop_does_not_know_of_yet() -> None:
    server = make_server(Limits(handshake_timeout_s=0.0))
    client = ClientSocket(server, None)
    client.connection_made(Reset(client))
    client.handle_timer(server.clock.now() + 1.0)
    assert client.peer.closed


def test_a_client_that_shuts_its_half_and_reads_nothing_is_dropped(broker: BrokerProcess) -> None:
    config = broker.directory / "amqpd.toml"
    config.write_text("[limits]\nlinger_s = 0.3\n")
    broker.start("--config", str(config), in_memory=True)
    with Client(broker.address, receive_buffer_bytes=4096) as client:
        client.declare("q", durable=False)
        client.publish("", "q", b"x" * 10_000_000)
        client.send(commands.Basic.Consume(queue="q", no_ack=True))
        client.sock.recv(1, socket.MSG_PEEK)
        client.sock.shutdown(socket.SHUT_WR)
        broker.wait_for_log("connection closed")


def test_nothing_can_be_said_in_tls_after_a_failure() -> None:
    authority = trustme.CA()
    here, there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(here)
    authority.configure_trust(there)
    layer = TLSLayer(here)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = there.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while not layer.ready:
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        layer.receive(outgoing.read())
        incoming.write(layer.send(b""))
    with pytest.raises(TLSFailed):
        layer.receive(b"\x17\x03\x03\x00\x05hello")
    layer.send(b"still here?")
    layer.close()


def test_who_is_to_go_is_told_in_the_same_turn() -> None:
    server = make_server()
    client, wire = connect(server)
    other, _ = connect(server)
    assert client.peer.session is not None
    close_connection(server.broker, client.peer.session, "enough")
    server.turns.finish()
    assert b"CONNECTION_FORCED - enough" in wire.written
    assert client.peer.session is None
    assert other.peer.session is not None
    assert server.broker.effects.evictions == {}


def test_who_is_to_go_is_read_from_though_it_was_blocked() -> None:
    """Its close-ok has to come through."""
    server = make_server()
    client, wire = connect(server)
    server.set_alarm(Alarm.MEMORY, True)
    client.data_received(DECLARE + publish("q", b"x"))
    assert not wire.reading
    delete_vhost(server.broker, "/")
    server.turns.finish()
    assert b"CONNECTION_FORCED - vhost '/' is down" in wire.written
    assert wire.reading
    client.data_received(frame.marshal(commands.Connection.CloseOk(), 0))
    assert client.peer.closed


class Failing:
    """A queue with a bug, say."""

    timer: Entry | None = None
    asked = 0

    def deadline(self) -> float | None:
        return 0.0

    def handle_timer(self, now: float) -> None:
        self.asked += 1
        raise ValueError("a bug")


def test_a_bug_in_what_a_timer_does_costs_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    server = make_server()
    failing = [Failing() for _ in range(3)]
    for timed in failing:
        server.broker.timers.watch(timed)

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run_timers)
            while not all(timed.asked for timed in failing):
                await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    anyio.run(run)
    assert [timed.asked for timed in failing] == [1, 1, 1]
    assert [record.message for record in caplog.records] == ["internal error"] * 3


class SetClock(MonotonicClock):
    """One that somebody sets."""

    by_s = 0.0

    def epoch_s(self) -> float:
        return super().epoch_s() + self.by_s


@pytest.mark.parametrize(("by_s", "told"), [(86_400.0, True), (-0.5, False)])
def test_the_time_of_day_is_followed(
    by_s: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SetClock()
    config = Config(in_memory=True)
    server = Server(config, make_broker(config, clock, journaling=False), clock)
    before = server.broker.effects.epoch_s
    pid = server.broker.pid(1)
    server.follow_clock()
    assert server.broker.effects.epoch_s == before
    clock.by_s = by_s
    server.follow_clock()
    assert server.broker.effects.epoch_s == pytest.approx(before + by_s, abs=0.05)
    assert bool(caplog.records) == told
    assert server.broker.pid(1) == pid
