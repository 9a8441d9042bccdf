"""Runs: neighbours of one queue that were written together lie in one row, and are settled there.

    entry    41  ▏ run of 4: 41 42 43 44 ▏     run   41 to 44, 2 left, settled: 1-2
             45  ▏ record ▏                          (that is 42 and 43)
             46  ▏ record ▏

Rows of their own cost each message a search in the tree, both when it comes and when it goes, and
a page that its last rows leave is written to the log once more. A run is inserted at once. What is
settled of it is added to its row in table `run`, and with its last message the record goes, whose
pages SQLite frees without writing them. Measured with 1 KB, 500 a commit, in µs of processor time a
message: inserted 3.6 -> 2.4, read 1.7 -> 0.35, deleted 2.7 -> 0.4; with 100 B 1.4 -> 0.6, 0.35 ->
0.03 and 1.0 -> 0.3.

A run has RUN_MESSAGES_MIN to RUN_MESSAGES_MAX messages, of RECORD_BYTES_MAX each and RUN_BYTES_MAX
together: so much may stay on the disk for the sake of one message that nobody acknowledges. A key
within it is not used again while the run is there (journal, rules for the broker).
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from amqpd_storage.changes import key_ranges
from amqpd_storage.records import KIND_RUN, RUN_HEAD_BYTES

RUN_MESSAGES_MIN: Final = 8
"""Fewer have rows of their own: what a commit with a run writes to table `run` is a page more."""
RUN_MESSAGES_MAX: Final = 256
RECORD_BYTES_MAX: Final = 4096
RUN_BYTES_MAX: Final = 64 * 1024
"""With 256 KB it was no faster."""

SCHEMA: Final = """
CREATE TABLE run (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, remaining INTEGER NOT NULL,
    settled TEXT NOT NULL
);
"""
"""`settled` is a list of ranges, counted from `first`: 0-9,12-12, for 13 messages of which one and
then ten others are gone."""


def run_around(key: str) -> str:
    """SQL: the key of the run that begins before `key` and ends there or beyond, or NULL."""
    return f"""(
        SELECT first FROM run
        WHERE first < {key} AND first > {key} - {RUN_MESSAGES_MAX} AND last >= {key}
    )"""


_RANGES: Final = """(
        SELECT CAST(key AS INTEGER) AS first, value AS last FROM json_each(new.settled)
    ) AS gone"""

_TOUCHED: Final = f"""{_RANGES} CROSS JOIN run
        WHERE run.first BETWEEN gone.first - {RUN_MESSAGES_MAX} AND gone.last
            AND run.last >= gone.first"""

INSERT_RUNS: Final[str] = """
    INSERT INTO run
        SELECT CAST(key AS INTEGER), value, value - CAST(key AS INTEGER) + 1, ''
        FROM json_each(new.runs);"""
"""In the trigger of a commit: some of the new rows of `entry` are runs. `new.runs` is a JSON object
of their first keys and last keys."""

SETTLE: Final[str] = f"""
    INSERT INTO settled_runs SELECT new.settled WHERE EXISTS (SELECT 1 FROM {_TOUCHED});
    DELETE FROM entry WHERE key IN (
        SELECT e.key FROM {_RANGES} CROSS JOIN entry AS e NOT INDEXED
        WHERE e.key BETWEEN gone.first AND gone.last
            AND NOT EXISTS (SELECT 1 FROM run WHERE run.first = e.key)
    );"""
"""In the trigger of a commit: the messages under the keys of `new.settled` go, a JSON object whose
members are ranges, first key and last. Nobody settles a message twice."""

SETTLED_RUNS: Final[str] = f"""
CREATE TEMP VIEW settled_runs AS SELECT NULL AS settled WHERE 0;
CREATE TEMP TRIGGER settled_runs_parts INSTEAD OF INSERT ON settled_runs BEGIN
    UPDATE run SET remaining = remaining - more.messages, settled = settled || more.ranges FROM (
        SELECT run.first AS of,
            sum(min(run.last, gone.last) - max(run.first, gone.first) + 1) AS messages,
            group_concat(
                (max(run.first, gone.first) - run.first) || '-'
                || (min(run.last, gone.last) - run.first) || ',', ''
            ) AS ranges
        FROM {_TOUCHED} GROUP BY run.first
    ) AS more WHERE run.first = more.of;
    DELETE FROM entry WHERE key IN (SELECT run.first FROM {_TOUCHED} AND run.remaining = 0);
    DELETE FROM run WHERE first IN (SELECT run.first FROM {_TOUCHED} AND run.remaining = 0);
