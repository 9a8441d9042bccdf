"""What the HTTP API costs a broker that nobody else uses: at the start, and once it was asked.

Its libraries are imported after AMQP answers, some of them with the first request that needs them.
"""

from __future__ import annotations

import base64
import http.client
import json
import statistics
import time
from pathlib import Path
from typing import Final

from tests.bench import brokers
from tests.bench.report import Figure
from tests.bench.site import Site, megabytes

STARTS: Final = 5
PATHS: Final = ("overview", "nodes", "queues", "exchanges", "connections", "definitions")
ROUNDS: Final = 50
AUTHORIZATION: Final = "Basic " + base64.b64encode(b"guest:guest").decode()
HERE: Final = ("--management", "127.0.0.1:0")


def http_api(site: Site) -> list[Figure]:
    """Ready, idle, after one request, after three hundred."""
    served = Site(site.home, brokers.amqpd(options=HERE, label="amqpd"))
    starts: list[float] = []
    for _ in range(STARTS):
        with served.running() as broker:
            assert broker.start_seconds is not None
            starts.append(broker.start_seconds)
    with served.running():
        idle = served.at_rest()
        first = _ask(site.home, "overview")
        once = served.at_rest()
        for _ in range(ROUNDS):
            for path in PATHS:
                _ask(site.home, path)
        often = served.at_rest()
    return [
        Figure("with the HTTP API: start to ready", statistics.median(starts), "s"),
        Figure("with the HTTP API: first request", first * 1000, "ms"),
        megabytes("with the HTTP API: memory at rest", idle),
        megabytes("with the HTTP API: memory after a request", once),
        megabytes(f"with the HTTP API: memory after {ROUNDS * len(PATHS)}", often),
    ]


def _ask(home: Path, path: str) -> float:
    """Seconds of one request on a connection of its own."""
    address = json.loads((home / "ready.json").read_text())["management"][0]
    began = time.perf_counter()
    connection = http.client.HTTPConnection(address)
    connection.request("GET", f"/api/{path}", headers={"Authorization": AUTHORIZATION})
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == http.client.OK, (path, response.status)
    return time.perf_counter() - began
