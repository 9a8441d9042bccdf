"""Runs: rows that hold several messages, settled bit by bit, and what is read of them."""

from __future__ import annotations

import itertools
import sqlite3
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqpd_storage import commit_arguments, sqlite_tidying
from amqpd_storage.changes import key_ranges
from amqpd_storage.entries import (
    POSITION_MAX,
    DropQueue,
    DropRange,
    Entry,
    Settle,
    StoredMessage,
    storage_key,
)
from amqpd_storage.errors import DamagedStore
from amqpd_storage.records import decode_records, encode_record, run_head
from amqpd_storage.runs import (
    RECORD_BYTES_MAX,
    RUN_BYTES_MAX,
    RUN_MESSAGES_MAX,
    RUN_MESSAGES_MIN,
    KeyRanges,
    read_runs,
)
from amqpd_storage.sqlite_file import open_in_memory
from amqpd_storage.sqlite_reading import read_messages
from tests.storage.contents import (
    all_messages,
    backlogs,
    bodies,
    commit,
    enqueue,
    expiring,
    make_content,
)

QUEUE = 3
LAST_POSITION = 60


def key(position: int) -> int:
    return storage_key(QUEUE, position)


def rows(connection: sqlite3.Connection) -> list[int]:
    """Positions of the rows of the queue."""
    return [key & POSITION_MAX for (key,) in connection.execute("SELECT key FROM entry")]


def settled(connection: sqlite3.Connection) -> list[list[int]]:
    """Positions that are settled within runs."""
    gone = []
    for run in read_runs(connection).values():
        keys = run.settled_keys()
        assert run.remaining == run.last - run.first + 1 - len(keys) > 0
        gone += [[key & POSITION_MAX for key in each] for each in key_ranges(keys)]
    return gone


def positions(connection: sqlite3.Connection) -> list[int]:
    """Positions of the messages of the queue, which agree with what the store counts."""
    found = [message.key & POSITION_MAX for message in all_messages(connection)]
    assert sum(backlog.messages for backlog in backlogs(connection).values()) == len(found)
    return found


def publish(connection: sqlite3.Connection, first: int, last: int) -> None:
    commit(connection, *(enqueue(QUEUE, n, b"%d" % n) for n in range(first, last + 1)))


def settle(connection: sqlite3.Connection, *each: int) -> None:
    commit(connection, *(Settle(key(n), len(b"%d" % n)) for n in each))


# --- what becomes a run ----------------------------------------------------------------------


def test_neighbours_of_one_batch_are_one_row(connection: sqlite3.Connection) -> None:
    publish(connection, 1, 20)

    assert rows(connection) == [1]
    assert bodies(connection) == {key(n): b"%d" % n for n in range(1, 21)}


def test_few_neighbours_have_rows_of_their_own(connection: sqlite3.Connection) -> None:
    publish(connection, 1, RUN_MESSAGES_MIN - 1)

    assert rows(connection) == list(range(1, RUN_MESSAGES_MIN))


def test_queues_in_turns_have_runs_of_their_own(connection: sqlite3.Connection) -> None:
    commit(connection, *(enqueue(queue, n) for n in range(1, 11) for queue in (QUEUE, QUEUE + 1)))

    assert rows(connection) == [1, 1]
    assert len(bodies(connection)) == 20


def test_a_gap_ends_a_run(connection: sqlite3.Connection) -> None:
    commit(connection, *(enqueue(QUEUE, n) for n in (*range(1, 11), *range(12, 22))))

    assert rows(connection) == [1, 12]


def test_a_message_shared_with_another_queue_ends_a_run(connection: sqlite3.Connection) -> None:
    shared = make_content(b"shared", message_id=1)
    commit(
        connection,
        *(enqueue(QUEUE, n, shared if n == 11 else b"own") for n in range(1, 22)),
        enqueue(QUEUE + 1, 1, shared),
    )

    assert rows(connection) == [1, 11, 12, 1]
    assert [message.body for message in all_messages(connection)].count(b"shared") == 2


def test_larger_messages_are_in_no_run(connection: sqlite3.Connection) -> None:
    large = b"x" * RECORD_BYTES_MAX
    commit(connection, *(enqueue(QUEUE, n, large if n == 11 else b"small") for n in range(1, 22)))

    assert rows(connection) == [1, 11, 12]
    assert bodies(connection)[key(11)] == large


def test_runs_end_with_so_many_messages_or_octets(connection: sqlite3.Connection) -> None:
    publish(connection, 1, RUN_MESSAGES_MAX + 10)
    assert rows(connection) == [1, RUN_MESSAGES_MAX + 1]

    body = b"x" * 4000
    commit(connection, *(enqueue(QUEUE + 1, n, body) for n in range(1, 41)))
    sizes = [size for (size,) in connection.execute("SELECT length(record) FROM entry")]
    assert max(sizes) <= RUN_BYTES_MAX + len(run_head(1))
    assert len(sizes) == 2 + 3


