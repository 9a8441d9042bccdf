"""The JSON of each kind of object: what it is called there, and where it comes from.

One function an object. Numbers that grow with time are added by `statistics`.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from amqpd.broker.access import User
from amqpd.broker.channel import Channel
from amqpd.broker.consumer import Consumer
from amqpd.broker.deduplication import Deduplication
from amqpd.broker.definitions import PermissionRecord, TopicPermissionRecord
from amqpd.broker.events import INTERNAL_USER
from amqpd.broker.exchange import BrokerExchange
from amqpd.broker.policies import Policy
from amqpd.broker.queue import Queue
from amqpd.broker.queue_figures import Unacked, figures
from amqpd.broker.session import Session
from amqpd.broker.virtual_host import VirtualHost
from amqpd.commands import Arguments
from amqpd.management.node import Node, Traffic
from amqpd.wire.tables import encode_table, plain
from amqpd_exchanges.exchange import Binding

QUEUE_BYTES = 3000
"""What a queue occupies without messages; and what a message does beside its body."""
MESSAGE_BYTES = 500
SEEN_BYTES = 250
"""What a deduplication exchange needs for each header that it has seen."""


# -- users


def user(record: User) -> dict[str, Any]:
    """A user, hash and all: it is for administrators."""
    return {
        "name": record.name,
        "password_hash": record.password_hash,
        "hashing_algorithm": record.hashing_algorithm,
        "tags": list(record.tags),
        "limits": dict(record.limits),
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
    record = found.record
    metadata: dict[str, Any] = {"description": record.description, "tags": list(record.tags)}
    if record.default_queue_type is not None:
        metadata["default_queue_type"] = record.default_queue_type
    return {
        "cluster_state": {node.broker.node: "running"},
        "default_queue_type": record.default_queue_type or "classic",
        "description": record.description,
        "metadata": metadata,
        "name": found.name,
        "protected_from_deletion": False,
        "tags": list(record.tags),
        "tracing": found.tracing,
    }


def exchange(virtual_host: VirtualHost, found: BrokerExchange) -> dict[str, Any]:
    """An exchange; the default one has an empty name."""
    shown: dict[str, Any] = {
        "arguments": plain(found.arguments),
        "auto_delete": found.auto_delete,
        "durable": found.durable,
        "internal": found.internal,
        "name": found.name,
        "operator_policy": policy_name(found.operator_policy),
        "policy": policy_name(found.policy),
        "type": found.type,
        "user_who_performed_action": INTERNAL_USER,
        "vhost": virtual_host.name,
    }
    # What RabbitMQ's plug-ins tell of exchanges of their types.
    if found.messages_delayed is not None:
        shown["messages_delayed"] = found.messages_delayed
    if isinstance(found.memory, Deduplication):
        entries = found.memory.entries
        shown["cache_info"] = {
            "bytes": entries * SEEN_BYTES,
            "entries": entries,
            "size": found.memory.size,
        }
    return shown


def queue_head(found: Queue) -> dict[str, Any]:
    """What a queue is called."""
    return {"name": found.name, "vhost": found.virtual_host}


def queue(node: str, found: Queue, unacked: Unacked) -> dict[str, Any]:
    """A queue as it stands now; `unacked` is its part of what `unacked_of` found."""
    sums = figures(found, unacked)
    members = found.consumers.members()
    exclusive, active = found.consumers.exclusive, found.consumers.active
    fields: dict[str, Any] = {
        "arguments": plain(found.arguments),
        "auto_delete": found.auto_delete,
        "consumer_capacity": 1.0 if found.consumers.can_serve() else 0.0,
        "consumer_utilisation": 1.0 if found.consumers.can_serve() else 0.0,
        "consumers": len(members),
        "durable": found.durable,
        "effective_policy_definition": found.effective_policy_definition or {},
        "exclusive": found.owner is not None,
        "exclusive_consumer_tag": None if exclusive is None else exclusive.tag,
        "head_message_timestamp": sums.head_timestamp,
        "memory": QUEUE_BYTES + found.resident * MESSAGE_BYTES + found.resident_bytes,
        "message_bytes": sums.all.body_bytes,
        "message_bytes_paged_out": (sums.ready.body_bytes - sums.ready_in_memory.body_bytes),
        "message_bytes_persistent": sums.persistent.body_bytes,
        "message_bytes_ram": sums.in_memory.body_bytes,
        "message_bytes_ready": sums.ready.body_bytes,
        "message_bytes_unacknowledged": sums.unacked.body_bytes,
        "messages": found.ready + found.unacked,
        "messages_paged_out": sums.ready.messages - sums.ready_in_memory.messages,
        "messages_persistent": sums.persistent.messages,
        "messages_ram": sums.in_memory.messages,
        "messages_ready": found.ready,
        "messages_ready_ram": sums.ready_in_memory.messages,
        "messages_unacknowledged": found.unacked,
        "messages_unacknowledged_ram": sums.unacked.messages,
        "name": found.name,
        "node": node,
        "operator_policy": policy_name(found.operator_policy),
        "policy": policy_name(found.policy),
        "single_active_consumer_tag": None if active is None else active.tag,
        "state": "running",
        "type": found.type,
        "vhost": found.virtual_host,
    }
    if found.type == "quorum":
        fields |= {
            "leader": node,
            "members": [node],
            "message_bytes_dlx": sums.dead.body_bytes,
            "messages_dlx": sums.dead.messages,
            "online": [node],
            "open_files": {node: 0},
        }
    if found.owner is not None:
        fields["owner_pid_details"] = connection_details(found.owner)
    return fields


def policy_name(found: Policy | None) -> str | None:
    """Null is said where no policy holds."""
    return None if found is None else found.name


# -- connections, channels, consumers


def connection_details(session: Session) -> dict[str, Any]:
    """The few words that other objects have about a connection."""
    host, port = session.origin.peer
    return {"name": session.origin.name, "peer_host": host, "peer_port": port}


def connection(node: Node, session: Session, traffic: Traffic) -> dict[str, Any]:
    """A client's connection."""
    origin = session.origin
    host, port = origin.listener
    peer_host, peer_port = origin.peer
    fields: dict[str, Any] = {
        "auth_mechanism": origin.mechanism,
        "channel_max": origin.channel_max,
        "channels": len(session.channels),
        "client_properties": plain(origin.client_properties),
        "connected_at": origin.connected_ms,
        "frame_max": origin.frame_bytes_max,
        "host": host,
        "name": origin.name,
        "node": node.broker.node,
        "peer_host": peer_host,
        "peer_port": peer_port,
        "port": port,
        "protocol": "AMQP 0-9-1",
        "recv_cnt": traffic.received_chunks,
        "recv_oct": traffic.received_bytes,
        "send_cnt": traffic.sent_chunks,
        "send_oct": traffic.sent_bytes,
        "send_pend": traffic.pending_bytes,
        "ssl": origin.secure,
        "state": traffic.state,
        "timeout": origin.heartbeat_s,
        "type": "network",
        "user": session.user,
        "user_who_performed_action": session.user,
        "vhost": session.virtual_host.name,
    }
    for name in ("peer_cert_issuer", "peer_cert_subject", "peer_cert_validity"):
        fields[name] = None
    for name in ("ssl_cipher", "ssl_hash", "ssl_key_exchange", "ssl_protocol"):
        fields[name] = None
    if origin.user_provided_name is not None:
        fields["user_provided_name"] = origin.user_provided_name
    return fields


