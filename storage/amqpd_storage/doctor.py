"""Looking through a store that nobody has open: what is whole in it, and what is not.

Two looks at the same file: SQLite checks its structure, and every row is read as salvage.py would
read it, so that the count of what is there is the count of what can be saved. What definitions mean
is the broker's knowledge; here they are bytes.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Final

from amqpd_storage.entries import POSITION_BITS
from amqpd_storage.errors import DamagedStore, StoreUnreadable
from amqpd_storage.presence import is_there
from amqpd_storage.records import decode_record
from amqpd_storage.runs import wrong_runs
from amqpd_storage.salvage import (
    Definition,
    LostKeys,
    LostNames,
    Mark,
    Meta,
    Place,
    Salvage,
    SharedMessage,
    Waiting,
)
from amqpd_storage.sqlite_delays import count_delays, read_delay_counts
from amqpd_storage.sqlite_file import BACKLOGS_SINCE, MAGIC, RUNS_SINCE, check_identity, tables_of
from amqpd_storage.sqlite_reading import count_backlogs, read_backlogs, read_batch_number
from amqpd_storage.untouched import log_bytes, open_untouched

PROBLEMS_MAX: Final = 20
"""So many of SQLite's complaints are asked for."""


class QueueContent:
    """What lies in the store under one queue id, or what waits at one delayed exchange."""

    __slots__ = ("body_bytes", "dangling", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.body_bytes = 0
        self.dangling = 0
        """Rows whose shared message is missing: not among the messages."""


class Examination:
    """What was found. Made by `examine`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file_bytes = 0
        self.log_bytes = 0
        self.meta: dict[str, str] = {}
        self.problems: list[str] = []
        """What SQLite, the header or the length of the file say is wrong."""
        self.lost: list[LostKeys | LostNames] = []
        self.found_again = 0
        self.definitions: list[Definition] = []
        self.queues: dict[int, QueueContent] = {}
        self.delays: dict[int, QueueContent] = {}
        """What waits at delayed exchanges, by exchange id."""
        self.marked: set[int] = set()
        """Queue ids that have a mark of how far they were handed out."""
        self.unreferenced = 0
        """Shared messages that no row refers to."""
        self.miscounted: list[int] = []
        """Queue ids of which the store says other numbers than there are messages and bytes."""
        self.miscounted_delays: list[int] = []
        """The same, exchange ids of delayed messages."""

    @property
    def first_problem(self) -> str | None:
        """What is wrong, or the first of it; None if nothing is as far as storage can tell."""
        if self.problems:
            return self.problems[0]
        if self.lost:
            return self.lost[0].reason
        dangling = sum(queue.dangling for queue in self.queues.values())
        if dangling:
            return f"{dangling} rows refer to a shared message that is missing"
        if self.miscounted:
            return f"it is wrong about how much is in queue {self.miscounted[0]}"
        if self.miscounted_delays:
            return f"it is wrong about how much waits at exchange {self.miscounted_delays[0]}"
        return None


def examine(path: Path) -> Examination:
    """Look through a store's file, without changing anything next to it.

    Nobody may have it open. Raises StoreTooNew; DamagedStore for somebody else's database;
    StoreUnreadable if it cannot be opened at all.
    """
    examination = Examination(path)
    salvage = Salvage(path)
    try:
        _structure(examination)
        _rows(examination, salvage)
    finally:
        salvage.close()
    return examination


def _structure(examination: Examination) -> None:
    path, problems = examination.path, examination.problems
    if not is_there(path):
        problems.append("the file is gone, but its write-ahead log is there")
        return
    examination.file_bytes = path.stat().st_size
    examination.log_bytes = log_bytes(path)
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            problems.append("it is not an SQLite database")
            return
    try:
        with open_untouched(path) as connection:
            check_identity(connection, path)
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
            ((version,),) = connection.execute("PRAGMA user_version").fetchall()
            if missing := tables_of(version) - tables:
                problems.append(f"tables are missing: {', '.join(sorted(missing))}")
            if not examination.log_bytes:
                _length(examination, connection)
            for (verdict,) in connection.execute(f"PRAGMA integrity_check({PROBLEMS_MAX})"):
                if verdict != "ok":
                    problems += [line for line in str(verdict).splitlines() if line]
            if not problems and version >= RUNS_SINCE:
                read_batch_number(connection)
            if not problems and version >= BACKLOGS_SINCE:
                _backlogs(examination, connection)
                _delay_counts(examination, connection)
    except DamagedStore as error:
        problems.append(error.reason)
    except sqlite3.Error as error:
        problems.append(str(error))
    except OSError as error:
        raise StoreUnreadable(path, error) from error


def _length(examination: Examination, connection: sqlite3.Connection) -> None:
    ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
    ((page_bytes,),) = connection.execute("PRAGMA page_size").fetchall()
    if examination.file_bytes < pages * page_bytes:
        examination.problems.append(
            f"it is {examination.file_bytes} bytes long and should be {pages * page_bytes}"
        )


def _backlogs(examination: Examination, connection: sqlite3.Connection) -> None:
    known = {queue: backlog for queue, backlog in read_backlogs(connection).items() if backlog[0]}
    counted = count_backlogs(connection)
    wrong = {key >> POSITION_BITS for key in wrong_runs(connection)}
    examination.miscounted = sorted(
        queue_id
        for queue_id in known.keys() | counted.keys() | wrong
        if queue_id in wrong or known.get(queue_id, (0, 0))[:2] != counted.get(queue_id, (0, 0))[:2]
    )


def _delay_counts(examination: Examination, connection: sqlite3.Connection) -> None:
    known = read_delay_counts(connection).messages
    counted = count_delays(connection)
    examination.miscounted_delays = sorted(
        exchange_id
        for exchange_id in known.keys() | counted.keys()
        if known.get(exchange_id, 0) != counted.get(exchange_id, 0)
    )


def _rows(examination: Examination, salvage: Salvage) -> None:
    shared = _SharedMessages()
    queues = examination.queues
    late: list[Place] = []
    for row in salvage.rows():
        match row:
            case Place(key, record):
                queue = queues.get(key >> POSITION_BITS)
                if queue is None:
                    queue = queues[key >> POSITION_BITS] = QueueContent()
                if isinstance(record, bytes):
                    queue.messages += 1
                    queue.body_bytes += len(decode_record(record).body)
                elif (size := shared.refer(record)) is not None:
                    queue.messages += 1
                    queue.body_bytes += size
                else:
                    late.append(row)
            case SharedMessage(message_id, record):
                shared.add(message_id, len(decode_record(record).body))
            case Waiting(_, exchange_id, _, record):
                waiting = examination.delays.setdefault(exchange_id, QueueContent())
                waiting.messages += 1
                waiting.body_bytes += len(decode_record(record).body)
            case Definition():
                examination.definitions.append(row)
            case Mark(queue_id, _):
                examination.marked.add(queue_id)
            case Meta():
                pass
    for place in late:  # their messages may have been among the last finds
        assert isinstance(place.record, int)
        queue = queues[place.key >> POSITION_BITS]
        if (size := shared.refer(place.record)) is not None:
            queue.messages += 1
            queue.body_bytes += size
        else:
            queue.dangling += 1
    examination.meta = salvage.meta
    examination.lost = salvage.lost
    examination.found_again = salvage.found_again
    examination.unreferenced = shared.unreferenced()


class _SharedMessages:
    """Size of each shared message, and whether a row refers to it: 17 bytes a message."""

    def __init__(self) -> None:
        self._ids = array("q")
        self._sizes = array("q")
        self._referred = bytearray()
        self._late: dict[int, int] = {}
        """Found out of order, on pages no tree led to."""
        self._late_referred: set[int] = set()

    def add(self, message_id: int, size: int) -> None:
        if self._ids and message_id <= self._ids[-1]:
            self._late[message_id] = size
            return
        self._ids.append(message_id)
        self._sizes.append(size)
        self._referred.append(0)

    def refer(self, message_id: int) -> int | None:
        """The size of the message; None if there is no such message."""
        place = bisect_left(self._ids, message_id)
        if place < len(self._ids) and self._ids[place] == message_id:
            self._referred[place] = 1
            return self._sizes[place]
        if message_id in self._late:
            self._late_referred.add(message_id)
        return self._late.get(message_id)

    def unreferenced(self) -> int:
        """How many messages no row referred to."""
        return self._referred.count(0) + len(self._late) - len(self._late_referred)
