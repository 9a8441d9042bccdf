"""Scenarios with Spring AMQP (Java, through Maven): templates, admin, listener containers."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, java_program, scenario_program

VERSION = "3.2.5"
ABOUT = harness.About("Spring AMQP", VERSION, "Java", "scenarios of ours")
JARS = (
    f"org.springframework.amqp:spring-rabbit:{VERSION}",
    "org.slf4j:slf4j-nop:1.7.36",
)


def run(ctx: harness.Context) -> list[harness.Result]:
    """One program; report and proxy are those of the Java client's scenarios."""
    jars = java_program.classpath(ctx.work_dir, *JARS)
    shared = ctx.suite_dir.parent / "java_client"
    sources = [ctx.suite_dir / "Scenarios.java", shared / "Report.java", shared / "Proxy.java"]
    line = [*java_program.compiled(ctx.work_dir, jars, *sources), "Scenarios"]
    return scenario_program.run_with_tls(ctx, line)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