def channel_name(found: Channel) -> str:
    """What a channel is called in paths."""
    return f"{found.session.origin.name} ({found.number})"


def channel_head(found: Channel) -> dict[str, Any]:
    """What a channel is called."""
    return {"name": channel_name(found), "vhost": found.virtual_host.name}


def channel(node: Node, found: Channel) -> dict[str, Any]:
    """A channel."""
    transaction = found.transaction
    return {
        "acks_uncommitted": found.uncommitted_settlements,
        "confirm": found.confirms is not None,
        "connection_details": connection_details(found.session),
        "consumer_count": len(found.consumers),
        "global_prefetch_count": found.global_prefetch,
        "messages_unacknowledged": len(found.unacked),
        "messages_uncommitted": 0 if transaction is None else len(transaction.messages),
        "messages_unconfirmed": 0 if found.confirms is None else found.confirms.unconfirmed,
        "name": channel_name(found),
        "node": node.broker.node,
        "number": found.number,
        "pending_raft_commands": 0,
        "prefetch_count": found.default_prefetch,
        "state": "running",
        "transactional": transaction is not None,
        "user": found.session.user,
        "user_who_performed_action": found.session.user,
        "vhost": found.virtual_host.name,
    }


def consumer(node: Node, found: Consumer) -> dict[str, Any]:
    """A consumer, and whether it is the one that is served."""
    queue = found.queue
    waits = queue.single_active and queue.consumers.active is not found
    session = found.channel.session
    active = "single_active" if queue.single_active else "up"
    return {
        "ack_required": not found.no_ack,
        "active": not waits,
        "activity_status": "waiting" if waits else active,
        "arguments": plain(found.arguments),
        "channel_details": {
            **connection_details(session),
            "connection_name": session.origin.name,
            "name": channel_name(found.channel),
            "node": node.broker.node,
            "number": found.channel.number,
            "user": session.user,
        },
        "consumer_tag": found.tag,
        "exclusive": found.exclusive,
        "prefetch_count": found.prefetch,
        "queue": {"name": queue.name, "vhost": queue.virtual_host},
    }


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


def any_binding(virtual_host: VirtualHost, found: Binding[Queue] | str) -> dict[str, Any]:
    """A binding; or, by the name of a queue, the one of the default exchange to it."""
    if isinstance(found, str):
        return default_binding(virtual_host, found)
    return binding(virtual_host, found)


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
