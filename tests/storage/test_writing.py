"""Batches against a real SQLite: what the rows are afterwards."""

from __future__ import annotations

import sqlite3

import pytest

from amqpd.broker.messages import QueueMessage
from amqpd.commands import Target, make_message
from amqpd_storage import sqlite_writing
from amqpd_storage.entries import (
    ELIDED,
    PASSING_QUEUE_ID_MIN,
    POSITION_MAX,
    QUEUE_ID_MAX,
    Delivered,
    DropDefinition,
    DropDefinitions,
    DropQueue,
    DropRange,
    PutDefinition,
    Settle,
    storage_key,
)
from amqpd_storage.errors import DamagedStore
from amqpd_storage.sqlite_reading import (
    forget_passing,
    read_definitions,
    read_delivered,
    read_dropped_queues,
    read_message_id_max,
    read_messages,
)
from amqpd_storage.sqlite_tidying import SWEPT_ROWS, tidy
from amqpd_storage.sqlite_writing import write_batch
from tests.storage.contents import (
    all_messages,
    backlogs,
    batch_of,
    bodies,
    commit,
    enqueue,
    expiring,
    make_content,
    settle_range,
)


def tidied(connection: sqlite3.Connection) -> int:
    """Tidy up to the end; how many steps that took."""
    steps = 0
    while tidy(connection):
        steps += 1
    return steps


def count(connection: sqlite3.Connection, table: str) -> int:
    ((rows,),) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(rows)


def test_message_comes_back_byte_for_byte(connection: sqlite3.Connection) -> None:
    content = make_content(bytes(range(256)), envelope=b"\x00\x01q", properties=b"\xff\x00")

    commit(connection, enqueue(3, 9, content))

    (message,) = all_messages(connection)
    assert message == (storage_key(3, 9), 0, b"\x00\x01q", b"\xff\x00", bytes(range(256)), 0)


@pytest.mark.parametrize("body", [b"", b"\x00", b"x" * 3_000_000], ids=["empty", "zero", "large"])
def test_bodies_of_any_size(connection: sqlite3.Connection, body: bytes) -> None:
    commit(connection, enqueue(1, 1, body), enqueue(1, 2, b"next"))

    assert bodies(connection) == {storage_key(1, 1): body, storage_key(1, 2): b"next"}


def test_largest_key(connection: sqlite3.Connection) -> None:
    last = storage_key(QUEUE_ID_MAX, POSITION_MAX)
    commit(connection, enqueue(QUEUE_ID_MAX, POSITION_MAX), enqueue(QUEUE_ID_MAX, POSITION_MAX - 1))
    assert backlogs(connection) == {QUEUE_ID_MAX: (2, 8, POSITION_MAX)}

    commit(connection, Settle(last, 4))

    assert list(bodies(connection)) == [last - 1]


def test_settle_removes_the_row(connection: sqlite3.Connection) -> None:
    commit(connection, *(enqueue(1, position) for position in range(1, 6)))

    commit(connection, Settle(storage_key(1, 2), 4), Settle(storage_key(1, 5), 4))

    assert backlogs(connection) == {1: (3, 12, 5)}


def test_position_used_again_after_its_settle(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1, b"old"))

    commit(connection, Settle(storage_key(1, 1), 3), enqueue(1, 1, b"new"))

    assert bodies(connection) == {storage_key(1, 1): b"new"}


def test_neighbours_settled_together(connection: sqlite3.Connection) -> None:
    commit(connection, *(enqueue(1, position) for position in range(1, 7)), enqueue(2, 1))

    commit(connection, settle_range(1, 2, 5))

    assert list(bodies(connection)) == [storage_key(1, 1), storage_key(1, 6), storage_key(2, 1)]
    assert backlogs(connection) == {1: (2, 8, 6), 2: (1, 4, 1)}


