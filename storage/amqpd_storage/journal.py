"""The journal: entries go in one by one, and come out as batches to commit. Sans-IO.

    broker ─append_all()─> pending ─take()─> batch ─engine.write()─> disk ─committed()─> safe
                                         (one at a time)

Group commit: while one batch is being written, everything that is appended waits for the next one.

**Why a confirm can not overtake its write.** Every entry is in exactly one of three places: in
`pending`, in the one batch under way, or done. It moves only forward and in order: `take()` moves
all of `pending` at once and refuses while a batch is under way, and only `committed()` ends that.
The runtime calls `committed(batch)` after the engine's `write(batch)` returned, and `write`
returns after the flush of the one transaction that holds the whole batch. Only then does the
runtime tell the broker that `batch.enqueues` and `batch.barriers` are safe; the broker has no
other way to learn it. So a confirm exists only after a flush that followed the append, and a
Barrier only after the flush of everything appended before it. If the write fails, `committed()` is
not called, no further batch can be taken, and nothing more is confirmed. The one confirm without a
write is that of an elided message: somebody acknowledged it, so that nothing remains to be lost.

**Rules for the broker.**

- A message settled while its Enqueue is PENDING gets `state = ELIDED` and no Settle; from TAKEN on
  it gets a Settle. Rows of a deleted queue need none: the DropQueue takes them.
- All Enqueues of one publish are appended together, one after another.
- No key of a queue at or below its last one is used before all messages of the queue are settled,
  or it was dropped: neighbours lie in one row, also when some of them are gone (`runs`).
- `content.message_id` does not change once an Enqueue of it was appended, and message ids are never
  used twice. `content.envelope`, `properties` and `body` never change: the writer's thread reads
  them while the event loop goes on.
"""

from __future__ import annotations

from typing import Final

from amqpd_storage.entries import (
    ELIDED,
    TAKEN,
    Barrier,
    Content,
    Delay,
    Delivered,
    Enqueue,
    Entry,
    PutDefinition,
    Settle,
)

ENTRY_OVERHEAD_BYTES: Final = 100
"""What an entry weighs in memory beside the message it carries, roughly."""


class Batch:
    """What goes into one transaction. Made by `Journal.take`, and not changed afterwards.

    No generated repr: aiosqlite logs what it executes, and a batch may hold a gigabyte.
    """

    __slots__ = ("awaited", "barriers", "delays", "enqueues", "entries", "shared", "size_bytes")

    def __init__(self, size_bytes: int, awaited: bool) -> None:
        self.size_bytes = size_bytes
        self.awaited = awaited
        """Somebody may wait for it: it is not only of what consumers have done."""
        self.entries: list[Entry] = []
        """Everything to write, in the order it was appended: no elided Enqueues, no Barriers."""
        self.enqueues: list[Enqueue[Content]] = []
        """The Enqueues among the entries."""
        self.delays: list[Delay[Content]] = []
        """The Delays among the entries."""
        self.shared: list[Content] = []
        """The shared messages whose own row is written with this batch."""
        self.barriers: list[Barrier] = []

    @property
    def is_empty(self) -> bool:
        """Nothing to write: the batch may be reported as committed at once."""
        return not self.entries


class Journal:
    """Entries in the order the broker appended them, until they are safe."""

    __slots__ = ("_pending", "_pending_bytes", "_under_way", "awaited")

    def __init__(self) -> None:
        self._pending: list[Entry] = []
        self._pending_bytes = 0
        self._under_way: Batch | None = None
        self.awaited = False
        """Of what is pending: see `Batch.awaited`."""

    @property
    def pending_bytes(self) -> int:
        """What waits for the disk, the batch under way included: for back-pressure.

        An entry counts until the batch it was taken with is committed, elided or not.
        """
        under_way = self._under_way
        return self._pending_bytes + (under_way.size_bytes if under_way is not None else 0)

    @property
    def pending_entries(self) -> int:
        """How many entries wait for the disk, those of the batch under way included."""
        under_way = self._under_way
        return len(self._pending) + (len(under_way.entries) if under_way is not None else 0)

    @property
    def has_pending(self) -> bool:
        """Whether `take` would find something once no batch is under way."""
        return bool(self._pending)

    def append_all(self, entries: list[Entry]) -> None:
        """Take over entries, in order. The list stays the caller's."""
        self._pending += entries
        size = ENTRY_OVERHEAD_BYTES * len(entries)
        last: Content | None = None
        for entry in entries:
            if isinstance(entry, (Settle, Delivered)):
                continue
            self.awaited = True
            if isinstance(entry, Enqueue):
                content = entry.content
                # A publish to many queues appends one Enqueue after the other of one content: its
                # bytes are in memory once.
                if content is not last:
                    size += len(content.body) + len(content.properties) + len(content.envelope)
                    last = content
            elif isinstance(entry, PutDefinition):
                size += len(entry.value)
            elif isinstance(entry, Delay):
                content = entry.content
                size += len(content.body) + len(content.properties) + len(content.envelope)
        self._pending_bytes += size

    def take(self) -> Batch | None:
        """Everything pending as one batch; None when there is nothing or a batch is under way.

        From here on the Enqueues of the batch are TAKEN: they will be in the store, and a later
        settlement needs a Settle.
        """
        if self._under_way is not None or not self._pending:
            return None
        batch = Batch(self._pending_bytes, self.awaited)
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        self.awaited = False
        # On the event loop's thread, once per entry: no encoding, no sizes, only sorting out.
        keep = batch.entries.append
        keep_enqueue = batch.enqueues.append
        for entry in pending:
            if isinstance(entry, Enqueue):
                if entry.state != ELIDED:
                    entry.state = TAKEN
                    keep(entry)
                    keep_enqueue(entry)
                    content = entry.content
                    if content.message_id and not content.stored:
                        content.stored = True
                        batch.shared.append(content)
            elif isinstance(entry, Barrier):
                batch.barriers.append(entry)
            elif isinstance(entry, Delay):
                if entry.state != ELIDED:
                    entry.state = TAKEN
                    keep(entry)
                    batch.delays.append(entry)
            else:
                keep(entry)
        self._under_way = batch
        return batch

    def committed(self, batch: Batch) -> None:
        """The batch has reached the disk (or was empty). The next one may be taken."""
        assert batch is self._under_way
        self._under_way = None