def test_the_last_position_of_a_queue_and_the_first_of_the_next(
    connection: sqlite3.Connection,
) -> None:
    commit(
        connection,
        *(enqueue(QUEUE, POSITION_MAX - n) for n in reversed(range(10))),
        *(enqueue(QUEUE + 1, n) for n in range(10)),
    )

    assert rows(connection) == [POSITION_MAX - 9, 0]
    commit(connection, DropQueue(QUEUE))
    assert rows(connection) == [0]


def test_messages_that_expire_do_so_one_by_one(connection: sqlite3.Connection) -> None:
    commit(connection, *(expiring(QUEUE, n, b"soon", 1000 * (n % 3)) for n in range(1, 21)))

    assert rows(connection) == [1]
    assert [message.expires_ms for message in all_messages(connection)] == [
        1000 * (n % 3) for n in range(1, 21)
    ]


# --- what goes -------------------------------------------------------------------------------


def test_the_row_goes_with_its_last_message(connection: sqlite3.Connection) -> None:
    publish(connection, 1, 10)

    settle(connection, 2, 3, 7)
    assert (rows(connection), settled(connection)) == ([1], [[2, 3], [7, 7]])
    assert positions(connection) == [1, 4, 5, 6, 8, 9, 10]

    settle(connection, 1, 4, 5, 6, 8, 9)
    assert positions(connection) == [10]

    settle(connection, 10)
    assert (rows(connection), settled(connection)) == ([], [])


def test_acknowledged_in_order_across_rows(connection: sqlite3.Connection) -> None:
    publish(connection, 1, 30)
    publish(connection, 31, 33)
    publish(connection, 34, 60)

    settle(connection, *range(1, 41))
    assert (rows(connection), settled(connection)) == ([34], [[34, 40]])
    assert positions(connection) == list(range(41, 61))

    settle(connection, *range(41, 61))
    assert (rows(connection), settled(connection)) == ([], [])


def test_positions_used_again_once_the_queue_is_empty(connection: sqlite3.Connection) -> None:
    publish(connection, 1, 10)
    settle(connection, 4)

    commit(
        connection,
        *(Settle(key(n), len(b"%d" % n)) for n in range(1, 11) if n != 4),
        *(enqueue(QUEUE, n, b"new") for n in range(1, 13)),
    )

    assert bodies(connection) == {key(n): b"new" for n in range(1, 13)}
    assert settled(connection) == []


@pytest.mark.parametrize("is_long", [False, True])
def test_a_deleted_queue_leaves_nothing(connection: sqlite3.Connection, is_long: bool) -> None:
    publish(connection, 1, 40)
    settle(connection, 2, 20)
    commit(connection, *(enqueue(QUEUE + 1, n) for n in range(1, 11)), Settle(key(3), 1))

    commit(connection, DropQueue(QUEUE, is_long))
    assert positions(connection) == list(range(1, 11))
    while sqlite_tidying.tidy(connection):
        pass

    assert (rows(connection), settled(connection)) == ([1], [])


def test_a_purge_leaves_what_it_does_not_name(connection: sqlite3.Connection) -> None:
    """The range begins in one run and ends in another, and some of it was settled before."""
    publish(connection, 1, 20)
    publish(connection, 21, 40)
    publish(connection, 41, 60)
    settle(connection, 1, 12, 25, 48, 60)
    expected = [*range(2, 10), *range(51, 60)]
    octets = sum(len(b"%d" % n) for n in range(10, 51) if n not in (12, 25, 48))

    commit(connection, DropRange(key(10), key(50), 38, octets))

    assert positions(connection) == expected
    while sqlite_tidying.tidy(connection):
        assert positions(connection) == expected
    assert rows(connection) == [1, 41]
    assert settled(connection) == [[1, 1], [10, 20], [41, 50], [60, 60]]
    settle(connection, *expected)
    assert (rows(connection), settled(connection)) == ([], [])


@pytest.mark.parametrize("next_body", [b"small", b"x" * 5000, b"x" * 2_000_000])
def test_read_on_behind_a_run_of_which_nothing_is_left(
    connection: sqlite3.Connection, next_body: bytes
) -> None:
    publish(connection, 1, 10)
    commit(connection, enqueue(QUEUE, 11, next_body))
    settle(connection, 9, 10)

    (message,) = read_messages(connection, key(8), rows_max=1)

    assert (message.key, message.body) == (key(11), next_body)


