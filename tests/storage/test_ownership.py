from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from amqpd_storage.errors import StoreLocked
from amqpd_storage.ownership import DirectoryLock
from amqpd_storage.sqlite_engine import open_store
from tests.storage.contents import enqueue, fill_store, recovered, run

OWNER = """
import asyncio, sys
from pathlib import Path
from amqpd_storage.sqlite_engine import open_store

async def own():
    store = await open_store(Path(sys.argv[1]))
    print("open", flush=True)
    await asyncio.sleep(60)

asyncio.run(own())
"""


def test_second_process_is_refused_with_the_owners_pid(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"

        with pytest.raises(StoreLocked, match=f"in use by process {owner.pid}") as refusal:
            run(open_store(tmp_path))

        assert refusal.value.pid == owner.pid
        owner.send_signal(signal.SIGKILL)
        owner.wait()

    assert recovered(tmp_path) == []  # death released the lock


def test_second_store_of_one_process_is_refused(tmp_path: Path) -> None:
    async def twice() -> None:
        async with await open_store(tmp_path):
            with pytest.raises(StoreLocked) as refusal:
                await open_store(tmp_path)
            assert refusal.value.pid == os.getpid()

    run(twice())


def test_closing_releases_the_directory(tmp_path: Path) -> None:
    fill_store(tmp_path, enqueue(1, 1))

    assert len(recovered(tmp_path)) == 1


def test_failed_opening_releases_the_directory(tmp_path: Path) -> None:
    (tmp_path / "amqpd.sqlite3").write_bytes(b"not a database")
    with pytest.raises(Exception, match="not an SQLite database"):
        run(open_store(tmp_path))

    DirectoryLock(tmp_path).release()


def test_owner_without_a_number(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    (tmp_path / "amqpd.lock").write_text("")

    with pytest.raises(StoreLocked, match="another process") as refusal:
        DirectoryLock(tmp_path)

    assert refusal.value.pid is None
    lock.release()
    lock.release()
