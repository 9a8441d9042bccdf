"""/vhosts."""

from __future__ import annotations

from typing import Any, Final

from amqpd.broker.administration import delete_vhost, put_vhost
from amqpd.broker.definitions import VhostRecord
from amqpd.broker.virtual_host import VirtualHost
from amqpd.management import fields
from amqpd.management.auth import (
    MONITORING,
    administrators,
    anybody,
    visible_virtual_hosts,
)
from amqpd.management.call import Answer, Call, boolean, done, listed
from amqpd.management.errors import bad_request
from amqpd.management.resources.parameters import refusing
from amqpd.management.resources.users import read_names
from amqpd.management.routing import Table

METADATA: Final = ("description", "tags", "default_queue_type")


def every(call: Call) -> Answer:
    """The virtual hosts that the user sees; monitoring sees all of them."""
    hosts = visible_virtual_hosts(call, MONITORING)
    return listed([shown(call, host) for host in hosts], "name")


def shown(call: Call, host: VirtualHost) -> dict[str, Any]:
    """A virtual host with its statistics."""
    statistics = call.statistics
    numbers = statistics.of_host(host, call.node.traffic())
    counted = statistics.of_messages(host, numbers, call.query)
    return fields.virtual_host(call.node, host) | counted


def show(call: Call) -> Answer:
    """One virtual host."""
    return Answer(body=shown(call, call.virtual_host))


def put(call: Call) -> Answer:
    """A new virtual host, in which its creator may do everything; or other settings of one."""
    broker, name = call.broker, call["vhost"]
    # Null is as good as nothing there, to RabbitMQ and to clients that know no difference.
    body = {
        name: value
        for name, value in call.json().items()
        if value is not None or name not in METADATA
    }
    tracing = boolean(body, "tracing") if "tracing" in body else None
    existing = broker.virtual_hosts.get(name)
    record = VhostRecord(name) if existing is None else existing.record
    description = body.get("description", record.description)
    if not isinstance(description, str):
        raise bad_request(["not_string", "description"])
    kind = body.get("default_queue_type", record.default_queue_type)
    if kind is not None and not isinstance(kind, str):
        raise bad_request(["not_string", "default_queue_type"])
    wanted = VhostRecord(
        name,
        description,
        read_names(body["tags"]) if "tags" in body else record.tags,
        None if kind == "undefined" else kind,
    )
    is_new = put_vhost(broker, wanted, by=call.user.name)
    if tracing is not None:
        call.virtual_host.set_tracing(tracing)
    if is_new:
        user = call.user.name
        broker.journal(broker.access.put_permission(user, name, ".*", ".*", ".*", by=user))
    return done(is_new)


def delete(call: Call) -> Answer:
    """It goes with everything in it, and its connections are closed."""
    delete_vhost(call.broker, call.virtual_host.name, by=call.user.name)
    return done()


def start(call: Call) -> Answer:
    """Every virtual host runs as long as the node does."""
    call.require_virtual_host()
    if call["node"] != call.broker.node:
        raise bad_request(f"Request to node {call['node']} failed with nodedown")
    return done()


def register(table: Table) -> None:
    """The paths."""
    table.add("/vhosts", GET=(every, anybody))
    table.add(
        "/vhosts/{vhost}",
        GET=(show, administrators),
        PUT=(refusing(put), administrators),
        DELETE=(delete, administrators),
    )
    table.add("/vhosts/{vhost}/start/{node}", POST=(start, administrators))
