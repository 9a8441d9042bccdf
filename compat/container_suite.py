"""What aiormq's and aio-pika's suites share: each wants its broker in a container, and TLS.

The container is stood in for (`container_stand_in.py`). A broker that is started here gets a TLS
listener; of one that runs already, name it: `--amqps-address HOST:PORT`. Without, the TLS tests
fail. To learn what RabbitMQ passes, start one with the certificates of aiormq's package:

    python compat/rabbitmq_server.py --conf "listeners.ssl.1 = 127.0.0.1:5671" ...
    python compat/aiormq/run.py --amqp-url ... --amqps-address 127.0.0.1:5671 --write-expected
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compat import harness, python_client

PLUG_IN = "compat.container_stand_in"
INI = (
    "addopts = -p no:asyncio",
    "markers =",
    "    slow: of the suite",
    "    asyncio: of the suite",
)


@dataclass(frozen=True)
class Suite:
    """One of them."""

    project: str
    version: str
    requirements: tuple[str, ...]
    seconds: int
    """The bound of one test."""


@dataclass(frozen=True)
class Options:
    """What the command line says beside the harness's options."""

    amqps_address: str | None
    command: list[str]
    """What starts an amqpd, for tests with a broker of their own; empty for another broker."""


def options(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """The options of these suites, and the rest for the harness."""
    mine = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    mine.add_argument("--amqps-address", metavar="HOST:PORT")
    given, rest = mine.parse_known_args(argv)
    seen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    seen.add_argument("--amqpd", default="")
    seen.add_argument("--amqp-url")
    seen.add_argument("--broker", default="amqpd")
    of_harness, _ = seen.parse_known_args(rest)
    command: list[str] = []
    if of_harness.broker == "amqpd" and not of_harness.amqp_url:
        command = shlex.split(of_harness.amqpd) or [sys.executable, "-m", "amqpd"]
        command += ["serve", "--management", "off"]
    return Options(given.amqps_address, command), rest


def run(
    ctx: harness.Context,
    suite: Suite,
    mine: Options,
    certificates: Path | None = None,
) -> list[harness.Result]:
    """All files of the suite against one broker; `certificates` is relative to the package."""
    python = python_client.environment(ctx.work_dir, suite.requirements)
    folder = python_client.source(python, ctx.work_dir, suite.project, suite.version)
    files = sorted(str(path.relative_to(folder)) for path in folder.glob("tests/test_*.py"))
    server = folder / certificates if certificates else make_certificates(python, ctx.work_dir)
    listener = ["--tls-listen", "127.0.0.1:0"]
    listener += ["--tls-certificate", str(server / "server.pem")]
    listener += ["--tls-key", str(server / "server.key"), "--tls-ca", str(server / "ca.pem")]
    with ctx.fresh(listener) as broker:
        tls = mine.amqps_address or next(iter(broker.addresses.get("amqps", ())), "127.0.0.1:1")
        env = {
            "AMQP_URL": broker.url,
            "AMQPS_PORT": tls.rpartition(":")[2],
            "STAND_IN_BROKER": json.dumps(mine.command),
            "STAND_IN_HOME": str(ctx.work_dir / "brokers"),
            "STAND_IN_LEFT_OUT": json.dumps([known.test for known in ctx.left_out]),
            "PYTHONPATH": os.pathsep.join([str(folder), str(harness.ROOT)]),
        }
        argv = ["-p", PLUG_IN, f"--timeout={suite.seconds}"]
        return python_client.pytest(ctx, python, folder, files, ini=INI, env=env, argv=argv)


MAKE_CERTIFICATES = """
import pathlib, sys, trustme
out = pathlib.Path(sys.argv[1])
authority = trustme.CA()
server = authority.issue_cert("localhost", "127.0.0.1")
authority.cert_pem.write_to_path(out / "ca.pem")
server.private_key_pem.write_to_path(out / "server.key")
server.cert_chain_pems[0].write_to_path(out / "server.pem")
"""


def make_certificates(python: Path, work_dir: Path) -> Path:
    """For a package that brings none."""
    out = work_dir / "certificates"
    out.mkdir(exist_ok=True)
    made = harness.command([python, "-c", MAKE_CERTIFICATES, out], timeout=300)
    harness.must(made, "certificates")
    return out
