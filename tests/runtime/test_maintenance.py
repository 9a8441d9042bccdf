"""doctor, recover, backup and restore, as their user meets them."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from pamqp import commands

from amqpd.broker.definitions import (
    BindingRecord,
    ExchangeRecord,
    HistoryRecord,
    PermissionRecord,
    QueueRecord,
    Record,
    SeenRecord,
    UserRecord,
    VhostRecord,
    encode,
)
from amqpd.runtime import maintenance
from amqpd.runtime.store_words import QueueNames, describe_lost, print_lines
from amqpd.wire.tables import encode_table
from amqpd_storage.entries import Delivered, Entry, PutDefinition
from amqpd_storage.ownership import DirectoryLock
from amqpd_storage.salvage import LostKeys
from amqpd_storage.sqlite_file import PAGE_BYTES
from tests.runtime.client import Client, Gone
from tests.runtime.process import BrokerProcess, run_command
from tests.storage.contents import (
    all_messages,
    damage_page,
    enqueue,
    fill_store,
    make_content,
    recovered,
)
from tests.storage.test_doctor import edit, snapshot

NO_ARGUMENTS = encode_table({})
HASH = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"  # of RabbitMQ's documentation

JOBS = QueueRecord("/", "jobs", False, NO_ARGUMENTS, 1)
NEWS = QueueRecord("/", "news\n", False, NO_ARGUMENTS, 2)
OTHER = QueueRecord("other", "jobs", False, NO_ARGUMENTS, 3)
LOGS = ExchangeRecord("/", "logs", "topic", True, False, False, NO_ARGUMENTS)
BINDING = BindingRecord("/", "logs", "jobs", "queue", "#", NO_ARGUMENTS)
RECORDS: tuple[Record, ...] = (
    VhostRecord("/"),
    VhostRecord("other"),
    UserRecord("guest", HASH, "rabbit_password_hashing_sha256", ("administrator",)),
    PermissionRecord("guest", "/", ".*", ".*", ".*"),
    LOGS,
    JOBS,
    NEWS,
    OTHER,
    BINDING,
)


def messages() -> list[Entry]:
    shared = make_content(b"shared", message_id=1)
    return [
        *(enqueue(1, n, b"%04d" % n * 100) for n in range(1, 201)),
        enqueue(2, 1, shared),
        enqueue(3, 1, shared),
        enqueue(3, 2, b"last"),
        Delivered(1, 50),
    ]


def make(directory: Path, *records: Record | PutDefinition) -> Path:
    """A data directory with these definitions, and all messages."""
    definitions = [r if isinstance(r, PutDefinition) else encode(r) for r in records]
    fill_store(directory, *definitions, *messages())
    return directory


def without(*gone: Record) -> list[Record]:
    return [record for record in RECORDS if record not in gone]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A whole store."""
    return make(tmp_path / "data", *RECORDS)


class Said:
    """What a command said, and its exit code."""

    def __init__(self, code: int, capsys: pytest.CaptureFixture[str]) -> None:
        self.code = code
        self.out, self.err = capsys.readouterr()
        self.lines = self.out.splitlines()

    def having(self, mark: str) -> list[str]:
        """What follows this mark, line by line."""
        return [
            line.removeprefix(f"{mark}: ") for line in self.lines if line.startswith(f"{mark}: ")
        ]


