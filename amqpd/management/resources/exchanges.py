"""/exchanges: list, declare, delete, bindings, publish."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from amqpd.broker.exchange import BrokerExchange
from amqpd.broker.queue import Queue as BrokerQueue
from amqpd.broker.virtual_host import VirtualHost
from amqpd.commands import Exchange
from amqpd.management import amqp, fields, messages, statistics
from amqpd.management.auth import anybody, in_virtual_host, wanted_virtual_hosts
from amqpd.management.call import Answer, Call, boolean, done, listed, listed_in_steps
from amqpd.management.errors import bad_request, not_authorised, not_found
from amqpd.management.routing import Table
from amqpd_exchanges.exchange import Binding

DEFAULT = "amq.default"
"""What the default exchange is called in paths."""


def exchange_name(call: Call, place: str = "name") -> str:
    """The name of the exchange in the path."""
    return "" if call[place] == DEFAULT else call[place]


def find(call: Call, place: str = "name") -> BrokerExchange:
    """The exchange in the path. Raises 404."""
    virtual_host = call.broker.virtual_hosts.get(call["vhost"])
    found = None if virtual_host is None else virtual_host.exchanges.get(exchange_name(call, place))
    if found is None:
        raise not_found()
    return found


def every(call: Call) -> Answer:
    """All of them in the virtual hosts that the user sees, or in one."""
    hosts = wanted_virtual_hosts(call)
    settle_tallies(call)
    exchanges = [(host, found) for host in hosts for found in host.exchanges.values()]
    return listed_in_steps(exchanges, lambda each: shown(call, *each), "vhost", "name", head=_head)


def _head(each: tuple[VirtualHost, BrokerExchange]) -> dict[str, Any]:
    return {"name": each[1].name, "vhost": each[0].name}


def settle_tallies(call: Call) -> None:
    """What channels have published up to now counts for their exchanges."""
    for session in call.broker.sessions:
        for channel in session.channels.values():
            channel.turn_to(channel.tally)


def shown(call: Call, host: VirtualHost, found: BrokerExchange) -> dict[str, Any]:
    """An exchange with its statistics."""
    numbers = statistics.of_exchange(found)
    return fields.exchange(host, found) | call.statistics.of_messages(found, numbers, call.query)


def show(call: Call) -> Answer:
    """One exchange."""
    found = find(call)
    settle_tallies(call)
    body = shown(call, call.virtual_host, found)
    return Answer(body=body | {"incoming": [], "outgoing": []})


def put(call: Call) -> Answer:
    """exchange.declare; the type is direct unless it says another."""
    name = exchange_name(call)
    virtual_host = call.virtual_host
    body = call.json()
    kind = body.get("type", "direct")
    if not isinstance(kind, str):
        raise bad_request(["not_string", "type"])
    if not name:
        raise not_authorised("Access refused.")
    is_new = name not in virtual_host.exchanges
    amqp.perform(
        call,
        amqp.frame(
            Exchange.Declare,
            exchange=name,
            exchange_type=kind,
            durable=boolean(body, "durable"),
            auto_delete=boolean(body, "auto_delete"),
            internal=boolean(body, "internal"),
            passive=False,
            nowait=False,
        ),
        amqp.arguments(call, body),
    )
    return done(is_new)


def delete(call: Call) -> Answer:
    """exchange.delete."""
    found = find(call)
    if not found.name:
        raise not_authorised("Access refused.")
    if_unused = call.query.get("if-unused") == "true"
    amqp.perform(
        call, amqp.frame(Exchange.Delete, exchange=found.name, if_unused=if_unused, nowait=False)
    )
    return done()


def bindings_from(call: Call) -> Answer:
    """Where it leads: nowhere if it is not there, or its virtual host."""
    virtual_host = call.broker.virtual_hosts.get(call["vhost"])
    found = None if virtual_host is None else virtual_host.exchanges.get(exchange_name(call))
    if virtual_host is None or found is None:
        return listed([])
    return listed_bindings(
        virtual_host, found.table.bindings if found.name else virtual_host.queues
    )


def bindings_to(call: Call) -> Answer:
    """What leads to it, likewise."""
    virtual_host = call.broker.virtual_hosts.get(call["vhost"])
    found = None if virtual_host is None else virtual_host.exchanges.get(exchange_name(call))
    if virtual_host is None or found is None:
        return listed([])
    return listed_bindings(virtual_host, virtual_host.router.bindings_to(found.table))


def listed_bindings(
    virtual_host: VirtualHost, found: Iterable[Binding[BrokerQueue] | str]
) -> Answer:
    """Bindings of one exchange or queue: see `fields.any_binding`."""
    make = partial(fields.any_binding, virtual_host)
    return listed_in_steps(list(found), make, "vhost", "source", "destination", "routing_key")


def publish(call: Call) -> Answer:
    """basic.publish; whether any queue took it."""
    call.require_virtual_host()
    message = messages.read(call, exchange_name(call))
    return Answer(body={"routed": messages.publish(call, message)})


def register(table: Table) -> None:
    """The paths."""
    table.add("/exchanges", GET=(every, anybody))
    table.add("/exchanges/{vhost}", GET=(every, in_virtual_host))
    table.add(
        "/exchanges/{vhost}/{name}",
        GET=(show, in_virtual_host),
        PUT=(put, in_virtual_host),
        DELETE=(delete, in_virtual_host),
    )
    table.add("/exchanges/{vhost}/{name}/bindings/source", GET=(bindings_from, in_virtual_host))
    table.add("/exchanges/{vhost}/{name}/bindings/destination", GET=(bindings_to, in_virtual_host))
    table.add("/exchanges/{vhost}/{name}/publish", POST=(publish, in_virtual_host))
