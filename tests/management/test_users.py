"""Users, permissions and topic permissions over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conversation import Refused
from tests.management.api import Api, api

EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}


@pytest.fixture
def broker() -> Api:
    """With one user, `u`."""
    found = api()
    found.does(201, "PUT", "/users/u", {"password": "secret", "tags": "management, policymaker"})
    return found


def test_a_new_user_can_log_in_over_amqp_and_http(broker: Api) -> None:
    broker.does(201, "PUT", "/permissions/%2F/u", EVERYTHING)
    assert broker.get("/whoami", user="u") == {"name": "u", "tags": ["management", "policymaker"]}
    broker.broker.client("u", "secret").channel().queue_declare("q")


def test_a_user_is_there_after_a_crash(broker: Api) -> None:
    before = broker.get("/users/u")
    broker.broker.crash_and_recover()
    assert broker.get("/users/u") == before


def test_the_second_put_changes(broker: Api) -> None:
    broker.does(204, "PUT", "/users/u", {"password": "other", "tags": ["monitoring"]})
    assert broker.get("/users/u")["tags"] == ["monitoring"]
    assert broker("GET", "/whoami", user="u", password="other").status_code == 200


def test_a_hash_takes_the_place_of_a_password(broker: Api) -> None:
    known = broker.get("/users/u")["password_hash"]
    broker.does(201, "PUT", "/users/twin", {"password_hash": known, "tags": "management"})
    assert broker.get("/whoami", user="twin", password="secret")["name"] == "twin"


@pytest.mark.parametrize("body", [{"tags": ""}, {"tags": "", "password_hash": ""}])
def test_without_a_password_nobody_logs_in(broker: Api, body: dict[str, str]) -> None:
    broker.does(201, "PUT", "/users/locked", body)
    assert broker.get("/users/locked")["password_hash"] == ""
    assert broker("GET", "/whoami", user="locked", password="").status_code == 401


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"password": "x"}, "tags_not_present"),
        (
            {"password": "x", "password_hash": "", "tags": ""},
            "both_password_and_password_hash_are_provided",
        ),
        ({"password_hash": "####", "tags": ""}, ["not_base64", "####"]),
        ({"password_hash": None, "tags": ""}, ["not_base64", None]),
        ({"password_hash": 5, "tags": ""}, ["not_base64", 5]),
        ({"password": "x", "tags": True}, "tags have to be a string or a list of strings"),
    ],
)
def test_users_that_are_refused(broker: Api, body: Any, reason: Any) -> None:
    said = broker.does(400, "PUT", "/users/v", body)
    assert said == {"error": "bad_request", "reason": reason}
    broker.does(404, "GET", "/users/v")


def test_newer_profiles_do_without_tags() -> None:
    newer = api(compat="4.2")
    newer.does(201, "PUT", "/users/v", {"password": "x"})
    assert newer.get("/users/v")["tags"] == []


def test_deleting_takes_permissions_along(broker: Api) -> None:
    broker.does(201, "PUT", "/permissions/%2F/u", EVERYTHING)
    broker.does(204, "DELETE", "/users/u")
    broker.does(404, "DELETE", "/users/u")
    assert [entry["user"] for entry in broker.get("/permissions")] == ["guest"]
    with pytest.raises(Refused):
        broker.broker.client("u", "secret")


def test_deleting_several_or_none(broker: Api) -> None:
    broker.does(201, "PUT", "/users/v", {"tags": ""})
    said = broker.does(400, "POST", "/users/bulk-delete", {"users": ["u", "nope"]})
    assert said["reason"] == ["no_such_user", "nope"]
    assert [user["name"] for user in broker.get("/users")] == ["guest", "u", "v"]
    broker.does(204, "POST", "/users/bulk-delete", {"users": ["u", "v"]})
    assert [user["name"] for user in broker.get("/users")] == ["guest"]


def test_users_without_permissions(broker: Api) -> None:
    assert [user["name"] for user in broker.get("/users/without-permissions")] == ["u"]
    broker.does(201, "PUT", "/permissions/%2F/u", EVERYTHING)
    assert broker.get("/users/without-permissions") == []


def test_permissions(broker: Api) -> None:
    broker.does(404, "GET", "/permissions/%2F/u")
    broker.does(201, "PUT", "/permissions/%2F/u", EVERYTHING)
    broker.does(204, "PUT", "/permissions/%2F/u", EVERYTHING | {"read": "^r"})
    expected = {"user": "u", "vhost": "/", "configure": ".*", "write": ".*", "read": "^r"}
    assert broker.get("/permissions/%2F/u") == expected
    assert broker.get("/users/u/permissions") == [expected]
    assert expected in broker.get("/vhosts/%2F/permissions")
    broker.broker.crash_and_recover()
    assert broker.get("/permissions/%2F/u") == expected
    broker.does(204, "DELETE", "/permissions/%2F/u")
    broker.does(404, "DELETE", "/permissions/%2F/u")


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/permissions/%2F/nope", EVERYTHING, "vhost_or_user_not_found"),
        ("/permissions/nope/u", EVERYTHING, "vhost_or_user_not_found"),
        ("/permissions/%2F/u", {"configure": ""}, "[{key_missing,write},{key_missing,read}]"),
        ("/permissions/%2F/u", EVERYTHING | {"read": 5}, ["not_string", 5]),
        ("/topic-permissions/%2F/u", {"write": "", "read": ""}, "[{key_missing,exchange}]"),
    ],
)
def test_permissions_that_are_refused(broker: Api, path: str, body: Any, reason: Any) -> None:
    assert broker.does(400, "PUT", path, body) == {"error": "bad_request", "reason": reason}


@pytest.mark.parametrize(
    ("pattern", "problem", "position"),
    [
        ("(", "missing )", 1),
        ("a[b", "missing terminating ] for character class", 3),
        ("a)", "unmatched parentheses", 1),
        ("*", "nothing to repeat", 0),
        ("a\\", "\\ at end of pattern", 2),
        ("(?P<n", "syntax error in subpattern name (missing terminator)", 5),
    ],
)
def test_an_invalid_pattern_is_refused(
    broker: Api, pattern: str, problem: str, position: int
) -> None:
    refused = {
        "error": "bad_request",
        "reason": ["invalid_regexp", pattern, [problem, position]],
    }
    body = EVERYTHING | {"write": pattern}
    assert broker.does(400, "PUT", "/permissions/%2F/u", body) == refused
    topic = {"exchange": "amq.topic", "write": "", "read": pattern}
    assert broker.does(400, "PUT", "/topic-permissions/%2F/u", topic) == refused
    assert broker.get("/users/u/permissions") == broker.get("/topic-permissions") == []


def test_topic_permissions(broker: Api) -> None:
    place = "/topic-permissions/%2F/u"
    row = {"exchange": "amq.topic", "write": "^a", "read": "^b"}
    broker.does(404, "GET", place)
    broker.does(201, "PUT", place, row)
    broker.does(204, "PUT", place, row)
    broker.does(204, "PUT", place, row | {"exchange": "other"})
    assert [found["exchange"] for found in broker.get(place)] == ["amq.topic", "other"]
    assert broker.get("/users/u/topic-permissions") == broker.get(place)
    assert broker.get("/vhosts/%2F/topic-permissions") == broker.get("/topic-permissions")
    broker.does(204, "DELETE", place + "/other")
    broker.does(204, "DELETE", place)
    broker.does(404, "DELETE", place)
