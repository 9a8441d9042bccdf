"""Everything that can still be read in a store's file, and what cannot.

The trees of the tables are walked from their roots (btree). Where that leaves gaps, the pages that
no tree led to and that are not free are looked at one by one: a row found there counts if it falls
into a gap, since anywhere else the tree would have had it. Such a row may be an older version of
the page, and the message may have been acknowledged since; that cannot be known.

Tables are told apart by what their rows look like, if the schema cannot be read:

    entry       (NULL, record, run of records or message id)
                                               key >= 2^40, since queue ids begin at 1
    message     (NULL, record)                 key < 2^40
    run         (NULL, last key, number, ranges)
    delivered   (NULL, position)               key < 2^23
    delayed     (NULL, exchange id, due time, record)
    definition  (kind, key, value)             meta  (name, value)
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple

from amqpd_storage.btree import (
    INDEX_INTERIOR,
    INDEX_LEAF,
    TABLE_LEAF,
    BadCell,
    Gap,
    IndexGap,
    LostRow,
    Row,
    Trees,
    Value,
    beginning_of_blob,
    columns,
)
from amqpd_storage.entries import POSITION_BITS, QUEUE_ID_MAX
from amqpd_storage.errors import DamagedStore, StoreTooNew, StoreUnreadable
from amqpd_storage.pages import BadPage, PageFile
from amqpd_storage.records import decode_record, decode_records, holds_run, split_run
from amqpd_storage.runs import RUN_MESSAGES_MAX, KeyRanges, settled_ranges
from amqpd_storage.sqlite_file import RUNS_SINCE, SCHEMA_VERSION, TABLES

Table = Literal["meta", "definition", "message", "delivered", "entry", "delayed", "run"]

ROOTS: Final[dict[str, int]] = {
    "meta": 3,
    "entry": 4,
    "message": 5,
    "dropped": 8,
    "delivered": 9,
    "definition": 10,
    "delayed": 11,
    "run": 14,
}
"""Where the trees begin in a file whose schema cannot be read: in the order of their creation.

