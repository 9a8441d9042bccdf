"""A queue: messages in order of position, handed to consumers in turn.

    position:  1 ... 41   42   43   44   45   46 ...                    next
                     |    |         |    |    |
               settled  returned   unacked   fresh: never handed out ──>

Messages are handed out from the front, so whatever was ever handed out lies before everything in
`fresh`. A message that comes back goes to `returned`, a heap by position: taking from `returned`
first, then from `fresh`, serves every message at its own place. The boundary between the two is
also what the journal keeps (`Delivered`) to set `redelivered` right after a crash.

A settled message of a durable queue either was never written (its `Enqueue` is elided, and its
confirm is due at once) or is removed by a `Settle` entry.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from amqpd.broker.consumer import Consumer, ConsumerRing
from amqpd.broker.messages import PendingConfirm, QueueMessage
from amqpd.commands import Arguments, Message
from amqpd_storage.entries import (
    ELIDED,
    PENDING,
    Delivered,
    DropMessage,
    DropQueue,
    Settle,
    storage_key,
)

if TYPE_CHECKING:
    from amqpd.broker.effects import Effects
    from amqpd.broker.session import Session


class Queue:
    """One queue of a virtual host. Declared and deleted by `VirtualHost`."""

    __slots__ = (
        "_effects",
        "_fresh",
        "_journaled",
        "_key_base",
        "_marked_through",
        "_next_position",
        "_returned",
        "arguments",
        "auto_delete",
        "consumers",
        "deleted",
        "durable",
        "had_consumer",
        "name",
        "owner",
        "queue_id",
        "single_active",
        "unacked",
        "virtual_host",
    )

    def __init__(
        self,
        name: str,
        virtual_host: str,
        effects: Effects,
        *,
        durable: bool,
        auto_delete: bool,
        arguments: Arguments,
        owner: Session | None = None,
        queue_id: int = 0,
    ) -> None:
        self.name = name
        self.virtual_host = virtual_host
        self.durable = durable
        self.auto_delete = auto_delete
        self.arguments = arguments
        self.owner = owner
        """The session that has an exclusive queue to itself."""
        self.queue_id = queue_id
        """Names a durable queue in the store; 0 for others."""
        self.single_active = arguments.get("x-single-active-consumer", ("t", False))[1] is True
        self.consumers = ConsumerRing(self.single_active)
        self.had_consumer = False
        self.unacked = 0
        self.deleted = False
        self._effects = effects
        self._journaled = durable and effects.journaling
        self._key_base = storage_key(queue_id, 0)
        self._next_position = 1
        self._marked_through = 0
        self._fresh: deque[QueueMessage] = deque()
        self._returned: list[tuple[int, QueueMessage]] = []

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} in {self.virtual_host!r}>"

    @property
    def ready(self) -> int:
        """Messages that wait for a consumer."""
        return len(self._fresh) + len(self._returned)

    # -- messages in

    def publish(self, message: Message, confirm: PendingConfirm | None) -> None:
        """Take a message: to the consumer whose turn it is, or to the end of the queue."""
        position = self._next_position
        self._next_position = position + 1
        consumer = None
        if not self._fresh and not self._returned:
            consumer = self.consumers.take()
            if consumer is not None and consumer.no_ack:
                consumer.deliver_settled(message, False)
                return
        stored = QueueMessage(position, message)
        if message.persistent and self._journaled:
            stored.key = self._key_base | position
            stored.state = PENDING
            if confirm is not None:
                stored.confirm = confirm
                confirm.remaining += 1
            if message.message_id:
                message.references += 1
            self._effects.entries.append(stored)
        if consumer is None:
            self._fresh.append(stored)
        else:
            if stored.key:
                self._mark_delivered(position)
            consumer.deliver(stored)

    def restore_mark(self, below: int) -> None:
        """Positions below this one were handed out before the restart: they are not used again."""
        self._marked_through = below - 1
        self._next_position = max(self._next_position, below)

    def restore(self, position: int, message: Message, key: int) -> None:
        """Put back, in order of position, a message that was found in the store."""
        stored = QueueMessage(position, message)
        stored.key = key
        stored.redelivered = position <= self._marked_through
        self._fresh.append(stored)
        self._next_position = max(self._next_position, position + 1)

    # -- messages out

    def dispatch(self) -> None:
        """Hand out ready messages as long as a consumer can take them."""
        fresh = self._fresh
        returned = self._returned
        consumers = self.consumers
        while fresh or returned:
            consumer = consumers.take()
            if consumer is None:
                return
            stored = heappop(returned)[1] if returned else fresh.popleft()
            if consumer.no_ack:
                consumer.deliver_settled(stored.content, stored.redelivered)
                if stored.key:
                    self._forget(stored)
            else:
                if stored.key:
                    self._mark_delivered(stored.position)
                consumer.deliver(stored)

    def get(self) -> QueueMessage | None:
        """The first ready message, for basic.get; the caller settles or keeps it."""
        if self._returned:
            return heappop(self._returned)[1]
        if not self._fresh:
            return None
        stored = self._fresh.popleft()
        if stored.key:
            self._mark_delivered(stored.position)
        return stored

    def settle(self, stored: QueueMessage) -> None:
        """A message that was handed out is done with."""
        if stored.key:
            self._forget(stored)

    def take_back(self, stored: QueueMessage) -> None:
        """A message that was handed out returns to its place. Call `dispatch` afterwards."""
        if self.deleted:
            self.settle(stored)
            return
        stored.redelivered = True
        heappush(self._returned, (stored.position, stored))

    def purge(self) -> int:
        """Drop what is ready; the number of messages dropped."""
        dropped = [stored for _, stored in self._returned]
        dropped += self._fresh
        self._returned.clear()
        self._fresh.clear()
        for stored in dropped:
            if stored.key:
                self._forget(stored)
        return len(dropped)

    def drop(self) -> int:
        """The queue is deleted with its messages; the number of messages that were ready.

        Unacknowledged ones are forgotten as they are settled.
        """
        self.deleted = True
        count = self.purge()
        if self._journaled:
            self._effects.entries.append(DropQueue(self.queue_id))
        return count

    # -- consumers

    def add_consumer(self, consumer: Consumer) -> None:
        """A new consumer. Call `dispatch` once its consume-ok is out."""
        self.consumers.add(consumer)
        self.had_consumer = True

    def remove_consumer(self, consumer: Consumer) -> None:
        """The consumer is gone; what it has not settled stays with its channel."""
        self.consumers.remove(consumer)
        if self.single_active:
            self.dispatch()

    def unblock(self, consumer: Consumer) -> None:
        """The consumer may be able to take messages again."""
        if consumer.blocked and consumer.can_take():
            self.consumers.unblock(consumer)
            if self._fresh or self._returned:
                self.dispatch()

    # -- the journal

    def journal_mark(self) -> None:
        """Tell the journal how far messages have been handed out."""
        if not self.deleted:
            self._effects.entries.append(Delivered(self.queue_id, self._marked_through + 1))

    def _mark_delivered(self, position: int) -> None:
        if position > self._marked_through:
            self._marked_through = position
            self._effects.marked_queues[self] = None

    def _forget(self, stored: QueueMessage) -> None:
        """A journaled message need not survive any more."""
        if stored.state == PENDING:
            stored.state = ELIDED
            if stored.confirm is not None:
                stored.confirm.safe()
        elif not self.deleted:
            self._effects.entries.append(Settle(stored.key))
        message = stored.content
        if message.message_id:
            message.references -= 1
            if message.references == 0 and message.stored:
                self._effects.entries.append(DropMessage(message.message_id))
