"""The tasks of keepers: one for each link that there is to be, from when it is put until it is
dropped.

A link that takes another's place waits until that one has said its last word: the same messages
are not to be held by two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from amqpd.links.keeper import Keeper
from amqpd.links.runner import GOODBYE_S, Surroundings

K = TypeVar("K", bound=Keeper)


class _Entry(Generic[K]):
    """A link, and what it takes to end it."""

    def __init__(self, key: Hashable, keeper: K, previous: _Entry[K] | None) -> None:
        self.key = key
        self.keeper = keeper
        self.previous = previous
        """In whose place it is, until that one's last word is said."""
        self.scope: anyio.CancelScope | None = None
        self.done: anyio.Event | None = None
        """Set when its last word is said; None if it never ran."""

    @property
    def ended(self) -> bool:
        """Its last word is said."""
        return self.done is not None and self.done.is_set()


class Tending(Generic[K]):
    """Links by their keys."""

    def __init__(self, on_finished: Callable[[K], None]) -> None:
        """`on_finished` is called of a link that has done all that it was to do."""
        self._on_finished = on_finished
        self._entries: dict[Hashable, _Entry[K]] = {}
        self._ending: dict[Hashable, _Entry[K]] = {}
        """The last of each key that was stopped, and has not said its last word."""
        self._surroundings: Surroundings | None = None
        self._tasks: TaskGroup | None = None

    def __iter__(self) -> Iterator[K]:
        """All that there are to be."""
        return iter([entry.keeper for entry in self._entries.values()])

    def get(self, key: Hashable) -> K | None:
        """The one with this key."""
        entry = self._entries.get(key)
        return None if entry is None else entry.keeper

    def lineage(self, key: Hashable) -> Iterator[K]:
        """The one with this key, and those before it that have not said their last word."""
        entry = self._entries.get(key)
        while entry is not None:
            yield entry.keeper
            entry = entry.previous

    def put(self, key: Hashable, keeper: K) -> None:
        """A link is wanted, in the place of the one with its key, even if that was dropped: it may
        be about to take away what is the new one's."""
        self._stop(key)
        entry = self._entries[key] = _Entry(key, keeper, self._ending.get(key))
        self._start(entry)

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
                    self._start(entry)
                await anyio.sleep(math.inf)
        finally:
            self._tasks = None

    def _start(self, entry: _Entry[K]) -> None:
        if self._tasks is not None:
            entry.scope = anyio.CancelScope()
            entry.done = anyio.Event()
            self._tasks.start_soon(self._keep, entry)

    def _stop(self, key: Hashable, *, at_once: bool = False) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None and entry.scope is not None and not entry.ended:
            self._ending[key] = entry
            if entry.keeper.retire() and self._tasks is not None and not at_once:
                self._tasks.start_soon(self._lose_patience, entry.scope)
            else:
                entry.scope.cancel()

    async def _lose_patience(self, scope: anyio.CancelScope) -> None:
        """With a link that is to end and waits for somebody."""
        assert self._surroundings is not None
        await self._surroundings.sleep(GOODBYE_S)
        scope.cancel()

    async def _keep(self, entry: _Entry[K]) -> None:
        assert entry.scope is not None
        assert entry.done is not None
        assert self._surroundings is not None
        keeper, finished = entry.keeper, False
        try:
            if entry.previous is not None:
                assert entry.previous.done is not None
                with anyio.CancelScope(shield=True):
                    await entry.previous.done.wait()
                entry.previous = None
            with entry.scope:
                finished = await keeper.run(self._surroundings)
        except Exception:
            # A bug of ours: it ends this link, and nothing else.
            keeper.fail(keeper.internal_error())
        finally:
            entry.done.set()
            if self._ending.get(entry.key) is entry:
                del self._ending[entry.key]
        if finished and entry in self._entries.values():
            self._on_finished(keeper)
