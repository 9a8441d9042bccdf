"""Who is let in, and to what: HTTP Basic, tags, virtual hosts; in RabbitMQ's words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

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


@pytest.mark.parametrize(
    ("path", "allowed", "reason"),
    [
        (
            "/overview",
            {"management", "policymaker", "monitoring", "administrator"},
            "Not management user",
        ),
        ("/users", {"administrator"}, "Not administrator user"),
        ("/permissions", {"administrator"}, "Not administrator user"),
        ("/vhosts/%2F", {"administrator"}, "Not administrator user"),
        (
            "/queues/%2F",
            {"management", "policymaker", "monitoring", "administrator"},
            "User not authorised to access virtual host",
        ),
        ("/queues/private", set(), "User not authorised to access virtual host"),
    ],
)
def test_what_each_tag_may_see(broker: Api, path: str, allowed: set[str], reason: str) -> None:
    for user in ("nobody", "management", "policymaker", "monitoring", "administrator"):
        response = broker("GET", path, user=user)
        if user in allowed:
            assert response.status_code == 200, user
        else:
            assert response.status_code == 401, user
            assert response.json() == {"error": "not_authorised", "reason": reason}


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
