"""Bugs planted on purpose, each at a seam between broker, journal and store.

The simulator has to find every one of them (test_simulation.py). A new promise of the broker
deserves a bug here that breaks it.
"""

from __future__ import annotations

from typing import Any, Final

from amqpd_storage.entries import Barrier, Delivered, Enqueue, Entry, Settle
from amqpd_storage.journal import Batch
from amqpd_storage.sqlite_writing import write_batch
from tests.simulation.world import Bug, World


class ConfirmAtAppend(Bug):
    """A publish is confirmed when its entry was appended, not when it was committed."""

    def append(self, world: World, entries: list[Entry]) -> None:
        """Confirm at once."""
        world.append(entries)
        world.broker.committed([entry for entry in entries if isinstance(entry, Enqueue)], [])


class AnswerAtAppend(Bug):
    """declare-ok, tx.commit-ok and the like do not wait for the disk."""

    def append(self, world: World, entries: list[Entry]) -> None:
        """Release at once."""
        world.append([entry for entry in entries if not isinstance(entry, Barrier)])
        world.broker.committed([], [entry for entry in entries if isinstance(entry, Barrier)])


class LoseASettle(Bug):
    """Every tenth settlement does not reach the journal."""

    def __init__(self) -> None:
        self._settles = 0

    def append(self, world: World, entries: list[Entry]) -> None:
        """Leave it out."""
        world.append([entry for entry in entries if not self._is_lost(entry)])

    def _is_lost(self, entry: Entry) -> bool:
        self._settles += isinstance(entry, Settle)
        return isinstance(entry, Settle) and self._settles % 10 == 0


class ForgetDelivered(Bug):
    """How far a queue has handed messages out is not journaled."""

    def append(self, world: World, entries: list[Entry]) -> None:
        """Leave it out."""
        world.append([entry for entry in entries if not isinstance(entry, Delivered)])


class ForgetShared(Bug):
    """A shared message stays when the last queue has done with it."""

    def append(self, world: World, entries: list[Entry]) -> None:
        """Leave it out."""
        world.append(
            [
                entry._replace(message_id=0) if isinstance(entry, Settle) else entry
                for entry in entries
            ]
        )


class DropAnEnqueue(Bug):
    """Every fiftieth message is left out of its batch."""

    def __init__(self) -> None:
        self._enqueues = 0

    def write(self, connection: Any, batch: Batch) -> None:
        """Write the others."""
        kept: list[Entry] = []
        for entry in batch.entries:
            self._enqueues += isinstance(entry, Enqueue)
            if not isinstance(entry, Enqueue) or self._enqueues % 50:
                kept.append(entry)
        write_batch(connection, part_of(batch, kept, first=True))


class SplitTransaction(Bug):
    """A batch, and with it a transaction, is written in two."""

    def write(self, connection: Any, batch: Batch) -> None:
        """The first half, then the second."""
        middle = len(batch.entries) // 2
        write_batch(connection, part_of(batch, batch.entries[:middle], first=True))
        write_batch(connection, part_of(batch, batch.entries[middle:], first=False))


class NoSync(Bug):
    """Commits are not flushed."""

    def connect(self, connection: Any) -> None:
        """As some do for speed."""
        connection.execute("PRAGMA synchronous = OFF")


class SyncAtCheckpoints(Bug):
    """Commits are flushed with the next checkpoint: `--durability normal` called `full`."""

    def connect(self, connection: Any) -> None:
        """One word."""
        connection.execute("PRAGMA synchronous = NORMAL")


def part_of(batch: Batch, entries: list[Entry], *, first: bool) -> Batch:
    """A batch with these entries; the first part has the shared messages."""
    part = Batch(batch.size_bytes)
    part.entries = entries
    part.shared = batch.shared if first else []
    return part


BUGS: Final[dict[str, type[Bug]]] = {
    bug.__name__: bug
    for bug in (
        ConfirmAtAppend,
        AnswerAtAppend,
        LoseASettle,
        ForgetDelivered,
        ForgetShared,
        DropAnEnqueue,
        SplitTransaction,
        NoSync,
        SyncAtCheckpoints,
    )
}
