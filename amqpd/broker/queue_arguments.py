"""What queue.declare may say in its arguments: which are known, which values they take.

RabbitMQ's checks, in its order, and its words (reference: "Argument validation"). An argument that
no queue type knows is accepted and not compared; one that only another type knows is refused.
Adding one: put its check into `CHECKS` (or `CHECKS_SINCE`), and its name into the lists of the
types that know it: two declarations of a queue have to agree in all that its type knows. What they
mean is read by `queue_rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from amqpd.commands import Arguments, Field
from amqpd.config import Compat
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
    """x-queue-type: streams are not offered, and say so."""
    octet, value = field
    reason = f"\"unsupported queue type '{text(octet, value)}'\""
    return one_of(field, (CLASSIC, QUORUM), reason)


def check_mode(field: Field, _: Arguments) -> str:
    """x-queue-mode: accepted; RabbitMQ ignores it from 3.12 on."""
    octet, value = field
    return one_of(field, ("default", "lazy"), f"\"unsupported queue mode '{text(octet, value)}'\"")


def accept(field: Field, _: Arguments) -> str:
    """Any value is as good as another."""
    return ""


def check_version(field: Field, _: Arguments) -> str:
    """x-queue-version: RabbitMQ's file format, of no consequence here."""
    return _version(field, (1, 2))


def check_version_2(field: Field, _: Arguments) -> str:
    """x-queue-version, once the first is history."""
    return _version(field, (2,))


def _version(field: Field, allowed: tuple[int, ...]) -> str:
    reason = integer(field, 0)
    if not reason and field[1] not in allowed:
        return f"\"unsupported queue version '{field[1]}'\""
    return reason


def check_boolean(field: Field, _: Arguments) -> str:
    """x-single-active-consumer."""
    return "" if field[0] == "t" else f"{{unacceptable_type,{type_name(field[0])}}}"


def check_locator(field: Field, _: Arguments) -> str:
    """x-queue-leader-locator: accepted, there is one node."""
    allowed = ("client-local", "balanced", "random", "least-leaders")
    return one_of(field, allowed, "invalid_queue_locator_arg")


def check_strategy(field: Field, _: Arguments) -> str:
    """x-dead-letter-strategy of a quorum queue."""
    return one_of(field, ("at-most-once", "at-least-once"), "invalid_dlx_strategy")


def check_group_size(field: Field, _: Arguments) -> str:
    """x-quorum-initial-group-size: there is one node, so one member is what it gets."""
    return integer(field, 1)


def check_retry_type(field: Field, _: Arguments) -> str:
    """x-delayed-retry-type: which returns wait before they are delivered again."""
    return one_of(field, ("disabled", "all", "failed", "returned"), "invalid_delayed_retry_type")


CLASSIC: Final = "classic"
QUORUM: Final = "quorum"
QUEUE_TYPE: Final = "x-queue-type"
DEAD_LETTER_EXCHANGE: Final = "x-dead-letter-exchange"
CONSUMER_TIMEOUT: Final = "x-consumer-timeout"

CHECKS: Final[dict[str, Check]] = {
    "x-expires": check_expires,
    "x-message-ttl": check_ttl,
    "x-dead-letter-routing-key": check_dead_letter_routing_key,
    "x-dead-letter-strategy": check_strategy,
    "x-max-length": check_length,
    "x-max-length-bytes": check_length,
    "x-max-in-memory-length": check_length,
    "x-max-in-memory-bytes": check_length,
    "x-max-priority": check_priority,
    "x-overflow": check_overflow,
    "x-queue-mode": check_mode,
    "x-queue-version": check_version,
    "x-single-active-consumer": check_boolean,
    "x-quorum-initial-group-size": check_group_size,
    "x-queue-leader-locator": check_locator,
    "x-delayed-retry-type": check_retry_type,
    "x-delayed-retry-min": check_length,
    "x-delayed-retry-max": check_length,
}
"""In RabbitMQ's order; the queue type comes before all of them."""

CHECKS_SINCE: Final[dict[Compat, dict[str, Check]]] = {
    "3.13": {},
    "4.2": {"x-queue-mode": accept},
    "4.3": {
        "x-queue-mode": accept,
        "x-queue-version": check_version_2,
        CONSUMER_TIMEOUT: check_length,
    },
}
"""What the profiles see otherwise, or first."""

