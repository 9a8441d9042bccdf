"""What is gone is deleted bit by bit, and the space it took goes back to the file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from amqpd_storage import sqlite_file, sqlite_tidying
from amqpd_storage.entries import DropRange, Settle, storage_key
from tests.storage.contents import bodies, commit, enqueue


def test_drained_store_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_tidying, "KEPT_FREE_PAGES", 10)
    path = tmp_path / "amqpd.sqlite3"
    connection = sqlite_file.open_connection(path, "normal")
    commit(connection, *(enqueue(1, n, b"x" * 5000) for n in range(1, 1001)))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    filled = path.stat().st_size
    commit(connection, *(Settle(storage_key(1, n), 5000) for n in range(1, 1000)))

    steps = 0
    while sqlite_tidying.tidy(connection):
        steps += 1

    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert 1 < steps <= filled // sqlite_file.PAGE_BYTES // sqlite_tidying.FREED_PAGES + 1
    assert path.stat().st_size < filled / 20
    assert list(bodies(connection)) == [storage_key(1, 1000)]
    connection.close()


def test_store_that_is_filled_and_drained_keeps_its_pages(tmp_path: Path) -> None:
    connection = sqlite_file.open_connection(tmp_path / "amqpd.sqlite3", "normal")
    commit(connection, *(enqueue(1, n, b"x" * 5000) for n in range(1, 1001)))
    commit(connection, *(Settle(storage_key(1, n), 5000) for n in range(1, 1001)))

    assert not sqlite_tidying.tidy(connection)
    connection.close()


def test_what_does_not_fit_one_step_is_gone_from_the_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_tidying, "SWEPT_ROWS", 10)
    connection = sqlite_file.open_connection(tmp_path / "amqpd.sqlite3", "normal")
    every_other = range(2, 202, 2)  # so that each has a row of its own
    commit(connection, *(enqueue(1, n) for n in every_other))
    commit(connection, DropRange(storage_key(1, 11), storage_key(1, 191), 90, 360))

    while True:
        assert len(bodies(connection)) == 10
        if not sqlite_tidying.tidy(connection):
            break

    ((rows,),) = connection.execute("SELECT count(*) FROM entry").fetchall()
    assert rows == 10
    connection.close()


def test_a_step_takes_a_few_large_rows_or_many_small_ones(tmp_path: Path) -> None:
    connection = sqlite_file.open_connection(tmp_path / "amqpd.sqlite3", "normal")
    commit(connection, *(enqueue(1, n, b"x" * 1000) for n in range(1, 20_001)))
    commit(connection, DropRange(storage_key(1, 1), storage_key(1, 20_000), 20_000, 20_000_000))

    steps = 0
    while sqlite_tidying.sweep(connection):
        steps += 1

    assert steps == 20_000 * 1022 // sqlite_tidying.SWEPT_BYTES + 1
    assert not bodies(connection)
    connection.close()
