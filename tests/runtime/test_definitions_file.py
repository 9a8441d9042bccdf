"""Definitions files: two that a RabbitMQ 3.10.8 exported, and what may be wrong in others."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpd.broker.definitions import PermissionRecord, TopicPermissionRecord, VhostRecord
from amqpd.broker.passwords import MD5, SHA256, SHA512
from amqpd.runtime.definitions_file import (
    BindingDefinition,
    DefinitionsError,
    DefinitionsFile,
    ExchangeDefinition,
    ParameterDefinition,
    PolicyDefinition,
    QueueDefinition,
    UserDefinition,
    load_definitions,
    to_arguments,
)

DATA = Path(__file__).parent / "data"


def load(value: Any, default_vhost: str | None = None) -> DefinitionsFile:
    return load_definitions(json.dumps(value).encode(), "defs.json", default_vhost)


def problem(value: Any) -> str:
    """What is said of a file that is refused, without the file's name."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(DefinitionsError) as error:
        load_definitions(text, "defs.json")
    source, _, said = str(error.value).partition(": ")
    assert source == "defs.json"
    return said


# Real files


def test_a_whole_broker() -> None:
    text = (DATA / "rabbitmq_3_10_8_definitions.json").read_bytes()
    file = load_definitions(text, "defs.json")
    users = {user.name: user for user in file.users}
    assert users["alice"].tags == ("administrator", "monitoring")
    assert users["sha512"].hashing_algorithm == SHA512
    assert users["nologin"] == UserDefinition("nologin", "", SHA256, limits={})
    assert file.vhosts == [VhostRecord("orders"), VhostRecord("/")]
    assert PermissionRecord("alice", "orders", r"^orders\.", ".*", "") in file.permissions
    assert file.topic_permissions == [
        TopicPermissionRecord("alice", "orders", "events", r"^{username}\.", ".*")
    ]
    assert file.exchanges == [
        ExchangeDefinition("orders", "unrouted", "fanout", internal=True),
        ExchangeDefinition(
            "orders", "events", "topic", arguments={"alternate-exchange": ("S", "unrouted")}
        ),
    ]
    assert file.queues == [
        QueueDefinition("orders", "transient", durable=False, auto_delete=True),
        QueueDefinition("orders", "quorum", arguments={"x-queue-type": ("S", "quorum")}),
        QueueDefinition(
            "orders",
            "orders.new",
            arguments={
                "x-dead-letter-exchange": ("S", ""),
                "x-flag": ("t", True),
                "x-list": ("A", [("l", 1), ("S", "a"), ("F", {"b": ("l", 2)})]),
                "x-max-length": ("l", 1000),
                "x-ratio": ("d", 0.5),
            },
        ),
    ]
    assert file.bindings == [
        BindingDefinition("orders", "events", "unrouted", "exchange", "#", {"note": ("S", "all")}),
        BindingDefinition("orders", "events", "orders.new", "queue", "alice.*"),
    ]
    assert file.rabbit_version == "3.10.8"
    assert file.policies == [
        PolicyDefinition("orders", "limit", "^orders", {"max-length": 10}, 1, "queues")
    ]
    assert file.parameters == [
        ParameterDefinition("orders", "vhost-limits", "limits", {"max-queues": 100})
    ]
    [cluster_id] = file.global_parameters
    assert cluster_id.name == "internal_cluster_id"
    assert file.warnings == []


def test_one_virtual_host() -> None:
    text = (DATA / "rabbitmq_3_10_8_vhost_definitions.json").read_bytes()
    file = load_definitions(text, "defs.json", default_vhost="elsewhere")
    assert {queue.vhost for queue in file.queues} == {"elsewhere"}
    assert {exchange.vhost for exchange in file.exchanges} == {"elsewhere"}
    assert {binding.vhost for binding in file.bindings} == {"elsewhere"}
    with pytest.raises(DefinitionsError, match=r"\$\.exchanges\[0\]: missing required field vhost"):
        load_definitions(text, "defs.json")


def test_a_vhost_in_the_file_comes_before_the_default() -> None:
    queues = [{"name": "a", "vhost": "v"}, {"name": "b"}]
    assert [queue.vhost for queue in load({"queues": queues}, "d").queues] == ["v", "d"]


def test_an_empty_file() -> None:
    assert load({}) == DefinitionsFile()


# Forms of other versions


def test_tags_as_comma_string() -> None:
    users = [{"name": "a", "tags": "administrator, monitoring"}, {"name": "b", "tags": ""}]
    assert [user.tags for user in load({"users": users}).users] == [
        ("administrator", "monitoring"),
        (),
    ]


def test_a_plain_password() -> None:
    (user,) = load({"users": [{"name": "a", "password": "p", "tags": []}]}).users
    assert (user.password, user.password_hash) == ("p", "")


