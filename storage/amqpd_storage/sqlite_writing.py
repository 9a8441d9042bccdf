"""A batch becomes one SQL statement. Synchronous; runs in the writer's thread.

The writer shares the interpreter lock with a busy event loop. CPython's sqlite3 gives the lock
away in every step of a statement, and gets it back only after the switch interval (5 ms): with
`executemany` a batch of 500 rows took 240 ms beside a loop that never waits, of which 3 were
SQLite's. So what counts is the number of steps, and here it is one:

    INSERT INTO commit_batch (data, entries, settled, ...) VALUES (?, ?, ?, ...)

`commit_batch` is a temporary view. Its trigger takes the arguments apart inside SQLite, without the
lock: `data` is the records of all messages, joined; `entries` is a JSON object that says where in
it the record of each key lies; and so on. A statement outside a transaction is a transaction of
its own, so BEGIN and COMMIT are no steps of their own either. Measured beside a thread that never
lets go of the lock, 1 KB rows, as many deleted as inserted:

    rows a commit      BEGIN, DELETE, INSERT .. VALUES (?,?),(?,?).., COMMIT      commit_batch
              100                                                19.8 ms            8.7 ms
              500                                                27.4 ms           11.5 ms
             1000                                                36.4 ms           25.0 ms

With `sys.setswitchinterval(0.0005)` commit_batch takes 2.0, 7.3 and 19.7 ms; with nobody beside it
0.9, 3.9 and 7.6 ms.

Offset and length of a record are packed into one integer: JSON is parsed by the element.

A batch of more than DATA_BYTES_MAX is cut into several statements with BEGIN and COMMIT around. So
is one with large records, which have statements of their own (large_records).

The owner of a store numbers its batches, and each brings its number with it (`meta`, BATCH): who
opens the store after a commit that failed can tell whether it is there. That costs a commit 30 us.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final

from amqpd_storage.changes import Changes, net_changes
from amqpd_storage.entries import (
    POSITION_BITS,
    POSITION_MAX,
    Content,
    Delay,
    Enqueue,
    storage_key,
)
from amqpd_storage.journal import Batch
from amqpd_storage.large_records import LARGE_BYTES, LargeRow, own_message_id, written_once
from amqpd_storage.records import record_pieces

DATA_BYTES_MAX: Final = 8 * 1024 * 1024
"""Joining and binding copies this much while the event loop stands still: 2 ms a copy."""

BATCH: Final = "batch"
"""Of table `meta`: the number of the batch that was committed last."""

UNREFERENCED: Final = """NOT EXISTS (
    SELECT 1 FROM entry WHERE typeof(record) = 'integer' AND record = message.message_id)"""
"""Of a row of `message`: no place in any queue refers to it. The index `shared_entry` answers."""

_LENGTH_BITS: Final = 32
_LENGTH_MASK: Final = (1 << _LENGTH_BITS) - 1

# An upsert is written as DELETE and INSERT, because within a trigger the conflict clause of the
# outer statement rules: OR ROLLBACK, which spares SQLite the journal it would need to undo one
# statement. `released` collects shared messages that lost a row without anybody here knowing their
# ids; it has no unique column for the same reason.
_COMMIT_VIEW: Final = f"""
PRAGMA temp_store = MEMORY;
CREATE TEMP TABLE released (message_id INTEGER);
CREATE TEMP VIEW commit_batch AS SELECT
    NULL AS data, NULL AS dropped_queues, NULL AS short_queues, NULL AS dropped_ranges,
    NULL AS settled, NULL AS entries, NULL AS shared, NULL AS messages, NULL AS released_messages,
    NULL AS backlogs, NULL AS gone_delays, NULL AS delays, NULL AS delay_counts,
    NULL AS dropped_exchanges, NULL AS delivered, NULL AS definition_ranges,
    NULL AS definition_keys, NULL AS definitions, NULL AS number
WHERE 0;

