"""In process: µs a message through the whole core, bytes in, bytes out, without a socket.

A publisher's bytes are fed chunk by chunk; what comes out for the consumer is acknowledged with
prepared bytes. The figure is the processor time of this thread divided by the messages, the best
of several rounds: rounds differ by what else the machine does, and only ever upwards.

    python -m tests.bench.inprocess
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final

from pamqp import commands, frame

from amqpd.broker.broker import Broker
from amqpd.config import Config
from amqpd.protocol.connection import Connection
from amqpd.runtime.peer import Peer

ROUNDS: Final = 5
MESSAGES: Final = 20_000
CHUNK_MESSAGES: Final = 200
ACK: Final = struct.Struct(">BHIHHQBB")


def publish_bytes(body_bytes: int, count: int, routing_key: str = "bench") -> bytes:
    """`count` publishes to the default exchange, one behind the other."""
    body = b"x" * body_bytes
    properties = b"\x00\x00"
    method = frame.marshal(commands.Basic.Publish(routing_key=routing_key), 1)
    header = struct.pack(">HHQ", 60, 0, body_bytes) + properties
    content = struct.pack(">BHI", 2, 1, len(header)) + header + b"\xce"
    content += struct.pack(">BHI", 3, 1, body_bytes) + body + b"\xce"
    return (method + content) * count


def ack_bytes(first: int, count: int) -> bytes:
    """`count` single acks, from delivery tag `first` on."""
    return b"".join(ACK.pack(1, 1, 13, 60, 80, tag, 0, 0xCE) for tag in range(first, first + count))


def connected(broker: Broker, *methods: commands.Queue.Declare | object) -> Peer:
    """A peer that is logged in, with channel 1 open and the methods said on it."""
    speaking: list[Connection] = []
    peer = Peer(
        broker, "bench -> core", is_loopback=True, information="", now=0.0, speaking=speaking
    )
    said: list[bytes] = [
        b"AMQP\x00\x00\x09\x01",
        frame.marshal(commands.Connection.StartOk({}, "PLAIN", "\x00guest\x00guest", "en_US"), 0),
        frame.marshal(commands.Connection.TuneOk(2047, 131072, 0), 0),
        frame.marshal(commands.Connection.Open("/"), 0),
        frame.marshal(commands.Channel.Open(), 1),
        *(frame.marshal(method, 1) for method in methods),  # type: ignore[arg-type]
    ]
    for data in said:
        peer.receive(data, 0.0)
    drain(peer)
    return peer


def drain(peer: Peer) -> int:
    """Take what a peer is sent, as its socket would."""
    octets = len(peer.connection.take_output(0.0))
    peer.sent(octets)
    return octets


def path(body_bytes: int, *, no_ack: bool) -> float:
    """Publish, route, deliver and (unless `no_ack`) acknowledge: µs a message."""
    broker = Broker(Config(), journaling=False, entropy=bytes)
    broker.add_defaults()
    publisher = connected(broker, commands.Queue.Declare(queue="bench"))
    consumer = connected(broker, commands.Basic.Consume(queue="bench", no_ack=no_ack))
    chunk = publish_bytes(body_bytes, CHUNK_MESSAGES)
    tags: Iterator[int] = iter(range(1, 1 << 62, CHUNK_MESSAGES))
    acks: dict[int, bytes] = {}

    def prepare() -> None:
        acks.clear()
        for _ in range(MESSAGES // CHUNK_MESSAGES):
            first = next(tags)
            acks[first] = b"" if no_ack else ack_bytes(first, CHUNK_MESSAGES)

    def run() -> int:
        for said in acks.values():
            publisher.receive(chunk, 0.0)
            broker.finish_turn()
            drain(consumer)
            if said:
                consumer.receive(said, 0.0)
                broker.finish_turn()
        return MESSAGES

    best = float("inf")
    for _ in range(ROUNDS):
        prepare()
        began = time.thread_time_ns()
        run()
        best = min(best, (time.thread_time_ns() - began) / 1000 / MESSAGES)
    assert not broker.virtual_hosts["/"].queues["bench"].ready
    return best


def figures() -> dict[str, float]:
    """µs a message, by name."""
    return {
        "in process, 12 B, automatic ack": path(12, no_ack=True),
        "in process, 1 KB, publish + deliver": path(1024, no_ack=True),
        "in process, 1 KB, publish + deliver + ack": path(1024, no_ack=False),
    }


def main() -> None:
    """Print the figures: for a person, or as JSON."""
    if "--json" in sys.argv[1:]:
        print(json.dumps(figures()))
        return
    for name, microseconds in figures().items():
        print(f"{name:45} {microseconds:6.2f} µs")


if __name__ == "__main__":
    main()
