"""Room in the log's file before it is needed: it makes commits quick, and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import pytest

from amqpd_storage import sqlite_file
from amqpd_storage.log_space import FRAME_BYTES, FRAMES_MAX
from amqpd_storage.sqlite_log import RATIO_MIN, close_connection, log_of
from amqpd_storage.sqlite_owner import OwnersConnection
from tests.storage.contents import batch_of, bodies, enqueue, settle_range

COMMITS = 300
BODY = b"x" * 1000


def sizes_of_the_log(owner: OwnersConnection, commits: int = COMMITS) -> list[int]:
    """After each of these commits."""
    sizes = []
    for position in range(1, commits + 1):
        owner.write(batch_of(enqueue(1, position, BODY)))
        sizes.append(log_of(owner.path).stat().st_size)
    return sizes


def test_few_commits_make_the_file_longer(tmp_path: Path) -> None:
    owner = OwnersConnection(tmp_path / "a", "full")
    sizes = sizes_of_the_log(owner)
    frames = 2 * COMMITS
    assert frames * FRAME_BYTES < sizes[-1] < 2 * frames * FRAME_BYTES
    assert len(set(sizes)) < 12
    owner.close()


def test_no_longer_than_the_log_becomes(tmp_path: Path) -> None:
    """Then it begins again, and the file stays as it is."""
    owner = OwnersConnection(tmp_path / "a", "full", 100)
    sizes = sizes_of_the_log(owner)
    assert 100 * FRAME_BYTES <= sizes[-1] < 120 * FRAME_BYTES
    owner.close()


def test_without_a_flush_for_each_commit_nothing_is_made(tmp_path: Path) -> None:
    owner = OwnersConnection(tmp_path / "a", "normal")
    assert len(set(sizes_of_the_log(owner, 50))) == 50
    owner.close()


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_after_a_crash_everything_is_there(
    tmp_path: Path, durability: Literal["full", "normal"]
) -> None:
    """Whatever lies behind the last frame, be it nothing but zeros behind an empty log."""
    owner = OwnersConnection(tmp_path / "a", durability)
    for position in range(1, 40):
        owner.write(batch_of(enqueue(1, position, b"%d" % position)))
        crashed = tmp_path / f"{position}"
        for file in (owner.path, log_of(owner.path)):
            shutil.copy(file, crashed.with_name(file.name.replace("a", crashed.name, 1)))
        connection = sqlite_file.open_connection(crashed, "full")
        assert set(bodies(connection).values()) == {b"%d" % each for each in range(1, position + 1)}
        close_connection(connection, crashed)
    owner.close()


def test_a_log_that_is_all_zeros_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a"
    owner = OwnersConnection(path, "full")
    owner.write(batch_of(enqueue(1, 1, b"one")))
    owner.close()
    log_of(path).write_bytes(bytes(FRAMES_MAX * FRAME_BYTES))
    owner = OwnersConnection(path, "full")
    owner.write(batch_of(enqueue(1, 2, b"two")))
    assert set(bodies(owner.raw).values()) == {b"one", b"two"}
    owner.close()


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_disk_that_has_no_room_is_for_sqlite_to_find(tmp_path: Path, reason: int) -> None:
    owner = OwnersConnection(tmp_path / "a", "full")
    refused = OSError(reason, os.strerror(reason))
    with patch("amqpd_storage.log_space.os.pwrite", side_effect=refused):
        sizes = sizes_of_the_log(owner, 50)
    assert len(set(sizes)) == 50
    owner.close()


def test_neighbours_that_come_and_go_do_not_make_the_log_long(tmp_path: Path) -> None:
    """By the estimate each of them is half a page; what follows them one by one is a page each."""
    owner = OwnersConnection(tmp_path / "a", "full", 100)
    first = 1
    for _ in range(50):
        last = first + 99
        owner.write(batch_of(*(enqueue(1, each, b"x") for each in range(first, last + 1))))
        owner.write(batch_of(settle_range(1, first, last, b"x")))
        first = last + 1
    for position in range(first, first + COMMITS):
        owner.write(batch_of(enqueue(1, position, BODY)))
    assert log_of(owner.path).stat().st_size < 1.1 * 100 / RATIO_MIN * FRAME_BYTES
    owner.close()
