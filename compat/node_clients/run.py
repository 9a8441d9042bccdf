"""Scenarios with Node's clients: amqplib, and those that reconnect or have a protocol of their own.

Each client has a program here, `<client>.mjs`, that uses it as its documentation shows and prints
a line of JSON for every scenario; the clients come from the package registry when this is run.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness

PACKAGES = {
    "amqplib": "2.3.1",
    "amqp-connection-manager": "5.0.0",
    "@cloudamqp/amqp-client": "4.1.1",
    "rabbitmq-client": "5.0.8",
    "rascal": "21.0.1",
}
CLIENTS = ("amqplib", "connection_manager", "cloudamqp", "rabbitmq_client", "rascal")
INSTALL_SECONDS = 300
CLIENT_SECONDS = 300


def install(ctx: harness.Context) -> Path:
    """A folder with the clients, and the programs beside them: that is where Node looks."""
    npm = harness.need("npm")
    folder = ctx.work_dir / "node"
    folder.mkdir(exist_ok=True)
    manifest = json.dumps({"private": True, "dependencies": PACKAGES}, indent=1)
    package, done = folder / "package.json", folder / "installed.json"
    if not done.exists() or done.read_text() != manifest:
        package.write_text(manifest)
        line = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        harness.must(harness.command(line, timeout=INSTALL_SECONDS, cwd=folder), "npm install")
        done.write_text(manifest)
    for program in ctx.suite_dir.glob("*.mjs"):
        shutil.copyfile(program, folder / program.name)
    return folder


def parse(client: str, lines: Iterable[str]) -> list[harness.Result]:
    """Results named `client::scenario`; what is not one of our lines came from the client."""
    results = []
    for line in lines:
        try:
            said = json.loads(line)
            name, outcome = f"{client}::{said['name']}", harness.Outcome(said["outcome"])
        except (KeyError, TypeError, ValueError):
            continue
        results.append(harness.Result(name, outcome, said["detail"], said["seconds"]))
    return results


def run(ctx: harness.Context) -> list[harness.Result]:
    """One program after the other."""
    node = harness.need("node")
    folder = install(ctx)
    deadline = time.monotonic() + ctx.timeout
    results = []
    for client in CLIENTS:
        only = [name.partition("::")[2] for name in ctx.only if name.startswith(f"{client}::")]
        left = min(CLIENT_SECONDS, deadline - time.monotonic())
        if left < 1 or (ctx.only and not only):
            continue
        done = harness.command(
            [node, f"{client}.mjs", *only],
            timeout=left,
            cwd=folder,
            env={"AMQP_URL": ctx.url.rstrip("/")},
            log=folder / f"{client}.log",
        )
        found = parse(client, done.output.splitlines())
        if done.code != 0:
            name = f"{client}: the program"
            found.append(harness.Result(name, harness.Outcome.FAIL, done.tail, done.seconds))
        results += found
    return results


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run))
