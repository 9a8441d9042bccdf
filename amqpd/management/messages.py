"""Messages as JSON: publishing one, fetching some.

A payload is text where its octets are UTF-8, or base64; `payload_encoding` says which.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from amqpd.broker.channel import Channel
from amqpd.broker.confirms import Confirms
from amqpd.broker.handlers import handle
from amqpd.broker.paging import Postponed
from amqpd.broker.publishing import publish as publish_message
from amqpd.commands import (
    DISCARD,
    REQUEUE,
    Basic,
    Message,
    MethodCommand,
    Settle,
    Target,
    make_message,
)
from amqpd.errors import NOT_FOUND, AMQPException
from amqpd.management import amqp
from amqpd.management.call import Call
from amqpd.management.encoding import encode
from amqpd.management.errors import bad_request, from_amqp, not_found
from amqpd.management.listing import ROWS_A_STEP, Steps
from amqpd.wire import properties as wire
from amqpd.wire.tables import plain

NO_PROPERTIES: Final = b"\x00\x00"
HEADERS: Final = "headers"
NUMBERS: Final = {
    "delivery_mode": wire.DELIVERY_MODE,
    "priority": wire.PRIORITY,
    "timestamp": wire.TIMESTAMP,
}
TEXTS: Final = {
    "content_type": wire.CONTENT_TYPE,
    "content_encoding": wire.CONTENT_ENCODING,
    "correlation_id": wire.CORRELATION_ID,
    "reply_to": wire.REPLY_TO,
    "expiration": wire.EXPIRATION,
    "message_id": wire.MESSAGE_ID,
    "type": wire.TYPE,
    "user_id": wire.USER_ID,
    "app_id": wire.APP_ID,
    "cluster_id": wire.CLUSTER_ID,
}
SPECIAL: Final = (wire.HEADERS, wire.REPLY_TO, wire.EXPIRATION, wire.USER_ID)
BASIC_REJECT: Final = (60, 90)
WITHOUT_SPACE: Final = str.maketrans("", "", " \t\r\n")
"""Encoders break their lines, and what is between the digits of base64 says nothing."""

ACKMODES: Final = {
    "ack_requeue_true": REQUEUE,
    "reject_requeue_true": REQUEUE,
    "reject_requeue_false": DISCARD,
    "ack_requeue_false": None,
}
"""What becomes of what was fetched; None: it counts as acknowledged."""
STEP_BYTES: Final = 256 * 1024
"""Of messages that are made into JSON in one step, unless one alone has more."""


# -- publishing


def read(call: Call, exchange: str) -> Message:
    """The message in the body of a request. Raises 400."""
    body = call.json_with("routing_key", "properties", "payload", "payload_encoding")
    routing_key = body["routing_key"]
    if not isinstance(routing_key, str):
        raise bad_request(["not_string", "routing_key"])
    payload = decoded(body["payload"], body["payload_encoding"])
    if len(payload) > call.broker.limits.message_bytes_max:
        raise bad_request(f"message size {len(payload)} is larger than configured max size")
    return message(exchange, routing_key, payload, encoded_properties(call, body["properties"]))


def message(
    exchange: str, routing_key: str, payload: bytes, properties: bytes = NO_PROPERTIES
) -> Message:
    """A message as a client would have sent it. Raises 400 for names that are too long."""
    envelope = amqp.check_short(exchange, "exchange")
    envelope += amqp.check_short(routing_key, "routing_key")
    return make_message(
        amqp.CHANNEL_NUMBER,
        # Mandatory, to learn whether it was routed.
        Target(exchange, routing_key, envelope, True, False),
        properties,
        payload,
        persistent=wire.delivery_mode(properties) == 2,
        special=any(wire.has_property(properties, flag) for flag in SPECIAL),
    )


def decoded(payload: object, encoding: object) -> bytes:
    """The octets of a payload. Raises 400."""
    if not isinstance(payload, str):
        raise bad_request("payload_not_string")
    if encoding == "string":
        return payload.encode()
    if encoding != "base64":
        raise bad_request(["unsupported_encoding", encoding])
    try:
        return base64.b64decode(payload.translate(WITHOUT_SPACE), validate=True)
    except ValueError:
        raise bad_request(["not_base64", payload]) from None


def encoded_properties(call: Call, given: object) -> bytes:
    """A property list of JSON's names and values; unknown names are passed over. Raises 400.

    An empty list stands for an empty object, of headers too, as in what is fetched.
    """
    if given is None or given == []:
        return NO_PROPERTIES
    if not isinstance(given, dict):
        raise bad_request(["not_a_map", "properties"])
    properties = NO_PROPERTIES
    for name, value in given.items():
        if name in NUMBERS:
            if not isinstance(value, int) or isinstance(value, bool):
                raise bad_request(["not_int", name])
            properties = _set(properties, NUMBERS[name], value, name)
        elif name in TEXTS:
            if not isinstance(value, str):
                raise bad_request(["not_string", name])
            properties = _set(properties, TEXTS[name], value, name)
        elif name == HEADERS:
            headers = {} if value == [] else value
            if not isinstance(headers, dict):
                raise bad_request(["not_a_map", name])
            properties = wire.with_headers(properties, amqp.field_table(call, headers, name))
    return properties


def _set(properties: bytes, flag: int, value: str | int, name: str) -> bytes:
    try:
        return wire.with_property(properties, flag, value)
    except ValueError as error:
        raise bad_request(f"{name}: {error}") from error


def publish(call: Call, message: Message) -> bool:
    """basic.publish; whether a queue took the message. Raises ApiError."""
    with amqp.channel_for(call) as (channel, outlet):
        channel.confirms = Confirms(outlet, [])
        try:
            publish_message(channel, message)
        except AMQPException as error:
            raise from_amqp(error, declaring=False) from error
        channel.confirms.flush()
        return not (outlet.was_returned or outlet.was_refused)


# -- fetching


class Wanted(NamedTuple):
    """What a request to fetch messages asks for."""

    most: int
    outcome: int | None
    encode: Callable[[bytes], tuple[str, str]]
    truncate: int | None


def read_get(call: Call) -> Wanted:
    """What the body of a request asks for. Raises 400."""
    body = call.json_with("ackmode", "count", "encoding")
    ackmode, encoding = body["ackmode"], body["encoding"]
    if not isinstance(ackmode, str) or ackmode not in ACKMODES:
        raise bad_request(f"Unsupported ackmode. Please use one of {', '.join(ACKMODES)}.")
    if encoding not in ("auto", "base64"):
        raise bad_request("Unsupported encoding. Please use auto or base64.")
    count = _integer(body["count"])
    truncate = _integer(body["truncate"]) if "truncate" in body else None
    return Wanted(
        # RabbitMQ counts down to 0: from a negative number it fetches all.
        count if count >= 0 else call.broker.limits.http_get_messages_max,
        ACKMODES[ackmode],
        as_text if encoding == "auto" else as_base64,
        None if truncate is None else max(0, truncate),
    )


def _integer(given: object) -> int:
    value = given
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            value = None
    if not isinstance(value, int) or isinstance(value, bool):
        raise bad_request(["not_integer", given])
    return value


def as_text(payload: bytes) -> tuple[str, str]:
    """The payload as text if its octets are UTF-8, and how it is encoded."""
    try:
        return payload.decode(), "string"
    except UnicodeDecodeError:
        return as_base64(payload)


def as_base64(payload: bytes) -> tuple[str, str]:
    """The payload in base64, and that word."""
    return base64.b64encode(payload).decode(), "base64"


class Fetched(NamedTuple):
    """A message as it was when it was fetched, without what is not to be shown of its body."""

    redelivered: bool
    message_count: int
    """Those behind it."""
    target: Target
    properties: bytes
    body: bytes
    body_bytes: int
    """Of the whole body."""

    @property
    def shown_bytes(self) -> int:
        """What of the broker's memory is shown."""
        return len(self.body) + len(self.properties)


