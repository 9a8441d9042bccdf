"""Quorum queues, on one node: RabbitMQ's rules for them, without the quorum.

A durable queue with one member. What differs from a classic queue:

- Every message is kept on disk, whatever its delivery mode; it leaves with the mode it came with.
- Messages that come back are counted (`returns`); one that came back too often is buried with the
  reason `delivery_limit`.
- What comes back goes ahead of everything, in the order in which it came back:

      returned, oldest return first ──> fresh, in order of position

  Without a delivery limit, what a client itself returns goes to the end instead, as a message of
  that moment: RabbitMQ writes it anew, lest the log of a queue grow for ever. What a lost channel
  leaves behind goes ahead even then.
- Priorities need no argument from 4.0 on: 5 and above go ahead of the others, and from 4.3 on there
  are 32 strict levels, 4 for a message that names none. What comes back has none any more.
- A full queue that refuses publishes does so once it is above its limit, until it has come down to
  four fifths of it.
- Dead letters may be sent at least once: one that finds no place stays, counts, and is tried again.
- Consumers are never exclusive. A single active consumer is replaced by one of higher priority
  (from 4.0 on), once all that it was sent is settled.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappush
from typing import TYPE_CHECKING, Final

from amqpd.broker.consumer import Consumer
from amqpd.broker.dead_letters import DELIVERY_LIMIT, dead_letter
from amqpd.broker.levelled_queue import LevelledQueue
from amqpd.broker.messages import QueueMessage
from amqpd.broker.queue_rules import AT_LEAST_ONCE, REJECT_PUBLISH
from amqpd.broker.returns import LOST, RETURNED, Returned, Returns, limit_of, with_counts
from amqpd.commands import Arguments, Message
from amqpd.config import Compat
from amqpd.wire.properties import PRIORITY, read_property
from amqpd_storage.entries import PENDING

if TYPE_CHECKING:
    from amqpd.broker.queue import QueueDeclaration
    from amqpd.broker.virtual_host import VirtualHost

BEHIND_RETURNS: Final = 1 << 60
"""Above every number of a return: the keys of messages that never came back begin here."""
HIGH_PRIORITY: Final = 5
"""From here on a message of the 4.2 profile goes ahead of the others."""
PRIORITY_DEFAULT: Final = 4
LEVELS: Final[dict[Compat, int]] = {"3.13": 1, "4.2": 2, "4.3": 32}
"""How many levels of priority there are."""

LOW_LIMIT: Final = 0.8
"""A queue that refused publishes takes them again at this share of its limit."""
BURY_AGAIN_S: Final = 180.0
"""Between two attempts to find a place for a dead letter (rabbit:
dead_letter_worker_publisher_confirm_timeout)."""


class QuorumQueue(LevelledQueue):
    """A queue declared with `x-queue-type: quorum`."""

    __slots__ = ("_bury_again_at", "_refusing", "_return_number", "_tally", "_unburied")

    POLICY_FIRST = ("overflow",)
    drops_at_the_tail = False
    RANK_BASE = BEHIND_RETURNS

    def __init__(self, home: VirtualHost, declaration: QueueDeclaration) -> None:
        super().__init__(home, declaration)
        self._keeps_all = True
        self._tally = self.returns = Returns(self, home.effects)
        """`returns`, which is never None here."""
        self._return_number = 0
        """How many messages ever came back: their order."""
        self._unburied: dict[QueueMessage, str] = {}
        """Dead messages that found no place yet, and why they died; oldest death first."""
        self._bury_again_at = 0.0
        self._refusing = False
        self.consumers.by_age = self.compat == "3.13"

    # -- messages that come back

    def take_back(self, stored: QueueMessage, how: int = LOST) -> None:
        """A message that was handed out comes back. Call `dispatch` afterwards."""
        if self.deleted:
            self.settle(stored)
            return
        self.counts.requeued += 1
        stored.redelivered = True
        failed = how != RETURNED
        returned = self._tally.count(stored, failed)
        limit = limit_of(self.rules.delivery_limit, self.compat)
        if limit is not None:
            count = returned.failed if self.compat == "4.3" else returned.acquired
            if count > limit:
                self._bury(stored, DELIVERY_LIMIT)
                return
        if self._tally.delay(stored, failed):
            self._tally.record(stored)
        elif limit is None and how != LOST:
            self._write_anew(stored)
        else:
            self._tally.record(stored)
            self._return(stored)

    def presented(self, stored: QueueMessage) -> Message:
        """What a consumer is sent of a message that came back: its headers say how often."""
        if stored.returned is None:
            return stored.content
        depth_max = self._home.broker.limits.table_depth_max
        return with_counts(stored.content, stored.returned, self.compat, depth_max)

    def _recall(self, stored: QueueMessage) -> bool:
        """Whether a message that was found in the store is ready."""
        ready = super()._recall(stored)
        returned = stored.returned
        if returned is None:
            if stored.redelivered:
                # Nothing was written of its return: a consumer had it when the broker stopped.
                stored.returned = Returned(1, 1)
        elif returned.buried_as:
            self._weigh_in(stored)
            self._unburied[stored] = returned.buried_as
            self._bury_later()
            return False
        return ready

    def _return(self, stored: QueueMessage) -> None:
        self._weigh_in(stored)
        self._expiring = self._expiring or stored.expires_ms > 0
        self._return_number += 1
        heappush(self._returned, (self._return_number, stored))

    def _write_anew(self, stored: QueueMessage) -> None:
        """To the end of the queue, under a new position, and within one turn."""
        position = self._next_position
        self._next_position = position + 1
        self._first_position += 1  # it was not published anew
        again = QueueMessage(position, stored.content)
        again.redelivered = True
        again.returned = stored.returned
        again.expires_ms = stored.expires_ms
        if stored.key:
            again.key = self._key_base_of(self._level(PRIORITY_DEFAULT)) | position
            again.state = PENDING
            if stored.state == PENDING:
                # Its publisher waits for the message, wherever it stands.
                again.confirm, stored.confirm = stored.confirm, None
            self._effects.entries.append(again)
            self._forget(stored)
            self._tally.record(again)
        self._weigh_in(again)
        self._expiring = self._expiring or again.expires_ms > 0
        if self.levels == 1:
            self._append(again)
        else:
            self._append_on(self._level(PRIORITY_DEFAULT), again)
        self._make_room_if_due()

    # -- priorities

    @classmethod
    def levels_of(cls, arguments: Arguments, compat: Compat) -> int:
        """How many levels of priority there are."""
        return LEVELS[compat]

    def _level_of(self, content: Message) -> int:
        priority = read_property(content.properties, PRIORITY)
        return self._level(PRIORITY_DEFAULT if priority is None else priority)

    def _level(self, priority: int) -> int:
        if self.levels == LEVELS["4.3"]:
            return max(self.levels - 1 - priority, 0)
        return 0 if self.levels == 1 or priority >= HIGH_PRIORITY else 1

    def _may_leave(self, rank: int, stored: QueueMessage) -> bool:
        """Whether a head may be on disk only: what came back is behind no other."""
        return rank >= BEHIND_RETURNS

    def _weigh_in(self, stored: QueueMessage) -> None:
        self._weight += len(stored.content.body)

    # -- length

    def refuses(self, message: Message) -> bool:
        """Whether there is no room for one more, and the queue says so to publishers."""
        if not self.rules.refuses_publishes:
            return False
        count = self.ready + len(self._unburied)
        if self._over(count, self._weight):
            self._refusing = True
        elif self._refusing and self._is_low(count):
            self._refusing = False
        return self._refusing

    def refuses_dead_letter(self, message: Message) -> bool:
        """A full one takes it: in RabbitMQ it is the publisher that refuses, and here is none."""
        return self.has_duplicate(message)

    def _is_low(self, count: int) -> bool:
        rules = self.rules
        if rules.max_length is not None and count > int(rules.max_length * LOW_LIMIT):
            return False
        most = rules.max_length_bytes
        return most is None or self._weight <= int(most * LOW_LIMIT)

    def _trim(self) -> None:
        if self.rules.overflow != REJECT_PUBLISH:
            super()._trim()
        elif self._expiring:
            self._expire()
            self._effects.timed_queues[self] = None

    # -- dead letters

    @property
    def _buries_surely(self) -> bool:
        rules = self.rules
        return (
            rules.dead_letter_strategy == AT_LEAST_ONCE
            and rules.overflow == REJECT_PUBLISH
            and rules.dead_letter_exchange is not None
        )

    def bury(self, stored: QueueMessage, reason: str) -> None:
        """The same, and where it has to go surely, it stays until there is a place for it."""
        if not self._buries_surely or not stored.position:
            super().bury(stored, reason)
        elif not self._bury_surely(stored, reason):
            self._weigh_in(stored)
            self._unburied[stored] = reason
            self._tally.bury(stored, reason)
            self._bury_later()

    def _bury_surely(self, stored: QueueMessage, reason: str) -> bool:
        if not dead_letter(self._home, self, stored, reason, surely=True):
            return False
        self.settle(stored)
        return True

    def _bury_later(self) -> None:
        if self._bury_again_at <= self._effects.now:
            self._bury_again_at = self._effects.now + BURY_AGAIN_S
        self._effects.timed_queues[self] = None

    def _bury_again(self) -> None:
        """Once more for what found no place; under changed rules perhaps at most once."""
        unburied, self._unburied = self._unburied, {}
        for stored, reason in unburied.items():
            self._weight -= len(stored.content.body)
            self._bury(stored, reason)

    def dead_messages(self) -> Collection[QueueMessage]:
        """Dead letters that are kept here, since they found no place yet."""
        return self._unburied

    def purge(self) -> int:
        """Drop what is ready, and what is dead; the number of messages dropped."""
        dropped = super().purge()
        unburied, self._unburied = self._unburied, {}
        for stored in unburied:
            self.settle(stored)
        return dropped + len(unburied)

    # -- consumers

    @property
    def consumer_count(self) -> int:
        """Of a single active consumer, those that wait for their turn are not told of."""
        if self.single_active:
            return int(self.consumers.active is not None)
        return len(self.consumers)

    def add_consumer(self, consumer: Consumer) -> None:
        """A new consumer. Call `dispatch` once its consume-ok is out."""
        super().add_consumer(consumer)
        if self.single_active and self.compat != "3.13":
            self.consumers.make_way()

    def unblock(self, consumer: Consumer) -> None:
        """The consumer may be able to take messages again, or make way for another."""
        if consumer is self.consumers.leaving:
            if not consumer.unacked:
                self.consumers.hand_over()
                self.dispatch()
        else:
            super().unblock(consumer)

    def unblock_together(self, consumers: list[Consumer]) -> None:
        """The same for some of one channel."""
        if self.consumers.leaving is None:
            super().unblock_together(consumers)
        else:
            for consumer in consumers:
                self.unblock(consumer)

    # -- time

    def deadline(self) -> float | None:
        """When the queue has to be asked, in seconds of the runtime's clock."""
        deadline = super().deadline()
        if self.deleted or not self._unburied:
            return deadline
        return self._bury_again_at if deadline is None else min(deadline, self._bury_again_at)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        super().handle_timer(now)
        if self._unburied and not self.deleted and now >= self._bury_again_at:
            self._bury_again()
