"""`amqpd definitions export` and `import`, on a store that no broker has open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from amqpd.config import Config
from amqpd.exit_codes import EX_PIPE
from amqpd.runtime.clock import MonotonicClock
from amqpd.runtime.definitions_command import _keep, export, import_
from amqpd.runtime.server import make_broker
from amqpd_storage.ownership import unowned
from amqpd_storage.sqlite_engine import open_store
from tests.runtime.process import run_command

POLICY = {"name": "p", "vhost": "v", "pattern": "", "definition": {"max-length": 1}}
FILE = {
    "vhosts": [{"name": "v"}],
    "queues": [{"name": "q", "vhost": "v"}],
    "policies": [POLICY],
}


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The data directory of a broker that was started once."""
    directory = tmp_path / "data"

    async def make() -> None:
        async with await open_store(directory, "full") as opened:
            broker = make_broker(Config(), MonotonicClock(), journaling=True)
            broker.add_defaults()
            await _keep(broker, opened)

    anyio.run(make)
    return str(directory)


def write(tmp_path: Path, value: object) -> str:
    path = tmp_path / "defs.json"
    path.write_text(json.dumps(value))
    return str(path)


def test_in_and_out(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, FILE)
    assert import_(store, None, file, dry_run=True) == 0
    assert capsys.readouterr().out.splitlines() == [
        "would create vhost 'v'",
        "would create policy 'p' in vhost 'v'",
        "would create queue 'q' in vhost 'v'",
    ]
    assert import_(store, None, file, dry_run=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "create vhost 'v'",
        "create policy 'p' in vhost 'v'",
        "create queue 'q' in vhost 'v'",
    ]
    assert import_(store, None, file, dry_run=False) == 0
    assert capsys.readouterr().out == "nothing to change\n"
    assert export(store, None, "-") == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in said["vhosts"]] == ["/", "v"]
    assert [row["name"] for row in said["queues"]] == ["q"]
    assert said["policies"] == [{**POLICY, "priority": 0, "apply-to": "all"}]
    target = tmp_path / "v.json"
    assert export(store, "v", str(target)) == 0
    assert import_(store, "/", str(target), dry_run=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "create policy 'p' in vhost '/'",
        "create queue 'q' in vhost '/'",
    ]


def test_what_is_wrong_changes_nothing(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, {**FILE, "bindings": [{"source": "a"}]})
    assert import_(store, None, file, dry_run=False) == 65
    said = capsys.readouterr().err
    assert said == (
        f"amqpd: {file}: $.bindings[0]: missing required field destination;"
        " nothing was changed, correct the file\n"
    )
    assert export(store, "v", "-") == 65
    assert capsys.readouterr().err == "amqpd: vhost 'v' does not exist\n"


def test_what_is_not_there(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_(store, None, "nowhere.json", dry_run=True) == 66
    assert "cannot read nowhere.json (No such file or directory)" in capsys.readouterr().err
    empty = tmp_path / "empty"
    assert export(str(empty), None, "-") == 66
    assert "name the broker's data directory with --data-dir" in capsys.readouterr().err
    assert not empty.exists()


def test_a_store_that_a_broker_has_open(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with unowned(Path(store)):
        assert import_(store, None, write(tmp_path, FILE), dry_run=True) == 75
    assert "amqpd: " in capsys.readouterr().err


def test_an_export_is_for_its_owner_and_overwrites_nothing(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    assert export(store, None, str(target)) == 0
    assert target.stat().st_mode & 0o777 == 0o600
    before = target.read_text()
    assert "password_hash" in before
    target.write_text("mine")
    target.chmod(0o644)
    assert export(store, None, str(target)) == os.EX_CANTCREAT
    said = capsys.readouterr().err
    assert said == f"amqpd: {target} exists: name another FILE, or give --force\n"
    assert target.read_text() == "mine"
    assert export(store, None, str(target), force=True) == 0
    assert (target.read_text(), target.stat().st_mode & 0o777) == (before, 0o600)
    for wrong, why in ((tmp_path, "Is a directory"), (tmp_path / "no/out", "No such file")):
        assert export(store, None, str(wrong)) == os.EX_CANTCREAT
        assert f"amqpd: cannot write {wrong} ({why}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.json"]
    assert export(store, None, "/dev/null") == 0
    assert not Path("/dev/null").is_file()


def test_an_export_goes_where_a_link_leads(store: str, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    there, link = tmp_path / "volume" / "latest.json", tmp_path / "link"
    link.symlink_to(there)
    assert export(store, None, str(link)) == 0
    there.write_text("an older one")
    assert export(store, None, str(link), force=True) == 0
    assert link.is_symlink()
    assert json.loads(there.read_text())["vhosts"]


def test_a_pipe_is_written_to(store: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert export(store, None, str(pipe), force=True) == 0
        assert json.loads(os.read(descriptor, 65536))["vhosts"]
    finally:
        os.close(descriptor)
    assert pipe.is_fifo()


def test_without_a_subcommand_there_is_help(tmp_path: Path) -> None:
    done = run_command(tmp_path, "definitions")
    assert (done.returncode, done.stdout) == (os.EX_USAGE, "")
    assert done.stderr.startswith("Usage: amqpd definitions [OPTIONS] ")
    assert "Commands:\n  export " in done.stderr


def test_the_command_line(store: str, tmp_path: Path) -> None:
    file = write(tmp_path, FILE)
    command = [sys.executable, "-m", "amqpd", "definitions"]
    for arguments, said in (
        (["import", "--data-dir", store, "--dry-run", file], "would create vhost 'v'"),
        (["import", "--data-dir", store, file], "create vhost 'v'"),
        (["export", "--data-dir", store, "--vhost", "v"], '"name": "q"'),
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
        assert said in done.stdout


def test_standard_input(store: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "amqpd", "definitions", "import", "--data-dir", store, "-"]

    def said(given: str) -> tuple[int, str, str]:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert said(json.dumps({"vhosts": [{"name": "v"}]})) == (0, "create vhost 'v'\n", "")
    code, _, complaint = said("{]")
    assert code == os.EX_DATAERR
    assert complaint.startswith("amqpd: standard input: line 1, column 2")
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, text=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (
        os.EX_NOINPUT,
        "amqpd: cannot read - (Bad file descriptor): give another FILE\n",
    )


def test_an_export_that_nobody_reads_to_its_end(store: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "amqpd", "definitions", "export", "--data-dir", store],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (EX_PIPE, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_an_export_to_where_nothing_fits(store: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "amqpd", "definitions", "export", "--data-dir", store],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == os.EX_IOERR
    assert done.stderr == b"amqpd: No space left on device: check the disk\n"
