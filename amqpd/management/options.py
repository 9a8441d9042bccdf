"""What the query says about a list: order, pages, columns.

    ?sort=message_stats.publish&sort_reverse=true&columns=name,messages&page=2&page_size=50&name=a

Names in `sort` and `columns` lead into objects with dots. Without `page` the reply is a bare list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from amqpd.broker.patterns import compile_filter
from amqpd.management.call import Answer
from amqpd.management.errors import ApiError, bad_request

PAGE_SIZE: Final = 100
PAGE_SIZE_MAX: Final = 500
UNREADABLE: Final = "Pagination parameters are invalid"


def apply(answer: Answer, query: Mapping[str, str]) -> Any:
    """The answer's body as the query wants it. Raises 400."""
    columns = _columns(query)
    if answer.sorted_by is None:
        return _reduced(answer.body, columns)
    items = _sorted(answer.body, answer.sorted_by, query)
    if "page" not in query:
        return _reduced(items, columns)
    return _page(items, columns, query)


def _columns(query: Mapping[str, str]) -> list[list[str]] | None:
    if "columns" not in query:
        return None
    return [name.split(".") for name in query["columns"].split(",") if name]


def _reduced(value: Any, columns: list[list[str]] | None) -> Any:
    """The object, or each object of the list, with these members alone."""
    if columns is None:
        return value
    if isinstance(value, list):
        return [_reduced(item, columns) for item in value]
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for path in columns:
        _copy(value, kept, path)
    return kept


def _copy(value: dict[str, Any], kept: dict[str, Any], path: list[str]) -> None:
    name, *rest = path
    if name not in value:
        return
    inner = value[name]
    if not rest:
        kept[name] = inner
    elif isinstance(inner, dict):
        _copy(inner, kept.setdefault(name, {}), rest)


def _sorted(items: list[Any], default: tuple[str, ...], query: Mapping[str, str]) -> list[Any]:
    names = [query["sort"]] if query.get("sort") else list(default)
    paths = [name.split(".") for name in names]
    reverse = query.get("sort_reverse") == "true"

    def key(item: Any) -> list[tuple[int, Any]]:
        return [_order(_at(item, path)) for path in paths]

    return sorted(items, key=key, reverse=reverse) if paths else items


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


def _page(
    items: list[Any], columns: list[list[str]] | None, query: Mapping[str, str]
) -> dict[str, Any]:
    page, size = _number(query.get("page")), _number(query.get("page_size", str(PAGE_SIZE)))
    if page is None and query.get("page"):
        raise bad_request(UNREADABLE)
    if not page or size is None or not 0 < size <= PAGE_SIZE_MAX:
        shown = [query.get(name) or "undefined" for name in ("page", "page_size")]
        text = f"Invalid pagination parameters: page number {shown[0]}, page size {shown[1]}"
        raise ApiError(400, {"error": "invalid_pagination_parameters", "reason": text})
    filtered = _named(items, query)
    pages = max(1, -(-len(filtered) // size))
    if page > pages:
        text = f"Page out of range, page: {page} page size: {size}, len: {len(filtered)}"
        raise ApiError(400, {"error": "page_out_of_range", "reason": text})
    chosen = filtered[(page - 1) * size : page * size]
    return {
        "filtered_count": len(filtered),
        "item_count": len(chosen),
        "items": _reduced(chosen, columns),
        "page": page,
        "page_count": pages,
        "page_size": size,
        "total_count": len(items),
    }


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _named(items: list[Any], query: Mapping[str, str]) -> list[Any]:
    wanted = query.get("name", "")
    if not wanted:
        return items
    if query.get("use_regex") != "true":
        return [item for item in items if wanted.lower() in str(item.get("name", "")).lower()]
    try:
        pattern = compile_filter(wanted)
    except ValueError as error:
        raise bad_request(UNREADABLE) from error
    return [item for item in items if pattern.search(str(item.get("name", "")))]
