"""Scenarios with Dramatiq, a task queue on pika: actors and workers as its guide shows.

It wants durable queues with dead letters and TTL, confirms, prefetch, and passive declares.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, scenario_program

VERSION = "2.2.1"
ABOUT = harness.About("Dramatiq", VERSION, "Python", "scenarios of ours")
REQUIREMENTS = (
    f"dramatiq=={VERSION}",
    "pika==1.3.2",
    "pytest==8.4.2",
    "pytest-timeout==2.4.0",
)


def run(ctx: harness.Context) -> list[harness.Result]:
    """The test file of this folder; it takes the broker from AMQP_URL."""
    return scenario_program.run_tests(ctx, REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
