"""What a new owner reads from the store. Synchronous; runs in the writer's thread."""

from __future__ import annotations

import sqlite3
from typing import Final

from amqpd_storage.entries import POSITION_BITS, POSITION_MAX, StoredMessage
from amqpd_storage.errors import DamagedStore
from amqpd_storage.records import decode_record

READ_ROWS_MAX: Final = 2000
READ_BYTES_MAX: Final = 4 * 1024 * 1024
"""A batch of messages ends with the row that reaches one of these."""

_ENTRIES: Final = """
SELECT e.key, e.record, m.record
FROM entry AS e LEFT JOIN message AS m
    ON typeof(e.record) = 'integer' AND m.message_id = e.record
WHERE e.key > ? AND e.key <= ? ORDER BY e.key
"""

# Jumps from queue to queue instead of walking all rows.
_QUEUE_IDS: Final = f"""
WITH RECURSIVE queue (id) AS (
    SELECT (SELECT min(key) >> {POSITION_BITS} FROM entry)
    UNION ALL
    SELECT (SELECT min(key) >> {POSITION_BITS} FROM entry
            WHERE key > (queue.id << {POSITION_BITS} | {POSITION_MAX}))
    FROM queue WHERE queue.id IS NOT NULL
)
SELECT id FROM queue WHERE id IS NOT NULL
"""

LAST_KEY: Final = (1 << 63) - 1


def read_definitions(connection: sqlite3.Connection) -> list[tuple[str, str, bytes]]:
    """Kind, key and value, ordered by kind and key."""
    return connection.execute(
        "SELECT kind, key, value FROM definition ORDER BY kind, key"
    ).fetchall()


def read_delivered(connection: sqlite3.Connection) -> dict[int, int]:
    """For each queue id the position below which everything was handed out."""
    return dict(connection.execute("SELECT queue_id, below FROM delivered"))


def read_message_id_max(connection: sqlite3.Connection) -> int:
    """The highest id of a shared message; 0 when there is none."""
    ((highest,),) = connection.execute("SELECT max(message_id) FROM message").fetchall()
    return highest or 0


def read_messages(
    connection: sqlite3.Connection, after: int, last: int = LAST_KEY
) -> list[StoredMessage]:
    """The next messages in key order, above the key `after`, up to `last`; [] at the end.

    The bytes of a shared message are the same objects in every row of the batch that refers to it.
    """
    messages: list[StoredMessage] = []
    shared: dict[int, StoredMessage] = {}
    size = 0
    cursor = connection.execute(_ENTRIES, (after, last))
    try:
        for key, record, shared_record in cursor:
            if isinstance(record, int):
                message = shared.get(record)
                if message is None:
                    message = _shared_message(key, record, shared_record)
                    shared[record] = message
                    size += len(shared_record)
                else:
                    message = message._replace(key=key)
            else:
                message = StoredMessage(key, 0, *decode_record(_blob(key, record)))
                size += len(record)
            messages.append(message)
            if len(messages) >= READ_ROWS_MAX or size >= READ_BYTES_MAX:
                break
    finally:
        cursor.close()  # an open read would keep the write-ahead log from being written back
    return messages


def _shared_message(key: int, message_id: int, record: object) -> StoredMessage:
    if record is None:
        raise DamagedStore(None, f"row {key} refers to message {message_id}, which is missing")
    return StoredMessage(key, message_id, *decode_record(_blob(key, record)))


def _blob(key: int, record: object) -> bytes:
    if not isinstance(record, bytes):
        raise DamagedStore(None, f"the record of row {key} is not a blob")
    return record


def read_queue_counts(connection: sqlite3.Connection) -> dict[int, tuple[int, int, int]]:
    """For each queue id with messages: how many, and the first and the last position.

    Counting walks the leaves of the table, but reads no record that has pages of its own.
    """
    counts = {}
    for (queue_id,) in connection.execute(_QUEUE_IDS).fetchall():
        first = queue_id << POSITION_BITS
        ((count, lowest, highest),) = connection.execute(
            "SELECT count(*), min(key), max(key) FROM entry WHERE key BETWEEN ? AND ?",
            (first, first | POSITION_MAX),
        ).fetchall()
        counts[queue_id] = (count, lowest & POSITION_MAX, highest & POSITION_MAX)
    return counts


def forget_orphans(connection: sqlite3.Connection, known_queue_ids: set[int]) -> tuple[int, int]:
    """Delete rows of unknown queues, then shared messages nothing refers to; how many of each."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        rows = 0
        for (queue_id,) in connection.execute(_QUEUE_IDS).fetchall():
            if queue_id not in known_queue_ids:
                first = queue_id << POSITION_BITS
                rows += connection.execute(
                    "DELETE FROM entry WHERE key BETWEEN ? AND ?", (first, first | POSITION_MAX)
                ).rowcount
        marks = read_delivered(connection).keys() - known_queue_ids
        connection.executemany(
            "DELETE FROM delivered WHERE queue_id = ?", [(queue_id,) for queue_id in marks]
        )
        messages = 0
        if read_message_id_max(connection):  # else there is no need to walk through all rows
            messages = connection.execute(
                "DELETE FROM message WHERE message_id NOT IN "
                "(SELECT record FROM entry WHERE typeof(record) = 'integer')"
            ).rowcount
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return rows, messages
