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
from amqpd_storage.sqlite_delays import sweep_delays

SWEPT_ROWS: Final = 4000
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
        beyond = connection.execute(
            "SELECT key FROM entry WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 1 OFFSET ?",
            (first, last, SWEPT_ROWS),
        ).fetchall()
        end = beyond[0][0] - 1 if beyond else last
        connection.execute(
            "INSERT INTO released SELECT record FROM entry NOT INDEXED"
            " WHERE key BETWEEN ? AND ? AND typeof(record) = 'integer'",
            (first, end),
        )
        connection.execute("DELETE FROM entry WHERE key BETWEEN ? AND ?", (first, end))
        connection.execute(
            "DELETE FROM message WHERE message_id IN (SELECT message_id FROM released)"
            f" AND {UNREFERENCED}"
        )
        connection.execute("DELETE FROM released")
        connection.execute("DELETE FROM dropped WHERE first = ?", (first,))
        if beyond:
            # Where another range begins there, it is one of a queue that is gone by now as a whole.
            connection.execute("INSERT OR REPLACE INTO dropped VALUES (?, ?)", (end + 1, last))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True


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
