"""RabbitMQ's own `rabbitmqadmin` (the Python script of the 3.x server) doing its daily work.

It comes with Debian's rabbitmq-server, and is run from there. Each step is a command and what it
has to print.

RabbitMQ 3.10.8 passes 32 of the 34: `list queues` and `tsv format` want the number of messages at
once, and it counts them every five seconds.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness

ABOUT = harness.About("rabbitmqadmin", "3.10.8", "Python", "daily work, scenarios of ours")
STEPS: tuple[tuple[str, list[str], str], ...] = (
    ("declare vhost", ["declare", "vhost", "name=tools"], "vhost declared"),
    ("declare user", ["declare", "user", "name=ann", "password=a", "tags=management"], "declared"),
    (
        "declare permission",
        ["declare", "permission", "vhost=/", "user=ann", "configure=.*", "write=.*", "read=.*"],
        "permission declared",
    ),
    (
        "declare queue",
        ["declare", "queue", "name=q", "durable=true", 'arguments={"x-max-length":10}'],
        "queue declared",
    ),
    ("declare exchange", ["declare", "exchange", "name=x", "type=topic"], "exchange declared"),
    (
        "declare binding",
        ["declare", "binding", "source=x", "destination=q", "routing_key=a.#"],
        "binding declared",
    ),
    (
        "declare policy",
        ["declare", "policy", "name=p", "pattern=^q", 'definition={"message-ttl":60000}'],
        "policy declared",
    ),
    ("publish", ["publish", "exchange=x", "routing_key=a.b", "payload=hello"], "Message published"),
    (
        "publish to nobody",
        ["publish", "exchange=x", "routing_key=zzz", "payload=hello"],
        "Message published but NOT routed",
    ),
    ("get", ["get", "queue=q", "count=1", "ackmode=ack_requeue_true"], r"a\.b .* hello"),
    ("list queues", ["list", "queues", "name", "messages"], r"\| q +\| 1 "),
    ("list exchanges", ["list", "exchanges", "name", "type"], r"\| x +\| topic"),
    ("list bindings", ["list", "bindings"], r"\| x +\| q +\| a\.#"),
    ("list users", ["list", "users", "name", "tags"], r"ann +\| management"),
    ("list vhosts", ["list", "vhosts", "name"], "tools"),
    ("list permissions", ["list", "permissions"], "ann"),
    ("list policies", ["list", "policies", "name", "pattern"], r"\| p +\| \^q"),
    ("list nodes", ["list", "nodes", "name", "running"], "True"),
    ("list connections", ["list", "connections"], "No items"),
    ("show overview", ["show", "overview"], "rabbitmq_version"),
    ("long format", ["-f", "long", "list", "queues", "name"], r"name: q"),
    ("tsv format", ["-f", "tsv", "list", "queues", "name", "messages"], "q\t1"),
    ("raw json", ["-f", "raw_json", "list", "queues", "name"], '"name": ?"q"'),
    ("sort", ["--sort=name", "--sort-reverse", "list", "exchanges", "name"], r"\| x "),
    ("export", ["export", "@file"], "Exported definitions"),
    ("purge", ["purge", "queue", "name=q"], "queue purged"),
    ("delete queue", ["delete", "queue", "name=q"], "queue deleted"),
    ("delete exchange", ["delete", "exchange", "name=x"], "exchange deleted"),
    ("delete policy", ["delete", "policy", "name=p"], "policy deleted"),
    ("import", ["import", "@file"], "Uploaded definitions"),
    ("list what was imported", ["list", "bindings"], r"\| x +\| q +\| a\.#"),
    ("delete user", ["delete", "user", "name=ann"], "user deleted"),
    ("delete vhost", ["delete", "vhost", "name=tools"], "vhost deleted"),
    ("delete what is gone", ["delete", "queue", "name=nope"], "Not found"),
)


def run(ctx: harness.Context) -> list[harness.Result]:
    """One step after the other."""
    admin = harness.need("rabbitmqadmin")
    url = urllib.parse.urlsplit(ctx.broker.management_url or "")
    if not url.port:
        raise harness.SuiteError("the broker has no HTTP API: --broker rabbitmq-management")
    file = ctx.work_dir / "definitions.json"
    results: list[harness.Result] = []
    for name, words, wanted in STEPS:
        words = [str(file) if word == "@file" else word for word in words]
        line = [sys.executable, admin, "-H", url.hostname or "", "-P", str(url.port), *words]
        done = harness.command(line, timeout=300)
        good = re.search(wanted, done.output) is not None
        outcome = harness.Outcome.PASS if good else harness.Outcome.FAIL
        results.append(harness.Result(name, outcome, done.tail, done.seconds))
    json.loads(file.read_text())
    return results


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
