"""rabbitmqadmin 2 (rabbitmqadmin-ng): the crate's tests run the command against the HTTP API.

They know two addresses, localhost:5672 and localhost:15672. In the copy that is built these are
ports of our own, the same ones in each run of a work dir.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, rust_client

VERSION = "2.35.0"
ABOUT = harness.About("rabbitmqadmin-ng", VERSION, "Rust", "its integration tests")


def run(ctx: harness.Context) -> list[harness.Result]:
    """The integration tests: the others are units of the client."""
    cargo = harness.need("cargo")
    ports = rust_client.kept_ports(ctx.work_dir)
    folder = rust_client.source(cargo, ctx.work_dir, "rabbitmqadmin", VERSION)
    rust_client.replace_ports(folder, *ports)
    with ctx.fresh(ports=ports):
        return rust_client.run_tests(
            ctx, cargo, folder, "native-tls", {}, ("--test", "integration")
        )


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
