"""What the query says about a list: order, pages, columns.

    ?sort=message_stats.publish&sort_reverse=true&columns=name,messages&page=2&page_size=50&name=a

Names in `sort` and `columns` lead into objects with dots, those in `columns` into each object of a
list. Without `page` the reply is a bare list.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from amqpd.broker.patterns import compile_filter
from amqpd.management.call import Answer
from amqpd.management.errors import ApiError, bad_request
from amqpd.management.listing import Listing, Steps

PAGE_SIZE: Final = 100
PAGE_SIZE_MAX: Final = 500
UNREADABLE: Final = "Pagination parameters are invalid"

Columns: TypeAlias = "dict[str, Columns | None]"
"""The members that are wanted, and of each the members that are; None: all of it."""


def apply(answer: Answer, query: Mapping[str, str]) -> Steps[Any]:
    """The answer's body as the query wants it, in steps. Raises 400."""
    columns = _columns(query)
    listing = answer.body
    if isinstance(listing, Generator):
        listing = yield from listing
    if not isinstance(listing, Listing):
        return _reduced(listing, columns)
    page = _page(query) if "page" in query else None
    names = [query["sort"]] if query.get("sort") else list(listing.sorted_by)
    paths = [name.split(".") for name in names]

    def key(row: Any) -> list[tuple[int, Any]]:
        return [_order(_at(row, path)) for path in paths]

    found = yield from listing.find(
        _filter(query) if page else _anything,
        key if paths else None,
        [path[0] for path in paths],
        reverse=query.get("sort_reverse") == "true",
    )
    shown = partial(_reduced, columns=columns)
    if page is None:
        return (yield from found.rows(0, found.count, shown))
    number, size = page
    pages = max(1, -(-found.count // size))
    if number > pages:
        text = f"Page out of range, page: {number} page size: {size}, len: {found.count}"
        raise ApiError(400, {"error": "page_out_of_range", "reason": text})
    rows = yield from found.rows((number - 1) * size, number * size, shown)
    return {
        "filtered_count": found.count,
        "item_count": len(rows),
        "items": rows,
        "page": number,
        "page_count": pages,
        "page_size": size,
        "total_count": len(listing.sources),
    }


def _columns(query: Mapping[str, str]) -> Columns | None:
    if "columns" not in query:
        return None
    columns: Columns = {}
    for path in query["columns"].split(","):
        if path:
            _add(columns, path.split("."))
    return columns


def _add(columns: Columns, path: list[str]) -> None:
    *leading, last = path
    for name in leading:
        inner = columns.setdefault(name, {})
        if inner is None:  # the whole member is wanted already
            return
        columns = inner
    columns[last] = None


def _reduced(value: Any, columns: Columns | None) -> Any:
    """The object, or each object of the list, with these members alone."""
    if columns is None:
        return value
    if isinstance(value, list):
        return [_reduced(item, columns) for item in value]
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for name, inner in columns.items():
        if name in value and (inner is None or isinstance(value[name], (dict, list))):
            kept[name] = _reduced(value[name], inner)
    return kept


def _at(value: Any, path: list[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _order(value: Any) -> tuple[int, Any]:
    """Erlang's order of terms: numbers, then what is not there, then texts, then all else."""
    if isinstance(value, bool) or value is None:
        return 1, str(value)
    if isinstance(value, (int, float)):
        return 0, value
    return (2, value) if isinstance(value, str) else (3, str(value))


def _page(query: Mapping[str, str]) -> tuple[int, int]:
    """The number of the page, and how many rows it has at most. Raises 400."""
    page, size = number(query.get("page")), number(query.get("page_size", str(PAGE_SIZE)))
    if page is None and query.get("page"):
        raise bad_request(UNREADABLE)
    if not page or size is None or not 0 < size <= PAGE_SIZE_MAX:
        shown = [query.get(name) or "undefined" for name in ("page", "page_size")]
        text = f"Invalid pagination parameters: page number {shown[0]}, page size {shown[1]}"
        raise ApiError(400, {"error": "invalid_pagination_parameters", "reason": text})
    return page, size


def number(text: str | None) -> int | None:
    """A number of at most nine digits: nobody means more, and Python refuses thousands."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _filter(query: Mapping[str, str]) -> Callable[[Any], bool]:
    """What a row's name has to be like to be on a page. Raises 400."""
    wanted = query.get("name", "")
    if not wanted:
        return _anything
    if query.get("use_regex") != "true":
        return lambda row: wanted.lower() in str(row.get("name", "")).lower()
    try:
        pattern = compile_filter(wanted)
    except ValueError as error:
        raise bad_request(UNREADABLE) from error
    return lambda row: pattern.search(str(row.get("name", ""))) is not None


def _anything(row: Any) -> bool:
    return True
