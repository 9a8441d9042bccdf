"""What is wrong with a setting, in plain words: its name, the value given, and what it may be.

msgspec says what it stumbled over in the words of a type checker; a person who misspelt a name or
wrote a number too large wants to know what to write instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from amqpd.config import Config, Limits
from amqpd.short_string import SHORT_STRING_OCTETS_MAX

if TYPE_CHECKING:
    from msgspec import inspect

PLACE: Final = re.compile(r" - at `\$(?P<path>[^`]*)`$")
UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?P<name>.*?)`(?: - at `|$)")
OCTETS: Final = ("default_user", "default_vhost", "event_exchange_vhost", "anonymous_login_user")
"""Names that AMQP gives one octet for their length."""
SECRETS: Final = ("default_pass",)
SHOWN_MAX: Final = 60


class Problem(NamedTuple):
    """A setting that cannot be used."""

    name: str
    """As in the file: `limits.heartbeat_s`."""
    value: Any
    advice: str

    @property
    def shown(self) -> str:
        """The value as TOML has it, as far as it fits into a line."""
        if self.name in SECRETS:
            return "***"
        return shorten(json.dumps(self.value, ensure_ascii=False, default=str))


class UnknownSetting(NamedTuple):
    """A name that no setting has."""

    name: str
    advice: str


def shorten(text: str) -> str:
    """As much as fits into a line."""
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."


def problem_of(
    settings: Mapping[str, Any], error: msgspec.ValidationError
) -> Problem | UnknownSetting:
    """What msgspec found."""
    text = str(error)
    place = PLACE.search(text)
    # `[0]` is an item of a list, `[...]` one of a table whose keys are free.
    names = [] if place is None else re.sub(r"\[[^]]*\]", "", place["path"]).split(".")[1:]
    unknown = UNKNOWN.match(text)
    if unknown is not None:
        return _unknown(unknown["name"], within_limits=names == ["limits"])
    value: Any = settings
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else value
    return Problem(".".join(names), value, f"write {_allowed(names)}")


def too_long(settings: Mapping[str, Any]) -> Problem | None:
    """A name with more octets than AMQP has room for, or that is no text at all."""
    for name in OCTETS:
        value = settings.get(name)
        if value is None:
            continue
        try:
            octets = len(value.encode())
        except UnicodeEncodeError:
            return Problem(name, value, "write it in UTF-8")
        if octets > SHORT_STRING_OCTETS_MAX:
            return Problem(name, value, f"write 1 to {SHORT_STRING_OCTETS_MAX} octets, in UTF-8")
    return None


def _unknown(name: str, *, within_limits: bool) -> UnknownSetting:
    settings, limits = Config.__struct_fields__, Limits.__struct_fields__
    own, others = (limits, settings) if within_limits else (settings, limits)
    shown = f"limits.{name}" if within_limits else name
    word = name.replace("-", "_")
    if word in others:
        place = "above [limits], at the top" if within_limits else "under [limits]"
        return UnknownSetting(shown, f"{word} belongs {place}")
    import difflib  # only here, where somebody has time: it would make each start longer

    near = difflib.get_close_matches(word, own, 1) or difflib.get_close_matches(word, others, 1)
    if not near:
        return UnknownSetting(shown, "docs/configuration.md has them all")
    is_limit = near[0] in limits
    return UnknownSetting(shown, f"did you mean {'limits.' if is_limit else ''}{near[0]}?")


def _allowed(names: list[str]) -> str:
    """What a setting may be."""
    kind = _kind_of(Config, names[0]) if names else None
    if len(names) > 1:
        kind = _kind_of(Limits, names[1]) if names[0] == "limits" else None
    elif names == ["limits"]:
        return "the limits below a heading [limits]"
    return "a table" if kind is None else describe(kind)


def _kind_of(struct: type[msgspec.Struct], name: str) -> Any:
    return next(field.type for field in msgspec.structs.fields(struct) if field.name == name)


def describe(kind: Any) -> str:
    """A type and its range: `a whole number from 0 to 65535`."""
    from msgspec import inspect  # likewise

    return _describe(inspect.type_info(kind))


def _describe(kind: inspect.Type) -> str:
    from msgspec import inspect

    if isinstance(kind, inspect.UnionType):
        return _describe(
            next(each for each in kind.types if not isinstance(each, inspect.NoneType))
        )
    if isinstance(kind, inspect.IntType):
        return f"a whole number{_range(kind)}"
    if isinstance(kind, inspect.FloatType):
        return f"a number{_range(kind)}"
    if isinstance(kind, inspect.LiteralType):
        return "one of " + ", ".join(map(str, kind.values))
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.StrType):
        if kind.max_length is not None:
            return f"a text of {kind.min_length} to {kind.max_length} characters"
        return "a text that is not empty" if kind.min_length else "a text"
    if isinstance(kind, inspect.VarTupleType):
        return "a list of texts"
    return "a table"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is None or kind.le is None:
        return ""
    return f" from {_number(kind.ge)} to {_number(kind.le)}"


def _number(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"
