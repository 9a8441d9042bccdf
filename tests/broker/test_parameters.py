"""Runtime parameters: components, values, refusals, and what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker.broker import Broker
from amqpd.broker.definitions import GlobalParameterRecord, ParameterRecord
from amqpd.broker.parameters import InvalidParameter, NoSuchParameter, NoSuchVhost
from amqpd.config import Limits
from tests.conversation import BrokerUnderTest


class Shovel:
    """A component that a test registers."""

    name = "shovel"

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def check(self, name: str, value: Any) -> list[str]:
        return [] if isinstance(value, dict) else [f"{name} is no shovel"]

    def changed(self, vhost: str, name: str, value: Any, by: str) -> None:
        self.heard.append((vhost, name, value))

    def cleared(self, vhost: str, name: str, by: str) -> None:
        self.heard.append((vhost, name))


@pytest.fixture
def shovel(broker: BrokerUnderTest) -> Shovel:
    component = Shovel()
    broker.core.parameters.register(component)
    return component


def test_a_component_hears_what_changes(broker: BrokerUnderTest, shovel: Shovel) -> None:
    parameters = broker.core.parameters
    assert parameters.set("/", "shovel", "s", {"a": 1}) is True
    assert parameters.set("/", "shovel", "s", {"a": 1}) is False
    assert parameters.set("/", "shovel", "s", {"a": 2}) is False
    assert parameters.value("/", "shovel", "s") == {"a": 2}
    assert parameters.records() == [ParameterRecord("/", "shovel", "s", {"a": 2})]
    parameters.clear("/", "shovel", "s")
    assert shovel.heard == [("/", "s", {"a": 1}), ("/", "s", {"a": 2}), ("/", "s")]
    assert parameters.value("/", "shovel", "s") is None
    with pytest.raises(NoSuchParameter, match="Parameter does not exist"):
        parameters.clear("/", "shovel", "s")


def test_refusals(broker: BrokerUnderTest, shovel: Shovel) -> None:
    """3.10.8's words."""
    parameters = broker.core.parameters
    for component, value, text in (
        ("nosuch", {}, "Validation failed\n\ncomponent nosuch not found\n"),
        ("shovel", 5, "Validation failed\n\ns is no shovel\n"),
        ("policy", {}, "policies may not be set using this method"),
        ("operator_policy", 5, "Validation failed\n\ns not a list 5\n"),
        (
            "operator_policy",
            {},
            'Validation failed\n\nKey "definition" not found in s\nKey "pattern" not found in s\n'
            'Key "priority" not found in s\n',
        ),
        (
            "operator_policy",
            {"pattern": "", "definition": {"max-length": 1}, "priority": 0, "x": 1, "y": "z"},
            'Validation failed\n\nUnrecognised terms [{<<"x">>,1},{<<"y">>,<<"z">>}] in s\n',
        ),
    ):
        with pytest.raises(InvalidParameter) as refused:
            parameters.set("/", component, "s", value)
        assert str(refused.value) == text
    with pytest.raises(InvalidParameter, match="policies may not be cleared using this method"):
        parameters.clear("/", "policy", "s")
    with pytest.raises(NoSuchVhost):
        parameters.set("nowhere", "shovel", "s", {})
    assert parameters.records() == []
    assert shovel.heard == []


def test_lists_leave_policies_out_unless_asked_for(broker: BrokerUnderTest, shovel: Shovel) -> None:
    broker.add_vhost("other")
    parameters = broker.core.parameters
    policy = {"pattern": "", "definition": {"max-length": 1}, "priority": 0}
    parameters.set("/", "shovel", "s", {})
    parameters.set("other", "shovel", "s", {})
    parameters.set_any("/", "policy", "p", policy)
    parameters.set("/", "operator_policy", "o", policy)

    def names(**which: str) -> list[tuple[str, str]]:
        return [(record.vhost, record.component) for record in parameters.records(**which)]

    assert names() == [("/", "shovel"), ("other", "shovel"), ("/", "operator_policy")]
    assert names(vhost="/") == [("/", "shovel"), ("/", "operator_policy")]
    assert names(component="policy") == [("/", "policy")]
    assert names(vhost="other", component="shovel") == [("other", "shovel")]


def test_global_parameters(broker: BrokerUnderTest) -> None:
    parameters = broker.core.parameters
    assert parameters.set_global("cluster_name", "east") is True
    assert parameters.set_global("cluster_name", "west") is False
    assert parameters.global_value("cluster_name") == "west"
    assert GlobalParameterRecord("cluster_name", "west") in parameters.global_records()
    assert broker.core.cluster_name == "west"
    parameters.clear_global("cluster_name")
    assert parameters.global_value("cluster_name") is None
    # Nobody named it: what the broker called itself at its first start tells it from others.
    cluster_id = parameters.global_value("internal_cluster_id").removeprefix("rabbitmq-cluster-id-")
    assert broker.core.cluster_name == f"amqpd@localhost.{cluster_id[:8]}"
    with pytest.raises(NoSuchParameter):
        parameters.clear_global("cluster_name")


def test_limits(shovel: Shovel) -> None:
    broker = BrokerUnderTest(limits=Limits(parameters_max=1, parameter_bytes_max=50))
    parameters = broker.core.parameters
    parameters.register(shovel)
    parameters.set("/", "shovel", "s", {})
    with pytest.raises(InvalidParameter, match="limit of 1 parameters is reached"):
        parameters.set("/", "shovel", "t", {})
    parameters.set("/", "shovel", "s", {"a": 1})
    with pytest.raises(InvalidParameter, match="value is larger than 50 bytes"):
        parameters.set("/", "shovel", "s", {"a": "x" * 50})
    parameters.clear_global("internal_cluster_id")
    parameters.set_global("a", 1)
    with pytest.raises(InvalidParameter, match="limit of 1 parameters is reached"):
        parameters.set_global("b", 1)
    with pytest.raises(InvalidParameter, match="value is larger than 50 bytes"):
        parameters.set_global("a", "x" * 50)


def test_what_survives_a_crash(journaled: BrokerUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    component = Shovel()
    new_core = journaled._new_core

    def with_shovel() -> Broker:
        core = new_core()
        core.parameters.register(component)
        return core

    monkeypatch.setattr(journaled, "_new_core", with_shovel)
    parameters = journaled.core.parameters
    parameters.register(component)
    parameters.set("/", "shovel", "kept", {"a": [1, 2.5, None]})
    parameters.set("/", "shovel", "gone", {})
    parameters.clear("/", "shovel", "gone")
    parameters.clear_global("internal_cluster_id")
    parameters.set_global("kept", True)
    parameters.set_global("gone", 1)
    parameters.clear_global("gone")
    journaled.turn()
    journaled.journal.commit()
    component.heard.clear()
    journaled.crash_and_recover()
    parameters = journaled.core.parameters
    assert parameters.records() == [ParameterRecord("/", "shovel", "kept", {"a": [1, 2.5, None]})]
    assert parameters.global_records() == [GlobalParameterRecord("kept", True)]
    assert component.heard == [("/", "kept", {"a": [1, 2.5, None]})]
