"""Scenarios with Nameko, microservices on kombu and eventlet: RPC, events, messaging.

Services run in the test's own process, with their own exchanges and queues.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, scenario_program

VERSION = "2.14.1"
ABOUT = harness.About("Nameko", VERSION, "Python", "scenarios of ours")
REQUIREMENTS = (
    f"nameko=={VERSION}",
    "kombu==5.7.0",
    "amqp==5.4.2",
    "eventlet==0.40.3",
    "setuptools==80.9.0",
    "pytest==8.4.2",
    "pytest-timeout==2.4.0",
)


def run(ctx: harness.Context) -> list[harness.Result]:
    """The test file of this folder; it takes the broker from AMQP_URL."""
    return scenario_program.run_tests(ctx, REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
