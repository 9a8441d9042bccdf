"""What there is to ask for and to change, one file a kind of object.

To add a resource: a file here with a `register(table)`, and its name in `table` below.
"""

from __future__ import annotations

from amqpd.management.resources import (
    bindings,
    connections,
    definitions,
    exchanges,
    federation,
    health,
    limits,
    nodes,
    overview,
    parameters,
    permissions,
    queues,
    shovels,
    users,
    virtual_hosts,
)
from amqpd.management.routing import Table


def table() -> Table:
    """All resources."""
    all_of_them = Table()
    for module in (
        overview,
        users,
        permissions,
        virtual_hosts,
        exchanges,
        queues,
        bindings,
        connections,
        parameters,
        limits,
        nodes,
        health,
        definitions,
        shovels,
        federation,
    ):
        module.register(all_of_them)
    return all_of_them
