"""Messages of a delayed exchange until their time has come.

    publish ──> WaitingRoom ──due──> the exchange routes it again ──> queues

Each has a place in the order of due time, then arrival: (due_ms, sequence). Persistent messages of
a durable exchange are in the store, and of those only a window is in memory: the ones due soonest,
up to the *horizon*.

    in memory:   3   5   8  |                          23 (transient)
    horizon:                8
    in the store 3   5   8  |  9   12   17   20  ...   ten millions more

What is released comes from the left of the horizon, so nothing in the store is overtaken. When the
window runs low, the next rows are asked for (`Effects.delay_reads`); the runtime reads them and
answers with `fill` in a later turn. When it grows too large, its later half is forgotten and the
horizon moves back. No horizon (None) says that the store has nothing that is not in memory too.

A message beyond the horizon is not needed in memory once it is in the store. Until then it is kept
in `_beyond`, and as long as a read is under way longer than that: the read may have come before it.

When a message comes due, its row goes and it enters its queues in one turn, that is in one
transaction: it is in either place after a crash, never in both, never in none. A publisher who
still waits for its confirm waits for the queues from then on.
"""

from __future__ import annotations

from abc import abstractmethod
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple

from amqpd.broker.takes_all import TakesAll
from amqpd.commands import Message, make_message
from amqpd.timers import BREATH_S
from amqpd.timers import Entry as TimerEntry
from amqpd.wire.properties import read_headers
from amqpd_exchanges.delayed import delay_ms
from amqpd_storage.entries import ELIDED, PENDING, SAFE, TAKEN, Delay, DropDelays, Release

if TYPE_CHECKING:
    from collections.abc import Iterable

    from amqpd.broker.exchange import BrokerExchange
    from amqpd.broker.messages import PendingConfirm
    from amqpd.broker.virtual_host import VirtualHost

WINDOW_MESSAGES: Final = 4000
"""So many stored messages of one exchange are in memory before half of them are forgotten."""
WINDOW_BYTES: Final = 4 * 1024 * 1024
LOW_MESSAGES: Final = 1000
"""With fewer than this, the next ones are read: more than come due while that takes."""
READ_MESSAGES: Final = 1000
RELEASED_AT_ONCE: Final = 500
"""So many are released before others have their turn."""

Place = tuple[int, int]
"""Due time in milliseconds since 1970, and sequence: no two messages have the same."""


class DelayedMessage(Delay[Message]):
    """A message and its place. It is the journal's `Delay` at the same time."""

    __slots__ = ("confirm", "journaled", "room")

    def __init__(
        self, room: WaitingRoom, content: Message, due_ms: int, sequence: int, journaled: bool
    ) -> None:
        super().__init__(room.exchange_id, due_ms, sequence, content)
        self.room = room
        self.journaled = journaled
        self.confirm: PendingConfirm | None = None

    @property
    def place(self) -> Place:
        """Where it stands in the order of release."""
        return (self.due_ms, self.sequence)

    def safe(self) -> None:
        """It reached the disk: tell its publisher, if it still waits here."""
        self.state = SAFE
        self.room.is_safe(self)
        confirm, self.confirm = self.confirm, None
        if confirm is not None:
            confirm.safe()

    @property
    def weight(self) -> int:
        """What it takes in memory, roughly."""
        return len(self.content.body) + len(self.content.properties)


