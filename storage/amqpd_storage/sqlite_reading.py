"""What a new owner reads from the store, and what is read back later. Synchronous.

CPython's sqlite3 gives the interpreter lock away in every step of a statement, a row a step, and
beside a busy event loop it takes milliseconds to get it back (see sqlite_writing). So small
messages are read by one statement of one row: everything joined. Joined in hexadecimal, as text
that nobody can mistake, it took four times as long: 6.5 us for 1 KB, of which 3.4 with the lock.

    a page of     is read in
    small rows    one pass (_SMALL)
    any rows      two: where it ends, for it may be too long, and the rows (_JOINED)
    large rows    one statement, row by row, the largest where they lie (_EACH, large_records); in
                  a transaction, so that what is deleted meanwhile is there to its end
"""

from __future__ import annotations

import sqlite3
from typing import Final

from amqpd_storage.entries import (
    PASSING_QUEUE_ID_MIN,
    POSITION_BITS,
    POSITION_MAX,
    Backlog,
    StoredMessage,
)
from amqpd_storage.errors import DamagedStore
from amqpd_storage.large_records import LARGE_BYTES, read_large
from amqpd_storage.records import decode_record, decode_records

READ_ROWS_MAX: Final = 1024
READ_BYTES_MAX: Final = 4 * 1024 * 1024
"""A batch of messages ends with the row that reaches one of these."""

SMALL_BYTES_MAX: Final = READ_BYTES_MAX // READ_ROWS_MAX
"""A batch of such records can't be too long: nobody has to look where it ends."""

JOINED_BYTES_MAX: Final = 16 * 1024
"""Messages that are larger on average are read one by one, and are not copied to be joined."""

_NOT_DROPPED: Final = (
    "NOT EXISTS (SELECT 1 FROM dropped AS d WHERE e.key BETWEEN d.first AND d.last)"
)

# Joined as text, as in _JOINED. Of no use if any row is not small, or refers to a shared message:
# where that can be seen from the first one, nothing is read.
_SMALL: Final = f"""
SELECT min(key), max(key), count(*), total(is_small),
    group_concat(key), CAST(group_concat(CASE WHEN is_small THEN record END, '') AS BLOB)
FROM (
    SELECT e.key AS key, e.record AS record,
        typeof(e.record) = 'blob' AND length(e.record) <= {SMALL_BYTES_MAX} AS is_small
    FROM entry AS e NOT INDEXED
    WHERE e.key > :after AND e.key <= :last AND {_NOT_DROPPED}
    ORDER BY e.key LIMIT :rows_max * coalesce((
        SELECT typeof(record) = 'blob' AND length(record) <= {SMALL_BYTES_MAX}
        FROM entry WHERE key > :after ORDER BY key LIMIT 1
    ), 0)
)
"""

_ROWS: Final = f"""
FROM entry AS e NOT INDEXED LEFT JOIN message AS m
    ON typeof(e.record) = 'integer' AND m.message_id = e.record
WHERE e.key > :after AND e.key <= :last
    AND {_NOT_DROPPED}
ORDER BY e.key
"""

_SIZE: Final = """CASE WHEN typeof(e.record) = 'integer'
    THEN length(m.record) ELSE length(e.record) END"""
"""Of a record: SQLite reads none of it for that, as it would if the CASE were the argument."""

_FOUND: Final = f"""
SELECT e.key AS key, {_SIZE} AS size,
    typeof(e.record) = 'integer' AND m.record IS NULL AS is_missing
{_ROWS} LIMIT :rows_max
"""

_END: Final = f"""
SELECT max(key) FROM (
    SELECT key, size, is_missing, sum(size) OVER (ORDER BY key ROWS UNBOUNDED PRECEDING) AS total
    FROM ({_FOUND})
) WHERE total - size < {READ_BYTES_MAX} OR is_missing
"""

# A blob that is joined as text keeps its octets: in UTF-8, which this file is in, SQLite takes one
# for the other as it is. No records if they are too many octets.
_JOINED: Final = f"""
WITH page AS (
    SELECT max(key) AS last,
        NOT max(is_missing) AND max(size) < {LARGE_BYTES}
            AND sum(size) - max(size) < {READ_BYTES_MAX}
            AND sum(size) <= {JOINED_BYTES_MAX} * count(*) AS is_joined
    FROM ({_FOUND})
)
SELECT (SELECT last FROM page),
    group_concat(key), group_concat(message_id), CAST(group_concat(record, '') AS BLOB)
FROM (
    SELECT e.key AS key,
        CASE WHEN typeof(e.record) = 'integer' THEN max(e.record, 0) ELSE 0 END AS message_id,
        CASE WHEN typeof(e.record) = 'integer' THEN m.record ELSE e.record END AS record
    {_ROWS.replace(":last", "(SELECT last FROM page WHERE is_joined)")}
)
"""

