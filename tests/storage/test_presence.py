"""What cannot be looked at is not missing, whatever `Path.exists` says of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from amqpd_storage.errors import ReadFailed, StoreUnwritable
from amqpd_storage.presence import is_there
from amqpd_storage.sqlite_file import FILE_NAME
from amqpd_storage.sqlite_owner import OwnersConnection


def test_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert not is_there(file)
    file.touch()
    assert is_there(file)
    assert not is_there(file / "below")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    assert not is_there(link)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_store_that_cannot_be_looked_at_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / FILE_NAME
    OwnersConnection(path, "full").close()
    before = path.read_bytes()
    stat = Path.stat

    def fail(self: Path, **how: Any) -> os.stat_result:
        if self.name == FILE_NAME:
            raise OSError(number, os.strerror(number))
        return stat(self, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", fail)
        # As Python 3.14 has it, whichever this is.
        patch.setattr(Path, "exists", lambda self: False)
        with pytest.raises((ReadFailed, StoreUnwritable)):
            OwnersConnection(path, "full")
    assert path.read_bytes() == before
