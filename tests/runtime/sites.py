"""Brokers of either kind, as users see them over HTTP, and a network between them that breaks."""

from __future__ import annotations

import base64
import http.client
import json
import math
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pamqp import commands

from tests.hyphens import hyphenated
from tests.patience import PATIENCE_S
from tests.runtime.client import Client
from tests.runtime.process import BrokerProcess, wait_until


def until(
    condition: Callable[[], bool], complaint: Callable[[], str] = lambda: "it never came true"
) -> None:
    """Poll, no faster than a broker's HTTP API should be asked."""
    wait_until(condition, complaint, poll_s=0.02)


class Unavailable(Exception):
    """RabbitMQ's HTTP API failed, and does not say why."""


class Site:
    """A broker of either kind, and its HTTP API."""

    def __init__(self, name: str, address: str, management: str) -> None:
        self.name = name
        self.address = address
        self._management = management

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a request that is expected to succeed.

        Raises Unavailable for a 500 without a body, RabbitMQ's own.
        """
        connection = http.client.HTTPConnection(self._management, timeout=PATIENCE_S)
        credentials = base64.b64encode(b"guest:guest").decode()
        headers = {"Authorization": f"Basic {credentials}", "content-type": "application/json"}
        connection.request(method, f"/api{path}", body and json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.status == 500 and not content:
            raise Unavailable(path)
        assert response.status < 300, (method, path, response.status, content)
        return json.loads(content) if content else None

    def upstream(self, name: str, address: str, **fields: Any) -> None:
        """There is an upstream of this name at this address."""
        value = {"uri": f"amqp://guest:guest@{address}/%2F", "reconnect-delay": 1}
        value |= hyphenated(fields)
        self.ask("PUT", f"/parameters/federation-upstream/%2F/{name}", {"value": value})

    def policy(self, name: str, pattern: str, upstream_set: str) -> None:
        """Exchanges and queues of such names get what there is at these upstreams."""
        definition = {"federation-upstream-set": upstream_set}
        self.ask("PUT", f"/policies/%2F/{name}", {"pattern": pattern, "definition": definition})

    def federate(self, upstream: Site | str, pattern: str = "^fed", **fields: Any) -> None:
        """Exchanges and queues of that name get what there is at the upstream."""
        self.upstream("up", upstream if isinstance(upstream, str) else upstream.address, **fields)
        self.policy("p", pattern, "all")

    def links(self) -> list[dict[str, Any]]:
        """Of federation; once it can tell, as RabbitMQ cannot while one of its own ends."""
        rows: list[dict[str, Any]] = []

        def told() -> bool:
            try:
                rows[:] = self.ask("GET", "/federation-links")
            except Unavailable:
                return False
            return True

        until(told)
        return rows

    def await_running(self, count: int = 1) -> None:
        """Until there are so many links, and all of them run."""
        until(lambda: [row["status"] for row in self.links()] == ["running"] * count)

    def bindings_from(self, exchange: str) -> set[str]:
        """Routing keys of the bindings from an exchange."""
        rows = self.ask("GET", f"/exchanges/%2F/{exchange}/bindings/source")
        return {row["routing_key"] for row in rows}

    def internal_queues(self) -> list[str]:
        """Those that downstreams have made here."""
        names = [row["name"] for row in self.ask("GET", "/queues/%2F")]
        return [name for name in names if name.startswith("federation: ")]


def site(process: BrokerProcess, name: str = "amqpd") -> Site:
    """A process that was started with its HTTP API."""
    return Site(name, process.address, process.ready["management"][0])


def bind(client: Client, exchange: str, queue: str, key: str) -> None:
    """A durable topic exchange, a durable queue, and a binding between the two."""
    client.call(commands.Exchange.Declare(exchange=exchange, exchange_type="topic", durable=True))
    client.declare(queue)
    client.call(commands.Queue.Bind(queue=queue, exchange=exchange, routing_key=key))


class CuttingProxy:
    """Passes bytes on to a broker, and cuts connections: after some octets, or all at once."""

    def __init__(self, address: str, octets: Sequence[int] = ()) -> None:
        """The first connections end after so many `octets` each."""
        self.target = address
        """Where the broker is; it may be started again elsewhere."""
        self.lifetime: Callable[[], float] = lambda: math.inf
        """Octets that a connection beyond the first ones carries."""
        self.cuts = 0
        """Connections that ended because they had carried enough."""
        self._octets = list(octets)
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> int:
        """End every connection there is; how many there were."""
        ends = list(self._open)
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        return len(ends) // 2

    def close(self) -> None:
        """Nobody gets through any more."""
        self._listener.close()
        self.cut()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            octets = self._octets.pop(0) if self._octets else self.lifetime()
            threading.Thread(target=self._carry, args=(near, [octets]), daemon=True).start()

    def _carry(self, near: socket.socket, room: list[float]) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            far = socket.create_connection((host, int(port)))
        except OSError:
            near.close()  # as a network does where nobody listens, a moment later
            return
        with near, far:
            self._open |= {near, far}
            back = threading.Thread(target=self._pass, args=(far, near, room), daemon=True)
            back.start()
            self._pass(near, far, room)
            back.join()
            self._open -= {near, far}

    def _pass(self, one: socket.socket, other: socket.socket, room: list[float]) -> None:
        with suppress(OSError):
            while data := one.recv(4096):
                data = data[: max(0, int(min(room[0], len(data))))]
                room[0] -= len(data)
                other.sendall(data)
                if room[0] <= 0:
                    self.cuts += 1
                    break
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
