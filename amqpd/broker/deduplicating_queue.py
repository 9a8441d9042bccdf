"""Queues with `x-message-deduplication`: no two messages with the same `x-deduplication-header`.

As in the plug-in rabbitmq-message-deduplication, a message is in its queue until it is settled,
dead-lettered, dropped or purged; one that is delivered without acknowledgement is gone at once. A
duplicate is refused: its publisher gets a nack, and from RabbitMQ 4 on it is a dead letter.

What the queue holds says what is a duplicate, and nothing else is kept: so a crash can not part the
two, and after it the queue knows of those messages that it still has.
"""

from __future__ import annotations

from typing import Any, Final

from amqpd.broker.dead_letters import MAXLEN, dead_letter
from amqpd.broker.deduplication import HEADER, header_text
from amqpd.broker.messages import QueueMessage
from amqpd.broker.queue import PriorityQueue, Queue
from amqpd.commands import Arguments, Message
from amqpd.wire.properties import read_headers
from amqpd_storage.entries import POSITION_MAX

DEDUPLICATION: Final = "x-message-deduplication"


class DeduplicatingQueue(Queue):
    """Knows the headers of its messages, by position."""

    __slots__ = ("_headers", "_present")

    deduplicates = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers: dict[int, str] = {}
        self._present: set[str] = set()

    @property
    def can_page(self) -> bool:
        """Nobody knows the headers of messages that are not read."""
        return False

    def has_duplicate(self, message: Message) -> bool:
        header = self._header(message)
        return header is not None and header in self._present

    def refuses(self, message: Message) -> bool:
        return super().refuses(message) or self.has_duplicate(message)

    def bury_refused(self, message: Message) -> None:
        if super().refuses(message):
            super().bury_refused(message)
        elif self._home.broker.config.compat != "3.13":
            dead_letter(self._home, self, QueueMessage(0, message), MAXLEN)

    def restore(self, position: int, message: Message, key: int, expires_ms: int) -> None:
        self._enter(position, message)
        super().restore(position, message, key, expires_ms)

    def _set_expiry(self, stored: QueueMessage) -> None:
        # Called for each message that stays and has headers, before it has a place in the queue.
        self._enter(stored.position, stored.content)
        super()._set_expiry(stored)

    def _forget(self, stored: QueueMessage) -> None:
        header = self._headers.pop(stored.position & POSITION_MAX, None)
        if header is not None:
            self._present.discard(header)
        if stored.key:
            super()._forget(stored)

    def _enter(self, position: int, message: Message) -> None:
        header = self._header(message)
        if header is not None and header not in self._present:
            self._headers[position] = header
            self._present.add(header)

    def _header(self, message: Message) -> str | None:
        # Most lists of properties can do without being decoded.
        if HEADER.encode() not in message.properties:
            return None
        headers = read_headers(message.properties, self._home.broker.limits.table_depth_max)
        field = headers.get(HEADER)
        return None if field is None else header_text(field)


class DeduplicatingPriorityQueue(DeduplicatingQueue, PriorityQueue):
    """The same with priorities."""

    __slots__ = ()


def queue_kind(arguments: Arguments) -> type[Queue]:
    """The class of queue that these arguments ask for.

    As with the plug-in, whatever is not the boolean false turns deduplication on.
    """
    deduplicates = arguments.get(DEDUPLICATION, ("t", False))[1] is not False
    prioritizes = "x-max-priority" in arguments
    if deduplicates:
        return DeduplicatingPriorityQueue if prioritizes else DeduplicatingQueue
    return PriorityQueue if prioritizes else Queue
