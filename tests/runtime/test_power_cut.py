"""The power goes under load, again and again: what was confirmed is there, whole and in order.

The real broker, on a file system that loses, tears and reorders what was not synced. How often is
`AMQPD_TEST_CUTS`. Needs FUSE: /dev/fuse, libfuse, and the right to mount.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from tests.runtime.client import Client
from tests.runtime.every_exercise import every_exercise
from tests.runtime.kills import World
from tests.runtime.power_cuts import LosingDisk, PoweredBroker, powered_broker

CUTS = int(os.environ.get("AMQPD_TEST_CUTS", "8"))
SEED = int(os.environ.get("AMQPD_TEST_SEED", "1"))
MESSAGES = 100


def test_power_goes_again_and_again(tmp_path: Path) -> None:
    chance = Random(SEED)
    with powered_broker(tmp_path, chance) as broker:
        world = World(broker, every_exercise())
        world.begin()
        confirmed = 0
        for life in range(CUTS):
            world.live(chance.uniform(0.05, 0.5))
            confirmed += sum(load.client.confirmed for load in world.loads)
            world.check()
            if life % 3 == 2:
                world.empty()
        unsynced = broker.disk.unsynced
        print(f"{CUTS} cuts, {confirmed} confirms, {sum(unsynced)} unsynced writes at the cuts")
        assert confirmed > 0
        assert any(unsynced), "no cut had anything to lose"


def publish_and_cut(broker: PoweredBroker) -> int:
    """How many of the confirmed messages are there after a cut that keeps nothing unsynced."""
    broker.disk.keep = 0.0
    broker.start()
    with Client(broker.address) as client:
        client.declare("q")
    broker.stop()  # the log is written back: the queue is safe whatever comes
    broker.start()
    with Client(broker.address) as client:
        client.confirm_select()
        for number in range(MESSAGES):
            client.publish("", "q", b"%d" % number)
        client.wait_confirmed()
        broker.kill()
    broker.start()
    with Client(broker.address) as client:
        return client.message_count("q")


def test_full_durability_keeps_what_it_confirmed(tmp_path: Path) -> None:
    with powered_broker(tmp_path, Random(SEED), "--durability", "full") as broker:
        assert publish_and_cut(broker) == MESSAGES


def test_normal_durability_loses_it(tmp_path: Path) -> None:
    # As documented; and without this, the tests above could not fail.
    with powered_broker(tmp_path, Random(SEED), "--durability", "normal") as broker:
        assert publish_and_cut(broker) < MESSAGES


def test_a_loss_under_load_is_noticed(tmp_path: Path) -> None:
    with powered_broker(tmp_path, Random(SEED), "--durability", "normal") as broker:
        broker.disk.keep = 0.0
        world = World(broker)
        world.begin()
        broker.stop()  # the log is written back: the queues are safe
        broker.start()

        def cut_until_something_is_lost() -> None:
            # A cut right after a checkpoint has nothing to lose, and a slow machine may have
            # confirmed nothing since.
            for _ in range(10):
                world.live(0.6)
                world.check()

        with pytest.raises(AssertionError, match="confirmed messages are lost"):
            cut_until_something_is_lost()


def test_the_file_system_keeps_what_was_synced(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    disk = LosingDisk(directory, Random(SEED))
    try:
        disk.keep = 0.0
        with (directory / "old").open("wb") as file:
            file.write(b"synced")
            file.flush()
            os.fsync(file.fileno())
            names = os.open(directory, os.O_RDONLY)
            os.fsync(names)
            os.close(names)
            file.write(b", and not")
        (directory / "old").rename(directory / "new")
        (directory / "never").write_bytes(b"x")
        assert (directory / "new").read_bytes() == b"synced, and not"
        disk.off()
        with pytest.raises(OSError, match="Input/output error"):
            (directory / "new").write_bytes(b"")
        disk.on()
        assert [path.name for path in directory.iterdir()] == ["old"]
        assert (directory / "old").read_bytes() == b"synced"
    finally:
        disk.end()
