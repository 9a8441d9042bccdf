"""The tests of streadway/amqp, from which amqp091-go was made: an older style on the wire.

Its integration tests are behind the build tag `integration` and read AMQP_URL; nothing beside
AMQP is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import go_client, harness

MODULE = "github.com/streadway/amqp@v1.1.0"
ABOUT = harness.About("streadway/amqp", MODULE.partition("@v")[2], "Go", "its own tests")


def run(ctx: harness.Context) -> list[harness.Result]:
    """All of them."""
    go = harness.need("go")
    folder = go_client.source(go, ctx.work_dir, MODULE)
    left_out = [known.test for known in ctx.left_out]
    # Its code is older than some checks of today's `go vet`.
    return go_client.run_tests(
        ctx, go, folder, {"AMQP_URL": ctx.url}, options=["-vet=off"], left_out=left_out
    )


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
