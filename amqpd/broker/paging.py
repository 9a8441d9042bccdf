"""Queues longer than memory: what lies between head and tail of a long queue is on disk only.

    head (in memory)      paged (on disk)           tail (in memory)
    |41 42 43 ... 4136|   |4137 ........ 9,876,543|   |9,876,544 ... 9,880,211|
     <── consumers     <── read ahead              <── paged out once safe      <── publishers

What is published goes to the tail. Once that has grown, its oldest messages are dropped from
memory, as far as the journal has them safe. The head is filled again from the store before it is
empty, by a `PageRequest` which the runtime answers in a later turn. Consumers see only the head; a
`basic.get` that finds it empty is postponed until the page is there (`Postponed`).

The journal has no transient messages. From the moment a queue pages, they are written too, under
an id of their own that means nothing to the next owner of the store. So a queue has up to two
*lanes* in the store, and a page is what was read of both, merged by position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from amqpd.commands import Message, Target, make_message, target_of
from amqpd.wire.properties import DELIVERY_MODE, read_property
from amqpd_storage.entries import (
    PASSING_QUEUE_ID_MIN,
    POSITION_MAX,
    Backlog,
    DropRange,
    StoredMessage,
    storage_key,
)
from amqpd_storage.errors import DamagedStore

if TYPE_CHECKING:
    from amqpd.broker.messages import QueueMessage
    from amqpd.broker.ready_messages import ReadyMessages

PERSISTENT: Final = 2

LASTING_KEY_MAX: Final = storage_key(PASSING_QUEUE_ID_MIN, 0) - 1
"""Keys above it are of messages that do not outlast a restart. The largest integer that is a
machine word when this is compiled: comparing with the next one takes ten times as long."""

PROBED_MAX: Final = 8
"""A queue that has no more messages than these has them in memory soon after the start."""


class Postponed(Exception):
    """A command has to wait until the head of `queue` is in memory again."""

    def __init__(self, queue: ReadyMessages) -> None:
        super().__init__()
        self.queue = queue


class Lane:
    """The paged messages of a queue that are stored under one queue id."""

    __slots__ = ("body_bytes", "key_base", "last", "messages")

    def __init__(self, queue_id: int) -> None:
        self.key_base = storage_key(queue_id, 0)
        self.messages = 0
        self.body_bytes = 0
        self.last = 0
        """Position of the last of them."""


class PagedMessages:
    """The part of a queue that is on disk only."""

    __slots__ = ("_lanes", "after", "body_bytes", "messages", "reading")

    def __init__(self, after: int) -> None:
        self.after = after
        """All of them have positions above this one."""
        self.messages = 0
        self.body_bytes = 0
        self.reading = False
        """There is a request under way."""
        self._lanes: dict[int, Lane] = {}

    @property
    def persistent(self) -> tuple[int, int]:
        """How many of them outlast a restart, and octets of their bodies."""
        lanes = [lane for lane in self._lanes.values() if lane.key_base <= LASTING_KEY_MAX]
        return sum(lane.messages for lane in lanes), sum(lane.body_bytes for lane in lanes)

    def add_backlog(self, queue_id: int, backlog: Backlog) -> None:
        """What the store has of a queue whose messages nobody has read yet."""
        lane = self._lanes[storage_key(queue_id, 0)] = Lane(queue_id)
        lane.messages, lane.body_bytes, lane.last = backlog
        self.messages += backlog.messages
        self.body_bytes += backlog.body_bytes

    def put(self, stored: QueueMessage) -> None:
        """The next message, which is safe in the store, leaves memory."""
        self.put_in_lane(stored).last = stored.key & POSITION_MAX

    def put_in_lane(self, stored: QueueMessage) -> Lane:
        """One more message of its lane leaves memory; the lane."""
        key = stored.key
        lane = self._lanes.get(key & ~POSITION_MAX)
        if lane is None:
            lane = self._lanes[key & ~POSITION_MAX] = Lane(key // (POSITION_MAX + 1))
        size = len(stored.content.body)
        lane.messages += 1
        lane.body_bytes += size
        self.messages += 1
        self.body_bytes += size
        return lane

    def probe(self, queue: ReadyMessages) -> PageRequest:
        """Ask for the first of them, or for all if they are few."""
        return self.request(queue, self.messages if self.messages <= PROBED_MAX else 1, True)

    def request(self, queue: ReadyMessages, rows_max: int, is_probe: bool = False) -> PageRequest:
        """Ask for the first of them."""
        self.reading = True
        lanes = tuple(lane for lane in self._lanes.values() if lane.messages)
        ranges = tuple((lane.key_base | self.after, lane.key_base | lane.last) for lane in lanes)
        return PageRequest(queue, self, lanes, ranges, rows_max, is_probe)

    def asked(self, request: PageRequest) -> bool:
        """Whether the answer to the request is still wanted: nothing was purged since."""
        return request.paged is self

    def take(
        self, request: PageRequest, pages: Sequence[Sequence[StoredMessage]]
    ) -> list[StoredMessage]:
        """What was read of each lane, merged, up to where all of them are known.

        These are in memory from now on. What was paged since the request lies behind them. Raises
        DamagedStore if the store does not have what was paged.
        """
        self.reading = False
        lanes = request.lanes
        horizon = POSITION_MAX
        for lane, page in zip(lanes, pages, strict=True):
            if not page:
                queue_id = lane.key_base // (POSITION_MAX + 1)
                raise DamagedStore(None, f"{lane.messages} messages of queue {queue_id} are gone")
            if len(page) < lane.messages:
                horizon = min(horizon, page[-1].key & POSITION_MAX)
        taken: list[StoredMessage] = []
        for lane, page in zip(lanes, pages, strict=True):
            messages = body_bytes = 0
            for stored in page:
                if stored.key & POSITION_MAX > horizon:
                    break
                taken.append(stored)
                messages += 1
                body_bytes += len(stored.body)
            lane.messages -= messages
            lane.body_bytes -= body_bytes
            self.messages -= messages
            self.body_bytes -= body_bytes
        if len(lanes) > 1:
            taken.sort(key=_position)
        self.after = taken[-1].key & POSITION_MAX
        return taken

    def drop(self) -> list[DropRange]:
        """All of them are gone: what the journal has to know."""
        return [
            DropRange(
                lane.key_base | self.after + 1,
                lane.key_base | lane.last,
                lane.messages,
                lane.body_bytes,
            )
            for lane in self._lanes.values()
            if lane.messages
        ]


class PageRequest(NamedTuple):
    """Wanted: the next messages of each lane, above the first key of its range up to the second."""

    queue: "ReadyMessages"  # noqa: UP037 - compiled, it is looked up here, and is not there yet
    paged: PagedMessages
    """For what was asked: if the queue was purged meanwhile, it is not the queue's any more."""
    lanes: tuple[Lane, ...]
    ranges: tuple[tuple[int, int], ...]
    rows_max: int
    is_probe: bool
    """Nobody has asked for a message since the start: it is only to know when the first expires."""


class Waiting:
    """Who waits for the head of a queue."""

    __slots__ = ("_wakes",)

    def __init__(self) -> None:
        self._wakes: list[Callable[[], None]] = []

    def add(self, wake: Callable[[], None]) -> None:
        """Call this, once, when there is a head, or nothing to wait for."""
        self._wakes.append(wake)

    def wake(self) -> None:
        """There is."""
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()


def restored_message(stored: StoredMessage, targets: dict[bytes, Target]) -> Message:
    """The message as it was published. `targets` keeps those of one page, by envelope."""
    target = targets.get(stored.envelope)
    if target is None:
        target = targets[stored.envelope] = target_of(stored.envelope)
    persistent = (
        stored.key <= LASTING_KEY_MAX
        or read_property(stored.properties, DELIVERY_MODE) == PERSISTENT
    )
    message = make_message(0, target, stored.properties, stored.body, persistent, False)
    message.message_id = stored.message_id
    message.stored = True
    return message


def _position(stored: StoredMessage) -> int:
    return stored.key & POSITION_MAX
