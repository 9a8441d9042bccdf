"""Watermill's AMQP publisher and subscriber (Go): its own tests, on top of amqp091-go.

They run Watermill's universal suite over queues and over publish/subscribe: order, concurrency,
nack and redelivery, consumer groups, closing while messages are under way.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import go_client, harness

MODULE = "github.com/ThreeDotsLabs/watermill-amqp/v3@v3.0.1"
ABOUT = harness.About("watermill-amqp", MODULE.partition("@v")[2], "Go", "its own tests")
PACKAGE = Path("pkg", "amqp")
IDENTIFIER = re.compile(r"/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def run(ctx: harness.Context) -> list[harness.Result]:
    """All but the two files behind build tags: a restart by Docker, and hours of stress."""
    go = harness.need("go")
    folder = go_client.source(go, ctx.work_dir, MODULE)
    left_out = [known.test for known in ctx.left_out]
    env = {"WATERMILL_TEST_AMQP_URI": ctx.url}
    results = go_client.run_tests(ctx, go, folder / PACKAGE, env, left_out=left_out)
    return named_for_good(results)


def named_for_good(results: list[harness.Result]) -> list[harness.Result]:
    """Without the identifiers that are new with each run; what failed once has failed."""
    named: dict[str, harness.Result] = {}
    for result in results:
        name = IDENTIFIER.sub("", result.name)
        if name not in named or named[name].outcome is not harness.Outcome.FAIL:
            named[name] = dataclasses.replace(result, name=name)
    return list(named.values())


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
