"""rabbitpy's integration tests: a threaded client that frames with pamqp, as amqpd does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, python_client

VERSION = "3.0.2"
ABOUT = harness.About("rabbitpy", VERSION, "Python", "its integration tests")
REQUIREMENTS = (
    f"rabbitpy=={VERSION}",
    "pamqp==4.0.1",
    "python-dotenv==1.1.1",
    "pytest==8.4.2",
    "pytest-timeout==2.4.0",
)
FILES = ("tests/test_integration.py", "tests/integration/test_connection.py")


def run(ctx: harness.Context) -> list[harness.Result]:
    """The files that need a broker; the rest of the package's tests are units of the client."""
    python = python_client.environment(ctx.work_dir, REQUIREMENTS)
    folder = python_client.source(python, ctx.work_dir, "rabbitpy", VERSION)
    url = f"amqp://{ctx.broker.user}:{ctx.broker.password}@{ctx.broker.host}:{ctx.broker.port}/%2f"
    return python_client.pytest(ctx, python, folder, FILES, env={"RABBITMQ_URL": url})


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
