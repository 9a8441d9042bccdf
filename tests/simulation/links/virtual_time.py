"""An event loop whose time is virtual: nothing waits, and everything happens in the same order.

What asyncio and anyio run is what runs in a broker; only, where nobody has anything to do, the time
of the next timer comes at once. There are no sockets, threads or signals here.

anyio keeps the tasks of a scope in a set, and cancels them in its order, which is that of addresses
in memory: `ordered_scopes` makes it the order in which they were added.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Iterator, MutableSet
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

from anyio._backends import _asyncio as anyio_asyncio

T = TypeVar("T", bound=Hashable)


class Deadlock(AssertionError):
    """Everybody waits, and nothing will ever happen."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Drives callbacks, tasks and timers; it is its own selector, of nothing."""

    def __init__(self, began: float = 1000.0) -> None:
        super().__init__()
        self._now = began
        self._selector = self

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Where a loop waits for sockets until its next timer, time passes."""
        if timeout is None:
            raise Deadlock("nobody has anything to do, now or later")
        self._now += max(0.0, timeout)
        return []

    def _process_events(self, events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There is no other thread that could want to wake this one."""


class OrderedSet(MutableSet[T]):
    """A set that remembers in which order it was filled."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: T) -> None:
        """Put it at the end, unless it is there."""
        self._items[value] = None

    def discard(self, value: T) -> None:
        """Take it out, if it is there."""
        self._items.pop(value, None)


@contextmanager
def ordered_scopes() -> Iterator[None]:
    """While it lasts, anyio's new scopes and groups of tasks are in order."""
    with patch.object(anyio_asyncio, "set", OrderedSet, create=True):
        yield
