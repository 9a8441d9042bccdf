"""What one task waits for before it goes on: that there is something to do, or that it is time."""

from __future__ import annotations

import asyncio


class Wake:
    """An event that is forgotten once it was waited for.

    The journal's writer waits so before it tidies up: a write that comes first is to be heard of,
    also if it came while nobody waited.
    """

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: asyncio.Future[None] | None = None

    def set(self) -> None:
        """There is something to do."""
        self._is_set = True
        if self._waiting is not None:
            _resolve(self._waiting)

    async def wait(self, patience_s: float | None) -> bool:
        """Until there is, or for so many seconds (None: however long); whether there is.

        Only one task may wait.
        """
        if not self._is_set:
            loop = asyncio.get_running_loop()
            self._waiting = waiting = loop.create_future()
            timer = None
            if patience_s is not None:
                timer = loop.call_later(patience_s, _resolve, waiting)
            try:
                await waiting
            finally:
                self._waiting = None
                if timer is not None:
                    timer.cancel()
        is_set, self._is_set = self._is_set, False
        return is_set


def _resolve(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