def get(call: Call, name: str, wanted: Wanted) -> list[Fetched]:
    """Up to that many messages from the front of a queue: those that are in memory, and no more
    than one answer should hold.

    Raises ApiError; Postponed when there are messages, and all of them on disk.
    """
    limits = call.broker.limits
    most = min(wanted.most, limits.http_get_messages_max)
    found: list[Fetched] = []
    size = 0
    with amqp.channel_for(call) as (channel, outlet):
        method = amqp.frame(Basic.Get, queue=name, no_ack=wanted.outcome is None)
        while len(found) < most and size < limits.http_get_bytes_max:
            try:
                handle(channel, MethodCommand(amqp.CHANNEL_NUMBER, method, {}))
            except AMQPException as error:
                if error.code == NOT_FOUND:
                    raise not_found(error.reply_text) from error
                raise from_amqp(error, declaring=True) from error
            except Postponed:
                if not found:
                    raise
                break
            if not outlet.got:
                break
            fetched = _cut(wanted, *outlet.got.pop()[1:])
            found.append(fetched)
            size += fetched.shown_bytes
        # Together and at the end: what is requeued at once would be fetched again.
        _settle(channel, wanted.outcome)
    return found


def _cut(wanted: Wanted, redelivered: bool, message_count: int, message: Message) -> Fetched:
    """What of it the answer needs: a body that is cut is not kept whole for it."""
    whole = message.body
    body = message.keep() if wanted.truncate is None else bytes(whole[: wanted.truncate])
    return Fetched(redelivered, message_count, message.target, message.properties, body, len(whole))


def _settle(channel: Channel, outcome: int | None) -> None:
    if outcome is None:
        return
    for delivery_tag in list(channel.unacked):
        channel.settle(Settle(amqp.CHANNEL_NUMBER, delivery_tag, False, outcome, BASIC_REJECT))


def shown(wanted: Wanted, found: list[Fetched]) -> Steps[list[msgspec.Raw]]:
    """The messages as JSON, and `found` is empty then: a body is not kept beside its text."""
    rows: list[msgspec.Raw] = []
    size = 0
    found.reverse()
    while found:
        fetched = found.pop()
        rows.append(msgspec.Raw(encode(_row(wanted, fetched))))
        size += fetched.shown_bytes
        if size >= STEP_BYTES or not len(rows) % ROWS_A_STEP:
            size = 0
            yield
    return rows


def _row(wanted: Wanted, fetched: Fetched) -> dict[str, Any]:
    payload, encoding = wanted.encode(fetched.body)
    return {
        "payload_bytes": fetched.body_bytes,
        "redelivered": fetched.redelivered,
        "exchange": fetched.target.exchange,
        "routing_key": fetched.target.routing_key,
        "message_count": fetched.message_count,
        # An empty object is a list, as in RabbitMQ.
        "properties": shown_properties(fetched.properties) or [],
        "payload": payload,
        "payload_encoding": encoding,
    }


def shown_properties(properties: bytes) -> dict[str, Any]:
    """A property list as JSON."""
    shown: dict[str, Any] = {}
    for name, flag in {**TEXTS, **NUMBERS}.items():
        value = wire.read_property(properties, flag)
        if value is not None:
            shown[name] = value
    if wire.has_property(properties, wire.HEADERS):
        shown[HEADERS] = plain(wire.read_headers(properties, HEADERS_DEPTH_MAX))
    return shown


HEADERS_DEPTH_MAX: Final = 128
"""Deeper than what any client may send."""
