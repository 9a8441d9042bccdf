"""/users: for administrators."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from amqpd.broker.access import User
from amqpd.broker.administration import delete_user, put_user
from amqpd.broker.passwords import ALGORITHMS, SALT_BYTES, SHA256, hash_password
from amqpd.management import fields
from amqpd.management.auth import administrators
from amqpd.management.call import Answer, Call, done, listed
from amqpd.management.errors import bad_request, not_found
from amqpd.management.routing import Table

TAGS_OPTIONAL_FROM = ("4.2", "4.3")
"""Profiles that take a user without tags; before them it was an error."""


def find(call: Call) -> User:
    """The user in the path. Raises 404."""
    found = call.broker.access.user(call["user"])
    if found is None:
        raise not_found()
    return found


def every(call: Call) -> Answer:
    """All users."""
    return listed([fields.user(record) for record in call.broker.access.users()], "name")


def without_permissions(call: Call) -> Answer:
    """Users who can enter no virtual host."""
    access = call.broker.access
    entering = {record.user for record in access.permissions()}
    users = [record for record in access.users() if record.name not in entering]
    return listed([fields.user(record) for record in users], "name")


def show(call: Call) -> Answer:
    """One user."""
    return Answer(body=fields.user(find(call)))


def put(call: Call) -> Answer:
    """Create or change a user: tags, and a password, a hash of one, or none."""
    tags, password_hash, algorithm = read_user(call, call.json())
    try:
        is_new = put_user(
            call.broker, call["user"], password_hash, algorithm, tags, by=call.user.name
        )
    except ValueError as error:
        raise bad_request(str(error)) from error
    return done(is_new)


def read_user(call: Call, body: Mapping[str, Any]) -> tuple[tuple[str, ...], str, str]:
    """Tags, password hash and hashing algorithm. Raises 400."""
    password, password_hash = body.get("password"), body.get("password_hash")
    if password is not None and password_hash is not None:
        raise bad_request("both_password_and_password_hash_are_provided")
    algorithm = body.get("hashing_algorithm") or SHA256
    if algorithm not in ALGORITHMS:
        raise bad_request(f"unknown hashing algorithm {algorithm}")
    tags = read_tags(call, body)
    if password is not None:
        if not isinstance(password, str):
            raise bad_request("password has to be a string")
        salt = call.broker.random_octets(SALT_BYTES)
        return tags, hash_password(password, salt, algorithm), algorithm
    return tags, _checked_hash(body.get("password_hash", "")), algorithm


def read_tags(call: Call, body: Mapping[str, Any]) -> tuple[str, ...]:
    """`"a, b"` or a list. Raises 400."""
    given = body.get("tags")
    if given is not None:
        return read_names(given)
    if isinstance(body.get("administrator"), bool):  # the API of 2.x
        return ("administrator",) if body["administrator"] else ()
    if call.broker.config.compat in TAGS_OPTIONAL_FROM:
        return ()
    raise bad_request("tags_not_present")


def read_names(given: object) -> tuple[str, ...]:
    """`"a, b"` or a list. Raises 400."""
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise bad_request("tags have to be a string or a list of strings")
    stripped = [name.strip() for name in names]
    return tuple(dict.fromkeys(name for name in stripped if name))


def _checked_hash(given: object) -> str:
    try:
        if isinstance(given, str):
            base64.b64decode(given, validate=True)
            return given
    except (binascii.Error, ValueError):
        pass
    raise bad_request(["not_base64", given])


def delete(call: Call) -> Answer:
    """The user goes with all permissions."""
    find(call)
    delete_user(call.broker, call["user"], by=call.user.name)
    return done()


def delete_several(call: Call) -> Answer:
    """All users in a list, or none if one of them is not there."""
    names = call.json_with("users")["users"]
    if not isinstance(names, list):
        raise bad_request("users has to be a list")
    access = call.broker.access
    for name in names:
        if not isinstance(name, str) or access.user(name) is None:
            raise bad_request(["no_such_user", name])
    for name in dict.fromkeys(names):
        delete_user(call.broker, name, by=call.user.name)
    return done()


def register(table: Table) -> None:
    """The paths."""
    table.add("/users", GET=(every, administrators))
    table.add("/users/without-permissions", GET=(without_permissions, administrators))
    table.add("/users/bulk-delete", POST=(delete_several, administrators))
    table.add(
        "/users/{user}",
        GET=(show, administrators),
        PUT=(put, administrators),
        DELETE=(delete, administrators),
    )
