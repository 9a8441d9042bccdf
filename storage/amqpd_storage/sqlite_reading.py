"""What a new owner reads from the store, and what is read back later. Synchronous.

CPython's sqlite3 gives the interpreter lock away in every step of a statement, a row a step, and
beside a busy event loop it takes milliseconds to get it back (see sqlite_writing). So small
messages are read by one statement of one row: everything joined. Joined in hexadecimal, as text
that nobody can mistake, it took four times as long: 6.5 us for 1 KB, of which 3.4 with the lock.

    a page of            is read in
    small rows, or runs  one pass (_SMALL)
    any rows             two: where it ends, for it may be too long, and the rows (_JOINED)
    large rows           one statement, row by row, the largest where they lie (_EACH,
                         large_records); in a transaction, so that what is deleted meanwhile is
                         there to its end

What is settled of a run is asked for by the statement that reads the row: a moment later the row
may be gone, and with it the settled ranges, as if nothing were settled.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Set as AbstractSet
from typing import Final

from amqpd_storage.commit_view import BATCH_ROW
from amqpd_storage.entries import (
    LARGE_BYTES,
    PASSING_QUEUE_ID_MIN,
    POSITION_BITS,
    POSITION_MAX,
    Backlog,
    StoredMessage,
)
from amqpd_storage.errors import DamagedStore
from amqpd_storage.large_records import read_large
from amqpd_storage.records import KIND_RUN, decode_records, holds_run
from amqpd_storage.runs import RUN_MESSAGES_MAX, KeyRanges, read_runs, run_around, settled_ranges

READ_ROWS_MAX: Final = 1024
READ_BYTES_MAX: Final = 4 * 1024 * 1024
"""A batch of messages ends with the row that reaches one of these."""

SMALL_BYTES_MAX: Final = READ_BYTES_MAX // READ_ROWS_MAX
"""A batch of such records can't be too long: nobody has to look where it ends."""

JOINED_BYTES_MAX: Final = 16 * 1024
"""Messages that are larger on average are read one by one, and are not copied to be joined."""

RUN_SHARE: Final = 64
"""A page of runs has one row for so many messages that are asked for, and one more where the first
may have none left that is asked for. What it has too much is not decoded, and is read again."""

_AROUND: Final = run_around(":after + 1")


def _bound(last: str) -> str:
    """SQL: the last key that may be read. A page ends before what was dropped."""
    dropped = "(SELECT min(first) - 1 FROM dropped WHERE last > :after)"
    return f"min({last}, coalesce({dropped}, {last}))"


def _wanted(last: str) -> str:
    """SQL: which rows are read, from the one with the first key that is wanted on."""
    # As a join, with one row that has both ends, it would be sorted: all records copied once more.
    return f"e.key BETWEEN coalesce({_AROUND}, :after + 1) AND {_bound(last)}"


_SETTLED: Final = "(SELECT run.settled FROM run WHERE run.first = e.key)"
"""SQL: what is settled of the run in a row; NULL if it is none."""

_ALL_SETTLED: Final = "group_concat(CASE WHEN settled <> '' THEN key || ':' || settled END, ';')"

_IS_SMALL: Final = f"typeof(e.record) = 'blob' AND length(e.record) <= {SMALL_BYTES_MAX}"

_BEGINS_WITH_RUN: Final = f"""({_AROUND} IS NOT NULL OR coalesce((
    SELECT key IN (SELECT first FROM run) FROM entry WHERE key > :after ORDER BY key LIMIT 1
), 0))"""

_BEFORE_RUNS: Final = "coalesce((SELECT min(first) - 1 FROM run WHERE first > :after), :last)"

# Either some runs and what is between them, or many small rows, up to the next run. Joined as text,
# as in _JOINED. Of no use if any row is too large: where the first one is, nothing is read.
_SMALL: Final = f"""
SELECT min(key), max(key), {_bound(":last")}, count(*), total(is_small), group_concat(key),
    CAST(group_concat(CASE WHEN is_small THEN record END, '') AS BLOB), {_ALL_SETTLED}
FROM (
    SELECT key, record, settled, is_small OR settled IS NOT NULL AS is_small FROM (
        SELECT e.key AS key, e.record AS record, {_SETTLED} AS settled, {_IS_SMALL} AS is_small
        FROM entry AS e NOT INDEXED
        WHERE {_wanted(":last")} AND ({_BEGINS_WITH_RUN} OR e.key <= {_BEFORE_RUNS})
        ORDER BY e.key LIMIT CASE WHEN {_BEGINS_WITH_RUN} THEN :runs_max + ({_AROUND} IS NOT NULL)
            ELSE :rows_max * coalesce((
                SELECT {_IS_SMALL} FROM entry AS e WHERE e.key > :after ORDER BY e.key LIMIT 1
            ), 0) END
    )
)
"""


