"""A load that waits for single answers does not sleep while it waits: it looks for them.

The load shares two cores with the broker. A process that sleeps has to be woken, which takes the
machine longer than it takes a broker to handle a small message. So who waits for one answer looks
for it again and again, and gives way to whoever wants the processor (sched_yield): what is timed is
the broker being woken, and not its load.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Final

from tests.bench import wire

REPLY_SECONDS: Final = 30.0
"""How long a broker may be silent."""
RECEIVE_OCTETS: Final = 1 << 20
"""At a time, of much."""
REPLY_OCTETS: Final = 1 << 18
"""At a time, of what is waited for by itself."""


def make_hot(sock: socket.socket, receive_seconds: float = REPLY_SECONDS) -> None:
    """Timeouts by the kernel: those of Python cost a poll() before each call."""
    sock.settimeout(None)
    for option, seconds in (
        (socket.SO_RCVTIMEO, receive_seconds),
        (socket.SO_SNDTIMEO, REPLY_SECONDS),
    ):
        timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, option, timeval)


def receive(sock: socket.socket) -> bytes:
    """What comes next, asleep until it does. Raises ProtocolError when the broker has closed."""
    return _said(sock.recv(REPLY_OCTETS))


def receive_awake(sock: socket.socket) -> bytes:
    """What comes next through a socket that is hot. Raises ProtocolError when nothing does."""
    given_up = time.perf_counter() + REPLY_SECONDS
    while (data := look(sock)) is None:
        os.sched_yield()
        if time.perf_counter() > given_up:
            raise wire.ProtocolError(f"the broker was silent for {REPLY_SECONDS:.0f} s")
    return data


def look(sock: socket.socket) -> bytes | None:
    """What has come already, if anything has. Raises ProtocolError when the broker has closed."""
    try:
        return _said(sock.recv(REPLY_OCTETS, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return None


def _said(data: bytes) -> bytes:
    if not data:
        raise wire.ProtocolError("the broker closed the socket")
    return data


@contextlib.contextmanager
def joined() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of one connection, over loopback as a broker's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as one,
        listener.accept()[0] as other,
    ):
        for end in (one, other):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield one, other
