"""Where time comes from. The core gets it as an argument and never asks."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds that only grow, from an arbitrary beginning."""

    def now(self) -> float:
        """The time of this turn."""

    def epoch_s(self) -> float:
        """The time since 1970 at which this clock would have shown 0."""


class MonotonicClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()

    def epoch_s(self) -> float:
        """The time since 1970 at which this clock would have shown 0, as things stand now."""
        return time.time() - time.monotonic()
