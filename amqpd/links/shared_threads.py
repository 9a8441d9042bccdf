"""Blocking calls in threads of their own, for all who wait for them in one event loop.

    await threads.result(key, call)      what `call()` returns or raises

A call may never return, and those who wait for it give up and come again. So there is one at a time
for each key, however many wait for it, and a limited number in all. The threads are daemons: a
process ends without them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextlib import suppress
from threading import Thread
from typing import Final, Generic, TypeVar, cast

import anyio

THREADS_MAX: Final = 64
PATIENCE_S: Final = 5.0
"""Longest wait for another call's thread: all of them may be needed for a moment, when many links
begin at once."""

Result = TypeVar("Result")


class CallUnderWay(Generic[Result]):
    """In its thread, until `ended` is set."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.result: Result | None = None
        self.failure: Exception | None = None


class SharedThreads(Generic[Result]):
    """Runs calls, each in a thread. Made and used within one event loop, which alone changes it."""

    def __init__(
        self, name: str, threads_max: int = THREADS_MAX, patience_s: float = PATIENCE_S
    ) -> None:
        """`name` is that of the threads, and says in an error what too many of them do."""
        self._name = name
        self._threads_max = threads_max
        self._patience_s = patience_s
        self._under_way: dict[Hashable, CallUnderWay[Result]] = {}
        self._room = anyio.Event()
        """A thread has ended."""

    async def result(self, key: Hashable, call: Callable[[], Result]) -> Result:
        """Of this call, or of the one for the same key that is under way already.

        Raises what the call raises, OSError if there are too many others.
        """
        with anyio.move_on_after(self._patience_s):
            while key not in self._under_way and self._is_full():
                await self._room.wait()
        under_way = self._under_way.get(key) or self._start(key, call)
        await under_way.ended.wait()
        if under_way.failure is not None:
            raise under_way.failure
        return cast(Result, under_way.result)

    def _is_full(self) -> bool:
        return len(self._under_way) >= self._threads_max

    def _start(self, key: Hashable, call: Callable[[], Result]) -> CallUnderWay[Result]:
        if self._is_full():
            raise OSError(
                f"{self._name}: {self._threads_max} have not ended, and no more are begun"
            )
        loop, under_way = asyncio.get_running_loop(), CallUnderWay[Result]()

        def run() -> None:
            try:
                under_way.result = call()
            except Exception as error:
                under_way.failure = error
            # A loop that is closed has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end, key)

        try:
            Thread(target=run, name=self._name, daemon=True).start()
        except RuntimeError as error:
            raise OSError(f"{self._name}: {error}") from None
        self._under_way[key] = under_way
        return under_way

    def _end(self, key: Hashable) -> None:
        self._under_way.pop(key).ended.set()
        self._room.set()
        self._room = anyio.Event()