_EACH: Final = f"""
SELECT e.key,
    CASE WHEN typeof(e.record) = 'integer' THEN e.record ELSE 0 END,
    {_SIZE},
    CASE WHEN {_SIZE} >= {LARGE_BYTES} THEN NULL
        WHEN typeof(e.record) = 'integer' THEN m.record ELSE e.record END
{_ROWS}
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


def read_backlogs(connection: sqlite3.Connection) -> dict[int, Backlog]:
    """For each queue id that ever had messages: what it has."""
    return {
        queue_id: Backlog(messages, body_bytes, last)
        for queue_id, messages, body_bytes, last in connection.execute(
            "SELECT queue_id, messages, body_bytes, last FROM backlog"
        )
    }


def read_dropped_queues(connection: sqlite3.Connection) -> set[int]:
    """Ids of queues with rows that are still to be deleted: not to be used again."""
    return {first >> POSITION_BITS for (first,) in connection.execute("SELECT first FROM dropped")}


def read_message_id_max(connection: sqlite3.Connection) -> int:
    """The highest id of a shared message; 0 when there is none."""
    ((highest,),) = connection.execute("SELECT max(message_id) FROM message").fetchall()
    return max(highest or 0, 0)


def forget_passing(connection: sqlite3.Connection) -> None:
    """Drop what an earlier owner had on disk for want of memory only. Its rows go later."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        passing = f"FROM backlog WHERE queue_id >= {PASSING_QUEUE_ID_MIN}"
        connection.execute(
            f"INSERT INTO dropped SELECT queue_id << {POSITION_BITS},"
            f" queue_id << {POSITION_BITS} | {POSITION_MAX} {passing}"
        )
        connection.execute(f"DELETE {passing}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def read_messages(
    connection: sqlite3.Connection,
    after: int,
    last: int = LAST_KEY,
    rows_max: int = READ_ROWS_MAX,
) -> list[StoredMessage]:
    """The next messages in key order, above the key `after`, up to `last`; [] at the end.

    The bytes of a shared message are the same objects in every row of the batch that refers to it.
    Raises DamagedStore rather than skip one.
    """
    rows_max = min(rows_max, READ_ROWS_MAX)
    messages = _read_small(connection, after, last, rows_max)
    if messages is not None:
        return messages
    end, messages = _read_joined(connection, after, last, rows_max)
    if end is None or messages is not None:
        return messages or []
    connection.execute("BEGIN")
    try:
        wanted = {"after": after, "last": last, "rows_max": rows_max}
        ((end,),) = connection.execute(_END, wanted).fetchall()
        if end is None:
            return []
        _, messages = _read_joined(connection, after, end, rows_max)
        return _read_each(connection, after, end) if messages is None else messages
    finally:
        connection.execute("COMMIT")


def _read_small(
    connection: sqlite3.Connection, after: int, last: int, rows_max: int
) -> list[StoredMessage] | None:
    """The next messages, if there are any, and all are small and in no other queue."""
    wanted = {"after": after, "last": last, "rows_max": rows_max}
    ((first, end, rows, small, keys, octets),) = connection.execute(_SMALL, wanted).fetchall()
    if not rows or small != rows:
        return None
    if end - first == rows - 1:
        return decode_records(octets, range(first, end + 1))
    return decode_records(octets, [int(key) for key in keys.split(",")])


def _read_joined(
    connection: sqlite3.Connection, after: int, last: int, rows_max: int
) -> tuple[int | None, list[StoredMessage] | None]:
    """The last key of the next rows, if there are any, and their messages if they are small."""
    wanted = {"after": after, "last": last, "rows_max": rows_max}
    ((end, keys, message_ids, octets),) = connection.execute(_JOINED, wanted).fetchall()
    if keys is None:
        return end, None
    found = [int(key) for key in keys.split(",")]
    if not message_ids.strip("0,"):
        return end, decode_records(octets, found)
    ids = [int(message_id) for message_id in message_ids.split(",")]
    return end, _share(decode_records(octets, found, ids))


def _read_each(connection: sqlite3.Connection, after: int, last: int) -> list[StoredMessage]:
    messages: list[StoredMessage] = []
    for key, message_id, size, record in connection.execute(
        _EACH, {"after": after, "last": last}
    ).fetchall():
        if size is None:
            raise DamagedStore(None, f"row {key} refers to message {message_id}, which is missing")
        if size < LARGE_BYTES:
            message = decode_record(_blob(key, record))
        elif message_id:
            message = read_large(connection, "message", message_id)
        else:  # written before large records had a place of their own
            message = read_large(connection, "entry", key)
        messages.append(StoredMessage(key, max(message_id, 0), *message))
    return _share(messages)


def _share(messages: list[StoredMessage]) -> list[StoredMessage]:
    """The same, where rows that refer to one message have its bytes from one place."""
    shared: dict[int, StoredMessage] = {}
    for message in messages:
        if message.message_id:
            first = shared.setdefault(message.message_id, message)
            message.envelope = first.envelope
            message.properties = first.properties
            message.body = first.body
    return messages


def _blob(key: int, record: object) -> bytes:
    if not isinstance(record, bytes):
        raise DamagedStore(None, f"the record of row {key} is not a blob")
    return record


def count_backlogs(connection: sqlite3.Connection) -> dict[int, Backlog]:
    """What table `backlog` should hold, counted anew: reads the head of every row."""
    sums: dict[int, list[int]] = {}
    for key, head in connection.execute(
        f"""SELECT e.key, substr(coalesce(m.record, e.record), 1, 15)
        FROM entry AS e NOT INDEXED LEFT JOIN message AS m
            ON typeof(e.record) = 'integer' AND m.message_id = e.record
        WHERE {_NOT_DROPPED}
        ORDER BY e.key"""
    ):
        if not isinstance(head, bytes):
            continue  # its shared message is missing
        total = sums.setdefault(key >> POSITION_BITS, [0, 0, 0])
        total[0] += 1
        total[1] += int.from_bytes(head[7:15], "big")
        total[2] = key & POSITION_MAX
    return {queue_id: Backlog(*total) for queue_id, total in sums.items()}


def fill_backlogs(connection: sqlite3.Connection) -> None:
    """Count all rows into an empty table `backlog`, in the caller's transaction."""
    connection.executemany(
        "INSERT INTO backlog VALUES (?, ?, ?, ?)",
        [(queue_id, *backlog) for queue_id, backlog in count_backlogs(connection).items()],
    )
