"""Large messages: written and read in place, gone with their rows, and the same as any other."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from amqpd_storage import sqlite_file
from amqpd_storage.doctor import examine
from amqpd_storage.entries import (
    LARGE_BYTES,
    Delay,
    DropQueue,
    DropRange,
    Release,
    Settle,
    storage_key,
)
from amqpd_storage.errors import DamagedStore
from amqpd_storage.records import encode_record
from amqpd_storage.rescue import new_store, rescue
from amqpd_storage.salvage import Salvage
from amqpd_storage.sqlite_delays import read_delays
from amqpd_storage.sqlite_reading import read_message_id_max, read_messages
from amqpd_storage.sqlite_tidying import tidy
from tests.storage.contents import (
    all_messages,
    backlogs,
    bodies,
    commit,
    enqueue,
    expiring,
    fill_store,
    make_content,
)

LARGE = os.urandom(LARGE_BYTES)
LARGER = os.urandom(3 * LARGE_BYTES + 1)
SMALL = LARGE[:-1]


def shared_rows(connection: sqlite3.Connection) -> list[int]:
    return [key for (key,) in connection.execute("SELECT message_id FROM message ORDER BY 1")]


def settle(queue_id: int, position: int, body: bytes, message_id: int = 0) -> Settle:
    return Settle(storage_key(queue_id, position), len(body), message_id)


def test_large_and_small_come_back_in_order(connection: sqlite3.Connection) -> None:
    content = make_content(LARGER, envelope=b"\x00\x01q", properties=b"\xff\x00")
    written = [SMALL, LARGE, b"", b"x", LARGER]
    commit(connection, *(enqueue(1, n, body) for n, body in enumerate(written)))
    commit(connection, enqueue(2, 1, content), expiring(2, 2, LARGE, 1_790_000_000_000))

    messages = all_messages(connection)

    assert [message.body for message in messages] == [*written, LARGER, LARGE]
    assert messages[-2][:4] == (storage_key(2, 1), 0, b"\x00\x01q", b"\xff\x00")
    assert [message.expires_ms for message in messages[-2:]] == [0, 1_790_000_000_000]
    assert {message.message_id for message in messages} == {0}
    assert backlogs(connection)[2][:2] == (2, len(LARGER) + len(LARGE))


def test_large_message_goes_with_its_row(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1, LARGE), enqueue(1, 2, LARGER), enqueue(1, 3, b"x"))
    commit(connection, settle(1, 1, LARGE), settle(1, 3, b"x"))
    assert bodies(connection) == {storage_key(1, 2): LARGER}
    assert len(shared_rows(connection)) == 1

    commit(connection, settle(1, 2, LARGER))

    assert shared_rows(connection) == []


def test_large_message_written_and_settled_at_once(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1, LARGE), settle(1, 1, LARGE))

    assert bodies(connection) == {}
    assert shared_rows(connection) == []


def test_place_of_a_large_message_is_used_again_in_one_batch(
    connection: sqlite3.Connection,
) -> None:
    commit(connection, enqueue(1, 1, LARGE))
    commit(connection, settle(1, 1, LARGE), enqueue(1, 1, LARGER))
    assert bodies(connection) == {storage_key(1, 1): LARGER}

    commit(connection, DropQueue(1), enqueue(1, 1, LARGE))
    assert bodies(connection) == {storage_key(1, 1): LARGE}

    commit(connection, settle(1, 1, LARGE), enqueue(1, 1, b"small"))
    assert bodies(connection) == {storage_key(1, 1): b"small"}
    assert shared_rows(connection) == []


@pytest.mark.parametrize("long", [False, True])
def test_large_messages_go_with_their_queue(connection: sqlite3.Connection, long: bool) -> None:
    commit(connection, *(enqueue(1, n, LARGE) for n in range(3)), enqueue(2, 1, LARGER))

    commit(connection, DropQueue(1, is_long=long))
    while tidy(connection):
        pass

    assert bodies(connection) == {storage_key(2, 1): LARGER}
    assert len(shared_rows(connection)) == 1


def test_purge_of_large_messages(connection: sqlite3.Connection) -> None:
    commit(connection, *(enqueue(1, n, LARGE) for n in range(1, 4)))

    commit(connection, DropRange(storage_key(1, 1), storage_key(1, 2), 2, 2 * len(LARGE)))
    while tidy(connection):
        pass

    assert bodies(connection) == {storage_key(1, 3): LARGE}
    assert len(shared_rows(connection)) == 1


def test_large_message_shared_by_queues_is_stored_once(connection: sqlite3.Connection) -> None:
    content = make_content(LARGE, message_id=7)
    commit(connection, enqueue(1, 1, content), enqueue(2, 1, content))

    assert [message[:2] for message in all_messages(connection)] == [
        (storage_key(1, 1), 7),
        (storage_key(2, 1), 7),
    ]
    assert shared_rows(connection) == [7]
    commit(connection, settle(1, 1, LARGE, 7))
    assert bodies(connection) == {storage_key(2, 1): LARGE}
    commit(connection, settle(2, 1, LARGE, 7))
    assert shared_rows(connection) == []


def test_ids_of_large_messages_are_nobodys_business(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1, LARGE))
    assert read_message_id_max(connection) == 0

    commit(connection, enqueue(1, 2, make_content(b"x", message_id=3)), enqueue(1, 3, LARGE))
    assert read_message_id_max(connection) == 3


def test_large_delayed_messages(connection: sqlite3.Connection) -> None:
    commit(
        connection,
        *(
            Delay(1, 1000 + n, n, make_content(body))
            for n, body in enumerate([LARGE, b"x", LARGER])
        ),
    )

    found, _ = read_delays(connection, 1, (-1, -1), 10)
    found += read_delays(connection, 1, (found[-1].due_ms, found[-1].sequence), 10)[0]

    assert [row.body for row in found] == [LARGE, b"x", LARGER]
    commit(connection, Release(1, 0), Release(1, 2))
    assert [row.body for row in read_delays(connection, 1, (-1, -1), 10)[0]] == [b"x"]


def test_large_row_of_an_older_store(connection: sqlite3.Connection) -> None:
    """They lay in the row itself."""
    key = storage_key(1, 1)
    commit(connection, enqueue(1, 1, b"x"))
    connection.execute(
        "UPDATE entry SET record = ? WHERE key = ?", (encode_record(make_content(LARGE)), key)
    )
    connection.execute("UPDATE backlog SET body_bytes = ?", (len(LARGE),))
    assert bodies(connection) == {key: LARGE}

    commit(connection, settle(1, 1, LARGE))

    assert bodies(connection) == {}
    assert backlogs(connection) == {}


def test_large_record_that_is_not_one_is_damage(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1, LARGE))
    connection.execute("UPDATE message SET record = zeroblob(?)", (2 * LARGE_BYTES,))
    with pytest.raises(DamagedStore, match="of the unknown kind 0"):
        all_messages(connection)
    assert not connection.in_transaction

    connection.execute("UPDATE message SET record = zeroblob(10)")
    with pytest.raises(DamagedStore, match="cut short"):
        all_messages(connection)


def test_large_message_that_is_missing_is_damage(connection: sqlite3.Connection) -> None:
    commit(connection, enqueue(1, 1, LARGE))
    connection.execute("DELETE FROM message")
    with pytest.raises(DamagedStore, match="which is missing"):
        all_messages(connection)


def test_a_failing_batch_leaves_nothing_of_a_large_message(
    connection: sqlite3.Connection,
) -> None:
    commit(connection, enqueue(1, 2, b"in the way"))
    with pytest.raises(sqlite3.IntegrityError):
        commit(connection, enqueue(1, 1, LARGE), enqueue(1, 2, b"late"))

    assert bodies(connection) == {storage_key(1, 2): b"in the way"}
    assert shared_rows(connection) == []
    assert not connection.in_transaction


def test_a_page_of_messages_ends_with_a_large_one(connection: sqlite3.Connection) -> None:
    body = bytes(5 * LARGE_BYTES)
    commit(connection, *(enqueue(1, n, b"x") for n in range(1, 10)), enqueue(1, 10, body))
    commit(connection, enqueue(1, 11, body), enqueue(1, 12, b"x"))

    sizes, after = [], -1
    while messages := read_messages(connection, after):
        sizes.append(len(messages))
        after = messages[-1].key

    assert sizes == [10, 1, 1]


def test_doctor_finds_a_store_with_large_messages_whole(tmp_path: Path) -> None:
    content = make_content(LARGER, message_id=4)
    fill_store(
        tmp_path,
        enqueue(1, 1, LARGE),
        expiring(1, 2, LARGER, 1_790_000_000_000),
        enqueue(1, 3, content),
        enqueue(2, 1, content),
    )

    found = examine(tmp_path / sqlite_file.FILE_NAME)

    assert found.first_problem is None
    assert [(queue.messages, queue.body_bytes) for queue in found.queues.values()] == [
        (3, len(LARGE) + 2 * len(LARGER)),
        (1, len(LARGER)),
    ]


@pytest.mark.parametrize("damaged", [False, True])
def test_recover_brings_large_messages_back(tmp_path: Path, damaged: bool) -> None:
    """Even if the rows of all queues are lost: they are by themselves, and tell where they were."""
    path, new = tmp_path / sqlite_file.FILE_NAME, tmp_path / "new.sqlite3"
    fill_store(tmp_path, enqueue(1, 1, LARGE), enqueue(1, 2, b"x"), enqueue(1, 3, LARGER))
    if damaged:
        connection = sqlite3.connect(path)
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'entry'"
        ((root,),) = connection.execute(query).fetchall()
        connection.close()
        with path.open("r+b") as file:
            file.seek((root - 1) * sqlite_file.PAGE_BYTES)
            file.write(bytes(sqlite_file.PAGE_BYTES))
    salvage = Salvage(path)
    with new_store(new) as connection:
        found = rescue(salvage, connection)
        expected = {storage_key(1, 1): LARGE, storage_key(1, 2): b"x", storage_key(1, 3): LARGER}
        if damaged:
            del expected[storage_key(1, 2)]
        assert bodies(connection) == expected
        assert len(shared_rows(connection)) == 2
        assert backlogs(connection)[1][1] == sum(map(len, expected.values()))
    salvage.close()
    assert bool(found.lost) == damaged
    assert found.placeless == 0
