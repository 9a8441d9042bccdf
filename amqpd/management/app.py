"""The ASGI application: one request, one turn of the broker.

Handlers do not wait. What they changed is journaled at the end of their turn, and the answer is
sent when it is on disk, as AMQP's `-ok` is.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any, Final
from urllib.parse import parse_qsl

import anyio
import anyio.lowlevel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from amqpd.broker.paging import Postponed
from amqpd.loopback import is_loopback
from amqpd.management import options
from amqpd.management.auth import STRANGER, log_in, strangers, user_of
from amqpd.management.call import Answer, Call
from amqpd.management.encoding import encode
from amqpd.management.errors import ApiError, not_found
from amqpd.management.listing import Steps
from amqpd.management.node import Node
from amqpd.management.resources import table
from amqpd.management.routing import Resource
from amqpd.management.statistics import SAMPLE_S, Statistics

logger = logging.getLogger("amqpd.management")

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
JSON: Final = "application/json"
OK: Final = 200
HEADERS: Final = {"server": "amqpd", "vary": "accept, accept-encoding, origin"}
QUERY_FIELDS_MAX: Final = 100


class Application:
    """RabbitMQ's HTTP API over one broker."""

    def __init__(self, node: Node, body_bytes_max: int) -> None:
        self._node = node
        self._body_bytes_max = body_bytes_max
        self._table = table()
        self.statistics = Statistics(node)

    async def keep_statistics(self) -> None:
        """Read the counters every few seconds, for ever."""
        while True:
            self._node.begin_turn()
            await _in_turns(self.statistics.sample())
            await anyio.sleep(SAMPLE_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        assert scope["type"] == "http"
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ApiError as error:
            response = _response(error.status, error.body, dict(error.headers))
        except ClientDisconnect:
            return
        except Exception:
            # A bug of ours ends this request, and nothing else.
            logger.exception("internal error", extra={"request": request.url.path})
            response = _response(500, {"error": "internal_server_error", "reason": "see the log"})
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        raw_path = request.scope.get("raw_path") or request.url.path.encode()
        found = self._table.find(raw_path.partition(b"?")[0].decode("latin-1"))
        if found is None:
            raise not_found()
        resource, parameters = found
        method = "GET" if request.method == "HEAD" else request.method
        if request.method == "OPTIONS":
            return _response(200, None, {"allow": resource.allow})
        if method not in resource.handlers:
            raise ApiError(405, None, {"allow": resource.allow})
        return await self._call(request, resource, method, parameters)

    async def _call(
        self, request: Request, resource: Resource, method: str, parameters: dict[str, str]
    ) -> Response:
        node = self._node
        headers = {name.lower(): value for name, value in request.headers.items()}
        is_local = request.client is not None and is_loopback(request.client.host)
        handler, rule = resource.handlers[method]
        needs_login = rule is not strangers
        if needs_login:
            # Before the body, or strangers could send one.
            log_in(node.broker, headers, is_local)
        query = _query(request)
        body = await self._body(request)
        answer: Answer | None = None
        while answer is None:
            at_hand = anyio.Event()
            node.begin_turn()
            try:
                user = user_of(node.broker, headers, is_local) if needs_login else STRANGER
                call = Call(
                    node=node,
                    method=method,
                    parameters=parameters,
                    query=query,
                    headers=headers,
                    body=body,
                    user=user,
                    statistics=self.statistics,
                )
                rule(call)
                answer = handler(call)
            except Postponed as postponed:
                # The first message is on disk: ask again when it is not any more.
                postponed.queue.wait_for_head(at_hand.set)
            finally:
                # What a refused call has changed, if anything, is as true as the rest.
                await node.end_turn(wait=method not in READING)
            if answer is None:
                await at_hand.wait()
        content = answer.body
        if method == "GET" and answer.status == OK:
            content = await _in_turns(options.apply(answer, query))
        elif isinstance(content, Generator):
            content = await _in_turns(content)
        return _response(answer.status, content, dict(answer.headers))

    async def _body(self, request: Request) -> bytes:
        """The whole body, if it is not too large. Raises 413."""
        too_large = ApiError(
            413,
            {
                "error": "payload_too_large",
                "reason": f"the body exceeds the limit of {self._body_bytes_max} bytes",
            },
        )
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self._body_bytes_max:
                raise too_large
            parts.append(part)
        return b"".join(parts)


async def _in_turns(steps: Steps[Any]) -> Any:
    """What comes of these steps: others have their turns between them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        await anyio.lowlevel.checkpoint()


def _query(request: Request) -> dict[str, str]:
    """The first value of each name. Raises 400 for a query of absurd length."""
    try:
        pairs = parse_qsl(
            request.url.query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX
        )
    except ValueError as error:
        raise ApiError(400, {"error": "bad_request", "reason": "too many query fields"}) from error
    query: dict[str, str] = {}
    for name, value in pairs:
        query.setdefault(name, value)
    return query


def _response(status: int, body: Any, headers: dict[str, str] | None = None) -> Response:
    content = b""
    named = {**HEADERS, **(headers or {})}
    if body is not None:
        named.setdefault("content-type", JSON)
        content = encode(body)
    return Response(content, status, named)