def test_neighbours_settled_together_that_come_anew_or_came_just_now(
    connection: sqlite3.Connection,
) -> None:
    commit(connection, enqueue(1, 1), enqueue(1, 2))

    commit(connection, settle_range(1, 1, 2), enqueue(1, 1, b"anew"))
    commit(connection, enqueue(2, 1), enqueue(2, 2), enqueue(2, 3), settle_range(2, 1, 2))

    assert bodies(connection) == {storage_key(1, 1): b"anew", storage_key(2, 3): b"body"}
    assert backlogs(connection) == {1: (1, 4, 2), 2: (1, 4, 3)}


def test_row_enqueued_and_settled_in_one_batch(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1), Settle(storage_key(1, 1), 4))

    assert bodies(connection) == {}


def test_queue_dropped_and_its_id_used_again(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1, b"old"), enqueue(1, 2, b"old"), enqueue(2, 1, b"other"))
    commit(connection, Delivered(1, 3))

    commit(connection, DropQueue(1), enqueue(1, 1, b"new"))

    assert bodies(connection) == {storage_key(1, 1): b"new", storage_key(2, 1): b"other"}
    assert read_delivered(connection) == {}


def test_queue_filled_and_dropped_in_one_batch(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1, b"old"))

    commit(connection, enqueue(1, 2), Delivered(1, 2), enqueue(2, 1, b"other"), DropQueue(1))

    assert bodies(connection) == {storage_key(2, 1): b"other"}
    assert read_delivered(connection) == {}


def test_queue_dropped_between_two_lives_in_one_batch(connection: sqlite3.Connection) -> None:
    commit(
        connection,
        enqueue(1, 1, b"first life"),
        Delivered(1, 2),
        DropQueue(1),
        enqueue(1, 1, b"second life"),
        Delivered(1, 1),
        Settle(storage_key(1, 9), 4),
    )

    assert bodies(connection) == {storage_key(1, 1): b"second life"}
    assert read_delivered(connection) == {1: 1}


def test_message_to_ten_queues_is_stored_once(connection: sqlite3.Connection) -> None:
    content = make_content(b"news", message_id=42)
    copies = [enqueue(queue_id, 1, content) for queue_id in range(1, 11)]
    for copy in copies[::3]:
        copy.state = ELIDED

    commit(connection, *copies)

    kept = [2, 3, 5, 6, 8, 9]
    messages = all_messages(connection)
    assert [message.key for message in messages] == [storage_key(q, 1) for q in kept]
    assert {(message.message_id, message.body) for message in messages} == {(42, b"news")}
    assert messages[0].body is messages[-1].body
    assert count(connection, "message") == 1
    assert read_message_id_max(connection) == 42


def test_shared_message_is_dropped_with_its_last_row(connection: sqlite3.Connection) -> None:
    content = make_content(b"news", message_id=42)
    commit(connection, enqueue(1, 1, content), enqueue(2, 1, content))
    commit(connection, Settle(storage_key(1, 1), 4, 42))
    assert bodies(connection) == {storage_key(2, 1): b"news"}

    commit(connection, Settle(storage_key(2, 1), 4, 42))

    assert bodies(connection) == {}
    assert count(connection, "message") == 0


def test_shared_message_written_and_dropped_in_one_batch(connection: sqlite3.Connection) -> None:
    content = make_content(b"news", message_id=42)

    commit(connection, enqueue(1, 1, content), DropQueue(1))

    assert count(connection, "message") == 0


def test_last_delivered_mark_counts(connection: sqlite3.Connection) -> None:
    commit(connection, Delivered(1, 10), Delivered(2, 5), Delivered(1, 20))
    assert read_delivered(connection) == {1: 20, 2: 5}

    commit(connection, Delivered(1, 3))

    assert read_delivered(connection) == {1: 3, 2: 5}


