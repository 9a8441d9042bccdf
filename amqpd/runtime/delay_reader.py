"""Reads what waiting rooms ask for: the messages of delayed exchanges that come due next.

turn ──DelayRead──> here ──> store's thread
                                  │
WaitingRoom.fill <──rows, in a turn of their own
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio

from amqpd.broker.waiting_room import DelayRead
from amqpd.runtime.backoff import Backoff
from amqpd.runtime.recovery import restored_delays
from amqpd_storage.entries import StoredDelay
from amqpd_storage.errors import ReadFailed


class DelayStore(Protocol):
    """Where waiting messages are."""

    async def read_delays(
        self, exchange_id: int, after: tuple[int, int], rows_max: int
    ) -> tuple[list[StoredDelay], bool]:
        """The next rows after a due time and sequence, and whether these are the last.

        Raises StoreError. After a ReadFailed they may be asked for again.
        """


class DelayReader:
    """Feeds the waiting rooms of a broker from its store, one read at a time."""

    def __init__(
        self,
        store: DelayStore,
        finish_turn: Callable[[], None],
        on_trouble: Callable[[ReadFailed | None], None],
        backoff: Backoff,
    ) -> None:
        """`on_trouble` hears what kept a read from being one, None if nothing did."""
        self._store = store
        self._finish_turn = finish_turn
        self._on_trouble = on_trouble
        self._backoff = backoff
        self._reads: deque[DelayRead] = deque()
        self._wake = anyio.Event()

    def ask(self, reads: list[DelayRead]) -> None:
        """Answer these as soon as may be."""
        self._reads += reads
        self._wake.set()

    async def run(self) -> None:
        """Answer for ever. Raises StoreError for what is damaged or gone."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._reads:
                await self._answer(self._reads.popleft())

    async def _answer(self, read: DelayRead) -> None:
        """However long the disk lets that take."""
        while True:
            try:
                rows, at_end = await self._store.read_delays(
                    read.exchange_id, read.after, read.rows_max
                )
                break
            except ReadFailed as error:
                self._on_trouble(error)
                await anyio.sleep(self._backoff.pause_s())
        self._backoff.succeeded()
        self._on_trouble(None)
        read.room.fill(restored_delays(read.room, rows), at_end=at_end)
        self._finish_turn()
