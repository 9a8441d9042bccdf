"""aio-pika's own tests: TCP, TLS, TCP proxies, and brokers that are stopped and killed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import container_suite, harness

VERSION = "10.2.1"
ABOUT = harness.About("aio-pika", VERSION, "Python", "its own tests")
SUITE = container_suite.Suite(
    project="aio_pika",
    version=VERSION,
    requirements=(
        f"aio-pika=={VERSION}",
        "aiormq==7.2.4",
        "pamqp==4.0.1",
        "yarl==1.22.0",
        "aiomisc==18.0.37",
        "aiomisc-pytest==2.0.0",
        "shortuuid==1.0.13",
        "trustme==1.2.1",
        "pytest==8.4.2",
        "pytest-timeout==2.4.0",
    ),
    seconds=150,
)

if __name__ == "__main__":
    mine, rest = container_suite.options(sys.argv[1:])
    sys.exit(
        harness.main(
            Path(__file__).parent,
            lambda ctx: container_suite.run(ctx, SUITE, mine),
            ABOUT,
            rest,
        )
    )