def test_definitions_are_put_changed_and_dropped(connection: sqlite3.Connection) -> None:
    commit(
        connection,
        PutDefinition("vhost", "/", b"{}"),
        PutDefinition("queue", "//jobs", b"1"),
        PutDefinition("queue", "//jobs", b"2"),
        PutDefinition("exchange", "//gone", b""),
        DropDefinition("exchange", "//gone"),
        DropDefinition("queue", "//back"),
        PutDefinition("queue", "//back", b"\x00\xff"),
    )
    assert read_definitions(connection) == [
        ("queue", "//back", b"\x00\xff"),
        ("queue", "//jobs", b"2"),
        ("vhost", "/", b"{}"),
    ]

    commit(connection, PutDefinition("queue", "//jobs", b""), DropDefinition("queue", "//back"))

    assert read_definitions(connection) == [("queue", "//jobs", b""), ("vhost", "/", b"{}")]


def test_definitions_are_dropped_by_what_their_keys_begin_with(
    connection: sqlite3.Connection,
) -> None:
    names = ('["/","x","q",', '["/","x","q",1]', '["/","x","q","ä"]', '["/","x","q2",1]', '["/","x')
    commit(
        connection,
        *(PutDefinition("binding", name, b"1") for name in names),
        PutDefinition("queue", '["/","x","q",1]', b""),
    )

    commit(
        connection,
        PutDefinition("binding", '["/","x","q",2]', b"2"),
        DropDefinition("binding", '["/","x","q",1]'),
        DropDefinitions("binding", '["/","x","q",'),
        PutDefinition("binding", '["/","x","q",3]', b"3"),
    )

    assert read_definitions(connection) == [
        ("binding", '["/","x', b"1"),
        ("binding", '["/","x","q",3]', b"3"),
        ("binding", '["/","x","q2",1]', b"1"),
        ("queue", '["/","x","q",1]', b""),
    ]


@pytest.mark.parametrize("key", ["", "a\x00b", 'a"b\\', "Prüfung 🐇", "x" * 1000])
def test_definition_keys_of_any_kind(connection: sqlite3.Connection, key: str) -> None:
    commit(connection, PutDefinition("queue", key, b"1"), PutDefinition("queue", "b", b"2"))
    commit(connection, PutDefinition("queue", key, b"3"))
    assert set(read_definitions(connection)) == {("queue", key, b"3"), ("queue", "b", b"2")}

    commit(connection, DropDefinition("queue", key))

    assert read_definitions(connection) == [("queue", "b", b"2")]


def test_large_batch_is_one_transaction(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writing, "DATA_BYTES_MAX", 1000)
    shared = [make_content(b"s" * 400, message_id=n) for n in range(1, 6)]
    commit(connection, enqueue(8, 1, b"old"), enqueue(9, 1, b"old"))

    commit(
        connection,
        DropQueue(9),
        Settle(storage_key(8, 1), 3),
        *(enqueue(1, position, b"%d" % position * 100) for position in range(1, 100)),
        *(enqueue(9, content.message_id, content) for content in shared),
    )

    assert {queue: backlog.messages for queue, backlog in backlogs(connection).items()} == {
        1: 99,
        9: 5,
    }
    assert bodies(connection)[storage_key(1, 57)] == b"57" * 100
    assert not connection.in_transaction


@pytest.mark.parametrize("data_bytes_max", [1000, 1_000_000], ids=["many", "one"])
def test_failing_batch_leaves_nothing(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, data_bytes_max: int
) -> None:
    monkeypatch.setattr(sqlite_writing, "DATA_BYTES_MAX", data_bytes_max)
    commit(connection, enqueue(1, 1, b"kept"), enqueue(2, 1, b"taken"))
    fresh = [enqueue(1, position, b"x" * 300) for position in range(2, 20)]

    with pytest.raises(sqlite3.IntegrityError):
        commit(connection, Settle(storage_key(1, 1), 4), *fresh, enqueue(2, 1, b"twice"))

    assert bodies(connection) == {storage_key(1, 1): b"kept", storage_key(2, 1): b"taken"}
    assert not connection.in_transaction
    commit(connection, enqueue(3, 1))  # and the connection still works
    assert len(bodies(connection)) == 3


