"""Stores to write to."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from amqpd_storage.sqlite_file import open_in_memory


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """A new store in memory."""
    connection = open_in_memory()
    yield connection
    connection.close()
