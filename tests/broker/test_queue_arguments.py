"""The arguments of queue.declare: which values are refused, in which words, and what is compared.

Every line was asked of RabbitMQ 3.10.8.
"""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.commands import Arguments
from tests.conversation import Channel

Q = "queue 'q' in vhost '/'"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("x-expires", 0, "{value_zero,0}"),
        ("x-expires", -1, "{value_negative,-1}"),
        ("x-expires", 315360000001, "{value_too_large,315360000001}"),
        ("x-expires", "5", '"expected integer, got longstr"'),
        ("x-expires", 5.0, '"expected integer, got double"'),
        ("x-expires", ("T", 5), '"expected integer, got timestamp"'),
        ("x-message-ttl", -1, "{value_negative,-1}"),
        ("x-message-ttl", 315360000001, "{value_too_large,315360000001}"),
        ("x-message-ttl", True, '"expected integer, got bool"'),
        ("x-max-length", -1, "{value_negative,-1}"),
        ("x-max-length", "a", '"expected integer, got longstr"'),
        ("x-max-length-bytes", -1, "{value_negative,-1}"),
        ("x-max-priority", 256, "{max_value_exceeded,256}"),
        ("x-max-priority", -1, "{value_negative,-1}"),
        ("x-max-priority", "5", '"expected integer, got longstr"'),
        ("x-overflow", "zz", "invalid_overflow"),
        ("x-overflow", 5, "{unacceptable_type,signedint}"),
        ("x-dead-letter-routing-key", "k", "routing_key_but_no_dlx_defined"),
        ("x-dead-letter-routing-key", 5, "{unacceptable_type,signedint}"),
        ("x-queue-type", "zz", "\"unsupported queue type 'zz'\""),
        ("x-queue-type", 5, "{unacceptable_type,signedint}"),
        ("x-queue-mode", "zz", "\"unsupported queue mode 'zz'\""),
        ("x-queue-mode", 5, "{unacceptable_type,signedint}"),
        ("x-queue-version", 3, "\"unsupported queue version '3'\""),
        ("x-queue-version", 0, "\"unsupported queue version '0'\""),
        ("x-queue-version", -1, "{value_negative,-1}"),
        ("x-queue-version", "1", '"expected integer, got longstr"'),
        ("x-single-active-consumer", "true", "{unacceptable_type,longstr}"),
        ("x-single-active-consumer", 1, "{unacceptable_type,signedint}"),
    ],
)
def test_refused_values(channel: Channel, key: str, value: Any, reason: str) -> None:
    text = f"PRECONDITION_FAILED - invalid arg '{key}' for {Q}: {reason}"
    with channel.refuses(406, text, (50, 10)):
        channel.queue_declare("q", arguments={key: value})


def test_refused_leader_locator(channel: Channel) -> None:
    """Classic queues take it from 3.11 on; 3.10.8 does not know it there."""
    text = f"PRECONDITION_FAILED - invalid arg 'x-queue-leader-locator' for {Q}:"
    with channel.refuses(406, f"{text} invalid_queue_locator_arg", (50, 10)):
        channel.queue_declare("q", arguments={"x-queue-leader-locator": "zz"})


@pytest.mark.parametrize("value", [5, ("x", b"x")])
def test_refused_dead_letter_exchange(channel: Channel, value: Any) -> None:
    name = "signedint" if value == 5 else "binary"
    text = f"PRECONDITION_FAILED - invalid type '{name}' for arg 'x-dead-letter-exchange' in {Q}"
    with channel.refuses(406, text, (50, 10)):
        channel.queue_declare("q", arguments={"x-expires": 0, "x-dead-letter-exchange": value})


@pytest.mark.parametrize(
    "key",
    [
        "x-dead-letter-strategy",
        "x-delivery-limit",
        "x-initial-cluster-size",
        "x-max-age",
        "x-quorum-initial-group-size",
        "x-stream-max-segment-size-bytes",
    ],
)
def test_arguments_of_other_queue_types(channel: Channel, key: str) -> None:
    text = f"PRECONDITION_FAILED - invalid arg '{key}' for {Q} of queue type rabbit_classic_queue"
    with channel.refuses(406, text, (50, 10)):
        channel.queue_declare("q", arguments={key: 5})


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-expires": 315360000000},
        {"x-message-ttl": 0},
        {"x-message-ttl": 315360000000},
        {"x-max-length": 0, "x-max-length-bytes": 1 << 62},
        {"x-max-priority": 0},
        {"x-max-priority": ("B", 255)},
        {"x-overflow": "drop-head"},
        {"x-overflow": "reject-publish"},
        {"x-overflow": "reject-publish-dlx"},
        {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": ""},
        {"x-queue-type": "classic"},
        {"x-queue-mode": "lazy"},
        {"x-queue-version": 2},
        {"x-single-active-consumer": False},
        {"x-foo": None, "x-bar": {"deep": ["er"]}, "no-x": 5.5},
        {"x-queue-master-locator": "min-masters"},
    ],
)
def test_accepted_values(channel: Channel, arguments: Arguments) -> None:
    channel.queue_declare("q", arguments=arguments)
    channel.queue_declare("q", arguments=arguments)


