"""Large bodies are read past the transport, and everything else by it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import cast

import pytest
from pamqp import commands, frame, header
from pamqp.body import ContentBody

from amqpd.broker.alarms import Alarm
from amqpd.runtime.client_socket import HUGE_BODY_BYTES_MIN, ClientSocket
from amqpd.runtime.giving_way import GivingWay
from amqpd.runtime.journal_writer import JournalWriter
from amqpd.runtime.server import Server
from tests.runtime.test_client_socket import LOGIN, SlowDisk, Wire, make_server, publish

BODY = bytes(range(256)) * 500
"""One frame holds it."""
FRAME_BODY_MAX = 131072 - 8


@pytest.fixture(autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    new = asyncio.new_event_loop()
    asyncio.set_event_loop(new)
    yield new
    asyncio.set_event_loop(None)
    new.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, as a listener accepts it, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def connect(server: Server, ours: socket.socket) -> tuple[ClientSocket, Wire]:
    client = ClientSocket(server, None, ours)
    wire = Wire(client)
    client.connection_made(wire)
    for data in LOGIN:
        client.data_received(data)
    return client, wire


def content(body: bytes) -> bytes:
    """A message of any size, for nobody."""
    pieces = [body[at : at + FRAME_BODY_MAX] for at in range(0, len(body), FRAME_BODY_MAX)]
    return b"".join(
        [
            frame.marshal(commands.Basic.Publish(routing_key="nowhere"), 1),
            frame.marshal(header.ContentHeader(0, len(body)), 1),
            *(frame.marshal(ContentBody(piece), 1) for piece in pieces),
        ]
    )


def turns(loop: asyncio.AbstractEventLoop, count: int = 3) -> None:
    """So many turns of the loop."""
    for _ in range(count):
        loop.run_until_complete(asyncio.sleep(0))


def received(client: ClientSocket, octets: int, loop: asyncio.AbstractEventLoop) -> None:
    """Wait until the client has read so much, whoever read it."""
    for _ in range(10_000):
        if client.peer.received_bytes >= octets:
            return
        turns(loop, 1)
    raise AssertionError(f"{client.peer.received_bytes} of {octets} octets were read")


def test_the_rest_of_a_body_is_read_past_the_transport(
    pair: tuple[socket.socket, socket.socket], loop: asyncio.AbstractEventLoop
) -> None:
    ours, theirs = pair
    client, wire = connect(make_server(), ours)
    before = client.peer.received_bytes
    # Mandatory, so that it comes back.
    said = publish("nowhere", BODY)
    mandatory = said[: said.index(b"\xce") - 1] + b"\x01" + said[said.index(b"\xce") :]
    client.data_received(mandatory[:50_000])
    assert not wire.reading
    theirs.sendall(mandatory[50_000:])
    received(client, before + len(mandatory), loop)
    turns(loop)
    assert wire.reading
    assert BODY in wire.written


@pytest.mark.parametrize(
    ("body", "writing", "go_first"),
    [(BODY, False, True), (BODY, True, False), (bytes(HUGE_BODY_BYTES_MIN), False, False)],
    ids=["others", "the journal's writer", "a huge body"],
)
def test_others_go_first_between_two_reads(
    body: bytes,
    writing: bool,
    go_first: bool,
    pair: tuple[socket.socket, socket.socket],
    loop: asyncio.AbstractEventLoop,
) -> None:
    ours, theirs = pair
    server = make_server(journaling=True)
    disk = SlowDisk()
    disk.busy = writing
    server.turns.journal = cast(JournalWriter, disk)
    given: list[None] = []
    server.turns.giving_way = GivingWay(lambda: 7.0, lambda: given.append(None))
    client, wire = connect(server, ours)
    said = content(body)
    before = client.peer.received_bytes
    client.data_received(said[:50_000])
    theirs.sendall(said[50_000:])
    received(client, before + len(said), loop)
    turns(loop)
    assert wire.reading
    assert bool(given) is go_first


def test_a_body_that_does_not_go_on_is_left_to_the_transport(
    pair: tuple[socket.socket, socket.socket], loop: asyncio.AbstractEventLoop
) -> None:
    client, wire = connect(make_server(), pair[0])
    said = publish("nowhere", BODY)
    client.data_received(said[:50_000])
    turns(loop)
    assert wire.reading
    client.data_received(said[50_000:])
    assert not client.peer.connection.reader.amid_content


def test_small_messages_never_leave_the_transport(
    pair: tuple[socket.socket, socket.socket], loop: asyncio.AbstractEventLoop
) -> None:
    client, wire = connect(make_server(), pair[0])
    said = publish("nowhere", bytes(1000))
    for at in range(0, 50 * len(said), 700):
        client.data_received((50 * said)[at : at + 700])
        assert wire.reading


def test_a_publisher_is_not_read_from_during_an_alarm_in_the_midst_of_a_body(
    pair: tuple[socket.socket, socket.socket], loop: asyncio.AbstractEventLoop
) -> None:
    ours, theirs = pair
    server = make_server()
    client, wire = connect(server, ours)
    said = publish("nowhere", BODY)
    client.data_received(said[:50_000])
    assert not wire.reading
    server.set_alarm(Alarm.MEMORY, True)
    theirs.sendall(said[50_000:100_000])
    before = client.peer.received_bytes
    received(client, before + 50_000, loop)
    assert client.peer.blocked
    theirs.sendall(said[100_000:])
    before = client.peer.received_bytes
    turns(loop, 10)
    assert client.peer.received_bytes == before
    assert not wire.reading
    server.set_alarm(Alarm.MEMORY, False)
    assert wire.reading


def test_a_client_that_ends_in_the_midst_of_a_body_is_the_transports_to_see(
    pair: tuple[socket.socket, socket.socket], loop: asyncio.AbstractEventLoop
) -> None:
    ours, theirs = pair
    client, wire = connect(make_server(), ours)
    client.data_received(publish("nowhere", BODY)[:50_000])
    assert not wire.reading
    theirs.close()
    for _ in range(10_000):
        turns(loop, 1)
        if wire.reading:
            break
    assert wire.reading
    assert not client.peer.closed
    client.connection_lost(None)


def test_a_reset_in_the_midst_of_a_body_ends_the_connection(
    pair: tuple[socket.socket, socket.socket], loop: asyncio.AbstractEventLoop
) -> None:
    ours, theirs = pair
    client, wire = connect(make_server(), ours)
    client.data_received(publish("nowhere", BODY)[:50_000])
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    for _ in range(10_000):
        turns(loop, 1)
        if wire.aborted or wire.reading:
            break
    assert wire.aborted
    assert client.peer.connection.end_reason == "socket error: Connection reset by peer"
    client.connection_lost(None)
