"""A queue: messages in order of position, handed to consumers in turn.

    position:  1 ... 41   42   43   44   45   46 ...                    next
                     |    |         |    |    |
               settled  returned   unacked   fresh: never handed out ──>

Messages are handed out from the front, so whatever was ever handed out lies before everything in
`fresh`. A message that comes back goes to `returned`, a heap by position: taking from `returned`
first, then from `fresh`, serves every message at its own place. The boundary between the two is
also what the journal keeps (`Delivered`) to set `redelivered` right after a crash.

Where ready messages are, in memory or on disk, is `ready_messages`' affair.

Only the head of the queue expires (RabbitMQ's rule: what stands behind it waits and is counted), at
its own time to live or the queue's, whichever ends first. Expired, rejected and supernumerary
messages go where `dead_letters` sends them.

A settled message of a durable queue either was never written (its `Enqueue` is elided, and its
confirm is due at once) or is removed by a `Settle` entry.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappop, heappush
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from amqpd.broker.consumer import Consumer, ConsumerRing
from amqpd.broker.counts import Counts
from amqpd.broker.dead_letters import EXPIRED, MAXLEN, REJECTED, Burial, dead_letter
from amqpd.broker.definitions import ReturnRecord
from amqpd.broker.messages import PendingConfirm, QueueMessage
from amqpd.broker.paging import Postponed
from amqpd.broker.policy_settings import QueueType
from amqpd.broker.present_headers import PresentHeaders
from amqpd.broker.queue_rules import REJECT_PUBLISH_DLX, read_rules
from amqpd.broker.ready_messages import ReadyMessages
from amqpd.broker.returns import LOST, RETURNED, Returns
from amqpd.commands import Arguments, Message
from amqpd.config import Compat
from amqpd.timers import BREATH_S
from amqpd.wire.properties import EXPIRATION, read_property
from amqpd_storage.entries import (
    ELIDED,
    PENDING,
    POSITION_BITS,
    POSITION_MAX,
    SAFE,
    Delivered,
    DropQueue,
    storage_key,
)

if TYPE_CHECKING:
    from amqpd.broker.session import Session
    from amqpd.broker.virtual_host import VirtualHost

EXPIRED_AT_ONCE: Final = 500
"""So many are dropped before others have their turn: as dead letters some milliseconds."""


class QueueDeclaration(NamedTuple):
    """What a queue is declared with, and where the store has its messages."""

    name: str
    durable: bool
    auto_delete: bool
    arguments: Arguments
    owner: "Session | None"  # noqa: UP037 - compiled, it is looked up here, and is not there yet
    """The session that has an exclusive queue to itself."""
    queue_id: int
    """Names a durable queue in the store; 0 for others."""
    lanes: int
    """Under how many ids the store has its messages, if it is durable: `queue_id` and those that
    follow. One lane, unless it has priorities."""


class Queue(ReadyMessages):
    """One queue of a virtual host. Declared and deleted by `VirtualHost`."""

    __slots__ = (
        "_journaled",
        "_keeps_all",
        "_key_base",
        "_resume_at",
        "_used_at",
        "arguments",
        "auto_delete",
        "burial",
        "consumers",
        "counts",
        "durable",
        "had_consumer",
        "lanes",
        "message_ttl_ms",
        "owner",
        "rules",
        "single_active",
        "unacked",
        "virtual_host",
    )

    POLICY_FIRST: ClassVar[tuple[str, ...]] = ()
    """Settings of texts in which a policy wins over an argument."""

    def __init__(self, home: VirtualHost, declaration: QueueDeclaration) -> None:
        super().__init__(declaration.name, home, declaration.queue_id)
        self.virtual_host = home.name
        self.durable = declaration.durable
        self.lanes = declaration.lanes
        self.auto_delete = declaration.auto_delete
        self.arguments = arguments = declaration.arguments
        self.owner = declaration.owner
        self.single_active = arguments.get("x-single-active-consumer", ("t", False))[1] is True
        self.consumers = ConsumerRing(self.single_active)
        self.had_consumer = False
        self.unacked = 0
        self.rules = read_rules(arguments)
        self.message_ttl_ms = self.rules.message_ttl_ms
        # What a client gives back to a queue that refuses publishes never drops its head.
        self._limited = self.rules.limits_length and not self.rules.refuses_publishes
        self.present = self._new_present()
        self._used_at = self._effects.now
        """When somebody last showed an interest, for `x-expires`."""
        self._journaled = self.durable and self._effects.journaling
        self._keeps_all = False
        """Transient messages are journaled, too."""
        self._key_base = storage_key(self.queue_id, 0)
        self._resume_at = 0.0
        """When to go on dropping what has expired, in seconds of the runtime's clock; 0 if nothing
        of that was left."""
        self.burial: Burial | None = None
        """Of the message that died here last, where dead letters go anywhere."""
        self.counts = Counts()
        """What is counted as it happens; `counts.of_queue` has all of it."""

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} in {self.virtual_host!r}>"

    @property
    def type(self) -> QueueType:
        """What `x-queue-type` says."""
        kind: QueueType = self.arguments.get("x-queue-type", ("S", "classic"))[1]
        return kind

    @property
    def compat(self) -> Compat:
        """The version of RabbitMQ whose rules hold."""
        return self._home.broker.config.compat

    @property
    def consumer_count(self) -> int:
        """How many consumers clients are told of."""
        return len(self.consumers)

    @property
    def keeps_all(self) -> bool:
        """Whether transient messages are journaled, too."""
        return self._keeps_all

    def dead_messages(self) -> Collection[QueueMessage]:
        """Dead letters that are kept here, since they found no place yet."""
        return ()

    # -- messages in

    def publish(self, message: Message, confirm: PendingConfirm | None) -> None:
        """Take a message: to the consumer whose turn it is, or to the end of the queue."""
        position = self._next_position
        self._next_position = position + 1
        consumer = None
        if not self._fresh and not self._returned and self._paged is None:
            consumer = self.consumers.take()
            if consumer is not None and consumer.no_ack:
                consumer.deliver_settled(message, False)
                return
        if not isinstance(message.body, bytes):
            message.keep()  # It stays, ready or unacknowledged.
        stored = QueueMessage(position, message)
        if message.special or self.message_ttl_ms is not None:
            if consumer is None and self.rules.discards_at_once and self.drops_at_the_tail:
                return
            self._set_expiry(stored)
        if self._journaled and (message.persistent or self._keeps_all):
            stored.key = self._key_base | position
            stored.state = PENDING
            if confirm is not None:
                stored.confirm = confirm
                confirm.remaining += 1
            self._effects.entries.append(stored)
        if consumer is None:
            self._append(stored)
            self._weight += len(message.body)
            if self._weight > self._weight_max or len(self._tail) > self._tail_max:
                self._make_room()
            elif self._paged is not None and not stored.key:
                self._spill(stored)
            if self._limited or self._expiring:
                self._trim()
        else:
            if stored.key:
                self._mark_delivered(stored.key)
            consumer.deliver(stored)

    drops_at_the_tail = True
    """Whether it has no place for what nobody takes and would expire at once, whatever is before it
    (RabbitMQ's rule for its classic queues)."""

    def _new_present(self) -> PresentHeaders | None:
        """What tells duplicates, if the queue refuses them.

        It has to know when a message is gone, though the journal need not.
        """
        depth_max = self._home.broker.limits.table_depth_max
        return PresentHeaders(depth_max) if self.rules.deduplicates else None

    def has_duplicate(self, message: Message) -> bool:
        """Whether the queue has a message that makes this one superfluous."""
        return self.present is not None and self.present.have(message)

    @property
    def can_refuse(self) -> int:
        """For how many reasons it may refuse a message: publishing has to ask it then."""
        return self.rules.refuses_publishes + self.rules.deduplicates

    def refuses(self, message: Message) -> bool:
        """Whether there is no room for it, or no need, and the queue tells publishers so."""
        return self._has_no_room_for(message) or self.has_duplicate(message)

    def _has_no_room_for(self, message: Message) -> bool:
        """As in RabbitMQ, whether a consumer waits for it makes no difference."""
        return self.rules.refuses_publishes and self._over(
            self.ready + 1, self._weight + len(message.body)
        )

    def refuses_dead_letter(self, message: Message) -> bool:
        """The same of a dead letter, which has no publisher to be told."""
        return self.refuses(message)

    def bury_refused(self, message: Message) -> None:
        """A message that was refused goes to the dead letters, if the queue's rules say so."""
        if self._has_no_room_for(message):
            is_dead_letter = self.rules.overflow == REJECT_PUBLISH_DLX
        else:
            is_dead_letter = self.compat != "3.13"
        if is_dead_letter:
            self._bury(QueueMessage(0, message), MAXLEN)

    @classmethod
    def levels_of(cls, arguments: Arguments, compat: Compat) -> int:
        """How many levels of priority such a queue has; each wants a lane of its own."""
        return 1

    @property
    def lane_ids(self) -> range:
        """Under which ids the store has what outlasts a restart."""
        return range(self.queue_id, self.queue_id + self.lanes)

    def outlasts(self, key: int) -> bool:
        """Whether the message that the store has under this key is there after a restart."""
        lane = (key >> POSITION_BITS) - self.queue_id
        return self.durable and key != 0 and 0 <= lane < self.lanes

    def restore_mark(self, queue_id: int, below: int) -> None:
        """Positions below this one were handed out before the restart: they are not used again."""
        self._marked_through = below - 1
        self._next_position = self._first_position = max(self._next_position, below)

    def restore(self, position: int, message: Message, key: int, expires_ms: int) -> None:
        """Put back, in order of position, a message that was found in the store."""
        self._next_position = self._first_position = max(self._next_position, position + 1)
        stored = QueueMessage(position, message)
        stored.key = key
        stored.state = SAFE
        stored.expires_ms = expires_ms
        stored.redelivered = self._was_delivered(key)
        if self.present is not None:
            self.present.enter(position, message)
        if self.returns is not None and not self._recall(stored):
            return
        self._weight += len(message.body)
        if expires_ms:
            self._expiring = True
            self._effects.timed_queues[self] = None
        self._append(stored)
        self._make_room_if_due()

    def restore_return(self, record: ReturnRecord) -> None:
        """The journal knew of a message that had come back; the message itself comes later."""
        if self.returns is None:
            self.returns = Returns(self, self._effects)
        self.returns.restore(record)

    # -- messages out

    def dispatch(self) -> None:
        """Hand out ready messages as long as a consumer can take them."""
        fresh = self._fresh
        returned = self._returned
        consumers = self.consumers
        while fresh or returned or (self._paged is not None and self._refill()):
            if self._expiring:
                if not self._expire():
                    break
                if not fresh and not returned:
                    continue
            consumer = consumers.take()
            if consumer is None:
                break
            stored = heappop(returned)[1] if returned else fresh.popleft()
            self._weight -= len(stored.content.body)
            self._hand_out(stored, consumer)
        if self._limited or self._expiring:
            self._trim()
        if self._paged is not None:
            self._read_ahead()

    def _hand_out(self, stored: QueueMessage, consumer: Consumer) -> None:
        """A message that was ready goes to the consumer whose turn it is."""
        if consumer.no_ack:
            content = self.presented(stored) if stored.redelivered else stored.content
            consumer.deliver_settled(content, stored.redelivered)
            if stored.key or self.present is not None:
                self._forget(stored)
        else:
            if stored.key:
                self._mark_delivered(stored.key)
            consumer.deliver(stored)

    def get(self) -> QueueMessage | None:
        """The first ready message, for basic.get; the caller settles or keeps it.

        Raises Postponed when it is not in memory, or not known since too much has expired.
        """
        self.use()
        while True:
            if self._expiring and not self._expire():
                raise Postponed(self)
            if self._head() is not None:
                break
            paged = self._paged
            if paged is None:
                return None
            if not self._refill() and self._paged is not None:
                raise Postponed(self)
        stored = self._pop_head()
        if self._paged is not None:
            self._read_ahead()
        if stored.key:
            self._mark_delivered(stored.key)
        if self._expiring:
            self._trim()  # the next one may have expired, or will
        return stored

    def reject(self, stored: QueueMessage) -> None:
        """A message that was handed out is not wanted, and is not to come back."""
        self.counts.discarded += 1
        if self.deleted:
            self.settle(stored)
        else:
            self._bury(stored, REJECTED)

    def settle(self, stored: QueueMessage) -> None:
        """A message that was handed out is done with."""
        if stored.key or self.present is not None:
            self._forget(stored)

    def take_back(self, stored: QueueMessage, how: int = LOST) -> None:
        """A message that was handed out comes back. Call `dispatch` afterwards.

        `how` is one of `returns`' words for it.
        """
        if self.deleted:
            self.settle(stored)
            return
        self.counts.requeued += 1
        stored.redelivered = True
        if not self.rules.delays_retries or not self._delay(stored, how != RETURNED):
            self._return(stored)

    def drop_excess(self) -> None:
        """What came back may be too much: as in RabbitMQ it goes before any of it is handed out."""
        if self._limited:
            self._trim()

    def _return(self, stored: QueueMessage) -> None:
        """To its place among those that are ready."""
        self._weight += len(stored.content.body)
        self._expiring = self._expiring or stored.expires_ms > 0
        heappush(self._returned, (stored.position, stored))

    def _delay(self, stored: QueueMessage, failed: bool) -> bool:
        """Whether the message has to wait for its retry, and does."""
        if self.returns is None:
            self.returns = Returns(self, self._effects)
        self.returns.count(stored, failed)
        delayed = self.returns.delay(stored, failed)
        self.returns.record(stored)
        return delayed

    def presented(self, stored: QueueMessage) -> Message:
        """What a consumer is sent of a message that came back."""
        return stored.content

    def purge(self) -> int:
        """Drop what is ready, or waits for its retry; the number of messages dropped."""
        count = self.ready
        dropped = [stored for _, stored in self._returned]
        if self.returns is not None:
            delayed = self.returns.take_all()
            count += len(delayed)
            dropped += delayed
        dropped += self._fresh
        if self._paged is not None:
            dropped += self._tail
            if not self.deleted:
                self._drop_paged(self._paged)
            self._tail.clear()
        self._returned.clear()
        self._fresh.clear()
        self._weight = 0
        for stored in dropped:
            if stored.key or self.present is not None:
                self._forget(stored)
        if self._paged is not None and not self.deleted:
            self._end_paging()
        return count

    def drop(self) -> int:
        """The queue is deleted with its messages; the number of messages that were ready.

        Unacknowledged ones are forgotten as they are settled.
        """
        self.deleted = True
        count = self.purge()
        if self.returns is not None:
            self.returns.forget_all()
        if self._journaled:
            for queue_id in self.lane_ids:
                self._effects.entries.append(DropQueue(queue_id, self.is_long))
        for passing_id in self._passing_ids():
            self._effects.entries.append(DropQueue(passing_id, self.is_long))
            if not self.is_long:
                self._home.broker.passing_ids.release(passing_id)
        if self._waiting is not None:
            self._waiting.wake()
        return count

    # -- policies

    def apply_policies(self) -> None:
        """Policies came, changed or went: the rules they leave hold at once.

        What is here already keeps the time to live it came with (RabbitMQ's rule for its classic
        queues). What has no room any more is dropped from the head, unless this queue refuses
        publishes rather than drop: then the limit holds for what is still to come.
        """
        before, could_refuse = self.rules, self.can_refuse
        self.rules = rules = read_rules(
            self.arguments, self.effective_policy_definition, self.POLICY_FIRST
        )
        if rules == before:
            return
        self._home.refusing_queues += self.can_refuse - could_refuse
        if rules.deduplicates != before.deduplicates:
            self.present = self._new_present()
        self.message_ttl_ms = rules.message_ttl_ms
        self._limited = rules.limits_length and not rules.refuses_publishes
        self.use()
        self._effects.timed_queues[self] = None
        if not rules.refuses_publishes:
            self._trim()

    # -- consumers

    def add_consumer(self, consumer: Consumer) -> None:
        """A new consumer. Call `dispatch` once its consume-ok is out."""
        self.consumers.add(consumer)
        self.had_consumer = True
        self.use()

    def remove_consumer(self, consumer: Consumer) -> None:
        """The consumer is gone; what it has not settled stays with its channel."""
        self.consumers.remove(consumer)
        self.use()
        if self.single_active:
            self.dispatch()

    def federate(self, on: bool) -> None:
        """Links want to know when messages are wanted here (`wants_more`), or no longer."""
        self.consumers.touched = self._touch if on else None
        if on:
            self._touch()

    def _touch(self) -> None:
        self._effects.demands[self] = None

    @property
    def wants_more(self) -> bool:
        """Whether consumers here can take messages that there are none of: those of federation
        links, which have a priority below 0, do not count."""
        return not self.deleted and self.consumers.serves(0) and not self.ready

    def unblock(self, consumer: Consumer) -> None:
        """The consumer may be able to take messages again."""
        if consumer.blocked and consumer.can_take():
            self.consumers.unblock(consumer)
            if self._fresh or self._returned or self._paged is not None:
                self.dispatch()

    def unblock_together(self, consumers: list[Consumer]) -> None:
        """As `unblock`, for some of one channel: they are served in turn, not one after the other.

        As with RabbitMQ (rabbit_queue_consumers, unblock).
        """
        able = [each for each in consumers if each.blocked and each.can_take()]
        for consumer in able:
            self.consumers.unblock(consumer)
        if able and (self._fresh or self._returned or self._paged is not None):
            self.dispatch()

    # -- time, as `amqpd.timers.Timed`

    def use(self) -> None:
        """Somebody is interested in the queue: its life begins anew (`x-expires`)."""
        if self.rules.expires_ms is not None:
            self._used_at = self._effects.now
            self._effects.timed_queues[self] = None

    def deadline(self) -> float | None:
        """When the head expires, or the queue itself; in seconds of the runtime's clock."""
        if self.deleted:
            return None
        if self._resume_at:
            return self._resume_at
        ends = self._end_of_wait(self._end_of_life())
        head = self._head() if self._expiring else None
        if head is None or not head.expires_ms:
            return ends
        expires = head.expires_ms / 1000 - self._effects.epoch_s
        return expires if ends is None else min(expires, ends)

    def _end_of_wait(self, ends: float | None) -> float | None:
        """`ends`, or when the first message is to be delivered again, whichever comes first."""
        retry = self.returns.deadline() if self.returns is not None else None
        if retry is None or ends is None:
            return retry if ends is None else ends
        return min(retry, ends)

    def handle_timer(self, now: float) -> None:
        """Drop what has expired, or the queue if it has."""
        if self.deleted:
            return
        ends = self._end_of_life()
        if ends is not None and now >= ends:
            self._home.delete_queue(self)
        else:
            self._go_on_expiring()
            if self.returns is not None:
                for stored in self.returns.due():
                    self._return(stored)
                self.dispatch()

    def _end_of_life(self) -> float | None:
        if self.rules.expires_ms is None or len(self.consumers):
            return None
        return self._used_at + self.rules.expires_ms / 1000

    def _set_expiry(self, stored: QueueMessage) -> None:
        """The smaller of the message's own time to live and the queue's.

        Called for each message that stays and has headers, before it has a place in the queue.
        """
        if self.present is not None:
            self.present.enter(stored.position, stored.content)
        ttl_ms = self.message_ttl_ms
        if stored.content.special:
            own = read_property(stored.content.properties, EXPIRATION)
            if own is not None:
                # Checked when it was published.
                ttl_ms = int(own) if ttl_ms is None else min(int(own), ttl_ms)
        if ttl_ms is not None:
            stored.expires_ms = self._effects.epoch_ms() + ttl_ms
            self._expiring = True

    def _expire(self) -> bool:
        """Drop the head as long as its time has come. False if there is more of that than is done
        at once: until the timer goes on with it, nobody may have the head."""
        if self._resume_at > self._effects.now:
            return False
        now_ms = self._effects.epoch_ms()
        for _ in range(EXPIRED_AT_ONCE):
            head = self._head()
            if head is not None:
                if not 0 < head.expires_ms <= now_ms:
                    return True
                self._bury_head(EXPIRED)
            elif self._paged is None:
                self._expiring = False
                return True
            elif not self._refill():
                return True
        self._resume_at = self._effects.now + BREATH_S
        self._effects.timed_queues[self] = None
        return False

    def _go_on_expiring(self) -> None:
        """The timer: drop some more, and after the last of it hand out what was behind it."""
        if not self._expire():
            return
        if self._resume_at:
            self._resume_at = 0.0
            self.dispatch()
            if self._waiting is not None:
                self._waiting.wake()

    def _bury_head(self, reason: str) -> None:
        self._bury(self._pop_head(), reason)

    def _bury(self, stored: QueueMessage, reason: str) -> None:
        """A message dies here."""
        if self.rules.dead_letter_exchange is None:
            self.bury(stored, reason)
        else:
            self._home.broker.dying.add(self, stored, reason)

    def bury(self, stored: QueueMessage, reason: str) -> None:
        """A message that has died here is done with: its copy goes where dead letters go. One that
        was refused never had a position here."""
        dead_letter(self._home, self, stored, reason)
        self.settle(stored)

    # -- length

    def _over(self, ready: int, weight: int) -> bool:
        """Whether so many ready messages are too many, or so many octets."""
        rules = self.rules
        if rules.max_length is not None and ready > rules.max_length:
            return True
        return rules.max_length_bytes is not None and weight > rules.max_length_bytes

    def _trim(self) -> None:
        """After the queue grew: drop from its head what has expired or has no room, and set a timer
        for what is to expire."""
        if self._expiring:
            self._expire()
            self._effects.timed_queues[self] = None
        if self._limited:
            while self._over(self.ready, self._weight):
                if self._head() is None and not (self._paged is not None and self._refill()):
                    break  # it is on disk, and goes when it is read
                self._bury_head(MAXLEN)
            if self._expiring:
                self._expire()
            elif self._paged is not None and self._head() is None:
                self._refill()  # when that is read, it is known whether it expires

    # -- the journal

    def journal_mark(self) -> None:
        """Tell the journal how far messages have been handed out."""
        if not self.deleted:
            self._effects.entries.append(Delivered(self.queue_id, self._marked_through + 1))

    def _mark_delivered(self, key: int) -> None:
        position = key & POSITION_MAX
        if position > self._marked_through and self._journaled:
            self._marked_through = position
            self._effects.marked_queues[self] = None

    def _forget(self, stored: QueueMessage) -> None:
        """A message is gone; a journaled one need not survive any more."""
        if self.present is not None:
            self.present.leave(stored.position)
            if not stored.key:
                return
        if stored.returned is not None and self.returns is not None:
            self.returns.forget(stored)
        if stored.state == PENDING:
            stored.state = ELIDED
            if stored.confirm is not None:
                stored.confirm.safe()
        elif not self.deleted:
            message = stored.content
            self._effects.settle(stored.key, len(message.body), message.message_id)