_CHECKS_OF: Final = {compat: CHECKS | since for compat, since in CHECKS_SINCE.items()}

# In the order in which RabbitMQ compares them.
_OF_ALL_FIRST: Final = (
    "x-expires",
    "x-message-ttl",
    DEAD_LETTER_EXCHANGE,
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
)
_OF_ALL_LAST: Final = (
    "x-single-active-consumer",
    QUEUE_TYPE,
    # RabbitMQ 4.3 has these for quorum queues alone.
    "x-delayed-retry-type",
    "x-delayed-retry-min",
    "x-delayed-retry-max",
)
_OF_ALL: Final = (*_OF_ALL_FIRST, "x-overflow", *_OF_ALL_LAST)
_OF_CLASSIC: Final = (
    *_OF_ALL_FIRST,
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    *_OF_ALL_LAST,
    "x-queue-master-locator",
)
_OF_QUORUM: Final = (
    *_OF_ALL,
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-quorum-initial-group-size",
    "x-queue-leader-locator",
)
_OF_STREAM: Final = (
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-stream-filter-size-bytes",
    "x-initial-cluster-size",
)
# Classic queues take a leader locator from 3.11 on, and have nothing to lead.
_TAKEN: Final = {
    CLASSIC: frozenset((*_OF_CLASSIC, "x-queue-leader-locator")),
    QUORUM: frozenset(_OF_QUORUM),
}
_KNOWN: Final = frozenset((*_OF_CLASSIC, *_OF_QUORUM, *_OF_STREAM))


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


def queue_type(arguments: Arguments) -> str:
    """The type that the arguments ask for; classic by default."""
    octet, value = arguments.get(QUEUE_TYPE, ("S", CLASSIC))
    return text(octet, value)


def arguments_of(kind: str) -> frozenset[str]:
    """The arguments that a queue type knows, in one profile or another."""
    return _TAKEN[kind] | {CONSUMER_TIMEOUT}


def compared(arguments: Arguments, compat: Compat) -> tuple[str, ...]:
    """Arguments in which two declarations of such a queue have to agree."""
    if queue_type(arguments) != QUORUM:
        return _OF_CLASSIC
    return (*_OF_QUORUM, CONSUMER_TIMEOUT) if compat == "4.3" else _OF_QUORUM


def check_arguments(
    arguments: Arguments, queue: str, method: tuple[int, int], compat: Compat
) -> None:
    """406 for the first argument with a value that RabbitMQ would refuse.

    `queue` is `queue 'NAME' in vhost 'VHOST'`.
    """
    if not arguments:
        return
    _check(QUEUE_TYPE, check_type, arguments, queue, method)
    dead_letter_target(arguments, queue, method)
    kind = queue_type(arguments)
    taken = _TAKEN[kind]
    known = _KNOWN
    if compat == "4.3":
        known = known | {CONSUMER_TIMEOUT}
        if kind == QUORUM:
            taken = taken | {CONSUMER_TIMEOUT}
    for key, check in _CHECKS_OF[compat].items():
        if key in taken:
            _check(key, check, arguments, queue, method)
    for key in arguments:
        if key in known and key not in taken:
            reason = f"invalid arg '{key}' for {queue} of queue type rabbit_{kind}_queue"
            raise amqp_error(PRECONDITION_FAILED, reason, method)


def check_properties(
    arguments: Arguments,
    queue: str,
    method: tuple[int, int],
    *,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
) -> None:
    """406 for a quorum queue that would not last, in RabbitMQ's order."""
    if queue_type(arguments) != QUORUM:
        return
    for name, wrong in (
        ("auto-delete", auto_delete),
        ("exclusive-owner", exclusive),
        ("non-durable", not durable),
    ):
        if wrong:
            reason = f"invalid property '{name}' for {queue}"
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
        received, existing = wanted.get(name), current.get(name)
        if not _same(_comparable(name, received), _comparable(name, existing)):
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
        shown = f"received {_value_alone(received)} but current is {_value_alone(existing)}"
    else:
        shown = f"received {described(received)} but current is {described(existing)}"
    return amqp_error(
        PRECONDITION_FAILED, f"inequivalent arg '{name}' for {resource}: {shown}", method
    )


def _value_alone(field: Field) -> str:
    """To Erlang nothing (V) is nothing, as where there is no such argument."""
    return "none" if field[0] == "V" else f"'{text(*field)}'"


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
