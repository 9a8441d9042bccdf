"""The JSON of each kind of object: what it is called there, and where it comes from.

One function an object. Numbers that grow with time are added by `statistics`.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from amqpd.broker.access import User
from amqpd.broker.definitions import PermissionRecord, TopicPermissionRecord
from amqpd.broker.events import INTERNAL_USER
from amqpd.broker.exchange import BrokerExchange
from amqpd.broker.queue import Queue
from amqpd.broker.virtual_host import PREDECLARED, VirtualHost
from amqpd.commands import Arguments
from amqpd.management.node import Node
from amqpd.wire.tables import encode_table, plain
from amqpd_exchanges.exchange import Binding

PREDECLARED_NAMES = frozenset(("", *(name for name, _, _ in PREDECLARED)))


def readable(value: Any) -> Any:
    """`value` with text that UTF-8 can carry: names may hold any octets."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {readable(key): readable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [readable(item) for item in value]
    return value


# -- users


def user(record: User) -> dict[str, Any]:
    """A user, hash and all: it is for administrators."""
    return {
        "name": record.name,
        "password_hash": record.password_hash,
        "hashing_algorithm": record.hashing_algorithm,
        "tags": list(record.tags),
        "limits": {},
    }


def permission(record: PermissionRecord) -> dict[str, Any]:
    """What a user may do in a virtual host."""
    return {
        "user": record.user,
        "vhost": record.vhost,
        "configure": record.configure,
        "write": record.write,
        "read": record.read,
    }


def topic_permission(record: TopicPermissionRecord) -> dict[str, Any]:
    """Which routing keys a user may use."""
    return {
        "user": record.user,
        "vhost": record.vhost,
        "exchange": record.exchange,
        "write": record.write,
        "read": record.read,
    }


# -- virtual hosts, exchanges, queues


def virtual_host(node: Node, found: VirtualHost) -> dict[str, Any]:
    """A virtual host."""
    return {
        "cluster_state": {node.broker.node: "running"},
        "default_queue_type": "classic",
        "description": "",
        "metadata": {"description": "", "tags": []},
        "name": found.name,
        "tags": [],
        "tracing": False,
    }


def exchange(virtual_host: VirtualHost, found: BrokerExchange) -> dict[str, Any]:
    """An exchange; the default one has an empty name."""
    return {
        "arguments": plain(found.arguments),
        "auto_delete": found.auto_delete,
        "durable": found.durable,
        "internal": found.internal,
        "name": found.name,
        "type": found.type,
        "user_who_performed_action": INTERNAL_USER,
        "vhost": virtual_host.name,
    }


def queue(node: str, found: Queue) -> dict[str, Any]:
    """A queue as it stands now."""
    ready, unacked = found.ready, found.unacked
    members = found.consumers.members()
    exclusive, active = found.consumers.exclusive, found.consumers.active
    fields: dict[str, Any] = {
        "arguments": plain(found.arguments),
        "auto_delete": found.auto_delete,
        "consumer_capacity": 1.0 if found.consumers.can_serve() else 0,
        "consumer_utilisation": 1.0 if found.consumers.can_serve() else 0,
        "consumers": len(members),
        "durable": found.durable,
        "effective_policy_definition": {},
        "exclusive": found.owner is not None,
        "exclusive_consumer_tag": None if exclusive is None else exclusive.tag,
        "messages": ready + unacked,
        "messages_ready": ready,
        "messages_unacknowledged": unacked,
        "name": found.name,
        "node": node,
        "operator_policy": None,
        "policy": None,
        "single_active_consumer_tag": None if active is None else active.tag,
        "state": "running",
        "type": "classic",
        "vhost": found.virtual_host,
    }
    return fields


# -- bindings


def properties_key(routing_key: str, arguments: Arguments) -> str:
    """What tells bindings of one source and destination apart, fit for a path segment.

    The routing key, percent-encoded; `~` for an empty one without arguments; `key~hash` with them.
    RabbitMQ's hash is Erlang's own, ours a checksum: to clients it means nothing.
    """
    key = quote_plus(routing_key, errors="surrogateescape").replace("~", "%7E")
    if not arguments:
        return key or "~"
    return f"{key}~{_arguments_hash(arguments)}"


def has_properties_key(routing_key: str, arguments: Arguments, wanted: str) -> bool:
    """Whether a path segment, decoded once, means the binding with these."""
    if wanted == properties_key(routing_key, arguments):
        return True
    key, separator, rest = wanted.partition("~")
    if separator and not arguments:
        return False
    if arguments and rest != _arguments_hash(arguments):
        return False
    return unquote_plus(key) == routing_key


def _arguments_hash(arguments: Arguments) -> str:
    checksum = zlib.crc32(encode_table(dict(sorted(arguments.items()))))
    return urlsafe_b64encode(checksum.to_bytes(4, "big")).rstrip(b"=").decode()


def binding(virtual_host: VirtualHost, found: Binding[Queue]) -> dict[str, Any]:
    """A binding that somebody made."""
    arguments = dict(found.arguments)
    return {
        "source": found.source.name,
        "vhost": virtual_host.name,
        "destination": found.destination.name,
        "destination_type": "queue" if isinstance(found.destination, Queue) else "exchange",
        "routing_key": found.routing_key,
        "arguments": plain(arguments),
        "properties_key": properties_key(found.routing_key, arguments),
    }


def default_binding(virtual_host: VirtualHost, queue_name: str) -> dict[str, Any]:
    """The binding that every queue has from birth."""
    return {
        "source": "",
        "vhost": virtual_host.name,
        "destination": queue_name,
        "destination_type": "queue",
        "routing_key": queue_name,
        "arguments": {},
        "properties_key": properties_key(queue_name, {}),
    }
