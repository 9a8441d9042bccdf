"""The shortest sequence that still shows a difference: delta debugging."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from compat.differential.operations import Operation


def shrink(
    operations: Sequence[Operation],
    fails: Callable[[Sequence[Operation]], bool],
    seconds: float,
) -> list[Operation]:
    """Drop chunks, large ones first, as long as it still fails; within a time limit."""
    deadline = time.monotonic() + seconds
    current = list(operations)
    size = max(1, len(current) // 2)
    while True:
        start = len(current) - size
        dropped = False
        while start > -size and time.monotonic() < deadline:
            shorter = current[: max(start, 0)] + current[start + size :]
            if shorter and len(shorter) < len(current) and fails(shorter):
                current = shorter
                dropped = True
            start -= size
        if time.monotonic() >= deadline or (size == 1 and not dropped):
            return current
        size = max(1, size // 2)
