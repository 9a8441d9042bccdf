"""Queues with `x-message-deduplication`: no two messages with the same `x-deduplication-header`.

As in the plug-in rabbitmq-message-deduplication, a message is in its queue until it is settled,
dead-lettered, dropped or purged; one that is delivered without acknowledgement is gone at once. A
duplicate is refused: its publisher gets a nack, and from RabbitMQ 4 on it is a dead letter. A
policy that turns it on holds for what comes from then on.

What the queue holds says what is a duplicate, and nothing else is kept: so a crash can not part the
two, and after it the queue knows of those messages that it still has.
"""

from __future__ import annotations

from amqpd.broker.deduplication import HEADER, header_text
from amqpd.commands import Message
from amqpd.wire.properties import read_headers
from amqpd_storage.entries import POSITION_MAX


class PresentHeaders:
    """The deduplication headers of the messages of one queue, by position.

    Those of messages that are on disk only are in memory, too, but apart: a purge drops such
    messages without reading them.
    """

    __slots__ = ("_by_position", "_depth_max", "_paged", "_present")

    def __init__(self, depth_max: int) -> None:
        self._depth_max = depth_max
        self._by_position: dict[int, str] = {}
        self._paged: dict[int, str] = {}
        self._present: set[str] = set()

    def have(self, message: Message) -> bool:
        """Whether a message with the same header is there."""
        header = self._header(message)
        return header is not None and header in self._present

    def enter(self, position: int, message: Message) -> None:
        """A message has come, to this position."""
        header = self._header(message)
        if header is not None and header not in self._present:
            self._by_position[position & POSITION_MAX] = header
            self._present.add(header)

    def leave(self, position: int) -> None:
        """The message at this position is gone."""
        header = self._by_position.pop(position & POSITION_MAX, None)
        if header is not None:
            self._present.discard(header)

    def page_out(self, position: int) -> None:
        """The message at this position is on disk only."""
        header = self._by_position.pop(position & POSITION_MAX, None)
        if header is not None:
            self._paged[position & POSITION_MAX] = header

    def page_in(self, position: int) -> None:
        """It is in memory again."""
        header = self._paged.pop(position & POSITION_MAX, None)
        if header is not None:
            self._by_position[position & POSITION_MAX] = header

    def forget_paged(self) -> None:
        """All that was on disk only is gone."""
        self._present.difference_update(self._paged.values())
        self._paged.clear()

    def _header(self, message: Message) -> str | None:
        # Most lists of properties can do without being decoded.
        if HEADER.encode() not in message.properties:
            return None
        field = read_headers(message.properties, self._depth_max).get(HEADER)
        return None if field is None else header_text(field)
