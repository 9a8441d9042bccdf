"""What a policy may set: the keys of its definition, their values, and how two policies merge.

The texts are RabbitMQ's (rabbit_policies, rabbit_mirror_queue_misc, rabbit_federation_parameters).
To add a key: its check into `_CHECKS`, the versions of RabbitMQ that lack it into `_missing`, the
queue types that do not take it into `UNSUPPORTED`, and its name into `_OPERATOR` if operators may
set it.

A queue type that does not take a key is not touched by any policy that has it, whatever else that
policy says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from amqpd.broker.erlang_terms import pairs, term
from amqpd.broker.parameter_validation import is_integer
from amqpd.broker.patterns import InvalidPattern, compile_name_pattern
from amqpd.config import Compat

Definition = Mapping[str, Any]
Kind = Literal["policy", "operator_policy"]
QueueType = Literal["classic", "quorum", "stream"]

UNSUPPORTED: Final[dict[QueueType, frozenset[str]]] = {
    "classic": frozenset(
        {
            "dead-letter-strategy",
            "delivery-limit",
            "initial-cluster-size",
            "max-age",
            "max-in-memory-bytes",
            "max-in-memory-length",
            "stream-filter-size-bytes",
            "stream-max-segment-size-bytes",
            "target-group-size",
        }
    ),
    "quorum": frozenset(
        {
            "ha-mode",
            "ha-params",
            "ha-promote-on-failure",
            "ha-promote-on-shutdown",
            "ha-sync-mode",
            "initial-cluster-size",
            "max-age",
            "queue-master-locator",
            "queue-mode",
            "stream-filter-size-bytes",
            "stream-max-segment-size-bytes",
        }
    ),
    "stream": frozenset(
        {
            "dead-letter-exchange",
            "dead-letter-routing-key",
            "dead-letter-strategy",
            "delayed-retry-max",
            "delayed-retry-min",
            "delayed-retry-type",
            "delivery-limit",
            "expires",
            "ha-mode",
            "ha-params",
            "ha-promote-on-failure",
            "ha-promote-on-shutdown",
            "ha-sync-mode",
            "max-in-memory-bytes",
            "max-in-memory-length",
            "max-length",
            "message-ttl",
            "overflow",
            "queue-master-locator",
            "queue-mode",
            "target-group-size",
        }
    ),
}
"""Keys that keep a policy away from queues of a type (`unsupported_policies`)."""

_MIRRORING: Final = frozenset(
    {
        "ha-mode",
        "ha-params",
        "ha-promote-on-failure",
        "ha-promote-on-shutdown",
        "ha-sync-batch-size",
        "ha-sync-mode",
    }
)
# Of RabbitMQ 4.3 and quorum queues; here of all, like the arguments (`delayed_retry`).
_DELAYED_RETRY: Final = frozenset({"delayed-retry-type", "delayed-retry-min", "delayed-retry-max"})
_OPERATOR: Final = frozenset(
    {
        *("expires", "message-ttl", "max-length", "max-length-bytes", "delivery-limit"),
        *("max-in-memory-length", "max-in-memory-bytes", "overflow", "queue-version"),
        *("target-group-size", "ha-mode", "ha-params", "ha-sync-mode"),
        *_DELAYED_RETRY,
    }
)
_SMALLER: Final = frozenset(
    {
        *("expires", "message-ttl", "max-length", "max-length-bytes"),
        *("max-in-memory-length", "max-in-memory-bytes"),
    }
)


def known_keys(kind: Kind, compat: Compat) -> frozenset[str]:
    """The keys that a policy of this kind may have."""
    known = frozenset(_CHECKS) - _missing(compat)
    return known & _OPERATOR if kind == "operator_policy" else known


def _missing(compat: Compat) -> frozenset[str]:
    """What that version of RabbitMQ does not know, or no longer."""
    return frozenset() if compat == "3.13" else _MIRRORING


def check_definition(kind: Kind, compat: Compat, definition: Any) -> list[str]:
    """The first thing that is wrong with a definition, in RabbitMQ's words."""
    if definition in ({}, []):
        return ["no policy provided"]
    if not isinstance(definition, dict):
        return [f"definition must be a dictionary: {term(definition)}"]
    known = known_keys(kind, compat)
    for key in sorted(known & definition.keys(), key=_turn):
        problem = _CHECKS[key](definition[key], key)
        if key == "delivery-limit" and compat != "3.13" and is_integer(definition[key]):
            problem = ""  # negative is no limit, from 4.0 on
        if problem:
            return [problem]
    problem = _check_mirroring(definition, known) or _check_federation(definition)
    if problem:
        return [problem]
    unknown = {key: value for key, value in definition.items() if key not in known}
    return [f"{pairs(unknown)} are not recognised policy settings"] if unknown else []


