"""The messages that wait at delayed exchanges: their tables, and what is read of them. Synchronous.

    delayed        sequence                       in the order of arrival: new rows are appended
                   exchange_id, due_ms, record
    delayed_due    (exchange_id, due_ms)          an index, which ends with the row's sequence
    delayed_count  exchange_id, messages          so that nobody counts rows
                   dropped                        1: the exchange is gone, its rows go bit by bit

Due times come in any order. With the message in the row of an index, a random one would rewrite a
page of messages; as it is, it costs a place among small keys. Measured with 300 bytes a row, 1000 a
commit, a million rows already there: 21,000 rows/s with random due times over a day, where a table
ordered by due time took 9,500; with a delay that is about the same for all, 114,000 and 88,000.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Final

from amqpd_storage.entries import LARGE_BYTES, StoredDelay, StoredDelays, StoredMessage
from amqpd_storage.large_records import read_large
from amqpd_storage.records import Message, decode_record, decode_records

SCHEMA: Final = """
CREATE TABLE delayed (
    sequence INTEGER PRIMARY KEY, exchange_id INTEGER NOT NULL, due_ms INTEGER NOT NULL,
    record BLOB NOT NULL
);
CREATE INDEX delayed_due ON delayed (exchange_id, due_ms);
CREATE TABLE delayed_count (
    exchange_id INTEGER PRIMARY KEY, messages INTEGER NOT NULL, dropped INTEGER NOT NULL
);
"""

TABLES: Final = frozenset({"delayed", "delayed_count"})

READ_BYTES_MAX: Final = 2 * 1024 * 1024
"""A read ends with the row that reaches this."""

JOINED_BYTES_MAX: Final = 16 * 1024
"""Messages that are larger on average are read one by one, and are not copied to be joined."""

SWEPT_ROWS: Final = 4000
"""Rows of a deleted exchange that go in one step."""

# Two ranges of the index, since SQLite takes a comparison of pairs for one of their first halves:
# ten million messages that come due at the same moment would be walked again for each read. And
# `next` is named once only: SQLite 3.46 looks for its rows again wherever it is named.
_NEXT: Final = f"""
WITH next AS (
    SELECT * FROM (
        SELECT due_ms, sequence, length(record) AS size FROM delayed
        WHERE exchange_id = :exchange_id AND due_ms = :due_ms AND sequence > :sequence
        ORDER BY sequence LIMIT :rows_max
    ) UNION ALL SELECT * FROM (
        SELECT due_ms, sequence, length(record) AS size FROM delayed
        WHERE exchange_id = :exchange_id AND due_ms > :due_ms
        ORDER BY due_ms, sequence LIMIT :rows_max
    ) LIMIT :rows_max
)
SELECT max(found), sum(size), json_group_array(due_ms), json_group_array(sequence)
FROM (
    SELECT *, count(*) OVER () AS found,
        sum(size) OVER (ORDER BY due_ms, sequence ROWS UNBOUNDED PRECEDING) AS total
    FROM next ORDER BY due_ms, sequence
) WHERE total - size < {READ_BYTES_MAX}
"""

_RECORDS: Final = """
FROM json_each(?) AS wanted LEFT JOIN delayed ON sequence = wanted.value ORDER BY wanted.key
"""

_JOINED: Final = f"""
SELECT CAST(group_concat(record, '') AS BLOB) FROM (SELECT record {_RECORDS})
"""

_EACH: Final = f"""
SELECT wanted.value, CASE WHEN length(record) < {LARGE_BYTES} THEN record END {_RECORDS}
"""


def read_delays(
    connection: sqlite3.Connection, exchange_id: int, after: tuple[int, int], rows_max: int
) -> tuple[list[StoredDelay], bool]:
    """The messages of an exchange that come due next, after a due time and sequence.

    And whether these are the last. Raises DamagedStore rather than skip one.
    """
    due_ms, sequence = after
    where = {"exchange_id": exchange_id, "due_ms": due_ms, "sequence": sequence}
    ((found, size, dues, sequences),) = connection.execute(
        _NEXT, where | {"rows_max": rows_max}
    ).fetchall()
    places = list(zip(json.loads(dues), json.loads(sequences), strict=True))
    if not places:
        return [], True
    messages: Iterable[Message | StoredMessage]
    if size > JOINED_BYTES_MAX * len(places):
        messages = [
            decode_record(record) if record is not None else read_large(connection, "delayed", key)
            for key, record in connection.execute(_EACH, (sequences,)).fetchall()
        ]
    else:
        ((octets,),) = connection.execute(_JOINED, (sequences,)).fetchall()
        messages = decode_records(octets or b"", json.loads(sequences))
    delays = [
        StoredDelay(*place, message.envelope, message.properties, message.body)
        for place, message in zip(places, messages, strict=True)
    ]
    return delays, found < rows_max and len(places) == found


def read_delay_counts(connection: sqlite3.Connection) -> StoredDelays:
    """How much waits, and which numbers are in use; no row is read for it."""
    messages: dict[int, int] = {}
    exchange_id_max = 0
    for exchange_id, count, dropped in connection.execute("SELECT * FROM delayed_count"):
        exchange_id_max = max(exchange_id_max, exchange_id)
        if count and not dropped:
            messages[exchange_id] = count
    ((sequence_max,),) = connection.execute("SELECT max(sequence) FROM delayed").fetchall()
    return StoredDelays(messages, exchange_id_max, sequence_max or 0)


def count_delays(connection: sqlite3.Connection) -> dict[int, int]:
    """How many messages wait at each exchange, counted anew."""
    return dict(
        connection.execute(
            "SELECT exchange_id, count(*) FROM delayed WHERE exchange_id NOT IN"
            " (SELECT exchange_id FROM delayed_count WHERE dropped) GROUP BY exchange_id"
        )
    )


def fill_delay_counts(connection: sqlite3.Connection) -> None:
    """Count all rows into an empty table `delayed_count`, in the caller's transaction."""
    connection.execute(
        "INSERT INTO delayed_count SELECT exchange_id, count(*), 0 FROM delayed"
        " GROUP BY exchange_id"
    )


def sweep_delays(connection: sqlite3.Connection) -> bool:
    """Delete some rows of an exchange that is gone; False if there are none."""
    found = connection.execute(
        "SELECT exchange_id FROM delayed_count WHERE dropped LIMIT 1"
    ).fetchall()
    if not found:
        return False
    (exchange_id,) = found[0]
    connection.execute("BEGIN IMMEDIATE")
    try:
        rows = connection.execute(
            "DELETE FROM delayed WHERE sequence IN"
            f" (SELECT sequence FROM delayed WHERE exchange_id = ? LIMIT {SWEPT_ROWS})",
            (exchange_id,),
        ).rowcount
        if rows < SWEPT_ROWS:
            connection.execute("DELETE FROM delayed_count WHERE exchange_id = ?", (exchange_id,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True
