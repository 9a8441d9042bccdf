"""Two brokers, and what joins them: a federated exchange, a federated queue, a shovel.

A property list is published at the first broker, octet for octet as a client wrote it; what comes
of it at the second one is taken there.
"""

from __future__ import annotations

import base64
import json
import select
import time
import urllib.request
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from amqpd.commands import Basic, Channel, Exchange, Queue
from compat import harness
from compat.differential.wire import Wire, content, method

HERE, THERE = "fidelity.here", "fidelity.there"
"""The exchange and the queue at the second broker, and at the first one, their upstream."""
SHOVELLED = "fidelity.shovelled"
TAKEN_BY = {"exchange": "a federated exchange", "queue": "a federated queue", "shovel": "a shovel"}
"""Consumer tags, and the ways whose messages they get."""
ARRIVAL_SECONDS = 120.0
REPEAT_SECONDS = 2.0
"""What is published before a link is up goes nowhere: it is published until it came."""
REQUEST_SECONDS = 120.0


class Links:
    """The links from one broker to another."""

    def __init__(self, first: harness.Broker, second: harness.Broker) -> None:
        self._first, self._second = Wire(first.url, first.user), Wire(second.url, second.user)
        self._declare()
        upstream = {"uri": f"{first.url}%2F", "exchange": THERE, "queue": THERE}
        settings: Mapping[str, Any] = {"reconnect-delay": 1, "trust-user-id": True}
        _put(
            second, "parameters/federation-upstream/%2F/first", {"value": {**upstream, **settings}}
        )
        definition = {"federation-upstream": "first"}
        _put(second, "policies/%2F/links", {"pattern": f"^{HERE}$", "definition": definition})
        shovel = {"src-uri": f"{first.url}%2F", "src-queue": SHOVELLED}
        shovel |= {"dest-uri": f"{second.url}%2F", "dest-queue": f"{SHOVELLED}.here"}
        _put(second, "parameters/shovel/%2F/links", {"value": {**shovel, "reconnect-delay": 1}})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._first.shut()
        self._second.shut()

    def _declare(self) -> None:
        first, second = self._first, self._second
        for wire in (first, second):
            wire.say(1, Channel.Open())
        first.say(1, Exchange.Declare(exchange=THERE, exchange_type="fanout", durable=True))
        first.say(1, Queue.Declare(queue=THERE, durable=True))
        first.say(1, Queue.Declare(queue=SHOVELLED, durable=True))
        second.say(1, Exchange.Declare(exchange=HERE, exchange_type="fanout", durable=True))
        for queue in (HERE, f"{HERE}.bound", f"{SHOVELLED}.here"):
            second.say(1, Queue.Declare(queue=queue, durable=True))
        second.say(1, Queue.Bind(queue=f"{HERE}.bound", exchange=HERE, routing_key=""))
        for tag, queue in (
            ("exchange", f"{HERE}.bound"),
            ("queue", HERE),
            ("shovel", f"{SHOVELLED}.here"),
        ):
            second.say(1, method(Basic.Consume, queue=queue, consumer_tag=tag, no_ack=True))
        _await(first, "queue.declare_ok", 2)
        _await(second, "basic.consume_ok", len(TAKEN_BY))

    def carry(self, properties: bytes) -> dict[str, bytes]:
        """The property list as it comes out at the other end of each link."""
        body = uuid.uuid4().bytes
        came: dict[str, bytes] = {}
        until = time.monotonic() + ARRIVAL_SECONDS
        while len(came) < len(TAKEN_BY) and time.monotonic() < until:
            for exchange, key in ((THERE, ""), ("", THERE), ("", SHOVELLED)):
                publish = method(Basic.Publish, exchange=exchange, routing_key=key)
                self._first.say(1, publish)
                self._first.send(content(1, properties, body))
            self._first.flush()
            self._take(body, came)
        return came

    def _take(self, body: bytes, came: dict[str, bytes]) -> None:
        """Note what comes of this body, for a while or until it came in every way."""
        until = time.monotonic() + REPEAT_SECONDS
        while len(came) < len(TAKEN_BY) and (left := until - time.monotonic()) > 0:
            if not select.select([self._second], [], [], left)[0]:
                return
            if not self._second.read():
                raise harness.SuiteError(f"the second broker is gone: {self._second.events}")
            for event in self._second.events:
                if event.name == "basic.deliver" and event.body == body:
                    way = TAKEN_BY[str(event.values["consumer_tag"])]
                    came.setdefault(way, event.properties)
            self._second.events.clear()


def _await(wire: Wire, name: str, count: int) -> None:
    """Read until that many of these answers are there; anything else is left out of account."""
    while sum(event.name == name for event in wire.events) < count:
        if not wire.read() or any(event.name.endswith(".close") for event in wire.events):
            raise harness.SuiteError(f"{name} did not come: {wire.events}")
    wire.events.clear()


def _put(broker: harness.Broker, path: str, body: Mapping[str, Any]) -> None:
    """A request to the broker's HTTP API."""
    credentials = base64.b64encode(f"{broker.user}:{broker.password}".encode()).decode()
    request = urllib.request.Request(
        f"{broker.management_url}/api/{path}",
        json.dumps(body).encode(),
        {"Authorization": f"Basic {credentials}", "content-type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=REQUEST_SECONDS).close()
