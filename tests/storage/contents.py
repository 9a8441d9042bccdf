"""Messages as the broker would make them, and the shortest way through the journal and back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from amqpd_storage.entries import Enqueue, Entry, StoredMessage, storage_key
from amqpd_storage.journal import Batch, Journal
from amqpd_storage.sqlite_engine import SQLiteStore, open_store
from amqpd_storage.sqlite_reading import read_messages
from amqpd_storage.sqlite_writing import write_batch

T = TypeVar("T")

ENVELOPE = b"\x03log\x04info"


class PublishedContent:
    """A published message."""

    def __init__(
        self,
        body: bytes,
        *,
        message_id: int = 0,
        envelope: bytes = ENVELOPE,
        properties: bytes = b"\x10\x00\x02",
    ) -> None:
        self.message_id = message_id
        self.references = 1
        self.stored = False
        self.envelope = envelope
        self.properties = properties
        self.body = body


def enqueue(queue_id: int, position: int, content: PublishedContent | bytes = b"body") -> Enqueue:
    if isinstance(content, bytes):
        content = PublishedContent(content)
    return Enqueue(storage_key(queue_id, position), content)


def batch_of(*entries: Entry) -> Batch:
    journal = Journal()
    journal.append_all(list(entries))
    batch = journal.take()
    assert batch is not None
    return batch


def commit(connection: sqlite3.Connection, *entries: Entry) -> None:
    """One transaction with these entries."""
    write_batch(connection, batch_of(*entries))


def all_messages(connection: sqlite3.Connection) -> list[StoredMessage]:
    found: list[StoredMessage] = []
    while more := read_messages(connection, found[-1].key if found else -1):
        found += more
    return found


def bodies(connection: sqlite3.Connection) -> dict[int, bytes]:
    return {message.key: message.body for message in all_messages(connection)}


async def stored_messages(store: SQLiteStore) -> list[StoredMessage]:
    recovery = await store.recover()
    return [message async for batch in recovery.messages() for message in batch]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def fill_store(directory: Path, *entries: Entry) -> None:
    """A data directory with these entries, closed cleanly."""

    async def fill() -> None:
        async with await open_store(directory) as store:
            await store.write(batch_of(*entries))

    run(fill())


def recovered(directory: Path) -> list[StoredMessage]:
    """Every message in a data directory."""

    async def read() -> list[StoredMessage]:
        async with await open_store(directory) as store:
            return await stored_messages(store)

    return run(read())