CREATE TEMP TRIGGER commit_batch_parts INSTEAD OF INSERT ON commit_batch BEGIN
    INSERT INTO released
        SELECT e.record FROM json_each(new.short_queues) AS q CROSS JOIN entry AS e NOT INDEXED
        WHERE e.key BETWEEN q.value << {POSITION_BITS}
                        AND (q.value << {POSITION_BITS} | {POSITION_MAX})
            AND typeof(e.record) = 'integer';
    DELETE FROM entry WHERE key IN (
        SELECT e.key FROM json_each(new.short_queues) AS q CROSS JOIN entry AS e NOT INDEXED
        WHERE e.key BETWEEN q.value << {POSITION_BITS}
                        AND (q.value << {POSITION_BITS} | {POSITION_MAX}));
    DELETE FROM delivered WHERE queue_id IN (SELECT value FROM json_each(new.dropped_queues));
    DELETE FROM backlog WHERE queue_id IN (SELECT value FROM json_each(new.dropped_queues));
    INSERT INTO dropped SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]')
        FROM json_each(new.dropped_ranges);
    DELETE FROM entry WHERE key IN (SELECT value FROM json_each(new.settled));

    INSERT INTO entry SELECT CAST(key AS INTEGER),
        substr(new.data, (value >> {_LENGTH_BITS}) + 1, value & {_LENGTH_MASK})
        FROM json_each(new.entries);
    INSERT INTO entry SELECT CAST(key AS INTEGER), value FROM json_each(new.shared);
    INSERT INTO message SELECT CAST(key AS INTEGER),
        substr(new.data, (value >> {_LENGTH_BITS}) + 1, value & {_LENGTH_MASK})
        FROM json_each(new.messages);

    INSERT INTO released SELECT value FROM json_each(new.released_messages);
    DELETE FROM message WHERE message_id IN (SELECT message_id FROM released)
        AND {UNREFERENCED};
    DELETE FROM released;

    INSERT INTO backlog SELECT CAST(key AS INTEGER), 0, 0, 0 FROM json_each(new.backlogs)
        WHERE CAST(key AS INTEGER) NOT IN (SELECT queue_id FROM backlog);
    UPDATE backlog SET
        messages = messages + json_extract(sums.value, '$[0]'),
        body_bytes = body_bytes + json_extract(sums.value, '$[1]'),
        last = max(last, json_extract(sums.value, '$[2]'))
        FROM json_each(new.backlogs) AS sums WHERE queue_id = CAST(sums.key AS INTEGER);

    DELETE FROM delayed WHERE sequence IN (SELECT value FROM json_each(new.gone_delays));
    INSERT INTO delayed SELECT CAST(key AS INTEGER),
        json_extract(value, '$[0]'), json_extract(value, '$[1]'),
        substr(new.data, (json_extract(value, '$[2]') >> {_LENGTH_BITS}) + 1,
               json_extract(value, '$[2]') & {_LENGTH_MASK})
        FROM json_each(new.delays);
    INSERT INTO delayed_count SELECT CAST(key AS INTEGER), 0, 0 FROM json_each(new.delay_counts)
        WHERE CAST(key AS INTEGER) NOT IN (SELECT exchange_id FROM delayed_count);
    UPDATE delayed_count SET messages = messages + counts.value
        FROM json_each(new.delay_counts) AS counts WHERE exchange_id = CAST(counts.key AS INTEGER);
    UPDATE delayed_count SET dropped = 1
        WHERE exchange_id IN (SELECT value FROM json_each(new.dropped_exchanges));

    DELETE FROM delivered WHERE queue_id IN (
        SELECT CAST(key AS INTEGER) FROM json_each(new.delivered));
    INSERT INTO delivered SELECT CAST(key AS INTEGER), value FROM json_each(new.delivered);

    DELETE FROM definition WHERE (kind, key) IN (
        SELECT d.kind, d.key FROM json_each(new.definition_ranges) AS r CROSS JOIN definition AS d
        WHERE d.kind = CAST(substr(
                new.data, json_extract(r.value, '$[0]'), json_extract(r.value, '$[1]')) AS TEXT)
            AND d.key >= CAST(substr(
                new.data, json_extract(r.value, '$[2]'), json_extract(r.value, '$[3]')) AS TEXT)
            AND d.key < CAST(substr(
                new.data, json_extract(r.value, '$[4]'), json_extract(r.value, '$[5]')) AS TEXT));
    DELETE FROM definition WHERE (kind, key) IN (
        SELECT CAST(substr(new.data, json_extract(value, '$[0]'), json_extract(value, '$[1]'))
                    AS TEXT),
               CAST(substr(new.data, json_extract(value, '$[2]'), json_extract(value, '$[3]'))
                    AS TEXT)
        FROM json_each(new.definition_keys));
    INSERT INTO definition SELECT
        CAST(substr(new.data, json_extract(value, '$[0]'), json_extract(value, '$[1]')) AS TEXT),
        CAST(substr(new.data, json_extract(value, '$[2]'), json_extract(value, '$[3]')) AS TEXT),
        substr(new.data, json_extract(value, '$[4]'), json_extract(value, '$[5]'))
        FROM json_each(new.definitions);

    DELETE FROM meta WHERE name = '{BATCH}' AND new.number IS NOT NULL;
    INSERT INTO meta SELECT '{BATCH}', new.number WHERE new.number IS NOT NULL;
