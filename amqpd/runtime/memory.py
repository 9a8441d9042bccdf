"""Giving memory back to the system that the C library and Python keep for later.

What Python frees goes to glibc, and stays in its heap as long as anything behind it is in use:
after a burst the process would look as large as it ever was, to the memory alarm too.
`malloc_trim` gives back every whole page of it, in the midst of the heap as well.

Small objects Python keeps in arenas of its own, of a megabyte in 3.11, and gives one back when
nothing in it is in use. A free tuple that it keeps for the next one is enough to hold one, and of
these there are thousands, scattered over all that a burst took. Only a full collection lets them
go.

It is not free: what is given back has to be faulted in again. So only what was not needed for a
while goes, which a broker under load has little of. Elsewhere than with glibc nothing is done.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

IDLE_CHECKS: Final = 5
"""What was free at each of so many checks was not needed meanwhile."""
IDLE_BYTES_MIN: Final = 8 * 1024 * 1024
"""Less is not worth it."""


FREED_BLOCKS_MIN: Final = 100_000
"""Small objects that went: some 10 MB."""
RESTING_BLOCKS_MAX: Final = 5_000
"""So many come or go in a second while nothing much happens."""
COLLECTING_SHARE: Final = 0.001
"""Most of the time that full collections may take. One takes some 0.1 s where there are a hundred
thousand queues that were declared since the start, and no client is served meanwhile."""


M_TRIM_THRESHOLD: Final = -1
M_TOP_PAD: Final = -2
M_MMAP_THRESHOLD: Final = -3
MIB: Final = 1024 * 1024
HEAP_SETTINGS: Final = ((M_TRIM_THRESHOLD, 64 * MIB), (M_TOP_PAD, MIB), (M_MMAP_THRESHOLD, 4 * MIB))
"""What is free at the end of the heap before it is given back at once; by how much the heap grows
at a time; from what size on memory is borrowed apart from the heap. (`mallopt`, malloc.h.)"""


class HeapFigures(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


class Heap(NamedTuple):
    """The two calls that are needed."""

    free_bytes: Callable[[], int]
    """What is in the heap, and not in use."""
    trim: Callable[[], object]
    """Give back whole pages of that."""


def system_heap() -> Heap | None:
    """glibc's, or None where there is none, or an old one."""
    library = ctypes.CDLL(None)
    try:
        mallinfo2, malloc_trim = library.mallinfo2, library.malloc_trim
    except AttributeError:
        return None
    mallinfo2.restype = HeapFigures
    malloc_trim.argtypes = [ctypes.c_size_t]

    def free_bytes() -> int:
        figures: int = mallinfo2().fordblks
        return figures

    return Heap(free_bytes, lambda: malloc_trim(0))


def keep_for_the_next_turn() -> bool:
    """Have glibc keep what one turn frees, for the next one takes as much; whether it can.

    By itself it gives back what lies at the end of the heap as soon as that is some 512 KB, and
    faults it in again: 3 % of the processor's time for a small message, 11 % for one of 64 KB.
    What lies idle goes back nevertheless, see `MemoryReturn`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) == 1 for setting in HEAP_SETTINGS)


class Reserves:
    """What Python keeps. Asked once a second whether there is much less in use than there was."""

    def __init__(
        self,
        blocks: Callable[[], int] = sys.getallocatedblocks,
        collect: Callable[[], object] = gc.collect,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`blocks` are the small objects in use; to count them takes a tenth of a millisecond."""
        self._blocks = blocks
        self._collect = collect
        self._clock = clock
        self._latest = self._most = 0
        self._collect_at = 0.0
        """Not before."""

    @property
    def is_due(self) -> bool:
        """Look once more; whether a burst is over, and all of it gone: the fewer objects are left,
        the shorter a collection takes."""
        before, self._latest = self._latest, self._blocks()
        self._most = max(self._most, self._latest)
        return (
            self._most - self._latest >= FREED_BLOCKS_MIN
            and abs(before - self._latest) <= RESTING_BLOCKS_MAX
            and self._clock() >= self._collect_at
        )

    def collect(self) -> None:
        """Let them go. In the event loop's thread: what is collected may belong to it."""
        began = self._clock()
        self._collect()
        ended = self._clock()
        self._collect_at = ended + (ended - began) / COLLECTING_SHARE
        self._most = 0


class MemoryReturn:
    """Asked once a second whether something lies idle."""

    def __init__(self, heap: Heap | None) -> None:
        self._heap = heap
        self._free: deque[int] = deque(maxlen=IDLE_CHECKS)
        self._given = 0
        """Of what the heap counts as free, what was given back already and not taken again."""

    @property
    def is_due(self) -> bool:
        """Look once more; whether so much lay idle that `trim` is worth it."""
        if self._heap is None:
            return False
        free = self._heap.free_bytes()
        self._free.append(free)
        self._given = min(self._given, free)
        return len(self._free) == IDLE_CHECKS and min(self._free) - self._given >= IDLE_BYTES_MIN

    def trim(self) -> None:
        """Give it back. Takes a quarter of a millisecond for each megabyte, in any thread."""
        assert self._heap is not None
        self._heap.trim()
        self._free.clear()
        self._given = self._heap.free_bytes()
