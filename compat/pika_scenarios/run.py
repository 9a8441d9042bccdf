"""Scenarios with pika, the client most people know: what the broker does, in so many words.

The test files here are plain pytest and take the broker from AMQP_URL, so that they also run
without this program. `--pika VERSION` runs them with another release of the client.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, scenario_program

VERSION = "1.3.2"
ABOUT = harness.About("pika", VERSION, "Python", "scenarios of ours")


def run(ctx: harness.Context, version: str) -> list[harness.Result]:
    """Every test file of this folder."""
    requirements = (f"pika=={version}", "pytest==8.4.2", "pytest-timeout==2.4.0")
    return scenario_program.run_tests(ctx, requirements)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--pika", default=VERSION, metavar="VERSION")
    mine, rest = parser.parse_known_args()
    sys.exit(harness.main(Path(__file__).parent, lambda ctx: run(ctx, mine.pika), ABOUT, rest))