END;
"""
"""A view of its own for ranges that touch runs: a commit that touches none does without the rest,
which takes 20 us."""


class StoredRun(NamedTuple):
    """A row of table `run`."""

    first: int
    last: int
    remaining: int
    settled: str

    def keys(self) -> set[int]:
        """Keys of all messages that it was made with."""
        return set(range(self.first, self.last + 1))

    def settled_keys(self) -> set[int]:
        """Keys of its messages that are gone."""
        ranges = settled_ranges(self.first, self.settled)
        return {key for first, last in ranges for key in range(first, last + 1)}


def settled_ranges(first: int, settled: str) -> list[tuple[int, int]]:
    """First and last key of each range in such a list. Raises ValueError."""
    ranges = []
    for each in settled.split(",")[:-1]:
        begin, end = each.split("-")
        ranges.append((first + int(begin), first + int(end)))
    return ranges


class KeyRanges:
    """Which keys lie in ranges that are given in order of their first keys."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            if self._lasts and first <= self._lasts[-1]:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def __contains__(self, key: int) -> bool:
        place = bisect_right(self._firsts, key)
        return place > 0 and key <= self._lasts[place - 1]


def read_runs(connection: sqlite3.Connection) -> dict[int, StoredRun]:
    """All of them, by their first keys; none before version 3 of the schema."""
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'run'")
    if not found.fetchall():
        return {}
    return {row[0]: StoredRun(*row) for row in connection.execute("SELECT * FROM run")}


def wrong_runs(connection: sqlite3.Connection) -> set[int]:
    """Keys of rows of which tables `entry` and `run` do not say the same, or the latter contradicts
    itself."""
    runs = read_runs(connection)
    wrong = {
        run.first
        for run in runs.values()
        if run.remaining != len(run.keys() - run.settled_keys()) or not run.remaining
    }
    found = {
        key: int(messages) if messages.isdigit() else 0
        for key, messages in connection.execute(
            f"SELECT key, CAST(substr(record, 2, {RUN_HEAD_BYTES - 1}) AS TEXT) FROM entry"
            f" WHERE typeof(record) = 'blob' AND substr(record, 1, 1) = x'{KIND_RUN:02x}'"
        )
    }
    wrong |= runs.keys() ^ found.keys()
    return wrong | {
        run.first for run in runs.values() if run.last - run.first + 1 != found.get(run.first)
    }


def drop_rows(connection: sqlite3.Connection, first: int, last: int) -> None:
    """Delete what lies under these keys, in the caller's transaction; some of it may be settled.

    A run that only begins or ends among them stays, with the rest of its messages.
    """
    parts = [
        (run, run.keys().difference(run.settled_keys(), range(first, last + 1)))
        for run in _runs_across(connection, first, last)
    ]
    kept = json.dumps([run.first for run, keys in parts if keys])
    for table, key in (("entry", "key"), ("run", "first")):
        connection.execute(
            f"DELETE FROM {table} WHERE {key} BETWEEN ? AND ?"
            f" AND {key} NOT IN (SELECT value FROM json_each(?))",
            (first, last, kept),
        )
    for run, keys in parts:
        if keys:
            gone = key_ranges(run.keys() - keys)
            settled = "".join(f"{begin - run.first}-{end - run.first}," for begin, end in gone)
            connection.execute(
                "UPDATE run SET remaining = ?, settled = ? WHERE first = ?",
                (len(keys), settled, run.first),
            )
        else:
            connection.execute("DELETE FROM entry WHERE key = ?", (run.first,))
            connection.execute("DELETE FROM run WHERE first = ?", (run.first,))


def _runs_across(connection: sqlite3.Connection, first: int, last: int) -> list[StoredRun]:
    """The runs that have messages both among these keys and beside them."""
    found = connection.execute(
        "SELECT * FROM run WHERE first BETWEEN :first - :most AND :last AND last >= :first"
        " AND (first < :first OR last > :last)",
        {"first": first, "last": last, "most": RUN_MESSAGES_MAX},
    )
    return [StoredRun(*row) for row in found]
