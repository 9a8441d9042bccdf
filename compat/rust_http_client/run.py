"""rabbitmq_http_client: a client of the HTTP API, blocking and async; the crate's own tests.

They know two addresses, localhost:5672 and localhost:15672, a virtual host and an account. In the
copy that is built the ports are our own, the same ones in each run of a work dir.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, rust_client

VERSION = "0.93.0"
ABOUT = harness.About("rabbitmq_http_client", VERSION, "Rust", "its integration tests")
FEATURES = "blocking,async,tabled,zeroize,native-tls"
VHOST = "rust/http/api/client"
EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
DEFINITIONS = {
    "users": [
        {"name": "guest", "password": "guest", "tags": "administrator"},
        {"name": "rust3", "password": "rust3", "tags": ""},
    ],
    "vhosts": [{"name": "/"}, {"name": VHOST}],
    "permissions": [
        {"user": "guest", "vhost": "/", **EVERYTHING},
        {"user": "guest", "vhost": VHOST, **EVERYTHING},
        {"user": "rust3", "vhost": "/", **EVERYTHING},
    ],
}


def run(ctx: harness.Context) -> list[harness.Result]:
    """The integration tests: the others are units of the client."""
    cargo = harness.need("cargo")
    ports = rust_client.kept_ports(ctx.work_dir)
    folder = rust_client.source(cargo, ctx.work_dir, "rabbitmq_http_client", VERSION)
    rust_client.replace_ports(folder, *ports)
    definitions = ctx.work_dir / "http-client-definitions.json"
    definitions.write_text(json.dumps(DEFINITIONS))
    with ctx.fresh(ports=ports, definitions=definitions):
        return rust_client.run_tests(ctx, cargo, folder, FEATURES, {}, ("--test", "integration"))


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
