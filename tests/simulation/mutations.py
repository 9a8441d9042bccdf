"""Bugs planted on purpose, each at a seam between broker, journal and store.

The simulator has to find every one of them (test_simulation.py). A new promise of the broker
deserves a bug here that breaks it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from itertools import count
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from msgspec.structs import replace

from amqpd.broker import priority_queue, queue, quorum, returns
from amqpd.broker.alarms import Alarm, Alarms
from amqpd.broker.consumer import ConsumerRing
from amqpd.broker.definitions import ParameterRecord, ReturnRecord, SeenRecord
from amqpd.broker.delayed_retry import delay_ms
from amqpd.broker.flow import FlowControl
from amqpd.broker.handlers import basic
from amqpd.broker.messages import QueueMessage
from amqpd.broker.present_headers import PresentHeaders
from amqpd.broker.queue import Queue
from amqpd.broker.queue_rules import QueueRules
from amqpd.broker.returns import Returned, Returns
from amqpd.broker.virtual_host import VirtualHost
from amqpd.commands import Message
from amqpd.runtime.peer import Peer
from amqpd.wire.properties import read_property
from amqpd_storage import sqlite_reading
from amqpd_storage.entries import (
    Barrier,
    Delay,
    Delivered,
    Enqueue,
    Entry,
    PutDefinition,
    Release,
    Settle,
)
from amqpd_storage.journal import Batch
from amqpd_storage.sqlite_log import close_connection
from amqpd_storage.sqlite_owner import OwnersConnection
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
                Settle(entry.key, entry.body_bytes) if isinstance(entry, Settle) else entry
                for entry in entries
            ]
        )


class DropAnEnqueue(Bug):
    """Every fiftieth message is left out of its batch."""

    def __init__(self) -> None:
        self._enqueues = 0

    def write(self, connection: Any, batch: Batch, number: int | None) -> None:
        """Write the others."""
        kept: list[Entry] = []
        for entry in batch.entries:
            self._enqueues += isinstance(entry, Enqueue)
            if not isinstance(entry, Enqueue) or self._enqueues % 50:
                kept.append(entry)
        write_batch(connection, part_of(batch, kept, first=True), number)


class SplitTransaction(Bug):
    """A batch, and with it a transaction, is written in two."""

    def write(self, connection: Any, batch: Batch, number: int | None) -> None:
        """The first half, then the second."""
        middle = len(batch.entries) // 2
        write_batch(connection, part_of(batch, batch.entries[:middle], first=True), number)
        write_batch(connection, part_of(batch, batch.entries[middle:], first=False), number)


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


class SkipABatch(Bug):
    """Every thirtieth batch is not written: a hole, which `normal` does not allow either."""

    durability = "normal"

    def __init__(self) -> None:
        self._batches = 0

    def write(self, connection: Any, batch: Batch, number: int | None) -> None:
        """Write the others."""
        self._batches += 1
        if self._batches % 30:
            write_batch(connection, batch, number)


class ForgetExpiry(Bug):
    """When a message expires is not written."""

    def write(self, connection: Any, batch: Batch, number: int | None) -> None:
        """Copies that never expire."""
        kept: list[Entry] = []
        for entry in batch.entries:
            if isinstance(entry, Enqueue) and entry.expires_ms:
                timeless = copy(entry)
                timeless.expires_ms = 0
                kept.append(timeless)
            else:
                kept.append(entry)
        write_batch(connection, part_of(batch, kept, first=True), number)


class DeadLetterLater(Bug):
    """A dead letter goes to the journal a turn after its original went from it."""

    def __init__(self) -> None:
        self._late: list[Entry] = []

    def begin(self) -> None:
        """What waited is lost with the process."""
        self._late.clear()

    def append(self, world: World, entries: list[Entry]) -> None:
        """The late ones of the turn before, then what is in time."""
        late = [entry for entry in entries if is_dead_letter(entry)]
        world.append(self._late + [entry for entry in entries if not is_dead_letter(entry)])
        self._late = late


class DeadLetterUnconfirmed(Bug):
    """A publisher's confirm waits for the queue where the message died, not for where it went."""

    def bury(
        self, virtual_host: VirtualHost, queue: Queue, stored: QueueMessage, reason: str
    ) -> None:
        """Hide the confirm meanwhile."""
        confirm, stored.confirm = stored.confirm, None
        super().bury(virtual_host, queue, stored, reason)
        stored.confirm = confirm


class LoseDeadLetters(Bug):
    """Some of what dies is dropped, wherever it should go."""

    def __init__(self) -> None:
        self._deaths = 0

    def bury(
        self, virtual_host: VirtualHost, queue: Queue, stored: QueueMessage, reason: str
    ) -> None:
        """Every fifth."""
        self._deaths += 1
        if self._deaths % 5:
            super().bury(virtual_host, queue, stored, reason)


