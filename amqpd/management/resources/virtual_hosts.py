"""/vhosts."""

from __future__ import annotations

from amqpd.broker.definitions import VhostRecord
from amqpd.management import fields
from amqpd.management.auth import (
    MONITORING,
    administrators,
    anybody,
    has,
    visible_virtual_hosts,
)
from amqpd.management.call import Answer, Call, done, listed
from amqpd.management.routing import Table


def every(call: Call) -> Answer:
    """The virtual hosts that the user sees; monitoring sees all of them."""
    broker = call.broker
    everything = has(call.user, MONITORING)
    names = list(broker.virtual_hosts) if everything else visible_virtual_hosts(call)
    return listed(
        [fields.virtual_host(call.node, broker.virtual_hosts[name]) for name in names], "name"
    )


def show(call: Call) -> Answer:
    """One virtual host."""
    return Answer(body=fields.virtual_host(call.node, call.virtual_host))


def put(call: Call) -> Answer:
    """A new virtual host; its creator may do everything in it."""
    broker = call.broker
    name = call["vhost"]
    call.json()
    existing = broker.virtual_hosts.get(name)
    if existing is not None:
        return done()
    broker.add_virtual_host(VhostRecord(name=name), user=call.user.name)
    broker.journal(
        broker.access.put_permission(call.user.name, name, ".*", ".*", ".*", by=call.user.name)
    )
    return done(True)


def register(table: Table) -> None:
    """The paths."""
    table.add("/vhosts", GET=(every, anybody))
    table.add("/vhosts/{vhost}", GET=(show, administrators), PUT=(put, administrators))
