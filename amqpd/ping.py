"""`amqpd ping`: does somebody there speak AMQP 0-9-1? With the standard library alone."""

from __future__ import annotations

import socket
import sys
from typing import Final

GREETING: Final = b"AMQP\x00\x00\x09\x01"
CONNECTION_START: Final = b"\x00\x0a\x00\x0a"
TIMEOUT_S: Final = 5.0
EX_USAGE: Final = 64
EX_UNAVAILABLE: Final = 69


def ping(address: str = "127.0.0.1:5672") -> int:
    """Greet the broker and wait for its connection.start; the exit code."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit()):
        print(f"amqpd: {address!r} is not an address: write HOST:PORT", file=sys.stderr)
        return EX_USAGE
    try:
        with socket.create_connection(
            (host.strip("[]") or "127.0.0.1", int(port)), TIMEOUT_S
        ) as peer:
            peer.sendall(GREETING)
            with peer.makefile("rb") as answers:
                answer = answers.read(11)
    except (OSError, OverflowError) as error:
        print(f"amqpd: no answer from {address}: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    if answer[7:11] != CONNECTION_START:
        print(f"amqpd: what answers at {address} does not speak AMQP 0-9-1", file=sys.stderr)
        return EX_UNAVAILABLE
    print(f"amqpd: {address} is up")
    return 0
