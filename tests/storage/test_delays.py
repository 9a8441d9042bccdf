"""Messages that wait, against a real SQLite: what the rows are, and how they are read."""

from __future__ import annotations

import random
import sqlite3

import pytest

from amqpd_storage import sqlite_delays, sqlite_writing
from amqpd_storage.entries import Content, Delay, DropDelays, Release, StoredDelay, StoredDelays
from amqpd_storage.errors import DamagedStore
from amqpd_storage.sqlite_delays import (
    count_delays,
    fill_delay_counts,
    read_delay_counts,
    read_delays,
    sweep_delays,
)
from amqpd_storage.sqlite_tidying import tidy
from tests.storage.contents import commit, make_content

FIRST = (-1, -1)


def delay(sequence: int, due_ms: int, body: bytes = b"", exchange_id: int = 1) -> Delay[Content]:
    return Delay(exchange_id, due_ms, sequence, make_content(body or b"%d" % sequence))


def all_delays(
    connection: sqlite3.Connection, exchange_id: int = 1, rows_max: int = 3
) -> list[StoredDelay]:
    """Everything, read bit by bit."""
    found: list[StoredDelay] = []
    after, at_end = FIRST, False
    while not at_end:
        rows, at_end = read_delays(connection, exchange_id, after, rows_max)
        found += rows
        after = (*rows[-1][:2],) if rows else after
    return found


def places(rows: list[StoredDelay]) -> list[tuple[int, int]]:
    return [(row.due_ms, row.sequence) for row in rows]


def test_rows_come_by_due_time_then_arrival(connection: sqlite3.Connection) -> None:
    chance = random.Random(5)
    expected = []
    for sequence in range(1, 200):
        due_ms = 1_780_000_000_000 + chance.randrange(20)
        commit(connection, delay(sequence, due_ms), delay(sequence + 1000, due_ms, exchange_id=2))
        expected.append((due_ms, sequence))
    for rows_max in (1, 3, 50, 1000):
        found = all_delays(connection, rows_max=rows_max)
        assert places(found) == sorted(expected)
        assert [row.body for row in found] == [b"%d" % row.sequence for row in found]
        assert found[0].envelope == b"\x03log\x04info"
        assert found[0].properties == b"\x10\x00\x02"
    assert read_delay_counts(connection) == StoredDelays({1: 199, 2: 199}, 2, 1199)


def test_many_of_one_moment_are_found_in_the_index(connection: sqlite3.Connection) -> None:
    """Not walked from the first one for every read: both halves start at their place."""
    commit(connection, *(delay(sequence, 1000) for sequence in range(1, 50)))
    plan = connection.execute(
        "EXPLAIN QUERY PLAN " + sqlite_delays._NEXT,
        {"exchange_id": 1, "due_ms": 1000, "sequence": 20, "rows_max": 3},
    ).fetchall()
    searches = [row[3] for row in plan if "delayed" in row[3]]
    assert searches == [
        "SEARCH delayed USING INDEX delayed_due (exchange_id=? AND due_ms=? AND rowid>?)",
        "SEARCH delayed USING INDEX delayed_due (exchange_id=? AND due_ms>?)",
    ]
    rows, at_end = read_delays(connection, 1, (1000, 20), 3)
    assert places(rows) == [(1000, 21), (1000, 22), (1000, 23)]
    assert not at_end


def test_the_last_ones_say_so(connection: sqlite3.Connection) -> None:
    assert read_delays(connection, 1, FIRST, 3) == ([], True)
    commit(connection, delay(1, 10), delay(2, 20))
    assert read_delays(connection, 1, FIRST, 3)[1]
    # A read of exactly so many does not know yet.
    assert not read_delays(connection, 1, FIRST, 2)[1]
    assert read_delays(connection, 1, (20, 2), 2) == ([], True)


