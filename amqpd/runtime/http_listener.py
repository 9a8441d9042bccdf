"""The HTTP API's listener: Starlette and uvicorn in the broker's own event loop.

Its socket is bound before the broker is ready, so that a port that is taken is a start-up error.
The libraries are imported after that: whoever connects in between waits in the socket's backlog,
and AMQP does not wait at all.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from amqpd.runtime.settings import Address, show_address

if TYPE_CHECKING:
    from amqpd.runtime.server import Server

logger = logging.getLogger("amqpd.management")

BACKLOG: Final = 128
TICK_S: Final = 1.0
"""Between two looks of uvicorn at its clock, for the header `Date`."""
KEEP_ALIVE_S: Final = 60
HEADERS_BYTES_MAX: Final = 65536


def bind(address: Address) -> list[socket.socket]:
    """Sockets for an address; a name such as localhost may stand for several. Raises OSError."""
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, place in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            bound.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if address.port == 0 and len(bound) > 1:
                place = (place[0], bound[0].getsockname()[1], *place[2:])
            listening.bind(place)
            listening.listen(BACKLOG)
            listening.setblocking(False)
    except OSError:
        for listening in bound:
            listening.close()
        raise
    return bound


def shown(listening: socket.socket) -> str:
    """`HOST:PORT` of a bound socket."""
    host, port = listening.getsockname()[:2]
    return show_address(str(host), int(port))


def _log_in_our_form() -> None:
    """uvicorn's errors, as ours. Its warnings are of what strangers send, and are told to them."""
    ours, theirs = logging.getLogger("amqpd"), logging.getLogger("uvicorn.error")
    theirs.handlers[:] = ours.handlers
    theirs.propagate = False
    theirs.setLevel(logging.ERROR)


async def run(server: Server, sockets: list[socket.socket], directory: Path | None) -> None:
    """Answer HTTP requests until cancelled."""
    import uvicorn

    from amqpd.management.app import Application
    from amqpd.runtime.http_connection import connection_type
    from amqpd.runtime.server_node import ServerNode

    class Listener(uvicorn.Server):
        """uvicorn, which leaves signals to the broker, and wakes once a second."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def main_loop(self) -> None:
            # uvicorn's own loop looks ten times a second whether it is to stop.
            while not await self.on_tick(0):  # noqa: ASYNC110
                await anyio.sleep(TICK_S)

    _log_in_our_form()
    limits = server.limits
    application = Application(ServerNode(server, directory), limits.http_body_bytes_max)
    listener = Listener(
        uvicorn.Config(
            application,
            loop="none",
            http=connection_type(limits),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            # From this number on they are refused.
            limit_concurrency=limits.http_connections_max + 1,
            timeout_keep_alive=KEEP_ALIVE_S,
            h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
        )
    )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(application.keep_statistics)
            await listener.serve(sockets)
    finally:
        for listening in getattr(listener, "servers", ()):
            listening.close()
