"""Celery's own integration tests: a worker in the test process, results in a Redis server.

Redis (Debian's package) is started for them. The scenarios of `celery_app` use AMQP alone.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, python_client

VERSION = "5.7.0"
ABOUT = harness.About("Celery", VERSION, "Python", "its integration tests")
REQUIREMENTS = (
    f"celery=={VERSION}",
    "kombu==5.7.0",
    "amqp==5.4.2",
    "pytest==8.4.2",
    "pytest-timeout==2.4.0",
    "redis==7.4.1",
    "pydantic==2.12.5",
    "pytest-subtests==0.15.0",
)
PLUGIN = ("-p", "celery.contrib.pytest")
FILES = (
    "t/integration/test_tasks.py",
    "t/integration/test_inspect.py",
    "t/integration/test_canvas.py",
)
REDIS_START_SECONDS = 120.0


def run(ctx: harness.Context) -> list[harness.Result]:
    """The files that stress the broker; the rest of the package's is about result stores."""
    python = python_client.environment(ctx.work_dir, REQUIREMENTS)
    folder = python_client.source(python, ctx.work_dir, "celery", VERSION)
    with redis(ctx.work_dir) as port:
        env = {
            "TEST_BROKER": ctx.url,
            "TEST_BACKEND": f"redis://127.0.0.1:{port}",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(port),
        }
        ini = ["python_classes = test_*"]
        return python_client.pytest(ctx, python, folder, FILES, ini=ini, env=env, argv=PLUGIN)


@contextlib.contextmanager
def redis(work_dir: Path) -> Iterator[int]:
    """A Redis server that keeps nothing on disk; its port."""
    port = harness.free_port()
    line = [harness.need("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    line += ["--save", "", "--appendonly", "no", "--dir", str(work_dir)]
    log = work_dir / "redis.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        deadline = time.monotonic() + REDIS_START_SECONDS
        while b"Ready to accept connections" not in log.read_bytes():
            if time.monotonic() > deadline or process.poll() is not None:
                raise harness.SuiteError("redis-server did not start\n" + log.read_text())
            time.sleep(0.05)
        yield port
    finally:
        harness.stop_group(process)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
