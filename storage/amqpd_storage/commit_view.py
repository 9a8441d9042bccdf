"""What a commit does to the tables, as SQL: temporary views whose triggers take arguments apart.

    INSERT INTO commit_publishes (data, entries, backlogs) VALUES (?, ?, ?)

is one step of one statement, and a whole transaction (sqlite_writing says why that counts). The
arguments are the columns of the view: `data` is the records of all messages, joined; `entries` is
a JSON object that says where in it the record of each row lies, by key; and so on. COLUMNS has them
all, with what the trigger does for each, in this order.

Even for a column without anything in it a trigger opens tables and indexes: with all of them a
commit of one message took 47 us in SQLite alone, 11 with those that it needs. So there is a view
for each of the usual kinds of batches, and one that does everything.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from amqpd_storage import runs
from amqpd_storage.entries import POSITION_BITS, POSITION_MAX

BATCH_ROW: Final = 0
"""Of table `backlog`, and no queue's: its `last` is the number of the batch that was committed
last. A commit of messages writes that page anyway; as a row of `meta` it took a page of its own."""

UNREFERENCED: Final = """NOT EXISTS (
    SELECT 1 FROM entry WHERE typeof(record) = 'integer' AND record = message.message_id)"""
"""Of a row of `message`: no place in any queue refers to it. The index `shared_entry` answers."""

PLACE_BITS: Final = 32
"""The offset and the length of a record are packed into one integer, the length in so many bits:
JSON is parsed by the element."""

_PLACE_MASK: Final = (1 << PLACE_BITS) - 1

# An upsert is written as DELETE and INSERT, because within a trigger the conflict clause of the
# outer statement rules: OR ROLLBACK, which spares SQLite the journal it would need to undo one
# statement. `released` collects shared messages that lost a row without anybody here knowing their
# ids; it has no unique column for the same reason.
COLUMNS: Final = {
    "data": "",
    "short_queues": f"""
    INSERT INTO released
        SELECT e.record FROM json_each(new.short_queues) AS q CROSS JOIN entry AS e NOT INDEXED
        WHERE e.key BETWEEN q.value << {POSITION_BITS}
                        AND (q.value << {POSITION_BITS} | {POSITION_MAX})
            AND typeof(e.record) = 'integer';
    DELETE FROM entry WHERE key IN (
        SELECT e.key FROM json_each(new.short_queues) AS q CROSS JOIN entry AS e NOT INDEXED
        WHERE e.key BETWEEN q.value << {POSITION_BITS}
                        AND (q.value << {POSITION_BITS} | {POSITION_MAX}));
    DELETE FROM run WHERE first IN (
        SELECT run.first FROM json_each(new.short_queues) AS q CROSS JOIN run
        WHERE run.first BETWEEN q.value << {POSITION_BITS}
                        AND (q.value << {POSITION_BITS} | {POSITION_MAX}));""",
    "dropped_queues": """
    DELETE FROM delivered WHERE queue_id IN (SELECT value FROM json_each(new.dropped_queues));
    DELETE FROM backlog WHERE queue_id IN (SELECT value FROM json_each(new.dropped_queues));""",
    "dropped_ranges": """
    INSERT INTO dropped SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]')
        FROM json_each(new.dropped_ranges);""",
    "settled": runs.SETTLE,
    "entries": f"""
    INSERT INTO entry SELECT CAST(key AS INTEGER),
        substr(new.data, (value >> {PLACE_BITS}) + 1, value & {_PLACE_MASK})
        FROM json_each(new.entries);""",
    "runs": runs.INSERT_RUNS,
    "shared": """
    INSERT INTO entry SELECT CAST(key AS INTEGER), value FROM json_each(new.shared);""",
    "messages": f"""
    INSERT INTO message SELECT CAST(key AS INTEGER),
        substr(new.data, (value >> {PLACE_BITS}) + 1, value & {_PLACE_MASK})
        FROM json_each(new.messages);""",
    "released_messages": f"""
    INSERT INTO released SELECT value FROM json_each(new.released_messages);
    DELETE FROM message WHERE message_id IN (SELECT message_id FROM released)
        AND {UNREFERENCED};
    DELETE FROM released;""",
    "backlogs": """
    INSERT INTO backlog SELECT CAST(key AS INTEGER), 0, 0, 0 FROM json_each(new.backlogs)
        WHERE CAST(key AS INTEGER) NOT IN (SELECT queue_id FROM backlog);
    UPDATE backlog SET
        messages = messages + json_extract(sums.value, '$[0]'),
        body_bytes = body_bytes + json_extract(sums.value, '$[1]'),
        last = max(last, json_extract(sums.value, '$[2]'))
        FROM json_each(new.backlogs) AS sums WHERE queue_id = CAST(sums.key AS INTEGER);""",
    "gone_delays": """
    DELETE FROM delayed WHERE sequence IN (SELECT value FROM json_each(new.gone_delays));""",
    "delays": f"""
    INSERT INTO delayed SELECT CAST(key AS INTEGER),
        json_extract(value, '$[0]'), json_extract(value, '$[1]'),
        substr(new.data, (json_extract(value, '$[2]') >> {PLACE_BITS}) + 1,
               json_extract(value, '$[2]') & {_PLACE_MASK})
        FROM json_each(new.delays);""",
    "delay_counts": """
    INSERT INTO delayed_count SELECT CAST(key AS INTEGER), 0, 0 FROM json_each(new.delay_counts)
        WHERE CAST(key AS INTEGER) NOT IN (SELECT exchange_id FROM delayed_count);
    UPDATE delayed_count SET messages = messages + counts.value
        FROM json_each(new.delay_counts) AS counts WHERE exchange_id = CAST(counts.key AS INTEGER);
    """,
    "dropped_exchanges": """
    UPDATE delayed_count SET dropped = 1
        WHERE exchange_id IN (SELECT value FROM json_each(new.dropped_exchanges));""",
    "delivered": """
    DELETE FROM delivered WHERE queue_id IN (
        SELECT CAST(key AS INTEGER) FROM json_each(new.delivered));
    INSERT INTO delivered SELECT CAST(key AS INTEGER), value FROM json_each(new.delivered);""",
    "definition_ranges": """
    DELETE FROM definition WHERE (kind, key) IN (
        SELECT d.kind, d.key FROM json_each(new.definition_ranges) AS r CROSS JOIN definition AS d
        WHERE d.kind = CAST(substr(
                new.data, json_extract(r.value, '$[0]'), json_extract(r.value, '$[1]')) AS TEXT)
            AND d.key >= CAST(substr(
                new.data, json_extract(r.value, '$[2]'), json_extract(r.value, '$[3]')) AS TEXT)
            AND d.key < CAST(substr(
                new.data, json_extract(r.value, '$[4]'), json_extract(r.value, '$[5]')) AS TEXT));
    """,
    "definition_keys": """
    DELETE FROM definition WHERE (kind, key) IN (
        SELECT CAST(substr(new.data, json_extract(value, '$[0]'), json_extract(value, '$[1]'))
                    AS TEXT),
               CAST(substr(new.data, json_extract(value, '$[2]'), json_extract(value, '$[3]'))
                    AS TEXT)
        FROM json_each(new.definition_keys));""",
    "definitions": """
    INSERT INTO definition SELECT
        CAST(substr(new.data, json_extract(value, '$[0]'), json_extract(value, '$[1]')) AS TEXT),
        CAST(substr(new.data, json_extract(value, '$[2]'), json_extract(value, '$[3]')) AS TEXT),
        substr(new.data, json_extract(value, '$[4]'), json_extract(value, '$[5]'))
        FROM json_each(new.definitions);""",
}
"""What a batch may have, and what becomes of it: all that goes comes before all that comes.

