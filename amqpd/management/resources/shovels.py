"""/shovels: what moves messages from here to there, and how it is."""

from __future__ import annotations

from typing import Any

from amqpd.links.shovel_definition import COMPONENT
from amqpd.links.shovels import restart_shovel, shovel_statuses
from amqpd.management.auth import monitors, visible_virtual_hosts
from amqpd.management.call import Answer, Call, done, listed
from amqpd.management.errors import bad_request, not_found
from amqpd.management.routing import Table


def every(call: Call) -> Answer:
    """Of all virtual hosts that the user sees."""
    return _listed(_visible(call))


def of_virtual_host(call: Call) -> Answer:
    """Of one virtual host."""
    call.require_virtual_host()
    return _listed([row for row in _visible(call) if row["vhost"] == call["vhost"]])


def show(call: Call) -> Answer:
    """One of them."""
    return Answer(body=_status(call))


def delete(call: Call) -> Answer:
    """End it for good: its parameter goes, whether it ever connected or not."""
    if _status(call)["type"] == "static":
        raise bad_request("a static shovel is deleted in the configuration of the broker")
    call.broker.parameters.clear(call["vhost"], COMPONENT, call["name"], by=call.user.name)
    return done()


def restart(call: Call) -> Answer:
    """End it and begin anew."""
    _status(call)
    restart_shovel(call.broker, call["vhost"], call["name"])
    return done()


def _status(call: Call) -> dict[str, Any]:
    """Of the dynamic one, where one of the configuration has the same name."""
    sought = (call["vhost"], call["name"])
    found = [row for row in _visible(call) if (row["vhost"], row["name"]) == sought]
    if not found:
        raise not_found()
    return min(found, key=lambda row: row["type"] == "static")


def _visible(call: Call) -> list[dict[str, Any]]:
    """Monitoring sees those of others too, where it has permissions."""
    hosts = {host.name for host in visible_virtual_hosts(call)}
    return [row for row in shovel_statuses(call.broker) if row["vhost"] in hosts]


def _listed(rows: list[dict[str, Any]]) -> Answer:
    return listed(rows, "vhost", "name")


def register(table: Table) -> None:
    """The paths."""
    table.add("/shovels", GET=(every, monitors))
    table.add("/shovels/{vhost}", GET=(of_virtual_host, monitors))
    table.add("/shovels/vhost/{vhost}/{name}", GET=(show, monitors), DELETE=(delete, monitors))
    table.add("/shovels/vhost/{vhost}/{name}/restart", DELETE=(restart, monitors))
