"""What the broker asks the journal to remember: values, in one order, definitions and messages.

The broker appends entries; it never learns which engine keeps them. An entry is *safe* once the
commit that holds it has reached the disk. Confirms, tx.commit-ok and declare-ok of durable things
wait for that, through `Enqueue.state` and `Barrier`.

An `Enqueue` goes through these states, and only in this order:

    PENDING ──take()──> TAKEN ──commit──> (safe)
       └────settle()──> ELIDED            settled before it was written: never written at all

Storage sees ids and bytes. `Enqueue` and `Content` are what it needs to see of a queue's message
and of a published message; the broker's own classes extend them.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

PENDING: Final = 0
TAKEN: Final = 1
ELIDED: Final = 2

POSITION_BITS: Final = 40
"""A stored message's key is `queue_id << 40 | position`: rows of one queue lie together, in order.

40 bits of position last for 127 days of 100,000 messages a second without the queue ever being
empty (an empty queue may begin again at 1); 23 bits of queue id for 8 million durable queues, and
ids of deleted queues are used again."""

POSITION_MAX: Final = (1 << POSITION_BITS) - 1
QUEUE_ID_MAX: Final = (1 << (63 - POSITION_BITS)) - 1


class Content(Protocol):
    """The bytes of a published message, exactly as they came in.

    `message_id` is 0 while the message lives in one queue only (it is then stored inside that
    queue's row) and a positive id when several rows share it. `references` counts the rows that
    still need it; `stored` tells whether its shared row was handed to the engine.
    """

    message_id: int
    references: int
    stored: bool

    @property
    def envelope(self) -> bytes:
        """Exchange and routing key, each as an AMQP short string."""
        ...

    @property
    def properties(self) -> bytes:
        """Property flags and property list of the content header."""
        ...

    @property
    def body(self) -> bytes:
        """The whole body."""
        ...


class Enqueue:
    """A persistent message took a place in a durable queue."""

    __slots__ = ("content", "expires_ms", "key", "state")

    def __init__(self, key: int, content: Content) -> None:
        self.key = key
        self.content = content
        self.state = PENDING
        self.expires_ms = 0
        """When it is to expire, in milliseconds since 1970; 0 for never.

        It is kept with the bytes of the message: one that expires is not shared between queues.
        """


class Settle(NamedTuple):
    """The message stored under `key` is gone: acknowledged, dropped or purged."""

    key: int


class DropMessage(NamedTuple):
    """No row refers to the shared message any more."""

    message_id: int


class Delivered(NamedTuple):
    """Every message of the queue at a position below `below` was handed out at least once.

    What is still there after a crash at such a position comes back with `redelivered` set.
    """

    queue_id: int
    below: int


class DropQueue(NamedTuple):
    """The queue is gone with all its messages; its id may be used again by a later entry."""

    queue_id: int


class PutDefinition(NamedTuple):
    """A durable thing other than a message: created, or changed (`kind` and `key` name it)."""

    kind: str
    key: str
    value: bytes


class DropDefinition(NamedTuple):
    """A durable thing is gone."""

    kind: str
    key: str


class Barrier:
    """Safe when everything appended before it is safe.

    The broker keeps the object and recognises it when the runtime says that it is safe.
    """

    __slots__ = ()


Entry = (
    Enqueue
    | Settle
    | DropMessage
    | Delivered
    | DropQueue
    | PutDefinition
    | DropDefinition
    | Barrier
)


class StoredMessage(NamedTuple):
    """A message as recovery finds it: its place in its queue, and its bytes."""

    key: int
    message_id: int
    envelope: bytes
    properties: bytes
    body: bytes
    expires_ms: int = 0


def storage_key(queue_id: int, position: int) -> int:
    """The key of the row that holds the message at `position` of the queue."""
    return queue_id << POSITION_BITS | position