def merge_operator(definition: Definition | None, operator: Definition | None) -> Definition | None:
    """What a policy and an operator policy make together; None without either."""
    if definition is None or operator is None:
        return operator if definition is None else definition
    merged = {**definition, **operator}
    for key in definition.keys() & operator.keys():
        merged[key] = _merge_value(key, definition[key], operator[key])
    return merged


def _merge_value(key: str, value: Any, operator: Any) -> Any:
    if key in _SMALLER:
        return min(value, operator)
    if key == "delivery-limit":
        return lower_limit(value, operator)
    return operator


def lower_limit(one: int, other: int) -> int:
    """The lower of two delivery limits, of which a negative one is none."""
    return max(one, other) if one < 0 or other < 0 else min(one, other)


# -- checks of single values: each returns what is wrong, or an empty string


_SettingCheck = Callable[[Any, str], str]


def _integer(what: str, least: int = 0) -> _SettingCheck:
    def check(value: Any, _: str) -> str:
        if is_integer(value) and value >= least:
            return ""
        return f"{term(value)} is not a valid {what}"

    return check


def _string(what: str) -> _SettingCheck:
    def check(value: Any, _: str) -> str:
        return "" if isinstance(value, str) else f"{term(value)} is not a valid {what}"

    return check


def _one_of(what: str, *allowed: object) -> _SettingCheck:
    def check(value: Any, _: str) -> str:
        fits = any(type(value) is type(item) and value == item for item in allowed)
        return "" if fits else f"{term(value)} is not a valid {what}"

    return check


def _cache_setting(what: str, fits: Callable[[Any], bool]) -> _SettingCheck:
    def check(value: Any, key: str) -> str:
        return "" if fits(value) else f"'{key}' must be {what}, got {term(value)}"

    return check


_AGE: Final = re.compile(r"[0-9]+[YMDhms]")


def _max_age(value: Any, _: str) -> str:
    if isinstance(value, str) and _AGE.fullmatch(value):
        return ""
    return f"{term(value)} is not a valid max age"


def _filter_size(value: Any, _: str) -> str:
    if is_integer(value) and 16 <= value <= 255:
        return ""
    return f"{term(value)} is not a valid filter size. Valid range is 16-255"


def _master_locator(value: Any, _: str) -> str:
    if value in ("min-masters", "client-local", "random"):
        return ""
    return f"{term(value)} invalid queue-master-locator value"


def _upstream_pattern(value: Any, _: str) -> str:
    if not isinstance(value, str):
        return f"{term(value)} is not a valid federation upstream pattern name"
    try:
        compile_name_pattern(value)
    except InvalidPattern as error:
        text = f"could not compile pattern {value} to a regular expression"
        return f"{text}. Error: {error.reason}"
    return ""


def _checked_together(_: Any, __: str) -> str:
    """See `_check_mirroring`."""
    return ""


