"""People's clients: each on the machine of its broker, without a network between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from struct import pack, unpack_from
from typing import TYPE_CHECKING, Any, Final

from amqpd.commands import Arguments, Basic, Channel, Confirm, Frame
from amqpd.protocol.methods import encode_method
from amqpd.runtime.peer import Peer
from tests.conversation import (
    BODY,
    HEADER,
    HEARTBEAT,
    METHOD,
    PERSISTENT,
    Confirmed,
    Delivery,
    Ear,
    Heard,
    frame,
    method,
    table,
)
from tests.simulation.actions import FRAME_BYTES_MAX
from tests.simulation.parts import require
from tests.simulation.world import HANDSHAKES

if TYPE_CHECKING:
    from tests.simulation.links.machine import Process

ROOM: Final = FRAME_BYTES_MAX - 8
CHANNEL: Final = 1


class User:
    """A connection with one channel."""

    def __init__(self, process: Process, name: str) -> None:
        self.process = process
        self.waiting = 0
        """Replies that have not come."""
        self._ears: dict[int, Ear] = {}
        self._buffer = b""
        self.peer = Peer(
            process.core,
            name,
            is_loopback=True,
            information="",
            now=process.world.now,
            speaking=process.speaking,
            waking=lambda: process.later(0.0, self.resume),
        )
        process.ends[self.peer.connection] = self
        for said in HANDSHAKES[0]:
            self._say(said)
        self.call(Channel.Open())

    # -- as the broker's client

    def flush(self) -> None:
        """Hear what the broker says."""
        data = self.peer.connection.take_output(self.process.world.now)
        self.peer.sent(len(data))
        data = self._buffer + data
        at = 0
        while at + 8 <= len(data):
            kind, number, size = unpack_from(">BHI", data, at)
            end = at + 7 + size
            if end >= len(data):
                break
            if kind != HEARTBEAT:
                ear = self._ears.setdefault(number, Ear())
                heard = ear.hear(kind, data[at + 7 : end])
                if heard is not None and number:
                    self.hear(heard)
            at = end + 1
        self._buffer = data[at:]

    def resume(self) -> None:
        """The broker may read on."""
        while self.peer.may_go_on:
            self.peer.go_on(self.process.world.now)
        self.process.turn()

    def lost(self) -> None:
        """The broker is dead, and so is the client."""

    # -- what it says and hears

    @property
    def held_up(self) -> bool:
        """The broker takes nothing from it for now."""
        return self.peer.blocked or self.peer.busy

    def leave(self) -> None:
        """Hang up."""
        if self.process.ends.pop(self.peer.connection, None) is not None:
            self.peer.lost("left")
            self.process.turn()

    def call(self, said: Frame, arguments: Mapping[str, Any] | None = None) -> None:
        """A method to which there is a reply."""
        self.waiting += 1
        self.send(said, table(arguments or {}))

    def send(self, said: Frame, arguments: Arguments | None = None) -> None:
        """A method."""
        self._say(frame(METHOD, CHANNEL, encode_method(said, arguments or {})))

    def _say(self, data: bytes) -> None:
        self.peer.receive(data, self.process.world.now)
        self.resume()

    def hear(self, heard: Heard) -> None:
        """Something came."""
        require(not isinstance(heard, Channel.Close), "a client was refused", heard)
        if isinstance(heard, Frame) and not isinstance(heard, Basic.Cancel):
            self.waiting -= 1


class Publisher(User):
    """Publishes persistent messages, and tells which of them are confirmed."""

    def __init__(self, process: Process, name: str, confirmed: Callable[[int], None]) -> None:
        """`confirmed(uid)` is called for each message that the broker confirms."""
        super().__init__(process, name)
        self._confirmed = confirmed
        self._number = 0
        self._unconfirmed: dict[int, int] = {}
        """Publish number -> uid, in order."""
        self.call(method(Confirm.Select))

    @property
    def unconfirmed(self) -> int:
        """Messages that the broker has not answered."""
        return len(self._unconfirmed)

    def publish(self, exchange: str, routing_key: str, uid: int, size: int) -> None:
        """One message with this number, and at least so many octets."""
        self._number += 1
        self._unconfirmed[self._number] = uid
        body = b"%d " % uid
        body += bytes(max(0, size - len(body)))
        said = method(Basic.Publish, exchange=exchange, routing_key=routing_key)
        frames = [
            frame(METHOD, CHANNEL, encode_method(said)),
            frame(HEADER, CHANNEL, pack(">HHQ", 60, 0, len(body)) + PERSISTENT),
        ]
        starts = range(0, len(body), ROOM)
        frames += [frame(BODY, CHANNEL, body[at : at + ROOM]) for at in starts]
        self._say(b"".join(frames))

    def hear(self, heard: Heard) -> None:
        """A confirm, perhaps."""
        if not isinstance(heard, Confirmed):
            super().hear(heard)
            return
        require(heard.ack, "a publish was refused", heard)
        numbers = [heard.number]
        if heard.multiple:
            numbers = [number for number in self._unconfirmed if number <= heard.number]
        for number in numbers:
            self._confirmed(self._unconfirmed.pop(number))


class Consumer(User):
    """Takes messages from a queue, and acknowledges each of them."""

    def __init__(
        self,
        process: Process,
        queue: str,
        prefetch: int,
        taken: Callable[[int], None],
        *,
        dawdles: bool,
    ) -> None:
        """`taken(uid)` is called for each message as it is acknowledged: at once, unless the
        consumer dawdles at times."""
        self._dawdles = dawdles
        self._held = deque[tuple[int, int]]()
        """Delivery tags and messages to be acknowledged, in order."""
        super().__init__(process, f"consumer of {queue}")
        self._taken = taken
        self.call(method(Basic.Qos, prefetch_count=prefetch))
        self.call(method(Basic.Consume, queue=queue, consumer_tag="c"))

    def hear(self, heard: Heard) -> None:
        """A delivery, perhaps."""
        if not isinstance(heard, Delivery):
            super().hear(heard)
            return
        uid = int(heard.body[: heard.body.index(b" ")])
        world = self.process.world
        dawdles = self._dawdles and world.chance.random() < 0.3
        self._held.append((heard.delivery_tag, uid))
        self.process.later(world.latency() if dawdles else 0.0, self._ack)

    def _ack(self) -> None:
        tag, uid = self._held.popleft()
        if self.peer.connection in self.process.ends:
            self._taken(uid)
            self.send(method(Basic.Ack, delivery_tag=tag))