END;
"""

_COLUMNS: Final = 19
_COMMIT: Final = f"INSERT OR ROLLBACK INTO commit_batch VALUES (?{', ?' * (_COLUMNS - 1)})"

_Arguments = tuple[bytes | str | int | None, ...]


def create_commit_view(connection: sqlite3.Connection) -> None:
    """Prepare a connection for `write_batch`."""
    connection.executescript(_COMMIT_VIEW)


def write_batch(connection: sqlite3.Connection, batch: Batch, number: int | None = None) -> None:
    """Commit the batch, whole or not at all, and its number with it.

    Raises sqlite3.Error: nothing is written then, as far as this connection can tell.

    Reads nothing of the entries but keys, ids and bytes, which no longer change: the event loop
    may go on with them.
    """
    if batch.is_empty:
        return
    statements = _statements(net_changes(batch), number)
    first = next(statements)
    second = next(statements, None)
    if second is None:
        assert not isinstance(first, LargeRow)
        connection.execute(_COMMIT, first)
        return
    rest = itertools.chain((first, second), statements)
    if isinstance(second, LargeRow):
        with written_once(connection):
            _write_all(connection, rest)
    else:
        _write_all(connection, rest)


def _write_all(connection: sqlite3.Connection, statements: Iterable[_Arguments | LargeRow]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            if isinstance(statement, LargeRow):
                statement.insert(connection)
            else:
                connection.execute(_COMMIT, statement)
        connection.execute("COMMIT")
    except BaseException:
        # OR ROLLBACK may have ended the transaction already; a COMMIT on a full disk does not.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(changes: Changes, number: int | None) -> Iterator[_Arguments | LargeRow]:
    """The arguments of each statement; behind the first one large rows, if there are any.

    All that goes is in the first one, before anything comes; the sums are in the last.
    """
    statement = _Statement(number)
    statement.delete(changes)
    for (kind, key), value in changes.definitions.items():
        if value is not None:
            statement.put_definition(kind, key, value)
    large = _large_rows(changes)
    if large:
        yield statement.arguments()
        statement = _Statement()
        yield from large
    for content in changes.messages:
        if len(content.body) >= LARGE_BYTES:
            continue
        if statement.size >= DATA_BYTES_MAX:
            yield statement.arguments()
            statement = _Statement()
        statement.put_message(content)
    for enqueue in changes.enqueues:
        if statement.size >= DATA_BYTES_MAX:
            yield statement.arguments()
            statement = _Statement()
        statement.put_entry(enqueue)
    for delay in changes.delays:
        if len(delay.content.body) >= LARGE_BYTES:
            continue
        if statement.size >= DATA_BYTES_MAX:
            yield statement.arguments()
            statement = _Statement()
        statement.put_delay(delay)
    statement.sum_up(changes)
    yield statement.arguments()


def _large_rows(changes: Changes) -> list[LargeRow]:
    """The rows that are no part of a statement with others."""
    rows = [
        LargeRow("message", (content.message_id,), record_pieces(content))
        for content in changes.messages
        if len(content.body) >= LARGE_BYTES
    ]
    rows += [
        LargeRow(
            "message", (own_message_id(each.key),), record_pieces(each.content, each.expires_ms)
        )
        for each in changes.large_enqueues
    ]
    rows += [
        LargeRow(
            "delayed",
            (delay.sequence, delay.exchange_id, delay.due_ms),
            record_pieces(delay.content),
        )
        for delay in changes.delays
        if len(delay.content.body) >= LARGE_BYTES
    ]
    return rows


class _Statement:
    """The arguments of one statement in the making: joined bytes, and where in them things lie."""

    __slots__ = (
        "_backlogs",
        "_definition_keys",
        "_definition_ranges",
        "_definitions",
        "_delay_counts",
        "_delays",
        "_delivered",
        "_dropped_exchanges",
        "_dropped_queues",
        "_dropped_ranges",
        "_entries",
        "_gone_delays",
        "_messages",
        "_number",
        "_pieces",
        "_released",
        "_settled",
        "_shared",
        "_short_queues",
        "size",
    )

    def __init__(self, number: int | None = None) -> None:
        self.size = 0
        self._number = number
        self._pieces: list[bytes] = []
        self._entries: list[str] = []
        self._shared: list[str] = []
        self._messages: list[str] = []
        self._definitions: list[str] = []
        self._definition_keys: list[str] = []
        self._definition_ranges: list[str] = []
        self._delivered: list[str] = []
        self._dropped_queues: list[str] = []
        self._short_queues: list[str] = []
        self._dropped_ranges: list[str] = []
        self._settled: list[str] = []
        self._released: list[str] = []
        self._backlogs: list[str] = []
        self._gone_delays: list[str] = []
        self._delays: list[str] = []
        self._delay_counts: list[str] = []
        self._dropped_exchanges: list[str] = []

    def delete(self, changes: Changes) -> None:
        """Whatever goes, and what is deleted to be inserted anew."""
        long = changes.long_queues
        self._dropped_queues = [str(queue_id) for queue_id in changes.dropped_queues]
        self._short_queues = [str(queue_id) for queue_id in changes.dropped_queues - long]
        self._dropped_ranges = [f"[{first},{last}]" for first, last in changes.dropped_ranges]
        self._dropped_ranges += [
            f"[{storage_key(queue_id, 0)},{storage_key(queue_id, POSITION_MAX)}]"
            for queue_id in long
        ]
        self._settled = [str(key) for key in changes.gone_keys]
        self._released = [str(own_message_id(key)) for key in changes.large_gone]
        self._gone_delays = [str(sequence) for sequence in changes.gone_delays]
        self._delivered = [f'"{queue}":{below}' for queue, below in changes.delivered.items()]
        self._definition_keys = [
            f"[{self._span(kind.encode())},{self._span(key.encode())}]"
            for kind, key in changes.definitions
        ]
        self._definition_ranges = [
            f"[{self._span(kind.encode())},{self._span(prefix.encode())},{self._span(_after(prefix))}]"
            for kind, prefix in changes.dropped_definitions
        ]

    def sum_up(self, changes: Changes) -> None:
        """Once all rows are there: what the queues have now, and shared messages none has."""
        self._released += [str(message_id) for message_id in changes.released]
        self._backlogs = [
            f'"{queue_id}":[{backlog.messages},{backlog.body_bytes},{backlog.last}]'
            for queue_id, backlog in changes.backlogs.items()
        ]
        self._delay_counts = [f'"{each}":{more}' for each, more in changes.delay_counts.items()]
        self._dropped_exchanges = [str(each) for each in changes.dropped_exchanges]

    def put_definition(self, kind: str, key: str, value: bytes) -> None:
        name = f"{self._span(kind.encode())},{self._span(key.encode())}"
        self._definitions.append(f"[{name},{self._span(value)}]")

    def put_message(self, content: Content) -> None:
        self._messages.append(f'"{content.message_id}":{self._place(content)}')

    def put_entry(self, enqueue: Enqueue[Content]) -> None:
        content = enqueue.content
        if content.message_id:
            self._shared.append(f'"{enqueue.key}":{content.message_id}')
        elif len(content.body) >= LARGE_BYTES:
            self._shared.append(f'"{enqueue.key}":{own_message_id(enqueue.key)}')
        else:
            placed = self._place(content, enqueue.expires_ms)
            self._entries.append(f'"{enqueue.key}":{placed}')

    def put_delay(self, delay: Delay[Content]) -> None:
        placed = self._place(delay.content)
        self._delays.append(f'"{delay.sequence}":[{delay.exchange_id},{delay.due_ms},{placed}]')

    def arguments(self) -> _Arguments:
        """In the order of the columns of `commit_batch`."""
        return (
            b"".join(self._pieces),
            f"[{','.join(self._dropped_queues)}]",
            f"[{','.join(self._short_queues)}]",
            f"[{','.join(self._dropped_ranges)}]",
            f"[{','.join(self._settled)}]",
            f"{{{','.join(self._entries)}}}",
            f"{{{','.join(self._shared)}}}",
            f"{{{','.join(self._messages)}}}",
            f"[{','.join(self._released)}]",
            f"{{{','.join(self._backlogs)}}}",
            f"[{','.join(self._gone_delays)}]",
            f"{{{','.join(self._delays)}}}",
            f"{{{','.join(self._delay_counts)}}}",
            f"[{','.join(self._dropped_exchanges)}]",
            f"{{{','.join(self._delivered)}}}",
            f"[{','.join(self._definition_ranges)}]",
            f"[{','.join(self._definition_keys)}]",
            f"[{','.join(self._definitions)}]",
            self._number,
        )

    def _place(self, content: Content, expires_ms: int = 0) -> int:
        """Append the message's record; its offset and length as one number."""
        record = record_pieces(content, expires_ms)
        head, envelope, properties, body = record
        self._pieces += record
        offset = self.size
        length = len(head) + len(envelope) + len(properties) + len(body)
        self.size = offset + length
        return offset << _LENGTH_BITS | length

    def _span(self, text: bytes) -> str:
        """Append a piece; its offset (from 1, as substr counts) and length."""
        self._pieces.append(text)
        offset = self.size + 1
        self.size += len(text)
        return f"{offset},{len(text)}"


def _after(prefix: str) -> bytes:
    """What comes right after everything that begins with the prefix; SQLite compares octets."""
    octets = prefix.encode()
    return octets[:-1] + bytes((octets[-1] + 1,))
