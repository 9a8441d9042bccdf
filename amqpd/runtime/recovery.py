"""Making a broker out of what its store holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

from amqpd.broker.broker import Broker
from amqpd.broker.definitions import (
    BindingRecord,
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
    drop,
)
from amqpd.broker.events import EVENT_EXCHANGE
from amqpd.broker.paging import restored_message
from amqpd.broker.queue import Queue
from amqpd.broker.virtual_host import VirtualHost
from amqpd.broker.waiting_room import DelayedMessage, WaitingRoom
from amqpd.commands import Target
from amqpd.wire.tables import decode_table
from amqpd_storage.entries import (
    POSITION_MAX,
    SAFE,
    Backlog,
    StoredDelay,
    StoredMessage,
    storage_key,
)
from amqpd_storage.errors import DamagedStore
from amqpd_storage.sqlite_engine import Recovery, SQLiteStore

ORDER: Final[tuple[type[Record], ...]] = (
    VhostRecord,
    UserRecord,
    PermissionRecord,
    TopicPermissionRecord,
    ParameterRecord,
    GlobalParameterRecord,
    ExchangeRecord,
    QueueRecord,
    BindingRecord,
    HistoryRecord,
    SeenRecord,
    ReturnRecord,
)
"""Each kind refers only to kinds before it (exchange bindings come after all exchanges)."""

ARGUMENTS_DEPTH_MAX: Final = 200
"""More than any broker allows by default, and what Python can follow."""

_TURNS: Final = {record: turn for turn, record in enumerate(ORDER)}


async def recover(broker: Broker, store: SQLiteStore) -> int:
    """Fill an empty broker from its store; how many messages were found.

    Raises DamagedStore for what cannot be understood.
    """
    recovery = await store.recover()
    try:
        records = [decode(kind, key, value) for kind, key, value in recovery.definitions]
        records.sort(key=place)
        queues = restore_definitions(broker, records)
    except (ValueError, LookupError) as error:
        raise DamagedStore(store.path, str(error)) from error
    restore_returns(broker, queues, records)
    for queue_id, below in recovery.delivered.items():
        if queue_id in queues:
            queues[queue_id].restore_mark(queue_id, below)
    for queue_id in recovery.dropped_queues & queues.keys():
        queues[queue_id].restore_sweeping()
    broker.recovered(set(queues) | recovery.dropped_queues, recovery.message_id_max)
    restore_delays(broker, recovery, store.path)
    return await restore_backlogs(queues, recovery.backlogs, store)


def place(record: Record) -> tuple[int, int]:
    """When it is its turn: by `ORDER`, and what exchanges remember by its number."""
    number = record.number if isinstance(record, HistoryRecord | SeenRecord) else 0
    return _TURNS[type(record)], number


def restore_definitions(broker: Broker, records: list[Record]) -> dict[int, Queue]:
    """Everything but messages; the durable queues by id, or by each of their ids."""
    # Not the limit of today, if that is lower: what was taken once is not damaged.
    depth_max = max(ARGUMENTS_DEPTH_MAX, broker.limits.table_depth_max)
    queues: dict[int, Queue] = {}
    for record in records:
        match record:
            case VhostRecord():
                broker.add_virtual_host(record, journal=False)
            case UserRecord() | PermissionRecord() | TopicPermissionRecord():
                broker.access.restore(record)
            case ParameterRecord() | GlobalParameterRecord():
                broker.parameters.restore(record)
            case ExchangeRecord():
                broker.virtual_hosts[record.vhost].declare_exchange(
                    record.name,
                    record.type,
                    durable=True,
                    auto_delete=record.auto_delete,
                    internal=record.internal,
                    arguments=decode_table(record.arguments, 0, depth_max)[0],
                    exchange_id=record.exchange_id,
                    journal=False,
                )
            case QueueRecord():
                queue = broker.virtual_hosts[record.vhost].declare_queue(
                    record.name,
                    durable=True,
                    auto_delete=record.auto_delete,
                    arguments=decode_table(record.arguments, 0, depth_max)[0],
                    queue_id=record.queue_id,
                    lanes=record.lanes,
                )
                queues |= dict.fromkeys(record.lane_ids, queue)
            case BindingRecord():
                restore_binding(broker.virtual_hosts[record.vhost], record, depth_max)
            case HistoryRecord() | SeenRecord():
                restore_memory(broker.virtual_hosts[record.vhost], record)
            case ReturnRecord():
                pass  # its queue may be any of these
    return queues


def restore_returns(broker: Broker, queues: dict[int, Queue], records: list[Record]) -> None:
    """What the queues knew of messages that had come back to them.

    What was known of messages whose queue is gone (only a store that was mended has such) goes.
    """
    for record in records:
        if isinstance(record, ReturnRecord):
            queue = queues.get(record.queue_id)
            if queue is None:
                broker.journal((drop(record),))
            else:
                queue.restore_return(record)


def restore_binding(virtual_host: VirtualHost, record: BindingRecord, depth_max: int) -> None:
    """A binding between things that were restored before it."""
    if EVENT_EXCHANGE in (record.source, record.destination):
        virtual_host.keep_event_exchange()
    destination = virtual_host.destination(record.destination_type, record.destination)
    if destination is None:
        raise LookupError(f"binding to a missing {record.destination_type} {record.destination!r}")
    virtual_host.bind(
        virtual_host.exchanges[record.source],
        destination,
        record.routing_key,
        decode_table(record.arguments, 0, depth_max)[0],
        journal=False,
    )


def restore_memory(virtual_host: VirtualHost, record: HistoryRecord | SeenRecord) -> None:
    """What an exchange that was restored before remembers of a message."""
    memory = virtual_host.exchanges[record.exchange].memory
    if memory is None or memory.KIND != record.KIND:
        raise LookupError(f"exchange {record.exchange!r} remembers nothing of that kind")
    memory.restore(record)


async def restore_backlogs(
    queues: dict[int, Queue], backlogs: dict[int, Backlog], store: SQLiteStore
) -> int:
    """Tell every queue what it has; how many messages that is. Only queues that cannot page read
    them now, and those that have to know the headers of all.

    Raises DamagedStore for messages of a queue that is not defined: a queue's definition and its
    messages go in one transaction, so a definition is missing, and they must not be dropped.
    """
    to_read: dict[Queue, dict[int, Backlog]] = {}
    for queue_id, backlog in backlogs.items():
        queue = queues.get(queue_id)
        if queue is None:
            if backlog.messages:
                raise DamagedStore(
                    store.path, f"messages of queue {queue_id}, which is not defined"
                )
        elif queue.can_page and queue.present is None:
            queue.restore_backlog(queue_id, backlog)
        else:
            to_read.setdefault(queue, {})[queue_id] = backlog
    for queue, lanes in to_read.items():
        await restore_messages(queue, lanes, store)
    return sum(backlog.messages for backlog in backlogs.values())


async def restore_messages(queue: Queue, lanes: dict[int, Backlog], store: SQLiteStore) -> None:
    """Read all messages of one queue. Raises DamagedStore if there are others than there should."""
    queue.restore_last(max(backlog.last for backlog in lanes.values()))
    if queue.can_page or len(lanes) == 1:
        for queue_id, backlog in lanes.items():
            async for page in read_lane(queue_id, backlog, store):
                restore_page(queue, page)
    else:
        # Its lanes are of other levels than those it has now: it is read as one.
        found = [
            message
            for queue_id, backlog in lanes.items()
            async for page in read_lane(queue_id, backlog, store)
            for message in page
        ]
        found.sort(key=lambda message: message.key & POSITION_MAX)
        restore_page(queue, found)


async def read_lane(
    queue_id: int, backlog: Backlog, store: SQLiteStore
) -> AsyncIterator[list[StoredMessage]]:
    """All messages under one id, in order. Raises DamagedStore if they are not as many as there
    should be."""
    after = storage_key(queue_id, 0)
    last = storage_key(queue_id, POSITION_MAX)
    count = 0
    while page := await store.read_messages(after, last):
        yield page
        after = page[-1].key
        count += len(page)
    if count != backlog.messages:
        reason = f"queue {queue_id} has {count} messages and should have {backlog.messages}"
        raise DamagedStore(store.path, reason)


def restore_page(queue: Queue, page: list[StoredMessage]) -> None:
    """Put messages back that were read."""
    targets: dict[bytes, Target] = {}
    for found in page:
        message = restored_message(found, targets)
        queue.restore(found.key & POSITION_MAX, message, found.key, found.expires_ms)


def restore_delays(broker: Broker, recovery: Recovery, path: Path) -> None:
    """Tell each delayed exchange how many messages wait for it; they are read when it asks.

    Raises DamagedStore for messages of an exchange that is not defined: as with queues, its
    definition is missing, and they must not be dropped.
    """
    delays = recovery.delays
    waiting = dict(delays.messages)
    rooms = [
        exchange.waiting_room
        for virtual_host in broker.virtual_hosts.values()
        for exchange in virtual_host.exchanges.values()
        if exchange.waiting_room is not None
    ]
    exchange_id_max = max([delays.exchange_id_max, *(room.exchange_id for room in rooms)])
    broker.recovered_delays(exchange_id_max, delays.sequence_max)
    for room in rooms:
        room.restore(waiting.pop(room.exchange_id, 0))
    for exchange_id in waiting:
        raise DamagedStore(path, f"messages of exchange {exchange_id}, which is not defined")


def restored_delays(room: WaitingRoom, rows: Iterable[StoredDelay]) -> list[DelayedMessage]:
    """Waiting messages that were read back."""
    targets: dict[bytes, Target] = {}
    restored = []
    for row in rows:
        stored = StoredMessage(0, 0, row.envelope, row.properties, row.body)
        message = restored_message(stored, targets)
        delayed = DelayedMessage(room, message, row.due_ms, row.sequence, True)
        delayed.state = SAFE
        restored.append(delayed)
    return restored
