"""lapin's own tests: unit tests and tests/ of the crate, which read AMQP_ADDR.

The reconnecting ones bring a TCP proxy of their own; nothing beside AMQP is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, rust_client

VERSION = "4.12.3"
ABOUT = harness.About("lapin", VERSION, "Rust", "its unit and integration tests")
FEATURES = "smol"
"""Beside the default runtime: tests/smol.rs wants it."""


def run(ctx: harness.Context) -> list[harness.Result]:
    """All of them."""
    cargo = harness.need("cargo")
    folder = rust_client.source(cargo, ctx.work_dir, "lapin", VERSION)
    broker = ctx.broker
    vhost = "%2f" if broker.vhost == "/" else broker.vhost
    account = f"{broker.user}:{broker.password}"
    env = {"AMQP_ADDR": f"amqp://{account}@{broker.host}:{broker.port}/{vhost}"}
    return rust_client.run_tests(ctx, cargo, folder, FEATURES, env)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
