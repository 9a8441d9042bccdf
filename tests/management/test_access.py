"""Who is let in, and to what: HTTP Basic, tags, virtual hosts; in RabbitMQ's words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest

from tests.conversation import BrokerUnderTest
from tests.management.api import Api, api


@pytest.fixture
def broker() -> Api:
    """guest, and a user for each tag with rights in `/` but not in `private`."""
    found = api()
    found.broker.add_vhost("private")
    for tag in ("management", "policymaker", "monitoring", "administrator"):
        found.broker.add_user(tag, tag)
        found.broker.permit(tag, ".*", ".*", ".*")
    found.broker.add_user("nobody")
    return found


def test_without_credentials_the_challenge_and_no_body(broker: Api) -> None:
    response = broker("GET", "/whoami", user=None)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Basic realm="RabbitMQ Management"'
    assert response.content == b""


@pytest.mark.parametrize(
    ("user", "password"), [("guest", "wrong"), ("nobody-at-all", "x"), ("guest", "")]
)
def test_a_failed_login(broker: Api, user: str, password: str) -> None:
    said = broker.does(401, "GET", "/whoami", user=user, password=password)
    assert said == {"error": "not_authorized", "reason": "Login failed"}


def test_credentials_that_are_no_basic_authentication(broker: Api) -> None:
    for value in ("Bearer abc", "Basic ####", "Basic", "Basic /w=="):
        response = broker("GET", "/whoami", user=None, headers={"authorization": value})
        assert response.status_code == 401


def test_a_loopback_user_from_elsewhere() -> None:
    remote = Api(BrokerUnderTest(), address="192.0.2.1")
    said = remote.does(401, "GET", "/whoami")
    assert said == {"error": "not_authorised", "reason": "User can only log in via localhost"}


@pytest.mark.parametrize(
    "change",
    [
        lambda broker: broker.does(204, "DELETE", "/users/administrator"),
        lambda broker: broker.broker.add_user("administrator", "management"),
        lambda broker: broker.broker.add_user("administrator", "administrator", password="new"),
    ],
)
def test_a_user_who_lost_their_rights_while_the_body_came(
    broker: Api, change: Callable[[Api], object]
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"password": "x", '
        await asyncio.to_thread(change, broker)
        yield b'"tags": "administrator"}'

    broker.does(401, "PUT", "/users/intruder", user="administrator", content=body())
    broker.does(404, "GET", "/users/intruder")


def test_a_request_is_one_login(broker: Api) -> None:
    broker.does(201, "PUT", "/users/new", {"password": "x", "tags": ""})
    assert broker.broker.core.login_attempts["http"] == (1, 0)


def test_who_am_i(broker: Api) -> None:
    assert broker.get("/whoami") == {"name": "guest", "tags": ["administrator"]}


USERS: Final = ("nobody", "management", "policymaker", "monitoring", "administrator")
NO_TAG: Final = "Not management user"
NOT_ADMINISTRATOR: Final = "Not administrator user"
NOT_MONITOR: Final = "Not monitor user"
OTHER_VHOST: Final = "User not authorised to access virtual host"
OTHER_OBJECT: Final = "User not authorised to access object"
NO_PERMISSION: Final = "Access refused."
NODE: Final = "amqpd@localhost"

# For the users above in their order; none of them has permissions in `private`. A text is the
# reason of a 401. All of it was measured with RabbitMQ 3.10.8.
RULES: Final[list[tuple[str, str, Any, tuple[object, ...]]]] = [
    ("GET", "/auth", None, (200,) * 5),
    *(
        ("GET", path, None, (NO_TAG, 200, 200, 200, 200))
        for path in (
            "/overview",
            "/queues",
            "/queues/%2F",
            "/exchanges/%2F",
            "/bindings/%2F",
            "/consumers",
            "/consumers/private",
            "/connections",
            "/vhosts",
            "/policies",
            "/policies/%2F",
            "/operator-policies",
            "/operator-policies/%2F",
            "/vhost-limits",
            "/user-limits",
            "/user-limits/guest",
            "/health/checks/alarms",
        )
    ),
    *(
        ("GET", path, None, (NO_TAG, OTHER_VHOST, OTHER_VHOST, OTHER_VHOST, 200))
        for path in (
            "/queues/private",
            "/queues/private/q",
            "/queues/private/q/bindings",
            "/exchanges/private",
            "/exchanges/private/amq.direct",
            "/exchanges/private/amq.direct/bindings/source",
            "/exchanges/private/amq.direct/bindings/destination",
            "/bindings/private",
            "/bindings/private/e/amq.direct/q/q",
            "/vhosts/private/connections",
            "/vhosts/private/channels",
            "/policies/private",
            "/operator-policies/private",
        )
    ),
    ("GET", "/vhost-limits/private", None, (NO_TAG, OTHER_VHOST, OTHER_VHOST, 200, 200)),
    *(
        ("GET", path, None, (NO_TAG, OTHER_OBJECT, 200, OTHER_OBJECT, 200))
        for path in ("/parameters", "/parameters/vhost-limits/%2F", "/global-parameters")
    ),
    *(
        ("GET", path, None, (NO_TAG, OTHER_OBJECT, OTHER_OBJECT, OTHER_OBJECT, 200))
        for path in ("/policies/private/p", "/parameters/vhost-limits/private")
    ),
    *(
        ("GET", path, None, (NO_TAG, NOT_MONITOR, NOT_MONITOR, 200, 200))
        for path in (
            "/nodes",
            f"/auth/attempts/{NODE}",
            "/shovels",
            "/shovels/%2F",
            "/shovels/private",
            "/federation-links",
            "/federation-links/private",
        )
    ),
    *(
        ("GET", path, None, (NO_TAG, *[NOT_ADMINISTRATOR] * 3, 200))
        for path in ("/users", "/permissions", "/vhosts/%2F", "/definitions", "/feature-flags")
    ),
    *(
        (method, path, None, (NO_TAG, NOT_MONITOR, NOT_MONITOR, 404, 404))
        for method, path in (
            ("GET", "/shovels/missing"),
            ("GET", "/shovels/vhost/private/s"),
            ("DELETE", "/shovels/vhost/private/s"),
            ("DELETE", "/shovels/vhost/private/s/restart"),
        )
    ),
    ("DELETE", f"/auth/attempts/{NODE}", None, (NO_TAG, NOT_MONITOR, NOT_MONITOR, 204, 204)),
    *(
        (method, path, body, (NO_TAG, *[OTHER_OBJECT] * 3, status))
        for method, path, body, status in (
            ("PUT", "/policies/private/n", {"pattern": "z", "definition": {"expires": 9}}, 201),
            ("DELETE", "/policies/private/n", None, 204),
            ("PUT", "/parameters/vhost-limits/private/limits", {"value": {"max-queues": 9}}, 201),
            ("DELETE", "/parameters/vhost-limits/private/limits", None, 204),
        )
    ),
    *(
        (method, path, body, (NO_TAG, *[NOT_ADMINISTRATOR] * 3, status))
        for method, path, body, status in (
            ("GET", "/operator-policies/%2F/p", None, 404),
            ("PUT", "/vhost-limits/private/max-queues", {"value": 9}, 204),
            ("POST", "/queues/private/q/actions", {"action": "sync"}, 204),
        )
    ),
    *(
        (method, path, body, (NO_TAG, *[OTHER_VHOST] * 3, NO_PERMISSION))
        for method, path, body in (
            ("PUT", "/queues/private/new", {}),
            ("DELETE", "/queues/private/q", None),
            ("DELETE", "/queues/private/q/contents", None),
            (
                "POST",
                "/queues/private/q/get",
                {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"},
            ),
            ("PUT", "/exchanges/private/new", {}),
            ("DELETE", "/exchanges/private/x", None),
            ("POST", "/bindings/private/e/amq.direct/q/q", {"routing_key": "k"}),
            (
                "POST",
                "/exchanges/private/amq.default/publish",
                {"routing_key": "q", "properties": {}, "payload": "", "payload_encoding": "string"},
            ),
            ("GET", "/aliveness-test/private", None),
        )
    ),
]


def test_what_each_tag_may_do(broker: Api) -> None:
    broker.broker.permit("guest", ".*", ".*", ".*", vhost="private")
    broker.does(201, "PUT", "/queues/private/q", {})
    broker.does(201, "PUT", "/exchanges/private/x", {})
    broker.does(201, "PUT", "/policies/private/p", {"pattern": "z", "definition": {"expires": 9}})
    for method, path, body, expected in RULES:
        found = []
        for user in USERS:
            response = broker(method, path, body, user=user)
            refused = response.status_code == 401
            found.append(response.json()["reason"] if refused else response.status_code)
        assert (method, path, tuple(found)) == (method, path, expected)


def test_connections_and_what_is_in_them_are_ones_own(broker: Api) -> None:
    """Monitoring sees those of others; only administrators close them."""
    broker.does(201, "PUT", "/queues/%2F/q", {})
    for user in ("guest", "management"):
        broker.broker.client(user, name=f"of-{user}").channel().consume("q")
    guests, own = "of-guest", "of-management"
    for path in ("/consumers", "/consumers/%2F", "/connections", "/channels"):
        seen = [len(broker.get(path, user=user)) for user in USERS[1:]]
        assert seen == [1, 0, 2, 2], path
    for path in (f"/connections/{guests}", f"/channels/{guests}%20(1)"):
        said = broker.does(401, "GET", path, user="management")
        assert said["reason"] == OTHER_OBJECT
        broker.get(path, user="monitoring")
    for user in ("management", "monitoring"):
        for path in (f"/connections/{guests}", "/connections/username/guest"):
            said = broker.does(401, "DELETE", path, user=user)
            assert said["reason"] == OTHER_OBJECT
    assert len(broker.get("/connections")) == 2
    broker.does(204, "DELETE", f"/connections/{own}", user="management")
    broker.does(204, "DELETE", "/connections/username/guest", user="administrator")
    assert broker.get("/connections") == []


def test_how_to_log_in_is_told_to_everybody(broker: Api) -> None:
    assert broker.get("/auth", user=None) == {"oauth_enabled": False, "enable_uaa": False}


def test_bindings_in_a_virtual_host_that_is_missing_are_none(broker: Api) -> None:
    for path in (
        "/queues/missing/q/bindings",
        "/exchanges/missing/x/bindings/source",
        "/exchanges/missing/amq.default/bindings/source",
        "/exchanges/missing/x/bindings/destination",
        "/bindings/missing/e/x/q/q",
        "/bindings/missing/e/amq.default/q/q",
        "/bindings/missing/e/x/e/y",
    ):
        assert broker.get(path) == []
    broker.does(404, "GET", "/bindings/missing")
    broker.does(404, "GET", "/bindings/missing/e/x/q/q/~")


def test_lists_show_the_virtual_hosts_one_may_enter(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/private/hidden", {"durable": True})
    assert broker.get("/queues", user="management") == []
    assert [queue["name"] for queue in broker.get("/queues")] == ["hidden"]
    assert [host["name"] for host in broker.get("/vhosts", user="management")] == ["/"]
    assert [host["name"] for host in broker.get("/vhosts", user="monitoring")] == ["/", "private"]


def test_permissions_hold_within_a_virtual_host(broker: Api) -> None:
    broker.broker.permit("management", "^mine", "", "")
    broker.does(201, "PUT", "/queues/%2F/mine", {}, user="management")
    said = broker.does(401, "PUT", "/queues/%2F/yours", {}, user="management")
    assert said == {"error": "not_authorised", "reason": "Access refused."}


def test_a_verb_that_a_path_does_not_know_is_said_before_anything_else(broker: Api) -> None:
    response = broker("PATCH", "/queues/%2F/q", user=None)
    assert response.status_code == 405
    assert response.headers["allow"] == "HEAD, GET, PUT, DELETE, OPTIONS"
    assert broker("OPTIONS", "/queues", user=None).headers["allow"] == "HEAD, GET, OPTIONS"


def test_what_is_not_there(broker: Api) -> None:
    missing = {"error": "Object Not Found", "reason": "Not Found"}
    for path in ("/nope", "/queues/nowhere/q", "/queues/%2F/q", "/exchanges/%2F/x", "/users/x"):
        assert broker.does(404, "GET", path) == missing
    assert broker.does(404, "PUT", "/queues/nowhere/q", {}) == {
        "error": "not_found",
        "reason": "vhost_not_found",
    }


def test_head_is_get_without_a_body(broker: Api) -> None:
    response = broker("HEAD", "/overview")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
