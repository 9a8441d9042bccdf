"""What listeners do to the sockets of those who connect, on either event loop."""

from __future__ import annotations

import socket
from typing import cast

import anyio
import pytest

from amqpd.broker.broker import Broker
from amqpd.config import Config
from amqpd.protocol.handshake import GREETING
from amqpd.runtime.client_socket import ClientSocket
from amqpd.runtime.server import Server


@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_deliveries_do_not_wait_for_acknowledgements_of_tcp(use_uvloop: bool) -> None:
    if use_uvloop:
        pytest.importorskip("uvloop")
    config = Config(listen=("127.0.0.1:0",))
    broker = Broker(config, journaling=False, entropy=bytes)
    broker.add_defaults()

    async def connect() -> int:
        server = Server(config, broker)
        async with anyio.create_task_group() as listeners:
            await server.listen(listeners)
            host, _, port = server.addresses["amqp"][0].rpartition(":")
            async with await anyio.connect_tcp(host, int(port)) as stream:
                await stream.send(GREETING)
                await stream.receive()
                (client,) = server.clients()
                accepted = cast(ClientSocket, client)._transport.get_extra_info("socket")
                found: int = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            listeners.cancel_scope.cancel()
        return found

    assert anyio.run(connect, backend="asyncio", backend_options={"use_uvloop": use_uvloop})
