"""A disk that is slow, read-only or broken under a real broker.

Whatever it does: nothing is confirmed that is not safe, and once the disk is well again everything
that was confirmed is there, even if the power goes right then. Needs FUSE, as test_power_cut.
"""

from __future__ import annotations

import errno
import json
import os
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from select import select

import pytest
from pamqp import commands

from tests.patience import PATIENCE_S
from tests.runtime.client import Client
from tests.runtime.power_cuts import PoweredBroker, powered_broker
from tests.runtime.process import wait_until

SLOW_S = 1.5
QUICK_S = 0.75
"""What does not wait for the disk takes less than this, on a busy machine."""
FAILS = "the disk fails"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PoweredBroker]:
    """Not started yet."""
    with powered_broker(tmp_path, Random(7)) as broker:
        broker.disk.keep = 0.0  # what was not synced is gone with the power
        yield broker


def with_messages(broker: PoweredBroker, count: int) -> list[bytes]:
    """A broker with so many confirmed messages in `q`."""
    broker.start()
    bodies = [b"safe %d" % number for number in range(count)]
    with Client(broker.address) as client:
        client.declare("q")
        client.declare("fleeting", durable=False)
        client.confirm_select()
        for body in bodies:
            client.publish("", "q", body)
        client.wait_confirmed()
        client.close()
    return bodies


def contents(broker: PoweredBroker) -> list[bytes]:
    """What is in `q`."""
    with Client(broker.address) as client:
        found = [client.get("q") for _ in range(client.message_count("q"))]
        client.close()
    return [delivery.body for delivery in found if delivery is not None]


def impatient(broker: PoweredBroker, limits: str = "") -> tuple[str, str]:
    """Arguments for a broker that tries again soon what failed."""
    settings = broker.directory / "amqpd.toml"
    # And takes no commit for slow, however busy the machine is.
    pauses = "disk_full_retry_s = 0.02\ndisk_error_retry_max_s = 0.1\nslow_commit_s = 600\n"
    settings.write_text(f"[limits]\n{pauses}{limits}")
    return "--config", str(settings)


def publish_until_it_fails(broker: PoweredBroker, client: Client, body: bytes) -> None:
    """Publish to `q` until a commit fails, and the client is told to wait."""
    while FAILS not in broker.log:
        client.publish("", "q", body)
        wait_until(lambda: select([client.sock], (), (), 0)[0] or FAILS in broker.log)
        if FAILS not in broker.log:
            client.wait_confirmed()
    client.publish("", "q", b"held")
    client.expect(commands.Connection.Blocked)


def power_cut(broker: PoweredBroker) -> None:
    """Now, and everything is well again afterwards."""
    broker.kill()
    broker.disk.heal()
    broker.start()


def test_a_slow_disk_delays_confirms_and_nobody_else(broker: PoweredBroker) -> None:
    bodies = with_messages(broker, 3)
    with (
        Client(broker.address) as publisher,
        Client(broker.address) as consumer,
        Client(broker.address) as other,
    ):
        publisher.confirm_select()
        consumer.consume("q", prefetch=1)
        broker.disk.slow(SLOW_S)
        began = time.monotonic()
        publisher.publish("", "q", b"slow")

        for body in [*bodies, b"slow"]:
            delivery = consumer.next_delivery()
            assert delivery.body == body
            if body != b"slow":
                consumer.ack(delivery.delivery_tag)
        other.publish("", "fleeting", b"quick", persistent=False)
        got = other.get("fleeting", no_ack=True)
        assert got is not None
        assert got.body == b"quick"
        with Client(broker.address) as newcomer:
            assert newcomer.message_count("fleeting") == 0
        assert time.monotonic() < began + QUICK_S
        assert publisher.confirmed == 0

        publisher.wait_confirmed()
        assert time.monotonic() >= began + SLOW_S
        broker.disk.heal()
    power_cut(broker)
    # What was acknowledged may have been written with the slow message, or never.
    assert contents(broker)[-1] == b"slow"


