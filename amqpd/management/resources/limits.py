"""/vhost-limits and /user-limits."""

from __future__ import annotations

from amqpd.broker.limits import (
    clear_user_limit,
    clear_vhost_limit,
    set_user_limit,
    set_vhost_limit,
)
from amqpd.management.auth import (
    MONITORING,
    administrators,
    anybody,
    seeing_virtual_host,
    wanted_virtual_hosts,
)
from amqpd.management.call import Answer, Call, done, listed
from amqpd.management.errors import bad_request
from amqpd.management.resources.parameters import refusing
from amqpd.management.resources.users import find as find_user
from amqpd.management.routing import Table


def of_virtual_hosts(call: Call) -> Answer:
    """Of every virtual host that has some, or of one."""
    hosts = wanted_virtual_hosts(call, MONITORING)
    limited = [{"vhost": host.name, "value": dict(host.limits)} for host in hosts if host.limits]
    return listed(limited, "vhost")


def put_of_virtual_host(call: Call) -> Answer:
    """Set one limit."""
    value = call.json_with("value")["value"]
    set_vhost_limit(call.broker, call["vhost"], call["limit"], value, by=call.user.name)
    return done()


def delete_of_virtual_host(call: Call) -> Answer:
    """Lift one limit."""
    clear_vhost_limit(call.broker, call["vhost"], call["limit"], by=call.user.name)
    return done()


def of_users(call: Call) -> Answer:
    """Of every user who has some, or of one."""
    users = [find_user(call)] if "user" in call.parameters else call.broker.access.users()
    limited = [{"user": user.name, "value": dict(user.limits)} for user in users if user.limits]
    return listed(limited, "user")


def put_of_user(call: Call) -> Answer:
    """Set one limit."""
    value = call.json_with("value")["value"]
    _require_user(call)
    set_user_limit(call.broker, call["user"], call["limit"], value, by=call.user.name)
    return done()


def delete_of_user(call: Call) -> Answer:
    """Lift one limit."""
    _require_user(call)
    clear_user_limit(call.broker, call["user"], call["limit"], by=call.user.name)
    return done()


def _require_user(call: Call) -> None:
    if call.broker.access.user(call["user"]) is None:
        raise bad_request(["no_such_user", call["user"]])


def register(table: Table) -> None:
    """The paths."""
    table.add("/vhost-limits", GET=(of_virtual_hosts, anybody))
    table.add("/vhost-limits/{vhost}", GET=(of_virtual_hosts, seeing_virtual_host))
    table.add(
        "/vhost-limits/{vhost}/{limit}",
        PUT=(refusing(put_of_virtual_host), administrators),
        DELETE=(refusing(delete_of_virtual_host), administrators),
    )
    table.add("/user-limits", GET=(of_users, anybody))
    table.add("/user-limits/{user}", GET=(of_users, anybody))
    table.add(
        "/user-limits/{user}/{limit}",
        PUT=(refusing(put_of_user), administrators),
        DELETE=(refusing(delete_of_user), administrators),
    )
