"""What a dynamic shovel is: the value of a runtime parameter of component `shovel`, as RabbitMQ
takes it (rabbit_shovel_parameters), checked in its words, and read into a `ShovelDefinition`.

Older names (`prefetch-count`, `delete-after`, `add-forward-headers`, `publish-properties`, ...)
count where the newer one is not given. The protocol is AMQP 0-9-1 at both ends; `local` (4.2) is
the same over `amqp://`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from amqpd.broker.erlang_terms import term
from amqpd.broker.parameter_validation import Field, check_integer, check_number, check_object
from amqpd.links.uri import InvalidURI, LinkURI, parse_uri
from amqpd.wire import properties as wire
from amqpd.wire.tables import encode_table, typed

COMPONENT: Final = "shovel"
PREFETCH_COUNT: Final = 1000
PREFETCH_MAX: Final = 65535
RECONNECT_DELAY_S: Final = 5
URIS_MAX: Final = 64
ACK_MODES: Final = ("no-ack", "on-publish", "on-confirm")
PROTOCOLS: Final = ("amqp091", "local")

AckMode = Literal["no-ack", "on-publish", "on-confirm"]
DeleteAfter = Literal["never", "queue-length"] | int

PROPERTIES: Final[dict[str, int]] = {
    "content_type": wire.CONTENT_TYPE,
    "content_encoding": wire.CONTENT_ENCODING,
    "delivery_mode": wire.DELIVERY_MODE,
    "priority": wire.PRIORITY,
    "correlation_id": wire.CORRELATION_ID,
    "reply_to": wire.REPLY_TO,
    "expiration": wire.EXPIRATION,
    "message_id": wire.MESSAGE_ID,
    "timestamp": wire.TIMESTAMP,
    "type": wire.TYPE,
    "user_id": wire.USER_ID,
    "app_id": wire.APP_ID,
    "cluster_id": wire.CLUSTER_ID,
}


class ShovelDefinition(Struct, frozen=True):
    """A shovel, as somebody wants it to be."""

    src_uris: tuple[LinkURI, ...]
    dest_uris: tuple[LinkURI, ...]
    src_queue: str | None = None
    src_queue_args: dict[str, Any] = {}
    src_exchange: str | None = None
    src_exchange_key: str = ""
    src_predeclared: bool = False
    src_consumer_args: dict[str, Any] = {}
    src_consumer_name: str = ""
    src_protocol: str = "amqp091"
    prefetch_count: int = PREFETCH_COUNT
    delete_after: DeleteAfter = "never"
    dest_queue: str | None = None
    dest_queue_args: dict[str, Any] = {}
    dest_exchange: str | None = None
    dest_exchange_key: str | None = None
    dest_predeclared: bool = False
    dest_protocol: str = "amqp091"
    publish_properties: tuple[tuple[int, str | int], ...] = ()
    """Flag of the property, and its value."""
    add_forward_headers: bool = False
    add_timestamp_header: bool = False
    ack_mode: AckMode = "on-confirm"
    reconnect_delay_s: float = RECONNECT_DELAY_S
    """0: do not reconnect."""

    @property
    def source_fields(self) -> dict[str, str]:
        """Where messages come from, in the words of status and headers."""
        if self.src_queue is not None:
            return {"src-queue": self.src_queue}
        return {"src-exchange": self.src_exchange or "", "src-exchange-key": self.src_exchange_key}

    @property
    def destination_fields(self) -> dict[str, str]:
        """Where they go, as far as that is said."""
        if self.dest_queue is not None:
            return {"dest-queue": self.dest_queue}
        given = {"dest-exchange": self.dest_exchange, "dest-exchange-key": self.dest_exchange_key}
        return {name: value for name, value in given.items() if value is not None}


def read_definition(value: Mapping[str, Any]) -> ShovelDefinition:
    """The shovel in a value that `check_definition` has passed."""

    def newest(*names: str, default: Any) -> Any:
        return next((value[name] for name in names if name in value), default)

    delete_after = newest("src-delete-after", "delete-after", default="never")
    published = newest("dest-publish-properties", "publish-properties", default={}) or {}
    return ShovelDefinition(
        src_uris=_uris(value["src-uri"]),
        dest_uris=_uris(value["dest-uri"]),
        src_queue=value.get("src-queue"),
        src_queue_args=dict(value.get("src-queue-args") or {}),
        src_exchange=value.get("src-exchange"),
        src_exchange_key=value.get("src-exchange-key", ""),
        src_predeclared=value.get("src-predeclared", False),
        src_consumer_args=dict(value.get("src-consumer-args") or {}),
        src_consumer_name=value.get("src-consumer-name", ""),
        src_protocol=value.get("src-protocol", "amqp091"),
        prefetch_count=newest("src-prefetch-count", "prefetch-count", default=PREFETCH_COUNT),
        delete_after=delete_after,
        dest_queue=value.get("dest-queue"),
        dest_queue_args=dict(value.get("dest-queue-args") or {}),
        dest_exchange=value.get("dest-exchange"),
        dest_exchange_key=value.get("dest-exchange-key"),
        dest_predeclared=value.get("dest-predeclared", False),
        dest_protocol=value.get("dest-protocol", "amqp091"),
        publish_properties=tuple((PROPERTIES[name], item) for name, item in published.items()),
        add_forward_headers=newest(
            "dest-add-forward-headers", "add-forward-headers", default=False
        ),
        add_timestamp_header=newest(
            "dest-add-timestamp-header", "add-timestamp-header", default=False
        ),
        ack_mode=value.get("ack-mode", "on-confirm"),
        reconnect_delay_s=value.get("reconnect-delay", RECONNECT_DELAY_S),
    )


def _uris(value: str | list[str]) -> tuple[LinkURI, ...]:
    return tuple(map(parse_uri, [value] if isinstance(value, str) else value))


# -- checks


def check_definition(name: str, value: Any) -> list[str]:
    """What is wrong with the value of a shovel's parameter; nothing if all is well."""
    problems: list[str] = []
    if isinstance(value, dict):
        if "src-exchange" in value and "src-queue" in value:
            problems.append("Cannot specify 'src-exchange' and 'src-queue'")
        elif "src-exchange" not in value and "src-queue" not in value:
            problems.append("Must specify 'src-exchange' or 'src-queue'")
        delete_after = value.get("src-delete-after", value.get("delete-after"))
        if type(delete_after) is int and value.get("ack-mode") == "no-ack":
            problems.append("Cannot specify 'no-ack' and numerical 'delete-after'")
        if "dest-exchange" in value and "dest-queue" in value:
            problems.append("Cannot specify 'dest-exchange' and 'dest-queue'")
    return problems + check_object(name, FIELDS, value)


