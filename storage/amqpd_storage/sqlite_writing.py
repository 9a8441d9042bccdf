"""A batch becomes one SQL statement. Synchronous; runs in the writer's thread.

The writer shares the interpreter lock with a busy event loop. CPython's sqlite3 gives the lock away in
every step of a statement, and gets it back only after the switch interval (5 ms): with `executemany`
a batch of 500 rows took 240 ms beside a loop that never waits, of which 3 were SQLite's. So what
counts is the number of steps, and here it is one:

    INSERT INTO commit_batch (data, entries, settled, ...) VALUES (?, ?, ?, ...)

`commit_batch` is a temporary view. Its trigger takes the arguments apart inside SQLite, without the
lock: `data` is the records of all messages, joined; `entries` is a JSON object that says where in it
the record of each key lies; and so on. A statement outside a transaction is a transaction of its own,
so BEGIN and COMMIT are no steps of their own either. Measured beside a thread that never lets go of
the lock, 1 KB rows, as many deleted as inserted:

    rows a commit      BEGIN, DELETE, INSERT .. VALUES (?,?),(?,?).., COMMIT      commit_batch
              100                                                19.8 ms            8.7 ms
              500                                                27.4 ms           11.5 ms
             1000                                                36.4 ms           25.0 ms

The two lengths of JSON integers matter: offset and length of a record are packed into one, which
saves a third of SQLite's parsing.

A batch of more than DATA_BYTES_MAX is cut into several statements with BEGIN and COMMIT around.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final

from amqpd_storage.changes import Changes, net_changes
from amqpd_storage.entries import POSITION_BITS, POSITION_MAX
from amqpd_storage.journal import Batch
from amqpd_storage.records import record_pieces

DATA_BYTES_MAX: Final = 8 * 1024 * 1024
"""Joining and binding copies this much while the event loop stands still: 2 ms a copy."""

_LENGTH_BITS: Final = 32
_LENGTH_MASK: Final = (1 << _LENGTH_BITS) - 1

# An upsert is written as DELETE and INSERT, because within a trigger the conflict clause of the outer
# statement rules: OR ROLLBACK, which spares SQLite the journal it would need to undo one statement.
_COMMIT_VIEW: Final = f"""
CREATE TEMP VIEW commit_batch AS SELECT
    NULL AS data, NULL AS dropped_queues, NULL AS settled, NULL AS entries, NULL AS shared,
    NULL AS dropped_messages, NULL AS messages, NULL AS delivered,
    NULL AS dropped_definitions, NULL AS definitions
WHERE 0;

CREATE TEMP TRIGGER commit_batch_parts INSTEAD OF INSERT ON commit_batch BEGIN
    DELETE FROM entry WHERE key IN (
        SELECT e.key FROM json_each(new.dropped_queues) AS q CROSS JOIN entry AS e
        WHERE e.key BETWEEN q.value << {POSITION_BITS}
                        AND (q.value << {POSITION_BITS} | {POSITION_MAX}));
    DELETE FROM delivered WHERE queue_id IN (SELECT value FROM json_each(new.dropped_queues));
    DELETE FROM entry WHERE key IN (SELECT value FROM json_each(new.settled));
    DELETE FROM message WHERE message_id IN (SELECT value FROM json_each(new.dropped_messages));

    INSERT INTO entry SELECT CAST(key AS INTEGER),
        substr(new.data, (value >> {_LENGTH_BITS}) + 1, value & {_LENGTH_MASK})
        FROM json_each(new.entries);
    INSERT INTO entry SELECT CAST(key AS INTEGER), value FROM json_each(new.shared);
    INSERT INTO message SELECT CAST(key AS INTEGER),
        substr(new.data, (value >> {_LENGTH_BITS}) + 1, value & {_LENGTH_MASK})
        FROM json_each(new.messages);

    DELETE FROM delivered WHERE queue_id IN (
        SELECT CAST(key AS INTEGER) FROM json_each(new.delivered));
    INSERT INTO delivered SELECT CAST(key AS INTEGER), value FROM json_each(new.delivered);

    DELETE FROM definition WHERE (kind, key) IN (
        SELECT CAST(substr(new.data, json_extract(value, '$[0]'), json_extract(value, '$[1]'))
                    AS TEXT),
               CAST(substr(new.data, json_extract(value, '$[2]'), json_extract(value, '$[3]'))
                    AS TEXT)
        FROM json_each(new.dropped_definitions));
    INSERT INTO definition SELECT
        CAST(substr(new.data, json_extract(value, '$[0]'), json_extract(value, '$[1]')) AS TEXT),
        CAST(substr(new.data, json_extract(value, '$[2]'), json_extract(value, '$[3]')) AS TEXT),
        substr(new.data, json_extract(value, '$[4]'), json_extract(value, '$[5]'))
        FROM json_each(new.definitions);
END;
"""

_COMMIT: Final = "INSERT OR ROLLBACK INTO commit_batch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_Arguments = tuple[
    bytes,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
]


def create_commit_view(connection: sqlite3.Connection) -> None:
    """Prepare a connection for `write_batch`."""
    connection.executescript(_COMMIT_VIEW)


def write_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """Commit the batch, whole or not at all. Raises sqlite3.Error, and then nothing is written.

    Reads nothing of the entries but keys, ids and bytes, which no longer change: the event loop
    may go on with them.
    """
    if batch.is_empty:
        return
    statements = _statements(net_changes(batch))
    first = next(statements)
    second = next(statements, None)
    if second is None:
        connection.execute(_COMMIT, first)
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for arguments in itertools.chain((first, second), statements):
            connection.execute(_COMMIT, arguments)
        connection.execute("COMMIT")
    except BaseException:
        # OR ROLLBACK may have ended the transaction already; a COMMIT on a full disk does not.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class _Data:
    """The bytes of one statement, and where in them things lie."""

    __slots__ = ("definitions", "entries", "messages", "pieces", "shared", "size")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.entries: list[str] = []
        self.shared: list[str] = []
        self.messages: list[str] = []
        self.definitions: list[str] = []

    def add(self, *pieces: bytes) -> int:
        """Append a record; where it lies, packed."""
        self.pieces += pieces
        offset = self.size
        length = sum(map(len, pieces))
        self.size = offset + length
        return offset << _LENGTH_BITS | length

    def add_span(self, text: bytes) -> str:
        """Append one piece; offset (from 1, as substr counts) and length of it."""
        self.pieces.append(text)
        span = f"{self.size + 1},{len(text)}"
        self.size += len(text)
        return span


def _statements(changes: Changes) -> Iterator[_Arguments]:
    """The arguments of every statement: the first deletes, and all of them insert."""
    data = _Data()
    dropped_definitions = [
        f"[{data.add_span(kind.encode())},{data.add_span(key.encode())}]"
        for kind, key in changes.definitions
    ]
    deletions = (
        _json_array(changes.dropped_queues),
        _json_array(sorted(changes.gone_keys)),
        _json_array(changes.gone_messages),
        _json_object(f'"{queue_id}":{below}' for queue_id, below in changes.delivered.items()),
        _json_list(dropped_definitions),
    )
    for _ in _fill(data, changes):
        yield _arguments(data, deletions)
        deletions = (None, None, None, None, None)
        data.__init__()  # type: ignore[misc]
    yield _arguments(data, deletions)
