"""The same HTTP requests to amqpd and to RabbitMQ 3.10.8: statuses, bodies of errors, JSON types.

A request is a test. It passes when the status is RabbitMQ's and, for an error, the body as well;
otherwise when the object, or the first of the list, has every key that RabbitMQ's has, with a value
of the same type. More keys are no fault: RabbitMQ adds statistics to new objects after seconds,
and later versions have keys that 3.10.8 lacks. Differences that stay are in known.toml.
"""

from __future__ import annotations

import base64
import http.client
import json
import sys
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, rabbitmq_server
from compat.management_differential.requests import REQUESTS

ABOUT = harness.About("HTTP requests of our own", "-", "Python", "every path, good and bad input")
REQUEST_SECONDS = 60


class Reply(NamedTuple):
    """What a broker said."""

    status: int
    body: Any


class Api:
    """One broker's HTTP API."""

    def __init__(self, url: str) -> None:
        self._address = urllib.parse.urlsplit(url).netloc
        self._node = ""
        self._node = urllib.parse.quote(self.ask("GET /overview").body["node"])

    def ask(self, request: str) -> Reply:
        """One request, written as in `requests`."""
        method, path, *rest = request.split(" ", 2)
        body = rest[0].strip("'").encode() if rest else None
        connection = http.client.HTTPConnection(self._address, timeout=REQUEST_SECONDS)
        try:
            connection.request(
                method,
                "/api" + path.replace("NODE", self._node),
                body,
                {
                    "authorization": "Basic " + base64.b64encode(b"guest:guest").decode(),
                    "content-type": "application/json",
                },
            )
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return Reply(response.status, json.loads(text))
        except ValueError:
            return Reply(response.status, text)


def difference(reference: Reply, ours: Reply) -> str:
    """What a client could notice; empty when there is nothing."""
    if reference.status != ours.status:
        return f"RabbitMQ: {reference}\namqpd: {ours}"
    if reference.status >= 400:
        return "" if reference.body == ours.body else f"RabbitMQ: {reference}\namqpd: {ours}"
    wanted, found = shape(reference.body), shape(ours.body)
    if not isinstance(wanted, dict) or not isinstance(found, dict):
        return "" if wanted == found else f"RabbitMQ: {wanted}, amqpd: {found}"
    lines = [f"{key} is missing" for key in wanted if key not in found]
    lines += [
        f"{key}: {kind} on RabbitMQ, here {found[key]}"
        for key, kind in wanted.items()
        if key in found and found[key] != kind
    ]
    return "\n".join(lines)


def shape(value: Any) -> dict[str, str] | str:
    """Keys and types of an object, or of the first one of a list."""
    if isinstance(value, list) and value:
        return shape(value[0])
    if isinstance(value, dict):
        return {key: type(item).__name__ for key, item in value.items()}
    return type(value).__name__


def run(ctx: harness.Context) -> list[harness.Result]:
    """Each request to both, one after the other."""
    if ctx.broker.management_url is None:
        raise harness.SuiteError("the broker has no HTTP API: --broker rabbitmq-management")
    ours = Api(ctx.broker.management_url)
    results: dict[str, harness.Result] = {}
    with rabbitmq_server.server(ctx.work_dir, management=True) as broker:
        assert broker.management_url is not None
        reference = Api(broker.management_url)
        for request in REQUESTS.strip().splitlines():
            name, number = request, 1
            while name in results:
                number += 1
                name = f"{request} ({number})"
            found = difference(reference.ask(request), ours.ask(request))
            outcome = harness.Outcome.FAIL if found else harness.Outcome.PASS
            results[name] = harness.Result(name, outcome, found)
    return list(results.values())


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
