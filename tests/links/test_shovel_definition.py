"""What a shovel's parameter may say, and RabbitMQ's words for what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.links.shovel_definition import check_definition, read_definition

RIGHT: dict[str, Any] = {"src-uri": "amqp://", "dest-uri": "amqp://", "src-queue": "q"}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"src-queue": None}, "Must specify 'src-exchange' or 'src-queue'"),
        ({"src-exchange": "x"}, "Cannot specify 'src-exchange' and 'src-queue'"),
        (
            {"dest-queue": "q", "dest-exchange": "x"},
            "Cannot specify 'dest-exchange' and 'dest-queue'",
        ),
        (
            {"ack-mode": "no-ack", "delete-after": 5},
            "Cannot specify 'no-ack' and numerical 'delete-after'",
        ),
        ({"dest-uri": None}, 'Key "dest-uri" not found in s'),
        ({"src-uri": 5}, "src-uri should be list, actually was 5"),
        ({"src-uri": [5]}, "src-uri should be binary, actually was 5"),
        ({"src-uri": []}, "src-uri should have 1 to 64 URIs, actually had 0"),
        (
            {"src-uri": "amqps://me:secret@h?x=1"},
            "\"amqps://***@h?x=1\" not a valid URI: unknown parameter 'x'",
        ),
        (
            {"src-uri": ["amqps://me:secret@h?certfile=%00"]},
            '"amqps://***@h?certfile=%00" not a valid URI: certfile cannot be the name of a file',
        ),
        (
            {"ack-mode": "sometimes"},
            'ack-mode should be one of [<<"no-ack">>,<<"on-publish">>,<<"on-confirm">>], actually'
            ' was <<"sometimes">>',
        ),
        ({"src-queue": 5}, "src-queue should be binary, actually was 5"),
        ({"dest-queue": "q" * 256}, "dest-queue should be less than 255 bytes, actually was 256"),
        ({"add-forward-headers": 1}, "add-forward-headers should be boolean, actually was 1"),
        (
            {"delete-after": "later"},
            'delete-after should be number, "never" or "queue-length", actually was <<"later">>',
        ),
        ({"src-delete-after": True}, "src-delete-after should be number"),
        ({"reconnect-delay": "5"}, 'reconnect-delay should be a number, actually was <<"5">>'),
        ({"prefetch-count": 65536}, "prefetch-count should be a number from 0 to 65535"),
        ({"src-queue-args": "x"}, 'src-queue-args not a list <<"x">>'),
        ({"publish-properties": {"colour": "red"}}, "Unrecognised terms"),
        ({"publish-properties": {"priority": 256}}, "priority cannot be a property"),
        ({"publish-properties": {"app_id": 5}}, "app_id should be binary, actually was 5"),
        (
            {"src-delete-after-duration": 59},
            "src-delete-after-duration should be a number from 60 to",
        ),
        (
            {"src-protocol": "amqp10", "src-address": "/queues/q", "src-queue": None},
            "src-protocol: amqp10 is not spoken here, only amqp091",
        ),
        ({"dest-protocol": "amqp10"}, "dest-protocol: amqp10 is not spoken here"),
        ({"src-protocol": "mqtt"}, 'src-protocol should be one of [<<"amqp091">>,<<"local">>]'),
        ({"src-colour": "red"}, 'Unrecognised terms [{<<"src-colour">>,<<"red">>}] in s'),
    ],
)
def test_what_is_refused(fields: dict[str, Any], problem: str) -> None:
    value = {name: item for name, item in (RIGHT | fields).items() if item is not None}
    found = check_definition("s", value)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_older_names_and_defaults() -> None:
    definition = read_definition(RIGHT | {"prefetch-count": 7, "add-timestamp-header": True})
    assert definition.prefetch_count == 7
    assert definition.add_timestamp_header
    assert (definition.ack_mode, definition.reconnect_delay_s) == ("on-confirm", 5)
    assert (definition.delete_after, definition.src_predeclared) == ("never", False)
    newer = read_definition(RIGHT | {"prefetch-count": 7, "src-prefetch-count": 8})
    assert newer.prefetch_count == 8
    assert read_definition(RIGHT).prefetch_count == 1000
