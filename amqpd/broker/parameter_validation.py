"""Checks of the values of runtime parameters, in RabbitMQ's words (rabbit_parameter_validation).

A check takes the name to blame and the value, and returns what is wrong with it, nothing if all is
well. `check_object` puts the checks of an object's fields together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from amqpd.broker.erlang_terms import pairs, term
from amqpd.broker.patterns import InvalidPattern, compile_name_pattern

INTEGER_MIN: Final = -(1 << 63)
INTEGER_MAX: Final = (1 << 63) - 1

Check = Callable[[str, Any], list[str]]


class Field(NamedTuple):
    """One field of an object."""

    name: str
    check: Check
    mandatory: bool = True


def check_object(name: str, fields: tuple[Field, ...], value: Any) -> list[str]:
    """Everything wrong with an object that has to have these fields and no other.

    The last field comes first, as RabbitMQ lists them.
    """
    unknown = ""
    if isinstance(value, list):  # which is an object to Erlang: of pairs
        unknown = term(value) if value else ""
        value = {}
    if not isinstance(value, dict):
        return [f"{name} not a list {term(value)}"]
    problems: list[str] = []
    for field in reversed(fields):
        if field.name in value:
            problems += field.check(field.name, value[field.name])
        elif field.mandatory:
            problems.append(f'Key "{field.name}" not found in {name}')
    known = {field.name for field in fields}
    more = {key: item for key, item in value.items() if key not in known}
    if unknown or more:
        problems.append(f"Unrecognised terms {unknown or pairs(more)} in {name}")
    return problems


def check_number(name: str, value: Any) -> list[str]:
    """An integer or a fraction."""
    if isinstance(value, float) or is_integer(value):
        return []
    return [f"{name} should be a number, actually was {term(value)}"]


def check_integer(name: str, value: Any) -> list[str]:
    """An integer of 64 bits; RabbitMQ calls it a number all the same."""
    if is_integer(value):
        return []
    return [f"{name} should be a number, actually was {term(value)}"]


def check_pattern(name: str, value: Any) -> list[str]:
    """A regular expression."""
    if not isinstance(value, str):
        return [f"{name} should be a binary but was {term(value)}"]
    try:
        compile_name_pattern(value)
    except InvalidPattern as error:
        return [f"{name} should be regular expression but is invalid: {error.reason}"]
    return []


def is_integer(value: Any) -> bool:
    """Whether it is an integer of 64 bits (and no boolean)."""
    return type(value) is int and INTEGER_MIN <= value <= INTEGER_MAX