def _rows(last: str) -> str:
    return f"""
FROM entry AS e NOT INDEXED LEFT JOIN message AS m
    ON typeof(e.record) = 'integer' AND m.message_id = e.record
WHERE {_wanted(last)}
ORDER BY e.key
"""


_SIZE: Final = """CASE WHEN typeof(e.record) = 'integer'
    THEN length(m.record) ELSE length(e.record) END"""
"""Of a record: SQLite reads none of it for that, as it would if the CASE were the argument."""

# A row more, for the first one may be a run of which no message is left that is asked for.
_FOUND: Final = f"""
SELECT e.key AS key, {_SIZE} AS size,
    typeof(e.record) = 'integer' AND m.record IS NULL AS is_missing
{_rows(":last")} LIMIT :rows_max + 1
"""

_END: Final = f"""
SELECT max(key), {_bound(":last")} FROM (
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
SELECT (SELECT last FROM page), {_bound(":last")},
    group_concat(key), group_concat(message_id), CAST(group_concat(record, '') AS BLOB),
    {_ALL_SETTLED}
FROM (
    SELECT e.key AS key, {_SETTLED} AS settled,
        CASE WHEN typeof(e.record) = 'integer' THEN max(e.record, 0) ELSE 0 END AS message_id,
        CASE WHEN typeof(e.record) = 'integer' THEN m.record ELSE e.record END AS record
    {_rows("(SELECT last FROM page WHERE is_joined)")}
)
"""

