"""What is on disk only of a queue whose messages have levels: for each level a part of its own.

The levels are those of priorities, the best one is 0. Each has the lane of its own in the store
(`LevelledQueue` says which), so that its messages lie together there, in order.

           heads (in memory)    paged (on disk)     tail (in memory)
    0      |41 47|
    1      |12|                 |13 ... 9,876|      |9,877 9,901|       pages
    2      |3 4 5|              |8 ... 9,880|                           pages; its heads wait
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from amqpd.broker.paging import PagedMessages, PageRequest
from amqpd_storage.entries import POSITION_MAX, DropRange, StoredMessage

if TYPE_CHECKING:
    from amqpd.broker.messages import QueueMessage

NO_LEVEL: Final = 1 << 10
"""Behind every level."""


class PagedLevel(PagedMessages):
    """What is on disk only of one level, and how much of the level is in memory."""

    __slots__ = ("heads", "level", "tail")

    def __init__(self, level: int, after: int) -> None:
        super().__init__(after)
        self.level = level
        self.heads = 0
        """Messages of this level that are ready in memory, before the paged ones."""
        self.tail = 0
        """Those in memory that come after them."""

    def put_back(self, stored: QueueMessage) -> None:
        """The message before the first of them leaves memory again."""
        position = stored.key & POSITION_MAX
        lane = self.put_in_lane(stored)
        lane.last = max(lane.last, position)
        self.after = position - 1


class PagedLevels(PagedMessages):
    """All levels of a queue of which a part is on disk only, or is to be."""

    __slots__ = ("dry", "levels")

    def __init__(self) -> None:
        super().__init__(0)
        self.levels: dict[int, PagedLevel] = {}
        self.dry = NO_LEVEL
        """The best level that has messages, and none of them among the heads: till those are read,
        nothing behind that level is to be handed out."""

    def find_dry(self) -> None:
        """Levels came or went, or the last head of one, or a first."""
        self.dry = NO_LEVEL
        for number, level in self.levels.items():
            if not level.heads and number < self.dry:
                self.dry = number

    def add_level(self, number: int, after: int) -> PagedLevel:
        """The messages of this level above the position `after` are to be on disk only."""
        level = self.levels[number] = PagedLevel(number, after)
        return level

    def first_paged(self) -> PagedLevel | None:
        """The best level of which anything is on disk only."""
        first: PagedLevel | None = None
        for level in self.levels.values():
            if level.messages and (first is None or level.level < first.level):
                first = level
        return first

    def heads_behind(self, number: int) -> int:
        """How many heads there are of worse levels, as far as these are on disk."""
        return sum(level.heads for level in self.levels.values() if level.level > number)

    def put_on(self, level: PagedLevel, stored: QueueMessage) -> None:
        """The next message of the level, which is safe in the store, leaves memory."""
        level.put(stored)
        self.messages += 1
        self.body_bytes += len(stored.content.body)

    def put_back_on(self, level: PagedLevel, stored: QueueMessage) -> None:
        """The last message before what is paged of the level leaves memory again."""
        level.put_back(stored)
        self.messages += 1
        self.body_bytes += len(stored.content.body)

    @property
    def persistent(self) -> tuple[int, int]:
        """How many of them outlast a restart, and octets of their bodies."""
        sums = [level.persistent for level in self.levels.values()]
        return sum(messages for messages, _ in sums), sum(octets for _, octets in sums)

    def asked(self, request: PageRequest) -> bool:
        """Whether the answer to the request is still wanted: nothing was purged since."""
        return any(level is request.paged for level in self.levels.values())

    def take(
        self, request: PageRequest, pages: Sequence[Sequence[StoredMessage]]
    ) -> list[StoredMessage]:
        """What was read of a level. Raises DamagedStore as `PagedMessages.take` does."""
        level = request.paged
        messages, body_bytes = level.messages, level.body_bytes
        taken = level.take(request, pages)
        self.messages -= messages - level.messages
        self.body_bytes -= body_bytes - level.body_bytes
        return taken

    def drop(self) -> list[DropRange]:
        """All of them are gone: what the journal has to know."""
        return [dropped for level in self.levels.values() for dropped in level.drop()]
