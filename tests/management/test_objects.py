"""Exchanges, queues, bindings and messages over HTTP, seen from AMQP as well."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amqpd.config import Limits
from amqpd.management.listing import ROWS_A_STEP
from amqpd.management.messages import STEP_BYTES
from tests.conversation import properties
from tests.management.api import Api, api


@pytest.fixture
def broker() -> Api:
    """An empty one."""
    return api()


# -- queues


def test_declaring_a_queue(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/%2F/q", {"durable": True, "arguments": {"x-max-length": 5}})
    broker.does(204, "PUT", "/queues/%2F/q", {"durable": True, "arguments": {"x-max-length": 5}})
    found = broker.get("/queues/%2F/q")
    assert found["name"] == "q"
    assert found["durable"] is True
    assert found["arguments"] == {"x-max-length": 5}
    assert (found["type"], found["state"], found["exclusive"]) == ("classic", "running", False)
    broker.broker.crash_and_recover()
    assert broker.get("/queues/%2F/q")["arguments"] == {"x-max-length": 5}


def test_an_answer_waits_for_the_disk(broker: Api) -> None:
    async def scenario() -> None:
        broker.node.commits = False
        asked = asyncio.create_task(broker.ask("PUT", "/queues/%2F/q", {"durable": True}))
        for _ in range(50):
            await asyncio.sleep(0)
        assert "q" in broker.broker.core.virtual_hosts["/"].queues
        assert not asked.done()
        broker.broker.journal.commit()
        assert (await asked).status_code == 201

    asyncio.run(scenario())


def test_a_body_that_is_not_there_is_an_empty_object(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/%2F/q")
    assert broker.get("/queues/%2F/q")["durable"] is False


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (
            {"durable": False},
            400,
            "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current"
            " is 'true'",
        ),
        (
            {"durable": True, "arguments": {"x-message-ttl": 5}},
            400,
            "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value '5'"
            " of type 'long' but current is none",
        ),
        ({"durable": "maybe"}, 400, ["not_boolean", "maybe"]),
        ({"node": "other@host"}, 400, "Node other@host could not be contacted"),
        ({"arguments": 5}, 400, ["not_a_map", "arguments"]),
    ],
)
def test_declarations_that_are_refused(broker: Api, body: Any, status: int, reason: Any) -> None:
    broker.does(201, "PUT", "/queues/%2F/q", {"durable": True})
    assert broker.does(status, "PUT", "/queues/%2F/q", body)["reason"] == reason


@pytest.mark.parametrize("content", [b"no json", b"[]", b"5", b'{"a":', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object(broker: Api, content: bytes) -> None:
    said = broker.does(400, "PUT", "/queues/%2F/q", content=content)
    assert said == {"error": "bad_request", "reason": "not_json"}


def test_reserved_and_too_long_names(broker: Api) -> None:
    said = broker.does(401, "PUT", "/queues/%2F/amq.mine", {})
    assert said == {"error": "not_authorised", "reason": "Access refused."}
    assert "255" in broker.does(400, "PUT", "/queues/%2F/" + "q" * 256, {})["reason"]
    broker.does(201, "PUT", "/queues/%2F/" + "q" * 255, {})


def test_names_with_every_kind_of_character(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/%2F/a%2Fb%20%C3%A9%3F%23", {})
    assert broker.get("/queues/%2F/a%2Fb%20%C3%A9%3F%23")["name"] == "a/b é?#"


def test_deleting_a_queue(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/%2F/q", {})
    broker.broker.client().channel().publish("", "q", b"x")
    said = broker.does(400, "DELETE", "/queues/%2F/q?if-empty=true")
    assert said["reason"] == "queue 'q' in vhost '/' not empty"
    broker.does(204, "DELETE", "/queues/%2F/q")
    broker.does(404, "DELETE", "/queues/%2F/q")


def test_a_queue_in_use(broker: Api) -> None:
    channel = broker.broker.client().channel()
    channel.queue_declare("q")
    channel.consume("q")
    said = broker.does(400, "DELETE", "/queues/%2F/q?if-unused=true")
    assert said["reason"] == "queue 'q' in vhost '/' in use"
    assert broker.get("/queues/%2F/q")["consumers"] == 1


def test_somebody_elses_exclusive_queue(broker: Api) -> None:
    broker.broker.client().channel().queue_declare("mine", exclusive=True)
    assert broker.get("/queues/%2F/mine")["exclusive"] is True
    said = broker.does(400, "DELETE", "/queues/%2F/mine")
    assert said["reason"].startswith("cannot obtain exclusive access to locked queue 'mine'")


def test_purging(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/%2F/q", {})
    broker.broker.client().channel().publish("", "q", b"x")
    assert broker.get("/queues/%2F/q")["messages"] == 1
    broker.does(204, "DELETE", "/queues/%2F/q/contents")
    assert broker.get("/queues/%2F/q")["messages"] == 0
    broker.does(404, "DELETE", "/queues/%2F/nope/contents")


def test_actions(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/%2F/q", {})
    broker.does(204, "POST", "/queues/%2F/q/actions", {"action": "sync"})
    said = broker.does(400, "POST", "/queues/%2F/q/actions", {"action": "dance"})
    assert said["reason"] == ["unknown", "dance"]


# -- exchanges


def test_declaring_and_deleting_an_exchange(broker: Api) -> None:
    body = {"type": "topic", "durable": True, "arguments": {"alternate-exchange": "other"}}
    broker.does(201, "PUT", "/exchanges/%2F/x", body)
    broker.does(204, "PUT", "/exchanges/%2F/x", body)
    found = broker.get("/exchanges/%2F/x")
    assert (found["type"], found["durable"], found["internal"]) == ("topic", True, False)
    assert found["arguments"] == {"alternate-exchange": "other"}
    said = broker.does(400, "PUT", "/exchanges/%2F/x", {"type": "direct"})
    assert said["reason"].startswith("inequivalent arg 'type' for exchange 'x' in vhost '/'")
    broker.does(204, "DELETE", "/exchanges/%2F/x")
    broker.does(404, "DELETE", "/exchanges/%2F/x")


@pytest.mark.parametrize("name", ["amq.direct", "amq.default", "amq.mine"])
def test_reserved_exchanges(broker: Api, name: str) -> None:
    refusal = {"error": "not_authorised", "reason": "Access refused."}
    if name != "amq.direct":
        assert broker.does(401, "PUT", f"/exchanges/%2F/{name}", {"type": "fanout"}) == refusal
    if name != "amq.mine":
        assert broker.does(401, "DELETE", f"/exchanges/%2F/{name}") == refusal


def test_what_plug_ins_tell_of_their_exchanges(broker: Api) -> None:
    delayed = {"type": "x-delayed-message", "arguments": {"x-delayed-type": "fanout"}}
    broker.does(201, "PUT", "/exchanges/%2F/later", delayed)
    once = {"type": "x-message-deduplication", "arguments": {"x-cache-size": 5}}
    broker.does(201, "PUT", "/exchanges/%2F/once", once)
    channel = broker.broker.client().channel()
    for number in (1, 2, 2):
        headers = {"x-delay": number * 1000, "x-deduplication-header": number}
        channel.publish("later", "", b"x", properties(headers=headers))
        channel.publish("once", "", b"x", properties(headers=headers))
    broker.broker.advance(1.5)
    assert broker.get("/exchanges/%2F/later")["messages_delayed"] == 2
    cache = broker.get("/exchanges/%2F/once")["cache_info"]
    assert (cache["entries"], cache["size"]) == (2, 5)
    assert cache["bytes"] > 0
    listed = {found["name"]: found for found in broker.get("/exchanges/%2F")}
    assert listed["later"]["messages_delayed"] == 2
    assert listed["once"]["cache_info"] == cache
    assert not {"messages_delayed", "cache_info"} & listed["amq.direct"].keys()


def test_predeclared_exchanges_are_listed(broker: Api) -> None:
    names = [found["name"] for found in broker.get("/exchanges/%2F")]
    assert names == sorted(names)
    assert {"", "amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"} < set(names)
    assert broker.get("/exchanges/%2F/amq.default")["name"] == ""


def test_an_unknown_type(broker: Api) -> None:
    said = broker.does(400, "PUT", "/exchanges/%2F/x", {"type": "nope"})
    assert said == {"error": "bad_request", "reason": "unknown exchange type 'nope'"}


# -- bindings


@pytest.fixture
def bound(broker: Api) -> Api:
    """An exchange, a queue, and a binding with a routing key that a path cannot carry."""
    broker.does(201, "PUT", "/exchanges/%2F/x", {"type": "direct"})
    broker.does(201, "PUT", "/queues/%2F/q", {})
    response = broker("POST", "/bindings/%2F/e/x/q/q", {"routing_key": "a/b c~"})
    assert response.status_code == 201
    assert response.headers["location"] == "q/a%252Fb%2Bc%257E"
    return broker


def test_a_binding_is_found_at_its_location(bound: Api) -> None:
    found = bound.get("/bindings/%2F/e/x/q/q/a%252Fb%2Bc%257E")
    assert found == {
        "source": "x",
        "vhost": "/",
        "destination": "q",
        "destination_type": "queue",
        "routing_key": "a/b c~",
        "arguments": {},
        "properties_key": "a%2Fb+c%7E",
    }
    bound.does(204, "DELETE", "/bindings/%2F/e/x/q/q/a%252Fb%2Bc%257E")
    bound.does(404, "DELETE", "/bindings/%2F/e/x/q/q/a%252Fb%2Bc%257E")


def test_arguments_tell_bindings_apart(bound: Api) -> None:
    first = bound("POST", "/bindings/%2F/e/x/q/q", {"routing_key": "k", "arguments": {"n": 1}})
    second = bound("POST", "/bindings/%2F/e/x/q/q", {"routing_key": "k", "arguments": {"n": 2}})
    assert first.headers["location"] != second.headers["location"]
    bound.does(204, "DELETE", f"/bindings/%2F/e/x/q/{first.headers['location']}")
    left = [found["arguments"] for found in bound.get("/bindings/%2F/e/x/q/q")]
    assert left == [{}, {"n": 2}]


def test_an_empty_routing_key(bound: Api) -> None:
    response = bound("POST", "/bindings/%2F/e/x/q/q")
    assert response.headers["location"] == "q/~"
    assert bound.get("/bindings/%2F/e/x/q/q/~")["routing_key"] == ""


def test_bindings_between_exchanges(bound: Api) -> None:
    bound.does(201, "POST", "/bindings/%2F/e/x/e/amq.topic", {"routing_key": "#"})
    (found,) = bound.get("/bindings/%2F/e/x/e/amq.topic")
    assert (found["destination"], found["destination_type"]) == ("amq.topic", "exchange")
    assert bound.get("/exchanges/%2F/amq.topic/bindings/destination") == [found]
    assert found in bound.get("/exchanges/%2F/x/bindings/source")


def test_bindings_of_the_default_exchange_are_listed(bound: Api) -> None:
    implied = bound.get("/queues/%2F/q/bindings")[0]
    assert (implied["source"], implied["routing_key"]) == ("", "q")
    assert bound.get("/bindings/%2F/e/amq.default/q/q") == [implied]
    assert bound.get("/bindings/%2F/e/amq.default/q/q/q") == implied
    assert len(bound.get("/bindings")) == len(bound.get("/bindings/%2F")) == 2


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/bindings/%2F/e/x/q/nope", 404, "no queue 'nope' in vhost '/'"),
        ("/bindings/%2F/e/nope/q/q", 404, "no exchange 'nope' in vhost '/'"),
        ("/bindings/%2F/e/amq.default/q/q", 401, "Access refused."),
    ],
)
def test_bindings_that_are_refused(bound: Api, path: str, status: int, reason: str) -> None:
    assert bound.does(status, "POST", path, {"routing_key": "k"})["reason"] == reason


# -- messages

MESSAGE: dict[str, Any] = {
    "properties": {},
    "routing_key": "q",
    "payload": "hello",
    "payload_encoding": "string",
}
GET = {"count": 5, "ackmode": "ack_requeue_true", "encoding": "auto"}


@pytest.fixture
def queue(broker: Api) -> Api:
    """With a durable queue `q`."""
    broker.does(201, "PUT", "/queues/%2F/q", {"durable": True})
    return broker


def send(broker: Api, status: int = 200, exchange: str = "amq.default", **changes: Any) -> Any:
    """Publish the message with these changes."""
    return broker.does(status, "POST", f"/exchanges/%2F/{exchange}/publish", MESSAGE | changes)


def test_what_was_published_is_delivered_as_it_was(queue: Api) -> None:
    given = {
        "content_type": "text/plain",
        "delivery_mode": 2,
        "priority": 3,
        "timestamp": 1700000000,
        "headers": {"n": 1, "s": "x", "f": 1.5, "l": [1, {"t": True}], "none": None},
    }
    assert send(queue, properties=given) == {"routed": True}
    delivery = queue.broker.client().channel().get("q")
    assert delivery is not None
    assert delivery.body == b"hello"
    (seen,) = _published_again(queue, delivery)
    assert seen["properties"] == given


def _published_again(broker: Api, delivery: Any) -> Any:
    """Its connection ends, and the message comes back."""
    broker.broker.crash_and_recover()
    return broker.does(200, "POST", "/queues/%2F/q/get", GET)


def test_a_persistent_message_is_safe_once_it_is_answered(queue: Api) -> None:
    assert send(queue, properties={"delivery_mode": 2}) == {"routed": True}
    queue.broker.crash_and_recover()
    assert queue.get("/queues/%2F/q")["messages"] == 1


def test_unroutable(queue: Api) -> None:
    assert send(queue, routing_key="nobody") == {"routed": False}


def test_a_full_queue_that_refuses(broker: Api) -> None:
    arguments = {"x-max-length": 0, "x-overflow": "reject-publish"}
    broker.does(201, "PUT", "/queues/%2F/q", {"arguments": arguments})
    assert send(broker) == {"routed": False}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"payload_encoding": "zip"}, ["unsupported_encoding", "zip"]),
        ({"payload_encoding": "base64", "payload": "!!"}, ["not_base64", "!!"]),
        ({"payload": 5}, "payload_not_string"),
        ({"properties": {"priority": "high"}}, ["not_int", "priority"]),
        ({"properties": {"expiration": 5}}, ["not_string", "expiration"]),
        ({"properties": {"priority": 256}}, "priority: 256 does not fit into 1 octets"),
        ({"properties": {"headers": 5}}, ["not_a_map", "headers"]),
        ({"properties": {"headers": [1]}}, ["not_a_map", "headers"]),
        ({"properties": "x"}, ["not_a_map", "properties"]),
        ({"properties": {"user_id": "other"}}, None),
    ],
)
def test_messages_that_are_refused(queue: Api, changes: Any, reason: Any) -> None:
    said = send(queue, 400, **changes)
    if reason is None:
        reason = "406 PRECONDITION_FAILED - user_id property set to 'other' but authenticated user"
        assert said["reason"].startswith(reason)
    else:
        assert said["reason"] == reason
    assert queue.get("/queues/%2F/q")["messages"] == 0


def test_publishing_to_an_exchange_that_is_not_there(queue: Api) -> None:
    said = send(queue, 400, exchange="nope")
    assert said["reason"] == "404 NOT_FOUND - no exchange 'nope' in vhost '/'"


def test_what_a_publish_must_say(queue: Api) -> None:
    said = queue.does(400, "POST", "/exchanges/%2F/x/publish", {"routing_key": "q"})
    assert said["reason"] == (
        "[{key_missing,properties},{key_missing,payload},{key_missing,payload_encoding}]"
    )


def test_getting_and_requeueing(queue: Api) -> None:
    for body in ("one", "two"):
        send(queue, payload=body)
    first = queue.does(200, "POST", "/queues/%2F/q/get", GET)
    assert [(m["payload"], m["redelivered"], m["message_count"]) for m in first] == [
        ("one", False, 1),
        ("two", False, 0),
    ]
    assert first[0]["exchange"] == ""
    assert first[0]["routing_key"] == "q"
    assert first[0]["payload_bytes"] == 3
    assert first[0]["properties"] == []
    again = queue.does(200, "POST", "/queues/%2F/q/get", GET | {"count": 1, "truncate": 2})
    assert [(m["payload"], m["redelivered"]) for m in again] == [("on", True)]


@pytest.mark.parametrize("ackmode", ["ack_requeue_false", "reject_requeue_false"])
def test_getting_for_good(queue: Api, ackmode: str) -> None:
    send(queue)
    assert len(queue.does(200, "POST", "/queues/%2F/q/get", GET | {"ackmode": ackmode})) == 1
    assert queue.does(200, "POST", "/queues/%2F/q/get", GET) == []


def test_a_rejected_message_is_dead_lettered(broker: Api) -> None:
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    broker.does(201, "PUT", "/queues/%2F/q", {"arguments": arguments})
    broker.does(201, "PUT", "/queues/%2F/dead", {})
    send(broker)
    broker.does(200, "POST", "/queues/%2F/q/get", GET | {"ackmode": "reject_requeue_false"})
    assert broker.get("/queues/%2F/dead")["messages"] == 1


def test_octets_that_are_no_text(queue: Api) -> None:
    send(queue, payload="/w==", payload_encoding="base64")
    (found,) = queue.does(200, "POST", "/queues/%2F/q/get", GET)
    assert (found["payload"], found["payload_encoding"]) == ("/w==", "base64")
    send(queue, payload="text")
    *_, found = queue.does(200, "POST", "/queues/%2F/q/get", GET | {"encoding": "base64"})
    assert (found["payload"], found["payload_encoding"]) == ("dGV4dA==", "base64")


@pytest.mark.parametrize("payload", ["YWJj", "YWJj\n", "Y W\r\nJ\tj"])
def test_base64_may_be_broken_into_lines(queue: Api, payload: str) -> None:
    send(queue, payload=payload, payload_encoding="base64")
    (found,) = queue.does(200, "POST", "/queues/%2F/q/get", GET)
    assert found["payload"] == "abc"


def test_an_empty_list_stands_for_no_headers(queue: Api) -> None:
    send(queue, properties={"headers": [], "type": "t"})
    send(queue, properties={"headers": {}, "type": "t"})
    listed, mapped = queue.does(200, "POST", "/queues/%2F/q/get", GET)
    assert listed["properties"] == mapped["properties"]


def test_properties_that_are_no_text(queue: Api) -> None:
    list_with_octets = properties(correlation_id="\udcff", headers={"k": "\udcff"})
    queue.broker.client().channel().publish("", "q", b"x", list_with_octets)
    (found,) = queue.does(200, "POST", "/queues/%2F/q/get", GET)
    assert found["properties"] == {"correlation_id": "\ufffd", "headers": {"k": "\ufffd"}}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"count": 1}, "[{key_missing,ackmode},{key_missing,encoding}]"),
        (GET | {"encoding": "rot13"}, "Unsupported encoding. Please use auto or base64."),
        (GET | {"count": "many"}, ["not_integer", "many"]),
        (GET | {"count": None}, ["not_integer", None]),
    ],
)
def test_gets_that_are_refused(queue: Api, body: Any, reason: Any) -> None:
    assert queue.does(400, "POST", "/queues/%2F/q/get", body)["reason"] == reason


def test_getting_from_a_queue_that_is_not_there(broker: Api) -> None:
    assert broker.does(404, "POST", "/queues/%2F/nope/get", GET) == {
        "error": "not_found",
        "reason": "NOT_FOUND - no queue 'nope' in vhost '/'",
    }


def test_how_many_one_request_gets_at_most() -> None:
    broker = api(Limits(http_get_messages_max=2))
    broker.does(201, "PUT", "/queues/%2F/q", {})
    for _ in range(3):
        send(broker)
    for count in (3, -1):
        assert len(broker.does(200, "POST", "/queues/%2F/q/get", GET | {"count": count})) == 2


@pytest.mark.parametrize(
    ("size", "changes", "count"),
    [
        (400, {}, 8),
        (1000, {}, 3),  # each has 16 octets of properties
        (1000, {"truncate": 484}, 6),
        (5000, {}, 1),
    ],
)
@pytest.mark.parametrize("ackmode", ["ack_requeue_true", "ack_requeue_false"])
def test_how_much_one_request_gets_at_most(
    size: int, changes: Any, count: int, ackmode: str
) -> None:
    """The others stay where they are, and come with the next."""
    broker = api(Limits(http_get_bytes_max=3000))
    broker.does(201, "PUT", "/queues/%2F/q", {})
    channel = broker.broker.client().channel()
    for number in range(10):
        channel.publish("", "q", b"%d" % number * size, properties(message_id="x" * 13))
    sent = GET | {"count": 10, "ackmode": ackmode} | changes
    found = broker.does(200, "POST", "/queues/%2F/q/get", sent)
    assert [row["payload"][0] for row in found] == list("0123456789")[:count]
    assert {row["payload_bytes"] for row in found} == {size}
    left = 10 if ackmode == "ack_requeue_true" else 10 - count
    assert broker.get("/queues/%2F/q")["messages"] == left
    (following,) = broker.does(200, "POST", "/queues/%2F/q/get", sent | {"count": 1})
    assert following["payload"][0] == str(10 - left)


def test_others_have_turns_while_an_answer_is_made(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/%2F/q", {})
    channel = broker.broker.client().channel()
    for _ in range(4 * ROWS_A_STEP):
        channel.publish("", "q", b"x")
    for _ in range(4):
        channel.publish("", "q", b"x" * STEP_BYTES)

    async def turns_meanwhile(count: int) -> int:
        sent = GET | {"count": count}
        asked = asyncio.create_task(broker.ask("POST", "/queues/%2F/q/get", sent))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0)
            turns += 1
        assert len((await asked).json()) == count
        return turns

    for_one, for_all = (asyncio.run(turns_meanwhile(n)) for n in (1, 4 * ROWS_A_STEP + 4))
    assert for_all >= for_one + 8


def test_a_body_that_is_too_large() -> None:
    broker = api(Limits(http_body_bytes_max=1000))
    said = broker.does(413, "PUT", "/queues/%2F/q", content=b" " * 1001)
    assert said["reason"] == "the body exceeds the limit of 1000 bytes"
    broker.does(201, "PUT", "/queues/%2F/q", content=b"{}" + b" " * 998)


def test_a_message_that_is_too_large() -> None:
    broker = api(Limits(message_bytes_max=4))
    broker.does(201, "PUT", "/queues/%2F/q", {})
    assert "larger than configured max size" in send(broker, 400)["reason"]


def test_bindings_of_a_queue_that_is_not_there(broker: Api) -> None:
    """RabbitMQ shows the default one all the same."""
    (found,) = broker.get("/queues/%2F/missing/bindings")
    assert (found["source"], found["destination"]) == ("", "missing")