def test_publishers_wait_while_much_waits_for_a_slow_disk(broker: PoweredBroker) -> None:
    """They are not read from: what is on its way does not pile up in the broker."""
    settings = broker.directory / "amqpd.toml"
    settings.write_text("[limits]\nunwritten_bytes_max = 200_000\n")
    broker.start("--config", str(settings))
    body = b"x" * 100_000
    with Client(broker.address) as publisher, Client(broker.address) as consumer:
        publisher.declare("q")
        publisher.confirm_select()
        broker.disk.slow(SLOW_S)
        publisher.sock.settimeout(0.5)
        before = broker.resident_bytes
        with suppress(TimeoutError):
            while publisher.published < 500:
                publisher.publish("", "q", body)
        sent = publisher.published
        assert sent * len(body) < 30_000_000, "it was all read"
        assert broker.resident_bytes < before + 30_000_000
        assert consumer.message_count("q") <= sent  # who does not publish is answered
        broker.disk.heal()
        assert publisher.confirmed <= sent


def test_publishers_are_told_of_a_disk_that_is_very_slow(broker: PoweredBroker) -> None:
    """As of one that is full; and told again once it is not slow any more."""
    settings = broker.directory / "amqpd.toml"
    settings.write_text("[limits]\nslow_commit_s = 0.5\n")
    broker.start("--config", str(settings))
    blockable = {"connection.blocked": True}
    with (
        Client(broker.address, capabilities=blockable) as publisher,
        Client(broker.address) as consumer,
    ):
        publisher.declare("q")
        publisher.confirm_select()
        consumer.declare("fleeting", durable=False)
        broker.disk.slow(4.0)
        publisher.publish("", "q", b"slow")
        wait_until(lambda: "disk alarm raised" in broker.log)
        assert "a commit to" in broker.log
        publisher.publish("", "q", b"held")
        publisher.expect(commands.Connection.Blocked)
        assert publisher.confirmed == 0
        assert consumer.get("fleeting") is None  # who does not publish goes on
        broker.disk.heal()
        publisher.expect(commands.Connection.Unblocked)
        publisher.wait_confirmed()
        wait_until(lambda: "disk alarm cleared" in broker.log)
    power_cut(broker)
    assert contents(broker) == [b"slow", b"held"]


ILLNESSES = pytest.mark.parametrize(
    ("call", "number", "name"),
    [
        ("fsync", errno.EIO, "-wal"),
        ("write", errno.EIO, "-wal"),
        ("fsync", errno.EIO, "amqpd.sqlite3"),
        ("write", errno.EROFS, ""),
        ("open", errno.EIO, ""),
    ],
)
"""In the log, in the file when the log is written back, or everywhere."""


@ILLNESSES
def test_a_disk_that_fails_blocks_publishers_until_it_is_well(
    broker: PoweredBroker, call: str, number: int, name: str
) -> None:
    safe = with_messages(broker, 5)
    assert broker.stop() == 0
    broker.start(*impatient(broker), "--management", "127.0.0.1:0")
    blockable = {"connection.blocked": True}
    with (
        Client(broker.address, capabilities=blockable) as publisher,
        Client(broker.address) as consumer,
    ):
        publisher.confirm_select()
        if call == "open":
            broker.disk.fail("write", number, name)
        broker.disk.fail(call, number, name)
        body = b"x" * 400_000
        publish_until_it_fails(broker, publisher, body)
        count = publisher.published
        confirmed = publisher.confirmed
        # Not what is held, nor what failed, if that was a commit.
        assert confirmed == count - 2 or (confirmed == count - 1 and name == "amqpd.sqlite3")
        assert alarms(broker) == [("disk", 503)]
        first = consumer.get("q", no_ack=True)
        assert first is not None
        assert first.body == safe[0]  # consumers go on
        with Client(broker.address) as newcomer:
            assert newcomer.message_count("q") >= 4
        assert select([publisher.sock], (), (), 0)[0] == [], "nothing is confirmed meanwhile"

        broker.disk.heal()
        publisher.expect(commands.Connection.Unblocked)
        publisher.publish("", "q", b"later")
        publisher.wait_confirmed()
        assert "the journal can be written again" in broker.log
        wait_until(lambda: alarms(broker) == [("", 200)])
    power_cut(broker)
    assert contents(broker) == [*safe[1:], *[body] * (count - 1), b"held", b"later"]


