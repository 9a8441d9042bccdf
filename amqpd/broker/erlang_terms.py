"""JSON values as Erlang terms (`~tp`), in the texts with which RabbitMQ refuses them.

Long terms stay on one line, where Erlang would break them at column 80.
"""

from __future__ import annotations

from typing import Any

from amqpd.wire.tables import erlang, erlang_binary

PRINTABLE_CONTROLS = frozenset(b"\b\t\n\v\f\r\x1b")


def term(value: Any) -> str:
    """One value: `<<"text">>`, `5`, `[1,2]`, `#{<<"key">> => true}`, `null`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return erlang("d", value)
    if isinstance(value, str):
        return erlang_binary(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, dict):
        entries = (f"{term(key)} => {term(item)}" for key, item in sorted(value.items()))
        return f"#{{{','.join(entries)}}}"
    if isinstance(value, list):
        return _text(value) if _is_text(value) else f"[{','.join(map(term, value))}]"
    return str(value)


def pairs(values: dict[str, Any]) -> str:
    """An object as a list of pairs: `[{<<"key">>,5}]`."""
    entries = (f"{{{term(key)},{term(value)}}}" for key, value in sorted(values.items()))
    return f"[{','.join(entries)}]"


def _is_text(values: list[Any]) -> bool:
    """Whether Erlang takes a list of numbers for a string, and shows it as one."""
    return bool(values) and all(
        type(value) is int
        and (value in PRINTABLE_CONTROLS or 32 <= value < 127 or 160 <= value < 256)
        for value in values
    )


def _text(values: list[int]) -> str:
    binary = erlang_binary("".join(map(chr, values)).encode())
    return binary.removeprefix("<<").removesuffix(">>").removesuffix("/utf8")
