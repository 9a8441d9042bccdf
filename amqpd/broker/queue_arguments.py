"""What queue.declare may say in its arguments: which are known, which values they take.

RabbitMQ's checks, in its order, and its words (reference: "Argument validation"). Unknown arguments
are accepted and not compared. Adding one: put its check into `CHECKS`, and, if two declarations
that differ in it are not the same queue, its name into `COMPARED`. What they mean is read by
`queue_rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from amqpd.commands import Arguments, Field
from amqpd.errors import PRECONDITION_FAILED, AMQPException, amqp_error
from amqpd.wire.tables import described, text, type_name

INTEGERS: Final = "bBsuIilL"
STRINGS: Final = "S"
MILLISECONDS_MAX: Final = 315_360_000_000

Check = Callable[[Field, Arguments], str]
"""The reason for refusing a value, or an empty string."""


def integer(field: Field, least: int, most: int | None = None) -> str:
    """Why the value is not an integer in that range."""
    octet, value = field
    if octet not in INTEGERS:
        return f'"expected integer, got {type_name(octet)}"'
    if value < 0:
        return f"{{value_negative,{value}}}"
    if value < least:
        return f"{{value_zero,{value}}}"
    if most is not None and value > most:
        return f"{{value_too_large,{value}}}"
    return ""


def check_expires(field: Field, _: Arguments) -> str:
    """x-expires: milliseconds, not zero."""
    return integer(field, 1, MILLISECONDS_MAX)


def check_ttl(field: Field, _: Arguments) -> str:
    """x-message-ttl: milliseconds."""
    return integer(field, 0, MILLISECONDS_MAX)


def check_length(field: Field, _: Arguments) -> str:
    """x-max-length, x-max-length-bytes: not negative."""
    return integer(field, 0)


def check_priority(field: Field, _: Arguments) -> str:
    """x-max-priority: 0 to 255."""
    reason = integer(field, 0)
    if not reason and field[1] > 255:
        return f"{{max_value_exceeded,{field[1]}}}"
    return reason


def one_of(field: Field, allowed: tuple[str, ...], reason: str) -> str:
    """`reason` unless the value is one of the allowed strings."""
    octet, value = field
    if octet not in STRINGS:
        return f"{{unacceptable_type,{type_name(octet)}}}"
    return "" if value in allowed else reason


def check_overflow(field: Field, _: Arguments) -> str:
    """x-overflow: what happens to a message for which there is no room."""
    allowed = ("drop-head", "reject-publish", "reject-publish-dlx")
    return one_of(field, allowed, "invalid_overflow")


def check_dead_letter_routing_key(field: Field, arguments: Arguments) -> str:
    """x-dead-letter-routing-key: a string, with an exchange to go with it."""
    if field[0] not in STRINGS:
        return f"{{unacceptable_type,{type_name(field[0])}}}"
    return "" if "x-dead-letter-exchange" in arguments else "routing_key_but_no_dlx_defined"


def check_type(field: Field, _: Arguments) -> str:
    """x-queue-type: quorum queues and streams are not offered yet, and say so."""
    octet, value = field
    return one_of(field, ("classic",), f"\"unsupported queue type '{text(octet, value)}'\"")


def check_mode(field: Field, _: Arguments) -> str:
    """x-queue-mode: accepted; RabbitMQ ignores it from 3.12 on."""
    octet, value = field
    return one_of(field, ("default", "lazy"), f"\"unsupported queue mode '{text(octet, value)}'\"")


def check_version(field: Field, _: Arguments) -> str:
    """x-queue-version: RabbitMQ's file format, of no consequence here."""
    reason = integer(field, 0)
    if not reason and field[1] not in (1, 2):
        return f"\"unsupported queue version '{field[1]}'\""
    return reason


def check_boolean(field: Field, _: Arguments) -> str:
    """x-single-active-consumer."""
    return "" if field[0] == "t" else f"{{unacceptable_type,{type_name(field[0])}}}"


def check_locator(field: Field, _: Arguments) -> str:
    """x-queue-leader-locator: accepted, there is one node."""
    allowed = ("client-local", "balanced", "random", "least-leaders")
    return one_of(field, allowed, "invalid_queue_locator_arg")


CHECKS: Final[dict[str, Check]] = {
    "x-expires": check_expires,
    "x-message-ttl": check_ttl,
    "x-dead-letter-routing-key": check_dead_letter_routing_key,
    "x-max-length": check_length,
    "x-max-length-bytes": check_length,
    "x-max-priority": check_priority,
    "x-overflow": check_overflow,
    "x-queue-mode": check_mode,
    "x-queue-version": check_version,
    "x-single-active-consumer": check_boolean,
    "x-queue-leader-locator": check_locator,
}
"""In RabbitMQ's order; the queue type comes before all of them."""

