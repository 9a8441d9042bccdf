"""Scenarios with aio-pika: asyncio, confirms by default, connections that come back.

The test files here are plain pytest and take the broker from AMQP_URL, so that they also run
without this program.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, scenario_program

VERSION = "10.2.1"
ABOUT = harness.About("aio-pika", VERSION, "Python", "scenarios of ours")
REQUIREMENTS = (
    f"aio-pika=={VERSION}",
    "aiormq==7.2.4",
    "pamqp==4.0.1",
    "anyio==4.11.0",
    "pytest==8.4.2",
    "pytest-timeout==2.4.0",
)


def run(ctx: harness.Context) -> list[harness.Result]:
    """Every test file of this folder."""
    return scenario_program.run_tests(ctx, REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
