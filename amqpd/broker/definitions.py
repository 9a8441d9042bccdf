"""Durable definitions as values: what the journal keeps of a vhost, a queue, a binding, a user.

The journal knows a definition by `kind` and `key` and never looks into its value. The key is the
JSON list of what identifies the thing: names may hold any character, and JSON alone keeps
["a", "b,c"] and ["a,b", "c"] apart. A binding's arguments are part of its identity, byte for byte.

Values are JSON. A later version may add a field, if it has a default: this version skips fields
that it does not know, and fills in those it misses. To add a kind: a record below, and its name
in `Record` and `_RECORDS`.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, ClassVar, Final, Literal

import msgspec
from msgspec import Struct

from amqpd_storage.entries import DropDefinition, DropDefinitions, PutDefinition

DestinationType = Literal["queue", "exchange"]


class DamagedDefinition(ValueError):
    """A stored definition cannot be understood: it is damaged, or of a newer version."""


class VhostRecord(Struct, frozen=True):
    """A virtual host."""

    KIND: ClassVar[str] = "vhost"
    IDENTITY: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    default_queue_type: str | None = None


class UserRecord(Struct, frozen=True):
    """A user; an empty `password_hash` means that no password logs them in."""

    KIND: ClassVar[str] = "user"
    IDENTITY: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    password_hash: str
    hashing_algorithm: str
    tags: tuple[str, ...] = ()
    limits: dict[str, int] = msgspec.field(default_factory=dict)


class PermissionRecord(Struct, frozen=True):
    """What a user may do in a virtual host: three regular expressions on names."""

    KIND: ClassVar[str] = "permission"
    IDENTITY: ClassVar[tuple[str, ...]] = ("user", "vhost")

    user: str
    vhost: str
    configure: str
    write: str
    read: str


class TopicPermissionRecord(Struct, frozen=True):
    """Which routing keys of a topic exchange a user may write and read."""

    KIND: ClassVar[str] = "topic_permission"
    IDENTITY: ClassVar[tuple[str, ...]] = ("user", "vhost", "exchange")

    user: str
    vhost: str
    exchange: str
    write: str
    read: str


class ExchangeRecord(Struct, frozen=True):
    """A durable exchange; `arguments` is its field table as on the wire, length included."""

    KIND: ClassVar[str] = "exchange"
    IDENTITY: ClassVar[tuple[str, ...]] = ("vhost", "name")

    vhost: str
    name: str
    type: str
    durable: bool
    auto_delete: bool
    internal: bool
    arguments: bytes
    exchange_id: int = 0
    """Of a delayed exchange: what its waiting messages are stored under."""


class QueueRecord(Struct, frozen=True):
    """A durable queue; its messages are stored under `queue_id`, or under as many ids as it has
    `lanes`, from that one on."""

    KIND: ClassVar[str] = "queue"
    IDENTITY: ClassVar[tuple[str, ...]] = ("vhost", "name")

    vhost: str
    name: str
    auto_delete: bool
    arguments: bytes
    queue_id: int
    lanes: int = 1

    @property
    def lane_ids(self) -> range:
        """Under which ids the store has its messages."""
        return range(self.queue_id, self.queue_id + self.lanes)


class BindingRecord(Struct, frozen=True):
    """A binding between durable things."""

    KIND: ClassVar[str] = "binding"
    IDENTITY: ClassVar[tuple[str, ...]] = (
        "vhost",
        "source",
        "destination_type",
        "destination",
        "routing_key",
        "arguments",
    )

    vhost: str
    source: str
    destination: str
    destination_type: DestinationType
    routing_key: str
    arguments: bytes


class ParameterRecord(Struct, frozen=True):
    """A runtime parameter, a policy among them; its value is JSON."""

    KIND: ClassVar[str] = "parameter"
    IDENTITY: ClassVar[tuple[str, ...]] = ("vhost", "component", "name")

    vhost: str
    component: str
    name: str
    value: Any


class GlobalParameterRecord(Struct, frozen=True):
    """A runtime parameter of the whole broker."""

    KIND: ClassVar[str] = "global_parameter"
    IDENTITY: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    value: Any


class HistoryRecord(Struct, frozen=True):
    """A message that a durable recent history exchange keeps; the lowest number is the oldest."""

    KIND: ClassVar[str] = "history"
    IDENTITY: ClassVar[tuple[str, ...]] = ("vhost", "exchange", "number")

    vhost: str
    exchange: str
    number: int
    envelope: bytes
    properties: bytes
    body: bytes


class SeenRecord(Struct, frozen=True):
    """A deduplication header that a durable exchange has seen; the lowest number is the oldest.

    `header` is the header's value as `deduplication.header_text` shows it. `expires_ms` is in
    milliseconds since 1970, 0 for never.
    """

    KIND: ClassVar[str] = "seen"
    IDENTITY: ClassVar[tuple[str, ...]] = ("vhost", "exchange", "header")

    vhost: str
    exchange: str
    header: str
    number: int
    expires_ms: int


class ReturnRecord(Struct, frozen=True):
    """What a queue knows of a message that came back to it (see `amqpd.broker.returns`)."""

    KIND: ClassVar[str] = "return"
    IDENTITY: ClassVar[tuple[str, ...]] = ("queue_id", "position")

    queue_id: int
    position: int
    acquired: int = 0
    failed: int = 0
    ready_at_ms: int = 0
    buried_as: str = ""


Record = (
    VhostRecord
    | UserRecord
    | PermissionRecord
    | TopicPermissionRecord
    | ParameterRecord
    | GlobalParameterRecord
    | ExchangeRecord
    | QueueRecord
    | BindingRecord
    | HistoryRecord
    | SeenRecord
    | ReturnRecord
)

_RECORDS: Final[dict[str, type[Record]]] = {
    record.KIND: record
    for record in (
        VhostRecord,
        UserRecord,
        PermissionRecord,
        TopicPermissionRecord,
        ParameterRecord,
        GlobalParameterRecord,
        ExchangeRecord,
        QueueRecord,
        BindingRecord,
        HistoryRecord,
        SeenRecord,
        ReturnRecord,
    )
}


_IDENTITIES: Final = {record: attrgetter(*record.IDENTITY) for record in _RECORDS.values()}
_ENCODER: Final = msgspec.json.Encoder()
_DECODERS: Final = {kind: msgspec.json.Decoder(record) for kind, record in _RECORDS.items()}


def key_of(record: Record) -> str:
    """What names this definition among those of its kind."""
    identity = _IDENTITIES[type(record)](record)
    return _ENCODER.encode(identity if isinstance(identity, tuple) else (identity,)).decode()


def encode(record: Record) -> PutDefinition:
    """The entry that makes the journal remember `record`, in place of an older state of it."""
    return PutDefinition(record.KIND, key_of(record), msgspec.json.encode(record))


def drop(record: Record) -> DropDefinition:
    """The entry that makes the journal forget `record`; only its identity counts."""
    return DropDefinition(record.KIND, key_of(record))


def drop_all(record: type[Record], *first: str) -> DropDefinitions:
    """The entry that makes the journal forget all records whose identity begins so."""
    return DropDefinitions(record.KIND, _ENCODER.encode(first).decode()[:-1] + ",")


def decode(kind: str, key: str, value: bytes) -> Record:
    """The record that `encode` made these out of. Raises DamagedDefinition."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise DamagedDefinition(f"definition {key} is of kind {kind!r}, unknown to this version")
    try:
        record: Record = decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise DamagedDefinition(f"definition {kind} {key} cannot be read: {error}") from error
    if key_of(record) != key:
        raise DamagedDefinition(f"definition {kind} {key} holds that of {key_of(record)}")
    return record
