"""Messages as the broker would make them, and the shortest way through the journal and back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from amqpd_storage.entries import (
    Backlog,
    Content,
    Enqueue,
    Entry,
    Settle,
    StoredMessage,
    storage_key,
)
from amqpd_storage.journal import Batch, Journal
from amqpd_storage.sqlite_engine import SQLiteStore, open_store
from amqpd_storage.sqlite_file import PAGE_BYTES
from amqpd_storage.sqlite_reading import count_backlogs, read_backlogs, read_messages
from amqpd_storage.sqlite_writing import write_batch

T = TypeVar("T")

ENVELOPE = b"\x03log\x04info"


def make_content(
    body: bytes,
    *,
    message_id: int = 0,
    envelope: bytes = ENVELOPE,
    properties: bytes = b"\x10\x00\x02",
) -> Content:
    """A published message."""
    content = Content()
    content.message_id = message_id
    content.stored = False
    content.envelope = envelope
    content.properties = properties
    content.body = body
    return content


def enqueue(queue_id: int, position: int, content: Content | bytes = b"body") -> Enqueue[Content]:
    if isinstance(content, bytes):
        content = make_content(content)
    return Enqueue(storage_key(queue_id, position), content)


def settle_range(queue_id: int, first: int, last: int, body: bytes = b"body") -> Settle:
    """Of neighbours with such a body each."""
    entry = Settle(storage_key(queue_id, first), len(body))
    for position in range(first + 1, last + 1):
        assert entry.extend(storage_key(queue_id, position), len(body))
    return entry


def expiring(queue_id: int, position: int, body: bytes, expires_ms: int) -> Enqueue[Content]:
    entry = enqueue(queue_id, position, body)
    entry.expires_ms = expires_ms
    return entry


def batch_of(*entries: Entry) -> Batch:
    journal = Journal()
    journal.append_all(list(entries))
    batch = journal.take()
    assert batch is not None
    return batch


def commit(connection: sqlite3.Connection, *entries: Entry) -> None:
    """One transaction with these entries."""
    write_batch(connection, batch_of(*entries))


class Found(NamedTuple):
    """A message that the store has."""

    key: int
    message_id: int
    envelope: bytes
    properties: bytes
    body: bytes
    expires_ms: int

    @classmethod
    def of(cls, stored: StoredMessage) -> Found:
        return cls(*(getattr(stored, name) for name in cls._fields))


def all_messages(connection: sqlite3.Connection) -> list[Found]:
    found: list[Found] = []
    while more := read_messages(connection, found[-1].key if found else -1):
        found += map(Found.of, more)
    return found


def backlogs(connection: sqlite3.Connection) -> dict[int, Backlog]:
    """What the store says of its queues that have messages; it has to be what there is."""
    known = {queue: backlog for queue, backlog in read_backlogs(connection).items() if backlog[0]}
    counted = count_backlogs(connection)
    assert {queue: backlog[:2] for queue, backlog in known.items()} == {
        queue: backlog[:2] for queue, backlog in counted.items()
    }
    assert all(known[queue].last >= backlog.last for queue, backlog in counted.items())
    return known


def bodies(connection: sqlite3.Connection) -> dict[int, bytes]:
    return {message.key: message.body for message in all_messages(connection)}


async def stored_messages(store: SQLiteStore) -> list[Found]:
    found: list[Found] = []
    while more := await store.read_messages(found[-1].key if found else -1):
        found += map(Found.of, more)
    return found


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def fill_store(directory: Path, *entries: Entry) -> None:
    """A data directory with these entries, closed cleanly."""

    async def fill() -> None:
        async with await open_store(directory) as store:
            await store.write(batch_of(*entries))

    run(fill())


def damage_page(path: Path, text: bytes) -> None:
    """Overwrite the page of this file that holds the text; the first one, if there are several.

    Not with zeros: of the last page of a record those are no damage that SQLite could see.
    """
    octets = bytearray(path.read_bytes())
    at = octets.index(text) // PAGE_BYTES * PAGE_BYTES
    octets[at : at + PAGE_BYTES] = b"\xa5" * PAGE_BYTES
    path.write_bytes(octets)


def recovered(directory: Path) -> list[Found]:
    """Every message in a data directory."""

    async def read() -> list[Found]:
        async with await open_store(directory) as store:
            return await stored_messages(store)

    return run(read())
