"""A message body put together from its frames, as `bytes` in the end.

Memory is taken for what came and no more than as much again, unless the peer has proved that it
does send: nobody claims any with a content header. Two ways, which differ in when the copying is
done:

| body | kept as | the last frame costs |
|---|---|---|
| up to JOINED_BYTES_MAX | a list of parts | a join: one copy of the whole |
| larger | one buffer that grows, a `BytesIO` | no more than any other frame |

A buffer has a place for what comes next, so that it can be read from the socket straight to there
(`amqpd.protocol.placing`). What a `BytesIO` holds in the end is the very object that its `getvalue`
returns, provided that it is full.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final, Protocol

JOINED_BYTES_MAX: Final = 32 * 1024
STEP_BYTES_MAX: Final = 4 * 1024 * 1024
"""Most by which a buffer grows at a time: more than a `BytesIO` would by itself, for each time may
copy what there is; and not so much that making room is a pause of its own."""
STEP_BYTES_MIN: Final = 4096
PART_BYTES_MIN: Final = 1024


class Body(Protocol):
    """A body that has not wholly arrived."""

    def add(self, payload: memoryview) -> None:
        """More of it came."""

    def whole(self) -> bytes:
        """All of it has come. To be called once."""
        ...


def make_body(size: int, ahead: int = 0) -> Body:
    """For a body of so many octets.

    Memory for `ahead` octets may be taken before they come, 0 to STEP_BYTES_MAX.
    """
    return JoinedBody() if size <= JOINED_BYTES_MAX else GrowingBody(size, ahead)


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

    __slots__ = ("_ahead", "_buffer", "_came", "_room", "_size")

    def __init__(self, size: int, ahead: int = 0) -> None:
        self._buffer = BytesIO()
        self._size = size
        self._ahead = ahead
        self._came = 0
        self._room = 0

    def add(self, payload: memoryview) -> None:
        """More of it came."""
        came = self._came + len(payload)
        if came > self._room:
            self._make_room(came)
        self._buffer.write(payload)
        self._came = came

    def place(self, octets_max: int) -> memoryview:
        """Where the next octets belong: at least one, unless all have come.

        To be released before anything else is done with the body.
        """
        came = self._came
        if came == self._room:
            self._make_room(came, STEP_BYTES_MIN)
        return self._buffer.getbuffer()[came : min(self._room, came + octets_max)]

    def placed(self, octets: int) -> None:
        """So many more came, and are in their place."""
        self._came += octets
        self._buffer.seek(self._came)

    def latest(self, octets: int, octets_max: int) -> bytes:
        """The beginning of the `octets` that came last: `octets_max` at most."""
        self._buffer.seek(self._came - octets)
        said = self._buffer.read(min(octets, octets_max))
        self._buffer.seek(self._came)
        return said

    def whole(self) -> bytes:
        """All of it has come."""
        return self._buffer.getvalue()

    def _make_room(self, came: int, least: int = 0) -> None:
        """For `came` octets and some of those to come: `least` of them, at the least."""
        step = max(min(came, STEP_BYTES_MAX), least, self._ahead)
        self._room = min(came + step, self._size)
        if self._room > came:
            self._buffer.seek(self._room - 1)
            self._buffer.write(b"\0")
            self._buffer.seek(self._came)
