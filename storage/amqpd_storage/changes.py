"""What a batch changes in the end.

A batch is atomic, so nobody ever sees the store between two of its entries: only the last word on
each row counts. `net_changes` walks the entries backwards and keeps, for every row, what the first
entry it meets says about it. What remains has no order left in it, and an engine applies it with
one statement a table:

    1. drop the queues          2. delete the gone rows          3. insert the new rows

    Enqueue k, DropQueue q      nothing of k remains             (k lies in q)
    DropQueue q, Enqueue k      q's old rows go, k is new
    Settle k, Enqueue k         the old k goes, the new k comes  (an empty queue began again at 1)
    Enqueue k, Settle k         nothing of k remains

Two Enqueues of one key without a Settle between them are a bug of the broker; both are kept, so
that the engine's primary key refuses the batch.
"""

from __future__ import annotations

from amqpd_storage.entries import (
    POSITION_BITS,
    Content,
    Delivered,
    DropDefinition,
    DropMessage,
    DropQueue,
    Enqueue,
    PutDefinition,
    Settle,
)
from amqpd_storage.journal import Batch


class Changes:
    """The rows that go and the rows that come, table by table."""

    __slots__ = (
        "definitions",
        "delivered",
        "dropped_queues",
        "enqueues",
        "gone_keys",
        "gone_messages",
        "messages",
    )

    def __init__(self) -> None:
        self.dropped_queues: set[int] = set()
        self.gone_keys: set[int] = set()
        self.gone_messages: set[int] = set()
        self.enqueues: list[Enqueue] = []
        self.messages: list[Content] = []
        self.delivered: dict[int, int] = {}
        self.definitions: dict[tuple[str, str], bytes | None] = {}
        """The new value of a definition; None when it is gone."""


def net_changes(batch: Batch) -> Changes:
    """The sum of the batch's entries."""
    changes = Changes()
    dropped = changes.dropped_queues
    gone = changes.gone_keys
    insert = changes.enqueues.append
    for entry in reversed(batch.entries):
        if isinstance(entry, Enqueue):
            key = entry.key
            if key not in gone and not (dropped and key >> POSITION_BITS in dropped):
                insert(entry)
        elif isinstance(entry, Settle):
            if not (dropped and entry.key >> POSITION_BITS in dropped):
                gone.add(entry.key)
        elif isinstance(entry, DropMessage):
            changes.gone_messages.add(entry.message_id)
        elif isinstance(entry, Delivered):
            if entry.queue_id not in dropped:
                changes.delivered.setdefault(entry.queue_id, entry.below)
        elif isinstance(entry, DropQueue):
            dropped.add(entry.queue_id)
        elif isinstance(entry, PutDefinition):
            changes.definitions.setdefault((entry.kind, entry.key), entry.value)
        elif isinstance(entry, DropDefinition):
            changes.definitions.setdefault((entry.kind, entry.key), None)
    changes.enqueues.reverse()  # rows of one queue in ascending order: the B-tree appends
    gone_messages = changes.gone_messages
    changes.messages = [c for c in batch.shared if c.message_id not in gone_messages]
    return changes
