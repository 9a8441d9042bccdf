"""/overview, /whoami, /cluster-name, /extensions, /version, /login."""

from __future__ import annotations

import platform
from typing import Any

from amqpd.config import SERVER_VERSIONS
from amqpd.management.auth import administrators, anybody, visible_virtual_hosts
from amqpd.management.call import Answer, Call, done
from amqpd.management.errors import bad_request
from amqpd.management.node import Node
from amqpd.management.resources.parameters import refusing
from amqpd.management.routing import Table
from amqpd.management.statistics import OVERVIEW
from amqpd_exchanges.router import KINDS

CLUSTER_NAME = "cluster_name"
"""The global parameter."""
RETENTION = {"global": [600, 3600, 28800, 86400], "basic": [600, 3600], "detailed": [600]}


def server_version(node: Node) -> str:
    """The RabbitMQ version that the compatibility profile behaves like."""
    return SERVER_VERSIONS[node.broker.config.compat]


def node_name(node: Node) -> str:
    """What this node calls itself."""
    return node.broker.node


def exchange_types() -> list[dict[str, Any]]:
    """Every type of exchange that can be declared."""
    return [
        {"name": kind, "description": f"AMQP {kind} exchange", "enabled": True}
        for kind in sorted(KINDS)
    ]


def listeners(node: Node) -> list[dict[str, Any]]:
    """Where clients can connect."""
    return [
        {
            "node": node_name(node),
            "protocol": protocol,
            "ip_address": address.rpartition(":")[0].strip("[]"),
            "port": int(address.rpartition(":")[2]),
            "socket_opts": {"backlog": 1024, "nodelay": True},
        }
        for protocol, addresses in node.listeners.items()
        for address in addresses
    ]


def overview(call: Call) -> Answer:
    """The broker at a glance; what it counts, of the virtual hosts that the user sees."""
    node = call.node
    version = server_version(node)
    body: dict[str, Any] = {
        "management_version": version,
        "rates_mode": "basic",
        "sample_retention_policies": RETENTION,
        "exchange_types": exchange_types(),
        "product_version": version,
        "product_name": "RabbitMQ",
        "rabbitmq_version": version,
        "cluster_name": name_of_cluster(node),
        "cluster_tags": {},
        "node_tags": {},
        "default_queue_type": "classic",
        "erlang_version": platform.python_version(),
        "erlang_full_version": f"Python {platform.python_version()}, no Erlang",
        "release_series_support_status": "supported",
        "disable_stats": False,
        "is_op_policy_updating_enabled": True,
        "enable_queue_totals": False,
        "statistics_db_event_queue": 0,
        "node": node_name(node),
        "listeners": listeners(node),
        "contexts": contexts(node),
    }
    body |= totals(call)
    return Answer(body=body)


def contexts(node: Node) -> list[dict[str, Any]]:
    """Where the HTTP API is."""
    return [
        {
            "ssl_opts": [],
            "node": node_name(node),
            "description": "RabbitMQ Management",
            "path": "/",
            "cowboy_opts": "[]",
            "ip": listener["ip_address"],
            "port": str(listener["port"]),
        }
        for listener in listeners(node)
        if listener["protocol"] == "http"
    ]


def totals(call: Call) -> dict[str, Any]:
    """How many there are of everything."""
    broker = call.broker
    visible = visible_virtual_hosts(call)
    queues = [queue for virtual_host in visible for queue in virtual_host.queues.values()]
    sessions = [session for session in broker.sessions if session.virtual_host in visible]
    channels = [channel for session in sessions for channel in session.channels.values()]
    statistics = call.statistics
    counted = statistics.of_messages(OVERVIEW, statistics.of_hosts(visible), call.query)
    churn = statistics.shown(OVERVIEW, statistics.churn(), call.query, "msg_rates")
    return {
        "message_stats": counted.pop("message_stats", {}),
        "churn_rates": churn,
        "queue_totals": counted,
        "object_totals": {
            "channels": len(channels),
            "connections": len(sessions),
            "consumers": sum(len(queue.consumers) for queue in queues),
            "exchanges": sum(len(virtual_host.exchanges) for virtual_host in visible),
            "queues": len(queues),
        },
    }


def who_am_i(call: Call) -> Answer:
    """The user who asks."""
    return Answer(body={"name": call.user.name, "tags": list(call.user.tags)})


def cluster_name(call: Call) -> Answer:
    """What the cluster is called."""
    return Answer(body={"name": name_of_cluster(call.node)})


def name_of_cluster(node: Node) -> str:
    """As clients and other brokers know it."""
    return node.broker.cluster_name


def put_cluster_name(call: Call) -> Answer:
    """Call it something else."""
    name = call.json_with("name")["name"]
    if not isinstance(name, str):
        raise bad_request(["not_string", "name"])
    call.broker.parameters.set_global(CLUSTER_NAME, name, by=call.user.name)
    return done()


def log_in(call: Call) -> Answer:
    """Browsers ask here whether a login is good: it was, or this would not be answered."""
    return done()


def extensions(call: Call) -> Answer:
    """Scripts that plugins add to RabbitMQ's user interface: none here."""
    return Answer(body=[])


def version(call: Call) -> Answer:
    """The version alone."""
    return Answer(body=server_version(call.node))


def register(table: Table) -> None:
    """The paths."""
    table.add("/overview", GET=(overview, anybody))
    table.add("/whoami", GET=(who_am_i, anybody))
    table.add(
        "/cluster-name",
        GET=(cluster_name, anybody),
        PUT=(refusing(put_cluster_name), administrators),
    )
    table.add("/login", GET=(log_in, anybody), POST=(log_in, anybody))
    table.add("/extensions", GET=(extensions, anybody))
    table.add("/version", GET=(version, anybody))
