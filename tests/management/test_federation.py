"""/federation-links, upstreams and sets of them, over the HTTP API."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker.broker import Broker
from amqpd.links.federation import Federation
from tests.conversation import BrokerUnderTest
from tests.management.api import Api

PATH = "/parameters/federation-upstream/%2F/up"


class Downstream(BrokerUnderTest):
    """A broker that may have links, of which none ever connects."""

    def _new_core(self) -> Broker:
        core = super()._new_core()
        core.federation = Federation(core)
        return core


@pytest.fixture
def api() -> Api:
    return Api(Downstream(journaling=True))


def link(api: Api) -> dict[str, Any]:
    api("PUT", PATH, {"value": {"uri": "amqp://user:secret@up:5673/%2F?heartbeat=5"}})
    policy = {"pattern": "^x$", "definition": {"federation-upstream": "up"}}
    api("PUT", "/policies/%2F/p", policy)
    api("PUT", "/exchanges/%2F/x", {"type": "topic"})
    (row,) = api.get("/federation-links")
    return dict(row)


def test_links_are_listed_as_rabbitmq_lists_them(api: Api) -> None:
    row = link(api)
    assert row.pop("id")
    assert row.pop("timestamp")
    assert row == {
        "node": "amqpd@localhost",
        "exchange": "x",
        "upstream_exchange": "x",
        "type": "exchange",
        "vhost": "/",
        "upstream": "up",
        "status": "starting",
        "uri": "amqp://up:5673/%2F",
    }
    assert len(api.get("/federation-links/%2F")) == 1
    assert api.get("/federation-links/state/down") == []
    assert api.get("/federation-links/%2F/state/down") == []
    assert api("GET", "/federation-links/nope").status_code == 404
    api("DELETE", "/policies/%2F/p")
    assert api.get("/federation-links") == []


def test_a_link_is_restarted_by_its_id(api: Api) -> None:
    row = link(api)
    path = f"/federation-links/vhost/%2F/{row['id']}/{row['node']}/restart"
    assert api("DELETE", path).status_code == 204
    assert api.get("/federation-links")[0]["id"] == row["id"]
    for other in (path.replace(row["id"], "00000000"), path.replace(row["node"], "other")):
        assert api("DELETE", other).status_code == 404


def test_links_are_there_after_a_restart(api: Api) -> None:
    row = link(api)
    api("PUT", "/exchanges/%2F/durable", {"type": "topic", "durable": True})
    api("PUT", "/policies/%2F/p", {"pattern": "", "definition": {"federation-upstream-set": "all"}})
    api.broker.crash_and_recover()
    rows = api.get("/federation-links")
    names = {other["exchange"] for other in rows}
    # What is internal, and the default exchange, are never federated.
    assert names == {"durable", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic"}
    assert {other["uri"] for other in rows} == {row["uri"]}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, 'Key "uri" not found in up'),
        ({"uri": "http://up"}, '"http://up" not a valid URI'),
        ({"uri": 1}, "uri should be list, actually was 1"),
        ({"uri": "amqp://u", "max-hops": 0}, "max-hops should be a number from 1 to 32767"),
        ({"uri": "amqp://u", "max-hops": "1"}, "max-hops should be a number, actually was"),
        ({"uri": "amqp://u", "prefetch-count": -1}, "prefetch-count should be a number from 0"),
        ({"uri": "amqp://u", "ack-mode": "never"}, "ack-mode should be one of"),
        ({"uri": "amqp://u", "trust-user-id": 1}, "trust-user-id should be boolean"),
        ({"uri": "amqp://u", "expires": 0}, "expires should be a number from 1"),
        ({"uri": "amqp://u", "exchange": "x" * 256}, "exchange should be less than 255 bytes"),
        ({"uri": "amqp://u", "maxhops": 1}, "Unrecognised terms"),
        ([1], "Unrecognised terms [1] in up"),
        ("x", "up not a list"),
    ],
)
def test_a_wrong_upstream_is_refused(api: Api, value: Any, problem: str) -> None:
    answer = api("PUT", PATH, {"value": value})
    assert answer.status_code == 400
    assert problem in answer.json()["reason"]
    answer = api("PUT", PATH.replace("upstream", "upstream-set"), {"value": [value]})
    assert answer.status_code == 400


def test_a_set_of_upstreams(api: Api) -> None:
    path = "/parameters/federation-upstream-set/%2F/s"
    assert api("PUT", path, {"value": {"upstream": "up"}}).status_code == 400
    assert api("PUT", path, {"value": [{"upstream": "up", "uri": "amqp://"}]}).status_code == 400
    assert api("PUT", path, {"value": [{"upstream": "up", "max-hops": 2}]}).status_code == 201


def test_what_a_policy_changed_is_told() -> None:
    broker = Downstream()
    channel = broker.client().channel()
    channel.queue_declare("events")
    channel.queue_bind("events", "amq.rabbitmq.event", "federation.#")
    api = Api(broker)
    link(api)
    api("DELETE", "/policies/%2F/p")
    got = channel.get("events", no_ack=True)
    assert got is not None
    assert got.routing_key == "federation.link.removed"
