"""Everything that is done to a broker besides plain queues while it is killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.runtime.exercises import DeadLetters, Definitions, Priorities, Purges
from tests.runtime.kills import Exercise
from tests.runtime.rule_exercises import (
    Deduplication,
    Delays,
    DeliveryLimits,
    Policies,
    SureDeadLetters,
)

EXERCISES: Final[tuple[Callable[[], Exercise], ...]] = (
    Priorities,
    DeadLetters,
    Purges,
    Definitions,
    Policies,
    DeliveryLimits,
    Delays,
    Deduplication,
    SureDeadLetters,
)


def every_exercise() -> list[Exercise]:
    """One of each."""
    return [make() for make in EXERCISES]
