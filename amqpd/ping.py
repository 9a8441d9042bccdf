"""`amqpd ping`: does somebody there speak AMQP 0-9-1? With the standard library alone."""

from __future__ import annotations

import socket
import sys
from typing import Final

GREETING: Final = b"AMQP\x00\x00\x09\x01"
CONNECTION_START: Final = b"\x00\x0a\x00\x0a"
TIMEOUT_S: Final = 5.0
EX_UNAVAILABLE: Final = 69


def ping(address: str) -> int:
    """Greet the broker and wait for its connection.start; the exit code."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection(
            (host.strip("[]") or "127.0.0.1", int(port)), TIMEOUT_S
        ) as peer:
            peer.sendall(GREETING)
            answer = peer.recv(11, socket.MSG_WAITALL)
    except (OSError, ValueError) as error:
        print(f"amqpd: no answer from {address}: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    if answer[7:11] != CONNECTION_START:
        print(f"amqpd: what answers at {address} does not speak AMQP 0-9-1", file=sys.stderr)
        return EX_UNAVAILABLE
    print(f"amqpd: {address} is up")
    return 0
