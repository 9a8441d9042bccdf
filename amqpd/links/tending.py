"""The tasks of keepers: one for each link that there is to be, from when it is put until it is
dropped.

A link that takes another's place waits until that one has said its last word: the same messages
are not to be held by two.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from amqpd.links.keeper import INTERNAL_ERROR, Keeper
from amqpd.links.runner import GOODBYE_S, Surroundings

K = TypeVar("K", bound=Keeper)


class _Entry(Generic[K]):
    """A link, and what it takes to end it."""

    def __init__(self, key: Hashable, keeper: K) -> None:
        self.key = key
        self.keeper = keeper
        self.scope: anyio.CancelScope | None = None
        self.done: anyio.Event | None = None
        """Set when its last word is said; None if it never ran."""


class Tending(Generic[K]):
    """Links by their keys."""

    def __init__(self, logger: logging.Logger, on_finished: Callable[[K], None]) -> None:
        """`on_finished` is called of a link that has done all that it was to do."""
        self._logger = logger
        self._on_finished = on_finished
        self._entries: dict[Hashable, _Entry[K]] = {}
        self._ending: dict[Hashable, _Entry[K]] = {}
        """Those that were dropped last, and have not said their last word."""
        self._surroundings: Surroundings | None = None
        self._tasks: TaskGroup | None = None

    def __iter__(self) -> Iterator[K]:
        """All that there are to be."""
        return iter([entry.keeper for entry in self._entries.values()])

    def get(self, key: Hashable) -> K | None:
        """The one with this key."""
        entry = self._entries.get(key)
        return None if entry is None else entry.keeper

    def put(self, key: Hashable, keeper: K) -> None:
        """A link is wanted, in the place of the one with its key, even if that was dropped: it may
        be about to take away what is the new one's."""
        previous = self._stop(key) or self._ending.get(key)
        entry = self._entries[key] = _Entry(key, keeper)
        self._start(entry, previous)

    def drop(self, key: Hashable, *, at_once: bool = False) -> None:
        """It is not wanted any more. It settles what it has taken, or `at_once` leaves it."""
        self._stop(key, at_once=at_once)

    async def run(self, surroundings: Surroundings) -> None:
        """Keep the links going until cancelled."""
        self._surroundings = surroundings
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for entry in self._entries.values():
                    self._start(entry, None)
                await anyio.sleep(math.inf)
        finally:
            self._tasks = None

    def _start(self, entry: _Entry[K], previous: _Entry[K] | None) -> None:
        if self._tasks is not None:
            entry.scope = anyio.CancelScope()
            entry.done = anyio.Event()
            self._tasks.start_soon(self._keep, entry, previous)

    def _stop(self, key: Hashable, *, at_once: bool = False) -> _Entry[K] | None:
        entry = self._entries.pop(key, None)
        if entry is not None and entry.scope is not None:
            self._ending[key] = entry
            if entry.keeper.retire() and self._tasks is not None and not at_once:
                self._tasks.start_soon(self._lose_patience, entry.scope)
            else:
                entry.scope.cancel()
        return entry

    async def _lose_patience(self, scope: anyio.CancelScope) -> None:
        """With a link that is to end and waits for somebody."""
        assert self._surroundings is not None
        await self._surroundings.sleep(GOODBYE_S)
        scope.cancel()

    async def _keep(self, entry: _Entry[K], previous: _Entry[K] | None) -> None:
        assert entry.scope is not None
        assert entry.done is not None
        assert self._surroundings is not None
        keeper, finished = entry.keeper, False
        try:
            if previous is not None and previous.done is not None:
                with anyio.CancelScope(shield=True):
                    await previous.done.wait()
            with entry.scope:
                finished = await keeper.run(self._surroundings)
        except Exception:
            # A bug of ours: it ends this link, and nothing else.
            self._logger.exception("internal error", extra={"link": keeper.name})
            keeper.fail(INTERNAL_ERROR)
        finally:
            entry.done.set()
            if self._ending.get(entry.key) is entry:
                del self._ending[entry.key]
        if finished and entry in self._entries.values():
            self._on_finished(keeper)
