"""amqprs' own tests: unit tests and tests/ of the crate.

They know one address, localhost:5672, and one account, `user` with the password `bitnami`. In the
copy that is run the port is read from AMQPRS_PORT. The account comes from a definitions file, or
from rabbitmqctl where there is one; a broker that runs already has to have it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, rust_client

VERSION = "2.1.5"
ABOUT = harness.About("amqprs", VERSION, "Rust", "its unit and integration tests")
FEATURES = "urispec"
USER, PASSWORD = "user", "bitnami"
DEFINITIONS = {
    "users": [{"name": USER, "password": PASSWORD, "tags": "administrator"}],
    "vhosts": [{"name": "/"}],
    "permissions": [{"user": USER, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
}
PORT = 'std::env::var("AMQPRS_PORT").unwrap()'
NEW = re.compile(
    r'::new\("localhost", 5672, ("user", "bitnami"\))(?!;\s+assert_eq!\(args\.get_host)'
)
"""Not where a test goes on to ask for the port that it gave."""
DEFAULT = re.compile(r'::default\(\)(\s+\.credentials\([^;]+"user", "bitnami"\)\)\s+\.finish\(\))')


def let_the_port_vary(folder: Path) -> None:
    """Where the tests connect to localhost:5672, let them connect to the port in AMQPRS_PORT."""
    for path in sorted(folder.rglob("*.rs")):
        text = path.read_text()
        new = NEW.sub(rf'::new("localhost", {PORT}.parse().unwrap(), \1', text)
        new = DEFAULT.sub(rf"::default().port({PORT}.parse().unwrap())\1", new)
        new = new.replace('("localhost:5672")', f'(&format!("localhost:{{}}", {PORT}))')
        if new != text:
            path.write_text(new)


def give_account(ctl: str) -> None:
    """The account on a RabbitMQ."""
    for line in (
        ["add_user", USER, PASSWORD],
        ["set_user_tags", USER, "administrator"],
        ["set_permissions", "-p", "/", USER, ".*", ".*", ".*"],
    ):
        harness.must(harness.command([ctl, *line], timeout=300), f"rabbitmqctl {line[0]}")


def run(ctx: harness.Context) -> list[harness.Result]:
    """All of them."""
    cargo = harness.need("cargo")
    folder = rust_client.source(cargo, ctx.work_dir, "amqprs", VERSION)
    let_the_port_vary(folder)
    definitions = ctx.work_dir / "amqprs-definitions.json"
    definitions.write_text(json.dumps(DEFINITIONS))
    with ctx.fresh(["--definitions", str(definitions)]) as broker:
        if ctl := broker.env.get("RABBITMQCTL"):
            give_account(ctl)
        env = {"AMQPRS_PORT": str(broker.port)}
        return rust_client.run_tests(ctx, cargo, folder, FEATURES, env)


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
