"""What is in the store after a crash is what the last committed batch left: for any history.

The machine plays a broker: it publishes to one or many queues, settles, drops queues and uses
their ids again, and follows the rules in journal.py. Its model is what it knows itself, as of the
last batch that was committed.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from amqpd_storage import (
    commit_arguments,
    sqlite_file,
    sqlite_reading,
    sqlite_tidying,
    sqlite_writing,
)
from amqpd_storage.commit_view import UNREFERENCED
from amqpd_storage.entries import (
    ELIDED,
    PENDING,
    POSITION_BITS,
    POSITION_MAX,
    TAKEN,
    Content,
    Delivered,
    DropDefinition,
    DropDefinitions,
    DropQueue,
    DropRange,
    Enqueue,
    PutDefinition,
    Settle,
    storage_key,
)
from amqpd_storage.journal import Batch, Journal
from amqpd_storage.runs import RUN_MESSAGES_MIN
from amqpd_storage.sqlite_reading import (
    read_definitions,
    read_delivered,
)
from tests.storage.contents import all_messages, backlogs, make_content

QUEUE_IDS = st.integers(1, 5)


@dataclass
class Model:
    """What the broker would find if it started again."""

    messages: dict[int, bytes] = field(default_factory=dict)
    shared: dict[int, int] = field(default_factory=dict)
    """Which message was last put under each key; 0 for one that no other row shares."""
    delivered: dict[int, int] = field(default_factory=dict)
    definitions: dict[tuple[str, str], bytes] = field(default_factory=dict)


class Broker(RuleBasedStateMachine):
    @initialize(
        data_bytes_max=st.sampled_from([1, 200, 1_000_000]),
        run_messages_min=st.sampled_from([1, 2, RUN_MESSAGES_MIN]),
        swept_rows=st.sampled_from([1, 3, sqlite_tidying.SWEPT_ROWS]),
        page_rows=st.sampled_from([1, 2, 5, sqlite_reading.READ_ROWS_MAX]),
    )
    def start(
        self, data_bytes_max: int, run_messages_min: int, swept_rows: int, page_rows: int
    ) -> None:
        self.patches = contextlib.ExitStack()
        for module, name, value in (
            (sqlite_writing, "DATA_BYTES_MAX", data_bytes_max),
            (commit_arguments, "RUN_MESSAGES_MIN", run_messages_min),
            (sqlite_tidying, "SWEPT_ROWS", swept_rows),
            (sqlite_reading, "READ_ROWS_MAX", page_rows),
        ):
            self.patches.enter_context(mock.patch.object(module, name, value))
        self.directory = Path(tempfile.mkdtemp(prefix="amqpd-model-"))
        self.path = self.directory / sqlite_file.FILE_NAME
        self.connection = sqlite_file.open_connection(self.path, "normal")
        self.message_ids = itertools.count(1)
        self.first_position: dict[int, int] = {}
        """Positions below are not used again, since a purge from the disk."""
        self.last_key: dict[int, int] = {}
        """The highest key that a queue had since it was empty."""
        self.now = Model()
        self.safe = Model()
        self.begin()

    def begin(self) -> None:
        self.journal = Journal()
        self.under_way: tuple[Batch, Model] | None = None
        self.live: dict[int, Enqueue[Content]] = {}

    def teardown(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()
            shutil.rmtree(self.directory)
            self.patches.close()

    def next_key(self, queue_id: int) -> int:
        """The position after the last; the lowest ever when the queue is empty."""
        lowest = storage_key(queue_id, self.first_position.get(queue_id, 1))
        key = lowest
        if any(key >> POSITION_BITS == queue_id for key in self.now.messages):
            key = max(self.last_key[queue_id] + 1, lowest)
        self.last_key[queue_id] = key
        return key

    @rule(queue_ids=st.lists(QUEUE_IDS, min_size=1, unique=True), body=st.binary(max_size=300))
    def publish(self, queue_ids: list[int], body: bytes) -> None:
        message_id = next(self.message_ids) if len(queue_ids) > 1 else 0
        content = make_content(body, message_id=message_id)
        enqueues = [Enqueue(self.next_key(queue_id), content) for queue_id in queue_ids]
        self.journal.append_all([*enqueues])
        for entry in enqueues:
            self.now.shared[entry.key] = message_id
            self.live[entry.key] = entry
            self.now.messages[entry.key] = body

    @rule(queue_id=QUEUE_IDS, bodies=st.lists(st.binary(max_size=300), min_size=5, max_size=20))
    def publish_several(self, queue_id: int, bodies: list[bytes]) -> None:
        for body in bodies:
            self.publish.__wrapped__(self, [queue_id], body)  # type: ignore[attr-defined]

    def settle_keys(self, keys: list[int]) -> None:
        settled: list[Settle] = []
        for key in keys:
            size = len(self.now.messages.pop(key))
            entry = self.live.pop(key, None)
            message_id = self.now.shared.get(key, 0)
            if entry is not None and entry.state == PENDING:
                entry.state = ELIDED
            elif message_id or not settled or not settled[-1].extend(key, size):
                settled.append(Settle(key, size, message_id))
        self.journal.append_all([*settled])

    @precondition(lambda self: self.now.messages)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        self.settle_keys([data.draw(st.sampled_from(sorted(self.now.messages)))])

    @precondition(lambda self: self.now.messages)
    @rule(data=st.data(), count=st.integers(2, 20))
    def settle_neighbours(self, data: st.DataObject, count: int) -> None:
        first = data.draw(st.sampled_from(sorted(self.now.messages)))
        self.settle_keys([key for key in sorted(self.now.messages) if key >= first][:count])

    @rule(queue_id=QUEUE_IDS, one_by_one=st.booleans())
    def drop_queue(self, queue_id: int, one_by_one: bool) -> None:
        for key in [k for k in self.now.messages if k >> POSITION_BITS == queue_id]:
            entry = self.live.get(key)
            if one_by_one or (entry is not None and entry.state == PENDING):
                self.settle_keys([key])
            else:
                self.now.messages.pop(key)
                self.live.pop(key, None)
        self.now.delivered.pop(queue_id, None)
        self.journal.append_all([DropQueue(queue_id)])

    @rule(queue_id=QUEUE_IDS, data=st.data())
    def purge_from_the_disk(self, queue_id: int, data: st.DataObject) -> None:
        """Some neighbours that are written go at once. Nothing ever comes again in their place, nor
        in that of what lies in one row with them."""
        written = [
            key
            for key in sorted(self.now.messages)
            if key >> POSITION_BITS == queue_id
            and (key not in self.live or self.live[key].state == TAKEN)
        ]
        if not written:
            return
        first, last = sorted(data.draw(st.tuples(*[st.sampled_from(written)] * 2)))
        if any(first <= key <= last and key not in written for key in self.now.messages):
            return
        gone = [self.now.messages.pop(key) for key in written if first <= key <= last]
        self.live = {key: entry for key, entry in self.live.items() if key in self.now.messages}
        self.first_position[queue_id] = max(
            self.first_position.get(queue_id, 1), (self.last_key[queue_id] & POSITION_MAX) + 1
        )
        self.journal.append_all([DropRange(first, last, len(gone), sum(map(len, gone)))])

    @precondition(lambda self: self.under_way is None)
    @rule()
    def tidy(self) -> None:
        while sqlite_tidying.tidy(self.connection):
            pass

    @rule(queue_id=QUEUE_IDS, below=st.integers(1, 1000))
    def deliver(self, queue_id: int, below: int) -> None:
        self.now.delivered[queue_id] = below
        self.journal.append_all([Delivered(queue_id, below)])

    @rule(key=st.sampled_from(["a", "b", "ab", "ä\x00"]), value=st.binary(max_size=20))
    def define(self, key: str, value: bytes) -> None:
        self.now.definitions["queue", key] = value
        self.journal.append_all([PutDefinition("queue", key, value)])

    @rule(key=st.sampled_from(["a", "b", "ä\x00"]))
    def drop_definition(self, key: str) -> None:
        self.now.definitions.pop(("queue", key), None)
        self.journal.append_all([DropDefinition("queue", key)])

    @rule(prefix=st.sampled_from(["a", "ab", "b"]))
    def drop_definitions(self, prefix: str) -> None:
        for kind, key in list(self.now.definitions):
            if key.startswith(prefix):
                del self.now.definitions[kind, key]
        self.journal.append_all([DropDefinitions("queue", prefix)])

    @precondition(lambda self: self.under_way is None)
    @rule()
    def take(self) -> None:
        batch = self.journal.take()
        if batch is not None:
            self.under_way = batch, copy.deepcopy(self.now)

    @precondition(lambda self: self.under_way is not None)
    @rule()
    def commit(self) -> None:
        assert self.under_way is not None
        batch, self.safe = self.under_way
        sqlite_writing.write_batch(self.connection, batch)
        self.journal.committed(batch)
        self.under_way = None

    @rule()
    def crash(self) -> None:
        self.connection.close()
        self.connection = sqlite_file.open_connection(self.path, "normal")
        self.now = copy.deepcopy(self.safe)
        for key in self.now.messages:
            queue_id = key >> POSITION_BITS
            self.last_key[queue_id] = max(self.last_key[queue_id], key)
        self.begin()

    @invariant()
    def store_is_the_model(self) -> None:
        if not hasattr(self, "connection"):
            return
        stored = all_messages(self.connection)
        assert {message.key: message.body for message in stored} == self.safe.messages
        assert read_delivered(self.connection) == self.safe.delivered
        assert {(k, n): v for k, n, v in read_definitions(self.connection)} == (
            self.safe.definitions
        )
        assert sum(queue.messages for queue in backlogs(self.connection).values()) == len(stored)
        assert not self.connection.execute(f"SELECT 1 FROM message WHERE {UNREFERENCED}").fetchall()


TestBroker = Broker.TestCase
TestBroker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
