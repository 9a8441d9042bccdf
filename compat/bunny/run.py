"""Scenarios with Bunny, Ruby's client, as Debian packages it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, scenario_program

VERSION = "2.19.0"
ABOUT = harness.About("Bunny", VERSION, "Ruby", "scenarios of ours")
TEST = ("-e", f'require "bunny"; exit Bunny::VERSION == "{VERSION}"')


def run(ctx: harness.Context) -> list[harness.Result]:
    """One program."""
    ruby = scenario_program.debian("ruby", TEST, ("ruby", "ruby-bunny"))
    return scenario_program.run_with_tls(ctx, [ruby, ctx.suite_dir / "scenarios.rb"])


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
