"""Group commit: whatever was appended while a commit is under way goes into the next one.

    turn ──entries──> Journal ──batch──> writer thread (one transaction, one flush)
                                              │
    outlets <──confirms, held replies── Broker.committed

Nobody waits for it but those that asked for safety. If a commit fails, nothing of it is confirmed.
A disk that is full or fails is waited for: publishers are blocked, consumers go on, and the same
batch is given to the store again, which finds out what became of it. After any other failure the
broker stops: it must not go on promising what it could not write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

import anyio

from amqpd.broker.broker import Broker
from amqpd.runtime.backoff import Backoff
from amqpd.runtime.commit_metrics import CommitMetrics, Waiting
from amqpd.runtime.wake import Wake
from amqpd_storage.entries import Entry
from amqpd_storage.errors import JournalFailed, StoreError
from amqpd_storage.journal import Batch, Journal

logger: Final = logging.getLogger("amqpd.journal")

TIDY_AFTER_S: Final = 0.05
"""So long nothing was to be written: time to tidy up."""
TIDY_EVERY_S: Final = 1.0
"""A step at least so often, however much there is to write."""


class Store(Protocol):
    """Where batches go. `write` returns when the batch is flushed."""

    async def write(self, batch: Batch) -> None:
        """Write one batch in one transaction.

        Raises StoreError. If that is a JournalFailed that is `passing`, the same batch may be given
        to this again.
        """

    async def tidy(self) -> bool:
        """Do a step of what can wait; whether there is more. Raises StoreError."""


class JournalWriter:
    """Feeds one store from one broker."""

    def __init__(
        self,
        broker: Broker,
        store: Store,
        *,
        finish_turn: Callable[[], None],
        on_trouble: Callable[[JournalFailed | None], None],
        bytes_max: int,
        retry_s: float,
        retry_max_s: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`on_trouble` hears after each attempt what kept it from being one, None if nothing did.

        A disk that is full is tried again each `retry_s`, one that fails more and more seldom, up
        to `retry_max_s`. `clock` measures how long commits take.
        """
        self.metrics = CommitMetrics()
        self._clock = clock
        self._broker = broker
        self._store = store
        self._finish_turn = finish_turn
        self._bytes_max = bytes_max
        self._journal = Journal()
        self._retry_s = retry_s
        self._backoff = Backoff(retry_s, retry_max_s)
        self._on_trouble = on_trouble
        self._wake = Wake()
        self._unwritten: Batch | None = None
        """Taken from the journal, and not written yet."""
        self._stopping = False
        self._tidied_at = 0.0
        self._writing = asyncio.Lock()
        self._began: float | None = None
        """When the attempt under way began."""
        self._took_s = 0.0
        """The last one."""
        self._failed = False

    def append(self, entries: list[Entry]) -> None:
        """Keep these; the commit follows as soon as the one under way is done."""
        self._journal.append_all(entries)
        self._wake.set()

    @property
    def full(self) -> bool:
        """So much waits to be written that publishers should wait as well."""
        return self._journal.pending_bytes > self._bytes_max

    @property
    def busy(self) -> bool:
        """Something is being written, or will be at once."""
        return self._unwritten is not None or self._journal.has_pending

    def slow_for(self, limit_s: float) -> float:
        """How long the commit under way takes already, or the last one took, in seconds; 0 if
        that is not more than the limit, or nothing is being written."""
        if self._began is None:
            return 0.0
        longest = max(self._clock() - self._began, self._took_s)
        return longest if longest > limit_s else 0.0

    @property
    def waiting(self) -> Waiting:
        """What is not on the disk yet."""
        return Waiting(self._journal.pending_entries, self._journal.pending_bytes)

    async def run(self) -> None:
        """Write batches for ever, and tidy up when there are none, or now and then."""
        patience: float | None = TIDY_AFTER_S
        with anyio.CancelScope() as scope:
            while True:
                if await self._wake.wait(patience):
                    await self._flush(scope)
                    patience = TIDY_AFTER_S
                    if self._clock() < self._tidied_at + TIDY_EVERY_S:
                        continue
                patience = await self._tidy()

    async def _tidy(self) -> float | None:
        """A step; how long to wait for the next one, None if there is nothing more to do."""
        self._tidied_at = self._clock()
        with anyio.CancelScope(shield=True):
            try:
                more = await self._store.tidy()
            except StoreError as error:
                if not isinstance(error, JournalFailed) or not error.passing:
                    self._failed = True
                    raise
                if error.disk_full:  # it makes room, but takes some
                    return None
                self._on_trouble(error)
                return self._backoff.pause_s()
        self._succeeded()
        return 0.0 if more else None

    async def settle(self) -> None:
        """The broker stops: let a write under way finish, then write what is left.

        Raises JournalFailed if the disk is still full, or fails; does nothing after a failure for
        good.
        """
        self._stopping = True
        if not self._failed:
            await self.flush()
        logger.debug("journal written", extra=self.metrics.summary())

    async def flush(self) -> None:
        """Write until nothing is left. Raises StoreError, for good."""
        with anyio.CancelScope() as scope:
            await self._flush(scope)

    async def _flush(self, scope: anyio.CancelScope) -> None:
        async with self._writing:
            while (batch := self._unwritten or self._journal.take()) is not None:
                self._unwritten = batch
                await self._write(batch, scope)

    async def _write(self, batch: Batch, scope: anyio.CancelScope) -> None:
        """Write one batch, however long the disk lets that take."""
        while (error := await self._try(batch, scope)) is not None:
            # Nothing of the batch is safe, so nothing of it is confirmed; and nothing overtakes it.
            self._on_trouble(error)
            await anyio.sleep(self._retry_s if error.disk_full else self._backoff.pause_s())

    async def _try(self, batch: Batch, scope: anyio.CancelScope) -> JournalFailed | None:
        """What kept it from being written, and may pass; None if it was."""
        # Cancelling cannot stop the thread: wait for it, to know what became of the batch. A scope
        # that is a shield meanwhile, and not one for each commit, which takes 10 us.
        scope.shield = True
        try:
            if batch.is_empty:
                self.metrics.elided += 1
            else:
                self._began = began = self._clock()
                try:
                    await self._store.write(batch)
                except StoreError as error:
                    if isinstance(error, JournalFailed) and error.passing and not self._stopping:
                        self.metrics.retries += 1
                        return error
                    self._failed = True
                    raise
                finally:
                    self._began = None
                    self._took_s = self._clock() - began
                self.metrics.observe(batch, self._took_s)
                self._succeeded()
            self._unwritten = None
            self._journal.committed(batch)
            self._broker.committed(batch.enqueues, batch.barriers, batch.delays)
            self._finish_turn()
        finally:
            scope.shield = False
        return None

    def _succeeded(self) -> None:
        self._backoff.succeeded()
        self._on_trouble(None)
