"""A backup is the store as it was, whole or not there; and it comes back."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from amqpd_storage import backup, sqlite_file
from amqpd_storage.backup import back_up, restore
from amqpd_storage.entries import Entry, PutDefinition
from amqpd_storage.errors import (
    DamagedStore,
    StoreMissing,
    StoreTooNew,
    StoreUnreadable,
    StoreUnwritable,
    TargetTaken,
)
from amqpd_storage.sqlite_engine import open_store
from tests.storage.contents import (
    batch_of,
    damage_page,
    enqueue,
    fill_store,
    make_content,
    recovered,
    run,
    stored_messages,
)


def entries() -> list[Entry]:
    return [
        PutDefinition("queue", "jobs", b"{}"),
        enqueue(1, 1, b"job"),
        enqueue(1, 2, make_content(b"news", message_id=3)),
        *(enqueue(2, n, b"%04d" % n * 500) for n in range(1, 200)),
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory, closed."""
    fill_store(tmp_path / "data", *entries())
    return tmp_path / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the backup goes."""
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups" / "monday"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_there_and_back(data: Path, file: Path, tmp_path: Path) -> None:
    size = back_up(data, file)
    restored = restore(file, tmp_path / "new")

    assert size == restored == file.stat().st_size
    assert recovered(tmp_path / "new") == recovered(data)
    assert names(file.parent) == {"monday"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new" / "amqpd.sqlite3").stat().st_mode) == 0o600


def test_of_an_owned_store_with_everything_committed_so_far(tmp_path: Path, file: Path) -> None:
    async def copy_in_use() -> None:
        async with await open_store(tmp_path / "data") as store:
            await store.write(batch_of(*entries()))
            back_up(tmp_path / "data", file)
            await store.write(batch_of(enqueue(3, 1, b"later")))
            back_up(tmp_path / "data", file.with_name("tuesday"))
            assert len(await stored_messages(store)) == 202

    run(copy_in_use())
    restore(file, tmp_path / "monday")
    restore(file.with_name("tuesday"), tmp_path / "tuesday")
    assert len(recovered(tmp_path / "monday")) == 201
    assert len(recovered(tmp_path / "tuesday")) == 202


def test_source_is_only_read(data: Path, file: Path) -> None:
    before = (data / "amqpd.sqlite3").read_bytes()

    back_up(data, file)

    assert (data / "amqpd.sqlite3").read_bytes() == before


def test_nothing_is_overwritten_unless_told(data: Path, file: Path) -> None:
    file.write_text("precious")

    with pytest.raises(TargetTaken, match="--force"):
        back_up(data, file)
    assert file.read_text() == "precious"

    back_up(data, file, force=True)
    assert file.read_bytes().startswith(b"SQLite format 3")
    assert names(file.parent) == {"monday"}


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_regular_file_is_never_replaced(data: Path, file: Path, force: bool) -> None:
    os.mkfifo(file)
    link = file.with_name("link")
    link.symlink_to(file)

    for target in (file, link):
        with pytest.raises(TargetTaken, match="is no regular file: name another file"):
            back_up(data, target, force=force)

    assert stat.S_ISFIFO(file.stat().st_mode)
    assert link.is_symlink()
    assert names(file.parent) == {"monday", "link"}


def test_a_link_to_another_place_stays_and_leads_to_the_backup(
    data: Path, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "volume").mkdir()
    there = tmp_path / "volume" / "latest"
    file.symlink_to(there)

    back_up(data, file)
    there.write_text("an older one")
    with pytest.raises(TargetTaken, match="--force"):
        back_up(data, file)
    back_up(data, file, force=True)

    assert file.is_symlink()
    assert there.read_bytes().startswith(b"SQLite format 3")
    assert names(there.parent) == {"latest"}
    assert names(file.parent) == {"monday"}


def test_a_link_to_itself_is_no_target(data: Path, file: Path) -> None:
    file.symlink_to(file)

    with pytest.raises(StoreUnwritable, match="symbolic links"):
        back_up(data, file, force=True)


@pytest.mark.parametrize("name", ["amqpd.sqlite3", "amqpd.sqlite3-wal", "amqpd.lock"])
def test_store_itself_is_never_the_target(data: Path, name: str) -> None:
    before = (data / "amqpd.sqlite3").read_bytes()

    with pytest.raises(TargetTaken, match="the store itself"):
        back_up(data, data / ".." / "data" / name, force=True)

    assert (data / "amqpd.sqlite3").read_bytes() == before


def test_target_that_cannot_be_written(data: Path, file: Path) -> None:
    with pytest.raises(StoreUnwritable, match="No such file or directory"):
        back_up(data, file / "deeper")
    with pytest.raises(TargetTaken, match="is a directory"):
        back_up(data, file.parent)


def test_nothing_to_back_up(tmp_path: Path, file: Path) -> None:
    with pytest.raises(StoreMissing, match="--data-dir"):
        back_up(tmp_path / "nowhere", file)
    assert names(file.parent) == set()


def test_damaged_store_is_not_backed_up(data: Path, file: Path) -> None:
    path = data / "amqpd.sqlite3"
    damage_page(path, b"0100" * 50)

    with pytest.raises(DamagedStore, match="amqpd doctor") as refusal:
        back_up(data, file)

    assert refusal.value.path == path
    assert names(file.parent) == set()


@pytest.mark.parametrize("octets", [b"", b"no database at all" * 1000])
def test_something_else_is_not_backed_up(data: Path, file: Path, octets: bytes) -> None:
    (data / "amqpd.sqlite3").write_bytes(octets)

    with pytest.raises(DamagedStore):
        back_up(data, file)


def test_disk_that_fails_leaves_no_file(
    data: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnwritable, match="No space left"):
        back_up(data, file)
    assert names(file.parent) == set()


# -- restore


def test_only_into_an_empty_directory(data: Path, file: Path, tmp_path: Path) -> None:
    back_up(data, file)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "something").write_text("")

    with pytest.raises(TargetTaken, match="not empty"):
        restore(file, tmp_path / "new")
    with pytest.raises(TargetTaken, match="not empty"):
        restore(file, data)

    assert names(tmp_path / "new") == {"something"}
    (tmp_path / "new" / "something").rename(tmp_path / "new" / "amqpd.lock")
    restore(file, tmp_path / "new")


def test_backup_is_checked_first(data: Path, file: Path, tmp_path: Path) -> None:
    back_up(data, file)
    os.truncate(file, file.stat().st_size - 8192)

    with pytest.raises(DamagedStore, match="older backup"):
        restore(file, tmp_path / "new")

    assert not (tmp_path / "new").exists()


def test_backup_with_a_missing_message(data: Path, file: Path, tmp_path: Path) -> None:
    back_up(data, file)
    connection = sqlite3.connect(file)
    with connection:
        connection.execute("DELETE FROM message")
    connection.close()

    with pytest.raises(DamagedStore, match="shared message"):
        restore(file, tmp_path / "new")


def test_no_backup_there(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        restore(tmp_path / "nothing", tmp_path / "new")


def test_what_is_no_file_is_no_backup(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for wrong in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(StoreUnreadable, match="it is no regular file"):
            restore(wrong, tmp_path / "new")

    assert not (tmp_path / "new").exists()


# -- before an upgrade


def upgrade(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE stream (position INTEGER PRIMARY KEY)")
    connection.execute("DELETE FROM entry WHERE key = 1 << 40 | 1")


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An amqpd that knows store version 4."""
    monkeypatch.setattr(sqlite_file, "SCHEMA_VERSION", 4)
    monkeypatch.setattr(sqlite_file, "UPGRADES", {3: upgrade})
    return monkeypatch