What is absent is NULL. `released_messages` also deletes what `short_queues` released."""

Arguments = dict[str, bytes | str | int]
"""Of a commit, by column: those that are not empty."""


class CommitView(NamedTuple):
    """A view for batches that have no other columns than these."""

    name: str
    columns: tuple[str, ...]

    @property
    def definition(self) -> str:
        """The SQL that makes it."""
        nulls = ", ".join(f"NULL AS {column}" for column in self.columns)
        steps = "".join(COLUMNS[column] for column in self.columns)
        return f"""
CREATE TEMP VIEW {self.name} AS SELECT {nulls} WHERE 0;
CREATE TEMP TRIGGER {self.name}_parts INSTEAD OF INSERT ON {self.name} BEGIN{steps}
END;
"""

    @property
    def insertion(self) -> str:
        """The SQL that commits a batch."""
        marks = ", ".join("?" * len(self.columns))
        return f"INSERT OR ROLLBACK INTO {self.name} VALUES ({marks})"


def _view(name: str, *columns: str) -> CommitView:
    return CommitView(name, tuple(column for column in COLUMNS if column in columns))


COMMIT_VIEWS: Final = (
    _view("commit_publishes", "data", "entries", "backlogs"),
    _view("commit_acks", "settled", "backlogs", "delivered"),
    _view("commit_messages", "data", "settled", "entries", "backlogs", "delivered"),
    _view("commit_runs", "data", "entries", "runs", "backlogs"),
    _view(
        "commit_messages_and_runs",
        *("data", "settled", "entries", "runs", "backlogs", "delivered"),
    ),
    _view(
        "commit_shared",
        *("data", "settled", "entries", "runs", "shared", "messages", "released_messages"),
        *("backlogs", "delivered"),
    ),
    _view("commit_definitions", "data", "definition_keys", "definitions", "backlogs"),
    _view("commit_anything", *COLUMNS),
)
"""Those with less to do come first."""

ALONE: Final = f"""
CREATE TEMP VIEW commit_message AS
    SELECT NULL AS key, NULL AS record, NULL AS body_bytes, NULL AS number WHERE 0;
