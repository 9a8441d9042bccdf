"""aiormq's own tests, all over TCP and over TLS, with and without a client certificate."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import container_suite, harness

VERSION = "7.2.4"
ABOUT = harness.About("aiormq", VERSION, "Python", "its own tests, TCP and TLS")
SUITE = container_suite.Suite(
    project="aiormq",
    version=VERSION,
    requirements=(
        f"aiormq=={VERSION}",
        "pamqp==4.0.1",
        "yarl==1.22.0",
        "aiomisc==18.0.37",
        "aiomisc-pytest==2.0.0",
        "pytest==8.4.2",
        "pytest-timeout==2.4.0",
    ),
    seconds=60,
)
CERTIFICATES = Path("tests", "certs")

if __name__ == "__main__":
    mine, rest = container_suite.options(sys.argv[1:])
    sys.exit(
        harness.main(
            Path(__file__).parent,
            lambda ctx: container_suite.run(ctx, SUITE, mine, CERTIFICATES),
            ABOUT,
            rest,
        )
    )
