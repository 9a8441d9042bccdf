"""What the broker asks the journal to remember: values, in one order, definitions and messages.

The broker appends entries; it never learns which engine keeps them. An entry is *safe* once the
commit that holds it has reached the disk. Confirms, tx.commit-ok and declare-ok of durable things
wait for that, through `Enqueue.state` and `Barrier`.

An `Enqueue` goes through these states, and only in this order:

    PENDING ──take()──> TAKEN ──commit──> SAFE
       └────settle()──> ELIDED            settled before it was written: never written at all

Storage sees ids and bytes. `Enqueue` and `Content` are what it needs to see of a queue's message
and of a published message; the broker's own classes extend them.
"""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, TypeVar

PENDING: Final = 0
TAKEN: Final = 1
ELIDED: Final = 2
SAFE: Final = 3

POSITION_BITS: Final = 40
"""A stored message's key is `queue_id << 40 | position`: rows of one queue lie together, in order.

40 bits of position last for 127 days of 100,000 messages a second without the queue ever being
empty (an empty queue may begin again at 1); 23 bits of queue id for 8 million durable queues, and
ids of deleted queues are used again."""

POSITION_MAX: Final = (1 << POSITION_BITS) - 1
QUEUE_ID_MAX: Final = (1 << (63 - POSITION_BITS)) - 1

PASSING_QUEUE_ID_MIN: Final = 1 << 22
"""From here on queue ids are for messages that are on disk only to be out of memory: transient
ones. What lies under such an id is of no use to the next owner of the store."""


LARGE_BYTES: Final = 1024 * 1024
"""Messages with bodies of this size are written and read by themselves (large_records)."""


class Content:
    """The bytes of a published message, exactly as they came in.

    A class and no protocol: compiled, the journal would look its attributes up by name, a dozen for
    each message. No `__init__`: who makes one fills the slots.
    """

    __slots__ = ("body", "envelope", "message_id", "properties", "stored")

    envelope: bytes
    """Exchange and routing key, each as an AMQP short string, and what the broker notes there."""
    properties: bytes
    """Property flags and property list of the content header."""
    body: bytes | memoryview
    """A view is lent by the chunk that it came in, which is in memory for as long: see `keep`."""
    message_id: int
    """0 while the message lives in one queue only (it is then stored inside that queue's row), and
    a positive id when several rows share it."""
    stored: bool
    """Its shared row was handed to the engine."""

    def keep(self) -> bytes:
        """The body, from now on the message's own: for who has it when the turn is over."""
        self.body = body = bytes(self.body)
        return body


ContentT_co = TypeVar("ContentT_co", bound=Content, covariant=True)


class Enqueue(Generic[ContentT_co]):
    """A persistent message took a place in a durable queue."""

    __slots__ = ("content", "expires_ms", "key", "state")

    def __init__(self, key: int, content: ContentT_co) -> None:
        self.key = key
        self.content = content
        self.state = PENDING
        self.expires_ms = 0
        """When it is to expire, in milliseconds since 1970; 0 for never.

        It is kept with the bytes of the message: one that expires is not shared between queues.
        """


class Settle:
    """The message stored under `key` is gone: acknowledged, dropped or purged.

    Or all of those stored under `key` to `last`: consumers settle neighbours one after the other,
    and each would be an entry to make, to keep and to sum up. Those are messages that no other
    queue has, and none is large: they have less than LARGE_BYTES together.
    """

    __slots__ = ("body_bytes", "key", "last", "message_id")

    def __init__(self, key: int, body_bytes: int, message_id: int = 0) -> None:
        self.key = key
        self.last = key
        self.body_bytes = body_bytes
        """What bodies weighed: the store keeps the sum for each queue."""
        self.message_id = message_id
        """The shared message its row refers to, which goes with the last such row; 0 if none."""

    @property
    def messages(self) -> int:
        """How many they are."""
        return self.last - self.key + 1

    def extend(self, key: int, body_bytes: int) -> bool:
        """Whether this is of one message more, which no other queue has: it has to be the next.

        Only until the journal has it. (There is no position 0: the next is of the same queue.)
        """
        together = self.body_bytes + body_bytes
        if key != self.last + 1 or self.message_id or together >= LARGE_BYTES:
            return False
        self.last = key
        self.body_bytes = together
        return True


