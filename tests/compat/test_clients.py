"""Real Python clients at work on a real broker: the suites of compat/ that need nothing but Python.

Each runs as `make compat` runs it: the client comes from its registry, the broker is fresh. What
needs another toolchain, or more than a minute, is left to `make compat`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MISSING_TOOLCHAIN = 77
SUITES = (
    *("aio_pika_scenarios", "celery_app", "dramatiq", "faststream", "pika_scenarios", "py_amqp"),
    *("rabbitpy", "taskiq_aio_pika"),
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", SUITES)
def test_the_client_does_its_work(suite: str, tmp_path: Path) -> None:
    """Everything passes that passes on RabbitMQ."""
    argv = [sys.executable, str(ROOT / "compat" / suite / "run.py"), "--work-dir", str(tmp_path)]
    # A coverage or pytest option of the outer run is none of the inner one's business.
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=540, check=False
    )
    if done.returncode == MISSING_TOOLCHAIN:
        pytest.skip(done.stdout.strip() or done.stderr.strip())
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert " 0 failed" in done.stdout
