"""The rows of a B-tree some of whose pages are damaged.

An interior page knows the keys that separate its children, so that what a damaged child held is
known as a range of keys even when nothing of it can be read:

                 interior   | page 7 | 300 | page 9 | 700 | page 4 |
                               <= 300      301..700     > 700
                                            |
                                     cannot be read: Gap(300, 700)

Every page and cell is checked against its surroundings before it is believed: type of page, keys in
ascending order and within the range that the parent gives, lengths that fit, overflow chains that
are as long as the row says. A page that fails is a gap, a cell that fails is a gap between its
neighbours, and the walk goes on. Formats: sqlite.org/fileformat2.html §1.5, §1.6, §2.1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from amqpd_storage.pages import HEADER_BYTES, BadPage, PageFile

INDEX_INTERIOR: Final = 2
TABLE_INTERIOR: Final = 5
INDEX_LEAF: Final = 10
TABLE_LEAF: Final = 13

_NAMES: Final = {TABLE_LEAF: "a table", INDEX_LEAF: "an index"}
_INTEGER_BYTES: Final = (0, 1, 2, 3, 4, 6, 8)

Value = int | float | str | bytes | None


class Row(NamedTuple):
    """A row of a table, with its columns still encoded."""

    rowid: int
    payload: bytes


class LostRow(NamedTuple):
    """A row that is there, and cannot be read."""

    rowid: int
    reason: str
    beginning: bytes = b""
    """What comes before the page of its chain that is damaged, its columns still encoded."""


class Gap(NamedTuple):
    """Rows with `low < rowid <= high` may be lost."""

    low: int
    high: int
    reason: str


class IndexGap(NamedTuple):
    """Rows of an index may be lost at this place in its order."""

    reason: str


class BadCell(Exception):
    """A cell cannot be what it should be; `str()` says why."""


class BrokenChain(BadCell):
    """The pages of a row cannot be followed to its end."""

    def __init__(self, reason: str, beginning: bytes) -> None:
        super().__init__(reason)
        self.beginning = beginning


class _Cell(NamedTuple):
    rowid: int
    size: int
    at: int
    """Where on the page the payload begins."""


class _Child(NamedTuple):
    page: int
    key: int
    """No row below this child has a higher rowid."""


class Trees:
    """Walks the trees of one file, and remembers which pages belong to them."""

    def __init__(self, pages: PageFile) -> None:
        self.pages = pages
        self.visited = bytearray(pages.count + 1)
        """By page number: 1 if a tree holds it, or a row of one."""
        usable = pages.usable_bytes
        self._table_inline_max = usable - 35
        self._index_inline_max = (usable - 12) * 64 // 255 - 23
        self._inline_min = (usable - 12) * 32 // 255 - 23

    # -- tables

    def table(self, root: int, low: int, high: int) -> Iterator[Row | LostRow | Gap]:
        """All rows with `low < rowid <= high`, in order; what is wrong, at its place."""
        try:
            page, start = self._read(root, (TABLE_INTERIOR, TABLE_LEAF))
            if page[start] == TABLE_LEAF:
                yield from self._table_leaf(root, page, start, low, high)
            else:
                yield from self._table_interior(root, page, start, low, high)
        except BadPage as error:
            yield Gap(low, high, str(error))

    def _table_interior(
        self, number: int, page: bytes, start: int, low: int, high: int
    ) -> Iterator[Row | LostRow | Gap]:
        children: list[_Child | None] = []
        for at in self._pointers(number, page, start):
            try:
                key, _ = _varint(page, at + 4)
                children.append(_Child(_u32(page, at), _signed(key)))
            except IndexError:
                children.append(None)
        keys = [child.key if child is not None else None for child in children]
        good = _ascending(keys, low, high)
        if children and not good:
            raise BadPage(f"page {number} has keys of another place")
        self.visited[number] = 1
        below = low
        good_keys = [keys[index] for index in good]
        for index, child in enumerate(children):
            place = bisect_left(good, index)
            above = good_keys[place] if place < len(good) else high
            assert above is not None
            if child is None:
                yield Gap(below, above, f"page {number} is damaged")
                continue
            # Of a child with an impossible key the neighbours' keys are known, and its rows tell.
            yield from self.table(child.page, below, above)
            if place < len(good) and good[place] == index:
                below = above
        yield from self.table(_u32(page, start + 8), below, high)

    def _table_leaf(
        self, number: int, page: bytes, start: int, low: int, high: int
    ) -> Iterator[Row | LostRow | Gap]:
        cells = self._table_cells(number, page, start)
        good = _ascending([cell.rowid if cell else None for cell in cells], low, high)
        if cells and not good:
            raise BadPage(f"page {number} holds rows of another place")
        self.visited[number] = 1
        before = low
        expected = 0
        for index in good:
            cell = cells[index]
            assert cell is not None
            if index != expected and before < cell.rowid - 1:
                yield Gap(before, cell.rowid - 1, f"page {number} is damaged")
            try:
                yield Row(cell.rowid, self._payload(page, cell, self._table_inline_max))
            except BrokenChain as error:
                yield LostRow(cell.rowid, str(error), error.beginning)
            except BadCell as error:
                yield LostRow(cell.rowid, str(error))
            before = cell.rowid
            expected = index + 1
        if expected != len(cells) and before < high:
            yield Gap(before, high, f"page {number} is damaged")

    def table_leaf_rows(self, number: int) -> list[Row]:
        """All rows of a leaf that no tree leads to. Raises BadPage or BadCell if any is wrong."""
        page, start = self._read(number, (TABLE_LEAF,))
        cells = [cell for cell in self._table_cells(number, page, start) if cell is not None]
        rowids = [cell.rowid for cell in cells]
        count = int.from_bytes(page[start + 3 : start + 5], "big")
        if len(cells) < count or len(_ascending(rowids, -1 << 63, (1 << 63) - 1)) < count:
            raise BadPage(f"page {number} is damaged")
        return [
            Row(cell.rowid, self._payload(page, cell, self._table_inline_max)) for cell in cells
        ]

    def _table_cells(self, number: int, page: bytes, start: int) -> list[_Cell | None]:
        cells: list[_Cell | None] = []
        for at in self._pointers(number, page, start):
            try:
                size, at = _varint(page, at)
                rowid, at = _varint(page, at)
                cells.append(_Cell(_signed(rowid), size, at))
            except IndexError:
                cells.append(None)
        return cells

    # -- indexes: tables WITHOUT ROWID

    def index(self, root: int) -> Iterator[bytes | IndexGap]:
        """All rows, encoded, in order; what is wrong, at its place."""
        try:
            page, start = self._read(root, (INDEX_INTERIOR, INDEX_LEAF))
            pointers = self._pointers(root, page, start)
        except BadPage as error:
            yield IndexGap(str(error))
            return
        self.visited[root] = 1
        interior = page[start] == INDEX_INTERIOR
        for at in pointers:
            if interior:
                yield from self.index(_u32(page, at) if at + 4 <= len(page) else 0)
            try:
                yield self._index_payload(page, at, interior)
            except (BadCell, BadPage, IndexError) as error:
                yield IndexGap(str(error) or f"page {root} is damaged")
        if interior:
            yield from self.index(_u32(page, start + 8))

    def index_page_rows(self, number: int) -> list[bytes]:
        """All rows on a page that no tree leads to. Raises BadPage or BadCell if any is wrong."""
        page, start = self._read(number, (INDEX_INTERIOR, INDEX_LEAF))
        interior = page[start] == INDEX_INTERIOR
        try:
            return [
                self._index_payload(page, at, interior)
                for at in self._pointers(number, page, start)
            ]
        except IndexError as error:
            raise BadPage(f"page {number} is damaged") from error

    def _index_payload(self, page: bytes, at: int, interior: bool) -> bytes:
        size, at = _varint(page, at + 4 if interior else at)
        return self._payload(page, _Cell(0, size, at), self._index_inline_max)

    # -- pages

    def _read(self, number: int, types: Sequence[int]) -> tuple[bytes, int]:
        """A page of a tree, and where its header begins. Raises BadPage."""
        page = self.pages.read(number)
        if self.visited[number]:
            raise BadPage(f"page {number} is used twice")
        start = HEADER_BYTES if number == 1 else 0
        if page[start] not in types:
            raise BadPage(f"page {number} is no page of {_NAMES[types[-1]]}")
        return page, start

    def _pointers(self, number: int, page: bytes, start: int) -> tuple[int, ...]:
        """Where the cells of a page begin; a pointer that leads nowhere is past the page's end."""
        count = int.from_bytes(page[start + 3 : start + 5], "big")
        first = start + (12 if page[start] in (TABLE_INTERIOR, INDEX_INTERIOR) else 8)
        end = first + 2 * count
        if end > self.pages.usable_bytes:
            raise BadPage(f"page {number} is damaged")
        return tuple(
            at if at >= end else len(page)
            for at in (
                int.from_bytes(page[place : place + 2], "big") for place in range(first, end, 2)
            )
        )

    def _payload(self, page: bytes, cell: _Cell, inline_max: int) -> bytes:
        """The row's bytes, gathered from its overflow pages. Raises BadCell."""
        usable = self.pages.usable_bytes
        size, at = cell.size, cell.at
        if size <= inline_max:
            if at + size > usable:
                raise BadCell("the row ends behind its page")
            return page[at : at + size]
        if size > self.pages.count * usable:
            raise BadCell(f"the row says that it has {size} bytes, more than the file")
        room = usable - 4
        inline = self._inline_min + (size - self._inline_min) % room
        if inline > inline_max:
            inline = self._inline_min
        if at + inline + 4 > usable:
            raise BadCell("the row ends behind its page")
        pieces = [page[at : at + inline]]
        following = _u32(page, at + inline)
        left = size - inline
        chain: list[int] = []
        while left > 0:
            if following < 2 or self.visited[following : following + 1] == b"\1":
                # The page that says so is not what it was, if it is one of the chain.
                sound = pieces[:-1] or pieces
                raise BrokenChain("its chain of pages is broken", b"".join(sound))
            try:
                overflow = self.pages.read(following)
            except BadPage as error:
                raise BrokenChain(str(error), b"".join(pieces)) from error
            chain.append(following)
            pieces.append(overflow[4 : 4 + min(left, room)])
            left -= room
            following = _u32(overflow, 0)
        if following:
            raise BadCell("its chain of pages does not end where it should")
        for number in chain:
            self.visited[number] = 1
        return b"".join(pieces)


