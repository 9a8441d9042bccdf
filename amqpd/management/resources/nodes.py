"""/nodes, /auth/attempts, /feature-flags, /deprecated-features, and what belongs to a cluster.

There is one node. Federation is not here yet: its list is empty.
"""

from __future__ import annotations

import os
import platform
from typing import Any

from amqpd import __version__
from amqpd.broker.alarms import Alarm
from amqpd.management.auth import administrators, monitors, strangers
from amqpd.management.call import Answer, Call, done, listed
from amqpd.management.errors import not_found
from amqpd.management.node import Node
from amqpd.management.resources.overview import contexts, exchange_types, node_name
from amqpd.management.routing import Table

MECHANISMS = {
    "PLAIN": "SASL PLAIN authentication mechanism",
    "AMQPLAIN": "QPid AMQPLAIN mechanism",
}
FEATURE_FLAGS = {
    "classic_mirrored_queue_version": "Support setting version for classic mirrored queues",
    "classic_queue_type_delivery_support": "Bug fix for classic queue deliveries",
    "detailed_queues_endpoint": "Add a detailed queues HTTP API endpoint",
    "direct_exchange_routing_v2": "v2 direct exchange routing implementation",
    "drop_unroutable_metric": "Count unroutable publishes to be dropped in stats",
    "empty_basic_get_metric": "Count AMQP `basic.get` on empty queues in stats",
    "feature_flags_v2": "Feature flags subsystem V2",
    "implicit_default_bindings": "Default bindings are implicit, instead of being stored",
    "maintenance_mode_status": "Maintenance mode status",
    "quorum_queue": "Support queues of type `quorum`",
    "user_limits": "Configure connection and channel limits for a user",
    "virtual_host_metadata": "Virtual host metadata (description, tags, etc)",
}
DEPRECATED = (
    "classic_queue_mirroring",
    "global_qos",
    "management_metrics_collection",
    "queue_master_locator",
    "ram_node_type",
    "transient_nonexcl_queues",
)
"""What newer versions of RabbitMQ refuse; which profile does so is in docs/compatibility.md."""


def node_fields(node: Node) -> dict[str, Any]:
    """The one node."""
    resources = node.resources
    alarms = node.broker.alarms.active
    return {
        "name": node_name(node),
        "type": "disc",
        "running": True,
        "being_drained": False,
        "os_pid": str(os.getpid()),
        "uptime": resources.uptime_ms,
        "mem_used": resources.memory_bytes,
        "mem_limit": resources.memory_limit_bytes,
        "mem_alarm": Alarm.MEMORY in alarms,
        "mem_calculation_strategy": "rss",
        "disk_free": resources.disk_free_bytes,
        "disk_free_limit": node.broker.config.disk_free_limit_bytes,
        "disk_free_alarm": Alarm.DISK in alarms,
        "fd_used": resources.files,
        "fd_total": resources.files_max,
        "sockets_used": len(node.broker.sessions),
        "sockets_total": resources.files_max,
        "proc_used": len(node.broker.sessions),
        "proc_total": node.broker.limits.connections_max,
        "processors": os.cpu_count() or 1,
        "run_queue": 0,
        "rates_mode": "basic",
        "partitions": [],
        "net_ticktime": 60,
        "cluster_links": [],
        "exchange_types": exchange_types(),
        "auth_mechanisms": [
            {"name": name, "description": text, "enabled": True}
            for name, text in MECHANISMS.items()
        ],
        "applications": [
            {"name": "amqpd", "description": "AMQP 0-9-1 broker", "version": __version__},
            {
                "name": "python",
                "description": platform.python_implementation(),
                "version": platform.python_version(),
            },
        ],
        "enabled_plugins": ["rabbitmq_management"],
        "config_files": [],
        "log_files": ["<stderr>"],
        "db_dir": resources.directory,
        "contexts": contexts(node),
        "ra_open_file_metrics": {},
        "metrics_gc_queue_length": {},
    }


def nodes(call: Call) -> Answer:
    """All of them."""
    return listed([node_fields(call.node)], "name")


def _require_node(call: Call) -> None:
    if call["node"] != node_name(call.node):
        raise not_found()


def show(call: Call) -> Answer:
    """This one."""
    _require_node(call)
    return Answer(body=node_fields(call.node))


