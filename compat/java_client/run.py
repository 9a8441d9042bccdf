"""Scenarios with RabbitMQ's Java client (Java, through Maven).

Confirms, returns, qos, RPC, TLS, automatic recovery through a proxy, errors, every header type.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, java_program, scenario_program

VERSION = "5.37.0"
ABOUT = harness.About("com.rabbitmq:amqp-client", VERSION, "Java", "scenarios of ours")
JARS = (f"com.rabbitmq:amqp-client:{VERSION}", "org.slf4j:slf4j-nop:1.7.36")


def run(ctx: harness.Context) -> list[harness.Result]:
    """One program."""
    jars = java_program.classpath(ctx.work_dir, *JARS)
    sources = sorted(ctx.suite_dir.glob("*.java"))
    line = [*java_program.compiled(ctx.work_dir, jars, *sources), "Scenarios"]
    return scenario_program.run_with_tls(ctx, line)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