def beginning_of_blob(payload: bytes) -> bytes:
    """What is there of the last column of a row with a key and this column, of which the end is
    lost. Raises BadCell."""
    try:
        header_bytes, at = _varint(payload, 0)
        key, at = _varint(payload, at)
        serial, at = _varint(payload, at)
    except IndexError as error:
        raise BadCell("the row cannot be decoded") from error
    if key or serial < 12 or serial & 1 or at != header_bytes:
        raise BadCell("the row has other columns than it should")
    return payload[header_bytes:]


def columns(payload: bytes) -> list[Value]:
    """The values of a row. Raises BadCell."""
    try:
        return _columns(payload)
    except (IndexError, UnicodeError) as error:
        raise BadCell("the row cannot be decoded") from error


def _columns(payload: bytes) -> list[Value]:
    header_bytes, at = _varint(payload, 0)
    place = header_bytes
    values: list[Value] = []
    while at < header_bytes:
        serial, at = _varint(payload, at)
        if serial >= 12:
            end = place + (serial - 12) // 2
            piece = payload[place:end]
            values.append(piece.decode() if serial & 1 else piece)
        elif serial <= 6:
            end = place + _INTEGER_BYTES[serial]
            number = int.from_bytes(payload[place:end], "big", signed=True)
            values.append(number if serial else None)
        elif serial in (8, 9):
            end = place
            values.append(serial - 8)
        else:
            raise BadCell("the row holds what no store holds")
        place = end
    if at != header_bytes or place != len(payload):
        raise BadCell("the row is not as long as it says")
    return values