class DropRange(NamedTuple):
    """The messages stored under `first` to `last` are gone: a purge of what is not in memory.

    They are never read again. Their rows are deleted bit by bit, when there is time, and that may
    be after the store was opened anew: so no key of the queue up to its last one must be used again
    as long as the store names the queue among those with rows to delete (others may lie in one row
    with them), and the DropQueue of such a queue has to say that it `is_long`.
    """

    first: int
    last: int
    messages: int
    body_bytes: int


class Delay(Generic[ContentT_co]):
    """A persistent message waits at a durable exchange until its time has come.

    It goes through the states of an `Enqueue`. `sequence` names it in the store and is never used
    twice while it is there; of two messages due at the same time, the lower one came first.
    """

    __slots__ = ("content", "due_ms", "exchange_id", "sequence", "state")

    def __init__(self, exchange_id: int, due_ms: int, sequence: int, content: ContentT_co) -> None:
        self.exchange_id = exchange_id
        self.due_ms = due_ms
        """When it comes due, in milliseconds since 1970."""
        self.sequence = sequence
        self.content = content
        self.state = PENDING


class Release(NamedTuple):
    """The waiting message is gone: it came due."""

    exchange_id: int
    sequence: int


class DropDelays(NamedTuple):
    """The exchange is gone, with all messages that waited there. Its id is not used again."""

    exchange_id: int


class Delivered(NamedTuple):
    """Every message of the queue at a position below `below` was handed out at least once.

    What is still there after a crash at such a position comes back with `redelivered` set.
    """

    queue_id: int
    below: int


class DropQueue(NamedTuple):
    """The queue is gone with all its messages; its id may be used again by a later entry.

    Unless `is_long`: then the rows are deleted bit by bit, when there is time, and the id must not
    be used again before the store was opened anew.
    """

    queue_id: int
    is_long: bool = False


class PutDefinition(NamedTuple):
    """A durable thing other than a message: created, or changed (`kind` and `key` name it)."""

    kind: str
    key: str
    value: bytes


class DropDefinition(NamedTuple):
    """A durable thing is gone."""

    kind: str
    key: str


class DropDefinitions(NamedTuple):
    """All durable things of a kind whose keys begin with `prefix` are gone.

    The prefix ends in an ASCII character.
    """

    kind: str
    prefix: str


class Barrier:
    """Safe when everything appended before it is safe.

    The broker keeps the object and recognises it when the runtime says that it is safe.
    """

    __slots__ = ()


Entry = (
    Enqueue[Content]
    | Settle
    | DropRange
    | Delivered
    | DropQueue
    | Delay[Content]
    | Release
    | DropDelays
    | PutDefinition
    | DropDefinition
    | DropDefinitions
    | Barrier
)


class Backlog(NamedTuple):
    """What the store knows of a queue's messages without reading them."""

    messages: int
    body_bytes: int
    last: int
    """No message has a position above this one."""


class StoredMessage:
    """A message as it is read back: its place in its queue, and its bytes.

    No tuple: compiled, an object is made in 30 ns, a named tuple in 220.
    """

    __slots__ = ("body", "envelope", "expires_ms", "key", "message_id", "properties")

    def __init__(
        self,
        key: int,
        message_id: int,
        envelope: bytes,
        properties: bytes,
        body: bytes,
        expires_ms: int = 0,
    ) -> None:
        self.key = key
        self.message_id = message_id
        self.envelope = envelope
        self.properties = properties
        self.body = body
        self.expires_ms = expires_ms


class StoredDelay(NamedTuple):
    """A waiting message as it is read back: its place, and its bytes."""

    due_ms: int
    sequence: int
    envelope: bytes
    properties: bytes
    body: bytes


class StoredDelays(NamedTuple):
    """What the store knows of waiting messages without reading them."""

    messages: dict[int, int]
    """For each exchange id, how many they are."""
    exchange_id_max: int
    """The highest id that has rows, be it only of an exchange that is gone."""
    sequence_max: int


def storage_key(queue_id: int, position: int) -> int:
    """The key of the row that holds the message at `position` of the queue."""
    return queue_id << POSITION_BITS | position