def memory(call: Call) -> Answer:
    """What the process occupies. Python does not say of what for."""
    _require_node(call)
    total = call.node.resources.memory_bytes
    return Answer(
        body={
            "memory": {
                "other_proc": total,
                "allocated_unused": 0,
                "reserved_unallocated": 0,
                "strategy": "rss",
                "total": {"erlang": total, "rss": total, "allocated": total},
            }
        }
    )


def auth_attempts(call: Call) -> Answer:
    """Logins, by protocol."""
    _require_node(call)
    return Answer(
        body=[
            {
                "protocol": protocol,
                "auth_attempts": succeeded + failed,
                "auth_attempts_failed": failed,
                "auth_attempts_succeeded": succeeded,
            }
            for protocol, (succeeded, failed) in call.broker.login_attempts.items()
        ]
    )


def forget_auth_attempts(call: Call) -> Answer:
    """Count them anew."""
    _require_node(call)
    call.broker.login_attempts.clear()
    return done()


def auth_attempts_by_source(call: Call) -> Answer:
    """Not kept by address, as in RabbitMQ unless it is told to."""
    _require_node(call)
    return Answer(body=[])


def forget_by_source(call: Call) -> Answer:
    """There is nothing to forget."""
    _require_node(call)
    return done()


def feature_flags(call: Call) -> Answer:
    """RabbitMQ's switches for clusters of mixed versions, all of them on."""
    return listed(
        [
            {
                "name": name,
                "desc": text,
                "doc_url": "",
                "state": "enabled",
                "stability": "stable",
                "provided_by": "rabbit",
            }
            for name, text in FEATURE_FLAGS.items()
        ],
        "name",
    )


def enable_feature_flag(call: Call) -> Answer:
    """It is on already."""
    if call["name"] not in FEATURE_FLAGS:
        raise not_found()
    return done()


def deprecated_features(call: Call) -> Answer:
    """What is to go from RabbitMQ."""
    denied = call.broker.config.compat == "4.3"
    return listed(
        [
            {
                "name": name,
                "desc": "",
                "deprecation_phase": "denied_by_default" if denied else "permitted_by_default",
                "doc_url": "",
                "provided_by": "rabbit",
            }
            for name in DEPRECATED
        ],
        "name",
    )


def deprecated_features_used(call: Call) -> Answer:
    """Those of them that some client used."""
    known = {item["name"]: item for item in deprecated_features(call).body.sources}
    return listed([item for name, item in known.items() if call.broker.has_warned(name)], "name")


def no_effect(call: Call) -> Answer:
    """What moves leaders of queues between nodes has nothing to do on one."""
    return done()


def authentication(call: Call) -> Answer:
    """How to log in: with HTTP Basic."""
    return Answer(body={"oauth_enabled": False, "enable_uaa": False})


def reset(call: Call) -> Answer:
    """Forget the samples of statistics, of the cluster or of this node."""
    if call.parameters.get("node", call.broker.node) != call.broker.node:
        raise not_found()
    call.statistics.forget()
    return done()


def register(table: Table) -> None:
    """The paths."""
    table.add("/nodes", GET=(nodes, monitors))
    table.add("/nodes/{node}", GET=(show, monitors))
    table.add("/nodes/{node}/memory", GET=(memory, monitors))
    table.add(
        "/auth/attempts/{node}",
        GET=(auth_attempts, monitors),
        DELETE=(forget_auth_attempts, monitors),
    )
    table.add(
        "/auth/attempts/{node}/source",
        GET=(auth_attempts_by_source, monitors),
        DELETE=(forget_by_source, monitors),
    )
    table.add("/auth", GET=(authentication, strangers))
    table.add("/feature-flags", GET=(feature_flags, administrators))
    table.add("/feature-flags/{name}/enable", PUT=(enable_feature_flag, administrators))
    table.add("/deprecated-features", GET=(deprecated_features, administrators))
    table.add("/deprecated-features/used", GET=(deprecated_features_used, administrators))
    table.add("/reset", DELETE=(reset, administrators))
    table.add("/reset/{node}", DELETE=(reset, administrators))
    table.add("/rebalance/queues", POST=(no_effect, administrators))