Page 2 says who refers to which page, for the sake of giving pages back. Page 6 is the
index, and 7 the table that only adds up what the rows say."""

ROOTS_1: Final[dict[str, int]] = {
    "meta": 2,
    "entry": 3,
    "message": 4,
    "delivered": 5,
    "definition": 6,
}
"""The same for a file of version 1."""

KEY_MIN: Final = 1 << POSITION_BITS
KEY_MAX: Final = (1 << 63) - 1

_BOUNDS: Final[dict[Table, tuple[int, int]]] = {
    "message": (-KEY_MAX - 1, KEY_MIN - 1),
    "delivered": (-1, QUEUE_ID_MAX),
    "entry": (KEY_MIN - 1, KEY_MAX),
    "delayed": (0, KEY_MAX),
}


class Meta(NamedTuple):
    """What the store says about itself."""

    name: str
    value: str


class Definition(NamedTuple):
    """A durable thing other than a message."""

    kind: str
    key: str
    value: bytes


class SharedMessage(NamedTuple):
    """A message that several rows may refer to."""

    message_id: int
    record: bytes


class Mark(NamedTuple):
    """See entries.Delivered."""

    queue_id: int
    below: int


class Place(NamedTuple):
    """A message's place in its queue: its record, or the id of a shared one.

    As it lies in the file it may be a run of records; `Salvage.rows` takes these apart.
    """

    key: int
    record: bytes | int


class Waiting(NamedTuple):
    """A message that waits at a delayed exchange."""

    sequence: int
    exchange_id: int
    due_ms: int
    record: bytes


Keyed = SharedMessage | Mark | Place | Waiting
Found = Meta | Definition | Keyed

_TABLE_OF: Final[dict[type[Found], Table]] = {
    Meta: "meta",
    Definition: "definition",
    SharedMessage: "message",
    Mark: "delivered",
    Place: "entry",
    Waiting: "delayed",
}


class LostKeys(NamedTuple):
    """Rows of `table` with `first <= key <= last` that cannot be read, as far as there were any."""

    table: Table
    first: int
    last: int
    reason: str
    found: int = 0
    """So many of them were found again, on pages that no tree led to."""


class LostNames(NamedTuple):
    """Rows of definition or meta that cannot be read, between two that can."""

    table: Table
    after: tuple[str, ...] | None
    before: tuple[str, ...] | None
    reason: str


class Salvage:
    """One pass over a file. Iterate `rows()` to its end, then look at what is lost.

    Raises DamagedStore for a file that is sound and somebody else's, StoreTooNew, StoreUnreadable
    for one that cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.pages = PageFile(path)
        except OSError as error:
            raise StoreUnreadable(path, error) from error
        self.path = path
        self.lost: list[LostKeys | LostNames] = []
        self.found_again = 0
        """Rows that were found on pages no tree led to."""
        self._trees = Trees(self.pages)
        self._gaps: dict[Table, list[int]] = {table: [] for table in _BOUNDS}
        """Where among `lost` the gaps of a table are."""
        self._found_names: dict[Table, set[tuple[str, ...]]] = {"meta": set(), "definition": set()}
        self._name_gaps: set[Table] = set()
        known, guessed = self._read_roots()
        self.roots = guessed | known
        self.meta: dict[str, str] = {
            row.name: row.value for row in self._index("meta") if isinstance(row, Meta)
        }
        self._check_version()
        self._dropped = KeyRanges(sorted(self._read_dropped()))
        if "run" not in known and self._version() < RUNS_SINCE:
            self.roots.pop("run", None)
        # A root that is a guess may be the page of something else.
        trees = self._trees if "run" in known else Trees(self.pages)
        self._run_firsts, self._run_lasts = array("q"), array("q")
        self._settled = KeyRanges(sorted(self._read_runs(trees)))
        self._unknown_runs = KeyRanges(
            sorted((each.first, each.last) for each in self.lost if isinstance(each, LostKeys))
        )
        """Of whose keys table `run` does not say any more where they end."""
        self._dropped_exchanges = set(self._read_dropped_exchanges())

    def rows(self) -> Iterator[Found]:
        """Definitions, messages, marks and places, each in order of their keys; then finds."""
        yield from self._index("definition")
        for table in _BOUNDS:
            if table in self.roots:
                yield from self._table(table)
        if self._name_gaps or any(self._gaps.values()):
            yield from self._finds()

    def close(self) -> None:
        """Give the file back."""
        self.pages.close()

    # -- what kind of file it is

    def _read_roots(self) -> tuple[dict[str, int], dict[str, int]]:
        """What the schema says; and where to look where it cannot be read."""
        found: dict[str, int] = {}
        whole = self.pages.header.is_sound
        for row in Trees(self.pages).table(1, 0, KEY_MAX):
            if not isinstance(row, Row):
                whole = False
                continue
            try:
                match columns(row.payload):
                    case ["table", str(name), _, int(root), _]:
                        found[name] = root
            except BadCell:
                whole = False
        if whole and not found.keys() & TABLES:
            raise DamagedStore(self.path, "it is an SQLite database, but not amqpd's")
        return found, {} if whole else ROOTS_1 if self._is_of_version_1() else ROOTS

    def _is_of_version_1(self) -> bool:
        """Page 2 is the root of meta, then, and otherwise none of a tree."""
        try:
            return self.pages.read(2)[0] in (INDEX_INTERIOR, INDEX_LEAF)
        except BadPage:
            return False

    def _check_version(self) -> None:
        if (version := self._version()) > SCHEMA_VERSION:
            raise StoreTooNew(self.path, version, SCHEMA_VERSION)

    def _version(self) -> int:
        """That of the schema; the latest if nobody knows."""
        text = self.meta.get("schema_version", "")
        return int(text) if text.isascii() and text.isdigit() else SCHEMA_VERSION

    def _read_dropped(self) -> list[tuple[int, int]]:
        """First and last key of rows that are to be deleted: they are not lost, but gone."""
        ranges: list[tuple[int, int]] = []
        if "dropped" in self.roots:
            for row in self._trees.table(self.roots["dropped"], 0, KEY_MAX):
                if isinstance(row, Row):
                    with suppress(BadCell):
                        match columns(row.payload):
                            case [None, int(last)]:
                                ranges.append((row.rowid, last))
        return ranges

    def _read_runs(self, trees: Trees) -> Iterator[tuple[int, int]]:
        """Which keys runs have; first and last key of what is gone of them. Where that cannot be
        read, it comes back."""
        if "run" not in self.roots:
            return
        for row in trees.table(self.roots["run"], KEY_MIN - 1, KEY_MAX):
            if isinstance(row, Gap):
                self.lost.append(LostKeys("run", row.low + 1, row.high, row.reason))
                continue
            last = row.rowid + RUN_MESSAGES_MAX - 1
            reason = row.reason if isinstance(row, LostRow) else "the row is damaged"
            if isinstance(row, Row):
                with suppress(BadCell, ValueError):
                    match columns(row.payload):
                        case [None, int(run_last), int(), str(settled)]:
                            ranges = settled_ranges(row.rowid, settled)
                            if run_last <= last and all(a <= b <= run_last for a, b in ranges):
                                self._run_firsts.append(row.rowid)
                                self._run_lasts.append(run_last)
                                yield from ranges
                                continue
            self.lost.append(LostKeys("run", row.rowid, last, reason))

    def _end_of_run(self, key: int) -> int:
        """The last key of the run that has this one; this one, if none is known to have it."""
        place = bisect_right(self._run_firsts, key) - 1
        return max(self._run_lasts[place], key) if place >= 0 else key

    def _last_of(self, key: int) -> int:
        """The last key that a message may have which lies in the row with this key, or before."""
        last = self._end_of_run(key)
        if last == key and key in self._unknown_runs:
            return min(key + RUN_MESSAGES_MAX - 1, KEY_MAX)
        return last

    def _messages(self, row: Keyed) -> Iterator[Keyed]:
        """The row as it is; or the messages of a run, each as a row of its own; without those that
        are gone. Raises DamagedStore if that is no run."""
        if isinstance(row, Place) and isinstance(row.record, bytes) and holds_run(row.record):
            for key, record in split_run(row.key, row.record)[0]:
                place = Place(key, record)
                if key not in self._settled and not self._is_dropped(place):
                    yield place
        elif not self._is_dropped(row):
            yield row

    def _beginning_of_run(self, key: int, payload: bytes, reason: str) -> Iterator[Found]:
        """What can be read of a row of `entry` that is not whole; the rest is lost."""
        octets = b""
        records: list[tuple[int, bytes]] = []
        end = self._last_of(key) + 1
        with suppress(BadCell, DamagedStore):
            octets = beginning_of_blob(payload)
            if holds_run(octets):
                records, end = split_run(key, octets)
        if records:
            yield from self._messages(Place(key, octets))
        self.lost.append(LostKeys("entry", key + len(records), end - 1, reason))

    def _is_dropped(self, row: Keyed) -> bool:
        if isinstance(row, Waiting):
            return row.exchange_id in self._dropped_exchanges
        return isinstance(row, Place) and row.key in self._dropped

    def _read_dropped_exchanges(self) -> Iterator[int]:
        """Exchanges whose rows are gone, and not deleted yet."""
        if "delayed_count" in self.roots:
            for row in self._trees.table(self.roots["delayed_count"], 0, KEY_MAX):
                if isinstance(row, Row):
                    with suppress(BadCell):
                        if columns(row.payload)[2:] == [1]:
                            yield row.rowid

    # -- what the trees lead to

    def _table(self, table: Table) -> Iterator[Found]:
        for row in self._trees.table(self.roots[table], *_BOUNDS[table]):
            match row:
                case Row(rowid, payload):
                    try:
                        yield from self._messages(understood(rowid, payload, table))
                    except (BadCell, DamagedStore) as error:
                        reason = error.reason if isinstance(error, DamagedStore) else str(error)
                        if table == "entry":
                            yield from self._beginning_of_run(rowid, payload, reason)
                        else:
                            self.lost.append(LostKeys(table, rowid, rowid, reason))
                case LostRow(rowid, reason, beginning) if table == "entry":
                    yield from self._beginning_of_run(rowid, beginning, reason)
                case LostRow(rowid, reason):
                    self.lost.append(LostKeys(table, rowid, rowid, reason))
                case Gap(low, high, reason):
                    self._gaps[table].append(len(self.lost))
                    after, last = low, high
                    if table == "entry":
                        end, last = self._end_of_run(low), self._last_of(high)
                        after = end if end < high else low  # no run is all of the gap
                    self.lost.append(LostKeys(table, after + 1, last, reason))

    def _index(self, table: Table) -> Iterator[Found]:
        last: tuple[str, ...] | None = None
        reason = ""
        for item in self._trees.index(self.roots[table]):
            problem = item.reason if isinstance(item, IndexGap) else ""
            if isinstance(item, bytes):
                try:
                    row = understood_name(item, table)
                except BadCell as error:
                    problem = str(error)
            if problem:
                reason = reason or problem
                continue
            name = row[:-1]
            if reason:
                self._lose_names(table, last, name, reason)
            reason, last = "", name
            self._found_names[table].add(name)
            yield row
        if reason:
            self._lose_names(table, last, None, reason)

    def _lose_names(
        self,
        table: Table,
        after: tuple[str, ...] | None,
        before: tuple[str, ...] | None,
        reason: str,
    ) -> None:
        self.lost.append(LostNames(table, after, before, reason))
        self._name_gaps.add(table)

    # -- what they do not lead to

    def _finds(self) -> Iterator[Found]:
        """Rows on pages that are neither free nor part of a tree, if they fill a gap."""
        free = self._free_pages()
        visited = self._trees.visited
        seen: set[tuple[Table, int]] = set()
        for number in range(2, self._last_page() + 1):
            if visited[number] or number in free:
                continue
            for row in self._rows_of(number):
                table = _TABLE_OF[type(row)]
                if isinstance(row, Meta | Definition):
                    name = row[:-1]
                    if table not in self._name_gaps or name in self._found_names[table]:
                        continue
                    self._found_names[table].add(name)
                    self.found_again += 1
                    yield row
                elif self._gap_of(table, row[0]) is not None:
                    for each in self._messages(row):
                        gap = self._gap_of(table, each[0])
                        if gap is not None and (table, each[0]) not in seen:
                            seen.add((table, each[0]))
                            self.found_again += 1
                            lost = self._lost_keys(gap)
                            self.lost[gap] = lost._replace(found=lost.found + 1)
                            yield each

    def _rows_of(self, number: int) -> list[Found]:
        """The rows of a page, if all of them are such as a store has."""
        try:
            kind = self.pages.read(number)[0]
            if kind == TABLE_LEAF:
                rows = self._trees.table_leaf_rows(number)
                return [understood(row.rowid, row.payload) for row in rows]
            if kind in (INDEX_LEAF, INDEX_INTERIOR):
                payloads = self._trees.index_page_rows(number)
                return [understood_name(payload) for payload in payloads]
        except (BadPage, BadCell, DamagedStore):
            pass
        return []

    def _gap_of(self, table: Table, key: int) -> int | None:
        """Which of the lost is the gap that a row with this key may have been in."""
        gaps = self._gaps[table]
        place = bisect_left(gaps, key, key=lambda index: self._lost_keys(index).last)
        if place == len(gaps) or self._lost_keys(gaps[place]).first > key:
            return None
        return gaps[place]

    def _lost_keys(self, index: int) -> LostKeys:
        lost = self.lost[index]
        assert isinstance(lost, LostKeys)
        return lost

    def _last_page(self) -> int:
        """What stands behind the end that the header names was given back."""
        header = self.pages.header
        sound = header.is_sound and 0 < header.pages <= self.pages.count
        return header.pages if sound else self.pages.count

    def _free_pages(self) -> set[int]:
        free: set[int] = set()
        trunk = self.pages.header.first_free_page if self.pages.header.is_sound else 0
        while trunk and trunk not in free:
            try:
                page = self.pages.read(trunk)
            except BadPage:
                break
            free.add(trunk)
            count = min(int.from_bytes(page[4:8], "big"), self.pages.usable_bytes // 4 - 2)
            free.update(
                int.from_bytes(page[at : at + 4], "big") for at in range(8, 8 + 4 * count, 4)
            )
            trunk = int.from_bytes(page[:4], "big")
        return free


def understood(rowid: int, payload: bytes, table: Table | None = None) -> Keyed:
    """A row of one of the tables with integer keys. Raises BadCell or DamagedStore."""
    row: Keyed
    match columns(payload):
        case [None, int(exchange_id), int(due_ms), bytes(record)]:
            decode_record(record)
            row = Waiting(rowid, exchange_id, due_ms, record)
        case [None, value]:
            row = _understood(rowid, value)
        case _:
            raise BadCell("the row has other columns than it should")
    if table not in (None, _TABLE_OF[type(row)]):
        raise BadCell("the row is of another table")
    return row


def _understood(rowid: int, value: Value) -> SharedMessage | Mark | Place:
    """A row that is told from others by its key and the type of its one column."""
    if isinstance(value, bytes):
        if rowid >= KEY_MIN:
            decode_records(value, (rowid,))
            return Place(rowid, value)
        decode_record(value)
        return SharedMessage(rowid, value)
    if isinstance(value, int):
        return Place(rowid, value) if rowid >= KEY_MIN else Mark(rowid, value)
    raise BadCell("the row holds what it should not")


def understood_name(payload: bytes, table: Table | None = None) -> Meta | Definition:
    """A row of meta or definition. Raises BadCell."""
    values: list[Value] = columns(payload)
    match values:
        case [str(kind), str(key), bytes(value)] if table in (None, "definition"):
            return Definition(kind, key, value)
        case [str(name), str(text)] if table in (None, "meta"):
            return Meta(name, text)
    raise BadCell("the row has other columns than it should")
