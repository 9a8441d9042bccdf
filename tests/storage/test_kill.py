"""kill -9 at any moment: what was reported as committed is there, whole, and nothing is torn."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from amqpd_storage.entries import POSITION_BITS
from amqpd_storage.sqlite_engine import open_store
from tests.storage.contents import enqueue, run, stored_messages
from tests.storage.crash_child import COPIES, LAG, own_body


def test_every_reported_batch_survives_a_kill(tmp_path: Path) -> None:
    chance = random.Random(1)
    begin = 1
    for _ in range(6):
        reported = write_and_kill(tmp_path, begin, chance.uniform(0.02, 0.3))
        begin = run(check(tmp_path, reported)) + 1
    assert begin > 6


def write_and_kill(directory: Path, begin: int, after_s: float) -> int:
    """Run the writer for a while and kill it; the last batch it reported."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.storage.crash_child", str(directory), str(begin)],
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(after_s)
        child.kill()
        lines = (first + child.stdout.read()).splitlines(keepends=True)
    return max(int(line) for line in lines if line.endswith(b"\n"))


async def check(directory: Path, reported: int) -> int:
    """Compare the store with what the batches say; the last batch that is in it."""
    async with await open_store(directory) as store:
        recovery = await store.recover()
        ((_, _, value),) = recovery.definitions
        last = int(value)
        assert last in (reported, reported + 1)  # committed, and killed before it could say so

        kept = range(max(last - LAG + 1, 1), last + 1)
        expected = {
            enqueue(1, number * COPIES + copy).key: own_body(number, copy)
            for number in kept
            for copy in range(COPIES)
        } | {
            enqueue(queue_id, number).key: b"shared %d" % number * 1000
            for number in kept
            for queue_id in (2, 3, 4)
        }
        found = {message.key: message.body for message in await stored_messages(store)}
        assert found == expected
        assert recovery.delivered == {1: last}
        assert recovery.message_id_max == last
        assert {queue: backlog.messages for queue, backlog in recovery.backlogs.items()} == {
            queue_id: sum(key >> POSITION_BITS == queue_id for key in expected)
            for queue_id in (1, 2, 3, 4)
        }
    return last
