"""What is in the store after a crash is what the last committed batch left: for any history.

The machine plays a broker: it publishes to one or many queues, settles, drops queues and uses
their ids again, and follows the rules in journal.py. Its model is what it knows itself, as of the
last batch that was committed.
"""

from __future__ import annotations

import copy
import itertools
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from amqpd_storage import sqlite_file, sqlite_writing
from amqpd_storage.entries import (
    ELIDED,
    PENDING,
    POSITION_BITS,
    Delivered,
    DropDefinition,
    DropMessage,
    DropQueue,
    Enqueue,
    PutDefinition,
    Settle,
    storage_key,
)
from amqpd_storage.journal import Batch, Journal
from amqpd_storage.sqlite_reading import (
    forget_orphans,
    read_definitions,
    read_delivered,
    read_queue_counts,
)
from tests.storage.contents import PublishedContent, all_messages

QUEUE_IDS = st.integers(1, 5)


@dataclass
class Model:
    """What the broker would find if it started again."""

    messages: dict[int, bytes] = field(default_factory=dict)
    delivered: dict[int, int] = field(default_factory=dict)
    definitions: dict[tuple[str, str], bytes] = field(default_factory=dict)


class Broker(RuleBasedStateMachine):
    @initialize(data_bytes_max=st.sampled_from([1, 200, 1_000_000]))
    def start(self, data_bytes_max: int) -> None:
        self.whole_statement = sqlite_writing.DATA_BYTES_MAX
        sqlite_writing.DATA_BYTES_MAX = data_bytes_max  # type: ignore[misc]
        self.directory = Path(tempfile.mkdtemp(prefix="amqpd-model-"))
        self.path = self.directory / sqlite_file.FILE_NAME
        self.connection = sqlite_file.open_connection(self.path, "normal")
        self.message_ids = itertools.count(1)
        self.now = Model()
        self.safe = Model()
        self.begin()

    def begin(self) -> None:
        self.journal = Journal()
        self.under_way: tuple[Batch, Model] | None = None
        self.live: dict[int, Enqueue] = {}

    def teardown(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()
            shutil.rmtree(self.directory)
            sqlite_writing.DATA_BYTES_MAX = self.whole_statement  # type: ignore[misc]

    def next_key(self, queue_id: int) -> int:
        """The position after the last; 1 when the queue is empty."""
        keys = [key for key in self.now.messages if key >> POSITION_BITS == queue_id]
        return max(keys, default=storage_key(queue_id, 0)) + 1

    @rule(queue_ids=st.lists(QUEUE_IDS, min_size=1, unique=True), body=st.binary(max_size=300))
    def publish(self, queue_ids: list[int], body: bytes) -> None:
        message_id = next(self.message_ids) if len(queue_ids) > 1 else 0
        content = PublishedContent(body, message_id=message_id)
        content.references = len(queue_ids)
        enqueues = [Enqueue(self.next_key(queue_id), content) for queue_id in queue_ids]
        self.journal.append_all([*enqueues])
        for entry in enqueues:
            self.live[entry.key] = entry
            self.now.messages[entry.key] = body

    def settle_key(self, key: int) -> None:
        self.now.messages.pop(key)
        entry = self.live.pop(key, None)
        if entry is None:  # recovered: the shared row is left to forget_orphans
            self.journal.append_all([Settle(key)])
            return
        content = entry.content
        content.references -= 1
        if entry.state == PENDING:
            entry.state = ELIDED
        else:
            self.journal.append_all([Settle(key)])
        if content.message_id and content.stored and content.references == 0:
            self.journal.append_all([DropMessage(content.message_id)])

    @precondition(lambda self: self.now.messages)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        self.settle_key(data.draw(st.sampled_from(sorted(self.now.messages))))

    @rule(queue_id=QUEUE_IDS, one_by_one=st.booleans())
    def drop_queue(self, queue_id: int, one_by_one: bool) -> None:
        for key in [k for k in self.now.messages if k >> POSITION_BITS == queue_id]:
            entry = self.live.get(key)
            if one_by_one or (entry is not None and entry.state == PENDING):
                self.settle_key(key)
            else:
                self.now.messages.pop(key)
                self.live.pop(key, None)
        self.now.delivered.pop(queue_id, None)
        self.journal.append_all([DropQueue(queue_id)])

    @rule(queue_id=QUEUE_IDS, below=st.integers(1, 1000))
    def deliver(self, queue_id: int, below: int) -> None:
        self.now.delivered[queue_id] = below
        self.journal.append_all([Delivered(queue_id, below)])

    @rule(key=st.sampled_from(["a", "b", "ä\x00"]), value=st.binary(max_size=20))
    def define(self, key: str, value: bytes) -> None:
        self.now.definitions["queue", key] = value
        self.journal.append_all([PutDefinition("queue", key, value)])

    @rule(key=st.sampled_from(["a", "b", "ä\x00"]))
    def drop_definition(self, key: str) -> None:
        self.now.definitions.pop(("queue", key), None)
        self.journal.append_all([DropDefinition("queue", key)])

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
        self.begin()
        queue_ids = {key >> POSITION_BITS for key in self.safe.messages} | set(self.safe.delivered)
        assert forget_orphans(self.connection, queue_ids)[0] == 0

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
        counts = read_queue_counts(self.connection)
        assert sum(rows for rows, _, _ in counts.values()) == len(self.safe.messages)


TestBroker = Broker.TestCase
TestBroker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
