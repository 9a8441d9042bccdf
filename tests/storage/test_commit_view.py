"""Views of a commit: whichever one a batch goes through, the store is the same afterwards."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable

import pytest

from amqpd_storage import commit_view
from amqpd_storage.changes import net_changes
from amqpd_storage.entries import (
    Delivered,
    DropDefinition,
    DropQueue,
    DropRange,
    Entry,
    PutDefinition,
    Settle,
)
from amqpd_storage.entries import storage_key as key
from amqpd_storage.runs import RUN_MESSAGES_MIN
from amqpd_storage.sqlite_file import open_in_memory
from amqpd_storage.sqlite_writing import write_batch, write_changes
from tests.storage.contents import batch_of, enqueue, expiring, make_content

TABLES = ("entry", "run", "message", "backlog", "dropped", "delivered", "definition")


def published() -> list[Entry]:
    return [enqueue(1, 5), enqueue(2, 7, b"another queue"), enqueue(3, 1)]


def acknowledged() -> list[Entry]:
    return [Settle(key(1, 1), 4), Settle(key(1, 2), 4), Delivered(1, 4)]


def runs() -> list[Entry]:
    return [enqueue(1, position) for position in range(5, 5 + RUN_MESSAGES_MIN)]


def definitions() -> list[Entry]:
    return [PutDefinition("queue", "b", b"new"), DropDefinition("queue", "a")]


def shared() -> list[Entry]:
    content = make_content(b"for two", message_id=9)
    return [enqueue(1, 5, content), enqueue(2, 5, content), Settle(key(2, 1), 6, message_id=1)]


def dropped() -> list[Entry]:
    return [DropQueue(2), DropRange(key(1, 1), key(1, 2), 2, 8)]


VIEW_OF: dict[str, tuple[Callable[[], list[Entry]], str]] = {
    "a message": (lambda: [enqueue(1, 5)], "commit_message"),
    "a queue's first": (lambda: [expiring(3, 1, b"expires", 9000)], "commit_message"),
    "a definition": (lambda: [PutDefinition("queue", "c", b"new")], "commit_definition"),
    "a definition anew": (lambda: [PutDefinition("queue", "b", b"new")], "commit_definition"),
    "a shared message": (
        lambda: [enqueue(4, 1, make_content(b"for one", message_id=9))],
        "commit_shared",
    ),
    "publishes": (published, "commit_publishes"),
    "runs": (runs, "commit_runs"),
    "acks": (acknowledged, "commit_acks"),
    "delivered": (lambda: [Delivered(1, 4)], "commit_acks"),
    "both": (lambda: published() + acknowledged(), "commit_messages"),
    "runs and acks": (lambda: runs() + acknowledged(), "commit_messages_and_runs"),
    "shared": (lambda: shared() + acknowledged(), "commit_shared"),
    "definitions": (definitions, "commit_definitions"),
    "dropped": (dropped, "commit_anything"),
    "all of it": (
        lambda: published() + acknowledged() + definitions() + shared()[2:] + dropped(),
        "commit_anything",
    ),
}


@pytest.mark.parametrize("kind", VIEW_OF)
def test_the_smallest_view_that_will_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, view = VIEW_OF[kind]
    statements: list[str] = []
    with contextlib.closing(store()) as connection:
        connection.set_trace_callback(statements.append)
        write_batch(connection, batch_of(*entries()), 2)
        connection.set_trace_callback(None)
        rows = contents(connection)
    assert f" {view} " in statements[0]
    assert len(set(statements)) == 1, "more than one step"
    monkeypatch.setattr(commit_view, "_INSERTIONS", commit_view._INSERTIONS[-1:])
    with contextlib.closing(store()) as connection:
        before = contents(connection)
        write_changes(connection, net_changes(batch_of(*entries())), 2)
        assert contents(connection) == rows != before


def test_every_column_has_a_view() -> None:
    assert set(commit_view.COMMIT_VIEWS[-1].columns) == commit_view.COLUMNS.keys()


def store() -> sqlite3.Connection:
    """With something in each table that there is."""
    connection = open_in_memory()
    content = make_content(b"shared", message_id=1)
    before: list[Entry] = [
        *(enqueue(1, position, b"body") for position in range(1, 5)),
        enqueue(2, 1, content),
        enqueue(4, 0, content),
        Delivered(2, 1),
        PutDefinition("queue", "a", b"old"),
        PutDefinition("queue", "b", b"old"),
    ]
    write_batch(connection, batch_of(*before), 1)
    return connection


def contents(connection: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    return {
        table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        for table in TABLES
    }
