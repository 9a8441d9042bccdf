"""Links of this broker, and what they need of its process."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import anyio

from amqpd.links.federation import Federation
from amqpd.links.link import LinkFailed
from amqpd.links.runner import Surroundings, wait_until
from amqpd.links.shovel_definition import COMPONENT
from amqpd.links.shovels import Shovels
from amqpd.links.transport import Connector, Transport
from amqpd.links.uri import LinkURI
from amqpd.runtime.local_client import LocalClient

if TYPE_CHECKING:
    from amqpd.runtime.server import Server


async def run_links(server: Server) -> None:
    """Keep shovels and links of federation going until cancelled."""
    shovels = cast(Shovels, server.broker.parameters.component(COMPONENT))
    federation = cast(Federation, server.broker.federation)
    connector = Connector()

    async def reach(uri: LinkURI, vhost: str) -> Transport:
        if uri.is_local:
            return connect_locally(server, uri, vhost)
        return await connector.connect(uri)

    surroundings = Surroundings(
        connect=reach,
        now=server.clock.now,
        finish_turn=server.turns.finish,
        sleep=anyio.sleep,
        wait=wait_until,
        cluster_name=lambda: server.broker.cluster_name,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shovels.run, surroundings)
        tasks.start_soon(federation.run, surroundings)


def connect_locally(server: Server, uri: LinkURI, vhost: str) -> LocalClient:
    """A connection to this broker itself. Raises LinkFailed.

    Within the virtual host of its parameter a link may do anything: who may set the parameter there
    decided that. Into another one it needs a user who may.
    """
    if uri.user is None and uri.vhost not in (None, vhost):
        raise LinkFailed(
            f"{uri.shown} is another virtual host than '{vhost}': "
            "give a user and password in the URI who may enter it"
        )
    return LocalClient(server, trusted=uri.user is None)