def test_the_first_refusal_is_rabbitmqs_first(channel: Channel) -> None:
    """Whatever the order in the table."""
    text = f"PRECONDITION_FAILED - invalid arg 'x-expires' for {Q}: {{value_zero,0}}"
    for other in ({"x-max-priority": 256}, {"x-max-age": "5D"}):
        with channel.refuses(406, text, (50, 10)):
            channel.queue_declare("q", arguments={**other, "x-expires": 0})
        channel.open()


NOTHING = object()


@pytest.mark.parametrize(
    ("key", "current", "received", "text"),
    [
        ("x-expires", 100000, ("u", 100), "received '100' but current is '100000'"),
        (
            "x-message-ttl",
            5,
            NOTHING,
            "received none but current is the value '5' of type 'signedint'",
        ),
        (
            "x-message-ttl",
            NOTHING,
            1 << 37,
            "received the value '137438953472' of type 'long' but current is none",
        ),
        ("x-max-length", 5, "5", "received '5' but current is '5'"),
        ("x-max-length-bytes", 5, 6, "received '6' but current is '5'"),
        (
            "x-overflow",
            NOTHING,
            "drop-head",
            "received the value 'drop-head' of type 'longstr' but current is none",
        ),
        (
            "x-overflow",
            "drop-head",
            "reject-publish",
            "received 'reject-publish' but current is 'drop-head'",
        ),
        ("x-dead-letter-exchange", "a", "b", "received 'b' but current is 'a'"),
        ("x-queue-mode", "default", "lazy", "received 'lazy' but current is 'default'"),
        ("x-queue-version", 1, 2, "received '2' but current is '1'"),
        ("x-max-priority", 5, 6, "received '6' but current is '5'"),
        (
            "x-single-active-consumer",
            NOTHING,
            False,
            "received the value 'false' of type 'bool' but current is none",
        ),
        ("x-single-active-consumer", True, False, "received 'false' but current is 'true'"),
        (
            "x-queue-type",
            NOTHING,
            "quorum",
            "received the value 'quorum' of type 'longstr' but current is none",
        ),
        # Values are not validated again, only compared.
        (
            "x-expires",
            NOTHING,
            0,
            "received the value '0' of type 'signedint' but current is none",
        ),
        ("x-dead-letter-exchange", "a", 5, "received '5' but current is 'a'"),
    ],
)
def test_inequivalent(channel: Channel, key: str, current: Any, received: Any, text: str) -> None:
    channel.queue_declare("q", arguments={} if current is NOTHING else {key: current})
    with channel.refuses(
        406, f"PRECONDITION_FAILED - inequivalent arg '{key}' for {Q}: {text}", (50, 10)
    ):
        channel.queue_declare("q", arguments={} if received is NOTHING else {key: received})


def test_the_first_difference_is_rabbitmqs_first(channel: Channel) -> None:
    channel.queue_declare("q")
    text = f"inequivalent arg 'x-expires' for {Q}: received the value '1000' of type 'signedint'"
    with channel.refuses(406, f"PRECONDITION_FAILED - {text} but current is none", (50, 10)):
        channel.queue_declare(
            "q",
            arguments={
                "x-single-active-consumer": True,
                "x-max-priority": 5,
                "x-message-ttl": 5,
                "x-expires": 1000,
            },
        )


def test_integers_of_all_types_are_equal(channel: Channel) -> None:
    for octet in "bBsuIil":
        channel.queue_declare("q", arguments={"x-max-priority": (octet, 5)})


@pytest.mark.parametrize(
    ("current", "again"),
    [
        ({"x-queue-type": "classic"}, {}),
        ({}, {"x-queue-type": "classic"}),
        ({}, {"x-max-age": "5D"}),
        ({"x-foo": 1}, {"x-foo": "2", "x-bar": 3}),
        ({}, {"x-queue-leader-locator": "balanced"}),
    ],
)
def test_equivalent(channel: Channel, current: dict[str, Any], again: dict[str, Any]) -> None:
    channel.queue_declare("q", arguments=current)
    channel.queue_declare("q", arguments=again)
