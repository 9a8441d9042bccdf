"""The same HTTP requests to amqpd and to RabbitMQ 3.10.8: statuses, bodies of errors, JSON types.

A request is a test. It passes when the status is RabbitMQ's and, for an error, the body as well.
Each member of an object (of the first one of a list, and of objects within) that RabbitMQ has and
that is missing here, or is of another type, is a failed test of its own, named by the request and
the path of the member. More members are no fault: RabbitMQ adds statistics to new objects after
seconds, and later versions have some that 3.10.8 lacks.

Where RabbitMQ answers 500 there is nothing to compare: a refusal with a reason is right. It writes
some texts as lists of octets, and < as in a page: these are read as the texts that they are.
Differences that stay are in known.toml.

Then every field of every body is left out, and made something else. There amqpd may refuse what
RabbitMQ takes (a number for a name), since nobody means it; not the other way round.
"""

from __future__ import annotations

import base64
import html
import http.client
import json
import re
import sys
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness, rabbitmq_server
from compat.management_differential.requests import PREPARED, REQUESTS, bad_requests

ABOUT = harness.About("HTTP requests of our own", "-", "Python", "every path, good and bad input")
REQUEST_SECONDS = 60
LINE_BREAK = re.compile(r"(?<=,)\n +")
"""Where Erlang goes on within a long term."""


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


def differences(reference: Reply, ours: Reply) -> dict[str, str]:
    """What a client could notice, by the path of the member; "" is the answer as a whole."""
    if _crashed(reference) and 400 <= ours.status < 500 and "reason" in ours.body:
        return {}
    both = f"RabbitMQ: {reference}\namqpd: {ours}"
    if reference.status != ours.status:
        return {"": both}
    if reference.status >= 400:
        return {} if readable(reference.body) == readable(ours.body) else {"": both}
    wanted, found = shape(reference.body), shape(ours.body)
    return {
        path: f"{kind} on RabbitMQ, here {found.get(path, 'missing')}"
        for path, kind in wanted.items()
        if found.get(path) != kind and _parent_is_same(path, wanted, found)
    }


def _crashed(reply: Reply) -> bool:
    """Whether RabbitMQ had no answer to it."""
    said = reply.body.get("reason", "") if isinstance(reply.body, dict) else ""
    return reply.status == 500 or (isinstance(said, str) and "'EXIT'" in said)


def _parent_is_same(path: str, wanted: dict[str, str], found: dict[str, str]) -> bool:
    """Whether the difference is here, and not further up."""
    parent = path[: max(path.rfind("."), path.rfind("["))] if path else path
    return parent == path or (parent in found and found[parent] == wanted[parent])


def refusal_differs(reference: Reply, ours: Reply) -> str:
    """The same for input that is wrong on purpose: what RabbitMQ takes may be refused here."""
    refused = 400 <= ours.status < 500 and "reason" in ours.body
    if reference.status < 400 and (refused or ours.status == reference.status):
        return ""
    return differences(reference, ours).get("", "")


def readable(value: Any) -> Any:
    """Erlang's lists of octets as texts, a page's escapes as what they stand for, on one line."""
    if isinstance(value, dict):
        return {key: readable(item) for key, item in value.items()}
    if isinstance(value, str):
        return LINE_BREAK.sub("", html.unescape(value))
    if not isinstance(value, list):
        return value
    if value and all(type(item) is int and 32 <= item < 127 for item in value):
        return "".join(map(chr, value))
    return [readable(item) for item in value]


def shape(value: Any, path: str = "") -> dict[str, str]:
    """Types by path: `.name`, `.messages_details.rate`; in a list those of its first item."""
    if isinstance(value, list):
        return {path: "list"} | (shape(value[0], f"{path}[]") if value else {})
    if isinstance(value, dict):
        types = {path: "object"}
        for key, item in value.items():
            types |= shape(item, f"{path}.{'NODE' if '@' in key else key}")
        return types
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {path: "number" if number else type(value).__name__}


def run(ctx: harness.Context) -> list[harness.Result]:
    """Each request to both, one after the other."""
    if ctx.broker.management_url is None:
        raise harness.SuiteError("the broker has no HTTP API: --broker rabbitmq-management")
    ours = Api(ctx.broker.management_url)
    results: dict[str, harness.Result] = {}
    with rabbitmq_server.server(ctx.work_dir, management=True) as broker:
        assert broker.management_url is not None
        reference = Api(broker.management_url)
        asked: Counter[str] = Counter()
        for request in REQUESTS.strip().splitlines():
            asked[request] += 1
            number = asked[request]
            name = request if number == 1 else f"{request} ({number})"
            found = differences(reference.ask(request), ours.ask(request))
            for path, what in found.items():
                full = f"{name} {path}".rstrip()
                results[full] = harness.Result(full, harness.Outcome.FAIL, what)
            if not found:
                results[name] = harness.Result(name, harness.Outcome.PASS)
        for request in PREPARED.strip().splitlines():
            reference.ask(request)
            ours.ask(request)
        for request in bad_requests():
            said = refusal_differs(reference.ask(request), ours.ask(request))
            outcome = harness.Outcome.FAIL if said else harness.Outcome.PASS
            results[request] = harness.Result(request, outcome, said)
    return list(results.values())


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
