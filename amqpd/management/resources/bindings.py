"""/bindings: list, make, remove."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from amqpd.broker.queue import Queue as BrokerQueue
from amqpd.broker.virtual_host import VirtualHost
from amqpd.commands import Arguments, Exchange, Frame, Queue
from amqpd.management import amqp, fields
from amqpd.management.auth import anybody, in_virtual_host, wanted_virtual_hosts
from amqpd.management.call import Answer, Call, done, listed, listed_in_steps
from amqpd.management.errors import bad_request, not_found
from amqpd.management.resources.exchanges import exchange_name
from amqpd.management.routing import Table
from amqpd_exchanges.exchange import Binding

ORDER = ("vhost", "source", "destination", "routing_key", "properties_key")


Found = tuple[VirtualHost, Binding[BrokerQueue] | str]
"""What `fields.any_binding` makes a row of."""


def all_in(virtual_host: VirtualHost) -> list[Found]:
    """Every binding, those of the default exchange as well."""
    implied: list[Found] = [(virtual_host, name) for name in virtual_host.queues]
    return implied + [
        (virtual_host, binding)
        for exchange in virtual_host.exchanges.values()
        for binding in exchange.table.bindings
    ]


def every(call: Call) -> Answer:
    """In the virtual hosts that the user sees, or in one."""
    found = [each for host in wanted_virtual_hosts(call) for each in all_in(host)]
    return listed_in_steps(found, lambda each: fields.any_binding(*each), *ORDER)


def between(call: Call) -> Answer:
    """From one exchange to one queue or exchange; where there is no such virtual host, none."""
    virtual_host = call.broker.virtual_hosts.get(call["vhost"])
    if virtual_host is None:
        return listed([])
    if not exchange_name(call, "source"):
        implied = call.parameters.get("queue")
        there = implied is not None and implied in virtual_host.queues
        return listed([fields.default_binding(virtual_host, implied or "")] if there else [])
    return listed([fields.binding(virtual_host, found) for found in _between(call)], *ORDER)


def _between(call: Call) -> list[Binding[BrokerQueue]]:
    """Those that somebody made."""
    virtual_host = call.virtual_host
    source = virtual_host.exchanges.get(exchange_name(call, "source"))
    destination: object
    if "queue" in call.parameters:
        destination = virtual_host.queues.get(call["queue"])
    else:
        exchange = virtual_host.exchanges.get(exchange_name(call, "destination"))
        destination = None if exchange is None else exchange.table
    if source is None or destination is None:
        return []
    return [found for found in source.table.bindings if found.destination is destination]


def _find(call: Call) -> Binding[BrokerQueue]:
    """The one that the last segment of the path names. Raises 404."""
    for found in _between(call):
        if fields.has_properties_key(found.routing_key, dict(found.arguments), call["properties"]):
            return found
    raise not_found()


def show(call: Call) -> Answer:
    """One binding."""
    virtual_host = call.virtual_host
    name = call.parameters.get("queue", "")
    if not exchange_name(call, "source") and name in virtual_host.queues:
        if fields.has_properties_key(name, {}, call["properties"]):
            return Answer(body=fields.default_binding(virtual_host, name))
        raise not_found()
    return Answer(body=fields.binding(virtual_host, _find(call)))


def bind(call: Call) -> Answer:
    """queue.bind or exchange.bind; the header `Location` names the binding."""
    call.require_virtual_host()
    body = call.json()
    routing_key = body.get("routing_key", "")
    if not isinstance(routing_key, str):
        raise bad_request(["not_string", "routing_key"])
    table = amqp.arguments(call, body)
    _perform(call, routing_key, table, bind=True)
    destination = call.parameters.get("queue") or call["destination"]
    key = fields.properties_key(routing_key, table)
    # Encoded once more: it is a segment of a path now.
    location = f"{quote(destination, safe='')}/{quote(key, safe='~')}"
    return Answer(201, headers={"location": location})


def unbind(call: Call) -> Answer:
    """queue.unbind or exchange.unbind."""
    found = _find(call)
    _perform(call, found.routing_key, dict(found.arguments), bind=False)
    return done()


def _perform(call: Call, routing_key: str, table: Arguments, *, bind: bool) -> None:
    source = exchange_name(call, "source")
    method: Frame
    if "queue" in call.parameters:
        kind: Any = Queue.Bind if bind else Queue.Unbind
        method = amqp.frame(
            kind, queue=call["queue"], exchange=source, routing_key=routing_key, nowait=False
        )
    else:
        kind = Exchange.Bind if bind else Exchange.Unbind
        destination = exchange_name(call, "destination")
        method = amqp.frame(
            kind, destination=destination, source=source, routing_key=routing_key, nowait=False
        )
    amqp.perform(call, method, table)


def register(table: Table) -> None:
    """The paths."""
    table.add("/bindings", GET=(every, anybody))
    table.add("/bindings/{vhost}", GET=(every, in_virtual_host))
    for path in (
        "/bindings/{vhost}/e/{source}/q/{queue}",
        "/bindings/{vhost}/e/{source}/e/{destination}",
    ):
        table.add(path, GET=(between, in_virtual_host), POST=(bind, in_virtual_host))
        table.add(
            path + "/{properties}", GET=(show, in_virtual_host), DELETE=(unbind, in_virtual_host)
        )
