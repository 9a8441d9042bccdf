"""Reads for queues what they have on disk only, one page after the other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio

from amqpd.broker.paging import PageRequest
from amqpd.runtime.backoff import Backoff
from amqpd_storage.entries import StoredMessage
from amqpd_storage.errors import ReadFailed


class Pages(Protocol):
    """Where messages are read from."""

    async def read_messages(self, after: int, last: int, rows_max: int) -> list[StoredMessage]:
        """The next messages above the key `after`, up to `last`.

        Raises StoreError. After a ReadFailed they may be asked for again.
        """


class Pager:
    """Answers the page requests of one broker from one store."""

    def __init__(
        self,
        store: Pages,
        finish_turn: Callable[[], None],
        on_trouble: Callable[[ReadFailed | None], None],
        backoff: Backoff,
    ) -> None:
        """`on_trouble` hears what cannot be read, and None when all was read."""
        self._store = store
        self._finish_turn = finish_turn
        self._on_trouble = on_trouble
        self._backoff = backoff
        self._wake = anyio.Event()
        self._requests: deque[PageRequest] = deque()
        self._probes: deque[PageRequest] = deque()
        """Of queues nobody has asked anything of since the start."""
        self._failed: list[PageRequest] = []
        """To be tried again: a page that cannot be read keeps no other queue waiting."""
        self._retry_at = math.inf

    def ask(self, requests: list[PageRequest]) -> None:
        """Answer these as soon as possible."""
        for request in requests:
            (self._probes if request.is_probe else self._requests).append(request)
        self._wake.set()

    async def run(self) -> None:
        """Answer requests for ever. Raises StoreError for what is damaged or gone."""
        while True:
            with anyio.CancelScope(deadline=self._retry_at):
                await self._wake.wait()
            self._wake = anyio.Event()
            if anyio.current_time() >= self._retry_at:
                failed, self._failed = self._failed, []
                self._retry_at = math.inf
                self.ask(failed)
            while self._requests or self._probes:
                await self._answer((self._requests or self._probes).popleft())

    async def _answer(self, request: PageRequest) -> None:
        try:
            pages = [
                await self._store.read_messages(after, last, request.rows_max)
                for after, last in request.ranges
            ]
        except ReadFailed as error:
            if not self._failed:
                self._retry_at = anyio.current_time() + self._backoff.pause_s()
            self._failed.append(request)
            self._on_trouble(error)
            return
        if not self._failed:
            self._on_trouble(None)
            self._backoff.succeeded()
        request.queue.page_in(request, pages)
        self._finish_turn()
