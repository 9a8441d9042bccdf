"""A real Celery application with the broker under test, and workers in processes of their own.

Celery's own integration tests are another suite, `celery_packaged`.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, scenario_program

VERSION = "5.7.0"
ABOUT = harness.About("Celery", VERSION, "Python", "an application of ours, with workers")
CLIENT = (
    f"celery=={VERSION}",
    "kombu==5.7.0",
    "amqp==5.4.2",
    "pytest==8.4.2",
    "pytest-timeout==2.4.0",
)


def run(ctx: harness.Context) -> list[harness.Result]:
    """The scenarios of this folder; what their workers say is in the work dir, too."""
    run_id = f"celery-{uuid.uuid4().hex[:8]}"
    home = ctx.work_dir / run_id
    home.joinpath("results").mkdir(parents=True)
    env = {"CELERY_RUN": run_id, "CELERY_HOME": str(home)}
    return scenario_program.run_tests(ctx, CLIENT, env=env)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
