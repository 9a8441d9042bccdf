"""A disk that is slow, read-only or broken under a real broker.

Whatever it does: nothing is confirmed that is not safe, and once the disk is well again everything
that was confirmed is there, even if the power goes right then. Needs FUSE, as test_power_cut.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from pamqp import commands

from tests.runtime.client import Client, Closed, Gone
from tests.runtime.power_cuts import PoweredBroker, powered_broker
from tests.runtime.process import wait_until

SLOW_S = 1.5
QUICK_S = 0.75
"""What does not wait for the disk takes less than this, on a busy machine."""
EX_DATAERR = 65
EX_CANTCREAT = 73
EX_IOERR = 74


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


def publish_until_gone(broker: PoweredBroker, body: bytes) -> int:
    """Publish to `q` until the broker ends; how many of these were confirmed."""
    with Client(broker.address) as client:
        client.confirm_select()
        try:
            while True:
                client.publish("", "q", body)
                client.wait_confirmed(client.published - 20)
        except (Gone, Closed, OSError):
            pass
        return client.confirmed


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


@pytest.mark.parametrize(
    ("call", "name"), [("fsync", "-wal"), ("write", "-wal"), ("fsync", "amqpd.sqlite3")]
)
def test_an_io_error_stops_the_broker_and_loses_nothing(
    broker: PoweredBroker, call: str, name: str
) -> None:
    """In the log, and in the file when the log is written back."""
    safe = with_messages(broker, 5)
    broker.disk.fail(call, errno.EIO, name)
    confirmed = publish_until_gone(broker, b"x" * 400_000)
    assert broker.wait() == EX_IOERR
    assert "the journal cannot be written: stopping" in broker.log
    assert "check the disk" in broker.log
    if name == "-wal":
        assert confirmed == 0

    broker.disk.heal()
    broker.start()
    found = contents(broker)
    assert found[:5] == safe
    assert len(found) >= 5 + confirmed
    with Client(broker.address) as client:
        client.confirm_select()
        client.publish("", "q", b"later")
        client.wait_confirmed()
    power_cut(broker)
    found = contents(broker)
    assert found[:5] == safe
    assert len(found) >= 5 + confirmed + 1
    assert found[-1] == b"later"


def test_a_power_cut_right_after_a_flush_that_failed(broker: PoweredBroker) -> None:
    """The next owner has read what the disk does not have; the power goes while it begins."""
    safe = with_messages(broker, 5)
    broker.disk.fail("fsync", errno.EIO, "-wal")
    publish_until_gone(broker, b"never confirmed")
    assert broker.wait() == EX_IOERR
    broker.disk.heal()
    for pause_s in (0.1, 0.15, 0.2, 0.3):
        broker.spawn()
        time.sleep(pause_s)
        broker.kill()
    broker.start()
    assert contents(broker)[:5] == safe


def test_a_disk_that_becomes_read_only(broker: PoweredBroker) -> None:
    safe = with_messages(broker, 5)
    broker.disk.fail("write", errno.EROFS)
    assert publish_until_gone(broker, b"never confirmed") == 0
    assert broker.wait() == EX_IOERR
    broker.disk.heal()
    broker.start()
    assert contents(broker)[:5] == safe


def test_a_start_on_a_disk_that_is_read_only(broker: PoweredBroker) -> None:
    safe = with_messages(broker, 5)
    broker.kill()
    broker.disk.on()
    broker.disk.fail("open", errno.EROFS)
    broker.spawn()
    assert broker.wait() == EX_CANTCREAT
    assert "Read-only file system" in broker.log
    broker.disk.heal()
    broker.start()
    assert contents(broker) == safe


def test_messages_that_cannot_be_read(broker: PoweredBroker) -> None:
    """Of a queue longer than memory. They stay where they are until they can be."""
    settings = broker.directory / "amqpd.toml"
    settings.write_text("[limits]\nqueue_memory_messages = 100\n")
    broker.start("--config", str(settings))
    bodies = [b"%06d" % number + b"x" * 20_000 for number in range(1500)]
    with Client(broker.address) as client:
        client.declare("q")
        client.confirm_select()
        for body in bodies:
            client.publish("", "q", body)
        client.wait_confirmed()
        client.close()
    assert broker.stop() == 0
    broker.start("--config", str(settings))
    forget_cached(broker.data_directory / "amqpd.sqlite3")
    broker.disk.fail("read", errno.EIO, "amqpd.sqlite3")
    received: list[bytes] = []
    with Client(broker.address) as client:
        try:
            client.consume("q", prefetch=50)
            while True:
                delivery = client.next_delivery()
                received.append(delivery.body)
                client.ack(delivery.delivery_tag)
        except (Gone, Closed, OSError):
            pass
    # As damage, where SQLite takes what it could not read for that.
    assert broker.wait() in (EX_IOERR, EX_DATAERR)
    assert "messages cannot be read: stopping" in broker.log
    assert received == bodies[: len(received)], "nothing is left out"
    assert len(received) < len(bodies)
    broker.disk.heal()
    broker.start("--config", str(settings))
    with Client(broker.address) as client:
        left = client.message_count("q")
        wait_until(lambda: client.message_count("q") == left)
        assert left >= len(bodies) - len(received)


def forget_cached(path: Path) -> None:
    """The system has nothing of the file in memory: the next read asks the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