@pytest.mark.parametrize("size", [400_000, 15_000])
def test_a_read_ends_with_so_many_bytes(connection: sqlite3.Connection, size: int) -> None:
    """Large ones are read one by one, small ones joined: the same comes out."""
    count = 3 * sqlite_delays.READ_BYTES_MAX // size
    bodies = {sequence: random.Random(sequence).randbytes(size) for sequence in range(1, count + 1)}
    for sequence, body in bodies.items():
        commit(connection, delay(sequence, sequence, body))
    rows, at_end = read_delays(connection, 1, FIRST, 1000)
    weight = sum(len(row.body) for row in rows)
    assert weight - size <= sqlite_delays.READ_BYTES_MAX <= weight + size
    assert not at_end
    assert {row.sequence: row.body for row in all_delays(connection, rows_max=1000)} == bodies


def test_released_and_dropped(connection: sqlite3.Connection) -> None:
    commit(connection, *(delay(sequence, 100 - sequence) for sequence in range(1, 11)))
    commit(connection, delay(11, 5, exchange_id=2), Release(1, 3), Release(1, 4))
    assert read_delay_counts(connection) == StoredDelays({1: 8, 2: 1}, 2, 11)
    assert count_delays(connection) == {1: 8, 2: 1}
    commit(connection, delay(12, 5), DropDelays(1), delay(13, 6, exchange_id=2))
    assert read_delay_counts(connection) == StoredDelays({2: 2}, 2, 13)
    assert count_delays(connection) == {2: 2}
    assert [row.sequence for row in all_delays(connection, 2)] == [11, 13]


def test_what_was_never_written_leaves_no_trace(connection: sqlite3.Connection) -> None:
    commit(connection, delay(1, 5), Release(1, 1))
    commit(connection, delay(2, 5, exchange_id=2), DropDelays(2))
    assert read_delay_counts(connection) == StoredDelays({}, 1, 0)
    assert connection.execute("SELECT count(*) FROM delayed").fetchall() == [(0,)]


def test_rows_of_an_exchange_that_is_gone_are_swept_away(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_delays, "SWEPT_ROWS", 4)
    commit(connection, *(delay(sequence, sequence) for sequence in range(1, 11)))
    commit(connection, delay(11, 5, exchange_id=2), DropDelays(1))
    counts = []
    while tidy(connection):
        counts += connection.execute("SELECT count(*) FROM delayed").fetchone()
    assert counts == [7, 3, 1]
    assert not sweep_delays(connection)
    assert connection.execute("SELECT * FROM delayed_count").fetchall() == [(2, 1, 0)]


def test_ids_of_what_is_still_to_be_swept_are_in_use(connection: sqlite3.Connection) -> None:
    commit(connection, delay(1, 5, exchange_id=7))
    commit(connection, DropDelays(7))
    assert read_delay_counts(connection) == StoredDelays({}, 7, 1)


def test_a_batch_in_several_statements(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writing, "DATA_BYTES_MAX", 500)
    commit(connection, *(delay(sequence, 1, b"x" * 300) for sequence in range(1, 9)))
    assert [row.sequence for row in all_delays(connection)] == list(range(1, 9))
    assert read_delay_counts(connection).messages == {1: 8}


def test_counts_can_be_made_anew(connection: sqlite3.Connection) -> None:
    commit(connection, *(delay(sequence, 1, exchange_id=sequence % 3) for sequence in range(1, 9)))
    before = read_delay_counts(connection)
    connection.execute("DELETE FROM delayed_count")
    fill_delay_counts(connection)
    assert read_delay_counts(connection) == before


@pytest.mark.parametrize("record", [b"", b"\x01", b"\x07" + b"\0" * 14, "text"])
def test_a_record_that_is_none_is_damage(
    connection: sqlite3.Connection, record: bytes | str
) -> None:
    commit(connection, delay(1, 5))
    connection.execute("INSERT INTO delayed VALUES (2, 1, 6, ?)", (record,))
    with pytest.raises(DamagedStore):
        read_delays(connection, 1, FIRST, 10)


def test_a_sequence_is_not_used_twice(connection: sqlite3.Connection) -> None:
    commit(connection, delay(1, 5))
    with pytest.raises(sqlite3.IntegrityError):
        commit(connection, delay(1, 6), delay(2, 7))
    assert places(all_delays(connection)) == [(5, 1)]