_EACH: Final = f"""
SELECT e.key,
    CASE WHEN typeof(e.record) = 'integer' THEN e.record ELSE 0 END,
    {_SIZE},
    CASE WHEN {_SIZE} >= {LARGE_BYTES} THEN NULL
        WHEN typeof(e.record) = 'integer' THEN m.record ELSE e.record END,
    e.key || ':' || nullif({_SETTLED}, '')
{_rows(":last")}
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
            "SELECT queue_id, messages, body_bytes, last FROM backlog WHERE queue_id <> ?",
            (BATCH_ROW,),
        )
    }


def read_batch_number(connection: sqlite3.Connection) -> int:
    """The number of the batch that was committed last; 0 if none had one. Raises DamagedStore."""
    rows = connection.execute("SELECT last FROM backlog WHERE queue_id = ?", (BATCH_ROW,))
    for (number,) in rows.fetchall():
        return int(number)
    raise DamagedStore(None, "it does not say which batch was its last one")


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
    while True:
        messages = _read_page(connection, after, last, rows_max)
        if messages:
            return messages
        ((beyond,),) = connection.execute(
            "SELECT min(last) FROM dropped WHERE last > ? AND first <= ?", (after, last)
        ).fetchall()
        if beyond is None or beyond >= last:
            return []
        after = beyond


def _read_page(
    connection: sqlite3.Connection, after: int, last: int, rows_max: int
) -> list[StoredMessage]:
    """Those that come before anything that was dropped."""
    messages = _read_small(connection, after, last, rows_max)
    if messages is not None:
        return messages
    end, messages = _read_joined(connection, after, last, rows_max)
    if end is None or messages is not None:
        return messages or []
    connection.execute("BEGIN")
    try:
        wanted = {"after": after, "last": last, "rows_max": rows_max}
        ((end, bound),) = connection.execute(_END, wanted).fetchall()
        if end is None:
            return []
        _, messages = _read_joined(connection, after, min(end, bound), rows_max)
        if messages is not None:
            return messages
        return _read_each(connection, after, end, bound)[:rows_max]
    finally:
        connection.execute("COMMIT")


def _read_small(
    connection: sqlite3.Connection, after: int, last: int, rows_max: int
) -> list[StoredMessage] | None:
    """The next messages, if there are any, and all are small or in runs, and in no other queue."""
    runs_max = max(1, rows_max // RUN_SHARE)
    wanted = {"after": after, "last": last, "rows_max": rows_max, "runs_max": runs_max}
    ((first, end, bound, rows, small, keys, octets, settled),) = connection.execute(
        _SMALL, wanted
    ).fetchall()
    if not rows or small != rows:
        return None
    skipped = _skipped(settled, first, after, end, bound)
    found = range(first, end + 1)
    if len(found) != rows:
        return decode_records(octets, _numbers(keys), None, skipped, rows_max)
    return decode_records(octets, found, None, skipped, rows_max)


def _read_joined(
    connection: sqlite3.Connection, after: int, last: int, rows_max: int
) -> tuple[int | None, list[StoredMessage] | None]:
    """The last key of the next rows, if there are any, and their messages if they are small."""
    wanted = {"after": after, "last": last, "rows_max": rows_max}
    ((end, bound, keys, message_ids, octets, settled),) = connection.execute(
        _JOINED, wanted
    ).fetchall()
    if keys is None:
        return end, None
    found = _numbers(keys)
    skipped = _skipped(settled, found[0], after, end, bound)
    if not message_ids.strip("0,"):
        return end, decode_records(octets, found, None, skipped, rows_max)
    ids = _numbers(message_ids)
    return end, _share(decode_records(octets, found, ids, skipped, rows_max))


def _read_each(
    connection: sqlite3.Connection, after: int, end: int, bound: int
) -> list[StoredMessage]:
    messages: list[StoredMessage] = []
    for key, message_id, size, record, settled in connection.execute(
        _EACH, {"after": after, "last": end}
    ).fetchall():
        if size is None:
            raise DamagedStore(None, f"row {key} refers to message {message_id}, which is missing")
        if size < LARGE_BYTES:
            skipped = _skipped(settled, key, after, key, bound)
            ids = (max(message_id, 0),)
            messages += decode_records(_blob(key, record), (key,), ids, skipped)
        elif message_id:
            message = read_large(connection, "message", message_id)
            messages.append(StoredMessage(key, max(message_id, 0), *message))
        else:  # written before large records had a place of their own
            message = read_large(connection, "entry", key)
            messages.append(StoredMessage(key, 0, *message))
    return _share(messages)


def _numbers(joined: str) -> list[int]:
    return [int(number) for number in joined.split(",")]


def _skipped(settled: str | None, first: int, after: int, end: int, bound: int) -> AbstractSet[int]:
    """What the rows from `first` to `end` hold and is not wanted: it is settled, or is not between
    `after` and `bound`."""
    if settled is None and first > after and end + RUN_MESSAGES_MAX <= bound:
        return frozenset()
    skipped = set(range(first, after + 1))
    skipped.update(range(max(end, bound) + 1, end + RUN_MESSAGES_MAX))
    for each in settled.split(";") if settled is not None else ():
        run, ranges = each.split(":")
        for begin, stop in settled_ranges(int(run), ranges):
            skipped.update(range(begin, stop + 1))
    return skipped


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
    runs = read_runs(connection)
    dropped = KeyRanges(connection.execute("SELECT first, last FROM dropped ORDER BY first"))
    sums: dict[int, list[int]] = {}
    for row_key, head in connection.execute(
        f"""SELECT e.key, CASE WHEN substr(e.record, 1, 1) = x'{KIND_RUN:02x}' THEN e.record
            ELSE substr(coalesce(m.record, e.record), 1, 15) END
        FROM entry AS e NOT INDEXED LEFT JOIN message AS m
            ON typeof(e.record) = 'integer' AND m.message_id = e.record
        ORDER BY e.key"""
    ):
        if not isinstance(head, bytes):
            continue  # its shared message is missing
        if holds_run(head):
            run = runs.get(row_key)
            settled = frozenset(run.settled_keys() if run is not None else ())
            messages = decode_records(head, (row_key,), None, settled)
            sizes = [(message.key, len(message.body)) for message in messages]
        else:
            sizes = [(row_key, int.from_bytes(head[7:15], "big"))]
        for key, body_bytes in sizes:
            if key not in dropped:
                total = sums.setdefault(key >> POSITION_BITS, [0, 0, 0])
                total[0] += 1
                total[1] += body_bytes
                total[2] = key & POSITION_MAX
    return {queue_id: Backlog(*total) for queue_id, total in sums.items()}


def fill_backlogs(connection: sqlite3.Connection) -> None:
    """Count all rows anew into table `backlog`, in the caller's transaction."""
    connection.execute("DELETE FROM backlog WHERE queue_id <> ?", (BATCH_ROW,))
    connection.executemany(
        "INSERT INTO backlog VALUES (?, ?, ?, ?)",
        [(queue_id, *backlog) for queue_id, backlog in count_backlogs(connection).items()],
    )
