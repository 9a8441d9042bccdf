"""Definitions, out and in again: nothing is lost, nothing happens by halves."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from amqpd.broker.broker import Broker
from amqpd.broker.definitions_export import export_definitions, export_vhost_definitions
from amqpd.broker.limits import set_vhost_limit
from amqpd.broker.parameters import Component, NoSuchVhost
from amqpd.config import Config, Limits
from amqpd.links.federation import Federation, federation_statuses
from amqpd.links.shovels import Shovels, shovel_statuses
from amqpd.runtime.definitions_file import DefinitionsError, load_definitions
from amqpd.runtime.definitions_import import DefinitionsImport
from tests.conversation import BrokerUnderTest, Channel
from tests.runtime.topologies import topologies

DATA = Path(__file__).parent / "data"
LISTS = (
    "users",
    "vhosts",
    "permissions",
    "topic_permissions",
    "parameters",
    "global_parameters",
    "policies",
    "queues",
    "exchanges",
    "bindings",
)


@pytest.fixture
def broker() -> BrokerUnderTest:
    return BrokerUnderTest()


@pytest.fixture
def journaled() -> BrokerUnderTest:
    return BrokerUnderTest(journaling=True)


@pytest.fixture
def channel(broker: BrokerUnderTest) -> Channel:
    return broker.client().channel()


def empty(**how: Any) -> Broker:
    broker = Broker(Config(**how), journaling=False, entropy=lambda count: b"x" * count)
    for component in with_links(broker):
        broker.parameters.register(component)
    return broker


def with_links(broker: Broker) -> list[Component]:
    """The broker has federation; and its other components."""
    broker.federation = Federation(broker)
    return [Shovels(broker)]


def links(broker: Broker) -> list[str]:
    """All links that there are to be: of what, from where, and how."""
    said = [*federation_statuses(broker), *shovel_statuses(broker)]
    return sorted(json.dumps(row | {"timestamp": ""}, sort_keys=True) for row in said)


def importing(broker: Broker, value: Any, into: str | None = None) -> DefinitionsImport:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return DefinitionsImport(broker, load_definitions(text, "defs.json", "/", into), "defs.json")


def comparable(definitions: dict[str, Any]) -> dict[str, Any]:
    """Without order, which a set of definitions does not have."""
    return {
        key: sorted(map(json.dumps, value)) if isinstance(value, list) else value
        for key, value in json.loads(json.dumps(definitions, sort_keys=True)).items()
    }


def whole_file() -> dict[str, Any]:
    """RabbitMQ 3.10.8's export."""
    value: dict[str, Any] = json.loads((DATA / "rabbitmq_3_10_8_definitions.json").read_text())
    return value


# -- round trips


def test_rabbitmqs_export_comes_out_as_it_went_in() -> None:
    broker = empty()
    file = whole_file()
    importing(broker, file).apply()
    said = export_definitions(broker)
    for section in LISTS:
        theirs = file[section]
        if section == "vhosts":
            theirs = [{"name": row["name"]} for row in theirs]
            said[section] = [{"name": row["name"]} for row in said[section]]
        assert comparable({"rows": said[section]}) == comparable({"rows": theirs}), section


def test_it_can_be_imported_again_and_nothing_changes() -> None:
    broker = empty()
    assert importing(broker, whole_file()).apply() != []
    assert importing(broker, whole_file()).apply() == []
    assert importing(broker, export_definitions(broker)).apply() == []


def test_one_virtual_host_becomes_another() -> None:
    broker = empty()
    importing(broker, whole_file()).apply()
    said = export_vhost_definitions(broker, "orders")
    assert all("vhost" not in row for row in said["queues"] + said["exchanges"] + said["bindings"])
    assert {row["vhost"] for row in said["policies"] + said["parameters"]} == {"orders"}
    importing(broker, {"vhosts": [{"name": "copy"}]}).apply()
    importing(broker, said, into="copy").apply()
    again = export_vhost_definitions(broker, "copy")
    for row in again["policies"] + again["parameters"]:
        row["vhost"] = "orders"
    assert comparable(again) == comparable(said)
    with pytest.raises(NoSuchVhost):
        export_vhost_definitions(broker, "nowhere")


