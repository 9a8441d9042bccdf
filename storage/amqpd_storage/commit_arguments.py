"""The arguments of a commit in the making: joined bytes, and JSON that says where things lie.

This runs in the writer's thread, but with the interpreter lock, which the event loop wants: so it
is compiled where there is a compiler.
"""

from __future__ import annotations

from collections.abc import Sequence

from amqpd_storage.changes import Changes
from amqpd_storage.commit_view import BATCH_ROW, PLACE_BITS, Arguments
from amqpd_storage.entries import POSITION_MAX, Content, Delay, Enqueue, storage_key
from amqpd_storage.large_records import own_message_id
from amqpd_storage.records import RUN_HEAD_BYTES, record_front, run_head
from amqpd_storage.runs import (
    RECORD_BYTES_MAX,
    RUN_BYTES_MAX,
    RUN_MESSAGES_MAX,
    RUN_MESSAGES_MIN,
)


class Run:
    """Neighbours of one queue that may become one row."""

    __slots__ = ("behind", "first", "head_at", "lengths", "size")

    def __init__(self) -> None:
        self.behind = 0
        """The key that follows on the last run."""
        self.first = 0
        self.head_at = 0
        """Which of the pieces is the head."""
        self.size = 0
        self.lengths: list[int] = []

    def takes(self, key: int, length: int) -> bool:
        """Whether a record of so many octets under this key belongs to them."""
        messages = len(self.lengths)
        return (
            key == self.first + messages
            and key & POSITION_MAX != 0
            and length <= RECORD_BYTES_MAX
            and messages < RUN_MESSAGES_MAX
            and self.size + length <= RUN_BYTES_MAX
        )

    def begin(self, key: int, head_at: int) -> None:
        """With the record of this key."""
        self.first = key
        self.head_at = head_at

    def end(self) -> None:
        """They are written."""
        self.size = 0
        self.lengths = []


