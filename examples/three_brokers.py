"""Three brokers on this machine: a head office, and two sites that are federated with it.

    site A ──exchange `orders`──> head office <──exchange `orders`── site B
    site A <──────────────── queue `work`, both ways ─────────────> site B

Run it with `make example`. It starts the brokers on free ports, each with a name and a directory of
its own, tells them of each other over their HTTP APIs, as you would with curl, publishes at the
sites, and shows what arrives where. Everything is gone when it ends.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

PATIENCE_S = 30.0


class Site:
    """One broker, and its HTTP API."""

    def __init__(self, name: str, home: Path, stack: ExitStack) -> None:
        self.name = name
        ready = home / "ready.json"
        command = [sys.executable, "-m", "amqpd", "serve", "--data-dir", str(home / "data")]
        command += ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"]
        log = stack.enter_context((home / "log").open("wb"))
        child = subprocess.Popen([*command, "--ready-file", str(ready)], stderr=log, stdout=log)
        stack.callback(child.wait)
        stack.callback(child.terminate)
        wait_for(ready.exists, f"{name} to start")
        addresses = json.loads(ready.read_text())
        self.amqp: str = addresses["amqp"][0]
        self.http: str = addresses["management"][0]
        # Before anything else: links are named after it, and recognise loops by it.
        self.api("PUT", "/cluster-name", {"name": name})

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """What curl would do."""
        connection = HTTPConnection(self.http, timeout=10)
        login = base64.b64encode(b"guest:guest").decode()
        headers = {"Authorization": f"Basic {login}", "content-type": "application/json"}
        connection.request(method, f"/api{path}", json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status >= 300:
            raise SystemExit(f"{self.name}: {method} {path}: {answer.status} {content.decode()}")
        return json.loads(content) if content else None

    def federate(self, *upstreams: Site) -> None:
        """Exchange `orders` and queue `work` here get what there is at the others."""
        for upstream in upstreams:
            value = {"uri": f"amqp://guest:guest@{upstream.amqp}/%2F", "reconnect-delay": 1}
            path = f"/parameters/federation-upstream/%2F/{upstream.name}"
            self.api("PUT", path, {"value": value})
        policy = {"pattern": "^(orders|work)$", "definition": {"federation-upstream-set": "all"}}
        self.api("PUT", "/policies/%2F/federated", policy)

    def publish(self, exchange: str, key: str, body: str) -> None:
        """One message."""
        path = f"/exchanges/%2F/{quote(exchange or 'amq.default')}/publish"
        message = {"routing_key": key, "payload": body, "payload_encoding": "string"}
        self.api("POST", path, {"properties": {"delivery_mode": 2}, **message})

    def waiting(self, queue: str) -> int:
        """Messages in a queue."""
        return int(self.api("GET", f"/queues/%2F/{queue}").get("messages", 0))

    def running_links(self) -> int:
        """Links of this broker that work."""
        return sum(link["status"] == "running" for link in self.api("GET", "/federation-links"))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.05)


def bindings(site: Site) -> int:
    """From exchange `orders`: what has to arrive at a site before it sends anything."""
    return len(site.api("GET", "/exchanges/%2F/orders/bindings/source"))


def main() -> None:
    """Start, federate, publish, look."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="three-brokers-")))
        sites = []
        for name in ("head-office", "site-a", "site-b"):
            (home / name).mkdir()
            sites.append(Site(name, home / name, stack))
        office, site_a, site_b = sites
        for site in sites:
            print(f"{site.name}: amqp://{site.amqp}, http://{site.http}")
            site.api("PUT", "/exchanges/%2F/orders", {"type": "topic", "durable": True})
            site.api("PUT", "/queues/%2F/work", {"durable": True})
        office.api("PUT", "/queues/%2F/eu-orders", {"durable": True})
        binding = {"routing_key": "eu.#"}
        office.api("POST", "/bindings/%2F/e/orders/q/eu-orders", binding)

        office.federate(site_a, site_b)
        site_a.federate(site_b)
        site_b.federate(site_a)
        # Two upstreams of an exchange and of a queue; and one of each.
        wait_for(lambda: [site.running_links() for site in sites] == [4, 2, 2], "the links to run")
        wait_for(lambda: bindings(site_a) > 0 and bindings(site_b) > 0, "the bindings")

        for number in range(5):
            site_a.publish("orders", "eu.berlin", f"order {number} of site A")
            site_b.publish("orders", "eu.lisbon", f"order {number} of site B")
            site_b.publish("orders", "us.boston", f"order {number} that nobody wants")
        wait_for(lambda: office.waiting("eu-orders") == 10, "the orders")
        print("\nexchange federation: the head office has the ten European orders of both sites")

        for number in range(3):
            site_a.publish("", "work", f"job {number}")
        fetch = {"count": 10, "ackmode": "ack_requeue_false", "encoding": "auto"}
        taken = office.api("POST", "/queues/%2F/eu-orders/get", fetch)
        hop = taken[0]["properties"]["headers"]["x-received-from"][0]
        print(f"  {taken[0]['payload']!r} came from {hop['cluster-name']} over {hop['uri']}")
        print(
            f"queue federation: {site_a.waiting('work')} jobs stay at site A, where they were"
            f" published: nobody consumes at site B ({site_b.waiting('work')} there)\n"
        )
        subprocess.run(
            [sys.executable, "-m", "amqpd", "links", "--url", f"http://{office.http}"], check=True
        )


if __name__ == "__main__":
    main()
