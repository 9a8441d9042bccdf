"""Reads RabbitMQ's definitions JSON: of a whole broker, or of one virtual host.

What the file says becomes typed lists; nothing is looked up in a broker and nothing is changed
there. A value that cannot be right is refused with its path, before anything was imported. What is
right but has no effect yet is told in `warnings`, so that nobody believes it has.

What only a broker can judge (is there such a component, do the ends of a binding exist)
is for `definitions_import`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from amqpd.broker.definitions import (
    DestinationType,
    PermissionRecord,
    TopicPermissionRecord,
    VhostRecord,
)
from amqpd.broker.limits import COMPONENT as LIMITS_COMPONENT
from amqpd.broker.limits import NAME as LIMITS_NAME
from amqpd.broker.limits import check_user_limits
from amqpd.broker.passwords import MD5, SHA256, check_algorithm, check_hash
from amqpd.broker.patterns import compile_pattern, compile_topic_pattern
from amqpd.commands import Arguments
from amqpd.config import Limits
from amqpd.short_string import SHORT_STRING_OCTETS_MAX, fits_short_string
from amqpd.wire.tables import UnfitValue, typed

ARGUMENTS_DEPTH_MAX: Final = Limits().table_depth_max


class DefinitionsError(ValueError):
    """The file is not what it should be: `file: $.path or line and column: what is wrong`."""

    def __init__(self, where: str, problem: str, source_name: str = "definitions") -> None:
        super().__init__(where, problem, source_name)
        self.where = where
        self.problem = problem
        self.source_name = source_name

    def __str__(self) -> str:
        return f"{self.source_name}: {self.where}: {self.problem}"


class UserDefinition(Struct, frozen=True):
    """A user; the importer hashes `password` if there is one, and takes the hash if not."""

    name: str
    password_hash: str = ""
    hashing_algorithm: str = SHA256
    password: str | None = None
    tags: tuple[str, ...] = ()
    limits: dict[str, int] | None = None
    """None: as they are."""


class ParameterDefinition(Struct, frozen=True):
    """A runtime parameter: of federation, shovels, operator policies, limits of a virtual host."""

    vhost: str
    component: str
    name: str
    value: Any


class GlobalParameterDefinition(Struct, frozen=True):
    """A runtime parameter of the whole broker."""

    name: str
    value: Any


class PolicyDefinition(Struct, frozen=True, rename={"apply_to": "apply-to"}):
    """A policy. What is wrong with its values is RabbitMQ's to say: see `policies`."""

    vhost: str
    name: str
    pattern: Any
    definition: Any
    priority: Any = 0
    apply_to: Any = "all"


class ExchangeDefinition(Struct, frozen=True):
    """An exchange to declare."""

    vhost: str
    name: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Arguments = field(default_factory=dict)


class QueueDefinition(Struct, frozen=True):
    """A queue to declare."""

    vhost: str
    name: str
    durable: bool = True
    auto_delete: bool = False
    arguments: Arguments = field(default_factory=dict)


class BindingDefinition(Struct, frozen=True):
    """A binding; what it binds may be in the file or in the broker already."""

    vhost: str
    source: str
    destination: str
    destination_type: DestinationType
    routing_key: str = ""
    arguments: Arguments = field(default_factory=dict)


class DefinitionsFile(Struct, frozen=True):
    """What a definitions file says."""

    users: list[UserDefinition] = field(default_factory=list)
    vhosts: list[VhostRecord] = field(default_factory=list)
    permissions: list[PermissionRecord] = field(default_factory=list)
    topic_permissions: list[TopicPermissionRecord] = field(default_factory=list)
    exchanges: list[ExchangeDefinition] = field(default_factory=list)
    queues: list[QueueDefinition] = field(default_factory=list)
    bindings: list[BindingDefinition] = field(default_factory=list)
    parameters: list[ParameterDefinition] = field(default_factory=list)
    global_parameters: list[GlobalParameterDefinition] = field(default_factory=list)
    policies: list[PolicyDefinition] = field(default_factory=list)
    rabbit_version: str = ""
    warnings: list[str] = field(default_factory=list)
    """Parts and fields of the file that this version does not apply, a line each."""


