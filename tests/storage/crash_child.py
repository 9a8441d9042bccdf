"""Writes batches until it is killed; prints the number of each after its commit.

Batch n enqueues twenty messages to queue 1 and a shared one to queues 2, 3 and 4, and settles what
batch n - 5 enqueued. Positions and bodies follow from n.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from amqpd_storage.entries import Delivered, Entry, PutDefinition, Settle
from amqpd_storage.journal import Journal
from amqpd_storage.sqlite_engine import open_store
from tests.storage.contents import enqueue, make_content

LAG = 5
COPIES = 20


def own_body(number: int, copy: int) -> bytes:
    return b"%d.%d " % (number, copy) * 200


def entries_of(number: int) -> list[Entry]:
    """What batch `number` appends."""
    shared = make_content(b"shared %d" % number * 1000, message_id=number)
    entries: list[Entry] = [
        enqueue(1, number * COPIES + copy, own_body(number, copy)) for copy in range(COPIES)
    ]
    entries += [enqueue(queue_id, number, shared) for queue_id in (2, 3, 4)]
    entries += [Delivered(1, number), PutDefinition("last", "batch", b"%d" % number)]
    if number > LAG:
        old = number - LAG
        entries += [
            Settle(enqueue(1, old * COPIES + copy).key, len(own_body(old, copy)))
            for copy in range(COPIES)
        ]
        size = len(b"shared %d" % old * 1000)
        entries += [Settle(enqueue(queue_id, old).key, size, old) for queue_id in (2, 3, 4)]
    return entries


async def write_forever(directory: Path, number: int) -> None:
    journal = Journal()
    async with await open_store(directory) as store:
        while True:
            journal.append_all(entries_of(number))
            batch = journal.take()
            assert batch is not None
            await store.write(batch)
            journal.committed(batch)
            print(number, flush=True)
            number += 1


if __name__ == "__main__":
    asyncio.run(write_forever(Path(sys.argv[1]), int(sys.argv[2])))
