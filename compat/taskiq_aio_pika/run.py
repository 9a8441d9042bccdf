"""Scenarios with taskiq-aio-pika, an asyncio task queue: tasks, labels, delays, dead letters.

A receiver works in the test's own process.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, scenario_program

VERSION = "0.6.1"
ABOUT = harness.About("taskiq-aio-pika", VERSION, "Python", "scenarios of ours")
REQUIREMENTS = (
    f"taskiq-aio-pika=={VERSION}",
    "taskiq==0.13.0",
    "aio-pika==10.2.1",
    "aiormq==7.2.4",
    "pytest==8.4.2",
    "pytest-timeout==2.4.0",
)


def run(ctx: harness.Context) -> list[harness.Result]:
    """The test file of this folder; it takes the broker from AMQP_URL."""
    return scenario_program.run_tests(ctx, REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
