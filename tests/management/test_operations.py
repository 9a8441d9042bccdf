"""Connections, policies, limits, definitions, health: what an operator sees and does."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker.alarms import Alarm
from amqpd.errors import CONNECTION_FORCED
from tests.management.api import Api, api


@pytest.fixture
def broker() -> Api:
    """An empty one."""
    return api()


def path_of(name: str) -> str:
    """A name as a segment of a path."""
    return name.replace(" ", "%20").replace(">", "%3E")


def test_a_connection_is_shown_and_closed_with_a_reason(broker: Api) -> None:
    client = broker.broker.client()
    client.channel()
    (shown,) = broker.get("/connections")
    assert (shown["user"], shown["vhost"], shown["channels"]) == ("guest", "/", 1)
    assert (shown["state"], shown["protocol"]) == ("running", "AMQP 0-9-1")
    place = f"/connections/{path_of(shown['name'])}"
    assert broker.get(place)["name"] == shown["name"]
    assert broker.get(place + "/channels")[0]["number"] == 1
    broker.does(204, "DELETE", place, headers={"X-Reason": "for a test"})
    client.expect_closed(CONNECTION_FORCED, "CONNECTION_FORCED - for a test", (0, 0))


@pytest.mark.parametrize(
    ("reason", "text"),
    [("naïve ☃".encode(), "naïve ☃"), (b"na\xefve", "na\ufffdve")],
    ids=["UTF-8", "something else"],
)
def test_a_reason_is_read_as_utf_8(broker: Api, reason: bytes, text: str) -> None:
    client, other = broker.broker.client(), broker.broker.client()
    (shown, _) = broker.get("/connections")
    place = f"/connections/{path_of(shown['name'])}"
    broker.does(204, "DELETE", place, headers={"X-Reason": reason})
    client.expect_closed(CONNECTION_FORCED, f"CONNECTION_FORCED - {text}", (0, 0))
    broker.does(204, "DELETE", "/connections/username/guest", headers={"X-Reason": reason})
    other.expect_closed(CONNECTION_FORCED, f"CONNECTION_FORCED - {text}", (0, 0))


def test_somebody_elses_connection(broker: Api) -> None:
    broker.broker.add_user("ann", "management")
    broker.broker.permit("ann", ".*", ".*", ".*")
    broker.broker.client()
    (shown,) = broker.get("/connections")
    assert broker.get("/connections", user="ann") == []
    broker.does(401, "DELETE", f"/connections/{path_of(shown['name'])}", user="ann")
    broker.does(404, "DELETE", "/connections/nobody")


def test_consumers(broker: Api) -> None:
    channel = broker.broker.client().channel()
    channel.queue_declare("q", arguments={"x-single-active-consumer": True})
    channel.qos(7)
    channel.consume("q", tag="one")
    channel.consume("q", tag="two")
    found = {shown["consumer_tag"]: shown for shown in broker.get("/consumers")}
    assert found["one"]["activity_status"] == "single_active"
    assert found["two"]["activity_status"] == "waiting"
    assert (found["one"]["prefetch_count"], found["one"]["ack_required"]) == (7, True)
    assert broker.get("/queues/%2F/q")["single_active_consumer_tag"] == "one"


def test_a_policy_holds_at_once_and_after_a_crash(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/%2F/q", {"durable": True})
    body = {"pattern": "^q", "definition": {"max-length": 5}, "apply-to": "queues"}
    broker.does(201, "PUT", "/policies/%2F/p", body)
    broker.does(204, "PUT", "/policies/%2F/p", body)
    shown = broker.get("/queues/%2F/q")
    assert (shown["policy"], shown["effective_policy_definition"]) == ("p", {"max-length": 5})
    broker.broker.crash_and_recover()
    assert broker.get("/policies/%2F/p")["definition"] == {"max-length": 5}
    broker.does(204, "DELETE", "/policies/%2F/p")
    broker.does(404, "DELETE", "/policies/%2F/p")
    assert broker.get("/queues/%2F/q")["policy"] is None


def test_a_policy_that_is_refused(broker: Api) -> None:
    said = broker.does(400, "PUT", "/policies/%2F/p", {"pattern": "^q", "definition": {"zzz": 5}})
    assert said["reason"].startswith("Validation failed\n\n")
    said = broker.does(400, "PUT", "/policies/%2F/p", {"pattern": "^q"})
    assert said["reason"] == "[{key_missing,definition}]"
    said = broker.does(404, "PUT", "/policies/no/p", {"pattern": "", "definition": {"expires": 1}})
    assert said == {"error": "not_found", "reason": "vhost_not_found"}


def test_parameters(broker: Api) -> None:
    said = broker.does(400, "PUT", "/parameters/nope/%2F/x", {"value": 5})
    assert said["reason"] == "Validation failed\n\ncomponent nope not found\n"
    broker.does(201, "PUT", "/global-parameters/g", {"value": {"a": 1}})
    assert broker.get("/global-parameters/g") == {"name": "g", "value": {"a": 1}}
    broker.does(204, "DELETE", "/global-parameters/g")
    broker.does(404, "GET", "/global-parameters/g")
    broker.does(204, "PUT", "/cluster-name", {"name": "east"})
    assert broker.get("/cluster-name") == {"name": "east"}
    said = broker.does(400, "PUT", "/cluster-name", {"name": "x" * 100_000})
    assert said["error"] == "bad_request"
    assert broker.get("/cluster-name") == {"name": "east"}


def test_limits(broker: Api) -> None:
    broker.does(204, "PUT", "/vhost-limits/%2F/max-queues", {"value": 1})
    assert broker.get("/vhost-limits") == [{"vhost": "/", "value": {"max-queues": 1}}]
    broker.does(201, "PUT", "/queues/%2F/q", {})
    assert "queue limit" in broker.does(400, "PUT", "/queues/%2F/r", {})["reason"]
    broker.does(204, "DELETE", "/vhost-limits/%2F/max-queues")
    broker.does(201, "PUT", "/queues/%2F/r", {})
    broker.does(204, "PUT", "/user-limits/guest/max-channels", {"value": 3})
    assert broker.get("/user-limits/guest") == [{"user": "guest", "value": {"max-channels": 3}}]
    said = broker.does(400, "PUT", "/user-limits/nobody/max-channels", {"value": 3})
    assert said["reason"] == ["no_such_user", "nobody"]


def test_a_virtual_host_goes_with_its_connections(broker: Api) -> None:
    broker.does(201, "PUT", "/vhosts/v", {"description": "d", "tags": "a,b"})
    shown = broker.get("/vhosts/v")
    assert (shown["description"], shown["tags"], shown["tracing"]) == ("d", ["a", "b"], False)
    broker.does(204, "PUT", "/vhosts/v", {"tracing": True})
    assert broker.get("/vhosts/v")["tracing"] is True
    client = broker.broker.client(vhost="v")
    broker.does(204, "DELETE", "/vhosts/v")
    client.expect_closed(CONNECTION_FORCED, "CONNECTION_FORCED - vhost 'v' is down", (0, 0))
    broker.does(404, "DELETE", "/vhosts/v")


def test_definitions_out_and_in(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/%2F/q", {"durable": True})
    broker.does(201, "POST", "/bindings/%2F/e/amq.topic/q/q", {"routing_key": "a.#"})
    everything = broker.get("/definitions")
    other = api()
    other.does(204, "POST", "/definitions", everything)
    assert other.get("/queues/%2F/q/bindings") == broker.get("/queues/%2F/q/bindings")
    one = broker.get("/definitions/%2F")
    assert "vhost" not in one["queues"][0]
    other.does(201, "PUT", "/vhosts/v")
    other.does(204, "POST", "/definitions/v", one)
    assert other.get("/queues/v/q")["durable"] is True
    assert other.does(400, "POST", "/definitions", content=b"xx")["error"] == "bad_request"
    other.does(404, "POST", "/definitions/nowhere", one)


def test_definitions_as_a_form(broker: Api) -> None:
    content = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="d.json"\r\n\r\n'
        b'{"vhosts": [{"name": "uploaded"}]}\r\n--b--\r\n'
    )
    headers = {"content-type": "multipart/form-data; boundary=b"}
    broker.does(204, "POST", "/definitions", content=content, headers=headers)
    assert broker.get("/vhosts/uploaded")["name"] == "uploaded"


def test_health(broker: Api) -> None:
    for check in ("alarms", "local-alarms", "virtual-hosts", "port-listener/5672"):
        assert broker.get(f"/health/checks/{check}")["status"] == "ok"
    said = broker.does(503, "GET", "/health/checks/port-listener/1")
    assert (said["status"], said["missing"], said["ports"]) == ("failed", 1, [5672, 15672])
    assert broker.does(503, "GET", "/health/checks/protocol-listener/mqtt")["missing"] == "mqtt"
    broker.broker.core.set_alarm(Alarm.MEMORY, True)
    assert broker.does(503, "GET", "/health/checks/alarms")["status"] == "failed"
    assert broker.get("/nodes")[0]["mem_alarm"] is True


def test_certificates(broker: Api) -> None:
    check = "/health/checks/certificate-expiration"
    broker.get(f"{check}/1/weeks")
    broker.node.certificate_ends_s = broker.broker.core.effects.epoch_ms() / 1000 + 10 * 86400
    broker.get(f"{check}/1/weeks")
    assert broker.does(503, "GET", f"{check}/2/weeks")["reason"] == "Certificates expiring"
    assert "Time unit" in broker.does(400, "GET", f"{check}/2/eons")["reason"]


@pytest.mark.parametrize("digits", [10, 400, 5000])
def test_a_number_of_many_digits_is_none(broker: Api, digits: int) -> None:
    broker.node.certificate_ends_s = 1e9
    broker.does(400, "GET", f"/health/checks/port-listener/{'9' * digits}")
    broker.does(400, "GET", f"/health/checks/certificate-expiration/{'9' * digits}/days")


def test_aliveness(broker: Api) -> None:
    assert broker.get("/aliveness-test/%2F") == {"status": "ok"}
    assert broker.get("/queues/%2F/aliveness-test")["messages"] == 0


def test_logins_are_counted(broker: Api) -> None:
    broker("GET", "/whoami", password="wrong")
    broker.broker.client()
    node = broker.get("/nodes")[0]["name"]
    counted = {row["protocol"]: row for row in broker.get(f"/auth/attempts/{node}")}
    assert counted["http"]["auth_attempts_failed"] == 1
    assert counted["amqp091"]["auth_attempts_succeeded"] == 1


def test_without_links_there_are_none(broker: Api) -> None:
    assert broker.get("/federation-links") == broker.get("/shovels") == []


def test_what_was_set_is_there_after_a_crash(broker: Api) -> None:
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    policy = {"pattern": "q", "definition": {"max-length": 4}, "priority": 2, "apply-to": "queues"}
    settings = {"description": "d", "tags": "a,b", "default_queue_type": "quorum"}
    for status, path, body in [
        (201, "/vhosts/v", settings),
        (201, "/users/u", {"password": "secret", "tags": "management"}),
        (201, "/permissions/v/u", everything),
        (201, "/topic-permissions/v/u", {"exchange": "x", "write": "a", "read": "b"}),
        (201, "/exchanges/v/x", {"type": "topic", "durable": True}),
        (201, "/queues/v/q", {"durable": True, "arguments": {"x-max-length": 5}}),
        (201, "/policies/v/p", policy),
        (201, "/operator-policies/v/p", policy),
        (204, "/vhost-limits/v/max-queues", {"value": 3}),
        (204, "/user-limits/u/max-channels", {"value": 3}),
        (201, "/global-parameters/g", {"value": {"a": [1]}}),
        (204, "/cluster-name", {"name": "east"}),
    ]:
        broker.does(status, "PUT", path, body)
    broker.does(201, "POST", "/bindings/v/e/x/q/q", {"routing_key": "a", "arguments": {"n": 1}})
    paths = ["/cluster-name", "/definitions", "/users/u", "/queues/v/q/bindings", "/policies"]
    paths += ["/operator-policies", "/vhost-limits", "/user-limits", "/global-parameters"]
    paths += ["/permissions/v/u", "/topic-permissions", "/exchanges/v/x", "/parameters"]
    before = {path: broker.get(path) for path in paths}
    broker.broker.crash_and_recover()
    for path in paths:
        assert unordered(broker.get(path)) == unordered(before[path]), path
    shown = broker.get("/queues/v/q")
    assert (shown["policy"], shown["operator_policy"], shown["type"]) == ("p", "p", "quorum")
    assert broker.get("/vhosts/v")["description"] == "d"


def unordered(value: Any) -> Any:
    """Lists as sorted texts: definitions have no order."""
    if isinstance(value, dict):
        return {key: unordered(item) for key, item in value.items()}
    return sorted(map(str, value)) if isinstance(value, list) else value
