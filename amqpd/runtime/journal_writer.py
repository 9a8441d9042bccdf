"""Group commit: whatever was appended while a commit is under way goes into the next one.

    turn ──entries──> Journal ──batch──> writer thread (one transaction, one flush)
                                              │
    outlets <──confirms, held replies── Broker.committed

Nobody waits for it but those that asked for safety. It goes on from callback to callback: without a
task that is woken to hand a batch over, and again when it is written, one message in flight is
confirmed a tenth sooner. If a commit fails, nothing of it is confirmed.
A disk that is full or fails is waited for: publishers are blocked, consumers go on, and the same
batch is given to the store again, which finds out what became of it. After any other failure the
broker stops: it must not go on promising what it could not write.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Final, Protocol

import anyio

from amqpd.broker.broker import Broker
from amqpd.runtime.backoff import Backoff
from amqpd.runtime.commit_metrics import CommitMetrics, Waiting
from amqpd_storage.entries import Entry
from amqpd_storage.errors import JournalFailed, StoreError
from amqpd_storage.journal import Batch, Journal

logger: Final = logging.getLogger("amqpd.journal")

UNAWAITED_EVERY_S: Final = 0.005
"""From one batch that nobody waits for to the next, at least."""
TIDY_AFTER_S: Final = 0.05
"""So long nothing was to be written: time to tidy up."""
TIDY_EVERY_S: Final = 1.0
"""A step at least so often, however much there is to write."""


class Store(Protocol):
    """Where batches go."""

    def start_write(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        """Write one batch in one transaction. `done` is called in a later turn of the event loop:
        with None once it is flushed, or with what kept it from being written.

        If that is a JournalFailed that is `passing`, the same batch may be given to this again.
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
        unawaited_every_s: float = UNAWAITED_EVERY_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`on_trouble` hears what keeps batches from being written, and None once nothing does.

        A disk that is full is tried again each `retry_s`, one that fails more and more seldom, up
        to `retry_max_s`. `clock` measures how long commits take, and when the last one ended.
        """
        self.metrics = CommitMetrics()
        self._clock = clock
        self._broker = broker
        self._store = store
        self._finish_turn = finish_turn
        self._bytes_max = bytes_max
        self._journal = Journal()
        self._unawaited_every_s = unawaited_every_s
        self._retry_s = retry_s
        self._backoff = Backoff(retry_s, retry_max_s)
        self._on_trouble = on_trouble
        self._in_trouble = False
        self._unwritten: Batch | None = None
        """Taken from the journal, and not written yet."""
        self._beginning = False
        """The next batch is about to be taken."""
        self._later: asyncio.TimerHandle | None = None
        """The next batch is taken then, unless somebody is to wait for it."""
        self._unawaited_at = -math.inf
        """When the last batch was flushed, if nobody waited for that one."""
        self._retrying: asyncio.TimerHandle | None = None
        """The disk is given a pause."""
        self._tidying = False
        """Somebody tidies up, or will when the batch under way is written: no other one is."""
        self._stopping = False
        self._failure: BaseException | None = None
        """Nothing is written any more."""
        self._resting: list[asyncio.Future[None]] = []
        """Of who waits for a moment without a batch under way."""
        self._wake = anyio.Event()
        """Who tidies up is to look again."""
        self._asleep = False
        """There is nothing to tidy up before more was written."""
        self._commits = 0
        self._tidied_at = 0.0
        self._began: float | None = None
        """When the attempt under way began."""
        self._took_s = 0.0
        """The last one."""

    def append(self, entries: list[Entry]) -> None:
        """Keep these. They are written with what else comes in this turn of the event loop, as soon
        as the commit under way is done; a little later if nobody waits for them."""
        self._journal.append_all(entries)
        if self._unwritten is None and not self._beginning:
            self._begin_in_time()

    @property
    def full(self) -> bool:
        """So much waits to be written that publishers should wait as well."""
        return self._journal.pending_bytes > self._bytes_max

    @property
    def busy(self) -> bool:
        """Something is being written, or will be at once."""
        paused = self._later is not None and not self._beginning
        return self._unwritten is not None or (self._journal.has_pending and not paused)

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

    # -- batches

    def _begin_in_time(self) -> None:
        """Something is pending, and nothing under way.

        While a queue is drained acknowledgements come without end, and nobody waits for them.
        Commits of few, one right after the other, took a sixth of the processor time of each
        message. The first one waits for nothing: what is left open by a crash is less, and so it is
        where single messages come and go.
        """
        if not (self._journal.awaited or self._resting):
            if self._later is not None:
                return
            pause_s = self._unawaited_at + self._unawaited_every_s - self._clock()
            if pause_s > 0:
                self._later = asyncio.get_running_loop().call_later(pause_s, self._begin)
                return
        self._begin_soon()

    def _begin_soon(self) -> None:
        self._beginning = True
        asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Take the next batch and hand it over, if there is one and nothing is in its way."""
        self._beginning = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._unwritten is not None:
            return
        try:
            while self._may_begin and (batch := self._journal.take()) is not None:
                self._unwritten = batch
                if not batch.is_empty:
                    if self._asleep:
                        self._wake.set()
                    self._attempt()
                    return
                self.metrics.elided += 1
                self._committed(batch)
        except Exception as error:
            self._fail(error)
        self._rest()

    @property
    def _may_begin(self) -> bool:
        return not self._tidying and self._failure is None

    def _attempt(self) -> None:
        self._retrying = None
        assert self._unwritten is not None
        self._began = self._clock()
        self._store.start_write(self._unwritten, self._attempted)

    def _attempted(self, error: BaseException | None) -> None:
        """The store is done with the batch under way."""
        began, batch = self._began, self._unwritten
        assert began is not None
        assert batch is not None
        ended = self._clock()
        self._took_s = ended - began
        self._began = None
        if error is not None:
            self._not_written(error)
            return
        self._commits += 1
        self._unawaited_at = -math.inf if batch.awaited else ended
        try:
            self.metrics.observe(batch, self._took_s)
            self._succeeded()
            self._committed(batch)
        except Exception as fault:
            self._fail(fault)
            return
        if self._journal.has_pending:
            # What can be read by now belongs to it as well: without that, a quarter fewer a second.
            self._begin_in_time()
        else:
            self._rest()

    def _committed(self, batch: Batch) -> None:
        self._beginning = True  # after the turn that ends here
        self._unwritten = None
        self._journal.committed(batch)
        self._broker.committed(batch.enqueues, batch.barriers, batch.delays)
        self._finish_turn()
        self._beginning = False

    def _not_written(self, error: BaseException) -> None:
        """Nothing of the batch is safe, so nothing of it is confirmed; and nothing overtakes it."""
        if not isinstance(error, JournalFailed) or not error.passing or self._stopping:
            self._fail(error)
            return
        self.metrics.retries += 1
        self._troubled(error)
        pause_s = self._retry_s if error.disk_full else self._backoff.pause_s()
        self._retrying = asyncio.get_running_loop().call_later(pause_s, self._attempt)

    def _fail(self, error: BaseException) -> None:
        """For good: `run`, or who waits for the rest to be written, says so."""
        self._failure = error
        self._wake.set()
        self._rest()

    def _troubled(self, error: JournalFailed) -> None:
        self._in_trouble = True
        self._on_trouble(error)

    def _succeeded(self) -> None:
        if self._in_trouble:
            self._in_trouble = False
            self._backoff.succeeded()
            self._on_trouble(None)

    # -- who waits

    async def run(self) -> None:
        """Tidy up when there is nothing to be written, or now and then, for ever.

        Raises what kept a batch from being written, or the store from being tidied up, for good.
        """
        patience_s = TIDY_AFTER_S
        commits = self._commits
        while True:
            self._asleep = patience_s == math.inf
            with anyio.move_on_after(patience_s):
                await self._wake.wait()
            woken, self._wake = self._wake.is_set(), anyio.Event()
            self._asleep = False
            if self._failure is not None:
                raise self._failure
            quiet, commits = commits == self._commits, self._commits
            due = quiet or self._clock() >= self._tidied_at + TIDY_EVERY_S
            if due and not woken:
                patience_s = await self._tidy()
            else:
                patience_s = TIDY_AFTER_S

    async def _tidy(self) -> float:
        """A step; how long to wait for the next one, for ever if there is nothing more to do."""
        self._tidying = True
        try:
            while self._unwritten is not None:
                await self._rested()
            return await self._tidy_at_once()
        finally:
            self._tidying = False
            self._begin()

    async def _tidy_at_once(self) -> float:
        self._tidied_at = self._clock()
        try:
            with anyio.CancelScope(shield=True):  # cancelling cannot stop the thread
                more = await self._store.tidy()
        except StoreError as error:
            if not isinstance(error, JournalFailed) or not error.passing:
                self._failure = error
                raise
            if error.disk_full:  # it makes room, but takes some
                return math.inf
            self._troubled(error)
            return self._backoff.pause_s()
        self._succeeded()
        return 0.0 if more else math.inf

    async def settle(self) -> None:
        """The broker stops: let a write under way finish, then write what is left.

        Raises JournalFailed if the disk is still full, or fails; does nothing after a failure for
        good.
        """
        self._stopping = True
        if self._failure is None:
            if self._retrying is not None:
                self._retrying.cancel()
                self._attempt()
            await self.flush()
        logger.debug("journal written", extra=self.metrics.summary())

    async def flush(self) -> None:
        """Wait until nothing is left to be written. Raises StoreError, for good."""
        while self._unwritten is not None or self._journal.has_pending:
            await self._rested()

    async def _rested(self) -> None:
        """Until a moment comes in which no batch is under way. Raises what keeps it from coming."""
        if self._failure is None:
            resting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._resting.append(resting)
            if self._later is not None:
                self._begin_soon()
            await resting
        if self._failure is not None:
            raise self._failure

    def _rest(self) -> None:
        resting, self._resting = self._resting, []
        for each in resting:
            if not each.done():
                each.set_result(None)
