"""py-amqp's integration tests, over plain TCP and over TLS.

Half of them talk TLS and verify the broker's certificate. A broker that is started here gets one
of an authority made for the run; of one that runs already, name the TLS listener and its
authority: `--amqps-address HOST:PORT --ca-file F`. Without, the TLS tests are left out. They show
a client certificate; give one where the broker verifies it: `--client-certificate F`,
`--client-key F`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, python_client

VERSION = "5.4.2"
ABOUT = harness.About("py-amqp", VERSION, "Python", "its integration tests, TCP and TLS")
REQUIREMENTS = (
    f"amqp=={VERSION}",
    "vine==5.1.0",
    "pytest==8.0.0",
    "pytest-timeout==2.3.1",
    "trustme==1.2.1",
)
FILES = ("t/integration/test_rmq.py", "t/integration/test_integration.py")
GIVEN_FILES = {
    "--ca-file": "ca_certificate.pem",
    "--client-certificate": "client_certificate.pem",
    "--client-key": "client_key.pem",
}
TLS_TESTS = ("*[[]tls*", "*test_tls_connect_fails")

MAKE_CERTIFICATES = """
import pathlib, sys, trustme
out = pathlib.Path(sys.argv[1])
authority = trustme.CA()
authority.cert_pem.write_to_path(out / "ca_certificate.pem")
for name, identities in {"server": ["localhost", "127.0.0.1"], "client": ["a@b.example"]}.items():
    issued = authority.issue_cert(*identities)
    issued.private_key_pem.write_to_path(out / f"{name}_key.pem")
    issued.cert_chain_pems[0].write_to_path(out / f"{name}_certificate.pem")
(out / "client_key_broken.pem").write_text("broken")
(out / "client_certificate_broken.pem").write_text("broken")
"""


def options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this suite, and the rest for the harness."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--amqps-address", metavar="HOST:PORT")
    for name in GIVEN_FILES:
        parser.add_argument(name, type=Path)
    return parser.parse_known_args(argv)


def certificates(python: Path, folder: Path, mine: argparse.Namespace) -> Path:
    """The folder in which the tests look for a client's certificates; a server's is beside them."""
    out = folder / "t" / "certs"
    out.mkdir(exist_ok=True)
    made = harness.command([python, "-c", MAKE_CERTIFICATES, out], timeout=300)
    harness.must(made, "certificates")
    for name, file in GIVEN_FILES.items():
        given: Path | None = getattr(mine, name[2:].replace("-", "_"))
        if given:
            (out / file).write_bytes(given.read_bytes())
    return out


def run(ctx: harness.Context, mine: argparse.Namespace) -> list[harness.Result]:
    """Both halves against one broker, since the tests read two ports of one host."""
    python = python_client.environment(ctx.work_dir, REQUIREMENTS)
    folder = python_client.source(python, ctx.work_dir, "amqp", VERSION)
    certs = certificates(python, folder, mine)
    listener = ["--tls-listen", "127.0.0.1:0"]
    listener += ["--tls-certificate", str(certs / "server_certificate.pem")]
    listener += ["--tls-key", str(certs / "server_key.pem")]
    with ctx.fresh(listener) as broker:
        tls = (
            [mine.amqps_address] if mine.amqps_address else list(broker.addresses.get("amqps", ()))
        )
        env = {"RABBITMQ_HOST": broker.host, "RABBITMQ_5672_TCP": str(broker.port)}
        argv: list[str] = []
        if tls:
            env["RABBITMQ_5671_TCP"] = tls[0].rpartition(":")[2]
        else:
            argv = ["-k", "not tls"]
            why = "no TLS listener is known: --amqps-address"
            ctx.known.extend(harness.Known(test, "tls", why) for test in TLS_TESTS)
        return python_client.pytest(
            ctx, python, folder, FILES, ini=["python_classes = test_*"], env=env, argv=argv
        )


if __name__ == "__main__":
    mine, rest = options(sys.argv[1:])
    sys.exit(harness.main(Path(__file__).parent, lambda ctx: run(ctx, mine), ABOUT, rest))
