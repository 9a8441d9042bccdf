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
from amqpd.runtime.recovery import restored_delays
from amqpd_storage.entries import StoredDelay


class DelayStore(Protocol):
    """Where waiting messages are."""

    async def read_delays(
        self, exchange_id: int, after: tuple[int, int], rows_max: int
    ) -> tuple[list[StoredDelay], bool]:
        """The next rows after a due time and sequence, and whether these are the last.

        Raises StoreError.
        """


class DelayReader:
    """Feeds the waiting rooms of a broker from its store, one read at a time."""

    def __init__(self, store: DelayStore, finish_turn: Callable[[], None]) -> None:
        self._store = store
        self._finish_turn = finish_turn
        self._reads: deque[DelayRead] = deque()
        self._wake = anyio.Event()

    def ask(self, reads: list[DelayRead]) -> None:
        """Answer these as soon as may be."""
        self._reads += reads
        self._wake.set()

    async def run(self) -> None:
        """Answer for ever. Raises StoreError for what cannot be read."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._reads:
                read = self._reads.popleft()
                rows, at_end = await self._store.read_delays(
                    read.exchange_id, read.after, read.rows_max
                )
                read.room.fill(restored_delays(read.room, rows), at_end=at_end)
                self._finish_turn()
