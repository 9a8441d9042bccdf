"""Reads for queues what they have on disk only, one page after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio

from amqpd.broker.paging import PageRequest
from amqpd_storage.entries import StoredMessage


class Pages(Protocol):
    """Where messages are read from."""

    async def read_messages(self, after: int, last: int, rows_max: int) -> list[StoredMessage]:
        """The next messages above the key `after`, up to `last`. Raises StoreError."""


class Pager:
    """Answers the page requests of one broker from one store."""

    def __init__(self, store: Pages, finish_turn: Callable[[], None]) -> None:
        self._store = store
        self._finish_turn = finish_turn
        self._wake = anyio.Event()
        self._requests: deque[PageRequest] = deque()
        self._probes: deque[PageRequest] = deque()
        """Of queues nobody has asked anything of since the start."""

    def ask(self, requests: list[PageRequest]) -> None:
        """Answer these as soon as possible."""
        for request in requests:
            (self._probes if request.is_probe else self._requests).append(request)
        self._wake.set()

    async def run(self) -> None:
        """Answer requests for ever. Raises StoreError."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._requests or self._probes:
                await self._answer((self._requests or self._probes).popleft())

    async def _answer(self, request: PageRequest) -> None:
        pages = [
            await self._store.read_messages(after, last, request.rows_max)
            for after, last in request.ranges
        ]
        request.queue.page_in(request, pages)
        self._finish_turn()