def doctor(directory: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    before = snapshot(directory)
    said = Said(maintenance.doctor(str(directory)), capsys)
    assert snapshot(directory) == before
    return said


def recover(directory: Path, into: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """Whatever was recovered has to be a whole store."""
    before = snapshot(directory)
    said = Said(maintenance.recover(str(directory), str(into)), capsys)
    assert snapshot(directory) == before
    if said.code in (0, os.EX_DATAERR):
        assert {path.name for path in into.iterdir()} == {"amqpd.sqlite3", "amqpd.lock"}
        assert maintenance.doctor(str(into)) == 0, capsys.readouterr().out
        capsys.readouterr()
    return said


# -- doctor


def test_doctor_of_a_whole_store(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = doctor(data, capsys)

    assert said.code == 0
    assert said.err == ""
    assert said.lines[0].startswith(f"{data}/amqpd.sqlite3: ")
    assert said.lines[2] == (
        "definitions: 2 virtual hosts, 1 user, 1 permission, 1 exchange, 3 queues, 1 binding"
    )
    assert [line.split() for line in said.lines[3:7]] == [
        ["queue", "vhost", "messages", "bytes"],
        ["jobs", "/", "200", "80000"],
        [r"'news\n'", "/", "1", "6"],
        ["jobs", "other", "2", "10"],
    ]
    assert said.lines[7:] == ["whole: nothing is wrong with this store"]


def test_a_queue_with_priorities_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its levels have an id each."""
    levels = QueueRecord("/", "levels", False, encode_table({"x-max-priority": ("I", 5)}), 10, 6)
    fill_store(
        tmp_path / "data",
        *map(encode, (*RECORDS, levels)),
        *messages(),
        *(enqueue(queue_id, 1, b"four") for queue_id in (10, 12, 15)),
    )

    said = doctor(tmp_path / "data", capsys)

    assert said.code == 0, said.out
    assert [line.split() for line in said.lines[4:8]] == [
        ["jobs", "/", "200", "80000"],
        ["levels", "/", "3", "12"],
        [r"'news\n'", "/", "1", "6"],
        ["jobs", "other", "2", "10"],
    ]
    said = recover(tmp_path / "data", tmp_path / "new", capsys)
    assert said.lines[0] == f"{tmp_path}/new: 206 messages in 4 queues"


def test_doctor_of_a_damaged_store(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage_page(data / "amqpd.sqlite3", b"0100" * 100)

    said = doctor(data, capsys)

    assert said.code == os.EX_DATAERR
    assert any("'jobs' in virtual host '/': at most " in line for line in said.lines)
    assert "amqpd recover --data-dir" in said.lines[-1]


def test_doctor_of_a_store_in_use(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owner = DirectoryLock(data)

    said = doctor(data, capsys)

    owner.release()
    assert said.code == os.EX_TEMPFAIL
    assert said.out == ""
    assert f"in use by process {os.getpid()}" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        (
            without(VhostRecord("other")),
            "queue 'jobs' in virtual host 'other': its virtual host 'other' is missing",
        ),
        (without(LOGS), "its source, exchange 'logs', is missing"),
        (without(JOBS), "its destination, queue 'jobs', is missing"),
        (without(JOBS, BINDING), "queue with id 1, whose definition is missing: 200 messages"),
        (
            [*RECORDS, QueueRecord("/", "twin", False, NO_ARGUMENTS, 1)],
            "queue 'twin' in virtual host '/': its messages are those of queue 'jobs'",
        ),
        (
            [*RECORDS, ExchangeRecord("/", "odd", "x-odd", True, False, False, NO_ARGUMENTS)],
            "exchange 'odd' in virtual host '/': KeyError: 'x-odd'",
        ),
        ([*RECORDS, PutDefinition("queue", '["/","bad"]', b"{")], 'queue ["/","bad"] cannot be'),
        ([*RECORDS, PutDefinition("dream", "[]", b"{}")], "of kind 'dream', unknown"),
        (
            [*RECORDS, QueueRecord("/", "bad", False, b"\0\0\0\xff", 9)],
            "queue 'bad' in virtual host '/': TableError",
        ),
    ],
)
def test_doctor_names_what_a_broker_would_refuse(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    records: list[Record | PutDefinition],
    complaint: str,
) -> None:
    make(tmp_path / "data", *records)

    said = doctor(tmp_path / "data", capsys)

    assert said.code == os.EX_DATAERR
    assert any(complaint in line for line in said.having("damaged")), said.out


def test_doctor_notes_what_is_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loose = PermissionRecord("ghost", "/", ".*", ".*", ".*")
    make(tmp_path / "data", *RECORDS, loose)
    edit(tmp_path / "data" / "amqpd.sqlite3", "INSERT INTO delivered VALUES (77, 1)")

    said = doctor(tmp_path / "data", capsys)

    assert said.code == 0
    assert said.having("note") == [
        "permission of user 'ghost' in virtual host '/': there is no such user",
        "1 mark of deliveries belongs to no queue any more",
    ]


RECENT = ExchangeRecord("/", "recent", "x-recent-history", True, False, False, NO_ARGUMENTS)
KEPT = HistoryRecord("/", "recent", 7, b"\6recent\1k", b"\0\0", b"kept")
SEEN = SeenRecord("/", "recent", "('string', 'a')", 3, 0)


def test_doctor_knows_what_exchanges_remember(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "data", *RECORDS, RECENT, KEPT)

    said = doctor(tmp_path / "data", capsys)

    assert said.code == 0
    assert "1 kept message" in said.out


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        ([KEPT], "message kept by exchange 'recent' in virtual host '/': exchange 'recent' is"),
        ([RECENT, SEEN], "header seen by exchange 'recent' in virtual host '/': LookupError"),
    ],
)
def test_doctor_names_memories_without_their_exchange(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    records: list[Record],
    complaint: str,
) -> None:
    make(tmp_path / "data", *RECORDS, *records)

    said = doctor(tmp_path / "data", capsys)

    assert said.code == os.EX_DATAERR
    assert any(complaint in line for line in said.having("damaged")), said.out


def test_doctor_and_missing_shared_messages(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(data / "amqpd.sqlite3", "DELETE FROM message")

    said = doctor(data, capsys)

    assert said.code == os.EX_DATAERR
    assert any(
        line.startswith("queue 'jobs' in virtual host 'other': 1 message lost")
        for line in said.having("damaged")
    ), said.out


def test_doctor_where_nothing_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = doctor(tmp_path, capsys)

    assert said.code == os.EX_NOINPUT
    assert "--data-dir" in said.err


def test_a_data_directory_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    wrong = str(tmp_path / "file")

    for command in (
        partial(maintenance.doctor, wrong),
        partial(maintenance.recover, wrong, str(tmp_path / "new")),
        partial(maintenance.backup, wrong, str(tmp_path / "monday"), force=False),
    ):
        said = Said(command(), capsys)
        assert said.code == os.EX_NOINPUT
        assert said.err.endswith(
            "(Not a directory): name the broker's data directory with --data-dir\n"
        )


def test_doctor_of_a_newer_store(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(
        data / "amqpd.sqlite3",
        "UPDATE meta SET value = '9' WHERE name = 'schema_version'",
        "PRAGMA user_version = 9",
    )

    assert doctor(data, capsys).code == os.EX_CONFIG


def test_nothing_is_said_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines("lost:", ["\x1b[2J"])

    assert capsys.readouterr().out == "lost: \\x1b[2J\n"


def test_ranges_that_touch_are_one() -> None:
    lost = [
        LostKeys("entry", (1 << 40) + 5, (1 << 40) + 9, "page 7 is damaged"),
        LostKeys("entry", (1 << 40) + 10, (1 << 40) + 14, "page 9 is damaged", 4),
        LostKeys("entry", (1 << 40) + 20, (1 << 40) + 20, "torn"),
        LostKeys("message", 1, 1, "torn"),
        LostKeys("message", -(1 << 40) - 5, -(1 << 40) - 5, "torn"),
        LostKeys("message", -(1 << 63) + 1, (1 << 40) - 1, "page 4 is damaged"),
        LostKeys("entry", 1 << 40, (1 << 63) - 1, "page 3 is damaged"),
        LostKeys("run", (1 << 40) + 1, (1 << 40) + 256, "page 14 is damaged"),
        LostKeys("entry", (1 << 40) + 30, (2 << 40) + 1, "page 4 is damaged"),
    ]

    assert describe_lost(lost, QueueNames({1: JOBS})) == [
        "queue 'jobs' in virtual host '/': at most 6 messages, at positions 5 to 14 "
        "(page 7 is damaged, and 1 more such; 4 were found again)",
        "queue 'jobs' in virtual host '/': at most 1 message, at positions 20 (torn)",
        "shared messages 1 (torn)",
        "large messages (torn)",
        "large messages, and shared ones (page 4 is damaged)",
        "messages of any queue (page 3 is damaged)",
        "what was acknowledged and comes back, queue 'jobs' in virtual host '/': "
        "at most 256 messages, at positions 1 to 256 (page 14 is damaged)",
        "messages from position 30 of queue 'jobs' in virtual host '/' to position 1 of "
        "queue with id 2, whose definition is missing (page 4 is damaged)",
    ]


# -- recover


def test_recover_of_a_whole_store(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = recover(data, tmp_path / "new", capsys)

    assert said.code == 0, said.out
    assert said.lines[0] == f"{tmp_path}/new: 203 messages in 3 queues"
    assert said.lines[-1] == f"nothing was lost; {data} is unchanged"
    assert contents(tmp_path / "new") == contents(data)


def contents(directory: Path) -> dict[str, Sequence[tuple[object, ...]]]:
    """All messages and rows; but what was a run is none."""
    with closing(sqlite3.connect(directory / "amqpd.sqlite3")) as connection:
        tables = ("message", "delivered", "definition", "meta")
        found: dict[str, Sequence[tuple[object, ...]]] = {
            name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables
        }
        found["entry"] = all_messages(connection)
    return found


def test_recover_of_a_damaged_store(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_page(data / "amqpd.sqlite3", b"0100" * 100)

    said = recover(data, tmp_path / "new", capsys)

    assert said.code == os.EX_DATAERR
    (lost, _) = said.having("lost")
    assert lost.startswith("queue 'jobs' in virtual host '/': at most ")
    count, first, last = (int(word) for word in lost.split("(")[0].split() if word.isdigit())
    assert count == last - first + 1
    assert first <= 100 <= last
    keys = {message.key for message in recovered(tmp_path / "new")}
    gone = {(1 << 40) + n for n in range(first, last + 1)}
    assert keys == {message.key for message in recovered(make(tmp_path / "w", *RECORDS))} - gone


def test_recover_without_definitions(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever else is gone, the messages get queues."""
    damage_page(data / "amqpd.sqlite3", b'"password_hash"')

    said = recover(data, tmp_path / "new", capsys)

    assert said.code == os.EX_DATAERR
    assert any("'recovered-1'" in line for line in said.having("lost"))
    assert any("there is no user" in line for line in said.having("note"))
    assert len(recovered(tmp_path / "new")) == 203


def test_recover_with_a_queue_and_a_virtual_host_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "data", *without(JOBS, VhostRecord("other"), LOGS))

    said = recover(tmp_path / "data", tmp_path / "new", capsys)

    assert said.code == os.EX_DATAERR
    assert said.having("lost")[:-1] == [
        "binding from 'logs' to queue 'jobs' by '#' in virtual host '/': "
        "its source, exchange 'logs', is missing",
        "virtual host 'other': made again, without its settings",
        "the definition of the queue with id 1: what it held, 200 messages, "
        "is in queue 'recovered-1' of virtual host '/'",
    ]
    assert len(recovered(tmp_path / "new")) == 203


def test_recover_with_a_missing_shared_message(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(data / "amqpd.sqlite3", "DELETE FROM message")

    said = recover(data, tmp_path / "new", capsys)

    assert said.code == os.EX_DATAERR
    assert (
        len([line for line in said.having("lost") if "1 message at positions 1 to 1" in line]) == 2
    )
    assert len(recovered(tmp_path / "new")) == 201


def test_recover_shared_messages_whose_places_are_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody knows in which queues they were, but what they said is there."""
    fill_store(
        tmp_path / "data",
        *(encode(record) for record in RECORDS),
        *(enqueue(1, n, make_content(b"%d" % n, message_id=n)) for n in range(1, 301)),
    )
    path = tmp_path / "data" / "amqpd.sqlite3"
    octets = bytearray(path.read_bytes())
    octets[3 * PAGE_BYTES : 4 * PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(octets)

    said = recover(tmp_path / "data", tmp_path / "new", capsys)

    assert said.code == os.EX_DATAERR
    assert any("'recovered-4'" in line for line in said.having("lost")), said.out
    found = recovered(tmp_path / "new")
    assert [message.body for message in found] == [b"%d" % n for n in range(1, 301)]


def test_recover_needs_a_directory_of_its_own(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")

    for into in (tmp_path / "full", data, data / "new"):
        said = recover(data, into, capsys)
        assert said.code == os.EX_CANTCREAT
        assert said.err.count("\n") == 1


def test_recover_that_fails_leaves_no_store(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(maintenance, "put_definitions", fail)
    said = recover(data, tmp_path / "new", capsys)

    assert said.code == os.EX_CANTCREAT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["amqpd.lock"]


# -- with a broker


def test_every_command_and_a_broker(broker: BrokerProcess, tmp_path: Path) -> None:
    """Refused, named and repaired: the way from a damaged store to a broker that runs."""
    broker.start()
    with Client(broker.address) as client:
        client.declare("jobs")
        client.confirm_select()
        for number in range(300):
            client.publish("", "jobs", b"%04d" % number * 100)
            if number % 10 == 9:
                client.wait_confirmed()  # so that no row has more, however they are read
        client.close()
    refused = run_command(tmp_path, "doctor", "--data-dir", str(broker.data_directory))
    assert refused.returncode == os.EX_TEMPFAIL
    assert f"process {broker.pid}" in refused.stderr
    broker.kill()
    whole = run_command(
        tmp_path, "doctor", environment={"AMQPD_DATA_DIR": str(broker.data_directory)}
    )
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert ["jobs", "/", "300", "120000"] in [line.split() for line in whole.stdout.splitlines()]
    broker.start()
    assert broker.stop() == 0
    damage_page(broker.data_directory / "amqpd.sqlite3", b"0150" * 100)
    broker.spawn()
    assert broker.wait() == os.EX_DATAERR
    assert "amqpd doctor --data-dir" in broker.log.splitlines()[-1]
    into = tmp_path / "recovered"
    recovering = run_command(
        tmp_path, "recover", "--data-dir", str(broker.data_directory), "--into", str(into)
    )
    assert recovering.returncode == os.EX_DATAERR, recovering.stderr
    (loss,) = re.findall(r"queue 'jobs' in virtual host '/': at most (\d+)", recovering.stdout)
    lost = int(loss)
    assert 0 < lost <= PAGE_BYTES // 400
    broker.data_directory = into
    broker.start()
    with Client(broker.address) as client:
        assert client.message_count("jobs") == 300 - lost
        client.close()


class Publisher(threading.Thread):
    """Publishes persistent messages with confirms until the broker goes away."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__()
        self.client = Client(address)
        self.client.confirm_select()
        self.title = name

    def run(self) -> None:
        with suppress(Gone, OSError), self.client as client:
            while True:
                number = client.publish("logs", "", f"{self.title}.{client.published + 1}".encode())
                client.wait_confirmed(number - 50)

    @property
    def confirmed(self) -> set[bytes]:
        """What the broker has answered for so far."""
        return {f"{self.title}.{n}".encode() for n in range(1, self.client.confirmed + 1)}


def test_backup_under_load(broker: BrokerProcess, tmp_path: Path) -> None:
    """What was confirmed before the backup began is in it."""
    broker.start()
    with Client(broker.address) as client:
        client.call(commands.Exchange.Declare(0, "logs", "fanout", durable=True))
        for queue in ("one", "two"):
            client.declare(queue)
            client.call(commands.Queue.Bind(0, queue, "logs", ""))
        client.close()
    publishers = [Publisher(broker.address, name) for name in ("a", "b", "c")]
    backups: list[tuple[Path, set[bytes]]] = []
    try:
        for publisher in publishers:
            publisher.start()
        for number in range(2):
            before: set[bytes] = set().union(*(p.confirmed for p in publishers))
            file = tmp_path / f"backup-{number}"
            command = run_command(
                tmp_path, "backup", "--data-dir", str(broker.data_directory), str(file)
            )
            assert command.returncode == 0, command.stderr
            assert command.stdout.startswith(f"{file}: a backup of {broker.data_directory}, ")
            backups.append((file, before))
    finally:
        broker.kill()
        for publisher in publishers:
            publisher.join()
    assert len(backups[-1][1]) > len(backups[0][1]), "there was no load"

    for number, (file, confirmed) in enumerate(backups):
        directory = tmp_path / f"restored-{number}"
        command = run_command(tmp_path, "restore", str(file), "--data-dir", str(directory))
        assert command.returncode == 0, command.stderr
        copies = Counter(message.body for message in recovered(directory))
        assert confirmed <= copies.keys()
        assert all(copies[body] == 2 for body in confirmed)
    broker.data_directory = tmp_path / "restored-1"
    broker.start()
    with Client(broker.address) as client:
        for queue in ("one", "two"):
            client.consume(queue, no_ack=True)
            missing = set(backups[1][1])
            while missing:
                missing.discard(client.next_delivery().body)
        client.close()


def test_backup_and_restore_say_what_keeps_them(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "monday"
    assert run_command(tmp_path, "backup", "--data-dir", str(data), str(file)).returncode == 0
    again = run_command(tmp_path, "backup", "--data-dir", str(data), str(file))
    assert again.returncode == os.EX_CANTCREAT
    assert "--force" in again.stderr
    forced = run_command(tmp_path, "backup", "--force", "--data-dir", str(data), str(file))
    assert forced.returncode == 0
    onto = run_command(tmp_path, "restore", "--data-dir", str(data), str(file))
    assert onto.returncode == os.EX_CANTCREAT
    assert "not empty" in onto.stderr
    nothing = run_command(tmp_path, "restore", "--data-dir", str(tmp_path / "new"), "nowhere")
    assert nothing.returncode == os.EX_NOINPUT
    usage = run_command(tmp_path, "restore", str(file))
    assert usage.returncode == os.EX_USAGE
    assert "See amqpd restore --help" in usage.stderr
    for command in (again, onto, nothing, usage):
        assert command.stderr.startswith("amqpd: ")
        assert command.stderr.count("\n") == 1


def test_a_backup_does_not_go_to_standard_output(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    said = Said(maintenance.backup(str(data), "-", force=True), capsys)

    assert (said.code, said.out) == (os.EX_USAGE, "")
    assert said.err == (
        "amqpd: a backup is checked before it is there, which standard output cannot be:"
        " name a FILE\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_broker_starts_without_any_of_it() -> None:
    code = (
        "import sys, amqpd.command_line, amqpd.runtime.serve\n"
        "names = ('maintenance', 'mending', 'doctor', 'backup', 'salvage', 'rescue')\n"
        "print([name for name in sys.modules if name.rpartition('.')[2] in names])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