def test_same_batch_can_be_written_again(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1, b"in the way"))
    batch = batch_of(enqueue(1, 1, b"late"))
    with pytest.raises(sqlite3.IntegrityError):
        write_batch(connection, batch)
    commit(connection, Settle(storage_key(1, 1), 4))

    write_batch(connection, batch)

    assert bodies(connection) == {storage_key(1, 1): b"late"}


def test_messages_are_read_in_bounded_batches(connection: sqlite3.Connection) -> None:
    commit(connection, *(enqueue(1, n, b"x") for n in range(1, 2501)))
    commit(connection, *(enqueue(2, n, b"x" * 1_500_000) for n in range(1, 6)))

    sizes = []
    after = -1
    while messages := read_messages(connection, after):
        sizes.append(len(messages))
        after = messages[-1].key

    assert sizes == [1024, 1024, 455, 2]
    assert len(read_messages(connection, -1, rows_max=5000)) == 1024


def test_small_ones_end_where_large_ones_would(connection: sqlite3.Connection) -> None:
    """Up to 4 MB at once, though none of them is read by itself."""
    commit(connection, *(enqueue(1, n, b"x" * 12_000) for n in range(1, 601)))

    messages = read_messages(connection, -1)

    assert 4_000_000 < sum(len(message.body) for message in messages) < 4_300_000
    assert len(all_messages(connection)) == 600


@pytest.mark.parametrize("copies", [1, 3000])
def test_every_octet_of_a_message_comes_back(connection: sqlite3.Connection, copies: int) -> None:
    """Small ones are joined inside SQLite, as text."""
    octets = bytes(range(256)) * copies
    sent = [b"", b"\0", b"\0" + octets, octets + b"\0", b"\xff\xfe\0", b"\xc3", b"\x28" + octets]
    commit(connection, *(enqueue(1, n, body) for n, body in enumerate(sent)))
    commit(connection, enqueue(2, 1, make_content(octets[::-1], message_id=7)))

    assert [message.body for message in all_messages(connection)] == [*sent, octets[::-1]]


@pytest.mark.parametrize("missing", [(1,), (50,), (100,), (2, 3, 99)], ids=str)
def test_messages_with_gaps_between_them(
    connection: sqlite3.Connection, missing: tuple[int, ...]
) -> None:
    """Small ones in a row have the keys between the first and the last."""
    commit(connection, *(enqueue(1, n, b"%d" % n) for n in range(1, 101)))
    commit(connection, *(Settle(storage_key(1, n), len(b"%d" % n)) for n in missing))

    expected = {storage_key(1, n): b"%d" % n for n in range(1, 101) if n not in missing}
    assert bodies(connection) == expected


