"""Where time comes from. The core gets it as an argument and never asks."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds that only grow, from an arbitrary beginning."""

    def now(self) -> float:
        """The time of this turn."""


class MonotonicClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()
