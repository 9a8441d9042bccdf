"""What the load times itself, through nothing but a pair of sockets."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.bench import sockets, wire
from tests.bench.load import Limit
from tests.bench.trips import body_offset, travel_times


def relay(source: socket.socket, sink: socket.socket) -> None:
    """Pass everything on, until nothing more comes."""
    while data := source.recv(65536):
        sink.sendall(data)


def test_every_message_is_timed_once() -> None:
    sender, source = socket.socketpair()
    sink, receiver = socket.socketpair()
    message = wire.publish("", "q", b"x" * 32, wire.TRANSIENT)
    passing = threading.Thread(target=relay, args=(source, sink))
    passing.start()
    with sender, receiver, source, sink:
        taken = travel_times(
            sender, receiver, message, Limit(50, 10.0), per_second=5000, size=len(message)
        )
        sender.shutdown(socket.SHUT_WR)
        passing.join()
    assert len(taken) == 50
    assert taken == sorted(taken)
    assert 0 < taken[0] <= taken[-1] < 10 * 10**9


def test_what_was_received_before_the_first_send_counts_as_the_beginning() -> None:
    sender, source = socket.socketpair()
    sink, receiver = socket.socketpair()
    message = wire.publish("", "q", b"x" * 32, wire.TRANSIENT)
    half = len(message) // 2
    with sender, receiver, source, sink:
        sink.sendall(message[half:])
        taken = travel_times(
            sender, receiver, message, Limit(1, 10.0), 1000, first=message[:half], size=len(message)
        )
    assert len(taken) == 1


def test_the_body_of_a_publish_is_where_the_stamp_goes() -> None:
    message = wire.publish("exchange", "key", b"0123456789", wire.PERSISTENT)
    at = body_offset(message)
    assert message[at : at + 10] == b"0123456789"


def test_a_closed_socket_ends_the_wait() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    sockets.make_hot(ours)
    with ours, pytest.raises(wire.ProtocolError, match="closed the socket"):
        sockets.receive_awake(ours)
