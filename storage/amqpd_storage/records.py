"""How the bytes of one message lie in one blob.

    ┌──────┬──────────────┬────────────────┬────────────┬──────────┬────────────┬──────┐
    │ kind │ envelope len │ properties len │  body len  │ envelope │ properties │ body │
    │ 1    │ 2            │ 4              │ 8          │          │            │      │
    └──────┴──────────────┴────────────────┴────────────┴──────────┴────────────┴──────┘

Big-endian. `kind` is the version of this layout; a reader that does not know it refuses the record
instead of guessing. The lengths must add up to the length of the blob, so that a record which was
cut or overwritten at its head is noticed. There is no checksum of the body: SQLite checks the
frames of its write-ahead log, and a checksum of our own would hold the interpreter lock for half a
microsecond a kilobyte. A later kind may carry one.

A row of a queue holds either such a blob, or the id of a shared message whose blob is stored once.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from amqpd_storage.entries import Content
from amqpd_storage.errors import DamagedStore

KIND_MESSAGE: Final = 1

_HEAD: Final = struct.Struct(">BHIQ")
_pack_head = _HEAD.pack
HEAD_BYTES: Final = _HEAD.size


class Message(NamedTuple):
    """What a record says: the three byte strings of a published message."""

    envelope: bytes
    properties: bytes
    body: bytes


def record_pieces(content: Content) -> tuple[bytes, bytes, bytes, bytes]:
    """The record in pieces, for a writer which joins many of them in one go."""
    envelope = content.envelope
    properties = content.properties
    body = content.body
    head = _pack_head(KIND_MESSAGE, len(envelope), len(properties), len(body))
    return head, envelope, properties, body


def encode_record(content: Content) -> bytes:
    """The record of one message."""
    return b"".join(record_pieces(content))


def decode_record(record: bytes) -> Message:
    """The message in a record. Raises DamagedStore when it is not one."""
    if len(record) < HEAD_BYTES:
        raise DamagedStore(None, f"a message record of {len(record)} bytes is cut short")
    kind, envelope_bytes, properties_bytes, body_bytes = _HEAD.unpack_from(record)
    if kind != KIND_MESSAGE:
        raise DamagedStore(None, f"a message record is of the unknown kind {kind}")
    properties_at = HEAD_BYTES + envelope_bytes
    body_at = properties_at + properties_bytes
    if body_at + body_bytes != len(record):
        raise DamagedStore(
            None,
            f"a message record of {len(record)} bytes announces {body_at + body_bytes}",
        )
    return Message(
        record[HEAD_BYTES:properties_at], record[properties_at:body_at], record[body_at:]
    )
