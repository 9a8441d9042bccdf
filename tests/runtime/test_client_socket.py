"""The socket of one client: when it is read from, and how much is written to it."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from pamqp import commands, frame

from amqpd.broker.alarms import Alarm
from amqpd.broker.broker import Broker
from amqpd.config import Config, Limits
from amqpd.runtime.busy_wait import BusyWait
from amqpd.runtime.client_socket import ClientSocket
from amqpd.runtime.journal_writer import JournalWriter
from amqpd.runtime.serve import look_before_sleeping
from amqpd.runtime.server import Server
from amqpd_storage.entries import Entry

LOGIN = (
    b"AMQP\x00\x00\x09\x01",
    frame.marshal(commands.Connection.StartOk({}, "PLAIN", "\x00guest\x00guest", "en_US"), 0),
    frame.marshal(commands.Connection.TuneOk(2047, 131072, 0), 0),
    frame.marshal(commands.Connection.Open("/"), 0),
    frame.marshal(commands.Channel.Open(), 1),
)


class Wire(asyncio.Transport):
    """A transport that remembers; `room` is what it takes before it says that it is full."""

    def __init__(self, client: ClientSocket, room: int = 1 << 30) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.client = client
        self.room = room
        self.written = b""
        self.reading = True
        self.ended = False
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written += data
        self.room -= len(data)
        if self.room < 0:
            self.client.pause_writing()

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def make_room(self, octets: int) -> None:
        self.room = octets
        self.client.resume_writing()

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return False

    def write_eof(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.aborted = True


class SlowDisk:
    """Stands for the journal's writer: full when told so."""

    def __init__(self) -> None:
        self.full = False
        self.busy = False

    def append(self, entries: list[Entry]) -> None:
        """It never gets so far."""


@pytest.fixture(autouse=True)
def loop() -> Iterator[None]:
    """Events belong to a loop, even where nobody waits for them."""
    new = asyncio.new_event_loop()
    asyncio.set_event_loop(new)
    yield
    asyncio.set_event_loop(None)
    new.close()


def make_server(limits: Limits | None = None, *, journaling: bool = False) -> Server:
    config = Config(limits=limits or Limits())
    broker = Broker(config, journaling=journaling, entropy=bytes)
    broker.add_defaults()
    return Server(config, broker)


def connect(server: Server, room: int = 1 << 30) -> tuple[ClientSocket, Wire]:
    client = ClientSocket(server, None)
    wire = Wire(client, room)
    client.connection_made(wire)
    for data in LOGIN:
        client.data_received(data)
    return client, wire


def publish(routing_key: str, body: bytes) -> bytes:
    return (
        frame.marshal(commands.Basic.Publish(routing_key=routing_key), 1)
        + b"\x02\x00\x01\x00\x00\x00\x0e\x00\x3c\x00\x00"
        + len(body).to_bytes(8, "big")
        + b"\x00\x00\xce\x03\x00\x01"
        + len(body).to_bytes(4, "big")
        + body
        + b"\xce"
    )


def test_who_writes_is_not_read_from_while_the_disk_is_behind() -> None:
    server = make_server(journaling=True)
    disk = SlowDisk()
    server.turns.journal = cast(JournalWriter, disk)
    server.turns.finish()
    client, wire = connect(server)
    other, other_wire = connect(server)
    disk.full = True
    client.data_received(frame.marshal(commands.Queue.Declare(queue="q", durable=True), 1))
    other.data_received(publish("nowhere", b"x"))  # not for the disk
    assert (wire.reading, other_wire.reading) == (False, True)
    server.turns.finish()
    assert not wire.reading
    disk.full = False
    server.turns.finish()
    assert wire.reading
    client.data_received(publish("nowhere", b"x"))
    disk.full = True
    client.data_received(publish("nowhere", b"x"))
    assert wire.reading


class CountingLoop:
    """Counts how often it is asked not to sleep."""

    def __init__(self) -> None:
        self.asked = 0

    def call_soon(self, callback: Callable[[], None], /) -> None:
        self.asked += 1


@pytest.mark.parametrize("busy", [False, True])
def test_a_turn_that_follows_soon_keeps_the_loop_awake_unless_the_disk_is_busy(busy: bool) -> None:
    server = make_server(journaling=True)
    disk, loop = SlowDisk(), CountingLoop()
    server.turns.journal = cast(JournalWriter, disk)
    server.turns.busy_wait = BusyWait(loop, lambda: 7.0, 0.000_2)
    disk.busy = busy
    server.turns.finish()
    server.turns.finish()
    assert loop.asked == (0 if busy else 1)


