"""A new store out of what can be read in a damaged one.

Messages, places and marks are copied as they are found (salvage). Definitions are handed to the
caller, who knows what they mean, and gives back those the new store is to hold.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from amqpd_storage.entries import POSITION_BITS, POSITION_MAX, PutDefinition
from amqpd_storage.salvage import (
    Definition,
    LostKeys,
    LostNames,
    Mark,
    Meta,
    Place,
    Salvage,
    SharedMessage,
    Waiting,
)
from amqpd_storage.sqlite_delays import count_delays, fill_delay_counts
from amqpd_storage.sqlite_file import explained, open_connection, sync_directory
from amqpd_storage.sqlite_reading import fill_backlogs, read_backlogs

TRANSACTION_BYTES: Final = 32 * 1024 * 1024
ROW_BYTES: Final = 32
"""What a row costs beside its record, roughly."""

_DANGLING: Final = (
    "FROM entry WHERE typeof(record) = 'integer' AND record NOT IN (SELECT message_id FROM message)"
)
_UNREFERENCED: Final = (
    "message_id NOT IN (SELECT record FROM entry WHERE typeof(record) = 'integer')"
)


class DanglingRows(NamedTuple):
    """Places of one queue whose shared message is lost."""

    queue_id: int
    messages: int
    first: int
    last: int
    """Positions."""


class Rescued(NamedTuple):
    """What was saved, and what was not."""

    definitions: list[Definition]
    queues: dict[int, int]
    """How many messages the new store holds, by queue id."""
    delays: dict[int, int]
    """How many wait at a delayed exchange, by exchange id."""
    lost: list[LostKeys | LostNames]
    dangling: list[DanglingRows]
    found_again: int
    placeless: int
    """Shared messages without any place, since rows of queues are lost: see `place`."""


@contextlib.contextmanager
def new_store(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to an empty store that appears at `path` if all goes well."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        connection = open_connection(unfinished, "full")
        try:
            with explained(path):
                yield connection
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()
        with explained(path):
            unfinished.rename(path)
            sync_directory(path.parent)
    finally:
        for suffix in ("", "-wal", "-shm"):
            unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)


def rescue(salvage: Salvage, connection: sqlite3.Connection) -> Rescued:
    """Fill an empty store with everything but definitions."""
    definitions = _copy_rows(salvage, connection)
    dangling = [
        DanglingRows(*row)
        for row in connection.execute(
            f"SELECT key >> {POSITION_BITS} AS queue_id, count(*), min(key) & {POSITION_MAX}, "
            f"max(key) & {POSITION_MAX} {_DANGLING} GROUP BY queue_id"
        ).fetchall()
    ]
    if dangling:
        connection.execute(f"DELETE {_DANGLING}")
    places_lost = any(isinstance(lost, LostKeys) and lost.table == "entry" for lost in salvage.lost)
    if places_lost:
        # Where a large message was, its id tells.
        connection.execute(
            "INSERT OR IGNORE INTO entry SELECT -message_id, message_id FROM message"
            f" WHERE message_id < 0 AND {_UNREFERENCED}"
        )
    else:  # then nobody waits for them
        connection.execute(f"DELETE FROM message WHERE {_UNREFERENCED}")
    ((placeless,),) = connection.execute(
        f"SELECT count(*) FROM message WHERE {_UNREFERENCED}"
    ).fetchall()
    connection.executemany(
        "UPDATE meta SET value = ? WHERE name = ?",
        [(salvage.meta[name], name) for name in ("broker_id", "created") if name in salvage.meta],
    )
    connection.execute("BEGIN IMMEDIATE")
    fill_backlogs(connection)
    fill_delay_counts(connection)
    connection.execute("COMMIT")
    delays = count_delays(connection)
    queues = {queue: backlog.messages for queue, backlog in read_backlogs(connection).items()}
    return Rescued(
        definitions, queues, delays, salvage.lost, dangling, salvage.found_again, placeless
    )


def place(connection: sqlite3.Connection, queue_id: int) -> None:
    """Put every shared message that has no place into one queue, in the order of publishing."""
    connection.execute(
        f"INSERT INTO entry SELECT {queue_id} << {POSITION_BITS} | row_number() OVER "
        f"(ORDER BY message_id), message_id FROM message WHERE {_UNREFERENCED}"
    )
    fill_backlogs(connection)


def put_definitions(connection: sqlite3.Connection, definitions: Iterable[PutDefinition]) -> None:
    """The definitions that the new store is to hold."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO definition VALUES (?, ?, ?)", definitions)
    connection.execute("COMMIT")


def _copy_rows(salvage: Salvage, connection: sqlite3.Connection) -> list[Definition]:
    definitions: list[Definition] = []
    size = 0
    connection.execute("BEGIN IMMEDIATE")
    for row in salvage.rows():
        match row:
            case Place(_, record):
                connection.execute("INSERT OR IGNORE INTO entry VALUES (?, ?)", row)
                size += ROW_BYTES + (len(record) if isinstance(record, bytes) else 0)
            case SharedMessage(_, record):
                connection.execute("INSERT OR IGNORE INTO message VALUES (?, ?)", row)
                size += ROW_BYTES + len(record)
            case Mark():
                connection.execute("INSERT OR IGNORE INTO delivered VALUES (?, ?)", row)
            case Waiting():
                connection.execute("INSERT OR IGNORE INTO delayed VALUES (?, ?, ?, ?)", row)
                size += ROW_BYTES + len(row.record)
            case Definition():
                definitions.append(row)
            case Meta():
                salvage.meta.setdefault(row.name, row.value)
        if size >= TRANSACTION_BYTES:
            connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")
            size = 0
    connection.execute("COMMIT")
    return definitions
