"""Messages that are timed one by one: there, or there and back.

Both ends are in one process, which does not sleep while something is under way (sockets):

    one process    sends ──> broker ──> receives     the only one that has to be woken is the broker

With a process for each end, every message woke three, and three on two cores wait for a core at
times: a median of 111 us at 2,000 messages a second where it is 73 now, and 10,900 round trips by
direct reply-to where it is 27,100, by the same broker.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Final

from tests.bench import sockets, wire
from tests.bench.client import Connection
from tests.bench.load import DRAIN_SECONDS, Limit, LoadError, Published

SLEEP_SECONDS: Final = 0.0001
"""What is to be done sooner is waited for awake: to sleep takes about as long."""


def travel_times(
    sender: socket.socket,
    receiver: socket.socket,
    message: bytes,
    limit: Limit,
    per_second: int,
    first: bytes = b"",
    size: int = 0,
) -> list[int]:
    """Nanoseconds from sending to arrival of each delivery, sorted; sent at a steady rate.

    The first 8 octets of the body are the time of sending. It is taken after the sleep: what the
    machine's scheduler does to the sender is no latency of the broker. A send never blocks at
    these rates, so nothing hides behind it either. `first` was received already; `size` is that of
    a delivery with its frames, where it can't be learned from the first one.
    """
    sockets.make_hot(sender)
    sockets.make_hot(receiver)
    frame, body_at = bytearray(message), body_offset(message)
    body_and_end = len(message) - body_at
    count, sent = min(limit.count, int(limit.seconds * per_second)), 0
    taken: list[int] = []
    pending = bytearray(first)
    began = time.perf_counter()
    given_up = began + limit.seconds + DRAIN_SECONDS
    while len(taken) < count:
        now = time.perf_counter()
        due = began + sent / per_second
        if sent < count and now >= due:
            struct.pack_into(">Q", frame, body_at, time.perf_counter_ns())
            sender.sendall(frame)
            sent += 1
        data = sockets.look(receiver)
        arrived = time.perf_counter_ns()
        if data is None:
            if now > given_up:
                break
            if sent == len(taken) and due - now > SLEEP_SECONDS:
                time.sleep(due - now)
            else:
                os.sched_yield()
            continue
        pending += data
        size = size or wire.delivery_size(pending) or 0
        if not size:
            continue
        whole = len(pending) - len(pending) % size
        taken += [
            arrived - struct.unpack_from(">Q", pending, end - body_and_end)[0]
            for end in range(size, whole + 1, size)
        ]
        del pending[:whole]
    return sorted(taken)


def body_offset(message: bytes) -> int:
    """Where the body of a publish starts: behind two frames and the head of the third."""
    at = 0
    for _ in range(2):
        found = wire.next_frame(message, at)
        assert found is not None
        at = found[3]
    return at + 7


def round_trips(
    client: Connection, server: Connection, request: bytes, limit: Limit, began: float
) -> Published:
    """Requests over direct reply-to, one at a time: sent by the client, answered by the server."""
    sockets.make_hot(client.sock)
    sockets.make_hot(server.sock)
    trips, deadline = 0, began + limit.seconds
    request_size = reply_size = 0
    reply = b""
    while trips < limit.count and time.perf_counter() < deadline:
        client.sock.sendall(request)
        received = server.received
        while not request_size or len(received) < request_size:
            received += sockets.receive_awake(server.sock)
            request_size = request_size or wire.delivery_size(received) or 0
        if not reply:
            # The token belongs to the client's channel: it is the same in every request.
            reply = wire.publish("", _reply_to(received), b"y" * 12, wire.TRANSIENT)
        received.clear()
        server.sock.sendall(reply)
        received = client.received
        while not reply_size or len(received) < reply_size:
            received += sockets.receive_awake(client.sock)
            reply_size = reply_size or wire.delivery_size(received) or 0
        received.clear()
        trips += 1
    return Published(trips, began, time.perf_counter())


def _reply_to(delivery: bytearray) -> str:
    """Our requests carry one property only, so it is where the list begins."""
    deliver = wire.next_frame(delivery)
    assert deliver is not None
    header = wire.next_frame(delivery, deliver[3])
    assert header is not None
    flags, length = struct.unpack_from(">HB", header[2], 12)
    if flags != 1 << 9:
        raise LoadError(f"property flags {flags:#x} where only reply-to was sent")
    return header[2][15 : 15 + length].decode()