class CommitArguments:
    """What one statement is given: see `commit_view`.

    `put_messages`, `put_entries` and `put_delays` take rows from an index on until there are
    `size_max` octets, and return the index of the first one that is left.
    """

    __slots__ = (
        "_body_bytes",
        "_columns",
        "_entries",
        "_envelope",
        "_expires_ms",
        "_front",
        "_large_bytes",
        "_pieces",
        "_properties",
        "_released",
        "_run",
        "_runs",
        "_size",
        "_size_max",
    )

    def __init__(self, size_max: int, large_bytes: int) -> None:
        """Messages with a body of `large_bytes` have a statement of their own."""
        self._size = 0
        self._size_max = size_max
        self._large_bytes = large_bytes
        self._pieces: list[bytes | memoryview] = []
        self._released: list[str] = []
        self._columns: Arguments = {}
        self._entries: list[str] = []
        self._body_bytes = -1
        self._expires_ms = 0
        self._properties = self._envelope = self._front = b""
        """Of the last record, and what stood before its body."""
        self._run = Run()
        self._runs: list[str] = []

    def delete(self, changes: Changes) -> None:
        """Whatever goes, and what is deleted to be inserted anew."""
        settled = changes.settled()
        self._put_object("settled", [f'"{first}":{last}' for first, last in settled])
        if changes.large_gone:
            self._released += [str(own_message_id(key)) for key in changes.large_gone]
        if changes.delivered:
            delivered = [f'"{queue}":{below}' for queue, below in changes.delivered.items()]
            self._put_object("delivered", delivered)
        if changes.dropped_queues or changes.dropped_ranges:
            self._drop_queues(changes)
        if changes.gone_delays:
            self._put_list("gone_delays", [str(sequence) for sequence in changes.gone_delays])
        if changes.definitions or changes.dropped_definitions:
            self._delete_definitions(changes)

    def _drop_queues(self, changes: Changes) -> None:
        long = changes.long_queues
        ranges = [f"[{first},{last}]" for first, last in changes.dropped_ranges]
        ranges += [
            f"[{storage_key(queue_id, 0)},{storage_key(queue_id, POSITION_MAX)}]"
            for queue_id in long
        ]
        self._put_list("dropped_queues", [str(queue_id) for queue_id in changes.dropped_queues])
        self._put_list("short_queues", [str(each) for each in changes.dropped_queues - long])
        self._put_list("dropped_ranges", ranges)

    def _delete_definitions(self, changes: Changes) -> None:
        keys = [
            f"[{self._span(kind.encode())},{self._span(key.encode())}]"
            for kind, key in changes.definitions
        ]
        ranges = []
        for kind, prefix in changes.dropped_definitions:
            first, end = prefix.encode(), after(prefix)
            ranges.append(f"[{self._span(kind.encode())},{self._span(first)},{self._span(end)}]")
        self._put_list("definition_keys", keys)
        self._put_list("definition_ranges", ranges)

    def put_definitions(self, changes: Changes) -> None:
        """Definitions that are new, or have a new value."""
        definitions = []
        for (kind, key), value in changes.definitions.items():
            if value is not None:
                name = f"{self._span(kind.encode())},{self._span(key.encode())}"
                definitions.append(f"[{name},{self._span(value)}]")
        self._put_list("definitions", definitions)

    def put_messages(self, contents: Sequence[Content], start: int) -> int:
        """Messages that several queues share."""
        messages = []
        index = start
        while index < len(contents) and self._size < self._size_max:
            content = contents[index]
            index += 1
            if len(content.body) < self._large_bytes:
                messages.append(f'"{content.message_id}":{self._place(content)}')
        self._put_object("messages", messages)
        return index

    def put_entries(self, enqueues: Sequence[Enqueue[Content]], start: int) -> int:
        """Places in queues, with their messages if nobody shares them."""
        shared: list[str] = []
        run = self._run
        index = start
        while index < len(enqueues) and self._size < self._size_max:
            enqueue = enqueues[index]
            index += 1
            key, content = enqueue.key, enqueue.content
            if content.message_id:
                shared.append(f'"{key}":{content.message_id}')
                continue
            if len(content.body) >= self._large_bytes:
                shared.append(f'"{key}":{own_message_id(key)}')
                continue
            front = self._front_of(content, enqueue.expires_ms)
            length = len(front) + len(content.body)
            if not run.takes(key, length):
                self._end_run()
            if not run.lengths:
                run.begin(key, len(self._pieces))
                self._pieces.append(b"")  # the head of the run, if it becomes one
            run.lengths.append(length)
            run.size += length
            self._pieces += (front, content.body)
            self._size += length
            if length > RECORD_BYTES_MAX:
                self._end_run()
        self._end_run()
        self._put_object("entries", self._entries)
        self._put_object("runs", self._runs)
        self._put_object("shared", shared)
        return index

    def _end_run(self) -> None:
        """The neighbours that were collected: one row, or as many as they are."""
        run = self._run
        offset = self._size - run.size
        # The last few behind a run are one, too: for who reads them all it is one page.
        if len(run.lengths) >= RUN_MESSAGES_MIN or (run.lengths and run.first == run.behind):
            self._pieces[run.head_at] = run_head(len(run.lengths))
            self._size += RUN_HEAD_BYTES
            place = offset << PLACE_BITS | RUN_HEAD_BYTES + run.size
            self._entries.append(f'"{run.first}":{place}')
            run.behind = run.first + len(run.lengths)
            self._runs.append(f'"{run.first}":{run.behind - 1}')
        else:
            for number, length in enumerate(run.lengths):
                self._entries.append(f'"{run.first + number}":{offset << PLACE_BITS | length}')
                offset += length
        run.end()

    def put_delays(self, delays: Sequence[Delay[Content]], start: int) -> int:
        """Messages that wait."""
        waiting = []
        index = start
        while index < len(delays) and self._size < self._size_max:
            delay = delays[index]
            index += 1
            if len(delay.content.body) < self._large_bytes:
                place = self._place(delay.content)
                waiting.append(f'"{delay.sequence}":[{delay.exchange_id},{delay.due_ms},{place}]')
        self._put_object("delays", waiting)
        return index

    def sum_up(self, changes: Changes, number: int | None) -> None:
        """Once all rows are there: what the queues have now, shared messages that none has, and
        which batch it is."""
        if changes.released:
            self._released += [str(message_id) for message_id in changes.released]
        backlogs = [
            f'"{queue_id}":[{backlog.messages},{backlog.body_bytes},{backlog.last}]'
            for queue_id, backlog in changes.backlogs.items()
        ]
        if number is not None:
            backlogs.append(f'"{BATCH_ROW}":[0,0,{number}]')
        self._put_object("backlogs", backlogs)
        if changes.delay_counts:
            counts = [f'"{exchange}":{more}' for exchange, more in changes.delay_counts.items()]
            self._put_object("delay_counts", counts)
        if changes.dropped_exchanges:
            self._put_list("dropped_exchanges", [str(each) for each in changes.dropped_exchanges])

    def columns(self) -> Arguments:
        """All of it."""
        if self._pieces:
            self._columns["data"] = b"".join(self._pieces)
        self._put_list("released_messages", self._released)
        return self._columns

    def _put_list(self, column: str, items: list[str]) -> None:
        if items:
            self._columns[column] = f"[{','.join(items)}]"

    def _put_object(self, column: str, members: list[str]) -> None:
        if members:
            self._columns[column] = f"{{{','.join(members)}}}"

    def _place(self, content: Content) -> int:
        """Append the record of a message that does not expire by itself; its offset and length as
        one number."""
        front = self._front_of(content, 0)
        self._pieces += (front, content.body)
        offset = self._size
        length = len(front) + len(content.body)
        self._size = offset + length
        return offset << PLACE_BITS | length

    def _front_of(self, content: Content, expires_ms: int) -> bytes:
        """What stands before the body of a record; for neighbours it is mostly the same."""
        body_bytes = len(content.body)
        if (
            body_bytes != self._body_bytes
            or content.properties is not self._properties
            or content.envelope is not self._envelope
            or expires_ms != self._expires_ms
        ):
            self._body_bytes, self._expires_ms = body_bytes, expires_ms
            self._properties, self._envelope = content.properties, content.envelope
            self._front = record_front(content, expires_ms)
        return self._front

    def _span(self, text: bytes) -> str:
        """Append a piece; its offset (from 1, as substr counts) and length."""
        self._pieces.append(text)
        offset = self._size + 1
        self._size += len(text)
        return f"{offset},{len(text)}"


def after(prefix: str) -> bytes:
    """What comes right after everything that begins with the prefix; SQLite compares octets."""
    octets = prefix.encode()
    return octets[:-1] + bytes((octets[-1] + 1,))
