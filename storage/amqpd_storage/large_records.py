"""Records too large to be copied: written and read where they lie, in SQLite's own pages.

What goes into a statement as an argument, and what a row returns, CPython's sqlite3 copies while it
holds the interpreter lock: 50 to 80 ms for 100 MB, while no client is served. SQLite itself copies
it twice more. So a large record is inserted as so many zeros (which exist in the pages alone, not
as a value), and then its pieces are written over them through a blob handle; and it is read
through one. CPython gives the lock away meanwhile, and nothing is copied but to the pages and from
them. The record is the same as any other.

A column that is in an index cannot be written like that, and `entry.record` is in one. So a large
record lies in table `message`, as if it were shared: its id is the key of its one row, negative.
Outside of the store nobody knows of that id. Whether a row has one follows from the length of the
body, which is known when the message is settled: so LARGE_BYTES may become less one day, but not
more.

Measured, 100 MB to the disk: 0.9 s as an argument and 400 MB more memory; 0.35 s and 110 MB so.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final, NamedTuple

from amqpd_storage.records import RECORD_HEAD_BYTES_MAX, Message, read_layout

SPILL_PAGES: Final = 16 * 1024 - 1
"""Of 8 KB: so much of a transaction with large rows is in memory before SQLite writes pages to the
log, instead of its whole cache (16 MB). A page is changed twice, and should be written once.

SQLite takes the same number for yes or no, by its lowest octet: 16,384 would be no."""


def own_message_id(key: int) -> int:
    """The id, in table `message`, of the large message that is in one queue only, at this key."""
    return -key


class LargeRow(NamedTuple):
    """A row to be inserted."""

    table: str
    columns: tuple[int, ...]
    """All but the last, which is `record`; the first is the key."""
    pieces: tuple[bytes, ...]
    """The record."""

    def insert(self, connection: sqlite3.Connection) -> None:
        """Within the caller's transaction, before the end of which nobody sees the zeros."""
        marks = "?, " * len(self.columns)
        size = sum(len(piece) for piece in self.pieces)
        connection.execute(
            f"INSERT OR ROLLBACK INTO {self.table} VALUES ({marks}zeroblob(?))",
            (*self.columns, size),
        )
        with connection.blobopen(self.table, "record", self.columns[0]) as blob:
            for piece in self.pieces:
                blob.write(piece)


@contextlib.contextmanager
def written_once(connection: sqlite3.Connection) -> Iterator[None]:
    """For a transaction with large rows."""
    connection.execute(f"PRAGMA cache_spill = {SPILL_PAGES}")
    try:
        yield
    finally:
        connection.execute("PRAGMA cache_spill = 1")


def read_large(connection: sqlite3.Connection, table: str, key: int) -> Message:
    """The message in the record of a row. Raises DamagedStore when it is not one.

    Within the caller's transaction, which has seen that there is such a row.
    """
    with connection.blobopen(table, "record", key, readonly=True) as blob:
        layout = read_layout(blob.read(RECORD_HEAD_BYTES_MAX), len(blob))
        blob.seek(layout.head_bytes)
        message = Message(
            blob.read(layout.envelope_bytes),
            blob.read(layout.properties_bytes),
            blob.read(layout.body_bytes),
            layout.expires_ms,
        )
    return message
