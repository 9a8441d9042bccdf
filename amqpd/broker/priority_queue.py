"""Queues with `x-max-priority`: the highest priority first, and within one in order."""

from __future__ import annotations

from amqpd.broker.levelled_queue import LevelledQueue
from amqpd.commands import Arguments, Message
from amqpd.config import Compat
from amqpd.wire.properties import PRIORITY, read_property


class PriorityQueue(LevelledQueue):
    """A queue with `x-max-priority`; a message that names no priority has 0, one that names more
    than there are has the highest."""

    __slots__ = ()

    @classmethod
    def levels_of(cls, arguments: Arguments, compat: Compat) -> int:
        """How many levels such a queue has."""
        most: int = arguments["x-max-priority"][1]
        return most + 1

    def _level_of(self, content: Message) -> int:
        priority = read_property(content.properties, PRIORITY) or 0
        return max(self.levels - 1 - priority, 0)
