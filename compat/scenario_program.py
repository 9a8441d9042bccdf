"""Scenario programs: one in each language, for clients that bring no tests of their own.

A program takes the broker from its environment (AMQP_URL; where TLS is used AMQPS_URL, and
CERTIFICATES, a folder of `compat.certificates`), the scenarios to run from its arguments (none: all
of them), and prints a line of JSON for each: {"name", "outcome", "detail", "seconds"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from compat import certificates, harness, python_client

PROGRAM_SECONDS = 1200.0
INSTALL_SECONDS = 600.0


def parse(prefix: str, lines: Iterable[str]) -> list[harness.Result]:
    """Results named `<prefix><scenario>`; what is not one of our lines came from the client."""
    results = []
    for line in lines:
        try:
            said = json.loads(line)
            name, outcome = f"{prefix}{said['name']}", harness.Outcome(said["outcome"])
        except (KeyError, TypeError, ValueError):
            continue
        results.append(harness.Result(name, outcome, said["detail"], said["seconds"]))
    return results


def run(
    ctx: harness.Context,
    argv: Sequence[str | Path],
    *,
    prefix: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> list[harness.Result]:
    """Run one program to its end; one that ends badly is a failure of its own."""
    only = [name.removeprefix(prefix) for name in ctx.only if name.startswith(prefix)]
    if ctx.only and not only:
        return []
    given = {"AMQP_URL": ctx.url.rstrip("/"), **(env or {})}
    limit = min(PROGRAM_SECONDS, ctx.timeout)
    done = harness.command([*argv, *only], timeout=limit, cwd=cwd, env=given, log=log)
    found = parse(prefix, done.output.splitlines())
    if done.code != 0:
        name = f"{prefix}the program"
        found.append(harness.Result(name, harness.Outcome.FAIL, done.tail, done.seconds))
    return found


def run_with_tls(
    ctx: harness.Context,
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> list[harness.Result]:
    """The same against a broker that listens for TLS, too."""
    with with_tls(ctx) as given:
        given |= env or {}
        return run(ctx, argv, cwd=cwd, env=given, log=ctx.work_dir / "program.log")


@contextlib.contextmanager
def with_tls(ctx: harness.Context) -> Iterator[dict[str, str]]:
    """A broker that listens for TLS, too; what programs and test files find it by."""
    folder = certificates.issue(ctx.work_dir)
    with ctx.fresh(tls=folder) as broker:
        given = {"AMQP_URL": broker.url.rstrip("/"), "CERTIFICATES": str(folder)}
        if tls := broker.addresses.get("amqps"):
            account = f"{broker.user}:{broker.password}"
            given["AMQPS_URL"] = f"amqps://{account}@localhost:{tls[0].rpartition(':')[2]}"
        yield given


def run_tests(
    ctx: harness.Context,
    requirements: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
) -> list[harness.Result]:
    """The suite's test files, plain pytest, which take the broker from the environment as programs
    do; they may import from this package what needs nothing but the standard library."""
    python = python_client.environment(ctx.work_dir, requirements)
    files = sorted(path.name for path in ctx.suite_dir.glob("test_*.py"))
    path = os.pathsep.join([str(ctx.suite_dir), str(harness.ROOT)])
    with with_tls(ctx) as given:
        given |= {"PYTHONPATH": path, **(env or {})}
        return python_client.pytest(ctx, python, ctx.suite_dir, files, env=given)


def debian(program: str, test: Sequence[str], packages: Sequence[str]) -> str:
    """`program`, once `test` (its arguments) succeeds; by installing packages if root may do so."""
    if _works(program, test):
        return str(shutil.which(program))
    wanted = " ".join(packages)
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise harness.Unavailable(f"{program} lacks something: apt-get install {wanted}")
    line = [apt, "install", "--yes", "-qq", "--no-install-recommends", *packages]
    line += ["-o", f"DPkg::Lock::Timeout={INSTALL_SECONDS / 2:.0f}"]  # another suite may install
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    done = harness.command(line, timeout=INSTALL_SECONDS, env=quiet)
    if done.code != 0 or not _works(program, test):
        last = done.output.strip().splitlines()[-1:]
        raise harness.Unavailable(f"apt-get install {wanted} did not help: {' '.join(last)}")
    return str(shutil.which(program))


def _works(program: str, test: Sequence[str]) -> bool:
    found = shutil.which(program)
    return found is not None and harness.command([found, *test], timeout=300).code == 0
