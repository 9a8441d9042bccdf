"""The frame tap: one hook per connection that sees each frame, and may delay, drop or close.

Tracing, record and replay, fault injection and protocol tests hang on it. A connection without a
tap pays one comparison a chunk; one with a tap has its bytes cut into frames twice, which is the
price of looking.

    socket ──bytes──> TapFilter(inbound) ──bytes──> FrameReader
    socket <──bytes── TapFilter(outbound) <──bytes── pieces

A delayed frame holds back everything behind it, so that order survives: it is the network that is
slow, not the broker that reorders.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from struct import Struct
from typing import Final, NamedTuple, Protocol

FRAME: Final = Struct(">BHI")
FRAME_OVERHEAD: Final = 8


class Direction(Enum):
    """Seen from the broker."""

    INBOUND = auto()
    OUTBOUND = auto()


class TappedFrame(NamedTuple):
    """One frame as it is on the wire; `payload` is without frame header and end octet."""

    direction: Direction
    kind: int
    channel: int
    payload: bytes


class Verdict(NamedTuple):
    """What becomes of a frame. Made by `PASS`, `DROP`, `CLOSE` and `delay`."""

    keep: bool
    close: bool
    delay_s: float


PASS: Final = Verdict(keep=True, close=False, delay_s=0.0)
DROP: Final = Verdict(keep=False, close=False, delay_s=0.0)
CLOSE: Final = Verdict(keep=False, close=True, delay_s=0.0)
"""The connection ends here, as if the cable had been cut: the frame is not passed on."""


def delay(seconds: float) -> Verdict:
    """Pass the frame on that much later, and everything behind it not before."""
    return Verdict(keep=True, close=False, delay_s=seconds)


class FrameTap(Protocol):
    """Whoever wants to see frames."""

    def frame(self, frame: TappedFrame, now: float) -> Verdict:
        """Called for each whole frame, in order, before it is acted on or sent.

        Must not raise. `now` is the time of the turn, in seconds.
        """


class TapFilter:
    """One direction of a tapped connection: bytes in, the bytes that may pass out."""

    __slots__ = ("_delayed", "_direction", "_rest", "_tap", "closed")

    def __init__(self, tap: FrameTap, direction: Direction) -> None:
        self._tap = tap
        self._direction = direction
        self._rest = b""
        self._delayed: deque[tuple[float, bytes]] = deque()
        self.closed = False
        """The tap said CLOSE: nothing passes any more."""

    def filter(self, data: bytes, now: float) -> bytes:
        """What of `data`, and of what was held back before, passes now."""
        data = self._rest + data
        position, end = 0, len(data)
        while not self.closed and position + FRAME_OVERHEAD <= end:
            kind, channel, size = FRAME.unpack_from(data, position)
            stop = position + size + FRAME_OVERHEAD
            if stop > end:
                break
            frame = TappedFrame(self._direction, kind, channel, data[position + 7 : stop - 1])
            self._judge(self._tap.frame(frame, now), data[position:stop], now)
            position = stop
        self._rest = data[position:]
        return self.due(now)

    def due(self, now: float) -> bytes:
        """What was held back and may pass now."""
        delayed = self._delayed
        passing = []
        while delayed and delayed[0][0] <= now:
            passing.append(delayed.popleft()[1])
        return b"".join(passing)

    def deadline(self) -> float | None:
        """When `due` will have something."""
        return self._delayed[0][0] if self._delayed else None

    def _judge(self, verdict: Verdict, octets: bytes, now: float) -> None:
        if verdict.close:
            self.closed = True
        elif verdict.keep:
            # Never earlier than what is ahead of it.
            at = now + verdict.delay_s
            if self._delayed:
                at = max(at, self._delayed[-1][0])
            self._delayed.append((at, octets))


class Tap:
    """Both directions of one connection's tap."""

    __slots__ = ("inbound", "outbound")

    def __init__(self, tap: FrameTap) -> None:
        self.inbound = TapFilter(tap, Direction.INBOUND)
        self.outbound = TapFilter(tap, Direction.OUTBOUND)

    @property
    def closed(self) -> bool:
        """The tap cut the connection."""
        return self.inbound.closed or self.outbound.closed

    def deadline(self) -> float | None:
        """When something that is held back may pass."""
        deadlines = [at for at in (self.inbound.deadline(), self.outbound.deadline()) if at]
        return min(deadlines, default=None)
