"""What ends a turn of the broker: entries go to the journal, and what there is to say to clients.

    chunk read ┐                        ┌──entries──> JournalWriter
    committed  ├──> Broker ──finish()───┼──octets───> clients that have something to be sent
    timer      ┘                        └──requests─> Pager, DelayReader

Apart from the server because every message pays for it: here it can be compiled.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from amqpd.broker.broker import Broker
from amqpd.protocol.connection import Connection
from amqpd.runtime.busy_wait import BusyWait
from amqpd.runtime.giving_way import GivingWay
from amqpd_storage.entries import Entry

if TYPE_CHECKING:
    from amqpd.runtime.delay_reader import DelayReader
    from amqpd.runtime.pager import Pager
    from amqpd.runtime.server import AnyClient

logger = logging.getLogger("amqpd.server")


class Sink(Protocol):
    """Where entries go: `JournalWriter`."""

    @property
    def full(self) -> bool:
        """So much waits to be written that publishers should wait as well."""

    @property
    def busy(self) -> bool:
        """Something is being written, or will be at once."""

    def append(self, entries: list[Entry]) -> None:
        """Keep these."""


class Turns:
    """Of one broker, with the clients that it has."""

    def __init__(
        self,
        broker: Broker,
        now: Callable[[], float],
        *,
        wake_timers: Callable[[], None],
        evict: Callable[[], None],
    ) -> None:
        """`wake_timers` when somebody is to be asked sooner than at `wake_at`; `evict` where the
        broker wants connections closed."""
        self.now = now
        """The time, in seconds."""
        self.clients: dict[Connection, AnyClient] = {}
        self.speaking: list[Connection] = []
        """Who has something to send."""
        self.journal: Sink | None = None
        """None where nothing is kept."""
        self.pager: Pager | None = None
        """What messages that are not in memory are asked of."""
        self.delay_reader: DelayReader | None = None
        """The same for what waiting rooms want to know."""
        self.busy_wait: BusyWait | None = None
        """None where the process sleeps at once."""
        self.giving_way: GivingWay | None = None
        """None where nobody is let go first."""
        self.journaled = False
        """The turn that ended last had something for the journal."""
        self.wake_at = math.inf
        """When the timers are looked at next."""
        self._broker = broker
        self._timers = broker.timers
        self._waiting_for_journal: dict[AnyClient, None] = {}
        """Who is not read from until the disk has caught up."""
        self._wake_timers = wake_timers
        self._evict = evict

    def finish(self) -> None:
        """Journal what has to be kept, send what there is to say."""
        broker = self._broker
        effects = broker.effects
        if effects.evictions:
            self._evict()
        entries = broker.finish_turn()
        deadline = self._timers.next_deadline()
        if deadline is not None and deadline < self.wake_at:
            self._wake_timers()
        journal = self.journal
        self.journaled = bool(entries)
        if entries:
            assert journal is not None
            journal.append(entries)
        requests = broker.take_page_requests()
        if requests:
            assert self.pager is not None
            self.pager.ask(requests)
        reads = effects.delay_reads
        if reads and journal is not None and not journal.full:
            # While the disk is behind, nothing more is read only to be written to its queues.
            assert self.delay_reader is not None
            self.delay_reader.ask(reads[:])
            reads.clear()
        speaking = self.speaking
        if speaking:
            clients = self.clients
            for connection in speaking:
                client = clients.get(connection)
                if client is not None:
                    client.flush()
            speaking.clear()
        if self._waiting_for_journal and journal is not None and not journal.full:
            waiting, self._waiting_for_journal = self._waiting_for_journal, {}
            for client in waiting:
                client.pace()
        if effects.warnings:
            for warning in effects.warnings:
                logger.warning(warning)
            effects.warnings.clear()
        if self.busy_wait is not None:
            self.busy_wait.turn_ended(writing=journal is not None and journal.busy)

    def let_others_go_first(self) -> None:
        """Those that want the processor, unless the journal's writer is at work: it wants the
        interpreter as well."""
        if self.giving_way is not None and (self.journal is None or not self.journal.busy):
            self.giving_way.let_others_go_first()

    def watch(self, client: AnyClient) -> None:
        """See to it that the client is asked at its deadline."""
        if self._timers.watch(client):
            self._wake_timers()

    def must_wait_for_journal(self, client: AnyClient) -> bool:
        """Whether the disk is too far behind for a client that writes to it to be read from.

        If it is, the client's `pace` is called once it is not.
        """
        if self.journal is None or not self.journal.full:
            return False
        self._waiting_for_journal[client] = None
        return True

    def forget(self, client: AnyClient) -> None:
        """The client is gone."""
        del self.clients[client.peer.connection]
        self._waiting_for_journal.pop(client, None)
        self._timers.forget(client)