def _varint(octets: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and the place behind it. IndexError behind the end."""
    value = octets[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for place in range(at + 1, at + 8):
        octet = octets[place]
        value = value << 7 | octet & 0x7F
        if octet < 0x80:
            return value, place + 1
    return value << 8 | octets[at + 8], at + 9


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _u32(octets: bytes, at: int) -> int:
    return int.from_bytes(octets[at : at + 4], "big")


def _ascending(keys: Sequence[int | None], low: int, high: int) -> Sequence[int]:
    """Which of the keys form the longest ascending row within `low < key <= high`."""
    before = low
    for key in keys:
        if key is None or not before < key <= high:
            break
        before = key
    else:
        return range(len(keys))
    ends: list[int] = []  # the lowest key that ends an ascending row of each length
    end_at: list[int] = []
    previous: dict[int, int | None] = {}
    for index, key in enumerate(keys):
        if key is None or not low < key <= high:
            continue
        length = bisect_left(ends, key)
        previous[index] = end_at[length - 1] if length else None
        ends[length:] = [key, *ends[length + 1 :]]
        end_at[length:] = [index, *end_at[length + 1 :]]
    chosen: list[int] = []
    last = end_at[-1] if end_at else None
    while last is not None:
        chosen.append(last)
        last = previous[last]
    return chosen[::-1]
