"""Whatever is asked, there is an answer of RabbitMQ's kind; what is refused changes nothing."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from amqpd.broker.definitions_export import export_definitions
from amqpd.config import Config, Limits
from amqpd.management.routing import Table, _Step
from tests.hyphens import hyphenated
from tests.management.api import Api, api
from tests.runtime.topologies import topologies

GUEST: Final = "Basic " + base64.b64encode(b"guest:guest").decode()
EVERYTHING: Final = {"configure": ".*", "write": ".*", "read": ".*"}


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes


async def _ask(
    broker: Api, method: str, target: bytes, body: bytes, headers: dict[str, str]
) -> Reply:
    path, _, query = target.partition(b"?")
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 40000),
    }
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return incoming.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    await broker.application(scope, receive, send)
    fields = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], fields, sent[1]["body"])


def ask(
    broker: Api, method: str, target: bytes, body: bytes = b"", **headers: str
) -> tuple[int, Any]:
    """One request as it stands, without a client that would put it right; status and JSON."""
    headers.setdefault("authorization", GUEST)
    reply = asyncio.run(_ask(broker, method, b"/api" + target, body, hyphenated(headers)))
    said: Any = json.loads(reply.content) if reply.content else None
    assert reply.status < 500 or said["status"] == "failed", (method, target, body, said)
    if reply.status in (400, 404, 413):
        assert set(said) == {"error", "reason"}, (method, target, said)
        assert said["reason"]
    if reply.status == 405:
        assert reply.headers["allow"]
    return reply.status, said


def everything(broker: Api) -> Any:
    """What a request could change, but for messages that were fetched and put back."""
    core = broker.broker.core
    said = export_definitions(core)
    said["lengths"] = [
        (host.name, queue.name, queue.ready, queue.unacked)
        for host in core.virtual_hosts.values()
        for queue in host.queues.values()
    ]
    said["tracing"] = [(host.name, host.tracing) for host in core.virtual_hosts.values()]
    return json.loads(json.dumps(said))


def furnished() -> Api:
    """A broker with one of everything."""
    broker = api(Limits(http_body_bytes_max=100_000))
    queue = {"durable": True, "arguments": {"x-max-length": 5}}
    broker.does(201, "PUT", "/vhosts/v", {})
    broker.does(201, "PUT", "/queues/v/q", queue)
    broker.does(201, "PUT", "/exchanges/v/x", {"type": "topic", "durable": True})
    broker.does(201, "POST", "/bindings/v/e/x/q/q", {"routing_key": "a"})
    broker.does(201, "PUT", "/users/u", {"password": "secret", "tags": "management"})
    broker.does(201, "PUT", "/permissions/v/u", EVERYTHING)
    topic = {"exchange": "x", "write": "a", "read": "b"}
    broker.does(201, "PUT", "/topic-permissions/v/u", topic)
    policy = {"pattern": "q", "definition": {"max-length": 4}}
    broker.does(201, "PUT", "/policies/v/p", policy)
    broker.does(201, "PUT", "/operator-policies/v/p", policy)
    broker.does(204, "PUT", "/vhost-limits/v/max-queues", {"value": 3})
    broker.does(204, "PUT", "/user-limits/u/max-channels", {"value": 3})
    broker.does(201, "PUT", "/global-parameters/g", {"value": 1})
    channel = broker.broker.client(vhost="v").channel()
    channel.publish("", "q", b"message")
    return broker


# -- anything, anywhere


def _paths(step: _Step, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if step.resource is not None:
        for method in step.resource.handlers:
            yield before, method
    for name, inner in step.fixed.items():
        yield from _paths(inner, (*before, name))
    if step.any is not None:
        yield from _paths(step.any, (*before, "{}"))


def routes(table: Table) -> list[tuple[tuple[str, ...], str]]:
    """Every path and its methods; `{}` stands for one segment."""
    return sorted(_paths(table._root))


ROUTES: Final = routes(api().application._table)
NAMES: Final = (
    *(b"v", b"q", b"x", b"u", b"p", b"g", b"%2F", b"guest", b"amq.default", b"limits", b"~", b"a"),
    *(b"max-queues", b"max-channels", b"vhost-limits", b"policy", b"amqpd%40localhost"),
)
NO_NAMES: Final = (
    *(b"", b".", b"..", b"%", b"%zz", b"%ff", b"%00", b"%25", b"%E2%98%83", b"q%20q", b"a" * 300),
    *(b"-1", b"9" * 30, b"%F0%9F", b"+"),
)
segments = st.sampled_from(NAMES) | st.sampled_from(NO_NAMES)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([1 << 63, -(1 << 63), 10**30, 1e308, -0.5]),
    st.sampled_from(["", "q", "x", "a", ".*", "(", "true", "5", "all", "queues", "auto", "string"]),
    st.sampled_from(["base64", "ack_requeue_true", "ack_requeue_false", "sync", "x" * 256]),
    st.sampled_from(["direct", "x-delayed-message", "quorum", "rabbit_password_hashing_md5"]),
    st.text(max_size=5),
)
FIELDS: Final = sorted(
    {
        *("name", "value", "pattern", "definition", "priority", "apply-to", "type", "durable"),
        *("auto_delete", "internal", "arguments", "node", "tags", "password", "password_hash"),
        *("hashing_algorithm", "configure", "write", "read", "exchange", "routing_key"),
        *("properties", "payload", "payload_encoding", "count", "ackmode", "encoding"),
        *("truncate", "action", "users", "description", "tracing", "default_queue_type"),
        *("queues", "exchanges", "bindings", "vhosts", "permissions", "policies", "parameters"),
        *("max-length", "x-message-ttl", "x-queue-type", "headers", "delivery_mode", "vhost"),
        *("x-delayed-type", "message-ttl", "timestamp", "expiration", "user_id", "component"),
    }
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(FIELDS), values, max_size=10)
bodies = st.one_of(
    objects.map(json.dumps).map(str.encode),
    values.map(json.dumps).map(str.encode),
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"[" * 5000 + b"]" * 5000,
            b'{"value":' * 3000 + b"1" + b"}" * 3000,
            b'{"arguments":' * 150 + b"1" + b"}" * 150,
            b'{"value": "\\ud800"}',
            b'{"value": NaN}',
            b'{"a": 1, "a": 2}',
            b" " * 100_001,
            b"\xef\xbb\xbf{}",
        ]
    ),
)
numbers = st.sampled_from(["0", "1", "2", "-1", "", "x", "500", "501", "9" * 30, "1.5", "\u0661"])
OPTIONS: Final = (
    *("page", "page_size", "name", "use_regex", "columns", "sort", "sort_reverse"),
    *("msg_rates_age", "msg_rates_incr", "lengths_age", "lengths_incr", "if-unused"),
    *("if-empty", "disable_stats"),
)
queries = st.dictionaries(
    st.sampled_from(OPTIONS),
    numbers
    | st.sampled_from(["true", "name", "(", "a.b.c.d", ",,", "name,,message_stats.publish"])
    | st.sampled_from(["arguments", "message_stats", "(?=q)", "\x00", "\ud800"])
    | st.text(max_size=5),
    max_size=4,
)


def encoded(query: dict[str, str]) -> bytes:
    """A query string; names and values may hold anything."""
    octets = [
        "".join(f"%{octet:02x}" for octet in text.encode("utf-8", "surrogatepass"))
        for pair in query.items()
        for text in pair
    ]
    return "&".join(map("=".join, zip(octets[::2], octets[1::2], strict=True))).encode()


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes, bytes]:
    """Method, target, body: of a resource that there is."""
    path, method = draw(st.sampled_from(ROUTES))
    parts = [draw(segments) if part == "{}" else part.encode() for part in path]
    target = b"/" + b"/".join(parts)
    query = encoded(draw(queries))
    return method, target + (b"?" + query if query else b""), draw(bodies)


@settings(deadline=None, max_examples=50)
@given(st.lists(requests(), min_size=5, max_size=25))
def test_whatever_is_asked_it_is_answered(asked: list[tuple[str, bytes, bytes]]) -> None:
    broker = furnished()
    for method, target, body in asked:
        before = everything(broker)
        status, _ = ask(broker, method, target, body)
        if status >= 400 and b"/aliveness-test" not in target:
            assert everything(broker) == before, (method, target, body)


@settings(deadline=None)
@given(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "X"]),
    st.lists(segments, max_size=6).map(b"/".join) | st.binary(max_size=30),
    st.binary(max_size=10),
    st.sampled_from(
        [GUEST, "", "Basic", "Basic !", "Basic Z3Vlc3Q=", "Bearer x", "Basic /////w==", "Basic é"]
    ),
)
def test_paths_and_logins_that_make_no_sense(
    method: str, path: bytes, body: bytes, authorization: str
) -> None:
    status, _ = ask(furnished(), method, b"/" + path, body, authorization=authorization)
    assert status in (200, 201, 204, 400, 401, 404, 405)


@pytest.mark.parametrize("said", ["Basic é", "Basic !", "Basic /////w==", "Basic Z3Vlc3Q="])
def test_a_login_that_cannot_be_read_fails(said: str) -> None:
    status, body = ask(api(), "GET", b"/whoami", authorization=said)
    assert (status, body["reason"]) == (401, "Login failed")


forms = st.builds(
    lambda boundary, name, content: (
        f"multipart/form-data; boundary={boundary}",
        b"--%b\r\nContent-Disposition: form-data; name=%b\r\n\r\n%b\r\n--%b--\r\n"
        % (boundary.encode(), name, content, boundary.encode()),
    ),
    st.sampled_from(["b", '"', "", "x" * 80]),
    st.sampled_from([b"file", b'"file"', b"other", b""]),
    bodies,
)


@settings(deadline=None)
@given(forms | st.tuples(st.just("multipart/form-data"), st.binary(max_size=40)))
def test_forms_that_are_none(form: tuple[str, bytes]) -> None:
    broker = furnished()
    before = everything(broker)
    status, _ = ask(broker, "POST", b"/definitions", form[1], content_type=form[0])
    assert status in (204, 400, 413)
    if status != 204:
        assert everything(broker) == before


# -- lists


@settings(deadline=None)
@given(queries, st.sampled_from([b"/queues", b"/exchanges/v", b"/bindings", b"/vhosts", b"/users"]))
def test_lists_are_cut_into_pages_or_refused(query: dict[str, str], path: bytes) -> None:
    status, said = ask(furnished(), "GET", path + b"?" + encoded(query))
    if status == 400:
        assert said["error"] in (
            *("bad_request", "invalid_pagination_parameters", "page_out_of_range"),
        )
    elif "page" in query:
        assert said["item_count"] == len(said["items"]) <= said["page_size"] <= 500
    else:
        assert isinstance(said, list)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (b"page=0", "invalid_pagination_parameters"),
        (b"page=1&page_size=501", "invalid_pagination_parameters"),
        (b"page=1&page_size=0", "invalid_pagination_parameters"),
        (b"page=" + b"9" * 40, "bad_request"),
        (b"page=x", "bad_request"),
        (b"page=2", "page_out_of_range"),
        (b"page=1&name=%5B&use_regex=true", "bad_request"),
        (b"&".join([b"a=1"] * 200), "bad_request"),
    ],
)
def test_pages_that_there_are_not(query: bytes, error: str) -> None:
    status, said = ask(furnished(), "GET", b"/queues?" + query)
    assert (status, said["error"]) == (400, error)


def test_columns_and_orders_that_nobody_knows() -> None:
    broker = furnished()
    assert ask(broker, "GET", b"/queues?columns=colour,shape.size") == (200, [{}])
    assert ask(broker, "GET", b"/queues?columns=name.first,arguments.x-max-length") == (
        200,
        [{"arguments": {"x-max-length": 5}}],
    )
    shown = ask(broker, "GET", b"/exchanges/v?sort=colour.shade&columns=name")[1]
    assert len(shown) == 8
    assert {"name": "x"} in shown


def test_a_body_that_is_too_large() -> None:
    broker = furnished()
    for path in (b"/definitions", b"/global-parameters/g"):
        method = "POST" if path == b"/definitions" else "PUT"
        status, said = ask(broker, method, path, b"1" * 100_001)
        assert status == 413
        assert said["error"] == "payload_too_large"
        assert "100000 bytes" in said["reason"]


# -- definitions with one thing wrong


WRONG: Final = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.just(1 << 64),
    st.just(0.5),
    st.booleans(),
    st.sampled_from(["", "x" * 256, "(", "nobody"]),
    st.just([]),
    st.just({}),
    st.just([None]),
    st.just({"x": {}}),
)


@settings(deadline=None, max_examples=50)
@given(topologies(), st.data())
def test_definitions_with_one_wrong_entry(topology: dict[str, Any], data: st.DataObject) -> None:
    """A field of some entry becomes something else, or goes: refused with its place, or taken."""
    sections = [name for name, rows in topology.items() if rows]
    assume(sections)
    section = data.draw(st.sampled_from(sections))
    file = copy.deepcopy(topology)
    index = data.draw(st.integers(0, len(file[section]) - 1))
    row = file[section][index]
    what = data.draw(st.sampled_from([*row, None, None]))
    if what is None:
        file[section][index] = data.draw(WRONG)
    elif data.draw(st.booleans()):
        row[what] = data.draw(WRONG)
    else:
        del row[what]
    broker = furnished()
    before = everything(broker)
    status, said = ask(broker, "POST", b"/definitions", json.dumps(file).encode())
    assert status in (204, 400)
    if status == 400:
        assert said["error"] == "bad_request"
        assert said["reason"].startswith("definitions: $.")
        assert everything(broker) == before
    after = everything(broker)
    broker.broker.crash_and_recover()
    recovered = everything(broker)
    for kind in ("users", "vhosts", "permissions", "topic_permissions", "parameters", "policies"):
        assert sorted(map(str, recovered[kind])) == sorted(map(str, after[kind]))


@pytest.mark.parametrize(
    ("section", "row", "said"),
    [
        ("users", {"name": "n", "tags": 5}, "$.users[0].tags"),
        ("users", {"name": "n", "limits": {"max-cats": 5}}, "$.users[0].limits"),
        ("vhosts", {"name": "n", "default_queue_type": "x"}, "$.vhosts[0].default_queue_type"),
        ("vhosts", {"name": 5}, "$.vhosts[0].name"),
        ("permissions", {"user": "u", "vhost": "v", **EVERYTHING, "read": "("}, "[0].read"),
        ("permissions", {"user": "u", "vhost": "v"}, "$.permissions[0]"),
        (
            "topic_permissions",
            {"user": "u", "vhost": "v", "exchange": "x", "write": "(", "read": ""},
            "$.topic_permissions[0].write",
        ),
        (
            "parameters",
            {"vhost": "v", "component": "vhost-limits", "name": "limits", "value": {"max-cats": 1}},
            "$.parameters[0]",
        ),
        (
            "parameters",
            {"vhost": "v", "component": "operator_policy", "name": "o", "value": {"pattern": "("}},
            "$.parameters[0]",
        ),
        ("global_parameters", {"name": "n"}, "$.global_parameters[0]"),
        (
            "policies",
            {"vhost": "v", "name": "n", "pattern": "(", "definition": {"expires": 1}},
            "$.policies[0].pattern",
        ),
        (
            "policies",
            {"vhost": "v", "name": "n", "pattern": "", "definition": {"message-ttl": -1}},
            "$.policies[0].definition",
        ),
        ("queues", {"vhost": "v", "name": "n", "durable": "yes"}, "$.queues[0].durable"),
        (
            "queues",
            {"vhost": "v", "name": "n", "arguments": {"x-message-ttl": -1}},
            "$.queues[0].arguments",
        ),
        (
            "queues",
            {"vhost": "v", "name": "n", "durable": False, "arguments": {"x-queue-type": "quorum"}},
            "$.queues[0]",
        ),
        ("exchanges", {"vhost": "v", "name": "n", "type": "x"}, "$.exchanges[0].type"),
        (
            "exchanges",
            {"vhost": "v", "name": "n", "type": "x-delayed-message"},
            "$.exchanges[0].arguments",
        ),
        (
            "bindings",
            {"vhost": "v", "source": "nope", "destination": "q", "destination_type": "queue"},
            "$.bindings[0]",
        ),
        (
            "bindings",
            {"vhost": "v", "source": "x", "destination": "q", "destination_type": "cat"},
            "$.bindings[0].destination_type",
        ),
    ],
)
def test_one_wrong_entry_of_every_kind(section: str, row: dict[str, Any], said: str) -> None:
    """Everything else in the file is right, and none of it is applied."""
    right: dict[str, list[dict[str, Any]]] = {
        "users": [{"name": "new", "password_hash": "", "tags": ""}],
        "vhosts": [{"name": "new"}],
        "queues": [{"vhost": "v", "name": "new"}],
        "exchanges": [{"vhost": "v", "name": "new", "type": "direct"}],
        "policies": [{"vhost": "v", "name": "n2", "pattern": "", "definition": {"expires": 1}}],
        "global_parameters": [{"name": "new", "value": 1}],
    }
    file = {**right, section: [row, *right.get(section, [])]}
    broker = furnished()
    before = everything(broker)
    reason = broker.does(400, "POST", "/definitions", file)["reason"]
    assert said in reason
    assert everything(broker) == before
    broker.does(204, "POST", "/definitions", right)
    assert everything(broker) != before


# -- tables that could not be read again


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


UNFIT: Final = [
    ({"x": _nested(9)}, "x.a.a.a.a.a.a.a.a: tables or arrays are nested too deeply"),
    ({"x": [[[[[[[[[1]]]]]]]]]}, "x.0.0.0.0.0.0.0.0: tables or arrays are nested too deeply"),
    ({"x": [1, 1 << 63]}, "x.1: expected an integer of 64 bits"),
    ({"x": -(1 << 63) - 1}, "x: expected an integer of 64 bits"),
    ({"x": {"é" * 128: 1}}, f"x: '{'é' * 32}'... has 256 octets, at most 255 can be"),
]


@pytest.mark.parametrize(("table", "problem"), UNFIT)
def test_a_table_that_nobody_could_read_again_is_refused(table: Any, problem: str) -> None:
    """It would be made, and neither listed nor restored: the store would be taken for damaged."""
    broker = api(Limits(table_depth_max=8))
    broker.does(201, "PUT", "/queues/%2F/q", {"durable": True})
    before = export_definitions(broker.node.broker)
    message = {"routing_key": "q", "payload": "x", "payload_encoding": "string"}
    body = {"durable": True, "arguments": table}
    for path, method, sent, name in (
        ("/queues/%2F/new", "PUT", body, "arguments"),
        ("/exchanges/%2F/new", "PUT", body, "arguments"),
        ("/bindings/%2F/e/amq.topic/q/q", "POST", body, "arguments"),
        ("/bindings/%2F/e/amq.topic/e/amq.fanout", "POST", body, "arguments"),
        (
            "/exchanges/%2F/amq.default/publish",
            "POST",
            {**message, "properties": {"headers": table}},
            "headers",
        ),
    ):
        said = broker.does(400, method, path, sent)
        assert said == {"error": "bad_request", "reason": f"{name}: {problem}"}
    assert export_definitions(broker.node.broker) == before
    assert broker.get("/queues/%2F/q")["messages"] == 0


def test_tables_at_the_limit_are_taken_and_restored_under_a_lower_one() -> None:
    broker = api(Limits(table_depth_max=8))
    fit = {"x": _nested(8), "i": [-(1 << 63), (1 << 63) - 1], "k" * 255: None}
    broker.does(201, "PUT", "/queues/%2F/q", {"durable": True, "arguments": fit})
    broker.does(201, "PUT", "/exchanges/%2F/x", {"durable": True, "arguments": fit})
    broker.does(201, "POST", "/bindings/%2F/e/x/q/q", {"arguments": fit})
    before = export_definitions(broker.node.broker)
    broker.broker.config = Config(limits=Limits(table_depth_max=2))
    broker.broker.crash_and_recover()
    assert export_definitions(broker.node.broker) == before
