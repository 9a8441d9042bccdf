"""RabbitMQ's definitions JSON of a broker, or of one of its virtual hosts.

What an import brings back: everything but messages, connections and exclusive queues. The forms are
those of RabbitMQ's HTTP API (`/api/definitions`); operator policies and limits of virtual hosts are
among the `parameters`, as there.

JSON has fewer types than a field table: an integer comes back as one of 64 bits, octets as a text,
a decimal as a fraction, as they do from RabbitMQ.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from amqpd.broker.parameters import POLICY, NoSuchVhost
from amqpd.commands import Arguments, Field
from amqpd.config import SERVER_VERSIONS
from amqpd_exchanges.exchange import Exchange as RoutingTable

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.virtual_host import VirtualHost

Definitions = dict[str, Any]


def export_definitions(broker: Broker) -> Definitions:
    """Everything of a broker."""
    hosts = broker.virtual_hosts.values()
    return {
        **_about(broker, "cluster"),
        "users": [
            {**msgspec.structs.asdict(user), "tags": list(user.tags)}
            for user in broker.access.users()
        ],
        "vhosts": [_vhost(host) for host in hosts],
        "permissions": [_asdict(row) for row in broker.access.permissions()],
        "topic_permissions": [_asdict(row) for row in broker.access.topic_permissions()],
        **_parameters(broker, None),
        "global_parameters": [_asdict(row) for row in broker.parameters.global_records()],
        **_topology(hosts),
    }


def export_vhost_definitions(broker: Broker, vhost: str) -> Definitions:
    """Everything of one virtual host; its name stands at parameters and policies only.

    Raises NoSuchVhost.
    """
    host = broker.virtual_hosts.get(vhost)
    if host is None:
        raise NoSuchVhost(vhost)
    topology = _topology([host])
    for entries in topology.values():
        for entry in entries:
            del entry["vhost"]
    return {**_about(broker, "single_virtual_host"), **_parameters(broker, vhost), **topology}


def _about(broker: Broker, kind: str) -> Definitions:
    version = SERVER_VERSIONS[broker.config.compat]
    about = {
        "rabbit_version": version,
        "rabbitmq_version": version,
        "product_name": "RabbitMQ",
        "product_version": version,
    }
    if broker.config.compat != "3.13":
        about["rabbitmq_definition_format"] = kind
        about["original_cluster_name"] = broker.cluster_name
    return about


def _vhost(host: VirtualHost) -> Definitions:
    record = host.record
    metadata: Definitions = {"description": record.description, "tags": list(record.tags)}
    if record.default_queue_type is not None:
        metadata["default_queue_type"] = record.default_queue_type
    return {"name": record.name, **metadata, "metadata": metadata, "limits": dict(host.limits)}


def _parameters(broker: Broker, vhost: str | None) -> Definitions:
    parameters = broker.parameters
    return {
        "parameters": [_asdict(record) for record in parameters.records(vhost=vhost)],
        "policies": [
            {"vhost": record.vhost, "name": record.name, "apply-to": "all", **record.value}
            for record in parameters.records(vhost=vhost, component=POLICY)
        ],
    }


def _topology(hosts: Iterable[VirtualHost]) -> Definitions:
    queues: list[Definitions] = []
    exchanges: list[Definitions] = []
    bindings: list[Definitions] = []
    for host in hosts:
        queues += _queues(host)
        exchanges += _exchanges(host)
        bindings += _bindings(host)
    return {"queues": queues, "exchanges": exchanges, "bindings": bindings}


def _queues(host: VirtualHost) -> list[Definitions]:
    """Exclusive ones end with their connection: they are nobody else's to bring back."""
    return [
        {
            "name": queue.name,
            "vhost": host.name,
            "durable": queue.durable,
            "auto_delete": queue.auto_delete,
            "arguments": json_arguments(queue.arguments),
        }
        for queue in host.queues.values()
        if queue.owner is None
    ]


def _exchanges(host: VirtualHost) -> list[Definitions]:
    """Those that every virtual host has anyhow are left out."""
    return [
        {
            "name": exchange.name,
            "vhost": host.name,
            "type": exchange.type,
            "durable": exchange.durable,
            "auto_delete": exchange.auto_delete,
            "internal": exchange.internal,
            "arguments": json_arguments(exchange.arguments),
        }
        for exchange in host.exchanges.values()
        if exchange.name and not exchange.name.startswith("amq.")
    ]


def _bindings(host: VirtualHost) -> list[Definitions]:
    return [
        {
            "source": exchange.name,
            "vhost": host.name,
            "destination": binding.destination.name,
            "destination_type": "exchange" if to_exchange else "queue",
            "routing_key": binding.routing_key,
            "arguments": json_arguments(dict(binding.arguments)),
        }
        for exchange in host.exchanges.values()
        for binding in exchange.table.bindings
        if (to_exchange := isinstance(binding.destination, RoutingTable))
        or binding.destination.owner is None
    ]


def json_arguments(arguments: Arguments) -> Definitions:
    """A field table as a JSON object."""
    return {_text(name): json_value(field) for name, field in arguments.items()}


def json_value(field: Field) -> Any:
    """A value of a field table as JSON."""
    octet, value = field
    if octet == "F":
        return json_arguments(value)
    if octet == "A":
        return [json_value(item) for item in value]
    if octet == "S":
        return _text(value)
    if octet == "x":
        return bytes(value).decode("utf-8", "replace")
    if octet == "D":
        scale, unscaled = value
        return unscaled / 10**scale
    return value


def _text(value: str) -> str:
    """What UTF-8 cannot carry was octets of another encoding, which JSON has no place for."""
    if value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _asdict(record: msgspec.Struct) -> Definitions:
    return msgspec.structs.asdict(record)
