"""Bytes in, commands out: the framing layer of AMQP 0-9-1 (§4.2.3), and the codec of the hot path.

    octet   short     long                        octet
    +------+---------+---------+ +-----------+ +-----------+
    | type | channel |  size   | |  payload  | |    CE     |
    +------+---------+---------+ +-----------+ +-----------+

`FrameReader.receive` walks every complete frame of a chunk in one call. It puts a publish, its
content header and its body frames together into one `Message`, per channel, and knows nothing of
channels being open or closing: as in RabbitMQ's assembler, the order of frames within a channel is
checked even while the channel closes. What it cannot accept is the last command of the list it
returns, an `AMQPException`, so that everything that came before the fault is handled first.

Any split of the input into chunks gives the same commands; tests/protocol/test_frames.py holds it
to that.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from amqpd.commands import (
    ACK,
    DISCARD,
    REQUEUE,
    Message,
    MethodCommand,
    Oversized,
    Settle,
    Target,
    make_message,
)
from amqpd.config import Limits
from amqpd.errors import (
    CHANNEL_ERROR,
    FRAME_ERROR,
    UNEXPECTED_FRAME,
    AMQPException,
    ConnectionException,
)
from amqpd.protocol.bodies import STEP_BYTES_MAX, Body, GrowingBody, make_body
from amqpd.protocol.methods import decode_method
from amqpd.protocol.placing import OpenFrame
from amqpd.wire.properties import validate
from amqpd.wire.tables import erlang_binary

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
FRAME_END: Final = 0xCE
FRAME_OVERHEAD: Final = 8
"""Seven octets of frame header and the end octet."""

HEADER_FRAME_OCTETS_MIN: Final = 22
"""Frame header, class, weight, body size, property flags, end octet."""

ACK_OCTETS: Final = 21
"""Of a basic.ack with its frame."""
ACK_OPENING_OCTETS: Final = 15
"""Of these all up to the lower half of the delivery tag."""
ACKS_TOGETHER_MAX: Final = 64
"""That are one command: whether a peer may go on while others wait is asked between commands."""

BASIC: Final = 60
PUBLISH: Final = b"\x00\x3c\x00\x28"
BASIC_ACK: Final = b"\x00\x3c\x00\x50"
BASIC_REJECT: Final = b"\x00\x3c\x00\x5a"
BASIC_NACK: Final = b"\x00\x3c\x00\x78"
NO_PROPERTIES: Final = b"\x00\x00"
PERSISTENT: Final = 2
SPECIAL_FLAGS: Final = 0x2000 | 0x0200 | 0x0100 | 0x0010
"""headers, reply-to, expiration, user-id: properties that the broker has rules for."""
SNIPPET_OCTETS: Final = 16
SHAPE_OCTETS_MAX: Final = 96
SHAPES_MAX: Final = 1024
CHANNELS: Final = 65535

FRAME: Final = Struct(">BHI")
CONTENT: Final = Struct(">HHQ")
TAG: Final = Struct(">Q")
COPIED_BYTES_MAX: Final = 32 * 1024
"""So much is copied sooner than the message that a chunk begins in is read frame by frame."""
PLACED_BYTES_MIN: Final = 4 * 1024
"""Less of a frame than that is rather kept until the rest comes than put to its place before."""
LENT_BYTES_MIN: Final = 16 * 1024
LENDING_SHARE: Final = 16
"""A body that is a sixteenth of its chunk is not copied out of it but lent; who keeps it makes the
copy. With automatic ack 27,700 bodies of 64 KB a second were passed on in place of 22,100."""
CONTENT_OPEN: Final = b"\x00\x3c\x00\x00\x00\x00\x00\x00"
"""How a content header of the class basic begins, if the body has less than 4 GiB."""

Command = Message | Settle | MethodCommand | Oversized | AMQPException


Shape = tuple[bytes, bool, bool]
"""Of a property list: its octets (one object for all messages that have the same), and whether it
says persistent, and special."""


class Assembly:
    """A publish whose content has not wholly arrived."""

    __slots__ = (
        "body",
        "body_size",
        "persistent",
        "properties",
        "remaining",
        "special",
        "target",
    )

    def __init__(self, target: Target) -> None:
        self.target = target
        self.properties: bytes | None = None
        """None until the content header came."""
        self.persistent = False
        self.special = False
        self.body_size = 0
        self.remaining = 0
        self.body: Body | None = None
        """What came of it; None for one that is too large to be kept: it is read and dropped."""


class FrameReader:
    """Turns one peer's bytes into commands.

    `stepwise` makes it return one command at a time: during the handshake each answer changes what
    the next frame may be (`frame_bytes_max`, `running`).
    """

    __slots__ = (
        "_assemblies",
        "_body_bytes_max",
        "_broken",
        "_chunks",
        "_chunks_bytes",
        "_discarding",
        "_frame_open",
        "_limits",
        "_needed_bytes",
        "_received_bytes",
        "_shape",
        "_shapes",
        "_start",
        "_strict_sizes",
        "_targets",
        "frame_bytes_max",
        "has_more",
        "latest_body_bytes",
        "running",
        "stepwise",
    )

    def __init__(self, limits: Limits, strict_sizes: bool) -> None:
        """`strict_sizes`: RabbitMQ 4.x refuses oversized content at its header, 3.x after it."""
        self._limits = limits
        self._body_bytes_max = limits.message_bytes_max
        self._strict_sizes = strict_sizes
        self._assemblies: dict[int, Assembly] = {}
        self._chunks: list[bytes] = []
        self._chunks_bytes = 0
        self._needed_bytes = 0
        self._start = 0
        """Where in the one chunk the frames begin that are left, while `has_more`."""
        self._discarding = False
        self._frame_open: OpenFrame | None = None
        """A chunk ended within this one, and what came of it is in its place already."""
        self._received_bytes = 0
        self._targets: dict[bytes, Target] = {}
        self._shape: Shape = (NO_PROPERTIES, False, False)
        """Of the last message, if it is short: mostly the next one's, and sooner compared than
        looked up."""
        self._shapes: dict[bytes, Shape] = {NO_PROPERTIES: self._shape}
        self._broken = False
        self.latest_body_bytes = 0
        """Size of the last body that did not come whole with its publish in one chunk."""
        self.frame_bytes_max = limits.frame_bytes_min
        self.running = False
        self.stepwise = True
        self.has_more = False
        """Whole frames may be left: call `receive(b"")` once the commands so far are handled."""

    def forget(self) -> None:
        """The peer is gone: hold nothing of what it said, and read nothing more."""
        self._broken = True
        self._assemblies.clear()
        self._frame_open = None
        self._chunks.clear()
        self._targets.clear()
        self.has_more = False

    def receive(self, data: bytes) -> list[Command]:
        """The commands that `data` completes; after a fault, the fault as the last of them."""
        commands: list[Command] = []
        if self._broken:
            return commands
        self._received_bytes += len(data)
        position, finished = 0, True
        frame_open = self._frame_open
        if frame_open is not None:
            try:
                position = self._continue_frame(frame_open, data, commands)
            except AMQPException as fault:
                self._broken = True
                commands.append(fault)
                return commands
            if position < 0:
                return commands
        elif self.has_more:
            # Not a copy of what is left, which there may be as many of as frames.
            data = self._chunks.pop() + data
            position, self._start = self._start, 0
        elif self._chunks:
            missing = self._needed_bytes - self._chunks_bytes
            if len(data) < missing:
                self._chunks.append(data)
                self._chunks_bytes += len(data)
                return commands
            if (
                len(data) < COPIED_BYTES_MAX
                or self.stepwise
                or self._needed_bytes == FRAME_OVERHEAD
            ):
                data = self._joined(data)
            else:
                # Only the frame that had begun is put together, not all that came with its end.
                frame = self._joined(data[:missing])
                position, finished = self._walk(frame, 0, commands)
                if finished:
                    position = missing
                else:
                    data = frame + data[missing:]
        if finished:
            position, finished = self._walk(data, position, commands)
        self.has_more = not finished and not self._broken
        rest = len(data) - position
        if self.has_more:
            self._chunks.append(data)
            self._start = position
        elif rest and not self._broken and not self._open_frame(data, position):
            self._chunks.append(data[position:] if position else data)
            self._chunks_bytes = rest
            self._needed_bytes = FRAME_OVERHEAD
            if rest >= FRAME_OVERHEAD:
                self._needed_bytes += FRAME.unpack_from(data, position)[2]
        return commands

    @property
    def placing(self) -> bool:
        """It is known where the next octets belong: ask `place`, rather than give them."""
        return self._placed_body() is not None

    def place(self, octets_max: int) -> list[memoryview]:
        """Where the next octets go, one place after the other: `octets_max` of a body, and what is
        between its frames. Tell `placed` what came, before anything else."""
        frame = self._frame_open
        body = self._placed_body()
        if frame is None or body is None:
            return []
        return frame.places(body, self._assemblies[frame.channel].remaining, octets_max)

    def placed(self, octets: int) -> list[Command]:
        """So many octets are in the places that `place` gave: the commands that they complete."""
        frame = self._frame_open
        body = self._placed_body()
        if frame is None or body is None:
            return []
        in_body, rest = frame.placed(octets)
        body.placed(in_body)
        self._assemblies[frame.channel].remaining -= in_body
        self._received_bytes += octets - len(rest)
        return self.receive(rest)

    def _placed_body(self) -> GrowingBody | None:
        frame = self._frame_open
        if frame is None:
            return None
        body = self._assemblies[frame.channel].body
        return body if isinstance(body, GrowingBody) else None

    def _open_frame(self, data: bytes, position: int) -> bool:
        """Put what has come of a frame that is not complete to its place, if it is of a large body
        and worth it; whether it was."""
        rest = len(data) - position
        if rest < FRAME_OVERHEAD or data[position] != BODY or not self.running:
            return False
        _, channel, size = FRAME.unpack_from(data, position)
        left = size + FRAME_OVERHEAD - 1 - rest
        assembly = self._assemblies.get(channel)
        if left < PLACED_BYTES_MIN or assembly is None or size > assembly.remaining:
            return False
        if not isinstance(assembly.body, GrowingBody):
            return False
        self._frame_open = frame = OpenFrame(channel, size, size)
        self._continue_frame(frame, data, [], position + FRAME_OVERHEAD - 1)
        return True

    def _continue_frame(
        self, frame: OpenFrame, data: bytes, commands: list[Command], position: int = 0
    ) -> int:
        """More of the open frame, from `position` on; returns where what follows it begins, and -1
        while it stays open."""
        frame.release()
        assembly = self._assemblies[frame.channel]
        body = assembly.body
        stop = min(position + frame.left, len(data))
        if body is not None and stop > position:
            body.add(memoryview(data)[position:stop])
        frame.left -= stop - position
        assembly.remaining -= stop - position
        if stop < len(data):
            self._frame_open = None
            if data[stop] != FRAME_END:
                said = b""
                if isinstance(body, GrowingBody):
                    said = body.latest(frame.size, SNIPPET_OCTETS + 1)
                raise frame_fault(BODY, said, f"{{invalid_frame_end_marker,{data[stop]}}}")
            stop += 1
            if not assembly.remaining:
                commands.append(self._complete(frame.channel, assembly))
            return stop
        return -1

    def _joined(self, data: bytes) -> bytes:
        """What had come before, and this."""
        self._chunks.append(data)
        joined = b"".join(self._chunks)
        self._chunks.clear()
        return joined

    @property
    def amid_content(self) -> bool:
        """A publish has begun to arrive and is not complete."""
        return bool(self._assemblies)

    def discard_content(self) -> None:
        """The connection is closing: keep no bodies any more."""
        self._discarding = True
        for assembly in self._assemblies.values():
            assembly.body = None

    def _walk(self, data: bytes, position: int, commands: list[Command]) -> tuple[int, bool]:
        """Append the commands in `data`; return how far it got, and whether it saw all frames."""
        end = len(data)
        targets = self._targets
        assemblies = self._assemblies
        payload_max = self.frame_bytes_max or self._limits.content_bytes_max
        stepwise = self.stepwise
        target: Target | None = None
        target_payload = b""
        try:
            while position + FRAME_OVERHEAD <= end:
                # Octet by octet, here and below: compiled, FRAME's tuples cost 0.4 to 0.7 us more.
                kind = data[position]
                channel = data[position + 1] << 8 | data[position + 2]
                size = data[position + 5] << 8 | data[position + 6]
                size |= data[position + 3] << 24 | data[position + 4] << 16
                start = position + 7
                stop = start + size
                if size > payload_max:
                    # RabbitMQ lets a payload exceed frame_max - 8 by 8 octets: by that much only.
                    self._broken = True
                    limit = payload_max - FRAME_OVERHEAD
                    raise frame_fault(kind, b"", f"{{frame_too_large,{size},{limit}}}")
                if stop >= end:
                    break
                if data[stop] != FRAME_END:
                    self._broken = True
                    raise frame_fault(
                        kind, data[start:stop], f"{{invalid_frame_end_marker,{data[stop]}}}"
                    )
                position = stop + 1
                if kind == METHOD:
                    index = data[start : start + 4]
                    if index == PUBLISH and channel and self.running:
                        payload = data[start:stop]
                        # Mostly the one before, again: compared, not hashed.
                        if target is None or payload != target_payload:
                            target = targets.get(payload)
                            if target is None:
                                target = self._parse_target(payload)
                            target_payload = payload
                        if assemblies and channel in assemblies:
                            raise self._not_content(channel)
                        behind = self._whole_content(data, position, channel, target, commands)
                        if behind:
                            position = behind
                            continue
                        self._begin(channel, target)
                        continue
                    if index == BASIC_ACK and size == 13 and channel and self.running:
                        if assemblies and channel in assemblies:
                            raise self._not_content(channel)
                        settle = Settle(
                            channel,
                            TAG.unpack_from(data, start + 4)[0],
                            data[start + 12] & 1 == 1,
                            ACK,
                            (60, 80),
                        )
                        commands.append(settle)
                        if not settle.multiple:
                            position = self._more_acks(data, position, settle)
                        continue
                if kind == BODY and channel and self.running:
                    # Copied once, to its place.
                    command: Command | None = self._body(channel, memoryview(data)[start:stop])
                else:
                    command = self._frame(kind, channel, data[start:stop])
                if command is not None:
                    commands.append(command)
                    if stepwise:
                        return position, False
        except AMQPException as fault:
            # The frame at fault is behind us; what follows it is looked at in the next call.
            commands.append(fault)
            return position, False
        return position, True

    def _more_acks(self, data: bytes, position: int, settle: Settle) -> int:
        """Add the acks of the tags that follow, right behind the first one; return where they end.

        So speaks a consumer that acknowledges each delivery. Taken apart and acted on one by one,
        they were a quarter of what 1 KB from the disk costs.
        """
        end = len(data) - ACK_OCTETS
        opening = data[position - ACK_OCTETS : position - ACK_OCTETS + ACK_OPENING_OCTETS]
        tag = settle.delivery_tag
        low = tag & 0xFFFFFFFF
        most = tag + ACKS_TOGETHER_MAX - 1
        while (
            position <= end
            and tag < most
            and data[position : position + ACK_OPENING_OCTETS] == opening
            and not data[position + ACK_OCTETS - 2]
            and data[position + ACK_OCTETS - 1] == FRAME_END
        ):
            at = position + ACK_OPENING_OCTETS
            next_low = data[at + 2] << 8 | data[at + 3]
            next_low |= data[at] << 24 | data[at + 1] << 16
            if next_low != low + 1:
                break
            low = next_low
            tag += 1
            position += ACK_OCTETS
        settle.last_tag = tag
        return position

    def _whole_content(
        self, data: bytes, position: int, channel: int, target: Target, commands: list[Command]
    ) -> int:
        """The usual case: header and the one body frame stand right behind the publish, whole.

        Appends the message and returns where the next frame begins; 0 for whatever is not the
        usual case, which the slow path takes apart and finds the fault in, if there is one.
        """
        end = len(data)
        payload_max = self.frame_bytes_max or self._limits.content_bytes_max
        if position + HEADER_FRAME_OCTETS_MIN > end:
            return 0
        size = data[position + 5] << 8 | data[position + 6]
        size |= data[position + 3] << 24 | data[position + 4] << 16
        kind, number = data[position], data[position + 1] << 8 | data[position + 2]
        start = position + 7
        stop = start + size
        if kind != HEADER or number != channel or size < 14 or size > payload_max or stop >= end:
            return 0
        # Class and weight, and the upper half of a body size that is not the usual case.
        if data[start : start + 8] != CONTENT_OPEN or data[stop] != FRAME_END:
            return 0
        body_size = data[start + 10] << 8 | data[start + 11]
        body_size |= data[start + 8] << 24 | data[start + 9] << 16
        properties = data[start + 12 : stop]
        position = stop + 1
        body: bytes | memoryview = b""
        if body_size:
            start = position + 7
            stop = start + body_size
            if body_size > payload_max or body_size > self._body_bytes_max or stop >= end:
                return 0
            size = data[position + 5] << 8 | data[position + 6]
            size |= data[position + 3] << 24 | data[position + 4] << 16
            if size != body_size or data[position] != BODY or data[stop] != FRAME_END:
                return 0
            if data[position + 1] << 8 | data[position + 2] != channel:
                return 0
            if body_size >= LENT_BYTES_MIN and body_size * LENDING_SHARE >= end:
                body = memoryview(data)[start:stop]
            else:
                body = data[start:stop]
            position = stop + 1
        shape = self._shape
        if properties != shape[0]:
            shape = self._find_shape(properties)
        message = Message()
        message.channel = channel
        message.target = target
        message.envelope = target.stored_envelope
        message.properties, message.persistent, message.special = shape
        message.body = body
        message.message_id = 0
        message.stored = False
        commands.append(message)
        return position

    def _frame(self, kind: int, channel: int, payload: bytes) -> Command | None:
        """Any frame, one at a time; None for one that completes nothing."""
        if kind == HEARTBEAT:
            if payload:
                raise frame_fault(kind, payload, "unknown_frame")
            if channel:
                raise unexpected_frame(kind, payload)
            return None
        if kind not in (METHOD, HEADER, BODY):
            raise frame_fault(kind, payload, "unknown_frame")
        if channel == 0:
            if kind != METHOD:
                raise unexpected_frame(kind, payload)
            method, arguments = decode_method(payload, self._limits.table_depth_max)
            return MethodCommand(0, method, arguments)
        if not self.running:
            raise unexpected_frame(kind, payload)
        if kind == METHOD:
            return self._method(channel, payload)
        if kind == HEADER:
            return self._header(channel, payload)
        return self._body(channel, memoryview(payload))

    def _method(self, channel: int, payload: bytes) -> Command | None:
        if channel in self._assemblies:
            raise self._not_content(channel)
        index = payload[:4]
        if index == PUBLISH:
            target = self._targets.get(payload) or self._parse_target(payload)
            self._begin(channel, target)
            return None
        if index == BASIC_REJECT and len(payload) == 13:
            outcome = REQUEUE if payload[12] & 1 else DISCARD
            return Settle(channel, TAG.unpack_from(payload, 4)[0], False, outcome, (60, 90))
        if index == BASIC_NACK and len(payload) == 13:
            outcome = REQUEUE if payload[12] & 2 else DISCARD
            multiple = payload[12] & 1 == 1
            return Settle(channel, TAG.unpack_from(payload, 4)[0], multiple, outcome, (60, 120))
        if index == BASIC_ACK and len(payload) == 13:
            multiple = payload[12] & 1 == 1
            return Settle(channel, TAG.unpack_from(payload, 4)[0], multiple, ACK, (60, 80))
        method, arguments = decode_method(payload, self._limits.table_depth_max)
        return MethodCommand(channel, method, arguments)

    def _begin(self, channel: int, target: Target) -> None:
        """The content of a publish is awaited on the channel."""
        if len(self._assemblies) >= (self._limits.channel_max or CHANNELS):
            # More channels than can be open: some of them never were.
            raise ConnectionException(CHANNEL_ERROR, "expected 'channel.open'", (60, 40))
        self._assemblies[channel] = Assembly(target)

    def _header(self, channel: int, payload: bytes) -> Command | None:
        if len(payload) < 14:
            raise frame_fault(HEADER, payload, "unknown_frame")
        class_id, weight, body_size = CONTENT.unpack_from(payload)
        assembly = self._assemblies.get(channel)
        if assembly is None:
            raise out_of_order("expected method frame, got non method frame instead", (0, 0))
        if assembly.properties is not None:
            raise out_of_order("expected content body, got non content body frame instead")
        if weight != 0:
            raise self._not_content(channel)
        if class_id != BASIC:
            raise out_of_order(
                f"expected content header for class 60, got one for class {class_id} instead"
            )
        ceiling = self._limits.content_bytes_max
        if body_size > ceiling and self._strict_sizes:
            raise ConnectionException(
                FRAME_ERROR,
                f"content body size {body_size} exceeds maximum allowed size {ceiling}",
            )
        properties = payload[12:]
        shape = self._find_shape(properties)
        assembly.properties, assembly.persistent, assembly.special = shape
        assembly.body_size = assembly.remaining = self.latest_body_bytes = body_size
        if body_size <= self._body_bytes_max and not self._discarding:
            # Who has sent so much will send as much again: one body at a time may rely on that.
            alone = len(self._assemblies) == 1
            ahead = min(self._received_bytes, STEP_BYTES_MAX) if alone else 0
            assembly.body = make_body(body_size, ahead)
        return self._complete(channel, assembly) if body_size == 0 else None

    def _body(self, channel: int, payload: memoryview) -> Command | None:
        assembly = self._assemblies.get(channel)
        if assembly is None:
            raise out_of_order("expected method frame, got non method frame instead", (0, 0))
        if assembly.properties is None:
            raise self._not_content(channel)
        if len(payload) > assembly.remaining:
            if self._strict_sizes:
                raise ConnectionException(
                    FRAME_ERROR, "content body frame exceeds remaining content size"
                )
            raise out_of_order("expected content body, got non content body frame instead")
        assembly.remaining -= len(payload)
        if assembly.body is not None:
            assembly.body.add(payload)
        return None if assembly.remaining else self._complete(channel, assembly)

    def _complete(self, channel: int, assembly: Assembly) -> Command:
        del self._assemblies[channel]
        if assembly.body is None or assembly.properties is None:
            return Oversized(channel, assembly.target, assembly.body_size)
        return make_message(
            channel,
            assembly.target,
            assembly.properties,
            assembly.body.whole(),
            assembly.persistent,
            assembly.special,
        )

    def _parse_target(self, payload: bytes) -> Target:
        """The target of a basic.publish payload, remembered for the next one like it."""
        target = parse_target(payload, self._limits.table_depth_max)
        if len(self._targets) >= self._limits.publish_targets_max:
            self._targets.clear()
        self._targets[payload] = target
        return target

    def _find_shape(self, properties: bytes) -> Shape:
        """The shape of a property list, checked; remembered when it is short."""
        shape = self._shapes.get(properties)
        if shape is None:
            delivery_mode = validate(properties, self._limits.table_depth_max)
            flags = properties[0] << 8 | properties[1]
            shape = (properties, delivery_mode == PERSISTENT, flags & SPECIAL_FLAGS != 0)
            if len(properties) > SHAPE_OCTETS_MAX:
                return shape
            if len(self._shapes) >= SHAPES_MAX:
                self._shapes.clear()
            self._shapes[properties] = shape
        self._shape = shape
        return shape

    def _not_content(self, channel: int) -> ConnectionException:
        """The fault of a frame that came where content was due."""
        if self._assemblies[channel].properties is None:
            return out_of_order(
                "expected content header for class 60, got non content header frame instead"
            )
        return out_of_order("expected content body, got non content body frame instead")


def parse_target(payload: bytes, depth_max: int) -> Target:
    """The target of a basic.publish payload (class and method id included).

    Payload: ticket (2 octets), exchange and routing key (short strings), bits. Anything that does
    not fit exactly goes through the general decoder, which knows the words of the refusal.
    """
    try:
        exchange_end = 7 + payload[6]
        key_end = exchange_end + 1 + payload[exchange_end]
        bits = payload[key_end]
        exact = key_end + 1 == len(payload)
    except IndexError:
        exact = False
    if not exact:
        method, _ = decode_method(payload, depth_max)
        raise AssertionError(f"the two decoders disagree about {method.name}")
    # Names in methods with content may be any octets, as in RabbitMQ.
    exchange = payload[7:exchange_end].decode("utf-8", "surrogateescape")
    routing_key = payload[exchange_end + 1 : key_end].decode("utf-8", "surrogateescape")
    return Target(exchange, routing_key, payload[6:key_end], bits & 1 == 1, bits & 2 == 2)


def snippet(kind: int, payload: bytes) -> str:
    """How RabbitMQ shows the frame that it refused."""
    extent = "all" if len(payload) <= SNIPPET_OCTETS else f"first {SNIPPET_OCTETS}"
    return f"type {kind}, {extent} octets = {erlang_binary(payload[:SNIPPET_OCTETS])}"


def frame_fault(kind: int, payload: bytes, reason: str) -> ConnectionException:
    """501 for a frame that cannot be one."""
    return ConnectionException(FRAME_ERROR, f"{snippet(kind, payload)}: {reason}")


def unexpected_frame(kind: int, payload: bytes) -> ConnectionException:
    """505 for a frame that has no business here and now."""
    return ConnectionException(UNEXPECTED_FRAME, snippet(kind, payload))


def out_of_order(explanation: str, method: tuple[int, int] = (BASIC, 40)) -> ConnectionException:
    """505 for a frame that breaks the order method, header, body of its channel.

    At fault is the method whose content was due: only basic.publish has any.
    """
    return ConnectionException(UNEXPECTED_FRAME, explanation, method)
