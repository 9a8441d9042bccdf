"""What the model is made of: messages, queues, exchanges, consumers, channels.

Each knows its own rules; what has to follow from what is the model's affair.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from amqpd.config import Compat
from tests.simulation.actions import EXCHANGES, QUEUES, Consume, Publish, Settle
from tests.simulation.letters import Letter, ReturnCount

Return = Literal["returned", "rejected", "lost"]
"""How a message comes back: by basic.nack or basic.recover, by basic.reject, or because its channel
or connection ended."""
DELIVERY_LIMIT_DEFAULT: Final = 20
"""Of quorum queues from 4.0 on."""
PRIORITY_DEFAULT: Final = 4
PRIORITY_MAX: Final = 31
HIGH: Final = 5
"""From here on a message of a quorum queue goes ahead of others, before 4.3."""


class Violation(AssertionError):
    """The broker broke a promise."""


def require(condition: bool, text: str, *about: object) -> None:
    """Raise Violation unless it is so."""
    if not condition:
        raise Violation(text + "".join(f", {item!r}" for item in about))


class Copy:
    """A message in one queue."""

    __slots__ = (
        "buried_as",
        "due_ms",
        "expires_ms",
        "handed_out",
        "letter",
        "level",
        "maybe",
        "order",
        "owed",
        "promised",
        "published",
        "queue",
        "rank",
        "recorded",
        "returned",
        "successors",
        "unread",
    )

    def __init__(self, letter: Letter, queue: ModelQueue, order: int, expires_ms: int) -> None:
        self.letter = letter
        self.published = letter.published
        self.queue = queue
        self.order = order
        self.level = -queue.priority_of(self.published.priority)
        """The lowest is the best."""
        self.rank = (self.level, order)
        """What has the lowest one is handed out first."""
        self.expires_ms = expires_ms
        """0 for never."""
        self.handed_out = False
        self.maybe = False
        """It may have been handed out in a turn that also ended the channel that got it."""
        self.promised = False
        """To be in this queue."""
        self.owed = False
        """Promised when it was in another queue, where it died."""
        self.successors: tuple[Copy, ...] = ()
        """What its death made of it."""
        self.returned: ReturnCount | None = ReturnCount()
        """How often it came back to a queue that counts it; None if it will be seen."""
        self.recorded = ReturnCount()
        """What of that the store knows."""
        self.due_ms = 0
        """Until when it waits, or waited last, since it came back; 0 if it did not."""
        self.unread = False
        """It waited when the broker was started, and may be on disk only."""
        self.buried_as = ""
        """Why it is dead, and still there for want of another place."""

    @property
    def is_kept(self) -> bool:
        """Whether a durable queue has it on disk."""
        return self.published.persistent or self.queue.is_quorum

    @property
    def shown(self) -> tuple[int, int] | None:
        """What `x-delivery-count` and `x-acquired-count` say of it; 0 if one is not there."""
        if not self.queue.is_quorum:
            return (0, 0)
        if self.returned is None:
            return None
        acquired, failed = self.returned
        return (failed, acquired) if self.queue.compat == "4.3" else (acquired, 0)

    def __lt__(self, other: Copy) -> bool:
        return self.rank < other.rank

    def __repr__(self) -> str:
        return f"message {self.published.uid} of {self.queue.name}"

    def promise(self) -> None:
        """It was confirmed or committed."""
        self.promised = True
        for successor in self.successors:
            successor.owe()

    def owe(self) -> None:
        """A confirm or commit of what it was before."""
        if not self.is_kept:
            return  # transient, and no longer where all is kept
        self.owed = True
        for successor in self.successors:
            successor.owe()


class WaitingCopy:
    """A message at a delayed exchange."""

    __slots__ = ("due_ms", "order", "promised", "published", "successors")

    def __init__(self, published: Publish, order: int, due_ms: int) -> None:
        self.published = published
        self.order = order
        self.due_ms = due_ms
        self.promised = False
        """To wait, or to be in its queues."""
        self.successors: tuple[Copy, ...] = ()
        """What became of it."""

    def __lt__(self, other: WaitingCopy) -> bool:
        return (self.due_ms, self.order) < (other.due_ms, other.order)

    def __repr__(self) -> str:
        return f"message {self.published.uid}, due at {self.due_ms}"

    def promise(self) -> None:
        """It was confirmed."""
        self.promised = True
        for successor in self.successors:
            successor.owe()


class WaitingRoom:
    """Where the messages of a delayed exchange are until their time has come."""

    def __init__(self) -> None:
        self.live: dict[int, WaitingCopy] = {}
        self._next_order = 1

    def take(self, published: Publish, due_ms: int) -> WaitingCopy:
        """A message has to wait."""
        copy = self.live[published.uid] = WaitingCopy(published, self._next_order, due_ms)
        self._next_order += 1
        return copy


class ModelQueue:
    """A queue."""

    def __init__(
        self, name: str, owner: ModelConnection | None, now: float, compat: Compat
    ) -> None:
        self.spec = spec = QUEUES[name]
        self.name = name
        self.compat = compat
        self.used_at = now
        self.refuses = spec.refuses
        self.max_length = spec.number("x-max-length")
        self.max_length_bytes = spec.number("x-max-length-bytes")
        self.max_priority = spec.number("x-max-priority")
        self.ttl_ms = spec.number("x-message-ttl")
        self.lifetime_ms = spec.number("x-expires")
        self.durable = spec.durable and not spec.exclusive
        self.auto_delete = spec.auto_delete
        self.owner = owner
        self.live: dict[int, Copy] = {}
        """Whatever is not settled, by number of the message."""
        self.ready: list[Copy] = []
        self.consumers: list[ModelConsumer] = []
        self.active: ModelConsumer | None = None
        """The one that is served, if only one is."""
        self.has_active = bool(spec.arguments.get("x-single-active-consumer"))
        self.had_consumer = False
        self.unacked = 0
        self.deleted = False
        self.promised = False
        self.next_order = 1
        self.mark = 0
        """The highest order that was handed out."""
        self.deaths = 0
        self.untrimmed = False
        """What was with consumers at a crash is ready again, and nothing came in since."""
        self.entered = False
        """Something became ready in this turn."""
        self.is_quorum = spec.arguments.get("x-queue-type") == "quorum"
        limit = spec.number("x-delivery-limit")
        if limit is None and compat != "3.13":
            limit = DELIVERY_LIMIT_DEFAULT
        self.delivery_limit = None if limit is None or limit < 0 else limit
        self.retry_type = spec.arguments.get("x-delayed-retry-type", "disabled")
        self.retry_min_ms = spec.number("x-delayed-retry-min") or 0
        self.retry_max_ms = spec.number("x-delayed-retry-max")
        self.retrying: dict[int, Copy] = {}
        """What came back, and waits."""
        self.left: set[str | None] = set()
        """Headers of messages that left it in this turn, if it is one without duplicates."""
        self.deduplicates = bool(spec.arguments.get("x-message-deduplication"))
        self.buries_surely = spec.arguments.get("x-dead-letter-strategy") == "at-least-once"
        self.unburied: dict[int, Copy] = {}
        """Dead, and there is no place for their letters."""
        self._returns = 0
        self.refused: dict[int, Letter] = {}
        """Publishes that are refused in this turn, where they become dead letters."""

    def add_consumer(self, consumer: ModelConsumer) -> None:
        """A new one."""
        self.consumers.append(consumer)
        self.had_consumer = True
        if self.has_active and self.active is None:
            self.active = consumer

    def remove_consumer(self, consumer: ModelConsumer) -> None:
        """It is gone; of those that waited the first of the highest priority follows."""
        self.consumers.remove(consumer)
        if consumer is self.active:
            self.active = max(self.consumers, key=lambda each: each.priority, default=None)

    def serves(self, consumer: ModelConsumer) -> bool:
        """Whether it may be given messages at all."""
        return not self.has_active or consumer is self.active

    def govern(self, policy: Mapping[str, int] | None) -> None:
        """A policy is in force, or none; its queues have no arguments of their own."""
        rules = policy or {}
        self.max_length = rules.get("max-length")
        self.max_length_bytes = rules.get("max-length-bytes")
        self.ttl_ms = rules.get("message-ttl")

    @property
    def is_ruled(self) -> bool:
        """Whether its messages may die of more than their own time."""
        rules = (self.max_length, self.max_length_bytes, self.ttl_ms, self.lifetime_ms)
        return (
            self.refuses
            or self.deduplicates
            or self.spec.dead_letter_exchange is not None
            or any(rule is not None for rule in rules)
        )

    @property
    def is_prioritized(self) -> bool:
        """Whether a message may go ahead of others that came before it."""
        return self.max_priority is not None or (self.is_quorum and self.compat != "3.13")

    def priority_of(self, priority: int | None) -> int:
        """What counts of a message's priority."""
        if self.max_priority is not None:
            return min(priority or 0, self.max_priority)
        if not self.is_quorum or self.compat == "3.13":
            return 0
        if priority is None:
            priority = PRIORITY_DEFAULT
        return min(priority, PRIORITY_MAX) if self.compat == "4.3" else int(priority >= HIGH)

    @property
    def is_distinct(self) -> bool:
        """Whether no two of its messages have the same header."""
        headers = [copy.published.once for copy in self.live.values() if copy.published.once]
        return len(headers) == len(set(headers))

    def has_duplicate(self, published: Publish) -> bool:
        """Whether it has a message that makes this one superfluous."""
        return (
            self.deduplicates
            and published.once is not None
            and any(copy.published.once == published.once for copy in self.live.values())
        )

    def had_duplicate(self, published: Publish) -> bool:
        """The same, at some moment of this turn."""
        return self.has_duplicate(published) or published.once in self.left

    def buries_refused(self, *, duplicate: bool) -> bool:
        """Whether what it refuses becomes a dead letter."""
        if duplicate:
            return self.compat != "3.13"
        return self.spec.arguments.get("x-overflow") == "reject-publish-dlx"

    def is_full(self) -> bool:
        """Whether it refuses one more."""
        most = self.max_length
        return self.refuses and most is not None and len(self.ready) + 1 > most

    def holds_too_much(self) -> bool:
        """Whether its oldest message has to go."""
        if self.refuses:
            return False
        most = self.max_length
        if most is not None and len(self.ready) > most:
            return True
        most = self.max_length_bytes
        return most is not None and sum(len(c.published.body) for c in self.ready) > most

    def expiry_of(self, letter: Letter, now_ms: int) -> int:
        """When a message that comes now expires; 0 for never."""
        times = (letter.expiration_ms, self.ttl_ms)
        return min((now_ms + time for time in times if time is not None), default=0)

    def take(self, letter: Letter, expires_ms: int, level: int | None = None) -> Copy:
        """A message comes in; to this level if it was written there anew."""
        copy = Copy(letter, self, self.next_order, expires_ms)
        if level is not None:
            copy.level = level
            copy.rank = (level, copy.order)
        uid = letter.published.uid
        require(uid not in self.live, "a message is there twice", self.name, uid)
        self.next_order += 1
        self.live[uid] = copy
        self.entered = True
        if self.ready and copy < self.ready[-1]:
            insort(self.ready, copy)
        else:
            self.ready.append(copy)
        return copy

    def settle(self, copy: Copy) -> None:
        """A message that was handed out is done with."""
        if self.live.pop(copy.published.uid, None) is not None and self.deduplicates:
            self.left.add(copy.published.once)

    @property
    def counts_returns(self) -> bool:
        """Whether it has to know how often a message came back."""
        return self.is_quorum or self.retry_type != "disabled"

    def take_back(self, copy: Copy, how: Return, now_ms: int) -> None:
        """A message that was handed out comes back."""
        if self.deleted:
            return
        wait_ms = self._retry_ms(copy, how)
        copy.due_ms = now_ms + wait_ms if wait_ms else 0
        if wait_ms:
            self.retrying[copy.published.uid] = copy
        elif self.is_quorum and self.delivery_limit is None and how != "lost":
            self._take_anew(copy)
            insort(self.ready, copy)
        else:
            self.make_ready(copy)
        self.entered = True

    def make_ready(self, copy: Copy) -> None:
        """A message that came back may be handed out again."""
        if self.is_quorum:
            # Ahead of all others, in the order in which they came back.
            self._returns += 1
            copy.rank = (-(1 << 40), self._returns)
        insort(self.ready, copy)

    def _retry_ms(self, copy: Copy, how: Return) -> int:
        """How long it waits; 0 for not at all."""
        failed = how != "returned"
        if self.retry_type in ("disabled", "returned" if failed else "failed"):
            return 0
        assert copy.returned is not None
        wait_ms = self.retry_min_ms * max(1, copy.returned.failed)
        return wait_ms if self.retry_max_ms is None else min(wait_ms, self.retry_max_ms)

    def _take_anew(self, copy: Copy) -> None:
        """What may come back for ever goes to the end, as a message of that moment."""
        copy.order = self.next_order
        self.next_order += 1
        copy.level = -self.priority_of(PRIORITY_DEFAULT)
        copy.rank = (copy.level, copy.order)
        uid = copy.published.uid
        del self.live[uid]
        self.live[uid] = copy

    def is_over_limit(self, copy: Copy, how: Return) -> bool:
        """One more message comes back: whether that is once too often."""
        if not self.counts_returns or self.deleted:
            return False
        assert copy.returned is not None, "it was seen when it was handed out"
        copy.returned = copy.recorded = copy.returned.again(failed=how != "returned")
        return self.allows_no_more(copy.returned)

    def allows_no_more(self, returned: ReturnCount) -> bool:
        """Whether a message that came back so often is dead."""
        if not self.is_quorum or self.delivery_limit is None:
            return False
        count = returned.failed if self.compat == "4.3" else returned.acquired
        return count > self.delivery_limit