def test_store_is_copied_before_it_is_upgraded(
    data: Path, tmp_path: Path, newer: pytest.MonkeyPatch
) -> None:
    assert len(recovered(data)) == 200
    assert names(data) == {"amqpd.sqlite3", "amqpd.sqlite3.before-v4", "amqpd.lock"}
    assert len(recovered(data)) == 200  # no second upgrade, no second copy

    newer.undo()
    with pytest.raises(StoreTooNew):
        recovered(data)
    restore(data / "amqpd.sqlite3.before-v4", tmp_path / "old")
    assert len(recovered(tmp_path / "old")) == 201


def test_copy_holds_what_was_in_the_log(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner was killed: its last commits are in the log alone."""
    connection = sqlite_file.open_connection(data / "amqpd.sqlite3", "full")
    connection.execute("INSERT INTO delivered VALUES (1, 3)")
    (tmp_path / "killed").mkdir()
    for path in data.iterdir():
        (tmp_path / "killed" / path.name).write_bytes(path.read_bytes())
    connection.close()
    monkeypatch.setattr(sqlite_file, "SCHEMA_VERSION", 4)
    monkeypatch.setattr(sqlite_file, "UPGRADES", {3: upgrade})

    recovered(tmp_path / "killed")

    copy = sqlite3.connect(tmp_path / "killed" / "amqpd.sqlite3.before-v4")
    assert copy.execute("SELECT queue_id, below FROM delivered").fetchall() == [(1, 3)]
    copy.close()


def test_no_upgrade_without_a_copy(data: Path, newer: pytest.MonkeyPatch) -> None:
    before = (data / "amqpd.sqlite3").read_bytes()

    def full(*_: object) -> None:
        raise StoreUnwritable(data, "disk full")

    newer.setattr(backup, "copy_store", full)
    with pytest.raises(StoreUnwritable):
        recovered(data)

    assert (data / "amqpd.sqlite3").read_bytes() == before
    assert not (data / "amqpd.sqlite3.before-v4").exists()


def test_damaged_store_is_not_upgraded(data: Path, newer: pytest.MonkeyPatch) -> None:
    path = data / "amqpd.sqlite3"
    damage_page(path, b"0100" * 50)
    damaged = path.read_bytes()

    with pytest.raises(DamagedStore):
        recovered(data)

    assert path.read_bytes() == damaged
    assert not (data / "amqpd.sqlite3.before-v4").exists()


def test_failed_upgrade_leaves_the_old_store_and_the_copy(
    data: Path, newer: pytest.MonkeyPatch
) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        upgrade(connection)
        raise RuntimeError("a bug")

    newer.setattr(sqlite_file, "UPGRADES", {3: fail})
    with pytest.raises(RuntimeError):
        recovered(data)
    newer.undo()

    assert len(recovered(data)) == 201
    newer.setattr(sqlite_file, "SCHEMA_VERSION", 4)
    newer.setattr(sqlite_file, "UPGRADES", {3: upgrade})
    assert len(recovered(data)) == 200  # the copy of the failed attempt is in nobody's way


def test_version_that_never_was(data: Path) -> None:
    connection = sqlite3.connect(data / "amqpd.sqlite3")
    with connection:
        connection.execute("UPDATE meta SET value = '0' WHERE name = 'schema_version'")
        connection.execute("PRAGMA user_version = 0")
    connection.close()

    with pytest.raises(DamagedStore, match="never was a store version 0"):
        recovered(data)


def test_store_that_may_not_be_read(data: Path, tmp_path: Path) -> None:
    (data / "amqpd.sqlite3").chmod(0)
    was_root = os.geteuid() == 0
    if was_root:  # who may read everything: become nobody for a while
        os.seteuid(65534)
    try:
        with pytest.raises((StoreUnreadable, StoreUnwritable), match="Permission denied"):
            back_up(data, tmp_path / "monday")
        with pytest.raises(StoreUnreadable, match="Permission denied"):
            restore(data / "amqpd.sqlite3", tmp_path / "new")
    finally:
        if was_root:
            os.seteuid(0)


def test_the_copy_is_of_the_store_as_it_was_also_when_the_second_step_fails(
    data: Path, newer: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        raise RuntimeError("a bug, or a kill")

    newer.setattr(sqlite_file, "SCHEMA_VERSION", 5)
    newer.setattr(sqlite_file, "UPGRADES", {3: upgrade, 4: fail})
    with pytest.raises(RuntimeError):
        recovered(data)
    newer.setattr(sqlite_file, "UPGRADES", {3: upgrade, 4: lambda _: None})
    assert len(recovered(data)) == 200
    newer.undo()

    restore(data / "amqpd.sqlite3.before-v5", tmp_path / "old")
    assert len(recovered(tmp_path / "old")) == 201