@pytest.mark.parametrize(
    ("longest_s", "processors", "awake"),
    [(0.000_2, {0, 1}, True), (0, {0, 1}, False), (1, {3}, False)],
)
def test_the_loop_is_kept_awake_if_it_may_and_has_two_processors(
    longest_s: float, processors: set[int], awake: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: processors)
    server = make_server(Limits(busy_wait_s=longest_s))

    async def start() -> None:
        look_before_sleeping(server)

    asyncio.run(start())
    assert (server.turns.busy_wait is not None) is awake


def test_a_publisher_is_not_read_from_during_an_alarm() -> None:
    server = make_server()
    client, wire = connect(server)
    idle, idle_wire = connect(server)
    server.set_alarm(Alarm.MEMORY, True)
    client.data_received(publish("nowhere", b"x"))
    assert (wire.reading, idle_wire.reading) == (False, True)
    server.set_alarm(Alarm.MEMORY, False)
    assert wire.reading
    assert idle.peer.blocked is False


def test_who_does_not_read_is_not_read_from_beyond_the_limit() -> None:
    server = make_server(Limits(unsent_pause_bytes=20_000))
    client, wire = connect(server, room=5_000)
    ask = frame.marshal(commands.Queue.Declare(queue="q" * 200), 1)
    asked = 0
    while wire.reading:
        client.data_received(ask)
        asked += 1
        assert asked < 1_000, "it is read from for ever"
    unsent = client.peer.connection.unsent_bytes
    assert 20_000 < unsent < 20_000 + 1_000
    wire.make_room(1 << 30)
    assert wire.reading
    assert client.peer.connection.unsent_bytes == 0
    assert wire.written.count(b"\x00\x32\x00\x0b") == asked


def test_what_piles_up_while_the_transport_is_full_goes_out_in_order() -> None:
    server = make_server()
    publisher, _ = connect(server)
    consumer, wire = connect(server)
    consumer.data_received(frame.marshal(commands.Queue.Declare(queue="q"), 1))
    consumer.data_received(frame.marshal(commands.Basic.Consume(queue="q", no_ack=True), 1))
    wire.room = 100
    for number in range(50):
        publisher.data_received(publish("q", b"<%03d>" % number))
    held_back = wire.written.count(b"<")
    assert held_back < 50
    wire.make_room(1 << 30)
    found = [wire.written.index(b"<%03d>" % number) for number in range(50)]
    assert found == sorted(found)


def test_last_words_wait_for_room_and_the_socket_for_the_peer() -> None:
    server = make_server()
    client, wire = connect(server, room=1_500)
    wire.room = -1
    client.pause_writing()
    client.shut_down("shutdown", server.clock.now())
    client.data_received(frame.marshal(commands.Connection.CloseOk(), 0))
    assert not wire.ended
    wire.make_room(1_000)
    assert wire.written.endswith(b"CONNECTION_FORCED - shutdown\x00\x00\x00\x00\xce")
    assert wire.ended
    client.connection_lost(None)
    assert client.peer.closed


def test_who_closes_the_connection_closes_the_socket_first() -> None:
    """Some clients take an end right behind close-ok for a failure; RabbitMQ waits for them."""
    server = make_server()
    client, wire = connect(server)
    close = frame.marshal(commands.Connection.Close(200, "bye", 0, 0), 0)
    client.data_received(close)
    assert wire.written.endswith(frame.marshal(commands.Connection.CloseOk(), 0))
    client.data_received(close)
    server.turns.finish()
    assert client.peer.closed
    assert not wire.ended
    deadline = client.deadline()
    assert deadline is not None
    client.handle_timer(deadline - 0.1)
    assert not wire.aborted
    client.handle_timer(deadline)
    assert wire.ended
    assert wire.aborted


def test_a_lost_connection_weighs_nothing_before_its_cycles_are_found() -> None:
    """Most of a body that came, and was never whole."""
    server = make_server()
    client, wire = connect(server, room=100)
    body = bytes(120_000)
    data = publish("nowhere", body)
    gc.disable()
    tracemalloc.start()
    try:
        for start in range(0, len(data) - 1000, 10_000):
            client.data_received(bytes(bytearray(data[start : start + 10_000])))
        held, _ = tracemalloc.get_traced_memory()
        assert held > len(body) // 2
        client.connection_lost(None)
        del client, wire
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert left < held - len(body) // 2


def test_a_lost_connection_leaves_no_cycles() -> None:
    """The collector seldom comes, and there may have been ten thousand of them."""
    server = make_server()
    gc.collect()
    gc.disable()
    try:
        client, wire = connect(server)
        client.connection_lost(None)
        del wire.client  # as asyncio's transports do
        del client, wire
        assert gc.collect() == 0
    finally:
        gc.enable()
