"""Real clients at work on a real broker: the quickest suites of compat/, and one of each language
that needs no compiling.

Each runs as `make compat` runs it: the client comes from its registry, the broker is fresh. A
toolchain that is missing is a skip with its reason. What takes longer is left to `make compat`.
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
    *("aio_pika_scenarios", "amqp_tools", "anyevent_rabbitmq", "bunny", "celery_app", "dramatiq"),
    *("faststream", "java_client", "php_amqplib", "pika_scenarios", "py_amqp", "rabbitpy"),
    "taskiq_aio_pika",
)
SUITE_SECONDS = 1500
"""The bound of a suite: ten times what the longest of them takes on two cores."""
SOME_OPERATIONS = ("--seed", "6", "--operations", "100000", "--jobs", "6", "--seconds", "400")
"""Of the differential run. Two minutes on two cores that do nothing else."""


@pytest.mark.timeout(SUITE_SECONDS + 60)
@pytest.mark.parametrize("suite", SUITES)
def test_the_client_does_its_work(suite: str, tmp_path: Path) -> None:
    """Everything passes that passes on RabbitMQ."""
    assert " 0 failed" in said(suite, "--work-dir", str(tmp_path))


@pytest.mark.timeout(SUITE_SECONDS + 60)
def test_random_operations_have_the_effect_they_have_on_rabbitmq(tmp_path: Path) -> None:
    """Skipped where Debian's rabbitmq-server is not installed."""
    assert " 0 failed" in said("differential", *SOME_OPERATIONS, "--work-dir", str(tmp_path))


def said(suite: str, *options: str) -> str:
    """What a suite that ended well printed."""
    argv = [sys.executable, str(ROOT / "compat" / suite / "run.py"), *options]
    # A coverage or pytest option of the outer run is none of the inner one's business.
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SUITE_SECONDS, check=False
    )
    if done.returncode == MISSING_TOOLCHAIN:
        pytest.skip(done.stdout.strip() or done.stderr.strip())
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    return done.stdout