def _check_text(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return []
    return [f"{name} should be binary, actually was {term(value)}"]


def _check_name(name: str, value: Any) -> list[str]:
    """A name that AMQP can carry: RabbitMQ checks that of `dest-queue` alone, and fails later."""
    size = len(value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else 0
    if size > 255:
        return [f"{name} should be less than 255 bytes, actually was {size}"]
    return _check_text(name, value)


def _check_boolean(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return []
    return [f"{name} should be boolean, actually was {term(value)}"]


def _one_of(*options: str) -> Callable[[str, Any], list[str]]:
    def check(name: str, value: Any) -> list[str]:
        if not isinstance(value, str):
            return _check_text(name, value)
        if value in options:
            return []
        shown = f"[{','.join(map(term, options))}]"
        return [f"{name} should be one of {shown}, actually was {term(value)}"]

    return check


def _check_uris(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        try:
            parse_uri(value)
        except InvalidURI as reason:
            return [f'"{_without_password(value)}" not a valid URI: {reason}']
        return []
    if not isinstance(value, list):
        return [f"{name} should be list, actually was {term(value)}"]
    if not 0 < len(value) <= URIS_MAX:
        return [f"{name} should have 1 to {URIS_MAX} URIs, actually had {len(value)}"]
    for uri in value:
        problems = _check_uris(name, uri) if isinstance(uri, str) else _check_text(name, uri)
        if problems:
            return problems[:1]
    return []


def _without_password(uri: str) -> str:
    """RabbitMQ shows it, in errors and logs."""
    head, at, tail = uri.rpartition("@")
    scheme, separator, _ = head.partition("://")
    return f"{scheme}{separator}***{at}{tail}" if at and separator else uri


def _check_delete_after(name: str, value: Any) -> list[str]:
    if value in ("never", "queue-length") or (type(value) is int and value >= 0):
        return []
    return [
        f'{name} should be number, "never" or "queue-length", actually was {term(value)}',
    ]


def _check_prefetch(name: str, value: Any) -> list[str]:
    problems = check_integer(name, value)
    if not problems and not 0 <= value <= PREFETCH_MAX:
        return [f"{name} should be a number from 0 to {PREFETCH_MAX}, actually was {value}"]
    return problems


def _check_delay(name: str, value: Any) -> list[str]:
    problems = check_number(name, value)
    if not problems and not 0 <= value <= 86400:
        return [f"{name} should be a number from 0 to 86400, actually was {term(value)}"]
    return problems


def _check_table(name: str, value: Any) -> list[str]:
    """Arguments: what a field table can carry. The broker they are for knows which are right."""
    if value == []:
        return []
    if not isinstance(value, dict):
        return [f"{name} not a list {term(value)}"]
    try:
        encode_table(typed(value))
    except ValueError as reason:
        return [f"{name} cannot be arguments: {reason}"]
    return []


def _check_properties(name: str, value: Any) -> list[str]:
    problems = check_object(name, PROPERTY_FIELDS, value)
    if not problems and value:
        for key, item in value.items():
            try:
                wire.with_property(b"\x00\x00", PROPERTIES[key], item)
            except ValueError as reason:
                problems.append(f"{key} cannot be a property: {reason}")
    return problems


def _field(name: str, check: Callable[[str, Any], list[str]], mandatory: bool = False) -> Field:
    return Field(name, check, mandatory)


NUMBERS: Final = (wire.DELIVERY_MODE, wire.PRIORITY, wire.TIMESTAMP)
PROPERTY_FIELDS: Final = tuple(
    _field(name, check_integer if flag in NUMBERS else _check_text)
    for name, flag in PROPERTIES.items()
)
FIELDS: Final = (
    _field("reconnect-delay", _check_delay),
    _field("ack-mode", _one_of(*ACK_MODES)),
    _field("src-protocol", _one_of(*PROTOCOLS)),
    _field("dest-protocol", _one_of(*PROTOCOLS)),
    _field("src-uri", _check_uris, mandatory=True),
    _field("src-exchange", _check_name),
    _field("src-exchange-key", _check_name),
    _field("src-queue", _check_name),
    _field("src-queue-args", _check_table),
    _field("src-consumer-args", _check_table),
    _field("src-consumer-name", _check_name),
    _field("prefetch-count", _check_prefetch),
    _field("src-prefetch-count", _check_prefetch),
    _field("delete-after", _check_delete_after),
    _field("src-delete-after", _check_delete_after),
    _field("src-predeclared", _check_boolean),
    _field("dest-uri", _check_uris, mandatory=True),
    _field("dest-exchange", _check_name),
    _field("dest-exchange-key", _check_name),
    _field("dest-queue", _check_name),
    _field("dest-queue-args", _check_table),
    _field("add-forward-headers", _check_boolean),
    _field("add-timestamp-header", _check_boolean),
    _field("dest-add-forward-headers", _check_boolean),
    _field("dest-add-timestamp-header", _check_boolean),
    _field("publish-properties", _check_properties),
    _field("dest-publish-properties", _check_properties),
    _field("dest-predeclared", _check_boolean),
)