OF_OTHER_TYPES: Final = (
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-initial-cluster-size",
    "x-max-age",
    "x-quorum-initial-group-size",
    "x-stream-max-segment-size-bytes",
)
"""Arguments of quorum queues and streams: a classic queue refuses them, whatever their value."""

DEAD_LETTER_EXCHANGE: Final = "x-dead-letter-exchange"
QUEUE_TYPE: Final = "x-queue-type"

COMPARED: Final = (
    "x-expires",
    "x-message-ttl",
    DEAD_LETTER_EXCHANGE,
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    QUEUE_TYPE,
)
"""Arguments in which two declarations of one queue have to agree."""


def with_default_type(
    arguments: Arguments, default: str | None, *, durable: bool, exclusive: bool, auto_delete: bool
) -> Arguments:
    """The arguments, with the virtual host's default queue type if they name none.

    As in RabbitMQ, it is for durable queues that are shared; and, unless it is the classic type,
    for such as are not deleted by themselves.
    """
    if default is None or QUEUE_TYPE in arguments or not durable or exclusive:
        return arguments
    if default != "classic" and auto_delete:
        return arguments
    return {**arguments, QUEUE_TYPE: ("S", default)}


def check_arguments(arguments: Arguments, queue: str, method: tuple[int, int]) -> None:
    """406 for the first argument with a value that RabbitMQ would refuse.

    `queue` is `queue 'NAME' in vhost 'VHOST'`.
    """
    _check(QUEUE_TYPE, check_type, arguments, queue, method)
    dead_letter_target(arguments, queue, method)
    for key, check in CHECKS.items():
        _check(key, check, arguments, queue, method)
    for key in arguments:
        if key in OF_OTHER_TYPES:
            reason = f"invalid arg '{key}' for {queue} of queue type rabbit_classic_queue"
            raise amqp_error(PRECONDITION_FAILED, reason, method)


def _check(
    key: str, check: Check, arguments: Arguments, queue: str, method: tuple[int, int]
) -> None:
    field = arguments.get(key)
    reason = check(field, arguments) if field is not None else ""
    if reason:
        raise amqp_error(PRECONDITION_FAILED, f"invalid arg '{key}' for {queue}: {reason}", method)


def dead_letter_target(arguments: Arguments, queue: str, method: tuple[int, int]) -> str | None:
    """The name of the dead letter exchange, if there is one; 406 for one that is no string."""
    field = arguments.get(DEAD_LETTER_EXCHANGE)
    if field is None:
        return None
    octet, name = field
    if octet not in STRINGS:
        reason = f"invalid type '{type_name(octet)}' for arg '{DEAD_LETTER_EXCHANGE}' in {queue}"
        raise amqp_error(PRECONDITION_FAILED, reason, method)
    return str(name)


def check_equivalent(
    wanted: Arguments,
    current: Arguments,
    names: tuple[str, ...],
    resource: str,
    method: tuple[int, int],
) -> None:
    """406 for the first of the named arguments in which two declarations differ."""
    for name in names:
        received = _comparable(name, wanted.get(name))
        existing = _comparable(name, current.get(name))
        if _same(received, existing):
            continue
        raise inequivalent(name, received, existing, resource, method)


def inequivalent(
    name: str,
    received: Field | None,
    existing: Field | None,
    resource: str,
    method: tuple[int, int],
) -> AMQPException:
    """The refusal of a declaration that differs in `name`."""
    if received is not None and existing is not None:
        shown = f"received '{text(*received)}' but current is '{text(*existing)}'"
    else:
        shown = f"received {described(received)} but current is {described(existing)}"
    return amqp_error(
        PRECONDITION_FAILED, f"inequivalent arg '{name}' for {resource}: {shown}", method
    )


def _comparable(name: str, field: Field | None) -> Field | None:
    """No queue type is the same as the classic one."""
    if name == QUEUE_TYPE and field == ("S", "classic"):
        return None
    return field


def _same(one: Field | None, other: Field | None) -> bool:
    """Equal in value and class of type: all integers are of one class, and all floats."""
    if one is None or other is None:
        return one is other
    return _type_class(one[0]) == _type_class(other[0]) and bool(one[1] == other[1])


def _type_class(octet: str) -> str:
    if octet in INTEGERS:
        return "integer"
    return "float" if octet in "fd" else octet
