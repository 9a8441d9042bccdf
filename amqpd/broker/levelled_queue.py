"""Queues whose messages have levels, as priorities give them: a better one goes before all others.

Level 0 is the best, and within a level messages go in order of position. In memory that is one heap
by rank: the level above the position. On disk each level has a lane of its own, an id under which
the store has its messages, so that a queue of ten million is read level by level, in order, and a
part of it can be on disk only (`paged_levels`), as with queues that have but one order:

- The worst heads leave memory first. What came back stays: it is few, and its place is not at the
  end of its level.
- A head is handed out only if no better level is dry, that is, has messages of which none is in
  memory: these are asked for first.

The lanes are taken when the queue is declared, and are as many as its levels. A queue of a store
that was made before, or under rules with other levels (`compat`), has fewer: it is ordered in the
same way, and does not page.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Collection
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from amqpd.broker.messages import PendingConfirm, QueueMessage
from amqpd.broker.paged_levels import PagedLevel, PagedLevels
from amqpd.broker.paging import PagedMessages
from amqpd.broker.queue import Queue, QueueDeclaration
from amqpd.commands import Message
from amqpd_storage.entries import (
    POSITION_BITS,
    POSITION_MAX,
    SAFE,
    Backlog,
    Delivered,
    storage_key,
)

if TYPE_CHECKING:
    from amqpd.broker.virtual_host import VirtualHost


class LevelledQueue(Queue):
    """A queue with `levels` levels; with one it is a queue like any other.

    The position of a message that is ready has its level above it.
    """

    __slots__ = ("_heads_max", "_marked_lanes", "_marks", "_passing_id_by_level", "levels")

    RANK_BASE = 0
    """Below it are ranks of what goes ahead of all levels."""

    def __init__(self, home: VirtualHost, declaration: QueueDeclaration) -> None:
        super().__init__(home, declaration)
        self.levels = self.levels_of(self.arguments, self.compat)
        self._marks: dict[int, int] = {}
        """By lane: up to this position the journal knows that messages were handed out."""
        self._marked_lanes: set[int] = set()
        """Of which it is to be told anew."""
        self._passing_id_by_level: dict[int, int] = {}
        self._heads_max = self._tail_max

    @abstractmethod
    def _level_of(self, content: Message) -> int:
        """The level that the properties of a message put it on."""

    @property
    def can_page(self) -> bool:
        """Whether each level has a lane of its own."""
        return self.lanes == self.levels

    @property
    def _levels_paged(self) -> PagedLevels | None:
        paged = self._paged
        return paged if isinstance(paged, PagedLevels) else None

    # -- lanes

    def publish(self, message: Message, confirm: PendingConfirm | None) -> None:
        """Take a message: to the consumer whose turn it is, or to its place in the queue."""
        if self.lanes > 1:
            self._key_base = self._key_base_of(self._level_of(message))
        super().publish(message, confirm)
        if len(self._returned) > self._heads_max:
            self._make_room()

    def _key_base_of(self, number: int) -> int:
        """What the keys of a level's messages begin with, if they are durable."""
        return storage_key(self.queue_id + (number if self.can_page else 0), 0)

    def restore_mark(self, queue_id: int, below: int) -> None:
        """Positions below this one were handed out before the restart: they are not used again."""
        super().restore_mark(queue_id, below)
        self._marks[queue_id - self.queue_id] = below - 1

    def _was_delivered(self, key: int) -> bool:
        if not self.outlasts(key):
            return False
        lane = (key >> POSITION_BITS) - self.queue_id
        return key & POSITION_MAX <= self._marks.get(lane, 0)

    def _mark_delivered(self, key: int) -> None:
        if self._journaled and self.outlasts(key):
            lane = (key >> POSITION_BITS) - self.queue_id
            if key & POSITION_MAX > self._marks.get(lane, 0):
                self._marks[lane] = key & POSITION_MAX
                self._marked_lanes.add(lane)
                self._effects.marked_queues[self] = None

    def journal_mark(self) -> None:
        """Tell the journal how far messages have been handed out."""
        if not self.deleted:
            for lane in sorted(self._marked_lanes):
                self._effects.entries.append(Delivered(self.queue_id + lane, self._marks[lane] + 1))
        self._marked_lanes.clear()

    # -- at both ends

    def _append(self, stored: QueueMessage) -> None:
        if self.levels == 1:
            super()._append(stored)
        else:
            self._append_on(self._level_of(stored.content), stored)

    def _append_on(self, number: int, stored: QueueMessage) -> None:
        """To the end of a level."""
        stored.position = number << POSITION_BITS | (stored.position & POSITION_MAX)
        paged = self._levels_paged
        level = paged.levels.get(number) if paged is not None else None
        if level is None:
            heappush(self._returned, (self.RANK_BASE | stored.position, stored))
        else:
            level.tail += 1
            self._tail.append(stored)

    def _return(self, stored: QueueMessage) -> None:
        """To its place among those that are ready."""
        if self.levels == 1:
            super()._return(stored)
            return
        self._weight += len(stored.content.body)
        self._expiring = self._expiring or stored.expires_ms > 0
        number = self._level_of(stored.content)
        stored.position = number << POSITION_BITS | (stored.position & POSITION_MAX)
        self._push(stored)

    def _push(self, stored: QueueMessage) -> None:
        """Among the heads."""
        heappush(self._returned, (self.RANK_BASE | stored.position, stored))
        paged = self._levels_paged
        if paged is not None:
            level = paged.levels.get(stored.position >> POSITION_BITS)
            if level is not None:
                level.heads += 1
                if level.heads == 1:
                    paged.find_dry()

    def _head(self) -> QueueMessage | None:
        paged = self._levels_paged
        if paged is None:
            return super()._head()
        if not self._returned:
            return None
        rank, stored = self._returned[0]
        return stored if rank < self.RANK_BASE | paged.dry << POSITION_BITS else None

    def _pop_head(self) -> QueueMessage:
        paged = self._levels_paged
        if paged is None:
            return super()._pop_head()
        rank, stored = heappop(self._returned)
        self._weight -= len(stored.content.body)
        if rank >= self.RANK_BASE:
            level = paged.levels.get(stored.position >> POSITION_BITS)
            if level is not None:
                level.heads -= 1
                if not level.heads:
                    paged.find_dry()
        return stored

    def dispatch(self) -> None:
        """Hand out ready messages as long as a consumer can take them."""
        if self.levels == 1:
            super().dispatch()
            return
        while self._head() is not None or (self._paged is not None and self._refill()):
            if self._expiring:
                if not self._expire():
                    break
                if self._head() is None:
                    continue
            consumer = self.consumers.take()
            if consumer is None:
                break
            self._hand_out(self._pop_head(), consumer)
        if self._limited or self._expiring:
            self._trim()
        if self._paged is not None:
            self._read_ahead()

    # -- memory

    def _make_room_if_due(self) -> None:
        super()._make_room_if_due()
        if len(self._returned) > self._heads_max:
            self._make_room()

    def restore_backlog(self, queue_id: int, backlog: Backlog) -> None:
        """The store has messages of one level: none of them is read yet."""
        if self.levels == 1:
            super().restore_backlog(queue_id, backlog)
            return
        self.restore_last(backlog.last)
        if backlog.messages:
            paged = self._begin_levels()
            level = paged.add_level(queue_id - self.queue_id, 0)
            level.add_backlog(queue_id, backlog)
            paged.messages += backlog.messages
            paged.body_bytes += backlog.body_bytes
            paged.find_dry()
            self._weight += backlog.body_bytes
            self.adjust_limits()
            self._effects.page_requests.append(level.probe(self))

    def _begin_levels(self) -> PagedLevels:
        paged = self._levels_paged
        if paged is None:
            paged = self._paged = PagedLevels()
            self._tail = deque()
        return paged

    def _add_head(self, stored: QueueMessage, paged: PagedMessages) -> None:
        if isinstance(paged, PagedLevel):
            stored.position |= paged.level << POSITION_BITS
            self._push(stored)
        else:
            super()._add_head(stored, paged)

    def _finish_page(self, paged: PagedMessages, read: PagedMessages) -> None:
        if not (isinstance(read, PagedLevel) and isinstance(paged, PagedLevels)):
            super()._finish_page(paged, read)
        elif not read.messages and len(self._returned) + read.tail <= self._heads_max:
            # Too many of its tail would make room for themselves: what was read would go back to
            # the disk before them, and be read again, as long as they are not safe there.
            self._unpage(read, paged)
        if self._paged is not None and len(self._returned) > self._heads_max:
            # What was read goes before other heads, of which there are enough now.
            self._page_out()

    def _page_out(self) -> None:
        """The queue is long, or heavy: let go of what is safe on disk, last first."""
        if self.levels == 1:
            super()._page_out()
            return
        paged = self._begin_levels()
        self._spill_last()  # before others follow it
        limits = self._home.broker.limits
        keep = limits.queue_memory_messages // 2
        weight_max = limits.queue_memory_bytes // 2
        heads, tail = self._returned, self._tail
        while (
            tail
            and (len(heads) + len(tail) > keep or self._weight - paged.body_bytes > weight_max)
            and tail[0].state == SAFE
        ):
            stored = tail.popleft()
            level = paged.levels[stored.position >> POSITION_BITS]
            level.tail -= 1
            paged.put_on(level, stored)
            self._tell_paged_out(stored)
        self._put_heads_on_disk(
            paged, len(heads) + len(tail) - keep, self._weight - paged.body_bytes - weight_max
        )
        if paged.levels:
            self.adjust_limits()
        else:
            self._end_paging()

    def _put_heads_on_disk(self, paged: PagedLevels, messages: int, octets: int) -> None:
        """Let so many heads go, or so many octets, whichever takes more: the worst of them."""
        heads = sorted(self._returned)
        cut = len(heads)
        while cut > 1 and (messages > 0 or octets > 0):
            cut -= 1
            messages -= 1
            octets -= len(heads[cut][1].content.body)
        stay = heads[:cut]
        while cut < len(heads):
            number = heads[cut][1].position >> POSITION_BITS
            end = cut + 1
            while end < len(heads) and heads[end][1].position >> POSITION_BITS == number:
                end += 1
            stay += self._put_level_on_disk(paged, number, heads[cut:end])
            cut = end
        self._returned[:] = stay
        for level in paged.levels.values():
            level.heads = 0
        for rank, stored in stay:
            level_of = paged.levels.get(stored.position >> POSITION_BITS)
            if level_of is not None and rank >= self.RANK_BASE:
                level_of.heads += 1
        paged.find_dry()

    def _put_level_on_disk(
        self, paged: PagedLevels, number: int, heads: list[tuple[int, QueueMessage]]
    ) -> list[tuple[int, QueueMessage]]:
        """The last heads of a level leave memory, as far as they may; the others."""
        level = paged.levels.get(number)
        if level is not None and level.reading:
            return heads  # what is being read comes right behind them
        first = len(heads)
        while first and self._may_leave(heads[first - 1][0], heads[first - 1][1]):
            if level is not None and heads[first - 1][1].state != SAFE:
                break  # what follows is on disk already
            first -= 1
        leaving = heads[first:]
        if not leaving:
            return heads
        if level is not None:
            for _, stored in reversed(leaving):
                paged.put_back_on(level, stored)
                self._tell_paged_out(stored)
            return heads[:first]
        level = paged.add_level(number, (leaving[0][1].position & POSITION_MAX) - 1)
        for _, stored in leaving:
            if stored.state == SAFE and not level.tail:
                paged.put_on(level, stored)
                self._tell_paged_out(stored)
            else:
                level.tail += 1
                self._tail.append(stored)
                if not stored.key:
                    self._journal_passing(stored, self._passing_id_on(number))
        return heads[:first]

    def _may_leave(self, rank: int, stored: QueueMessage) -> bool:
        """Whether a head may be on disk only: what came back has others of its level, which are
        with consumers, behind it."""
        return not stored.redelivered

    def _spill(self, stored: QueueMessage) -> None:
        if self.levels == 1:
            super()._spill(stored)
            return
        paged = self._levels_paged
        number = stored.position >> POSITION_BITS
        if paged is not None and number in paged.levels:
            self._journal_passing(stored, self._passing_id_on(number))

    def _passing_id_on(self, number: int) -> int:
        passing_id = self._passing_id_by_level.get(number)
        if passing_id is None:
            passing_id = self._home.broker.passing_ids.take()
            self._passing_id_by_level[number] = passing_id
        return passing_id

    def _passing_ids(self) -> Collection[int]:
        if self.levels == 1:
            return super()._passing_ids()
        return self._passing_id_by_level.values()

    def _unpage(self, level: PagedLevel, paged: PagedLevels) -> None:
        """Nothing of the level is on disk only any more."""
        del paged.levels[level.level]
        if level.tail:
            others: deque[QueueMessage] = deque()
            for stored in self._tail:
                if stored.position >> POSITION_BITS == level.level:
                    heappush(self._returned, (self.RANK_BASE | stored.position, stored))
                else:
                    others.append(stored)
            self._tail = others
        if paged.levels:
            paged.find_dry()
        else:
            self._end_paging()

    def _end_paging(self) -> None:
        """All that is ready is in memory again."""
        if self.levels > 1 and self._tail is not self._fresh:
            for stored in self._tail:
                heappush(self._returned, (self.RANK_BASE | stored.position, stored))
            self._tail = self._fresh
        super()._end_paging()

    def adjust_limits(self) -> None:
        """When to page out next."""
        super().adjust_limits()
        limits = self._home.broker.limits
        step = limits.queue_memory_messages // 8 + 1
        self._heads_max = max(limits.queue_memory_messages, len(self._returned) + step)

    def _refill(self) -> bool:
        """There is nothing in memory that may be handed out: whether there is now."""
        paged = self._levels_paged
        if paged is None:
            return super()._refill()
        level = paged.levels.get(paged.dry)
        if level is None:
            if not paged.levels:
                self._end_paging()
            return self._head() is not None
        if level.messages:
            self._read(level)
            return False
        self._unpage(level, paged)
        return self._head() is not None

    def _read_ahead(self) -> None:
        """Ask for the next page of the best level before its heads are gone, unless what is in
        memory is heavy."""
        paged = self._levels_paged
        if paged is None:
            super()._read_ahead()
            return
        level = paged.first_paged()
        if level is None:
            return
        limits = self._home.broker.limits
        # What is behind what would be read does not count: it leaves memory for it, if need be.
        heads = len(self._returned) - paged.heads_behind(level.level)
        if heads < max(1, limits.queue_memory_messages // 4) and (
            not heads or self._weight - paged.body_bytes < limits.queue_memory_bytes
        ):
            self._read(level)

    def _read(self, level: PagedLevel) -> None:
        if not level.reading:
            rows = max(2, self._home.broker.limits.queue_memory_messages // 4)
            self._effects.page_requests.append(level.request(self, rows))