class ForgetSome(Bug):
    """Every third entry of one kind does not reach the journal."""

    def __init__(self) -> None:
        self._seen = 0

    def append(self, world: World, entries: list[Entry]) -> None:
        """Leave it out."""
        world.append([entry for entry in entries if not self._is_lost(entry)])

    def _is_lost(self, entry: Entry) -> bool:
        if not self.is_of_the_kind(entry):
            return False
        self._seen += 1
        return self._seen % 3 == 0

    def is_of_the_kind(self, entry: Entry) -> bool:
        """Whether it is one of these."""
        raise NotImplementedError


class ForgetADelay(ForgetSome):
    """A message at a delayed exchange."""

    favourites = ("del",)

    def is_of_the_kind(self, entry: Entry) -> bool:
        """Waits."""
        return isinstance(entry, Delay)


class ForgetPolicies(ForgetSome):
    """A policy that was set."""

    def is_of_the_kind(self, entry: Entry) -> bool:
        """Is a parameter."""
        return isinstance(entry, PutDefinition) and entry.kind == ParameterRecord.KIND


class ForgetWhatPassed(ForgetSome):
    """A header that a deduplication exchange remembers."""

    favourites = ("ded",)

    def is_of_the_kind(self, entry: Entry) -> bool:
        """Has passed."""
        return isinstance(entry, PutDefinition) and entry.kind == SeenRecord.KIND


class ForgetReturns(ForgetSome):
    """How often a message came back to a quorum queue."""

    favourites = ("q0", "s0")

    def is_of_the_kind(self, entry: Entry) -> bool:
        """Came back."""
        return isinstance(entry, PutDefinition) and entry.kind == ReturnRecord.KIND


class ReleaseFirst(Bug):
    """What has waited leaves the store a turn before it is in its queues."""

    favourites = ("del",)

    def __init__(self) -> None:
        self._late: list[Entry] = []

    def begin(self) -> None:
        """What waited is lost with the process."""
        self._late.clear()

    def append(self, world: World, entries: list[Entry]) -> None:
        """What was late before, then this; of a turn that releases, the messages are late."""
        late, self._late = self._late, []
        if any(isinstance(entry, Release) for entry in entries):
            self._late = [entry for entry in entries if isinstance(entry, Enqueue)]
            entries = [entry for entry in entries if not isinstance(entry, Enqueue)]
        world.append(late + entries)


class TrustTheCache(Bug):
    """What a new owner reads of the log is taken to be on the disk."""

    durability = "full"
    disk_errors = 0.3

    def renew_log(self, path: Path, *, alone: bool = False) -> bool:
        """Leave it."""
        return False


class WriteBackAfterAFailure(Bug):
    """The log is written back when the disk has failed: from where a flush has forgotten some."""

    durability = "normal"
    disk_errors = 0.5
    forgets = 1.0
    checkpoint_pages = (5,)

    def close(self, connection: Any, path: Path, *, keeping_log: bool) -> None:
        """As at any other end."""
        close_connection(connection, path)


class TakeItForWritten(Bug):
    """A commit that failed is taken for one that did not."""

    durability = "full"
    disk_errors = 0.3

    def write(self, connection: Any, batch: Batch, number: int | None) -> None:
        """Without a word."""
        with suppress(sqlite3.OperationalError):
            write_batch(connection, batch, number)


class WriteItAgain(Bug):
    """A batch whose commit failed is written again, whether it is there or not."""

    durability = "full"
    disk_errors = 0.3
    forgets = 0.0

    def resume(self, owner: OwnersConnection) -> None:
        """Without looking."""
        super().resume(owner)
        owner._found = None


class BuryWithoutAPlace(Bug):
    """A dead letter that has to find a place is gone from its queue though it found none."""

    favourites = ("s0", "l0", "l0")
    elsewhere = 0.0

    def bury_surely(
        self, virtual_host: VirtualHost, queue: Queue, stored: QueueMessage, reason: str
    ) -> bool:
        """Whatever became of it."""
        super().bury_surely(virtual_host, queue, stored, reason)
        return True


class LetDuplicatesIn(Bug):
    """Every third duplicate is none to a queue that should have no two messages of a header."""

    favourites = ("h0", "h2")
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Where the queue looks."""
        have, seen = PresentHeaders.have, count(1)

        def have_some(present: PresentHeaders, message: Message) -> bool:
            return have(present, message) and next(seen) % 3 != 0

        with patch.object(PresentHeaders, "have", have_some):
            yield


class ForgetHeaders(Bug):
    """A queue does not know all headers that its messages have: of some it would take a second."""

    favourites = ("h0", "h2")
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Where a message comes in."""
        enter, seen = PresentHeaders.enter, count(1)

        def enter_most(present: PresentHeaders, position: int, message: Message) -> None:
            if next(seen) % 5:
                enter(present, position, message)

        with patch.object(PresentHeaders, "enter", enter_most):
            yield


class ForgetSettled(Bug):
    """What was acknowledged of a run is not left out when the rest is read."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Where a page is read."""
        with patch.object(sqlite_reading, "_skipped", lambda *_: frozenset()):
            yield