def test_before_3_6_hashes_were_md5() -> None:
    users = {"users": [{"name": "a", "password_hash": "AAAA"}]}
    assert load({"rabbit_version": "3.5.7", **users}).users[0].hashing_algorithm == MD5
    assert load({"rabbit_version": "3.6.0", **users}).users[0].hashing_algorithm == SHA256
    assert load({"rabbit_version": "3.10.8", **users}).users[0].hashing_algorithm == SHA256


def test_vhost_metadata() -> None:
    metadata = {"description": "d", "tags": ["t"], "default_queue_type": "undefined"}
    file = load({"vhosts": [{"name": "a", "metadata": metadata, "limits": []}]})
    assert file.vhosts == [VhostRecord("a", "d", ("t",))]
    assert file.warnings == []


def test_limits_beside_a_virtual_host_are_a_parameter() -> None:
    vhosts = [
        {"name": "a", "limits": {"max-queues": 1}},
        {"name": "b", "limits": {"max-queues": 2}},
    ]
    said = {"vhost": "b", "component": "vhost-limits", "name": "limits", "value": {"max-queues": 3}}
    file = load({"vhosts": vhosts, "parameters": [said]})
    assert [(row.vhost, row.value) for row in file.parameters] == [
        ("b", {"max-queues": 3}),
        ("a", {"max-queues": 1}),
    ]
    assert file.warnings == []


def test_a_file_can_be_meant_for_one_virtual_host() -> None:
    text = json.dumps(
        {
            "users": [{"name": "u"}],
            "queues": [{"name": "q", "vhost": "other"}, {"name": "r"}],
            "policies": [{"name": "p", "vhost": "other", "pattern": "", "definition": {}}],
        }
    ).encode()
    file = load_definitions(text, "defs.json", "default", into="mine")
    assert file.users == []
    assert [row.vhost for row in file.queues] == ["mine", "mine"]
    assert [row.vhost for row in file.policies] == ["mine"]


def test_a_queue_type_beside_the_arguments() -> None:
    queues = [{"name": "q", "vhost": "/", "type": kind} for kind in ("classic", "quorum")]
    first, second = load({"queues": queues}).queues
    assert first.arguments == {}
    assert second.arguments == {"x-queue-type": ("S", "quorum")}


def test_arguments_as_erlangs_empty_list() -> None:
    assert load({"queues": [{"name": "q", "vhost": "/", "arguments": []}]}).queues[0] == (
        QueueDefinition("/", "q")
    )


def test_a_byte_order_mark_is_no_harm() -> None:
    assert load_definitions(b"\xef\xbb\xbf{}", "defs.json") == DefinitionsFile()


# What has no effect


def test_warnings_name_what_is_not_applied() -> None:
    queue = {"name": "q", "vhost": "/", "colour": "blue"}
    file = load(
        {
            "users": [{"name": "u", "limits": {"max-channels": 1}}],
            "vhosts": [{"name": "v", "metadata": {"protected_from_deletion": True}}],
            "queues": [queue, {**queue, "odd key": 1}, queue],
            "shovels": [1],
            "nothing": [],
        }
    )
    assert file.warnings == [
        "$.shovels: unknown key, not applied",
        "$.vhosts[0].metadata.protected_from_deletion: unknown field, not applied",
        "$.queues[0].colour: unknown field, not applied (and in 2 more of queues)",
        '$.queues[1]["odd key"]: unknown field, not applied',
    ]


# What is wrong

