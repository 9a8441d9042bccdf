"""doctor and recover on a store with messages that wait at delayed exchanges."""

from __future__ import annotations

from pathlib import Path

import pytest

from amqpd.broker.definitions import (
    BindingRecord,
    ExchangeRecord,
    PermissionRecord,
    QueueRecord,
    UserRecord,
    VhostRecord,
    encode,
)
from amqpd.broker.passwords import SHA256, hash_password
from amqpd.runtime import maintenance
from amqpd.wire.tables import encode_table
from amqpd_storage.doctor import examine
from amqpd_storage.entries import Content, Delay, DropDefinition, DropDelays, Entry
from amqpd_storage.sqlite_file import FILE_NAME
from tests.runtime.client import Client
from tests.runtime.process import BrokerProcess
from tests.runtime.test_maintenance import NO_ARGUMENTS, Said
from tests.storage.contents import damage_page, enqueue, fill_store, make_content
from tests.storage.test_doctor import edit

LATER = ExchangeRecord(
    "/",
    "later",
    "x-delayed-message",
    True,
    False,
    False,
    encode_table({"x-delayed-type": ("S", "direct")}),
    4,
)
DEFINITIONS = (
    VhostRecord("/"),
    UserRecord("guest", hash_password("guest", b"salt"), SHA256, ("administrator",)),
    PermissionRecord("guest", "/", ".*", ".*", ".*"),
    LATER,
    QueueRecord("/", "jobs", False, NO_ARGUMENTS, 1),
    BindingRecord("/", "later", "jobs", "queue", "k", NO_ARGUMENTS),
)


def delay(sequence: int, due_ms: int, exchange_id: int = 4) -> Delay[Content]:
    content = make_content(
        b"%04d" % sequence * 100,
        envelope=b"\x05later\x01k",
        properties=b"\x30\x00" + encode_table({"x-delay": ("I", 5)}) + b"\x02",
    )
    return Delay(exchange_id, due_ms, sequence, content)


def entries() -> list[Entry]:
    return [
        *(encode(record) for record in DEFINITIONS),
        enqueue(1, 1, b"job"),
        *(delay(sequence, 10_000 - sequence) for sequence in range(1, 201)),
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    fill_store(tmp_path / "data", *entries())
    return tmp_path / "data"


def test_doctor_counts_what_waits(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(maintenance.doctor(str(data)), capsys)
    assert said.code == 0
    assert "delayed exchange  vhost  messages  bytes" in said.lines
    assert "later             /           200  80000" in said.lines


def test_a_wrong_count_is_damage(data: Path) -> None:
    edit(data / FILE_NAME, "UPDATE delayed_count SET messages = 199")
    found = examine(data / FILE_NAME)
    assert found.first_problem == "it is wrong about how much waits at exchange 4"


def test_what_is_still_to_be_swept_away_is_not_there(tmp_path: Path) -> None:
    fill_store(tmp_path / "data", *entries())
    fill_store(
        tmp_path / "data",
        DropDelays(4),
        DropDefinition("exchange", encode(LATER).key),
        DropDefinition("binding", encode(DEFINITIONS[-1]).key),
    )
    found = examine(tmp_path / "data" / FILE_NAME)
    assert found.first_problem is None
    assert found.delays == {}


def test_messages_without_their_exchange_are_damage_and_recovered(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_store(data, DropDefinition("exchange", encode(LATER).key))
    said = Said(maintenance.doctor(str(data)), capsys)
    assert "delayed exchange with id 4: 200 messages, and no exchange" in said.having("damaged")

    new = tmp_path / "new"
    said = Said(maintenance.recover(str(data), str(new)), capsys)
    assert said.lines[0] == f"{new}: 1 message in 2 queues, 200 delayed messages"
    assert (
        "the definition of the exchange with id 4: 200 delayed messages will come to queue "
        "'recovered-delayed-4' of virtual host '/'"
    ) in said.having("lost")
    assert examine(new / FILE_NAME).first_problem is None
    assert messages_after_start(new, "recovered-delayed-4") == list(range(200, 0, -1))


def test_a_damaged_page_costs_what_is_on_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_page(data / "amqpd.sqlite3", b"0100" * 100)
    new = tmp_path / "new"
    said = Said(maintenance.recover(str(data), str(new)), capsys)
    (lost,) = [line for line in said.having("lost") if "delayed" in line]
    assert lost.startswith("delayed messages with the numbers ")
    first, last = map(int, lost.split("numbers ")[1].split(" (")[0].split(" to "))
    assert first <= 100 <= last
    found = examine(new / FILE_NAME)
    assert found.first_problem is None
    assert found.delays[4].messages == 200 - (last - first + 1)


def messages_after_start(directory: Path, queue: str) -> list[int]:
    """What a queue holds once a broker has started on the directory: all is long overdue."""
    broker = BrokerProcess(directory.parent)
    broker.data_directory = directory
    try:
        broker.start()
        with Client(broker.address) as client:
            client.consume(queue, no_ack=True)
            return [int(client.next_delivery().body[:4]) for _ in range(200)]
    finally:
        broker.end()
