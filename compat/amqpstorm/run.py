"""AMQPStorm's functional tests: basic, queue, exchange, transactions, reliability, TLS, and those
of its client of the HTTP API.

Its tests know the ports 5672 and 5671 only; `stand_in.py` gives them the broker's. They tidy up
through the HTTP API. Every address is set: the defaults are a host on the internet.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import certificates, harness, python_client

VERSION = "3.1.4"
ABOUT = harness.About("AMQPStorm", VERSION, "Python", "its functional tests, TCP, TLS and HTTP API")
REQUIREMENTS = (
    f"amqpstorm=={VERSION}",
    "pamqp==4.0.1",
    "requests==2.32.5",
    "pytest==8.4.2",
    "pytest-timeout==2.4.0",
)
PLUGIN = ("-p", "compat.amqpstorm.stand_in")


def run(ctx: harness.Context) -> list[harness.Result]:
    """All of them against one broker."""
    python = python_client.environment(ctx.work_dir, REQUIREMENTS)
    folder = python_client.source(python, ctx.work_dir, "amqpstorm", VERSION)
    tests = folder / "amqpstorm" / "tests"
    files = sorted(str(path.relative_to(folder)) for path in tests.glob("functional/**/test_*.py"))
    certs = certificates.issue(ctx.work_dir)
    with ctx.fresh(tls=certs) as broker:
        if broker.management_url is None:
            raise harness.SuiteError("the broker has no HTTP API: --broker rabbitmq-management")
        tls = next(iter(broker.addresses.get("amqps", ())), "127.0.0.1:1")
        account = f"{broker.user}:{broker.password}"
        tls_port = tls.rpartition(":")[2]
        env = {
            "AMQP_HOST": broker.host,
            "AMQP_SSL_HOST": "localhost",
            "AMQP_USERNAME": broker.user,
            "AMQP_PASSWORD": broker.password,
            "AMQP_URI": f"amqp://{account}@{broker.host}:{broker.port}/%2F",
            "AMQP_SSL_URI": f"amqps://{account}@localhost:{tls_port}/%2F",
            "AMQP_HTTP_URL": broker.management_url,
            "AMQP_CAFILE": str(certs / "ca.pem"),
            "AMQP_CERTFILE": str(certs / "client.pem"),
            "AMQP_KEYFILE": str(certs / "client.key"),
            "STAND_IN_PORTS": f"5672={broker.port},5671={tls_port}",
            "PYTHONPATH": os.pathsep.join([str(folder), str(harness.ROOT)]),
        }
        return python_client.pytest(ctx, python, folder, files, env=env, argv=PLUGIN)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