class ModelExchange:
    """An exchange, and its bindings by queue name and key."""

    def __init__(self, name: str) -> None:
        spec = EXCHANGES[name]
        self.name = name
        self.type = spec.type
        self.durable = spec.durable
        self.auto_delete = spec.auto_delete
        self.bindings: dict[tuple[str, str], bool] = {}
        """Whether the binding was promised."""
        self.promised = False
        self.room = WaitingRoom() if spec.delays else None
        self.cache_size = spec.cache_size
        self.seen: list[str] = []
        """Headers of messages that passed, the latest last."""

    def matches(self, binding_key: str, routing_key: str) -> bool:
        """The rule of its type."""
        if self.type in ("fanout", "x-message-deduplication"):
            return True
        if self.type in ("direct", "x-delayed-message"):
            return binding_key == routing_key
        return topic_matches(binding_key.split("."), routing_key.split("."))


def topic_matches(pattern: list[str], words: list[str]) -> bool:
    """`*` is one word, `#` any number."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(topic_matches(pattern[1:], words[i:]) for i in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and topic_matches(pattern[1:], words[1:])


class ModelConsumer:
    """A basic.consume."""

    def __init__(self, said: Consume, queue: ModelQueue, channel: ModelChannel) -> None:
        self.tag = said.tag
        self.queue = queue
        self.channel = channel
        self.no_ack = said.no_ack
        self.priority = said.priority
        self.prefetch = channel.default_prefetch
        self.unacked = 0
        self.free = False
        """It could take a message when the turn began, and has had no more room since."""

    def has_room(self) -> bool:
        """Whether prefetch lets it take one more."""
        if self.no_ack:
            return True
        if self.prefetch and self.unacked >= self.prefetch:
            return False
        channel = self.channel
        return not channel.global_prefetch or channel.consumer_unacked < channel.global_prefetch


class Out(NamedTuple):
    """A delivery that is not settled."""

    copy: Copy
    consumer: ModelConsumer | None


class Expected(NamedTuple):
    """What a channel has to say next, apart from deliveries, confirms and cancels."""

    kind: type[Any]
    check: Callable[[Any], None]


class ModelChannel:
    """A channel."""

    def __init__(self, connection: ModelConnection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.ledger: dict[int, Out] = {}
        self.consumers: dict[str, ModelConsumer] = {}
        self.consumer_unacked = 0
        self.default_prefetch = 0
        self.global_prefetch = 0
        self.last_tag = 0
        self.early: dict[int, Copy] = {}
        """Handed out, and not said yet: the channel waits for the disk."""
        self.early_flags: dict[int, tuple[bool, bool, tuple[int, int] | None]] = {}
        """Of these, from when they were handed out: whether that was not the first time, whether
        nobody knows, and how often they had come back."""
        self.confirming = False
        self.publish_number = 0
        self.unconfirmed: dict[int, Sequence[Copy | WaitingCopy]] = {}
        self.refused: set[int] = set()
        """Those of them that a queue refused."""
        self.transactional = False
        self.tx_messages: list[tuple[Publish, list[str]]] = []
        """Publishes, and the names of the queues they were routed to when they came."""
        self.tx_settlements: list[tuple[Settle, dict[int, Out]]] = []
        self.expected: deque[Expected] = deque()
        self.cancels: set[str] = set()
        self.ended = False
        self.closing = False
        """The broker closed it; close-ok has not come yet."""

    def expect(self, kind: type[Any], check: Callable[[Any], None] = lambda said: None) -> None:
        """This is to be said next."""
        self.expected.append(Expected(kind, check))


class ModelConnection:
    """A connection."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.channels: dict[int, ModelChannel] = {}
        self.ended = False
        self.close_ok_due = False
        self.blocked = False
        """It published during an alarm: nothing is read from it until all alarms are clear."""
        self.told: list[type[Any]] = []
        """What it is to be told of that in this turn."""


def is_maybe_marked(copy: Copy) -> bool:
    """Whether it may come back as redelivered.

    One that is dead and stayed does, since what a queue keeps is how far it got.
    """
    waited = bool(copy.buried_as) and copy.order <= copy.queue.mark
    return copy.maybe or (waited and not copy.handed_out)
