"""Scenarios with AnyEvent::RabbitMQ, Perl's asynchronous client, as Debian packages it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, scenario_program

VERSION = "1.22"
ABOUT = harness.About("AnyEvent::RabbitMQ", VERSION, "Perl", "scenarios of ours")
TEST = ("-e", f"use AnyEvent::RabbitMQ {VERSION}; use Net::SSLeay")
PACKAGES = ("libanyevent-rabbitmq-perl", "libnet-ssleay-perl")


def run(ctx: harness.Context) -> list[harness.Result]:
    """One program."""
    perl = scenario_program.debian("perl", TEST, PACKAGES)
    return scenario_program.run_with_tls(ctx, [perl, ctx.suite_dir / "scenarios.pl"])


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