_SECTIONS: Final[dict[str, type[Struct]]] = {
    "users": UserDefinition,
    "vhosts": VhostRecord,
    "permissions": PermissionRecord,
    "topic_permissions": TopicPermissionRecord,
    "parameters": ParameterDefinition,
    "global_parameters": GlobalParameterDefinition,
    "policies": PolicyDefinition,
    "exchanges": ExchangeDefinition,
    "queues": QueueDefinition,
    "bindings": BindingDefinition,
}
_INFORMATION: Final = frozenset(
    {
        "rabbit_version",
        "rabbitmq_version",
        "rabbitmq_definition_format",
        "product_name",
        "product_version",
        "original_cluster_name",
        "original_vhost_name",
        "explanation",
    }
)
"""Top-level keys that tell about the file and ask for nothing."""

_CONSUMED: Final = {
    "vhosts": {"metadata", "limits"},
    "queues": {"type"},
    "bindings": {"properties_key"},
}
"""Fields that have their effect in another field or section, or never have one."""

_NOT_APPLIED_YET: Final = {"vhosts": {"tracing"}}

_NAMES: Final = {
    "users": ("name",),
    "vhosts": ("name",),
    "permissions": ("user", "vhost"),
    "topic_permissions": ("user", "vhost", "exchange"),
    "parameters": ("vhost", "component", "name"),
    "global_parameters": ("name",),
    "policies": ("vhost", "name"),
    "exchanges": ("vhost", "name", "type"),
    "queues": ("vhost", "name"),
    "bindings": ("vhost", "source", "destination", "routing_key"),
}
"""What must fit into a short string, and save for `_MAY_BE_EMPTY` have a character at least."""

_MAY_BE_EMPTY: Final = frozenset(
    {("topic_permissions", "exchange"), ("bindings", "source"), ("bindings", "routing_key")}
)

Entry = dict[str, Any]


OF_ONE_VHOST: Final = frozenset({"parameters", "policies", "queues", "exchanges", "bindings"})
"""Sections of a file that are for one virtual host."""


def load_definitions(
    text: bytes, source_name: str, default_vhost: str | None = None, into: str | None = None
) -> DefinitionsFile:
    """What the file says. Raises DefinitionsError.

    `default_vhost` is for files of one virtual host, whose entries do not name it. `into` names the
    virtual host that all of it is meant for, whatever it says itself; what is not of a virtual host
    is left out, as RabbitMQ does.
    """
    try:
        raw = _parse(text)
        if not isinstance(raw, dict):
            raise DefinitionsError("$", "expected object, with users, vhosts, queues and so on")
        if into is not None:
            raw = _only(raw, into)
        return _read(raw, default_vhost)
    except DefinitionsError as error:
        raise DefinitionsError(error.where, error.problem, source_name) from None


def to_arguments(value: dict[str, Any], path: str = "$") -> Arguments:
    """A JSON object as field table, typed as RabbitMQ types it (rabbit_misc:to_amqp_table).

    RabbitMQ exports a void as null but refuses to import it; here it comes back as it was.
    """
    try:
        return typed(value, ARGUMENTS_DEPTH_MAX)
    except UnfitValue as error:
        for step in error.steps:
            path = f"{path}[{step}]" if isinstance(step, int) else _child(path, step)
        got = "" if error.value is None else f", got {_shown(error.value)}"
        raise DefinitionsError(path, error.problem + got) from None


# JSON


class _DuplicateKey(Exception):
    """An object has a key twice."""