@ILLNESSES
def test_a_power_cut_on_a_disk_that_fails(
    broker: PoweredBroker, call: str, number: int, name: str
) -> None:
    safe = with_messages(broker, 5)
    assert broker.stop() == 0
    broker.start(*impatient(broker))
    with Client(broker.address, capabilities={"connection.blocked": True}) as publisher:
        publisher.confirm_select()
        if call == "open":
            broker.disk.fail("write", number, name)
        broker.disk.fail(call, number, name)
        body = b"x" * 400_000
        publish_until_it_fails(broker, publisher, body)
        power_cut(broker)
        found = contents(broker)
        assert found[:5] == safe
        assert len(found) >= 5 + publisher.confirmed
        assert set(found[5:]) <= {body}


def test_a_disk_that_fails_again_and_again_loses_nothing(broker: PoweredBroker) -> None:
    """The power goes at any moment after it was well for the last time."""
    broker.start(*impatient(broker))
    bodies = [b"%03d" % number for number in range(60)]
    with Client(broker.address) as publisher:
        publisher.declare("q")
        publisher.confirm_select()
        for number, body in enumerate(bodies):
            ill = number % 5 == 3
            if ill:
                failures = broker.log.count(FAILS)
                call = ("fsync", "write")[number % 2]
                broker.disk.fail(call, errno.EIO, "-wal")
            publisher.publish("", "q", body)
            if ill:
                broker.wait_for_log(FAILS, failures + 1)
                broker.disk.heal()
            publisher.wait_confirmed()
    power_cut(broker)
    assert contents(broker) == bodies


def test_a_broker_on_a_disk_that_fails_can_be_stopped(broker: PoweredBroker) -> None:
    safe = with_messages(broker, 5)
    assert broker.stop() == 0
    broker.start(*impatient(broker))
    with Client(broker.address, capabilities={"connection.blocked": True}) as publisher:
        publisher.confirm_select()
        broker.disk.fail("fsync", errno.EIO, "-wal")
        publish_until_it_fails(broker, publisher, b"never confirmed")
        publisher.sock.close()
        assert broker.stop() == os.EX_IOERR
    assert "check the disk" in broker.log
    broker.disk.heal()
    broker.start()
    assert contents(broker)[:5] == safe
    power_cut(broker)
    assert contents(broker)[:5] == safe


def test_a_power_cut_right_after_a_flush_that_failed(broker: PoweredBroker) -> None:
    """The next owner has read what the disk does not have; the power goes while it begins."""
    safe = with_messages(broker, 5)
    broker.disk.fail("fsync", errno.EIO, "-wal")
    with Client(broker.address, capabilities={"connection.blocked": True}) as publisher:
        publisher.confirm_select()
        publish_until_it_fails(broker, publisher, b"never confirmed")
    broker.end()  # by SIGKILL, and the disk stays as it is
    broker.disk.heal()
    for pause_s in (0.1, 0.15, 0.2, 0.3):
        broker.spawn()
        time.sleep(pause_s)
        broker.kill()
    broker.start()
    assert contents(broker)[:5] == safe


def test_a_store_that_has_vanished_ends_the_broker(broker: PoweredBroker) -> None:
    with_messages(broker, 5)
    assert broker.stop() == 0
    broker.start(*impatient(broker))
    store = broker.data_directory / "amqpd.sqlite3"
    with Client(broker.address) as publisher:
        publisher.confirm_select()
        broker.disk.fail("write", errno.EIO, "-wal")
        publisher.publish("", "q", b"never confirmed")
        broker.wait_for_log(FAILS)
        store.unlink()
        broker.disk.heal()
        assert broker.wait() == os.EX_IOERR
        assert publisher.confirmed == 0
    assert f"{store} does not exist: it was there while the broker ran" in broker.log
    assert not store.exists(), "no new one was made in its place"


