"""What a batch changes in the end.

A batch is atomic, so nobody ever sees the store between two of its entries: only the last word on
each row counts. `net_changes` walks the entries backwards and keeps, for every row, what the first
entry it meets says about it. What remains has no order left in it, and an engine applies it with
one statement a table:

    1. drop the queues     2. delete the gone rows     3. insert the new rows     4. add up

    Enqueue k, DropQueue q      nothing of k remains             (k lies in q)
    DropQueue q, Enqueue k      q's old rows go, k is new
    Settle k, Enqueue k         the old k goes, the new k comes  (an empty queue began again at 1)
    Enqueue k, Settle k         nothing of k remains

Two Enqueues of one key without a Settle between them are a bug of the broker; both are kept, so
that the engine's primary key refuses the batch.

What a queue gains and loses is added up here, so that nobody ever has to count its rows: `backlogs`
holds the difference to what the store knew before.
"""

from __future__ import annotations

from collections.abc import Iterable

from amqpd_storage.entries import (
    LARGE_BYTES,
    POSITION_BITS,
    POSITION_MAX,
    Backlog,
    Content,
    Delay,
    Delivered,
    DropDefinition,
    DropDefinitions,
    DropDelays,
    DropQueue,
    DropRange,
    Enqueue,
    PutDefinition,
    Release,
    Settle,
)
from amqpd_storage.journal import Batch


class Changes:
    """The rows that go and the rows that come, table by table."""

    __slots__ = (
        "backlogs",
        "definitions",
        "delay_counts",
        "delays",
        "delivered",
        "dropped_definitions",
        "dropped_exchanges",
        "dropped_queues",
        "dropped_ranges",
        "enqueues",
        "gone_delays",
        "gone_keys",
        "gone_ranges",
        "large_enqueues",
        "large_gone",
        "long_queues",
        "messages",
        "released",
    )

    def __init__(self) -> None:
        self.dropped_queues: set[int] = set()
        """Queues that are gone; those of `long_queues` are among them."""
        self.long_queues: set[int] = set()
        """Queues whose rows are deleted later."""
        self.dropped_ranges: list[tuple[int, int]] = []
        """First and last key of rows that are deleted later."""
        self.gone_keys: set[int] = set()
        self.gone_ranges: list[tuple[int, int]] = []
        """In place of those, where nothing comes that they would have to be compared with: first
        and last key of rows that go."""
        self.enqueues: list[Enqueue[Content]] = []
        """Queue by queue, in the order in which they came."""
        self.large_enqueues: list[Enqueue[Content]] = []
        """Those among them whose large message is in no other queue."""
        self.large_gone: list[int] = []
        """Keys of rows that go, with their large messages."""
        self.messages: list[Content] = []
        self.released: set[int] = set()
        """Shared messages that some row no longer refers to: those without any row go."""
        self.backlogs: dict[int, Backlog] = {}
        """For each queue how many messages more it has, how many bytes more, and its last position
        if it grew."""
        self.delays: list[Delay[Content]] = []
        self.gone_delays: set[int] = set()
        self.delay_counts: dict[int, int] = {}
        """For each delayed exchange, how many messages more it has."""
        self.dropped_exchanges: set[int] = set()
        """Exchanges whose messages are deleted later."""
        self.delivered: dict[int, int] = {}
        self.definitions: dict[tuple[str, str], bytes | None] = {}
        """The new value of a definition; None when it is gone."""
        self.dropped_definitions: list[tuple[str, str]] = []
        """Kinds and prefixes: what the store has of these goes."""

    def settled(self) -> list[list[int]]:
        """The first and the last key of the rows that go, in order, neighbours joined."""
        if self.gone_ranges:
            return _joined(sorted(self.gone_ranges))
        return key_ranges(self.gone_keys)


