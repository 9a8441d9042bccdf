"""The rest of a large body, read from the socket straight to its place.

Once a chunk ends within a frame of a large body, what comes next belongs behind what has come of
that body. Since a client cuts a body into frames of one size, it is known besides where the frames
after that one go, as far as the body reaches:

    places:   [rest of the frame] [next 8 octets] [next payload] [next 8 octets] ... [end octet]
               in the body         aside           in the body    aside               aside

What lands aside (the end octet of a frame, and type, channel and size of the next) has to be what
was expected. Where it is not, because another channel spoke in between, or sizes vary, everything
from there on is taken back and read in the ordinary way: a copy, and no other difference.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from amqpd.protocol.bodies import GrowingBody

BOUNDARY: Final = Struct(">BBHI")
"""The end octet of a frame; type, channel and size of the next."""
FRAME_END: Final = 0xCE
BODY: Final = 3


class OpenFrame:
    """A frame of a large body, of which the beginning has come."""

    __slots__ = ("_expected", "_places", "channel", "left", "size")

    def __init__(self, channel: int, size: int, left: int) -> None:
        """`size` is that of its payload, of which `left` octets are still to come."""
        self.channel = channel
        self.size = size
        self.left = left
        self._places: list[memoryview] = []
        self._expected: list[int] = []
        """Sizes of the payloads that places were made for, behind this one."""

    def places(self, body: GrowingBody, remaining: int, octets_max: int) -> list[memoryview]:
        """Where the next octets go, in order; `remaining` of the body are still to come."""
        self.release()
        self._expected = []
        places = self._places
        room = body.place(octets_max)
        aside = memoryview(bytearray(BOUNDARY.size * (len(room) // self.size + 2)))
        at = aside_at = 0
        left = self.left
        while at < len(room):
            stop = min(at + left, len(room))
            places.append(room[at:stop])
            left -= stop - at
            remaining -= stop - at
            at = stop
            if left:
                break
            if not remaining:
                places.append(aside[aside_at : aside_at + 1])
                break
            places.append(aside[aside_at : aside_at + BOUNDARY.size])
            aside_at += BOUNDARY.size
            left = min(self.size, remaining)
            self._expected.append(left)
        room.release()
        return places

    def placed(self, octets: int) -> tuple[int, bytes]:
        """So many octets are in the places: how many of them are in the body, and rightly so; and
        what came behind those, to be read in the ordinary way."""
        in_body = 0
        rest = b""
        for number in range(0, len(self._places), 2):
            taken = min(octets, len(self._places[number]))
            self.left -= taken
            in_body += taken
            octets -= taken
            if not octets:
                break
            boundary = self._places[number + 1]
            following = self._expected[number // 2] if number // 2 < len(self._expected) else 0
            if octets < BOUNDARY.size or bytes(boundary) != BOUNDARY.pack(
                FRAME_END, BODY, self.channel, following
            ):
                rest = b"".join(self._places[number + 1 :])[:octets]
                break
            octets -= BOUNDARY.size
            self.size = self.left = following
        self.release()
        return in_body, rest

    def release(self) -> None:
        """The places are no longer written to."""
        for place in self._places:
            place.release()
        self._places = []