def test_exclusive_queues_and_their_bindings_stay_out(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    channel.queue_declare("mine", exclusive=True)
    channel.queue_bind("mine", "amq.topic", "k")
    channel.exchange_bind("amq.fanout", "amq.topic", "e")
    said = export_definitions(broker.core)
    assert said["queues"] == []
    assert [row["destination"] for row in said["bindings"]] == ["amq.fanout"]
    assert said["exchanges"] == []


def test_values_that_json_has_no_type_for(broker: BrokerUnderTest, channel: Channel) -> None:
    arguments = {
        "bytes": b"a\xff",
        "decimal": ("D", (2, 150)),
        "small": ("b", -1),
        "time": ("T", 5),
        "void": None,
        "nested": {"list": [1, {"a": "b"}]},
    }
    channel.queue_declare("q", arguments=arguments)
    [queue] = export_definitions(broker.core)["queues"]
    assert json.loads(json.dumps(queue["arguments"])) == {
        "bytes": "a\N{REPLACEMENT CHARACTER}",
        "decimal": 1.5,
        "small": -1,
        "time": 5,
        "void": None,
        "nested": {"list": [1, {"a": "b"}]},
    }


@settings(deadline=None, max_examples=50)
@given(topologies())
def test_out_and_in_again_is_the_same(topology: dict[str, Any]) -> None:
    first, second = empty(), empty()
    importing(first, topology).apply()
    said = export_definitions(first)
    importing(second, said).apply()
    assert comparable(export_definitions(second)) == comparable(said)
    for name, host in first.virtual_hosts.items():
        other = second.virtual_hosts[name]
        assert {queue.name: queue.rules for queue in host.queues.values()} == {
            queue.name: queue.rules for queue in other.queues.values()
        }
    assert links(second) == links(first)
    assert importing(first, topology).check() == []


@settings(deadline=None, max_examples=50)
@given(topologies(), topologies())
def test_a_dry_run_says_what_happens_and_does_nothing(
    before: dict[str, Any], file: dict[str, Any]
) -> None:
    broker = empty()
    importing(broker, before).apply()
    unchanged = comparable(export_definitions(broker))
    try:
        would = importing(broker, file).check()
    except DefinitionsError:
        # A binding that the exchange which has that name already does not take.
        with pytest.raises(DefinitionsError, match=r"\$\.bindings\["):
            importing(broker, file).apply()
        would, file = [], before
    assert comparable(export_definitions(broker)) == unchanged
    assert importing(broker, file).apply() == would
    assert importing(broker, file).check() == []
    assert (comparable(export_definitions(broker)) == unchanged) is (would == [])


# -- all or nothing


@pytest.mark.parametrize(
    ("section", "row", "said"),
    [
        ("vhosts", {"name": "w", "default_queue_type": "x"}, ".default_queue_type: unsupported"),
        (
            "permissions",
            {"user": "nobody", "vhost": "/", "configure": "", "write": "", "read": ""},
            ".user: user 'nobody' does not exist",
        ),
        (
            "permissions",
            {"user": "alice", "vhost": "w", "configure": "", "write": "", "read": ""},
            ".vhost: no vhost 'w'",
        ),
        (
            "parameters",
            {"vhost": "/", "component": "nosuch", "name": "x", "value": 1},
            ".component: component nosuch not found",
        ),
        (
            "parameters",
            {"vhost": "/", "component": "vhost-limits", "name": "limits", "value": {"x": 1}},
            ': Unrecognised terms [{<<"x">>,1}] in limits',
        ),
        (
            "parameters",
            {"vhost": "/", "component": "policy", "name": "limits", "value": {}},
            ".component: policies stand in `policies`",
        ),
        (
            "policies",
            {"vhost": "/", "name": "p", "pattern": "(", "definition": {"expires": 1}},
            '.pattern: pattern should be regular expression but is invalid: {"missing )",1}',
        ),
        (
            "policies",
            {"vhost": "/", "name": "p", "pattern": "", "definition": {"expires": 0}},
            ".definition: 0 is not a valid queue expiry",
        ),
        (
            "policies",
            {"vhost": "/", "name": "p", "pattern": "", "definition": {"zz": 0}, "priority": 1},
            '.definition: [{<<"zz">>,0}] are not recognised policy settings',
        ),
        ("exchanges", {"vhost": "/", "name": "x", "type": "y"}, ".type: unknown exchange type 'y'"),
        (
            "queues",
            {"vhost": "/", "name": "q", "arguments": {"x-max-length": "1"}},
            ".arguments: invalid arg 'x-max-length' for queue 'q' in vhost '/'",
        ),
        ("queues", {"vhost": "w", "name": "q"}, ".vhost: no vhost 'w'"),
        (
            "bindings",
            {"vhost": "/", "source": "x", "destination": "q", "destination_type": "queue"},
            ": no exchange 'x' in vhost '/'",
        ),
        (
            "bindings",
            {"vhost": "/", "source": "amq.topic", "destination": "q", "destination_type": "queue"},
            ": no queue 'q' in vhost '/'",
        ),
        (
            "bindings",
            {
                "vhost": "orders",
                "source": "amq.headers",
                "destination": "orders.new",
                "destination_type": "queue",
                "arguments": {"x-match": "some"},
            },
            ": Invalid x-match field value",
        ),
    ],
)
def test_what_is_wrong_is_named_and_nothing_changes(
    section: str, row: dict[str, Any], said: str
) -> None:
    broker = empty()
    broker.add_defaults()
    before = comparable(export_definitions(broker))
    file = copy.deepcopy(whole_file())
    file[section].append(row)
    with pytest.raises(DefinitionsError) as refused:
        importing(broker, file).apply()
    assert str(refused.value).startswith(f"defs.json: $.{section}[{len(file[section]) - 1}]{said}")
    assert comparable(export_definitions(broker)) == before
    with pytest.raises(DefinitionsError):
        importing(broker, file).check()


def test_a_limit_of_queues_holds_for_an_import_too() -> None:
    broker = empty()
    broker.add_defaults()
    importing(broker, {"queues": [{"name": "a"}]}).apply()
    set_vhost_limit(broker, "/", "max-queues", 2)
    importing(broker, {"queues": [{"name": "a"}, {"name": "b"}]}).check()
    with pytest.raises(DefinitionsError, match="would exceed the limit of 2 queue") as refused:
        importing(broker, {"queues": [{"name": "b"}, {"name": "c"}]}).apply()
    assert refused.value.where == "$.queues"
    assert list(broker.virtual_hosts["/"].queues) == ["a"]


def test_a_limit_of_parameters_holds_for_an_import_too() -> None:
    broker = empty(limits=Limits(parameters_max=2))
    broker.add_defaults()
    rows = [
        {"name": f"p{number}", "pattern": "", "definition": {"expires": 1}} for number in range(3)
    ]
    importing(broker, {"policies": rows[:2]}).apply()
    with pytest.raises(DefinitionsError, match=r"\$\.parameters: limit of 2 parameters"):
        importing(broker, {"queues": [{"name": "q"}], "policies": rows}).apply()
    assert broker.virtual_hosts["/"].queues == {}


# -- over a broker that runs


def test_over_a_running_broker(broker: BrokerUnderTest, channel: Channel) -> None:
    channel.queue_declare("q")
    for number in range(3):
        channel.publish("", "q", b"%d" % number)
    file = {
        "queues": [{"name": "q", "durable": True}, {"name": "new"}],
        "policies": [{"name": "p", "pattern": "^q$", "definition": {"max-length": 1}}],
        "bindings": [{"source": "amq.topic", "destination": "q", "destination_type": "queue"}],
    }
    changes = importing(broker.core, file).apply()
    broker.turn()
    assert [str(change) for change in changes] == [
        "create policy 'p' in vhost '/'",
        "create queue 'new' in vhost '/'",
        "create binding from 'amq.topic' to queue 'q' by '' in vhost '/'",
    ]
    assert not broker.core.virtual_hosts["/"].queues["q"].durable
    assert channel.drain("q") == [b"2"]


def test_an_import_is_one_transaction_and_is_there_after_a_crash(
    journaled: BrokerUnderTest,
) -> None:
    importing(journaled.core, whole_file()).apply()
    journaled.turn()
    before = journaled.journal.store.definitions.copy()
    batch = journaled.journal.begin_commit()
    assert batch is not None
    assert journaled.journal.store.definitions == before
    journaled.journal.end_commit()
    assert journaled.journal.commit() == []
    said = export_definitions(journaled.core)
    said["queues"] = [queue for queue in said["queues"] if queue["durable"]]
    journaled.crash_and_recover()
    assert comparable(export_definitions(journaled.core)) == comparable(said)


@settings(deadline=None, max_examples=50)
@given(topologies())
def test_every_kind_of_definition_survives_a_crash(topology: dict[str, Any]) -> None:
    """Of queues and exchanges those that are durable do, with their bindings to one another."""
    broker = BrokerUnderTest(journaling=True, components=with_links)
    importing(broker.core, topology).apply()
    broker.turn()
    broker.journal.commit()
    said = export_definitions(broker.core)
    broker.crash_and_recover()
    hosts = broker.core.virtual_hosts

    def survives(row: dict[str, Any]) -> bool:
        source = hosts[row["vhost"]].exchanges.get(row["source"])
        end = hosts[row["vhost"]].destination(row["destination_type"], row["destination"])
        return source is not None and end is not None

    for kind in ("queues", "exchanges"):
        said[kind] = [row for row in said[kind] if row["durable"]]
    said["bindings"] = [row for row in said["bindings"] if survives(row)]
    assert comparable(export_definitions(broker.core)) == comparable(said)
    again = empty()
    importing(again, said).apply()
    assert links(broker.core) == links(again)


def test_components_that_may_come_later_are_left_out_with_a_warning() -> None:
    broker = Broker(Config(), journaling=False, entropy=lambda count: b"x" * count)
    broker.add_defaults()
    row = {"vhost": "/", "component": "federation-upstream", "name": "s", "value": {}}
    file = importing(broker, {"parameters": [row]})
    assert file.apply() == []
    assert file.warnings == [
        "$.parameters[0]: parameter 's' of federation-upstream in vhost '/' is left out: this"
        " version has no such thing"
    ]