class WaitingRoom(TakesAll):
    """The messages that wait at one exchange. To the router it is a destination, as a queue is.

    As a destination it is not durable: its rows are its own, so nothing is shared with it.
    """

    name: Final = ""
    """No queue has this name: a message on its way round a circle of dead letters may pass."""

    def __init__(self, home: VirtualHost, exchange: BrokerExchange) -> None:
        self.messages = 0
        """How many wait, in memory or not."""
        self.timer: TimerEntry | None = None
        self.exchange_id = exchange.exchange_id
        self._home = home
        self._exchange = exchange
        self._effects = home.effects
        self._journaled = self.exchange_id != 0
        self._heap: list[tuple[int, int, DelayedMessage]] = []
        self._windowed = 0
        """Messages of the heap that are in the store as well, or will be."""
        self._weight = 0
        """What these weigh."""
        self._horizon: Place | None = None
        self._beyond: dict[int, DelayedMessage] = {}
        self._reading = False
        self._resume_at = 0.0
        self.deleted = False

    # -- messages in

    def publish(self, message: Message, confirm: PendingConfirm | None) -> None:
        """Keep a message, which has a delay, until its time has come."""
        self._take(message, message.properties, confirm)

    def with_bcc(self, properties: bytes) -> BlindWaitingRoom:
        """The same, for one message of which nobody else sees the BCC header."""
        return BlindWaitingRoom(self, properties)

    def _take(self, message: Message, properties: bytes, confirm: PendingConfirm | None) -> None:
        broker = self._home.broker
        headers = read_headers(properties, broker.limits.table_depth_max)
        due_ms = self._effects.epoch_ms() + delay_ms(headers)
        # A copy: queues that have the message as well may let it share a row among them.
        content = make_message(
            message.channel, message.target, properties, message.keep(), message.persistent, True
        )
        journaled = self._journaled and message.persistent
        delayed = DelayedMessage(self, content, due_ms, broker.next_delay_sequence(), journaled)
        self.messages += 1
        if journaled:
            if confirm is not None:
                delayed.confirm = confirm
                confirm.remaining += 1
            self._effects.entries.append(delayed)
            if self._is_beyond(delayed.place):
                self._beyond[delayed.sequence] = delayed
                return
        self._push(delayed)
        self._look()

    def restore(self, messages: int) -> None:
        """So many wait in the store: read the first of them."""
        self.messages = messages
        if messages:
            self._horizon = (-1, -1)
            self._look()

    def is_safe(self, delayed: DelayedMessage) -> None:
        """The message is in the store now."""
        if not self._reading:
            self._beyond.pop(delayed.sequence, None)

    def fill(self, rows: Iterable[DelayedMessage], *, at_end: bool) -> None:
        """What a read found, in order; `at_end` if nothing came after it."""
        self._reading = False
        if self.deleted:
            return
        beyond, self._beyond = self._beyond, {}
        for delayed in rows:
            # The message itself, if it is still here, knows who waits for its confirm.
            self._push(beyond.pop(delayed.sequence, delayed))
            self._horizon = delayed.place
        if at_end:
            self._horizon = None
        for delayed in beyond.values():
            if not self._is_beyond(delayed.place):
                self._push(delayed)
            elif delayed.state in (PENDING, TAKEN):
                self._beyond[delayed.sequence] = delayed
        self._look()

    # -- messages out

    def drop(self) -> None:
        """The exchange is deleted, and its messages with it."""
        self.deleted = True
        self.messages = 0
        for delayed in (*self._beyond.values(), *(delayed for _, _, delayed in self._heap)):
            if delayed.journaled and delayed.state == PENDING:
                self._elide(delayed)
        self._heap.clear()
        self._beyond.clear()
        if self._journaled:
            self._effects.entries.append(DropDelays(self.exchange_id))

    # -- time, as `amqpd.timers.Timed`

    def deadline(self) -> float | None:
        """When the first message comes due; None while only the store knows which that is."""
        if not self._heap or self._is_beyond(self._heap[0][:2]):
            return None
        return max(self._due(self._heap[0][0]), self._resume_at)

    def handle_timer(self, now: float) -> None:
        """Release what is due, as much of it as may be done at once."""
        heap = self._heap
        for _ in range(RELEASED_AT_ONCE):
            if not heap or self._due(heap[0][0]) > now or self._is_beyond(heap[0][:2]):
                break
            self._end(self._pop())
        else:
            self._resume_at = now + BREATH_S
        self._look()

    def _due(self, due_ms: int) -> float:
        """In seconds of the runtime's clock."""
        return due_ms / 1000 - self._effects.epoch_s

    def _end(self, delayed: DelayedMessage) -> None:
        """The message has waited long enough."""
        self.messages -= 1
        self._release(delayed)
        if delayed.journaled:
            if delayed.state == PENDING:
                self._elide(delayed)
            else:
                self._effects.entries.append(Release(self.exchange_id, delayed.sequence))

    @abstractmethod
    def _release(self, delayed: DelayedMessage) -> None:
        """Send the message to its queues, and have whoever waits for its confirm wait for these."""

    def _elide(self, delayed: DelayedMessage) -> None:
        """The message was not written yet, and need not be any more."""
        delayed.state = ELIDED
        if delayed.confirm is not None:
            delayed.confirm.safe()

    # -- the window

    def _is_beyond(self, place: Place) -> bool:
        return self._horizon is not None and place > self._horizon

    def _push(self, delayed: DelayedMessage) -> None:
        heappush(self._heap, (delayed.due_ms, delayed.sequence, delayed))
        if delayed.journaled:
            self._windowed += 1
            self._weight += delayed.weight

    def _pop(self) -> DelayedMessage:
        delayed = heappop(self._heap)[2]
        if delayed.journaled:
            self._windowed -= 1
            self._weight -= delayed.weight
        return delayed

    def _look(self) -> None:
        """After a change: keep the window as large as it should be, and the timer right."""
        if not self._reading:
            if self._windowed > WINDOW_MESSAGES or (
                self._weight > WINDOW_BYTES and self._windowed > 1
            ):
                self._shrink()
            elif (
                self._horizon is not None
                and self._windowed < LOW_MESSAGES
                and self._weight <= WINDOW_BYTES // 2
            ):
                self._read()
        self._effects.timed_queues[self] = None

    def _read(self) -> None:
        assert self._horizon is not None
        self._reading = True
        self._effects.delay_reads.append(
            DelayRead(self, self.exchange_id, self._horizon, READ_MESSAGES)
        )

    def _shrink(self) -> None:
        """Forget the later half of the window: it is in the store."""
        kept: list[tuple[int, int, DelayedMessage]] = []
        windowed, weight = 0, 0
        horizon: Place | None = None
        for item in sorted(self._heap):
            delayed = item[2]
            if not delayed.journaled:
                kept.append(item)
            elif not windowed or (
                windowed < WINDOW_MESSAGES // 2 and weight + delayed.weight <= WINDOW_BYTES // 2
            ):
                kept.append(item)
                windowed += 1
                weight += delayed.weight
                horizon = delayed.place
            elif delayed.state in (PENDING, TAKEN):
                self._beyond[delayed.sequence] = delayed
        self._heap = kept  # in order, and so a heap
        self._windowed, self._weight, self._horizon = windowed, weight, horizon


class BlindWaitingRoom(TakesAll):
    """A waiting room for one message, whose BCC header it keeps: its keys count once it is due."""

    __slots__ = ("_properties", "_room")

    name: Final = ""

    def __init__(self, room: WaitingRoom, properties: bytes) -> None:
        self._room = room
        self._properties = properties

    @property
    def deleted(self) -> bool:
        """Whether the exchange is gone."""
        return self._room.deleted

    def publish(self, message: Message, confirm: PendingConfirm | None) -> None:
        """Keep the message as it was published."""
        self._room._take(message, self._properties, confirm)


class DelayRead(NamedTuple):
    """A waiting room wants the next rows after a place. Answer with `room.fill`."""

    room: WaitingRoom
    exchange_id: int
    after: Place
    rows_max: int
