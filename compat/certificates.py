"""Certificates for suites whose clients bring none: an authority, a server, a client, for one run.

The folder holds `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key`, and
`other-ca.pem`, which has signed nothing. `ctx.fresh(tls=folder)` starts a broker with the server's.
"""

from __future__ import annotations

from pathlib import Path

from compat import harness, python_client

REQUIREMENTS = ("trustme==1.2.1",)
SCRIPT = """
import pathlib, sys, trustme
out = pathlib.Path(sys.argv[1])
authority = trustme.CA()
authority.cert_pem.write_to_path(out / "ca.pem")
trustme.CA().cert_pem.write_to_path(out / "other-ca.pem")
for name, identities in {"server": ["localhost", "127.0.0.1"], "client": ["a@b.example"]}.items():
    issued = authority.issue_cert(*identities)
    issued.private_key_pem.write_to_path(out / f"{name}.key")
    issued.cert_chain_pems[0].write_to_path(out / f"{name}.pem")
"""


def issue(work_dir: Path) -> Path:
    """The folder, made on first use."""
    out = work_dir / "certificates"
    if not (out / "ca.pem").exists():
        python = python_client.environment(work_dir, REQUIREMENTS)
        out.mkdir(exist_ok=True)
        made = harness.command([python, "-c", SCRIPT, out], timeout=300)
        harness.must(made, "certificates")
    return out