def test_a_start_on_a_disk_that_is_read_only(broker: PoweredBroker) -> None:
    safe = with_messages(broker, 5)
    broker.kill()
    broker.disk.on()
    broker.disk.fail("open", errno.EROFS)
    broker.spawn()
    assert broker.wait() == os.EX_CANTCREAT
    assert "Read-only file system" in broker.log
    broker.disk.heal()
    broker.start()
    assert contents(broker) == safe


def test_messages_that_cannot_be_read(broker: PoweredBroker) -> None:
    """Of a queue longer than memory. They stay where they are until they can be."""
    settings = impatient(broker, "queue_memory_messages = 100\n")
    broker.start(*settings)
    bodies = [b"%06d" % number + b"x" * 20_000 for number in range(1500)]
    with Client(broker.address) as client:
        client.declare("q")
        client.declare("other")
        client.confirm_select()
        for body in bodies:
            client.publish("", "q", body)
        client.wait_confirmed()
        client.close()
    assert broker.stop() == 0
    broker.start(*settings)
    forget_cached(broker.data_directory / "amqpd.sqlite3")
    with (
        Client(broker.address) as consumer,
        Client(broker.address, capabilities={"connection.blocked": True}) as publisher,
    ):
        publisher.confirm_select()
        broker.disk.fail("read", errno.EIO, "amqpd.sqlite3")
        consumer.consume("q", prefetch=50)
        broker.wait_for_log(f"{FAILS}: publishers are blocked until messages can be read")
        publisher.publish("", "other", b"held")
        publisher.expect(commands.Connection.Blocked)
        with Client(broker.address) as newcomer:
            assert newcomer.message_count("other") <= 1  # who does not publish is answered
        broker.disk.heal()
        publisher.expect(commands.Connection.Unblocked)
        publisher.wait_confirmed()
        for body in bodies:
            delivery = consumer.next_delivery()
            assert delivery.body == body, "nothing is left out"
            consumer.ack(delivery.delivery_tag)
        assert "messages can be read again" in broker.log
    assert broker.stop() == 0


def test_damage_is_told_from_a_disk_that_cannot_be_read(broker: PoweredBroker) -> None:
    """SQLite says the same of both."""
    settings = impatient(broker, "queue_memory_messages = 100\n")
    broker.start(*settings)
    with Client(broker.address) as client:
        client.declare("q")
        client.confirm_select()
        for number in range(1500):
            client.publish("", "q", b"%06d" % number + b"x" * 20_000)
        client.wait_confirmed()
        client.close()
    assert broker.stop() == 0
    broker.start(*settings)
    store = broker.data_directory / "amqpd.sqlite3"
    with store.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for page in range(200, size // 8192, 3):
            file.seek(page * 8192)
            file.write(b"\xff" * 8192)
    with Client(broker.address) as consumer:
        consumer.consume("q", no_ack=True)
        assert broker.wait() == os.EX_DATAERR
    assert "messages cannot be read: stopping" in broker.log
    assert "amqpd doctor" in broker.log


def alarms(broker: PoweredBroker) -> list[tuple[str, int]]:
    """What the HTTP API says: of the node, and of its health."""
    connection = HTTPConnection(str(broker.ready["management"][0]), timeout=PATIENCE_S)
    head = {"authorization": "Basic " + b64encode(b"guest:guest").decode()}
    connection.request("GET", "/api/nodes", headers=head)
    (node,) = json.loads(connection.getresponse().read())
    connection.request("GET", "/api/health/checks/alarms", headers=head)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return [("disk" if node["disk_free_alarm"] else "", answer.status)]


def forget_cached(path: Path) -> None:
    """The system has nothing of the file in memory: the next read asks the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
