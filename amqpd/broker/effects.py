"""What the broker wants done, as values: entries to journal, confirms to send, replies to let out.

One `Effects` is shared by everything in a broker. The runtime drains it at the end of each turn
(`Broker.finish_turn`), hands `entries` to the journal, and reports what became safe
(`Broker.committed`). Without a journal (`--in-memory`), nothing is ever appended to `entries`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from amqpd.timers import Timed
from amqpd_storage.entries import Barrier, Entry, Settle

if TYPE_CHECKING:
    from amqpd.broker.confirms import Confirms
    from amqpd.broker.messages import PendingConfirm
    from amqpd.broker.paging import PageRequest
    from amqpd.broker.queue import Queue
    from amqpd.broker.session import Session
    from amqpd.broker.waiting_room import DelayRead


class BarrierWaiter(Protocol):
    """Somebody who waits for the journal: a channel, above all."""

    def barrier_safe(self, barrier: Barrier, mark: object) -> None:
        """Everything journaled before the barrier is on disk."""


class Effects:
    """What has piled up in this turn."""

    __slots__ = (
        "_defined",
        "barriers",
        "delay_reads",
        "demands",
        "due_confirms",
        "entries",
        "epoch_s",
        "evictions",
        "journaling",
        "marked_queues",
        "now",
        "page_requests",
        "timed_queues",
        "warnings",
    )

    def __init__(self, journaling: bool, epoch_s: float) -> None:
        self.journaling = journaling
        self.now = 0.0
        """Seconds of the runtime's clock, at the beginning of this turn."""
        self.epoch_s = epoch_s
        """The time since 1970 at which that clock would have shown 0."""
        self.timed_queues: dict[Timed, None] = {}
        """Queues and waiting rooms whose deadline may have come nearer."""
        self.delay_reads: list[DelayRead] = []
        """Waiting rooms that want to know what comes due next in the store."""
        self.demands: dict[Queue, None] = {}
        """Federated queues that may want other messages than before."""
        self.entries: list[Entry] = []
        """For the journal, in order."""
        self.due_confirms: list[Confirms] = []
        """Channels that have confirms to send."""
        self.marked_queues: dict[Queue, None] = {}
        """Queues that handed out messages which they never had before."""
        self.evictions: dict[Session, str] = {}
        """Connections that are to be closed by the operator's will, and why."""
        self.barriers: dict[Barrier, tuple[BarrierWaiter, object] | PendingConfirm | None] = {}
        """What waits for the journal: which channel, say, and the mark to release; or a confirm.

        None for changes of definitions that nobody waits for (nowait, auto-delete): while there is
        one, what a client is told of definitions may still be lost.
        """
        self.page_requests: list[PageRequest] = []
        """What queues want to have read."""
        self.warnings: list[str] = []
        """For the log: what a person should know."""
        self._defined = False

    def epoch_ms(self) -> int:
        """Milliseconds since 1970: for what has to be understood after a restart."""
        return int((self.epoch_s + self.now) * 1000)

    def define(self, entry: Entry) -> None:
        """Journal a change of definitions."""
        self.entries.append(entry)
        self._defined = True

    def settle(self, key: int, body_bytes: int, message_id: int) -> None:
        """Journal that a stored message is gone; `message_id` as in `Settle`."""
        entries = self.entries
        if entries and not message_id:
            last = entries[-1]
            if isinstance(last, Settle) and last.extend(key, body_bytes):
                return
        entries.append(Settle(key, body_bytes, message_id))

    def confirm_when_safe(self, pending: PendingConfirm) -> None:
        """Confirm once the journal has everything so far."""
        if not self.journaling:
            pending.safe()
            return
        barrier = Barrier()
        self.entries.append(barrier)
        self.barriers[barrier] = pending

    def take_entries(self) -> list[Entry]:
        """What is to be journaled, marks of this turn included."""
        if self.marked_queues:
            for queue in self.marked_queues:
                queue.journal_mark()
            self.marked_queues.clear()
        if self._defined:
            self._defined = False
            barrier = Barrier()
            self.entries.append(barrier)
            self.barriers[barrier] = None
        entries = self.entries[:]
        self.entries.clear()
        return entries
