"""A disk that fills up under a real broker, and then has room again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.runtime.client import Client
from tests.runtime.process import BrokerProcess, wait_until

MESSAGES = 60
BODY = b"x" * 100_000


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[None]:
    """A file system of that size at `directory`."""
    directory.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "amqpd-test", str(directory)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"file systems cannot be mounted here: {error}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True, capture_output=True)


def enlarge(directory: Path, size: str) -> None:
    """Make room."""
    command = ["mount", "-o", f"remount,size={size}", str(directory)]
    subprocess.run(command, check=True, capture_output=True)


def test_a_full_disk_blocks_publishers_and_loses_nothing(broker: BrokerProcess) -> None:
    settings = broker.directory / "amqpd.toml"
    # Without the alarm that would come first; and it is tried again soon.
    settings.write_text("disk_free_limit_bytes = 0\n[limits]\ndisk_full_retry_s = 0.05\n")
    with small_disk(broker.data_directory, "4m"):
        try:
            broker.start("--config", str(settings))
            with Client(broker.address) as publisher, Client(broker.address) as consumer:
                publisher.declare("q")
                publisher.confirm_select()
                for number in range(MESSAGES):
                    publisher.publish("", "q", b"%03d" % number + BODY)
                broker.wait_for_log("the disk is full")
                first = consumer.get("q", no_ack=True)
                assert first is not None, "consumers go on"
                assert first.body[:3] == b"000"
                enlarge(broker.data_directory, "64m")
                publisher.wait_confirmed()
                broker.wait_for_log("the journal can be written again")
                broker.wait_for_log("disk alarm cleared")
                publisher.publish("", "q", b"last")
                publisher.wait_confirmed()
            broker.kill()
            broker.start("--config", str(settings))
            with Client(broker.address) as survivor:
                assert survivor.message_count("q") == MESSAGES
                bodies = [survivor.get("q", no_ack=True) for _ in range(MESSAGES)]
                heads = [got.body[:3] for got in bodies if got is not None]
                assert heads == [b"%03d" % number for number in range(1, MESSAGES)] + [b"las"]
        finally:
            broker.end()


def test_a_broker_on_a_full_disk_can_be_stopped(broker: BrokerProcess) -> None:
    settings = broker.directory / "amqpd.toml"
    settings.write_text("disk_free_limit_bytes = 0\n")
    with small_disk(broker.data_directory, "4m"):
        try:
            broker.start("--config", str(settings))
            with Client(broker.address) as publisher:
                publisher.declare("q")
                publisher.confirm_select()
                for number in range(MESSAGES):
                    publisher.publish("", "q", b"%03d" % number + BODY)
                broker.wait_for_log("the disk is full")
                confirmed = publisher.confirmed
            assert broker.stop() == 74
            enlarge(broker.data_directory, "64m")
            broker.start("--config", str(settings))
            with Client(broker.address) as survivor:
                wait_until(lambda: survivor.message_count("q") >= confirmed)
        finally:
            broker.end()
