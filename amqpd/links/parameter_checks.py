"""Checks of what links are told by runtime parameters, in RabbitMQ's words.

Each takes the name to blame and the value, and returns what is wrong with it, as those of
`amqpd.broker.parameter_validation` do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from amqpd.broker.erlang_terms import term
from amqpd.broker.parameter_validation import check_integer, check_number
from amqpd.links.uri import InvalidURI, parse_uri, tls_problem

PREFETCH_MAX: Final = 65535
DELAY_MAX_S: Final = 86400
URIS_MAX: Final = 64


def check_text(name: str, value: Any) -> list[str]:
    """Any string."""
    if isinstance(value, str):
        return []
    return [f"{name} should be binary, actually was {term(value)}"]


def check_name(name: str, value: Any) -> list[str]:
    """A name that AMQP can carry: RabbitMQ checks that of `dest-queue` alone, and fails later."""
    size = len(value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else 0
    if size > 255:
        return [f"{name} should be less than 255 bytes, actually was {size}"]
    return check_text(name, value)


def check_boolean(name: str, value: Any) -> list[str]:
    """True or false."""
    if isinstance(value, bool):
        return []
    return [f"{name} should be boolean, actually was {term(value)}"]


def one_of(*options: str) -> Callable[[str, Any], list[str]]:
    """One of these strings."""

    def check(name: str, value: Any) -> list[str]:
        if not isinstance(value, str):
            return check_text(name, value)
        if value in options:
            return []
        shown = f"[{','.join(map(term, options))}]"
        return [f"{name} should be one of {shown}, actually was {term(value)}"]

    return check


def integer_within(least: int, most: int) -> Callable[[str, Any], list[str]]:
    """A whole number from `least` to `most`."""

    def check(name: str, value: Any) -> list[str]:
        problems = check_integer(name, value)
        if not problems and not least <= value <= most:
            return [f"{name} should be a number from {least} to {most}, actually was {value}"]
        return problems

    return check


check_prefetch = integer_within(0, PREFETCH_MAX)


def check_delay(name: str, value: Any) -> list[str]:
    """Seconds before a link is tried again."""
    problems = check_number(name, value)
    if not problems and not 0 <= value <= DELAY_MAX_S:
        return [
            f"{name} should be a number from 0 to {DELAY_MAX_S}, actually was {term(value)}",
        ]
    return problems


def check_uris(name: str, value: Any) -> list[str]:
    """A URI, or a list of them."""
    if isinstance(value, str):
        try:
            reason = tls_problem(parse_uri(value))
        except InvalidURI as invalid:
            reason = str(invalid)
        return [f'"{_without_password(value)}" not a valid URI: {reason}'] if reason else []
    if not isinstance(value, list):
        return [f"{name} should be list, actually was {term(value)}"]
    if not 0 < len(value) <= URIS_MAX:
        return [f"{name} should have 1 to {URIS_MAX} URIs, actually had {len(value)}"]
    for uri in value:
        problems = check_uris(name, uri) if isinstance(uri, str) else check_text(name, uri)
        if problems:
            return problems[:1]
    return []


def _without_password(uri: str) -> str:
    """RabbitMQ shows it, in errors and logs."""
    head, at, tail = uri.rpartition("@")
    scheme, separator, _ = head.partition("://")
    return f"{scheme}{separator}***{at}{tail}" if at and separator else uri
