"""Scenarios with Node's clients: amqplib, and those that reconnect or have a protocol of their own.

Each client has a program here, `<client>.mjs`, that uses it as its documentation shows and prints
a line of JSON for every scenario; the clients come from the package registry when this is run.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, scenario_program

PACKAGES = {
    "amqplib": "2.3.1",
    "amqp-connection-manager": "5.0.0",
    "@cloudamqp/amqp-client": "4.1.1",
    "rabbitmq-client": "5.0.8",
    "rascal": "21.0.1",
}
CLIENTS = {
    "amqplib": "amqplib",
    "connection_manager": "amqp-connection-manager",
    "cloudamqp": "@cloudamqp/amqp-client",
    "rabbitmq_client": "rabbitmq-client",
    "rascal": "rascal",
}
"""Each program, and the package that it uses."""
ABOUT = tuple(
    harness.About(package, PACKAGES[package], "JavaScript", "scenarios of ours", f"{client}::")
    for client, package in CLIENTS.items()
)
INSTALL_SECONDS = 300


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
        harness.fetched(line, "npm install", timeout=INSTALL_SECONDS, cwd=folder)
        done.write_text(manifest)
    for program in ctx.suite_dir.glob("*.mjs"):
        shutil.copyfile(program, folder / program.name)
    return folder


def run(ctx: harness.Context) -> list[harness.Result]:
    """One program after the other."""
    node = harness.need("node")
    folder = install(ctx)
    results = []
    with scenario_program.with_tls(ctx) as env:
        for client in CLIENTS:
            line, log = [node, f"{client}.mjs"], folder / f"{client}.log"
            results += scenario_program.run(
                ctx, line, prefix=f"{client}::", cwd=folder, env=env, log=log
            )
    return results


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