def test_neighbours_that_differ_in_one_thing(connection: sqlite3.Connection) -> None:
    """What stands before the body is not taken apart again where it is the same."""
    sent = [
        make_content(b"one", envelope=b"\x00\x01q", properties=b"\x10\x00\x02"),
        make_content(b"two", envelope=b"\x00\x01q", properties=b"\x10\x00\x02"),
        make_content(b"three", envelope=b"\x00\x01q", properties=b"\x10\x00\x02"),
        make_content(b"fours", envelope=b"\x00\x01r", properties=b"\x10\x00\x02"),
        make_content(b"fives", envelope=b"\x00\x01r", properties=b"\x10\x00\x01"),
        make_content(b"\x10\x00\x01si", envelope=b"\x00\x01r", properties=b""),
        make_content(b"", envelope=b"", properties=b""),
        make_content(b"", envelope=b"", properties=b""),
    ]
    commit(connection, *(enqueue(1, n, content) for n, content in enumerate(sent, 1)))
    commit(connection, *(expiring(2, n, b"x", 1_790_000_000_000 + n // 2) for n in range(4)))

    found = all_messages(connection)

    told = [(each.envelope, each.properties, each.body) for each in found[: len(sent)]]
    assert told == [(each.envelope, each.properties, each.body) for each in sent]
    assert [each.expires_ms - 1_790_000_000_000 for each in found[len(sent) :]] == [0, 0, 1, 1]


def test_messages_of_a_stretch_of_one_queue(connection: sqlite3.Connection) -> None:
    commit(connection, *(enqueue(queue, n) for queue in (1, 2, 3) for n in range(1, 10)))

    messages = read_messages(connection, storage_key(2, 3), storage_key(2, 6))

    assert [m.key for m in messages] == [storage_key(2, n) for n in (4, 5, 6)]


def test_missing_shared_message_is_damage(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1, make_content(b"news", message_id=7)))
    connection.execute("DELETE FROM message")

    with pytest.raises(DamagedStore, match="refers to message 7, which is missing"):
        all_messages(connection)


def test_what_was_passing_is_forgotten(connection: sqlite3.Connection) -> None:
    passing = PASSING_QUEUE_ID_MIN + 1
    commit(connection, *(enqueue(queue_id, n) for queue_id in (1, passing) for n in range(1, 4)))

    forget_passing(connection)

    assert set(backlogs(connection)) == {1}
    assert read_dropped_queues(connection) == {passing}
    assert len(bodies(connection)) == 3
    assert tidied(connection)
    assert read_dropped_queues(connection) == set()
    assert count(connection, "entry") == 3


def test_long_queue_goes_step_by_step(connection: sqlite3.Connection) -> None:
    shared = make_content(b"news", message_id=1)
    also_elsewhere = make_content(b"news", message_id=2)
    commit(
        connection,
        *(enqueue(1, n) for n in range(1, 20_000, 2)),  # each has a row of its own
        enqueue(1, 20_000, shared),
        enqueue(1, 20_001, also_elsewhere),
        enqueue(2, 1, also_elsewhere),
    )

    commit(connection, DropQueue(1, is_long=True))

    assert list(bodies(connection)) == [storage_key(2, 1)]
    assert set(backlogs(connection)) == {2}
    assert count(connection, "entry") == 10_003
    assert tidied(connection) >= 3
    assert count(connection, "entry") == 1
    assert [row for (row,) in connection.execute("SELECT message_id FROM message")] == [2]


def test_purge_of_what_is_on_disk(connection: sqlite3.Connection) -> None:
    commit(connection, *(enqueue(1, n) for n in range(1, 10)))

    commit(connection, DropRange(storage_key(1, 4), storage_key(1, 8), 5, 20))
    commit(connection, enqueue(1, 10))

    assert list(bodies(connection)) == [storage_key(1, n) for n in (1, 2, 3, 9, 10)]
    assert backlogs(connection) == {1: (5, 20, 10)}
    assert tidied(connection) == 1
    assert list(bodies(connection)) == [storage_key(1, n) for n in (1, 2, 3, 9, 10)]


def test_range_of_a_queue_that_is_dropped_with_it(connection: sqlite3.Connection) -> None:
    commit(connection, *(enqueue(1, n) for n in range(1, 10)))

    commit(
        connection,
        DropRange(storage_key(1, 4), storage_key(1, 8), 5, 20),
        DropQueue(1, is_long=True),
    )

    assert bodies(connection) == {}
    assert backlogs(connection) == {}
    tidied(connection)
    assert count(connection, "entry") == 0


def test_range_that_begins_where_a_step_ends(connection: sqlite3.Connection) -> None:
    rows = SWEPT_ROWS + 5
    commit(connection, *(enqueue(1, 2 * n) for n in range(1, rows + 1)))
    first, last = storage_key(1, 2 * SWEPT_ROWS + 2), storage_key(1, 2 * rows)
    commit(connection, DropRange(first, last, 5, 5 * len(b"message")))
    commit(connection, DropQueue(1, is_long=True))

    assert tidied(connection)
    assert count(connection, "entry") == 0
    assert read_dropped_queues(connection) == set()


def test_broker_may_extend_an_enqueue(connection: sqlite3.Connection) -> None:
    published = make_message(
        1, Target("", "q", b"\x00\x01q", False, False), b"", b"body", True, False
    )
    message = QueueMessage(1, published)
    message.key = storage_key(1, 1)

    commit(connection, message)

    assert bodies(connection) == {storage_key(1, 1): b"body"}
