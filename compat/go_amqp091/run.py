"""amqp091-go's own tests: the module comes from the Go proxy, nothing of it is kept here.

Its integration tests are behind the build tag `integration` and read AMQP_URL. Two things they
want beside AMQP: an HTTP API on localhost:15672 (fixed in their source), and a rabbitmqctl. Broker
and tests get a network of their own, as root can, since something else may hold that port. Without
one, and with the port taken, the tests that need it are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import go_client, harness, own_network

MODULE = "github.com/rabbitmq/amqp091-go@v1.16.0"
ABOUT = harness.About("amqp091-go", MODULE.partition("@v")[2], "Go", "its own tests")
MAIN = "TestMain (no goroutine left over)"
API_PORT = 15672


def run(ctx: harness.Context) -> list[harness.Result]:
    """All of them, and the look for goroutines left over."""
    go = harness.need("go")
    folder = go_client.source(go, ctx.work_dir, MODULE)
    with broker_at_the_port(ctx) as broker:
        env = {"AMQP_URL": broker.url}
        if ctl := broker.env.get("RABBITMQCTL"):
            env["RABBITMQ_RABBITMQCTL_PATH"] = ctl
        api = urllib.parse.urlsplit(broker.management_url or "").port == API_PORT
        if not api:
            why = own_network.why_not() or "the broker was given"
            print(f"without the tests that need the HTTP API at port {API_PORT}: {why}")
        left_out = [k.test for k in ctx.known if k.skip and not (k.needs == "management" and api)]
        return go_client.run_tests(ctx, go, folder, env, left_out=left_out, main=MAIN)


@contextlib.contextmanager
def broker_at_the_port(ctx: harness.Context) -> Iterator[harness.Broker]:
    """A broker with its HTTP API where the tests look for it, if that can be."""
    if not harness.port_is_free(API_PORT):
        yield ctx.broker
    else:
        with ctx.fresh(ports=(harness.free_port(), API_PORT)) as broker:
            yield broker


def main() -> int:
    """In a network of our own, if there can be one; what comes from outside is fetched before."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--in-own-network", action="store_true")
    given, rest = parser.parse_known_args()
    go, elsewhere = shutil.which("go"), any(a.startswith("--amqp-url") for a in rest)
    if given.in_own_network or elsewhere or go is None or own_network.why_not():
        kept = ["--work-dir", str(given.work_dir)] if given.work_dir else []
        return harness.main(Path(__file__).parent, run, ABOUT, [*rest, *kept])
    with tempfile.TemporaryDirectory(prefix="compat-") as scratch:
        work_dir = (given.work_dir or Path(scratch)).resolve()
        work_dir.mkdir(parents=True, exist_ok=True)
        try:
            go_client.build_tests(go, go_client.source(go, work_dir, MODULE))
        except harness.SuiteError as error:
            print(f"go_amqp091: {error}")
            return 1
        inside = ["--in-own-network", "--work-dir", str(work_dir)]
        return own_network.run([sys.argv[0], *rest, *inside])


if __name__ == "__main__":
    sys.exit(main())
