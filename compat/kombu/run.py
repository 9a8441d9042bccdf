"""kombu's integration tests of its AMQP transport, which is py-amqp."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, python_client

VERSION = "5.7.0"
ABOUT = harness.About("kombu", VERSION, "Python", "its integration tests")
REQUIREMENTS = (f"kombu=={VERSION}", "amqp==5.4.2", "pytest==8.4.2", "pytest-timeout==2.4.0")
FILES = ("t/integration/test_py_amqp.py",)
INI = ("python_classes = test_*", "markers =", "    env", "    flaky")


def run(ctx: harness.Context) -> list[harness.Result]:
    """All of them; what its authors let rerun is not rerun."""
    python = python_client.environment(ctx.work_dir, REQUIREMENTS)
    folder = python_client.source(python, ctx.work_dir, "kombu", VERSION)
    env = {"RABBITMQ_HOST": ctx.broker.host, "RABBITMQ_5672_TCP": str(ctx.broker.port)}
    return python_client.pytest(ctx, python, folder, FILES, ini=INI, env=env)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
