"""Commands in, bytes out: how a channel of the broker speaks to its peer.

Every outlet of a connection appends to that connection's `pieces`, which are joined and sent once
a turn. A reply that has to wait for the journal is *held*, and everything the channel says after
it waits behind it, so that nothing on the channel overtakes anything:

    connection.pieces <── released ── [mark 1: pieces] [mark 2: pieces] <── outlet.pieces

Without a hold, `outlet.pieces` is `connection.pieces` itself: the hot path pays nothing for it.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Final

from amqpd.commands import Frame, Message, Outlet, Target
from amqpd.errors import AMQPException
from amqpd.protocol.methods import method_frame
from amqpd.short_string import short_string

if TYPE_CHECKING:
    from amqpd.protocol.connection import Connection

FRAME: Final = Struct(">BHI")
CONTENT: Final = Struct(">IHHQ")
LENGTH: Final = Struct(">I")
DELIVERY: Final = Struct(">QB")
FRESH: Final = b"\x00"
REDELIVERED: Final = b"\x01"
SETTLEMENT: Final = Struct(">BHIHHQBB")
GET_OK_COUNT: Final = Struct(">I")
END: Final = b"\xce"
DELIVER: Final = b"\x00\x3c\x00\x3c"
GET_OK: Final = b"\x00\x3c\x00\x47"
RETURN: Final = b"\x00\x3c\x00\x32"
BASIC: Final = 60
ACK: Final = 80
NACK: Final = 120
REQUEUE_BIT: Final = 2
LARGE_PIECE_BYTES: Final = 16 * 1024
"""From here on a piece is rather sent by itself than copied into a longer one."""
LENT_UNSENT_BYTES_MAX: Final = 1024 * 1024
"""Once so much is unsent, or the transport is behind, bodies are copied out of the chunks that lent
them: a peer that does not read must not tie up what is many times as large."""
BODY_FRAMING_OCTETS: Final = 8
"""Of each body frame: the end octet before it, type, channel and size."""


class Hold:
    """What a channel said behind a reply that waits for the journal."""

    __slots__ = ("pieces", "released")

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []
        self.released = False


class ChannelOutlet(Outlet):
    """The sending side of one channel. See `amqpd.commands.Outlet` for what each method is for."""

    __slots__ = (
        "_body_octets_max",
        "_body_open",
        "_connection",
        "_head",
        "_head_key",
        "_holds",
        "_middle",
        "_middle_properties",
        "_middle_size",
        "_number",
        "_pieces",
        "_properties_open",
        "_target",
        "closed",
    )

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self._number = number
        self._pieces = connection.pieces
        self._holds: deque[Hold] = deque()
        frame_bytes_max = connection.reader.frame_bytes_max
        self._body_octets_max = frame_bytes_max - 8 if frame_bytes_max else 1 << 30
        self._body_open = b"\xce\x03" + number.to_bytes(2, "big")
        self._target: Target | None = None
        self._head_key = b""
        self._head = b""
        self._properties_open = b""
        self._middle = b""
        """All between the method and the body of the last message, for others of its size and
        properties: publishers tend to send many alike."""
        self._middle_size = -1
        self._middle_properties = b""
        self.closed = False

    @property
    def congested(self) -> bool:
        """The peer reads more slowly than it is sent to: see `Limits.unsent_bytes_max`."""
        return self._connection.unsent_bytes > self._connection.unsent_bytes_max

    @property
    def saturated(self) -> bool:
        """Even direct replies are dropped: see `Limits.unsent_replies_bytes_max`."""
        return self._connection.unsent_bytes > self._connection.limits.unsent_replies_bytes_max

    def method(self, method: Frame) -> None:
        """Send a method without content."""
        self._push(method_frame(self._number, method))

    def deliver(
        self, consumer_prefix: bytes, delivery_tag: int, redelivered: bool, message: Message
    ) -> None:
        """Send basic.deliver. `consumer_prefix` is the consumer tag as a short string."""
        target = message.target
        if target is not self._target or consumer_prefix is not self._head_key:
            # The octets before and behind the tag stay the same while a consumer is sent messages
            # of one target, which is the usual case.
            self._target = target
            self._head_key = consumer_prefix
            size = 4 + len(consumer_prefix) + DELIVERY.size + len(target.envelope)
            self._head = FRAME.pack(1, self._number, size) + DELIVER + consumer_prefix
            self._properties_open = target.envelope + b"\xce\x02" + self._body_open[2:]
            self._middle_size = -1
        tail = delivery_tag.to_bytes(8, "big") + (REDELIVERED if redelivered else FRESH)
        self._content(self._head, tail, message)

    def get_ok(
        self, delivery_tag: int, redelivered: bool, message_count: int, message: Message
    ) -> None:
        """Send basic.get-ok."""
        arguments = (
            GET_OK
            + DELIVERY.pack(delivery_tag, redelivered)
            + message.target.envelope
            + GET_OK_COUNT.pack(message_count)
        )
        self._open_content(arguments, message)

    def returned(self, code: int, text: str, message: Message) -> None:
        """Send basic.return with the whole message."""
        arguments = RETURN + code.to_bytes(2, "big") + short_string(text) + message.target.envelope
        self._open_content(arguments, message)

    def confirm(self, publish_number: int, multiple: bool) -> None:
        """Send basic.ack for what was published."""
        self._push(SETTLEMENT.pack(1, self._number, 13, BASIC, ACK, publish_number, multiple, 0xCE))

    def refuse(self, publish_number: int, multiple: bool) -> None:
        """Send basic.nack for what was published. As with RabbitMQ, the bit that means nothing to
        a publisher (`requeue`) is set."""
        bits = REQUEUE_BIT | multiple
        self._push(SETTLEMENT.pack(1, self._number, 13, BASIC, NACK, publish_number, bits, 0xCE))

    def fail(self, exception: AMQPException) -> None:
        """Close the channel: the broker has ended it of its own accord."""
        self._connection.close_channel(self._number, exception)

    def hold(self) -> Hold:
        """Keep everything said from here on back until the returned mark is released."""
        hold = Hold()
        self._holds.append(hold)
        self._pieces = hold.pieces
        return hold

    def release(self, mark: object) -> None:
        """Let out what was held behind `mark`, unless an earlier mark is still held."""
        assert isinstance(mark, Hold)
        mark.released = True
        holds = self._holds
        while holds and holds[0].released:
            pieces = holds.popleft().pieces
            if self.closed:
                continue
            if not self._connection.pieces:
                self._connection.wake()
            self._connection.pieces += pieces
        if not holds:
            self._pieces = self._connection.pieces
            self._connection.all_said(self._number, self)

    @property
    def holding(self) -> bool:
        """Something waits for the release of a mark."""
        return bool(self._holds)

    def close(self) -> None:
        """The channel or its connection ended: what is still held is never sent."""
        self.closed = True

    def _open_content(self, arguments: bytes, message: Message) -> None:
        """A method with content that is not a delivery."""
        self._target = None
        self._middle_size = -1
        self._properties_open = b"\xce\x02" + self._body_open[2:]
        self._content(FRAME.pack(1, self._number, len(arguments)), arguments, message)

    def _content(self, head: bytes, tail: bytes, message: Message) -> None:
        """Method (in two parts), content header and body frames, one behind the other."""
        connection = self._connection
        pieces = self._pieces
        if not pieces:
            connection.wake()
        properties = message.properties
        body = message.body
        if connection.in_flight_bytes or connection.unsent_bytes > LENT_UNSENT_BYTES_MAX:
            body = message.keep()
        size = len(body)
        if size >= LARGE_PIECE_BYTES:
            connection.has_large = True
        if 0 < size <= self._body_octets_max:
            if size != self._middle_size or properties != self._middle_properties:
                self._middle_size, self._middle_properties = size, properties
                self._middle = (
                    self._properties_open
                    + CONTENT.pack(12 + len(properties), BASIC, 0, size)
                    + properties
                    + self._body_open
                    + LENGTH.pack(size)
                )
            connection.unsent_bytes += len(head) + len(tail) + len(self._middle) + size + 1
            pieces += (head, tail, self._middle, body, END)
            return
        header = CONTENT.pack(12 + len(properties), BASIC, 0, size)
        connection.unsent_bytes += (
            len(head) + len(tail) + len(self._properties_open) + len(header) + len(properties) + 1
        )
        pieces += (head, tail, self._properties_open, header, properties)
        octets_max = self._body_octets_max
        view = memoryview(body)
        for start in range(0, size, octets_max):
            part = view[start : start + octets_max]
            connection.unsent_bytes += len(part) + BODY_FRAMING_OCTETS
            pieces += (self._body_open, LENGTH.pack(len(part)), part)
        pieces.append(END)

    def _push(self, piece: bytes) -> None:
        if not self._pieces:
            self._connection.wake()
        self._connection.unsent_bytes += len(piece)
        self._pieces.append(piece)
