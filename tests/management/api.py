"""The HTTP API over an in-process broker: no socket, a journal that is committed by hand."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx

from amqpd.broker.session import Session
from amqpd.config import Limits
from amqpd.management.app import Application
from amqpd.management.node import Resources, Traffic
from amqpd.runtime.definitions_file import load_definitions
from amqpd.runtime.definitions_import import DefinitionsImport
from tests.conversation import BrokerUnderTest


class Node:
    """`amqpd.management.node.Node` over a broker under test."""

    def __init__(self, broker: BrokerUnderTest) -> None:
        self._under_test = broker
        self.commits = True
        """Commit at the end of each turn; otherwise a test does it."""
        self.listeners: Mapping[str, Sequence[str]] = {
            "amqp": ["127.0.0.1:5672"],
            "amqp/ssl": [],
            "http": ["127.0.0.1:15672"],
        }

    @property
    def broker(self) -> Any:
        """The core; another one after a crash."""
        return self._under_test.core

    resources = Resources(1000, 30_000_000, 900_000_000, 5_000_000_000, 20, 1024, "/data")
    certificate_ends_s: float | None = None

    def traffic(self) -> Mapping[Session, Traffic]:
        """Of the clients."""
        return {
            client.peer.session: Traffic("running", client.peer.received_bytes, 1, 1, 1, 0)
            for client in self._under_test.clients.values()
            if client.peer.session is not None
        }

    def import_definitions(self, document: bytes, vhost: str | None, by: str) -> None:
        """As the runtime does it."""
        file = load_definitions(document, "definitions", "/", into=vhost)
        DefinitionsImport(self.broker, file, "definitions", by=by).apply()

    def begin_turn(self) -> None:
        """Time is the test's."""
        self.broker.now = self._under_test.now

    async def end_turn(self, *, wait: bool) -> None:
        """As the runtime does it."""
        safe = asyncio.Event()
        if wait:
            self.broker.call_when_safe(safe.set)
        evictions = self.broker.effects.evictions
        for client in list(self._under_test.clients.values()):
            if client.peer.session in evictions:
                client.peer.close(evictions[client.peer.session], self._under_test.now)
        evictions.clear()
        self._under_test.turn()
        if self._under_test.journaling and self.commits:
            self._under_test.journal.commit()
        if wait:
            await safe.wait()


class Api:
    """Requests to the HTTP API, as one user or another."""

    def __init__(
        self, broker: BrokerUnderTest | None = None, *, address: str = "127.0.0.1"
    ) -> None:
        self.broker = broker or BrokerUnderTest(journaling=True)
        self.node = Node(self.broker)
        self.application = Application(self.node, self.broker.config.limits.http_body_bytes_max)
        self._address = address

    async def ask(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        user: str | None = "guest",
        password: str | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One request; `user` None sends no credentials."""
        sent = dict(headers or {})
        if user is not None:
            if password is None:
                password = "guest" if user == "guest" else "secret"
            credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
            sent["authorization"] = f"Basic {credentials}"
        transport = httpx.ASGITransport(self.application, client=(self._address, 40000))
        async with httpx.AsyncClient(transport=transport, base_url="http://broker/api") as client:
            return await client.request(method, path, json=json, content=content, headers=sent)

    def __call__(self, method: str, path: str, json: Any = None, **how: Any) -> httpx.Response:
        """One request to its end."""
        return asyncio.run(self.ask(method, path, json, **how))

    def get(self, path: str, **how: Any) -> Any:
        """What a GET shows."""
        response = self("GET", path, **how)
        assert response.status_code == 200, (path, response.status_code, response.text)
        return response.json()

    def does(self, status: int, method: str, path: str, json: Any = None, **how: Any) -> Any:
        """A request that ends with this status; the JSON of its body, if it has any."""
        response = self(method, path, json, **how)
        assert response.status_code == status, (method, path, response.status_code, response.text)
        return response.json() if response.content else None


def api(limits: Limits | None = None, **how: Any) -> Api:
    """A fresh one."""
    return Api(BrokerUnderTest(journaling=True, limits=limits, **how))
