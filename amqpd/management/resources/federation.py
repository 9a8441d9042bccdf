"""/federation-links: what comes from other brokers, and how that is (rabbit_federation_mgmt)."""

from __future__ import annotations

from typing import Any

from amqpd.links.federation import federation_statuses, restart_federation_link
from amqpd.management.auth import monitors, policymakers, visible_virtual_hosts
from amqpd.management.call import Answer, Call, done, listed
from amqpd.management.errors import not_found
from amqpd.management.routing import Table

UP = ("running", "starting")


def every(call: Call) -> Answer:
    """Of all virtual hosts that the user sees."""
    return _listed(_visible(call))


def down(call: Call) -> Answer:
    """Of these, the ones that do not work."""
    return _listed([row for row in _visible(call) if row["status"] not in UP])


def of_virtual_host(call: Call) -> Answer:
    """Of one virtual host."""
    call.require_virtual_host()
    return _listed([row for row in _visible(call) if row["vhost"] == call["vhost"]])


def down_in_virtual_host(call: Call) -> Answer:
    """Of these, the ones that do not work."""
    call.require_virtual_host()
    rows = [row for row in _visible(call) if row["vhost"] == call["vhost"]]
    return _listed([row for row in rows if row["status"] not in UP])


def restart(call: Call) -> Answer:
    """End a link and begin anew."""
    if call["node"] != call.broker.node:
        raise not_found()
    try:
        restart_federation_link(call.broker, call["vhost"], call["id"])
    except LookupError:
        raise not_found() from None
    return done()


def _visible(call: Call) -> list[dict[str, Any]]:
    hosts = {host.name for host in visible_virtual_hosts(call)}
    return [row for row in federation_statuses(call.broker) if row["vhost"] in hosts]


def _listed(rows: list[dict[str, Any]]) -> Answer:
    return listed(rows, "vhost", "type", "upstream")


def register(table: Table) -> None:
    """The paths."""
    table.add("/federation-links", GET=(every, monitors))
    table.add("/federation-links/state/down", GET=(down, monitors))
    table.add("/federation-links/{vhost}", GET=(of_virtual_host, monitors))
    table.add("/federation-links/{vhost}/state/down", GET=(down_in_virtual_host, monitors))
    table.add("/federation-links/vhost/{vhost}/{id}/{node}/restart", DELETE=(restart, policymakers))
