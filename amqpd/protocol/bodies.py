"""A message body put together from its frames, as `bytes` in the end.

Memory is taken for what came and no more than as much again: nobody claims any with a content
header. Two ways, which differ in when the copying is done:

| body | kept as | the last frame costs |
|---|---|---|
| up to JOINED_BYTES_MAX | a list of parts | a join: one copy of the whole, 2 ms at the most |
| larger | one buffer that grows, a `BytesIO` | no more than any other frame |

A join of 100 MB would take 80 ms during which nobody is served. What a `BytesIO` holds in the end
is the very object that its `getvalue` returns, provided that it is full.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final, Protocol

JOINED_BYTES_MAX: Final = 4 * 1024 * 1024
STEP_BYTES_MAX: Final = 4 * 1024 * 1024
"""Most by which a buffer grows at a time: more than a `BytesIO` would by itself, for each time may
copy what there is; and not so much that making room is a pause of its own."""
PART_BYTES_MIN: Final = 1024


class Body(Protocol):
    """A body that has not wholly arrived."""

    def add(self, payload: memoryview) -> None:
        """More of it came."""

    def whole(self) -> bytes:
        """All of it has come. To be called once."""
        ...


def make_body(size: int) -> Body:
    """For a body of so many octets."""
    return JoinedBody() if size <= JOINED_BYTES_MAX else GrowingBody(size)


class JoinedBody:
    """Parts, to be joined."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes | bytearray] = []

    def add(self, payload: memoryview) -> None:
        """More of it came."""
        parts = self._parts
        if len(payload) >= PART_BYTES_MIN:
            parts.append(bytes(payload))
        elif parts and isinstance(parts[-1], bytearray):
            parts[-1] += payload
        else:
            # A body in frames of one octet must not cost an object for each.
            parts.append(bytearray(payload))

    def whole(self) -> bytes:
        """All of it has come."""
        return b"".join(self._parts)


class GrowingBody:
    """A buffer with room for some more, up to the size of the body."""

    __slots__ = ("_buffer", "_came", "_room", "_size")

    def __init__(self, size: int) -> None:
        self._buffer = BytesIO()
        self._size = size
        self._came = 0
        self._room = 0

    def add(self, payload: memoryview) -> None:
        """More of it came."""
        came = self._came + len(payload)
        if came > self._room:
            self._room = min(came + min(came, STEP_BYTES_MAX), self._size)
            self._buffer.seek(self._room - 1)
            self._buffer.write(b"\0")
            self._buffer.seek(self._came)
        self._buffer.write(payload)
        self._came = came

    def whole(self) -> bytes:
        """All of it has come."""
        return self._buffer.getvalue()
