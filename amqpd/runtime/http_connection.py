"""One HTTP connection: uvicorn's, which by itself waits for a request for ever.

    connected ── head ──> ── body ──> answered ── idle ──> head of the next request
            http_head_timeout_s  http_body_timeout_s   KEEP_ALIVE_S, which is uvicorn's

Whoever says nothing, or an octet now and then, has not logged in: a thousand of them would be all
the connections that there may be. So each part of a request has a time from its beginning, however
many octets come meanwhile. And whoever asks and does not read is looked at every
http_answer_timeout_s: who has taken nothing since is hung up on, whatever else they send.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from amqpd.config import Limits

REFUSED_MAX: Final = 64
"""Connections above the limit that are kept until they have been told 503."""


class HTTPConnection(H11Protocol):
    """uvicorn's connection, whose client has to be quick."""

    limits: ClassVar[Limits]

    _awaited: object = None
    """The part of a request that is coming, in h11's words: IDLE is the head; None: no part."""
    _deadline: asyncio.TimerHandle | None = None
    _next_look: asyncio.TimerHandle | None = None
    """At how much of the answers is unread; None: nothing was."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody connected."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.http_connections_max + REFUSED_MAX:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Some octets of requests."""
        super().data_received(data)
        self._watch()
        if self._next_look is None:  # sending does not put it off
            self._await_reading()

    def on_response_complete(self) -> None:
        """A request was answered, perhaps before its body was there, and the next may be."""
        super().on_response_complete()
        if self.conn.their_state is not h11.IDLE:
            self._watch()
        self._await_reading()

    def pause_writing(self) -> None:
        """Much is unread, perhaps the beginning of an answer that waits for it."""
        super().pause_writing()
        self._await_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by either side."""
        super().connection_lost(exc)
        self._await(None)
        self._stop_looking()

    def _watch(self) -> None:
        """See which part of a request is coming now."""
        state = self.conn.their_state
        self._await(state if state in (h11.IDLE, h11.SEND_BODY) else None)

    def _await(self, part: object) -> None:
        """Give this part its time, if it has not begun already."""
        if part is self._awaited:
            return
        self._awaited = part
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if part is not None:
            limits = self.limits
            is_head = part is h11.IDLE
            time_s = limits.http_head_timeout_s if is_head else limits.http_body_timeout_s
            self._deadline = self.loop.call_later(time_s, self.transport.abort)

    # -- answers, which only become more where `_await_reading` is called

    def _await_reading(self) -> None:
        """From now on, give the client its time to take something of what is unread."""
        self._stop_looking()
        unread = self.transport.get_write_buffer_size()
        if unread:
            time_s = self.limits.http_answer_timeout_s
            self._next_look = self.loop.call_later(time_s, self._look, unread)

    def _look(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._await_reading()
        else:
            self.transport.abort()

    def _stop_looking(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None


def connection_type(limits: Limits) -> type[HTTPConnection]:
    """The class that uvicorn makes connections of."""
    attributes: dict[str, Any] = {"limits": limits}
    return type("LimitedHTTPConnection", (HTTPConnection,), attributes)
