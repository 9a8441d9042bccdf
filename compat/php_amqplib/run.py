"""Scenarios with php-amqplib, as Debian packages it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, scenario_program

VERSION = "3.5.3"
ABOUT = harness.About("php-amqplib", VERSION, "PHP", "scenarios of ours")
TEST = ("-r", 'require "PhpAmqpLib/autoload.php"; new PhpAmqpLib\\Message\\AMQPMessage("x");')


def run(ctx: harness.Context) -> list[harness.Result]:
    """One program."""
    php = scenario_program.debian("php", TEST, ("php-cli", "php-amqplib"))
    return scenario_program.run_with_tls(ctx, [php, ctx.suite_dir / "scenarios.php"])


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
