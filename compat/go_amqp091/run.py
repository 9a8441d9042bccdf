"""amqp091-go's own tests: the module comes from the Go proxy, nothing of it is kept here.

Its integration tests are behind the build tag `integration` and read AMQP_URL. Two things they
want beside AMQP: an HTTP API on localhost:15672 (fixed in their source), and a rabbitmqctl.
"""

from __future__ import annotations

import sys
import urllib.parse
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import go_client, harness

MODULE = "github.com/rabbitmq/amqp091-go@v1.16.0"
ABOUT = harness.About("amqp091-go", MODULE.partition("@v")[2], "Go", "its own tests")
MAIN = "TestMain (no goroutine left over)"
API_PORT = 15672


def run(ctx: harness.Context) -> list[harness.Result]:
    """All of them, and the look for goroutines left over."""
    go = harness.need("go")
    folder = go_client.source(go, ctx.work_dir, MODULE)
    env = {"AMQP_URL": ctx.url}
    if ctl := ctx.broker.env.get("RABBITMQCTL"):
        env["RABBITMQ_RABBITMQCTL_PATH"] = ctl
    api = urllib.parse.urlsplit(ctx.broker.management_url or "").port == API_PORT
    left_out = [k.test for k in ctx.known if k.skip and not (k.needs == "management" and api)]
    return go_client.run_tests(ctx, go, folder, env, left_out=left_out, main=MAIN)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