CREATE TEMP TRIGGER commit_message_parts INSTEAD OF INSERT ON commit_message BEGIN
    INSERT INTO entry VALUES (new.key, new.record);
    INSERT INTO backlog SELECT new.key >> {POSITION_BITS}, 0, 0, 0
        WHERE new.key >> {POSITION_BITS} NOT IN (SELECT queue_id FROM backlog);
    UPDATE backlog SET messages = messages + 1, body_bytes = body_bytes + new.body_bytes,
        last = max(last, new.key & {POSITION_MAX}) WHERE queue_id = new.key >> {POSITION_BITS};
    UPDATE backlog SET last = coalesce(new.number, last) WHERE queue_id = {BATCH_ROW};
END;
CREATE TEMP VIEW commit_definition AS
    SELECT NULL AS kind, NULL AS key, NULL AS value, NULL AS number WHERE 0;
CREATE TEMP TRIGGER commit_definition_parts INSTEAD OF INSERT ON commit_definition BEGIN
    DELETE FROM definition WHERE kind = new.kind AND key = new.key;
    INSERT INTO definition VALUES (new.kind, new.key, new.value);
    UPDATE backlog SET last = coalesce(new.number, last) WHERE queue_id = {BATCH_ROW};
END;
"""
"""For batches of one entry, which are those that somebody waits for: without JSON a commit of one
message takes SQLite 30 us less, where its caches were used by others meanwhile."""

COMMIT_MESSAGE: Final = "INSERT OR ROLLBACK INTO commit_message VALUES (?, ?, ?, ?)"
COMMIT_DEFINITION: Final = "INSERT OR ROLLBACK INTO commit_definition VALUES (?, ?, ?, ?)"

_INSERTIONS: Final = tuple(
    (frozenset(view.columns), view.columns, view.insertion) for view in COMMIT_VIEWS
)


def create_commit_views(connection: sqlite3.Connection) -> None:
    """Prepare a connection for `commit`."""
    connection.executescript(
        "PRAGMA temp_store = MEMORY; CREATE TEMP TABLE released (message_id INTEGER);"
        + runs.SETTLED_RUNS
        + ALONE
        + "".join(view.definition for view in COMMIT_VIEWS)
    )


def commit(connection: sqlite3.Connection, arguments: Arguments) -> None:
    """Do all of it in one step: a transaction of its own, if none is open. Raises sqlite3.Error."""
    given = arguments.keys()
    for columns, order, insertion in _INSERTIONS:
        if columns >= given:
            connection.execute(insertion, [arguments.get(column) for column in order])
            return
    raise AssertionError(f"no such columns: {given - COLUMNS.keys()}")
