"""The ready messages of a queue: where they are, in memory and on disk.

    returned: what came back, a heap by position      fresh: the head        paged        tail
    (3) (17)                                          |41 42 ... 4136|   |on disk|   |9,876,544 ...|

In a queue that is not long, `_tail` and `_fresh` are one. See `paging` for those that are, and
`flow` for who waits before they become so.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from heapq import heappop
from itertools import islice
from typing import TYPE_CHECKING

from amqpd.broker.flow import RETRY_MIN_S
from amqpd.broker.messages import QueueMessage
from amqpd.broker.paging import PagedMessages, PageRequest, Waiting, restored_message
from amqpd.broker.policies import Governed
from amqpd.broker.present_headers import PresentHeaders
from amqpd.broker.returns import Returns
from amqpd.commands import Target, copy_of
from amqpd.timers import Entry as TimerEntry
from amqpd_storage.entries import (
    PENDING,
    POSITION_MAX,
    SAFE,
    Backlog,
    StoredMessage,
    storage_key,
)

if TYPE_CHECKING:
    from amqpd.broker.virtual_host import VirtualHost


class ReadyMessages(Governed):
    """What `Queue` hands out, and what it takes to have most of it on disk."""

    __slots__ = (
        "_effects",
        "_expiring",
        "_first_position",
        "_fresh",
        "_home",
        "_limited",
        "_marked_through",
        "_next_position",
        "_paged",
        "_passing_id",
        "_returned",
        "_sweeping",
        "_tail",
        "_tail_max",
        "_waiting",
        "_weight",
        "_weight_max",
        "deleted",
        "name",
        "present",
        "queue_id",
        "returns",
        "timer",
        "unheld_s",
        "unheld_until",
    )

    def __init__(self, name: str, home: VirtualHost, queue_id: int) -> None:
        super().__init__()
        self.name = name
        self.timer: TimerEntry | None = None
        self._home = home
        self._effects = home.effects
        self.queue_id = queue_id
        """Names a durable queue in the store; 0 for others."""
        self.deleted = False
        self._weight = 0
        """Octets of the bodies of ready messages."""
        self._expiring = False
        """Some message here has a time at which it expires."""
        self._limited = False
        """It drops messages when it is too long."""
        self.returns: Returns | None = None
        """What is known of messages that came back, if anybody wants to know."""
        self.present: PresentHeaders | None = None
        """What tells duplicates, if the queue refuses them."""
        self._first_position = 1
        """Of the first message since the broker started."""
        self._next_position = 1
        self._marked_through = 0
        """The journal knows that messages up to here were handed out, or soon will."""
        self._fresh: deque[QueueMessage] = deque()
        self._tail = self._fresh
        """Where new messages go: of a paged queue a part of its own, behind what is paged."""
        self._paged: PagedMessages | None = None
        self._passing_id = 0
        """Under this id the store has transient messages; 0 as long as it has none."""
        self._sweeping = False
        """The store may still have rows of a purge, to be deleted by their keys."""
        self._waiting: Waiting | None = None
        self._tail_max = home.broker.limits.queue_memory_messages
        self._weight_max = home.broker.limits.queue_memory_bytes
        """More messages in the tail, or octets in the queue, than this: room has to be made."""
        self.unheld_until = 0.0
        """Till then consumers are too slow for publishers to be held: see `flow`."""
        self.unheld_s = RETRY_MIN_S
        """For how long, the next time that they prove slow."""
        self._returned: list[tuple[int, QueueMessage]] = []

    # -- what the queue does with them

    @property
    @abstractmethod
    def consumer_count(self) -> int:
        """How many consumers there are."""

    @abstractmethod
    def dispatch(self) -> None:
        """Hand out ready messages as long as a consumer can take them."""

    @abstractmethod
    def deadline(self) -> float | None:
        """When the head expires, or the queue itself; in seconds of the runtime's clock."""

    @abstractmethod
    def handle_timer(self, now: float) -> None:
        """Do what is due."""

    @abstractmethod
    def _trim(self) -> None:
        """Drop from the head what has expired or has no room."""

    # -- how many there are

    @property
    def published(self) -> int:
        """Messages that came, since the broker started."""
        return self._next_position - self._first_position

    def restore_last(self, last: int) -> None:
        """Positions up to this one were used before the restart. What was dropped there may still
        have to be deleted, by its keys."""
        self._next_position = self._first_position = max(self._next_position, last + 1)

    @property
    def ready(self) -> int:
        """Messages that wait for a consumer."""
        count = len(self._fresh) + len(self._returned)
        paged = self._paged
        return count if paged is None else count + paged.messages + len(self._tail)

    @property
    def ready_bytes(self) -> int:
        """Octets of their bodies."""
        return self._weight

    @property
    def resident(self) -> int:
        """How many of the ready messages are in memory."""
        return self.ready - (0 if self._paged is None else self._paged.messages)

    @property
    def resident_bytes(self) -> int:
        """Octets of their bodies."""
        return self._weight - (0 if self._paged is None else self._paged.body_bytes)

    @property
    def first_in_memory(self) -> QueueMessage | None:
        """The first of them, unless that is on disk."""
        return self._head()

    def in_memory(self) -> Iterator[QueueMessage]:
        """Those that are in memory, in no order."""
        yield from self._fresh
        for _, stored in self._returned:
            yield stored
        if self._tail is not self._fresh:
            yield from self._tail

    @property
    def paged_to_stay(self) -> tuple[int, int]:
        """Those on disk only that outlast a restart, and octets of their bodies."""
        return (0, 0) if self._paged is None else self._paged.persistent

    def _was_delivered(self, key: int) -> bool:
        """Whether a message that was found in the store had been handed out."""
        return key & POSITION_MAX <= self._marked_through

    def _recall(self, stored: QueueMessage) -> bool:
        """Whether a message that was found in the store is ready."""
        assert self.returns is not None
        return not self.returns.recall(stored)

    # -- at both ends

    def _append(self, stored: QueueMessage) -> None:
        """To the end of the queue."""
        self._tail.append(stored)

    def _head(self) -> QueueMessage | None:
        if self._returned:
            return self._returned[0][1]
        return self._fresh[0] if self._fresh else None

    def _pop_head(self) -> QueueMessage:
        stored = heappop(self._returned)[1] if self._returned else self._fresh.popleft()
        self._weight -= len(stored.content.body)
        return stored

    # -- memory

    @property
    def can_page(self) -> bool:
        """Whether a part of it may be on disk only."""
        return True

    @property
    def is_long(self) -> bool:
        """A part of it is on disk only, or was when it was purged: its rows are not deleted all at
        once, and nobody else's may have their keys."""
        return self._sweeping or (self._paged is not None and self._paged.messages > 0)

    def restore_sweeping(self) -> None:
        """The store still has rows of a purge before the restart."""
        self._sweeping = True

    def restore_backlog(self, queue_id: int, backlog: Backlog) -> None:
        """The store has messages of this queue, under this id: none of them is read yet."""
        self.restore_last(backlog.last)
        if backlog.messages:
            self._tail = deque()
            self._paged = PagedMessages(0)
            self._paged.add_backlog(queue_id, backlog)
            self._weight = backlog.body_bytes
            self.adjust_limits()
            # Nobody knows yet whether the first one expires.
            self._effects.page_requests.append(self._paged.probe(self))

    def wait_for_head(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the head that `get` missed is in memory, or there is none any more."""
        if self._waiting is None:
            self._waiting = Waiting()
        self._waiting.add(wake)

    def page_in(self, request: PageRequest, pages: Sequence[Sequence[StoredMessage]]) -> None:
        """The answer to a request. Raises DamagedStore if messages are missing."""
        paged = self._paged
        if paged is not None and paged.asked(request) and not self.deleted:
            targets: dict[bytes, Target] = {}
            paged_bytes = paged.body_bytes
            for found in paged.take(request, pages):
                position = found.key & POSITION_MAX
                if self.present is not None:
                    self.present.page_in(position)
                stored = QueueMessage(position, restored_message(found, targets))
                stored.key = found.key
                stored.state = SAFE
                stored.expires_ms = found.expires_ms
                stored.redelivered = self._was_delivered(found.key)
                if self.returns is not None and not self._recall(stored):
                    self._weight -= len(found.body)
                    continue
                if found.expires_ms:
                    self._expiring = True
                    self._effects.timed_queues[self] = None
                self._add_head(stored, request.paged)
            # As much may be in memory as before: else each page would let the tail grow.
            self._weight_max -= paged_bytes - paged.body_bytes
            self._finish_page(paged, request.paged)
            if not request.is_probe or self.consumer_count:
                self.dispatch()
            elif self._limited or self._expiring:
                self._trim()
        if self._waiting is not None:
            self._waiting.wake()

    def _add_head(self, stored: QueueMessage, paged: PagedMessages) -> None:
        """The next message that was read of those that were `paged`."""
        self._fresh.append(stored)

    def _finish_page(self, paged: PagedMessages, read: PagedMessages) -> None:
        """A page of `read`, which is all that is `paged` or a part of it, is in memory."""
        if not paged.messages:
            self._end_paging()

    def _make_room_if_due(self) -> None:
        """The queue has grown. (`publish` asks for itself: a call is much for every message.)"""
        if self._weight > self._weight_max or len(self._tail) > self._tail_max:
            self._make_room()

    def _make_room(self) -> None:
        """The queue outgrows its memory: publishers wait, or a part of it leaves memory."""
        held = self._home.broker.flow.crowd(self)
        if self.can_page and self._effects.journaling and (self._paged is not None or not held):
            self._page_out()
        else:
            self.adjust_limits()

    def _drop_paged(self, paged: PagedMessages) -> None:
        """A purge of what is on disk only."""
        ranges = paged.drop()
        if ranges:
            self._sweeping = True
            self._effects.entries += ranges
            if self.returns is not None:
                self.returns.forget_between(ranges)
            if self.present is not None:
                self.present.forget_paged()

    def _page_out(self) -> None:
        """The tail is long, or the queue heavy: let go of what is safe on disk."""
        if self._paged is None:
            self._begin_paging()
        paged, tail = self._paged, self._tail
        assert paged is not None
        limits = self._home.broker.limits
        keep = limits.queue_memory_messages // 2
        weight_max = limits.queue_memory_bytes // 2
        while (
            tail
            and (len(tail) > keep or self._weight - paged.body_bytes > weight_max)
            and tail[0].state == SAFE
        ):
            stored = tail.popleft()
            paged.put(stored)
            self._tell_paged_out(stored)
        self._spill_last()
        self.adjust_limits()

    def _tell_paged_out(self, stored: QueueMessage) -> None:
        """A message is on disk only from now on: who tells duplicates keeps its header."""
        if self.present is not None:
            self.present.page_out(stored.position)

    def _spill_last(self) -> None:
        """What has just come is not spilled by who publishes it, if room is made instead."""
        last = self._tail[-1] if self._tail else None
        if last is not None and not last.key:
            self._spill(last)

    def _begin_paging(self) -> None:
        """The first half of what a queue may have in memory is its head, the rest its tail."""
        limits = self._home.broker.limits
        fresh = self._fresh
        weight = count = 0
        for stored in fresh:
            weight += len(stored.content.body)
            if count and (
                count >= limits.queue_memory_messages // 2
                or weight > limits.queue_memory_bytes // 2
            ):
                break
            count += 1
        self._tail = deque(islice(fresh, count, None))
        while len(fresh) > count:
            fresh.pop()
        after = fresh[-1].position if fresh else self._next_position - len(self._tail) - 1
        self._paged = PagedMessages(after)
        for stored in self._tail:
            if not stored.key:
                self._spill(stored)

    def _end_paging(self) -> None:
        """All that is ready is in memory again."""
        if self._tail is not self._fresh:
            self._fresh.extend(self._tail)
            self._tail = self._fresh
        self._paged = None
        self.adjust_limits()

    def adjust_limits(self) -> None:
        """When to page out next. What could not go because it is not safe yet is tried again after
        a while."""
        limits = self._home.broker.limits
        step = limits.queue_memory_messages // 8 + 1
        self._tail_max = max(limits.queue_memory_messages, len(self._tail) + step)
        paged_bytes = self._paged.body_bytes if self._paged is not None else 0
        resident = self._weight - paged_bytes
        step = limits.queue_memory_bytes // 8 + 1
        self._weight_max = paged_bytes + max(limits.queue_memory_bytes, resident + step)

    def _spill(self, stored: QueueMessage) -> None:
        """A transient message may have to leave memory: the journal takes it as well."""
        if not self._passing_id:
            self._passing_id = self._home.broker.passing_ids.take()
        self._journal_passing(stored, self._passing_id)

    def _journal_passing(self, stored: QueueMessage, passing_id: int) -> None:
        """The store gets the message, under an id that means nothing to its next owner."""
        if stored.content.message_id:
            stored.content = copy_of(stored.content)
        stored.key = storage_key(passing_id, stored.position & POSITION_MAX)
        stored.state = PENDING
        self._effects.entries.append(stored)

    def _passing_ids(self) -> Collection[int]:
        """Under which ids the store may have transient messages."""
        return (self._passing_id,) if self._passing_id else ()

    def _refill(self) -> bool:
        """There is nothing in memory before the paged part: whether there is now."""
        assert self._paged is not None
        if self._paged.messages:
            self._read_ahead()
            return False
        self._end_paging()
        return bool(self._fresh)

    def _read_ahead(self) -> None:
        """Ask for the next page before the head is empty, unless what is in memory is heavy."""
        paged = self._paged
        assert paged is not None
        limits = self._home.broker.limits
        head = len(self._fresh)
        if (
            not paged.reading
            and paged.messages
            and head < max(1, limits.queue_memory_messages // 4)
            and (not head or self._weight - paged.body_bytes < limits.queue_memory_bytes)
        ):
            rows = max(2, limits.queue_memory_messages // 4)
            self._effects.page_requests.append(paged.request(self, rows))
