"""How long an HTTP client may leave an answer unread, on a transport and a clock of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from amqpd.config import Limits
from amqpd.runtime.http_connection import HTTPConnection, connection_type

KEEP_ALIVE_S = 1000
ANSWER_S = 7


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.unread = 0
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        """As a transport has it."""
        return self.unread

    def get_extra_info(self, name: str) -> None:
        """Nothing is known."""

    def is_closing(self) -> bool:
        """It is open."""
        return False

    def abort(self) -> None:
        """Hang up."""
        self.aborted = True


class Timer:
    """Something that is due, unless it is cancelled."""

    def __init__(self, due_s: float, call: Callable[[], object]) -> None:
        self.due_s = due_s
        self.call = call

    def cancel(self) -> None:
        """It is never due."""
        self.due_s = float("inf")


class Loop:
    """Calls what is due, in order."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []

    def call_later(self, delay_s: float, call: Callable[..., object], *given: object) -> Timer:
        """As an event loop."""
        self.timers.append(Timer(self.now_s + delay_s, lambda: call(*given)))
        return self.timers[-1]

    def run(self, seconds: float) -> None:
        """Time passes."""
        until_s = self.now_s + seconds
        while due := [timer for timer in self.timers if timer.due_s <= until_s]:
            timer = min(due, key=lambda timer: timer.due_s)
            self.now_s = timer.due_s
            timer.cancel()
            timer.call()
        self.now_s = until_s


async def unasked(scope: object, receive: object, send: object) -> None:
    """Who would answer."""


class Connection:
    """One HTTP connection that was just opened."""

    def __init__(self) -> None:
        self.loop, self.transport = Loop(), Transport()
        limits = Limits(http_answer_timeout_s=ANSWER_S, http_head_timeout_s=KEEP_ALIVE_S)
        anything: Any = self.loop
        config = uvicorn.Config(
            unasked,
            log_config=None,
            ws="none",
            lifespan="off",
            interface="asgi3",
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        protocol: type[HTTPConnection] = connection_type(limits)
        self.protocol = protocol(config, ServerState(), {}, anything)
        transport: Any = self.transport
        self.protocol.connection_made(transport)

    def answer(self, size: int) -> None:
        """Write an answer to its end."""
        self.transport.unread += size
        self.protocol.on_response_complete()


@pytest.fixture
def connection() -> Connection:
    """One that nothing was asked over."""
    return Connection()


def test_who_reads_everything_may_stay(connection: Connection) -> None:
    for _ in range(3):
        connection.answer(100)
        connection.transport.unread = 0
        connection.loop.run(3 * ANSWER_S)
    assert not connection.transport.aborted


def test_who_reads_slowly_may_stay(connection: Connection) -> None:
    connection.answer(100)
    for _ in range(100):
        connection.transport.unread -= 1
        connection.loop.run(ANSWER_S)
        assert not connection.transport.aborted
    assert connection.transport.unread == 0


def test_who_reads_slowly_and_asks_for_more_may_stay(connection: Connection) -> None:
    for _ in range(100):
        connection.answer(100)
        connection.loop.run(ANSWER_S - 1)
        connection.transport.unread -= 1
    assert not connection.transport.aborted


@pytest.mark.parametrize("read", [0, 30])
def test_who_stops_reading_is_hung_up_on(connection: Connection, read: int) -> None:
    connection.answer(100)
    connection.transport.unread -= read
    connection.loop.run(ANSWER_S - 0.1 + (ANSWER_S if read else 0))
    assert not connection.transport.aborted
    connection.loop.run(0.1)
    assert connection.transport.aborted


def test_an_answer_that_waits_for_the_one_before_it(connection: Connection) -> None:
    connection.transport.unread = 100_000
    connection.protocol.pause_writing()
    connection.loop.run(ANSWER_S)
    assert connection.transport.aborted


def test_sending_is_not_reading(connection: Connection) -> None:
    connection.transport.unread = 100
    for octet in b"GET / HT":
        connection.protocol.data_received(bytes((octet,)))
        connection.loop.run(1)
    assert connection.transport.aborted


def test_nothing_is_due_when_it_is_over(connection: Connection) -> None:
    connection.answer(100)
    connection.protocol.connection_lost(ConnectionResetError())
    connection.loop.run(ANSWER_S)
    assert not connection.transport.aborted