class IgnorePriorities(Bug):
    """A quorum queue of the 4.x profiles hands out in the order in which messages came."""

    favourites = ("u0", "u1")
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """No message has one."""
        with patch.object(quorum, "read_property", lambda properties, name: None):
            yield


class MisjudgeTheMost(Bug):
    """A message beyond a queue's highest priority counts as one without any."""

    favourites = ("p1", "p2")
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """As it is read."""

        def read_some(properties: bytes, name: int) -> int | None:
            priority: int | None = read_property(properties, name)
            return priority if priority is None or priority < 6 else 0

        with patch.object(priority_queue, "read_property", read_some):
            yield


class ServeByAge(Bug):
    """The priorities of consumers are nothing to a queue."""

    favourites = ("d1", "d2")
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """As if nobody had said one."""
        with patch.object(basic, "priority", lambda *_: 0):
            yield


class ServeTheIdle(Bug):
    """Of a queue with a single active consumer, all of them are active."""

    favourites = ("d3",)
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The ring is that of another queue."""
        with patch.object(queue, "ConsumerRing", lambda _: ConsumerRing(single_active=False)):
            yield


class CountEveryReturn(Bug):
    """In the profile 4.3 what a client returns is held against the limit, too."""

    favourites = ("q0", "u0")
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """All of them have failed."""
        counted = Returns.count

        def count_all(known: Returns, stored: QueueMessage, failed: bool) -> Returned:
            return counted(known, stored, True)

        with patch.object(Returns, "count", count_all):
            yield


class RetryAtOnce(Bug):
    """Every third message that comes back is handed out again without having waited."""

    favourites = ("y0", "y1")
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Where it is said how long it waits."""
        seen = count(1)

        def delay_most(rules: QueueRules, failures: int, failed: bool) -> int:
            return delay_ms(rules, failures, failed) if next(seen) % 3 else 0

        with patch.object(returns, "delay_ms", delay_most):
            yield


class ForgetRetryTimes(Bug):
    """After a restart what waited for its retry waits no longer."""

    favourites = ("y0", "y1")
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Where the journal tells of them."""
        restore = Returns.restore

        def restore_count(known: Returns, record: ReturnRecord) -> None:
            restore(known, replace(record, ready_at_ms=0))

        with patch.object(Returns, "restore", restore_count):
            yield


class BlockEverybody(Bug):
    """During an alarm who only consumes is blocked, too."""

    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Whatever it said."""
        with patch.object(Peer, "_published", lambda peer, commands: True):
            yield


class ForgetToUnblock(Bug):
    """One of those who are blocked stays so when the alarm is over."""

    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The first of them."""
        set_alarm = Alarms.set

        def set_most(alarms: Alarms, alarm: Alarm, raised: bool) -> bool:
            for connection in list(alarms._blocked)[:1]:
                alarms.forget(connection)
            return set_alarm(alarms, alarm, raised)

        with patch.object(Alarms, "set", set_most):
            yield


class WaitForSlowConsumers(Bug):
    """Publishers are held until consumers have caught up, however slow these are."""

    favourites = ("d1", "d2")
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """It looks at them, and goes on waiting."""

        def wait_on(control: FlowControl, now: float) -> None:
            control._check_at = now + 1.0

        with patch.object(FlowControl, "handle_timer", wait_on):
            yield


class HoldWithoutNeed(Bug):
    """Nobody tells the publishers that the queue is empty by now."""

    favourites = ("d1", "d2")
    elsewhere = 0.0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The end of a turn says nothing."""
        with patch.object(FlowControl, "finish_turn", lambda control: control.crowded.clear()):
            yield


def is_dead_letter(entry: Entry) -> bool:
    """Whether it brings a message with a history."""
    return isinstance(entry, Enqueue) and b"x-death" in entry.content.properties


def part_of(batch: Batch, entries: list[Entry], *, first: bool) -> Batch:
    """A batch with these entries; the first part has the shared messages."""
    part = Batch(batch.size_bytes, batch.awaited)
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
        SkipABatch,
        ForgetExpiry,
        DeadLetterLater,
        DeadLetterUnconfirmed,
        LoseDeadLetters,
        ForgetADelay,
        ForgetPolicies,
        ForgetWhatPassed,
        ReleaseFirst,
        ForgetReturns,
        TrustTheCache,
        WriteBackAfterAFailure,
        TakeItForWritten,
        WriteItAgain,
        BuryWithoutAPlace,
        LetDuplicatesIn,
        ForgetHeaders,
        ForgetSettled,
        IgnorePriorities,
        MisjudgeTheMost,
        ServeByAge,
        ServeTheIdle,
        CountEveryReturn,
        RetryAtOnce,
        ForgetRetryTimes,
        BlockEverybody,
        ForgetToUnblock,
        WaitForSlowConsumers,
        HoldWithoutNeed,
    )
}
