"""SIGTERM and Ctrl-C: the first asks for an orderly stop, the second ends the process at once.

The second one has to work whatever the first set going hangs in: a task that does not heed its
cancellation, a flush to a disk that does not answer, a thread that is waited for when the event
loop is long gone. So it is a plain signal handler, which needs no loop, and it does not raise an
exception that somebody on the way might wait with: it leaves. What was confirmed is on the disk.
"""

from __future__ import annotations

import asyncio
import os
import signal
from types import FrameType
from typing import Final

from amqpd.exit_codes import EX_FORCED

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
LAST_WORDS: Final = b"amqpd: forced to stop: what was confirmed is safe\n"


class StopSignals:
    """Installed by `watch` in the main thread, and kept until the process ends."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()
        self._number: signal.Signals | None = None

    def watch(self) -> None:
        """From here on a signal is an orderly stop."""
        for number in STOPPING:
            signal.signal(number, self._handle)

    async def first(self) -> signal.Signals:
        """Return when the process is to stop."""
        await self._asked.wait()
        assert self._number is not None
        return self._number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._number is None and not self._loop.is_closed():
            self._number = signal.Signals(number)
            self._loop.call_soon_threadsafe(self._asked.set)
            return
        os.write(2, LAST_WORDS)
        os._exit(EX_FORCED)
