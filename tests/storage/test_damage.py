"""A damaged file is refused or complete, but never quietly shorter."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from amqpd_storage import sqlite_file
from amqpd_storage.errors import DamagedStore
from tests.storage.contents import all_messages, commit, enqueue, fill_store, recovered

ROWS = 300


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a store with 300 messages, closed."""
    fill_store(tmp_path, *(enqueue(n % 3 + 1, n, b"%5d" % n * 200) for n in range(1, ROWS + 1)))
    return tmp_path / "amqpd.sqlite3"


def assert_refused(path: Path, reason: str = ".") -> None:
    before = path.read_bytes()
    with pytest.raises(DamagedStore, match=reason) as refusal:
        recovered(path.parent)
    assert refusal.value.path == path
    assert str(path) in str(refusal.value)
    assert "backup" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == before


def test_not_a_database(path: Path) -> None:
    path.write_bytes(os.urandom(10_000))
    assert_refused(path, "not an SQLite database")


def test_empty_file_is_not_a_new_store(path: Path) -> None:
    path.write_bytes(b"")
    assert_refused(path, "not an SQLite database")


def test_file_is_gone_but_its_log_is_there(path: Path) -> None:
    path.with_name("amqpd.sqlite3-wal").write_bytes(b"frames")
    path.unlink()
    with pytest.raises(DamagedStore, match="log is there"):
        recovered(path.parent)
    assert path.with_name("amqpd.sqlite3-wal").read_bytes() == b"frames"


def test_somebody_elses_database(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (name TEXT)")
    connection.close()
    assert_refused(path, "not amqpd's")


def test_missing_table(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE entry")
    connection.close()
    assert_refused(path, "tables are missing: entry")


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.7, 0.99])
def test_truncated_file(path: Path, kept: float) -> None:
    os.truncate(path, int(path.stat().st_size * kept))
    assert_refused(path)


def test_last_byte_is_missing(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)
    assert_refused(path, "bytes long and should be|malformed")


@pytest.mark.parametrize("offset", [0, 16, 60, 68, 100])
def test_overwritten_header(path: Path, offset: int) -> None:
    """The magic, the page size, the version, the application id and the root page."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * 8)
    assert_refused(path)


def test_zeroed_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 16384 * 16384)
        file.write(b"\0" * 16384)
    assert_refused(path)


@pytest.mark.parametrize("check_at_open", [True, False])
def test_bytes_overwritten_anywhere(
    path: Path, monkeypatch: pytest.MonkeyPatch, check_at_open: bool
) -> None:
    """Found at the start, or when the rows are read: no row is ever missing without a word."""
    if not check_at_open:  # as with a large file
        monkeypatch.setattr(sqlite_file, "CHECKED_AT_OPEN_BYTES_MAX", 0)
    intact = path.read_bytes()
    keys = [message.key for message in recovered(path.parent)]
    chance = random.Random(5)
    refused = 0
    for _ in range(60):
        damaged = bytearray(intact)
        length = chance.choice([1, 16, 512, 4096])
        offset = chance.randrange(len(damaged) - length)
        damaged[offset : offset + length] = chance.randbytes(length)
        path.write_bytes(damaged)
        try:
            found = recovered(path.parent)
        except DamagedStore:  # and no other error
            refused += 1
        else:
            assert [message.key for message in found] == keys, (offset, length)
    assert refused > 5


def test_log_left_by_a_crash_is_read(path: Path, tmp_path: Path) -> None:
    """The files as they stand in the middle of a life, copied."""
    copied = tmp_path / "copy"
    copied.mkdir()
    connection = sqlite_file.open_connection(path, "full")
    connection.execute("INSERT INTO delivered VALUES (1, 1)")
    connection.execute("DELETE FROM entry WHERE key >> 40 = 2")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", copied / f"{path.name}{suffix}")
    connection.close()

    assert len(recovered(copied)) == ROWS - 100


def test_first_page_torn_while_the_log_was_written_back(path: Path, tmp_path: Path) -> None:
    """The log still has it: nothing is lost, and nothing is refused."""
    connection = sqlite_file.open_connection(path, "full")
    commit(connection, *(enqueue(7, n, b"x" * 5000) for n in range(100, 200)))
    torn = tmp_path / "torn"
    torn.mkdir()
    for name in ("amqpd.sqlite3", "amqpd.sqlite3-wal"):
        (torn / name).write_bytes(path.with_name(name).read_bytes())
    before = len(all_messages(connection))
    connection.close()
    octets = bytearray((torn / "amqpd.sqlite3").read_bytes())
    octets[:512] = b"\xa5" * 512
    (torn / "amqpd.sqlite3").write_bytes(octets)

    assert len(recovered(torn)) == before


def test_somebody_elses_file_with_a_log_beside_it(path: Path) -> None:
    path.with_name("amqpd.sqlite3-wal").write_bytes(b"no frames of ours" * 100)
    path.write_bytes(b"a letter to somebody" * 1000)
    assert_refused(path, "not an SQLite database")
    assert path.with_name("amqpd.sqlite3-wal").read_bytes() == b"no frames of ours" * 100