def _parse(text: bytes) -> Any:
    """The JSON value, with what Python lets pass refused: duplicate keys, NaN, surrogates."""
    try:
        source = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = text[: error.start].decode(errors="replace")
        raise DefinitionsError(_line_column(before, len(before)), "not UTF-8") from None
    try:
        raw = json.loads(source, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise DefinitionsError(_line_column(source, error.pos), f"not JSON: {error.msg}") from None
    except _DuplicateKey as error:
        raise _duplicate(source, str(error)) from None
    except _Constant as error:
        raise _constant(source, str(error)) from None
    except RecursionError:
        raise DefinitionsError("$", "nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise DefinitionsError("$", f"not JSON: {error}") from None
    if _SURROGATE_ESCAPE.search(source):
        _refuse_surrogates(raw, "$")
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> Entry:
    value = dict(pairs)
    if len(value) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _DuplicateKey(next(key for key, count in counts.items() if count > 1))
    return value


class _Constant(Exception):
    """NaN or Infinity, which Python reads though JSON has none."""


def _refuse_constant(name: str) -> Any:
    raise _Constant(name)


_TOKEN: Final = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")\s*(?P<colon>:?)|[{}]|NaN|-?Infinity')
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def _duplicate(source: str, name: str) -> DefinitionsError:
    """Where a key comes for the second time in its object. Slow, for the error only.

    The text is JSON up to the end of that object, or the hook would not have seen it.
    """
    keys: list[set[str]] = []
    where = "$"
    for token in _TOKEN.finditer(source):
        if token[0] == "{":
            keys.append(set())
        elif token[0] == "}":
            keys.pop()
        elif token["colon"]:
            key = json.loads(token["string"])
            if key == name and key in keys[-1]:
                where = _line_column(source, token.start())
                break
            keys[-1].add(key)
    return DefinitionsError(where, f"duplicate key {json.dumps(name)}")


def _constant(source: str, name: str) -> DefinitionsError:
    found = next(token for token in _TOKEN.finditer(source) if token[0] == name)
    return DefinitionsError(_line_column(source, found.start()), f"not JSON: {name}")


def _line_column(source: str, position: int) -> str:
    line = source.count("\n", 0, position) + 1
    column = position - source.rfind("\n", 0, position)
    return f"line {line}, column {column}"


def _refuse_surrogates(value: Any, path: str) -> None:
    """Half of a pair is no character: it could never be written as UTF-8 again."""
    if isinstance(value, str):
        if not _is_unicode(value):
            raise DefinitionsError(path, "holds half of a surrogate pair")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_surrogates(key, path)
            _refuse_surrogates(item, _child(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_surrogates(item, f"{path}[{index}]")


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# From JSON to definitions


def _only(raw: Entry, vhost: str) -> Entry:
    """The part of a file that is of one virtual host, as if it named this one."""
    left = set(_SECTIONS) - OF_ONE_VHOST
    kept = {key: value for key, value in raw.items() if key not in left}
    for _, _, entry in _entries(kept):
        entry["vhost"] = vhost
    return kept


def _is_of_one_vhost(raw: Entry) -> bool:
    """Whether it is an export of one virtual host: its queues and so on do not name it."""
    return not {"users", "vhosts"} & raw.keys() and any(
        "vhost" not in entry
        for section, _, entry in _entries(raw)
        if section in ("queues", "exchanges", "bindings")
    )


def _read(raw: Entry, default_vhost: str | None) -> DefinitionsFile:
    warnings = [*_unapplied_parts(raw), *_unapplied_fields(raw)]
    version = raw.get("rabbit_version")
    if default_vhost is not None and _is_of_one_vhost(raw):
        # Its policies and parameters name the virtual host that it was exported from.
        for section, _, entry in _entries(raw):
            if section in ("parameters", "policies"):
                entry["vhost"] = default_vhost
    for section, path, entry in _entries(raw):
        _prepare(section, path, entry, default_vhost, version)
    _add_vhost_limits(raw)
    known = {key: raw[key] for key in DefinitionsFile.__struct_fields__ if key in raw}
    try:
        file = msgspec.convert({**known, "warnings": warnings}, DefinitionsFile)
    except msgspec.ValidationError as error:
        raise _explained(str(error), raw) from None
    _check(file)
    return file


def _entries(raw: Entry) -> Iterator[tuple[str, str, Entry]]:
    """Each entry of each section; what is no list or no object is left to `msgspec.convert`."""
    for section in _SECTIONS:
        entries = raw.get(section)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, dict):
                yield section, f"$.{section}[{index}]", entry


def _unapplied_parts(raw: Entry) -> Iterator[str]:
    for key, value in raw.items():
        if key not in _SECTIONS and key not in _INFORMATION and value not in ([], {}, None):
            yield f"{_child('$', key)}: unknown key, not applied"


def _unapplied_fields(raw: Entry) -> Iterator[str]:
    """One line for each field's name and section, however many entries have it."""
    seen: dict[tuple[str, str], list[str]] = {}
    for section, path, entry in _entries(raw):
        known = _SECTIONS[section].__struct_encode_fields__
        consumed = _CONSUMED.get(section, set())
        for key in entry:
            if key not in known and key not in consumed and not _asks_nothing(section, entry, key):
                seen.setdefault((section, key), []).append(_child(path, key))
        if section == "vhosts" and isinstance(entry.get("metadata"), dict):
            for key in entry["metadata"]:
                if key not in known:
                    place = _child(f"{path}.metadata", key)
                    seen.setdefault((section, f"metadata.{key}"), []).append(place)
    for (section, key), paths in seen.items():
        reason = "not applied yet" if _is_known_gap(section, key) else "unknown field, not applied"
        others = len(paths) - 1
        more = f" (and in {others} more of {section})" if others else ""
        yield f"{paths[0]}: {reason}{more}"


def _is_known_gap(section: str, key: str) -> bool:
    return key in _NOT_APPLIED_YET.get(section, set())


def _asks_nothing(section: str, entry: Entry, key: str) -> bool:
    return _is_known_gap(section, key) and entry[key] in ({}, [], None, False)


def _prepare(
    section: str, path: str, entry: Entry, default_vhost: str | None, version: object
) -> None:
    """Bring an entry of any version of RabbitMQ into the one form that `_SECTIONS` describe."""
    struct_fields = _SECTIONS[section].__struct_fields__
    if "vhost" in struct_fields and "vhost" not in entry:
        if default_vhost is None:
            problem = "missing required field vhost (is this the file of one virtual host?)"
            raise DefinitionsError(path, problem)
        entry["vhost"] = default_vhost
    if "arguments" in struct_fields:
        _prepare_arguments(section, path, entry)
    if section == "vhosts":
        _prepare_vhost(entry)
    if isinstance(entry.get("tags"), str):  # up to 3.8
        entry["tags"] = [tag.strip() for tag in entry["tags"].split(",") if tag.strip()]
    if section == "users":
        _prepare_user(entry, version)


def _prepare_arguments(section: str, path: str, entry: Entry) -> None:
    arguments = entry.get("arguments", {})
    if arguments is None or arguments == []:  # Erlang's empty list, from old exports
        arguments = {}
    if isinstance(arguments, dict):
        arguments = to_arguments(arguments, f"{path}.arguments")
        # 4.x exports the type beside the arguments as well.
        if section == "queues" and entry.get("type") in ("quorum", "stream"):
            arguments.setdefault("x-queue-type", ("S", entry["type"]))
    entry["arguments"] = arguments


def _prepare_vhost(entry: Entry) -> None:
    metadata = entry.get("metadata")
    if isinstance(metadata, dict):
        for key in ("description", "tags", "default_queue_type"):
            if key in metadata:
                entry.setdefault(key, metadata[key])
    for key in ("description", "tags"):
        if entry.get(key, "") is None:
            del entry[key]
    if entry.get("default_queue_type") == "undefined":  # Erlang's null
        del entry["default_queue_type"]


def _add_vhost_limits(raw: Entry) -> None:
    """Limits beside a virtual host count where there is no parameter that has them."""
    parameters = raw.setdefault("parameters", [])
    vhosts = raw.get("vhosts")
    if not isinstance(parameters, list) or not isinstance(vhosts, list):
        return
    said = {
        entry.get("vhost")
        for entry in parameters
        if isinstance(entry, dict)
        and entry.get("component") == LIMITS_COMPONENT
        and isinstance(entry.get("vhost"), str)
    }
    for entry in vhosts:
        limits = entry.get("limits") if isinstance(entry, dict) and "name" in entry else None
        if limits and isinstance(entry["name"], str) and entry["name"] not in said:
            names = {"vhost": entry["name"], "component": LIMITS_COMPONENT, "name": LIMITS_NAME}
            parameters.append({**names, "value": limits})


_BEFORE_3_6: Final = re.compile(r"3\.[0-5]\.")


def _prepare_user(entry: Entry, version: object) -> None:
    # Before 3.6 the algorithm was md5 and went without saying.
    if isinstance(version, str) and _BEFORE_3_6.match(version):
        entry.setdefault("hashing_algorithm", MD5)
    if entry.get("limits") == []:
        entry["limits"] = {}
    for key in ("password_hash", "hashing_algorithm"):
        if entry.get(key, "") is None:
            del entry[key]


# What is wrong, in words

_PATH_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_INVALID_DESTINATION: Final = 'expected "queue" or "exchange", got '


def _explained(message: str, raw: Entry) -> DefinitionsError:
    """msgspec's "Expected `bool`, got `str` - at `$.a[2].b`", turned round and with the value."""
    problem, _, place = message.replace("`", "").partition(" - at ")
    path = place or "$"
    value: Any = raw
    for name, index in _PATH_STEP.findall(path):
        value = value[name] if name else value[int(index)]
    problem = problem[0].lower() + problem[1:]
    if problem.startswith("invalid enum value"):
        problem = f"{_INVALID_DESTINATION}{_shown(value)}"
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        problem = f"{problem} {_shown(value)}"
    return DefinitionsError(path, problem.removeprefix("object "))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check(file: DefinitionsFile) -> None:
    """What types alone cannot say. Raises DefinitionsError."""
    for section, names in _NAMES.items():
        for index, entry in enumerate(getattr(file, section)):
            for name in names:
                value = getattr(entry, name)
                if not value and (section, name) not in _MAY_BE_EMPTY:
                    raise DefinitionsError(f"$.{section}[{index}].{name}", "must not be empty")
                if not fits_short_string(value):
                    length = len(value.encode())
                    raise DefinitionsError(
                        f"$.{section}[{index}].{name}",
                        f"{_shown(value)} has {length} octets, at most {SHORT_STRING_OCTETS_MAX} "
                        "can be",
                    )
    for index, user in enumerate(file.users):
        _check_user(user, f"$.users[{index}]")
    for index, permission in enumerate(file.permissions):
        _check_permission(permission, f"$.permissions[{index}]")
    for index, topic in enumerate(file.topic_permissions):
        _check_topic_permission(topic, f"$.topic_permissions[{index}]")


def _check_user(user: UserDefinition, path: str) -> None:
    problems = check_user_limits(user.limits or {})
    if problems:
        raise DefinitionsError(f"{path}.limits", problems[0])
    try:
        check_algorithm(user.hashing_algorithm)
    except ValueError as error:
        raise DefinitionsError(f"{path}.hashing_algorithm", str(error)) from None
    try:
        check_hash(user.password_hash)
    except ValueError as error:
        raise DefinitionsError(f"{path}.password_hash", str(error)) from None


def _check_permission(permission: PermissionRecord, path: str) -> None:
    for name in ("configure", "write", "read"):
        try:
            compile_pattern(getattr(permission, name))
        except ValueError as error:
            raise DefinitionsError(f"{path}.{name}", str(error)) from None


def _check_topic_permission(permission: TopicPermissionRecord, path: str) -> None:
    for name in ("write", "read"):
        try:
            compile_topic_pattern(getattr(permission, name), permission.user, permission.vhost)
        except ValueError as error:
            raise DefinitionsError(f"{path}.{name}", str(error)) from None


_PLAIN_KEY: Final = re.compile(r"[\w-]+")


def _child(path: str, key: str) -> str:
    plain = _PLAIN_KEY.fullmatch(key)
    return f"{path}.{key}" if plain else f"{path}[{json.dumps(key, ensure_ascii=False)}]"
