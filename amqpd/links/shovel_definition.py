"""What a dynamic shovel is: the value of a runtime parameter of component `shovel`, as RabbitMQ
takes it (rabbit_shovel_parameters), checked in its words, and read into a `ShovelDefinition`.

Older names (`prefetch-count`, `delete-after`, `add-forward-headers`, `publish-properties`, ...)
count where the newer one is not given. The protocol is AMQP 0-9-1 at both ends; `local` (4.2) is
the same over `amqp://`, and AMQP 1.0 is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from amqpd.broker.erlang_terms import term
from amqpd.broker.parameter_validation import Field, check_integer, check_object
from amqpd.links.client import TABLE_DEPTH_MAX
from amqpd.links.link import AckMode
from amqpd.links.parameter_checks import (
    check_boolean,
    check_delay,
    check_name,
    check_prefetch,
    check_text,
    check_uris,
    integer_within,
    one_of,
)
from amqpd.links.uri import LinkURI, parse_uri
from amqpd.wire import properties as wire
from amqpd.wire.tables import encode_table, typed

COMPONENT: Final = "shovel"
PREFETCH_COUNT: Final = 1000
RECONNECT_DELAY_S: Final = 5
ACK_MODES: Final = ("no-ack", "on-publish", "on-confirm")
PROTOCOLS: Final = ("amqp091", "local")
AMQP_1_0: Final = "amqp10"
DURATION_MIN_S: Final = 60
DURATION_MAX_S: Final = 100 * 365 * 86400

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
    delete_after_duration_s: int | None = None
    """The shovel is deleted when it has been there so long; None for never."""
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
        src_uris=read_uris(value["src-uri"]),
        dest_uris=read_uris(value["dest-uri"]),
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
        delete_after_duration_s=value.get("src-delete-after-duration"),
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


def read_uris(value: str | list[str]) -> tuple[LinkURI, ...]:
    """One URI or several, which `check_uris` has passed."""
    return tuple(map(parse_uri, [value] if isinstance(value, str) else value))


# -- checks


def check_static(name: str, value: Any) -> list[str]:
    """What is wrong with a static shovel, a table of the configuration: the same, and `vhost`."""
    if not isinstance(value, dict):
        return check_definition(name, value)
    vhost = value.get("vhost", "/")
    rest = {key: item for key, item in value.items() if key != "vhost"}
    return check_name("vhost", vhost) + check_definition(name, rest)


def check_definition(name: str, value: Any) -> list[str]:
    """What is wrong with the value of a shovel's parameter; nothing if all is well."""
    problems: list[str] = []
    if isinstance(value, dict):
        protocols = [key for key in ("src-protocol", "dest-protocol") if value.get(key) == AMQP_1_0]
        if protocols:
            # Its ends have keys of their own, of which nothing needs to be said.
            return [f"{key}: {AMQP_1_0} is not spoken here, only amqp091" for key in protocols]
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


def _check_delete_after(name: str, value: Any) -> list[str]:
    if value in ("never", "queue-length") or (type(value) is int and value >= 0):
        return []
    return [
        f'{name} should be number, "never" or "queue-length", actually was {term(value)}',
    ]


def _check_table(name: str, value: Any) -> list[str]:
    """Arguments: what a field table can carry. The broker they are for knows which are right."""
    if value == []:
        return []
    if not isinstance(value, dict):
        return [f"{name} not a list {term(value)}"]
    try:
        encode_table(typed(value, TABLE_DEPTH_MAX))
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
    _field(name, check_integer if flag in NUMBERS else check_text)
    for name, flag in PROPERTIES.items()
)
FIELDS: Final = (
    _field("reconnect-delay", check_delay),
    _field("ack-mode", one_of(*ACK_MODES)),
    _field("src-protocol", one_of(*PROTOCOLS)),
    _field("dest-protocol", one_of(*PROTOCOLS)),
    _field("src-uri", check_uris, mandatory=True),
    _field("src-exchange", check_name),
    _field("src-exchange-key", check_name),
    _field("src-queue", check_name),
    _field("src-queue-args", _check_table),
    _field("src-consumer-args", _check_table),
    _field("src-consumer-name", check_name),
    _field("prefetch-count", check_prefetch),
    _field("src-prefetch-count", check_prefetch),
    _field("delete-after", _check_delete_after),
    _field("src-delete-after", _check_delete_after),
    _field("src-delete-after-duration", integer_within(DURATION_MIN_S, DURATION_MAX_S)),
    _field("src-predeclared", check_boolean),
    _field("dest-uri", check_uris, mandatory=True),
    _field("dest-exchange", check_name),
    _field("dest-exchange-key", check_name),
    _field("dest-queue", check_name),
    _field("dest-queue-args", _check_table),
    _field("add-forward-headers", check_boolean),
    _field("add-timestamp-header", check_boolean),
    _field("dest-add-forward-headers", check_boolean),
    _field("dest-add-timestamp-header", check_boolean),
    _field("publish-properties", _check_properties),
    _field("dest-publish-properties", _check_properties),
    _field("dest-predeclared", check_boolean),
)
