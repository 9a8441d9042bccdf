"""What is done when there is time: rows deleted that are gone already, disk space given back.

A purge of millions of messages is one row in table `dropped`. The rows of the messages go from
here, a few thousand a transaction, so that no commit ever waits for a long one. The pages they
leave are given back to the file system in the same small steps (`PRAGMA incremental_vacuum`), as
far as it is worth the while: a store that is filled and drained all the time keeps its pages.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from amqpd_storage.commit_view import UNREFERENCED
from amqpd_storage.runs import drop_rows
from amqpd_storage.sqlite_delays import sweep_delays

SWEPT_ROWS: Final = 4000
SWEPT_BYTES: Final = 4 * 1024 * 1024
"""In one step: some 10 ms."""

FREED_PAGES: Final = 256
"""In one step: 2 MB, some 10 ms."""

KEPT_FREE_PAGES: Final = 2048
"""Free pages that are no reason to shrink the file: 16 MB."""

KEPT_FREE_SHARE: Final = 4
"""Nor are fewer than one in so many."""


def tidy(connection: sqlite3.Connection) -> bool:
    """One step; whether there is more to do. Raises sqlite3.Error, and then nothing was done."""
    return sweep(connection) or sweep_delays(connection) or give_back(connection)


def sweep(connection: sqlite3.Connection) -> bool:
    """Delete some rows that were dropped; False if there are none."""
    found = connection.execute("SELECT first, last FROM dropped LIMIT 1").fetchall()
    if not found:
        return False
    ((first, last),) = found
    connection.execute("BEGIN IMMEDIATE")
    try:
        beyond = _beyond(connection, first, last)
        end = last if beyond is None else beyond - 1
        connection.execute(
            "INSERT INTO released SELECT record FROM entry NOT INDEXED"
            " WHERE key BETWEEN ? AND ? AND typeof(record) = 'integer'",
            (first, end),
        )
        drop_rows(connection, first, end)
        connection.execute(
            "DELETE FROM message WHERE message_id IN (SELECT message_id FROM released)"
            f" AND {UNREFERENCED}"
        )
        connection.execute("DELETE FROM released")
        connection.execute("DELETE FROM dropped WHERE first = ?", (first,))
        if beyond is not None:
            # Where another range begins there, it is one of a queue that is gone by now as a whole.
            connection.execute("INSERT OR REPLACE INTO dropped VALUES (?, ?)", (beyond, last))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True


def _beyond(connection: sqlite3.Connection, first: int, last: int) -> int | None:
    """The row between these keys with which the next step begins; `None` if this one has all."""
    octets = 0
    found = connection.execute(
        "SELECT key, length(record) FROM entry WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?",
        (first, last, SWEPT_ROWS + 1),
    )
    for number, (key, size) in enumerate(found.fetchall()):
        if number == SWEPT_ROWS or octets > SWEPT_BYTES:
            return int(key)
        octets += size
    return None


def give_back(connection: sqlite3.Connection) -> bool:
    """Let some free pages go, if there are many; False if there are not."""
    ((free,),) = connection.execute("PRAGMA freelist_count").fetchall()
    ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
    if free <= KEPT_FREE_PAGES or free * KEPT_FREE_SHARE <= pages:
        return False
    # Not `execute`: it takes one step of the statement, and each step frees one page.
    connection.executescript(f"PRAGMA incremental_vacuum({FREED_PAGES})")
    ((left,),) = connection.execute("PRAGMA freelist_count").fetchall()
    if left == free:
        return False  # a file that was made without the pages which this takes
    if left <= KEPT_FREE_PAGES:
        # The file itself is cut when the log is written back, and that may be long after.
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return True
