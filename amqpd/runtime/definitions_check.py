"""Whether a broker would take the definitions of a store, one by one and with reasons.

At start a broker refuses the whole store when one definition is wrong. Here each is tried on a
scratch broker by itself, so that everything that is wrong is named at once, and what is right can
be kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import NamedTuple

from amqpd.broker.broker import Broker
from amqpd.broker.definitions import (
    BindingRecord,
    DamagedDefinition,
    ExchangeRecord,
    GlobalParameterRecord,
    HistoryRecord,
    ParameterRecord,
    PermissionRecord,
    QueueRecord,
    Record,
    ReturnRecord,
    SeenRecord,
    TopicPermissionRecord,
    UserRecord,
    VhostRecord,
    decode,
)
from amqpd.broker.virtual_host import VirtualHost
from amqpd.config import Config
from amqpd.links.federation import Federation
from amqpd.links.shovels import Shovels
from amqpd.runtime.recovery import place, restore_definitions
from amqpd_storage.entries import PASSING_QUEUE_ID_MIN
from amqpd_storage.salvage import Definition


class DefinitionsCheck(NamedTuple):
    """What became of each definition."""

    records: list[Record]
    """Those that a broker takes, in the order in which it takes them."""
    refused: list[tuple[Record, str]]
    """The others, and why."""
    loose: list[str]
    """Permissions that have no effect, since what they are for does not exist."""

    @property
    def queues(self) -> dict[int, QueueRecord]:
        """The durable queues, by id."""
        return {
            queue_id: record
            for record in self.records
            if isinstance(record, QueueRecord)
            for queue_id in record.lane_ids
        }

    @property
    def delayed_exchanges(self) -> dict[int, ExchangeRecord]:
        """The durable delayed exchanges, by id."""
        return {
            record.exchange_id: record
            for record in self.records
            if isinstance(record, ExchangeRecord) and record.exchange_id
        }


def decode_all(definitions: Iterable[Definition]) -> tuple[list[Record], list[str]]:
    """The records that can be read, and what is wrong with the others."""
    records: list[Record] = []
    unreadable: list[str] = []
    for definition in definitions:
        try:
            records.append(decode(*definition))
        except DamagedDefinition as error:
            unreadable.append(str(error))
    return records, unreadable


def check_records(records: Iterable[Record]) -> DefinitionsCheck:
    """Try each of them, those first to which others refer."""
    broker = Broker(Config(), journaling=False, entropy=secrets.token_bytes)
    broker.parameters.register(Shovels(broker))
    broker.federation = Federation(broker)
    taken: list[Record] = []
    refused: list[tuple[Record, str]] = []
    queue_ids: dict[int, str] = {}
    exchange_ids: dict[int, str] = {}
    for record in sorted(records, key=place):
        reason = _missing(broker, record)
        if isinstance(record, QueueRecord) and not reason:
            reason = _of_another(record, queue_ids)
            if not reason:
                queue_ids |= dict.fromkeys(record.lane_ids, describe(record))
        if isinstance(record, ExchangeRecord) and record.exchange_id and not reason:
            if record.exchange_id in exchange_ids:
                reason = f"its messages are those of {exchange_ids[record.exchange_id]}"
            exchange_ids.setdefault(record.exchange_id, describe(record))
        if not reason:
            try:
                restore_definitions(broker, [record])
            except Exception as error:  # whatever it is, a broker that starts would meet it too
                reason = f"{type(error).__name__}: {error}"
        if reason:
            refused.append((record, reason))
        else:
            taken.append(record)
    return DefinitionsCheck(taken, refused, _loose_ends(taken))


def _of_another(record: QueueRecord, taken: dict[int, str]) -> str:
    """Which queue has the messages that this one should have."""
    if record.lanes < 1 or record.queue_id < 1 or record.lane_ids.stop > PASSING_QUEUE_ID_MIN:
        return f"its messages cannot be under the ids from {record.queue_id} on"
    for queue_id in record.lane_ids:
        if queue_id in taken:
            return f"its messages are those of {taken[queue_id]}"
    return ""


def _missing(broker: Broker, record: Record) -> str:
    """What it needs and does not find."""
    if isinstance(
        record,
        VhostRecord
        | UserRecord
        | PermissionRecord
        | TopicPermissionRecord
        | GlobalParameterRecord
        | ReturnRecord,
    ):
        return ""
    virtual_host = broker.virtual_hosts.get(record.vhost)
    if virtual_host is None:
        return f"its virtual host {record.vhost!r} is missing"
    if isinstance(record, HistoryRecord | SeenRecord):
        exists = record.exchange in virtual_host.exchanges
        return "" if exists else f"exchange {record.exchange!r} is missing"
    return _missing_end(virtual_host, record) if isinstance(record, BindingRecord) else ""


def _missing_end(virtual_host: VirtualHost, record: BindingRecord) -> str:
    if record.source not in virtual_host.exchanges:
        return f"its source, exchange {record.source!r}, is missing"
    if virtual_host.destination(record.destination_type, record.destination) is None:
        return f"its destination, {record.destination_type} {record.destination!r}, is missing"
    return ""


def _loose_ends(records: list[Record]) -> list[str]:
    users = {record.name for record in records if isinstance(record, UserRecord)}
    vhosts = {record.name for record in records if isinstance(record, VhostRecord)}
    loose = []
    for record in records:
        if isinstance(record, PermissionRecord | TopicPermissionRecord):
            if record.user not in users:
                loose.append(f"{describe(record)}: there is no such user")
            elif record.vhost not in vhosts:
                loose.append(f"{describe(record)}: there is no such virtual host")
    return loose


def describe(record: Record) -> str:
    """What a person would call it."""
    match record:
        case VhostRecord(name=name):
            return f"virtual host {name!r}"
        case UserRecord(name=name):
            return f"user {name!r}"
        case PermissionRecord(user=user, vhost=vhost):
            return f"permission of user {user!r} in virtual host {vhost!r}"
        case TopicPermissionRecord(user=user, vhost=vhost, exchange=exchange):
            return f"topic permission of user {user!r} on {exchange!r} in virtual host {vhost!r}"
        case ParameterRecord(component="policy", name=name, vhost=vhost):
            return f"policy {name!r} in virtual host {vhost!r}"
        case ParameterRecord(component=component, name=name, vhost=vhost):
            return f"parameter {name!r} of {component!r} in virtual host {vhost!r}"
        case GlobalParameterRecord(name=name):
            return f"global parameter {name!r}"
        case ExchangeRecord(name=name, vhost=vhost):
            return f"exchange {name!r} in virtual host {vhost!r}"
        case QueueRecord(name=name, vhost=vhost):
            return f"queue {name!r} in virtual host {vhost!r}"
        case BindingRecord():
            return (
                f"binding from {record.source!r} to {record.destination_type} "
                f"{record.destination!r} by {record.routing_key!r} in virtual host {record.vhost!r}"
            )
        case ReturnRecord(queue_id=queue_id, position=position):
            return f"count of deliveries of message {position} of queue {queue_id}"
        case HistoryRecord(exchange=exchange, vhost=vhost):
            return f"message kept by exchange {exchange!r} in virtual host {vhost!r}"
        case SeenRecord(exchange=exchange, vhost=vhost):
            return f"header seen by exchange {exchange!r} in virtual host {vhost!r}"
