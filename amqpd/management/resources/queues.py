"""/queues: list, declare, delete, purge, get, bindings, actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from amqpd.broker.queue import Queue as BrokerQueue
from amqpd.broker.queue_figures import NONE_UNACKED, Unacked, unacked_of
from amqpd.commands import Queue
from amqpd.management import amqp, fields, messages, statistics
from amqpd.management.auth import administrators, anybody, in_virtual_host, wanted_virtual_hosts
from amqpd.management.call import Answer, Call, boolean, done, listed
from amqpd.management.errors import bad_request, not_found
from amqpd.management.listing import Listing, Steps
from amqpd.management.resources.exchanges import listed_bindings
from amqpd.management.resources.overview import node_name
from amqpd.management.routing import Table


def find(call: Call) -> BrokerQueue:
    """The queue in the path. Raises 404."""
    virtual_host = call.broker.virtual_hosts.get(call["vhost"])
    found = None if virtual_host is None else virtual_host.queues.get(call["name"])
    if found is None:
        raise not_found()
    return found


def every(call: Call) -> Answer:
    """All of them in the virtual hosts that the user sees, or in one."""
    hosts = wanted_virtual_hosts(call)
    queues = [queue for host in hosts for queue in host.queues.values()]
    return Answer(body=_listing(call, queues))


def _listing(call: Call, queues: Sequence[BrokerQueue]) -> Steps[Listing[BrokerQueue]]:
    make = partial(shown, call, unacked=(yield from unacked_of(call.broker)))
    return Listing(queues, make, fields.queue_head, ("vhost", "name"))


def shown(call: Call, queue: BrokerQueue, unacked: Mapping[BrokerQueue, Unacked]) -> dict[str, Any]:
    """A queue with its statistics."""
    numbers = statistics.of_queue(queue)
    body = fields.queue(node_name(call.node), queue, unacked.get(queue, NONE_UNACKED))
    body |= call.statistics.of_messages(queue, numbers, call.query)
    idle_since = call.statistics.idle_since(queue, numbers)
    return body if idle_since is None else body | {"idle_since": idle_since}


def show(call: Call) -> Answer:
    """One queue."""
    return Answer(body=_details(call, find(call)))


def _details(call: Call, found: BrokerQueue) -> Steps[dict[str, Any]]:
    body = shown(call, found, (yield from unacked_of(call.broker)))
    consumers = [fields.consumer(call.node, consumer) for consumer in found.consumers.members()]
    return body | {"consumer_details": consumers, "incoming": [], "deliveries": []}


def put(call: Call) -> Answer:
    """queue.declare. Not exclusive: the caller has no connection that it could belong to."""
    virtual_host = call.virtual_host
    body = call.json()
    node = body.get("node")
    if node is not None and node != node_name(call.node):
        raise bad_request(f"Node {node} could not be contacted")
    is_new = call["name"] not in virtual_host.queues
    amqp.perform(
        call,
        amqp.frame(
            Queue.Declare,
            queue=call["name"],
            passive=False,
            durable=boolean(body, "durable"),
            exclusive=False,
            auto_delete=boolean(body, "auto_delete"),
            nowait=False,
        ),
        amqp.arguments(call, body),
    )
    return done(is_new)


def delete(call: Call) -> Answer:
    """queue.delete."""
    found = find(call)
    amqp.perform(
        call,
        amqp.frame(
            Queue.Delete,
            queue=found.name,
            if_unused=call.query.get("if-unused") == "true",
            if_empty=call.query.get("if-empty") == "true",
            nowait=False,
        ),
    )
    return done()


def purge(call: Call) -> Answer:
    """queue.purge."""
    amqp.perform(call, amqp.frame(Queue.Purge, queue=find(call).name, nowait=False))
    return done()


def get(call: Call) -> Answer:
    """basic.get, several times."""
    virtual_host = call.virtual_host
    wanted = messages.read_get(call)
    if call["name"] not in virtual_host.queues:
        reason = f"no queue '{call['name']}' in vhost '{virtual_host.name}'"
        raise not_found(f"NOT_FOUND - {reason}")
    return Answer(body=messages.shown(wanted, messages.get(call, call["name"], wanted)))


def bindings(call: Call) -> Answer:
    """What leads to it, the default exchange first; nothing in a virtual host that is missing."""
    virtual_host = call.broker.virtual_hosts.get(call["vhost"])
    if virtual_host is None:
        return listed([])
    name = call["name"]
    found = virtual_host.queues.get(name)
    incoming = [] if found is None else virtual_host.router.bindings_to(found)
    # RabbitMQ shows the default one whether the queue is there or not.
    return listed_bindings(virtual_host, [name, *incoming])


def act(call: Call) -> Answer:
    """sync and cancel_sync were for mirrored queues: there is nothing to synchronise."""
    find(call)
    action = call.json_with("action")["action"]
    if action not in ("sync", "cancel_sync"):
        raise bad_request(["unknown", action])
    return done()


def register(table: Table) -> None:
    """The paths."""
    table.add("/queues", GET=(every, anybody))
    table.add("/queues/detailed", GET=(every, anybody))
    table.add("/queues/{vhost}", GET=(every, in_virtual_host))
    table.add(
        "/queues/{vhost}/{name}",
        GET=(show, in_virtual_host),
        PUT=(put, in_virtual_host),
        DELETE=(delete, in_virtual_host),
    )
    table.add("/queues/{vhost}/{name}/bindings", GET=(bindings, in_virtual_host))
    table.add("/queues/{vhost}/{name}/contents", DELETE=(purge, in_virtual_host))
    table.add("/queues/{vhost}/{name}/get", POST=(get, in_virtual_host))
    table.add("/queues/{vhost}/{name}/actions", POST=(act, administrators))