_CHECKS: Final[dict[str, _SettingCheck]] = {
    "alternate-exchange": _string("alternate exchange name"),
    "consumer-timeout": _integer("consumer timeout"),
    "dead-letter-exchange": _string("dead letter exchange name"),
    "dead-letter-routing-key": _string("dead letter routing key"),
    "dead-letter-strategy": _one_of("dead letter strategy", "at-most-once", "at-least-once"),
    "delayed-retry-max": _integer("delayed retry maximum"),
    "delayed-retry-min": _integer("delayed retry minimum"),
    "delayed-retry-type": _one_of("delayed retry type", "disabled", "all", "failed", "returned"),
    "delivery-limit": _integer("delivery limit"),
    "expires": _integer("queue expiry", 1),
    "federation-upstream": _string("federation upstream name"),
    "federation-upstream-pattern": _upstream_pattern,
    "federation-upstream-set": _string("federation upstream set name"),
    "initial-cluster-size": _integer("cluster size"),
    "max-age": _max_age,
    "max-in-memory-bytes": _integer("maximum memory in bytes"),
    "max-in-memory-length": _integer("maximum memory in bytes"),
    "max-length": _integer("maximum length"),
    "max-length-bytes": _integer("maximum length in bytes"),
    "message-ttl": _integer("message TTL"),
    "overflow": _one_of("overflow value", "drop-head", "reject-publish", "reject-publish-dlx"),
    "queue-leader-locator": _one_of(
        "queue leader locator value", "client-local", "balanced", "random", "least-leaders"
    ),
    "queue-master-locator": _master_locator,
    "queue-mode": _one_of("queue-mode value", "default", "lazy"),
    "queue-version": _one_of("queue-version value", 1, 2),
    "stream-filter-size-bytes": _filter_size,
    "stream-max-segment-size-bytes": _integer("segment size"),
    "target-group-size": _integer("target count"),
    # Of the plug-in rabbitmq-message-deduplication.
    "x-cache-persistence": _cache_setting(
        "either 'disk' or 'memory'", lambda value: value in ("disk", "memory")
    ),
    "x-cache-size": _cache_setting(
        "an integer greater than 0", lambda value: is_integer(value) and value > 0
    ),
    "x-cache-ttl": _cache_setting(
        "an integer greater than 0", lambda value: is_integer(value) and value > 0
    ),
    "x-message-deduplication": _cache_setting("a boolean", lambda value: isinstance(value, bool)),
    **dict.fromkeys(sorted(_MIRRORING), _checked_together),
}


def _turn(key: str) -> tuple[bool, str]:
    """Settings of other modules of RabbitMQ are checked after its own, each by name."""
    return key.startswith(("federation-", "queue-master-", "x-")), key


# -- checks of settings that belong together


def _check_mirroring(definition: Definition, known: frozenset[str]) -> str:
    """What 3.13 says to classic mirrored queues; they have no effect on a single broker."""
    given = _MIRRORING & known & definition.keys()
    if not given:
        return ""
    if "ha-mode" not in given:
        text = "ha-mode must be specified to specify ha-params, ha-sync-mode"
        return f"{text} or ha-promote-on-shutdown"
    mode, params = definition["ha-mode"], definition.get("ha-params")
    return _check_mode(mode, params) or _check_sync(definition)


def _check_mode(mode: Any, params: Any) -> str:
    shown = "none" if params is None else term(params)
    if mode == "all":
        return "" if params is None else 'ha-mode="all" does not take parameters'
    if mode == "exactly":
        if is_integer(params) and params > 0:
            return ""
        return f'ha-mode="exactly" takes an integer, {shown} given'
    if mode == "nodes":
        if not isinstance(params, list):
            return f'ha-mode="nodes" takes a list, {shown} given'
        if not params:
            return 'ha-mode="nodes" list must be non-empty'
        wrong = [node for node in params if not isinstance(node, str)]
        text = f'ha-mode="nodes" takes a list of strings, {term(wrong)} was not a string'
        return text if wrong else ""
    return f"{term(mode)} is not a valid ha-mode value"


def _check_sync(definition: Definition) -> str:
    for key, allowed in (
        ("ha-sync-mode", ("manual", "automatic")),
        ("ha-promote-on-shutdown", ("always", "when-synced")),
        ("ha-promote-on-failure", ("always", "when-synced")),
    ):
        value = definition.get(key, allowed[0])
        if value not in allowed:
            return f'{key} must be "{allowed[0]}" or "{allowed[1]}", got {term(value)}'
    size = definition.get("ha-sync-batch-size", 1)
    if not is_integer(size) or size < 1:
        return f"ha-sync-batch-size takes an integer greater than 0, {term(size)} given"
    return ""


def _check_federation(definition: Definition) -> str:
    names = ("federation-upstream", "federation-upstream-set", "federation-upstream-pattern")
    if sum(name in definition for name in names) < 2:
        return ""
    return f"cannot specify {names[0]}, {names[1]} or {names[2]} together"