def net_changes(batch: Batch) -> Changes:
    """The sum of the batch's entries."""
    changes = Changes()
    dropped = changes.dropped_queues
    gone = changes.gone_keys
    sums: dict[int, list[int]] = {}
    total = [0, 0, 0]
    total_of = -1
    rows: dict[int, list[Enqueue[Content]]] = {}
    rows_of = -1
    insert = changes.enqueues.append
    for entry in reversed(batch.entries):
        if isinstance(entry, Enqueue):
            key = entry.key
            queue_id = key >> POSITION_BITS
            if dropped and queue_id in dropped:
                if entry.content.message_id:
                    changes.released.add(entry.content.message_id)
                continue
            if queue_id != total_of:
                total, total_of = sums.setdefault(queue_id, [0, 0, 0]), queue_id
            size = len(entry.content.body)
            total[0] += 1
            total[1] += size
            if (position := key & POSITION_MAX) > total[2]:
                total[2] = position
            if key in gone:
                gone.remove(key)  # it never was in the store: nothing comes, and nothing goes
            else:
                if queue_id != rows_of:
                    insert, rows_of = rows.setdefault(queue_id, []).append, queue_id
                insert(entry)
                if size >= LARGE_BYTES and not entry.content.message_id:
                    changes.large_enqueues.append(entry)
        elif isinstance(entry, Settle):
            key, body_bytes = entry.key, entry.body_bytes
            if entry.message_id:
                changes.released.add(entry.message_id)
            queue_id = key >> POSITION_BITS
            if dropped and queue_id in dropped:
                continue
            if not batch.enqueues:
                changes.gone_ranges.append((key, entry.last))
            elif key == entry.last:
                gone.add(key)
            else:
                gone.update(range(key, entry.last + 1))
            if body_bytes >= LARGE_BYTES and not entry.message_id:
                changes.large_gone.append(key)
            if queue_id != total_of:
                total, total_of = sums.setdefault(queue_id, [0, 0, 0]), queue_id
            total[0] -= entry.messages
            total[1] -= body_bytes
        elif isinstance(entry, Delivered):
            if entry.queue_id not in dropped:
                changes.delivered.setdefault(entry.queue_id, entry.below)
        elif isinstance(entry, DropRange):
            queue_id = entry.first >> POSITION_BITS
            if queue_id not in dropped:
                changes.dropped_ranges.append((entry.first, entry.last))
                total, total_of = sums.setdefault(queue_id, [0, 0, 0]), queue_id
                total[0] -= entry.messages
                total[1] -= entry.body_bytes
        elif isinstance(entry, DropQueue):
            dropped.add(entry.queue_id)
            if entry.is_long:
                changes.long_queues.add(entry.queue_id)
        elif isinstance(entry, (Delay, Release, DropDelays)):
            sum_delay(changes, entry)
        elif isinstance(entry, PutDefinition):
            if not is_dropped(changes, entry):
                changes.definitions.setdefault((entry.kind, entry.key), entry.value)
        elif isinstance(entry, DropDefinition):
            if not is_dropped(changes, entry):
                changes.definitions.setdefault((entry.kind, entry.key), None)
        elif isinstance(entry, DropDefinitions):
            changes.dropped_definitions.append((entry.kind, entry.prefix))
    changes.delays.reverse()
    for each in rows.values():
        each.reverse()  # ascending order: the B-tree appends, and neighbours become runs
        changes.enqueues += each
    changes.messages = batch.shared
    changes.backlogs = {queue_id: Backlog(*total) for queue_id, total in sums.items()}
    return changes


def key_ranges(keys: Iterable[int]) -> list[list[int]]:
    """The first and the last of each row of neighbours, in order."""
    return _joined([(key, key) for key in sorted(keys)])


def _joined(ranges: list[tuple[int, int]]) -> list[list[int]]:
    """Sorted ranges, of which no two overlap, without those that begin where another one ends."""
    joined: list[list[int]] = []
    behind = -1
    for first, last in ranges:
        if first == behind:
            joined[-1][1] = last
        else:
            joined.append([first, last])
        behind = last + 1
    return joined


def is_dropped(changes: Changes, entry: PutDefinition | DropDefinition) -> bool:
    """Whether the definition went with others later on."""
    return any(
        entry.kind == kind and entry.key.startswith(prefix)
        for kind, prefix in changes.dropped_definitions
    )


def sum_delay(changes: Changes, entry: Delay[Content] | Release | DropDelays) -> None:
    """Add what came before all that was added: a message that waits, or that did."""
    exchange_id = entry.exchange_id
    if isinstance(entry, DropDelays):
        changes.dropped_exchanges.add(exchange_id)
    elif exchange_id not in changes.dropped_exchanges:
        change = 1 if isinstance(entry, Delay) else -1
        changes.delay_counts[exchange_id] = changes.delay_counts.get(exchange_id, 0) + change
        if isinstance(entry, Release):
            changes.gone_delays.add(entry.sequence)
        elif entry.sequence in changes.gone_delays:
            changes.gone_delays.remove(entry.sequence)  # it never was in the store
        else:
            changes.delays.append(entry)