QUEUE = {"name": "q", "vhost": "/", "durable": True, "auto_delete": False, "arguments": {}}
BINDING = {"source": "x", "vhost": "/", "destination": "q", "destination_type": "queue"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "$: expected object, with users, vhosts, queues and so on"),
        ({"queues": {}}, "$.queues: expected array, got object"),
        ({"queues": [QUEUE, 5]}, "$.queues[1]: expected object, got int 5"),
        (
            {"queues": [QUEUE, QUEUE, {**QUEUE, "durable": "yes"}]},
            '$.queues[2].durable: expected bool, got str "yes"',
        ),
        ({"queues": [{"vhost": "/"}]}, "$.queues[0]: missing required field name"),
        ({"queues": [{**QUEUE, "name": None}]}, "$.queues[0].name: expected str, got null"),
        ({"queues": [{**QUEUE, "name": ""}]}, "$.queues[0].name: must not be empty"),
        (
            {"queues": [{**QUEUE, "name": "é" * 200}]},
            f'$.queues[0].name: "{"é" * 56}... has 400 octets, at most 255 can be',
        ),
        (
            {"queues": [{**QUEUE, "arguments": 1}]},
            "$.queues[0].arguments: expected object, got int 1",
        ),
        (
            {"queues": [{**QUEUE, "arguments": {"a b": [1, {"c": 1 << 63}]}}]},
            '$.queues[0].arguments["a b"][1].c: expected an integer of 64 bits,'
            " got 9223372036854775808",
        ),
        (
            {"bindings": [{**BINDING, "destination_type": "topic"}]},
            '$.bindings[0].destination_type: expected "queue" or "exchange", got "topic"',
        ),
        (
            {"bindings": [{**BINDING, "destination_type": 3}]},
            "$.bindings[0].destination_type: expected str, got int 3",
        ),
        (
            {"exchanges": [{"name": "x", "vhost": "/"}]},
            "$.exchanges[0]: missing required field type",
        ),
        ({"policies": ["p"]}, '$.policies[0]: expected object, got str "p"'),
        (
            {"users": [{"name": "u", "password_hash": "?"}]},
            "$.users[0].password_hash: password hash is not base64",
        ),
        ({"users": [{"name": "u", "tags": [1]}]}, "$.users[0].tags[0]: expected str, got int 1"),
        (
            {
                "permissions": [
                    {"user": "u", "vhost": "/", "configure": "(", "write": "", "read": ""}
                ]
            },
            "$.permissions[0].configure: invalid regular expression '(': missing ) at position 1",
        ),
        (
            {
                "topic_permissions": [
                    {"user": "u", "vhost": "/", "exchange": "", "write": "", "read": "["}
                ]
            },
            "$.topic_permissions[0].read: invalid regular expression '[':"
            " missing terminating ] for character class at position 1",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(value: Any, said: str) -> None:
    assert problem(value) == said


def test_an_unknown_hashing_algorithm() -> None:
    said = problem({"users": [{"name": "u", "hashing_algorithm": "rot13"}]})
    assert said.startswith("$.users[0].hashing_algorithm: unknown hashing algorithm 'rot13'; known")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "line 1, column 1: not JSON: Expecting value"),
        (b'{\n  "users": [\n}', "line 3, column 1: not JSON: Expecting value"),
        (b'{\n "a": "\xff"}', "line 2, column 8: not UTF-8"),
        (b'{"a": ["NaN",\n NaN]}', "line 2, column 2: not JSON: NaN"),
        (b'{"a": -Infinity}', "line 1, column 7: not JSON: -Infinity"),
        (b'{"queues": [],\n "queues": []}', 'line 2, column 2: duplicate key "queues"'),
        (
            b'{"a": {"b": "}"},\n "c": [{"b": 1, "x": {"b": 2},\n "\\u0062" : 2}]}',
            'line 3, column 2: duplicate key "b"',
        ),
        (b'{"users": [{"name": "\\ud800"}]}', "$.users[0].name: holds half of a surrogate pair"),
        (b"[" * 100_000, "$: nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "$: not JSON: "),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text: bytes, said: str) -> None:
    assert problem(text).startswith(said)


# Arguments


def test_arguments_are_typed_as_rabbitmq_types_them() -> None:
    assert to_arguments(
        {"i": 1, "f": 1.0, "s": "x", "t": True, "a": [None, {}], "e": {"n": None}}
    ) == {
        "i": ("l", 1),
        "f": ("d", 1.0),
        "s": ("S", "x"),
        "t": ("t", True),
        "a": ("A", [("V", None), ("F", {})]),
        "e": ("F", {"n": ("V", None)}),
    }


@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: [value]])
def test_arguments_are_not_nested_without_end(wrap: Any) -> None:
    value: Any = 1
    for _ in range(64):
        value = wrap(value)
    to_arguments({"a": value})
    with pytest.raises(DefinitionsError, match="nested too deeply"):
        to_arguments({"a": wrap(value)})


def test_a_key_of_arguments_fits_into_a_short_string() -> None:
    with pytest.raises(DefinitionsError, match="256 octets"):
        to_arguments({"k" * 256: 1})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
keys = st.sampled_from(
    [
        "users",
        "vhosts",
        "permissions",
        "queues",
        "exchanges",
        "bindings",
        "policies",
        "rabbit_version",
        "name",
        "vhost",
        "tags",
        "arguments",
        "metadata",
        "limits",
        "type",
        "destination_type",
    ]
)


@given(
    st.recursive(
        values,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    )
)
def test_whatever_the_json_it_is_read_or_refused(value: Any) -> None:
    with suppress(DefinitionsError):
        load(value, "/")


@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:a1\\ \n', max_size=40).map(str.encode))
def test_whatever_the_bytes_they_are_read_or_refused(text: bytes) -> None:
    with suppress(DefinitionsError):
        load_definitions(text, "defs.json")
