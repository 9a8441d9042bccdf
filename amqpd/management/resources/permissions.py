"""/permissions and /topic-permissions: for administrators."""

from __future__ import annotations

from amqpd.broker.patterns import InvalidPattern
from amqpd.management import fields
from amqpd.management.auth import administrators
from amqpd.management.call import Answer, Call, done, listed
from amqpd.management.errors import ApiError, bad_request, not_found
from amqpd.management.resources.users import find as find_user
from amqpd.management.routing import Table


def every(call: Call) -> Answer:
    """All permissions."""
    records = call.broker.access.permissions()
    return listed([fields.permission(record) for record in records], "vhost", "user")


def of_user(call: Call) -> Answer:
    """A user's, in every virtual host."""
    find_user(call)
    records = [r for r in call.broker.access.permissions() if r.user == call["user"]]
    return listed([fields.permission(record) for record in records], "vhost", "user")


def of_virtual_host(call: Call) -> Answer:
    """Everybody's in one virtual host."""
    name = call.virtual_host.name
    records = [r for r in call.broker.access.permissions() if r.vhost == name]
    return listed([fields.permission(record) for record in records], "vhost", "user")


def show(call: Call) -> Answer:
    """One user's in one virtual host."""
    for record in call.broker.access.permissions():
        if (record.user, record.vhost) == (call["user"], call["vhost"]):
            return Answer(body=fields.permission(record))
    raise not_found()


def put(call: Call) -> Answer:
    """Let a user enter a virtual host, and say what they may do there."""
    access = call.broker.access
    user, vhost = call["user"], call["vhost"]
    body = call.json_with("configure", "write", "read")
    _require_both(call)
    is_new = not access.may_enter(user, vhost)
    patterns = [_text(body[kind]) for kind in ("configure", "write", "read")]
    try:
        entries = access.put_permission(user, vhost, *patterns, by=call.user.name)
    except InvalidPattern as error:
        raise _invalid_regexp(error) from error
    call.broker.journal(entries)
    return done(is_new)


def delete(call: Call) -> Answer:
    """The user enters the virtual host no more."""
    if not call.broker.access.may_enter(call["user"], call["vhost"]):
        raise not_found()
    call.broker.journal(
        call.broker.access.delete_permission(call["user"], call["vhost"], by=call.user.name)
    )
    return done()


def every_topic(call: Call) -> Answer:
    """All topic permissions."""
    records = call.broker.access.topic_permissions()
    return listed([fields.topic_permission(r) for r in records], "vhost", "user", "exchange")


def topics_of_user(call: Call) -> Answer:
    """A user's, in every virtual host."""
    find_user(call)
    records = [r for r in call.broker.access.topic_permissions() if r.user == call["user"]]
    return listed([fields.topic_permission(r) for r in records], "vhost", "user", "exchange")


def topics_of_virtual_host(call: Call) -> Answer:
    """Everybody's in one virtual host."""
    name = call.virtual_host.name
    records = [r for r in call.broker.access.topic_permissions() if r.vhost == name]
    return listed([fields.topic_permission(r) for r in records], "vhost", "user", "exchange")


def show_topics(call: Call) -> Answer:
    """One user's in one virtual host, exchange by exchange."""
    place = (call["user"], call["vhost"])
    records = [r for r in call.broker.access.topic_permissions() if (r.user, r.vhost) == place]
    if not records:
        raise not_found()
    return listed([fields.topic_permission(r) for r in records], "exchange")


def put_topic(call: Call) -> Answer:
    """Restrict a user to some routing keys of a topic exchange."""
    access = call.broker.access
    user, vhost = call["user"], call["vhost"]
    body = call.json_with("exchange", "write", "read")
    _require_both(call)
    exchange, write, read = (_text(body[name]) for name in ("exchange", "write", "read"))
    # What is at the path are a user's permissions on all exchanges together.
    before = {(r.user, r.vhost) for r in access.topic_permissions()}
    try:
        entries = access.put_topic_permission(user, vhost, exchange, write, read, by=call.user.name)
    except InvalidPattern as error:
        raise _invalid_regexp(error) from error
    call.broker.journal(entries)
    return done((user, vhost) not in before)


def delete_topics(call: Call) -> Answer:
    """Lift the restrictions of one exchange, or of all of the virtual host."""
    exchange = call.parameters.get("exchange")
    access = call.broker.access
    if not any(
        (r.user, r.vhost) == (call["user"], call["vhost"]) and exchange in (None, r.exchange)
        for r in access.topic_permissions()
    ):
        raise not_found()
    call.broker.journal(
        access.delete_topic_permission(call["user"], call["vhost"], exchange, by=call.user.name)
    )
    return done()


def _require_both(call: Call) -> None:
    known = call.broker.access.user(call["user"]) and call["vhost"] in call.broker.virtual_hosts
    if not known:
        raise bad_request("vhost_or_user_not_found")


def _invalid_regexp(error: InvalidPattern) -> ApiError:
    """The pattern, and what is wrong where. RabbitMQ spells such texts as lists of octets."""
    return bad_request(["invalid_regexp", error.pattern, [error.problem, error.position]])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise bad_request(["not_string", value])
    return value


def register(table: Table) -> None:
    """The paths."""
    table.add("/permissions", GET=(every, administrators))
    table.add("/users/{user}/permissions", GET=(of_user, administrators))
    table.add("/vhosts/{vhost}/permissions", GET=(of_virtual_host, administrators))
    table.add(
        "/permissions/{vhost}/{user}",
        GET=(show, administrators),
        PUT=(put, administrators),
        DELETE=(delete, administrators),
    )
    table.add("/topic-permissions", GET=(every_topic, administrators))
    table.add("/users/{user}/topic-permissions", GET=(topics_of_user, administrators))
    table.add("/vhosts/{vhost}/topic-permissions", GET=(topics_of_virtual_host, administrators))
    table.add(
        "/topic-permissions/{vhost}/{user}",
        GET=(show_topics, administrators),
        PUT=(put_topic, administrators),
        DELETE=(delete_topics, administrators),
    )
    table.add(
        "/topic-permissions/{vhost}/{user}/{exchange}", DELETE=(delete_topics, administrators)
    )
