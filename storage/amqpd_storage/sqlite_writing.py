"""A batch becomes one SQL statement. Synchronous; runs in the writer's thread.

The writer shares the interpreter lock with a busy event loop. CPython's sqlite3 gives the lock
away in every step of a statement, and gets it back only after the switch interval (5 ms): with
`executemany` a batch of 500 rows took 240 ms beside a loop that never waits, of which 3 were
SQLite's. So what counts is the number of steps, and here it is one: an INSERT into a temporary
view, whose trigger takes the arguments apart inside SQLite, without the lock (commit_view). A
statement outside a transaction is a transaction of its own, so BEGIN and COMMIT are no steps
either. Measured beside a thread that never lets go of the lock, 1 KB rows, as many deleted as
inserted:

    rows a commit      BEGIN, DELETE, INSERT .. VALUES (?,?),(?,?).., COMMIT      one statement
              100                                                19.8 ms            8.7 ms
              500                                                27.4 ms           11.5 ms
             1000                                                36.4 ms           25.0 ms

With `sys.setswitchinterval(0.0005)` one statement takes 2.0, 7.3 and 19.7 ms; with nobody beside it
0.9, 3.9 and 7.6 ms.

A batch of more than DATA_BYTES_MAX is cut into several statements with BEGIN and COMMIT around. So
is one with large records, which have statements of their own (large_records).

The owner of a store numbers its batches, and each brings its number with it (BATCH_ROW): who opens
the store after a commit that failed can tell whether it is there.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final

from amqpd_storage.changes import Changes, net_changes
from amqpd_storage.commit_arguments import CommitArguments
from amqpd_storage.commit_view import COMMIT_DEFINITION, COMMIT_MESSAGE, Arguments, commit
from amqpd_storage.entries import LARGE_BYTES, Enqueue, Entry, PutDefinition
from amqpd_storage.journal import Batch
from amqpd_storage.large_records import LargeRow, own_message_id, written_once
from amqpd_storage.records import encode_record, record_pieces

DATA_BYTES_MAX: Final = 8 * 1024 * 1024
"""Joining and binding copies this much while the event loop stands still: 2 ms a copy."""


def write_batch(connection: sqlite3.Connection, batch: Batch, number: int | None = None) -> None:
    """Commit the batch, whole or not at all, and its number with it.

    Raises sqlite3.Error: nothing is written then, as far as this connection can tell.

    Reads nothing of the entries but keys, ids and bytes, which no longer change: the event loop
    may go on with them.
    """
    if batch.is_empty:
        return
    if len(batch.entries) == 1 and _write_alone(connection, batch.entries[0], number):
        return
    write_changes(connection, net_changes(batch), number)


def _write_alone(connection: sqlite3.Connection, entry: Entry, number: int | None) -> bool:
    """Commit a batch that is one entry, if it is of a kind that somebody waits for."""
    if isinstance(entry, Enqueue):
        content = entry.content
        body_bytes = len(content.body)
        if content.message_id or body_bytes >= LARGE_BYTES:
            return False
        record = encode_record(content, entry.expires_ms)
        connection.execute(COMMIT_MESSAGE, (entry.key, record, body_bytes, number))
        return True
    if isinstance(entry, PutDefinition):
        connection.execute(COMMIT_DEFINITION, (entry.kind, entry.key, entry.value, number))
        return True
    return False


def write_changes(connection: sqlite3.Connection, changes: Changes, number: int | None) -> None:
    """Commit what is left of a batch when its entries are summed up. Raises sqlite3.Error."""
    statements = _statements(changes, number)
    first = next(statements)
    second = next(statements, None)
    if second is None:
        assert not isinstance(first, LargeRow)
        commit(connection, first)
        return
    rest = itertools.chain((first, second), statements)
    if isinstance(second, LargeRow):
        with written_once(connection):
            _write_all(connection, rest)
    else:
        _write_all(connection, rest)


def _write_all(connection: sqlite3.Connection, statements: Iterable[Arguments | LargeRow]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            if isinstance(statement, LargeRow):
                statement.insert(connection)
            else:
                commit(connection, statement)
        connection.execute("COMMIT")
    except BaseException:
        # OR ROLLBACK may have ended the transaction already; a COMMIT on a full disk does not.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(changes: Changes, number: int | None) -> Iterator[Arguments | LargeRow]:
    """The arguments of each statement; behind the first one large rows, if there are any.

    All that goes is in the first one, before anything comes; the sums are in the last.
    """
    statement = CommitArguments(DATA_BYTES_MAX, LARGE_BYTES)
    statement.delete(changes)
    if changes.definitions:
        statement.put_definitions(changes)
    large = _large_rows(changes)
    if large:
        yield statement.columns()
        statement = CommitArguments(DATA_BYTES_MAX, LARGE_BYTES)
        yield from large
    done = statement.put_messages(changes.messages, 0)
    while done < len(changes.messages):
        yield statement.columns()
        statement = CommitArguments(DATA_BYTES_MAX, LARGE_BYTES)
        done = statement.put_messages(changes.messages, done)
    done = statement.put_entries(changes.enqueues, 0)
    while done < len(changes.enqueues):
        yield statement.columns()
        statement = CommitArguments(DATA_BYTES_MAX, LARGE_BYTES)
        done = statement.put_entries(changes.enqueues, done)
    done = statement.put_delays(changes.delays, 0)
    while done < len(changes.delays):
        yield statement.columns()
        statement = CommitArguments(DATA_BYTES_MAX, LARGE_BYTES)
        done = statement.put_delays(changes.delays, done)
    statement.sum_up(changes, number)
    yield statement.columns()


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
