"""`amqpd ping`: does somebody there speak AMQP 0-9-1? With the standard library alone."""

from __future__ import annotations

import socket
import sys
from typing import Final
from urllib.parse import urlsplit

from amqpd.exit_codes import EX_FORCED, EX_UNAVAILABLE, EX_USAGE
from amqpd.host_name import is_host

GREETING: Final = b"AMQP\x00\x00\x09\x01"
CONNECTION_START: Final = b"\x00\x0a\x00\x0a"
TIMEOUT_S: Final = 5.0
PORT: Final = 5672


def ping(address: str = "127.0.0.1:5672") -> int:
    """Greet the broker and wait for its connection.start; the exit code."""
    place = _place(address)
    if place is None:
        print(f"amqpd: {address!r} is not an address: write HOST:PORT", file=sys.stderr)
        return EX_USAGE
    host, port = place
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with socket.create_connection(place, TIMEOUT_S) as peer:
            peer.sendall(GREETING)
            with peer.makefile("rb") as answers:
                answer = answers.read(11)
    except ConnectionRefusedError:
        text = f"amqpd: no answer from {shown}: connection refused. Is the broker running there?"
        print(f"{text} Say where with `amqpd ping HOST:PORT`", file=sys.stderr)
        return EX_UNAVAILABLE
    except OSError as error:
        print(f"amqpd: no answer from {shown}: {error.strerror or error}", file=sys.stderr)
        return EX_UNAVAILABLE
    except KeyboardInterrupt:
        return EX_FORCED
    if answer[7:11] != CONNECTION_START:
        print(f"amqpd: what answers at {shown} does not speak AMQP 0-9-1", file=sys.stderr)
        return EX_UNAVAILABLE
    print(f"amqpd: {shown} is up")
    return 0


def _place(address: str) -> tuple[str, int] | None:
    """Host and port of `HOST:PORT`, `PORT` or `amqp://...`; None if it is nothing of these."""
    if address.startswith("amqp://"):
        try:
            parts = urlsplit(address)
            host, port = parts.hostname or "", str(parts.port or PORT)
        except ValueError:
            return None
    else:
        name, _, port = address.rpartition(":")
        host = name.removeprefix("[").removesuffix("]")
        if (":" in host) != name.startswith("["):
            return None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        return None
    return (host or "127.0.0.1", int(port)) if is_host(host) else None