# --- any history -----------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 25), st.sampled_from([0, 1, 200, 5000])),
        st.tuples(st.just("settle"), st.integers(0, 30), st.integers(1, 15)),
        st.tuples(st.just("settle every other"), st.integers(0, 30), st.integers(1, 15)),
        st.tuples(st.just("purge"), st.integers(0, 30), st.integers(1, 30)),
        st.tuples(st.just("tidy"), st.just(0), st.just(0)),
    ),
    max_size=14,
)


def entries_of(
    step: tuple[str, int, int], messages: dict[int, bytes], next_position: int
) -> list[Entry]:
    """What a step says to the journal; `messages`, by position, are those of afterwards."""
    what, where, count = step
    if what == "publish":
        found = {next_position + n: b"x" * (count * (n % 5 != 4)) for n in range(where)}
        messages.update(found)
        return [enqueue(QUEUE, position, body) for position, body in found.items()]
    chosen = sorted(messages)[where : where + count]
    if what == "settle every other":
        chosen = chosen[::2]
    gone = [(position, len(messages.pop(position))) for position in chosen]
    if what.startswith("settle"):
        return [Settle(key(position), octets) for position, octets in gone]
    if what == "purge" and gone:
        octets = sum(each for _, each in gone)
        return [DropRange(key(gone[0][0]), key(gone[-1][0]), len(gone), octets)]
    return []


@settings(max_examples=400, deadline=None)
@given(
    STEPS, st.sampled_from([1, 2, 5]), st.sampled_from([1, 2, 50]), st.sampled_from([1, 2, 5, 1024])
)
def test_any_history_leaves_what_was_not_settled(
    steps: list[tuple[str, int, int]], fewest: int, swept_rows: int, page_rows: int
) -> None:
    connection = open_in_memory()
    messages: dict[int, bytes] = {}
    next_position = 1
    with (
        mock.patch.object(commit_arguments, "RUN_MESSAGES_MIN", fewest),
        mock.patch.object(sqlite_tidying, "SWEPT_ROWS", swept_rows),
    ):
        for step in steps:
            if step[0] == "tidy":
                sqlite_tidying.tidy(connection)
            elif entries := entries_of(step, messages, next_position):
                commit(connection, *entries)
            next_position = max([next_position - 1, *messages]) + 1
            check(connection, messages, page_rows)
        while sqlite_tidying.tidy(connection):
            check(connection, messages, page_rows)
    for each in sorted(messages, reverse=True):
        commit(connection, Settle(key(each), len(messages[each])))
    assert (rows(connection), settled(connection)) == ([], [])
    connection.close()


def check(connection: sqlite3.Connection, messages: dict[int, bytes], page_rows: int) -> None:
    """The store has these messages, from wherever one begins to read, and counts them."""
    alive = sorted(messages)
    found: list[StoredMessage] = []
    while page := read_messages(connection, found[-1].key if found else -1, rows_max=page_rows):
        assert len(page) <= page_rows
        found += page
    assert {each.key & POSITION_MAX: each.body for each in found} == messages
    assert [each.key & POSITION_MAX for each in found] == alive
    backlog = backlogs(connection).get(QUEUE, (0, 0))
    assert backlog[:2] == (len(alive), sum(map(len, messages.values())))
    ends = range(0, max(alive, default=0) + 2, 7)
    for after in ends:
        for last in (after + 1, after + 9, POSITION_MAX):
            page = read_messages(connection, key(after), key(last), page_rows)
            expected = [each for each in alive if after < each <= last]
            assert [each.key & POSITION_MAX for each in page] == expected[: len(page)]
            assert bool(page) == bool(expected)
            assert connection.in_transaction is False


# --- octets ----------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_the_keys_that_they_were_made_of(keys: set[int]) -> None:
    ranges = key_ranges(keys)

    assert [n for first, last in ranges for n in range(first, last + 1)] == sorted(keys)
    assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(ranges))
    found = KeyRanges((first, last) for first, last in ranges)
    assert {n for n in range(-1, 63) if n in found} == keys


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20), st.data())
def test_a_cut_run_is_refused(contents: list[bytes], data: st.DataObject) -> None:
    records = [encode_record(make_content(body)) for body in contents]
    row = run_head(len(records)) + b"".join(records)
    assert [message.body for message in decode_records(row, (7,))] == contents
    cut = data.draw(st.integers(0, len(row) - 1))

    with pytest.raises(DamagedStore):
        decode_records(row[:cut], (7,))


@pytest.mark.parametrize(
    "head", [b"\x03000", b"\x03 12", b"\x03-01", b"\x031", b"\x03\xff\xff\xff"]
)
def test_a_run_that_does_not_say_how_many_is_refused(head: bytes) -> None:
    with pytest.raises(DamagedStore, match="row 7"):
        decode_records(head + encode_record(make_content(b"body")), (7,))
