"""A TCP proxy that keeps the content headers which go through it, octet for octet.

What a client publishes and what it is given back are compared here, so that its own decoder has no
say: some clients cannot read every type that they can write.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import unpack_from

HEADERS_FLAG = 1 << 13
FIXED = {"t": 1, "b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "i": 4, "f": 4, "D": 5}
FIXED |= {"l": 8, "L": 8, "d": 8, "T": 8, "V": 0}
LONG = "SxAF"
"""Types that begin with their length."""


@dataclass
class Recorder:
    """Property lists in the order in which they went by."""

    published: list[bytes] = field(default_factory=list)
    delivered: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def recorder(host: str, port: int) -> Iterator[tuple[Recorder, int]]:
    """A recorder in front of the broker, and the port on which it listens."""
    kept = Recorder()
    with contextlib.ExitStack() as sockets, socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near = sockets.enter_context(listener.accept()[0])
                    far = sockets.enter_context(socket.create_connection((host, port)))
                    for source, target, headers in (
                        (near, far, kept.published),
                        (far, near, kept.delivered),
                    ):
                        line = (source, target, headers)
                        threading.Thread(target=_pump, args=line, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield kept, listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, target: socket.socket, headers: list[bytes]) -> None:
    """Pass everything on; a greeting comes before the first frame of a client."""
    buffer = bytearray()
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            buffer += data
            if buffer[:4] == b"AMQP" and len(buffer) >= 8:
                del buffer[:8]
            while len(buffer) >= 7:
                stop = 8 + int.from_bytes(buffer[3:7], "big")
                if len(buffer) < stop:
                    break
                if buffer[0] == 2:
                    headers.append(bytes(buffer[19 : stop - 1]))
                del buffer[:stop]
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class PropertyList:
    """A property list taken apart: the header fields, and the octets around their table."""

    flags: int
    before: bytes
    fields: list[tuple[bytes, bytes]]
    """Name, and type octet with value."""
    after: bytes


def parse(octets: bytes) -> PropertyList:
    """Take a property list apart. Content type and encoding stand before the table."""
    flags = int(unpack_from(">H", octets)[0])
    position = 2
    for bit in (15, 14):
        if flags >> bit & 1:
            position += 1 + octets[position]
    if not flags & HEADERS_FLAG:
        return PropertyList(flags, octets[2:position], [], octets[position:])
    stop = position + 4 + int(unpack_from(">I", octets, position)[0])
    at, fields = position + 4, []
    while at < stop:
        name_stop = at + 1 + octets[at]
        value_stop = _end(octets, name_stop)
        fields.append((octets[at + 1 : name_stop], octets[name_stop:value_stop]))
        at = value_stop
    return PropertyList(flags, octets[2:position], fields, octets[stop:])


def _end(octets: bytes, at: int) -> int:
    """Where the value ends whose type octet stands here."""
    kind = chr(octets[at])
    if kind in LONG:
        return at + 5 + int(unpack_from(">I", octets, at + 1)[0])
    return at + 1 + FIXED[kind]


def types(value: bytes) -> set[str]:
    """The type octets in a value: its own, and those of what it holds."""
    kind, found, at = chr(value[0]), {chr(value[0])}, 5
    while kind in "AF" and at < len(value):
        if kind == "F":
            at += 1 + value[at]
        stop = _end(value, at)
        found |= types(value[at:stop])
        at = stop
    return found
