"""Limits of virtual hosts and of users, in RabbitMQ's terms and words.

    virtual host   max-connections, max-queues      the runtime parameter `vhost-limits`
    user           max-connections, max-channels    part of the user's record

A negative limit is none, and zero lets nobody in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amqpd.broker.definitions import UserRecord
from amqpd.broker.erlang_terms import pairs
from amqpd.broker.events import INTERNAL_USER
from amqpd.broker.parameter_validation import Field, check_integer, check_object
from amqpd.broker.parameters import InvalidParameter, NoSuchVhost
from amqpd.errors import NOT_ALLOWED, PRECONDITION_FAILED, ConnectionException, amqp_error

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.virtual_host import VirtualHost

COMPONENT: Final = "vhost-limits"
NAME: Final = "limits"
"""The one name that parameters of the component have."""
VHOST_LIMITS: Final = ("max-connections", "max-queues")
USER_LIMITS: Final = ("max-connections", "max-channels")


class VhostLimits:
    """The component `vhost-limits` of runtime parameters."""

    name = COMPONENT
    _fields = tuple(Field(limit, check_integer, mandatory=False) for limit in VHOST_LIMITS)

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def check(self, name: str, value: Any) -> list[str]:
        """What is wrong with the limits."""
        if name != NAME:
            return [f"parameter of component {COMPONENT} must be named '{NAME}', not '{name}'"]
        return check_object(name, self._fields, value)

    def changed(self, vhost: str, name: str, value: Any, by: str) -> None:
        """They hold from now on, for what is to come."""
        limits = dict(value)
        self._broker.virtual_hosts[vhost].limits = limits
        self._broker.events.emit("vhost.limits.set", {"name": name, **limits}, by)

    def cleared(self, vhost: str, name: str, by: str) -> None:
        """None holds any more."""
        self._broker.virtual_hosts[vhost].limits = {}
        self._broker.events.emit("vhost.limits.cleared", {"name": name}, by)


# -- for those who administer a broker


def vhost_limits(broker: Broker, vhost: str) -> dict[str, int]:
    """The limits that a virtual host has. Raises NoSuchVhost."""
    if vhost not in broker.virtual_hosts:
        raise NoSuchVhost(vhost)
    return dict(broker.virtual_hosts[vhost].limits)


def set_vhost_limit(
    broker: Broker, vhost: str, limit: str, value: Any, *, by: str = INTERNAL_USER
) -> None:
    """Set one limit of a virtual host. Raises NoSuchVhost, InvalidParameter."""
    limits = {**vhost_limits(broker, vhost), limit: value}
    broker.parameters.set(vhost, COMPONENT, NAME, limits, by=by)


def clear_vhost_limit(broker: Broker, vhost: str, limit: str, *, by: str = INTERNAL_USER) -> None:
    """Lift one limit of a virtual host, if it has it. Raises NoSuchVhost."""
    limits = vhost_limits(broker, vhost)
    if limit not in limits:
        return
    del limits[limit]
    if limits:
        broker.parameters.set(vhost, COMPONENT, NAME, limits, by=by)
    else:
        broker.parameters.clear(vhost, COMPONENT, NAME, by=by)


def check_user_limits(limits: Any) -> list[str]:
    """What is wrong with the limits of a user."""
    if not isinstance(limits, dict):
        return ["limits should be an object"]
    unknown = {name: value for name, value in limits.items() if name not in USER_LIMITS}
    if unknown:
        return [f"Unrecognised terms {pairs(unknown)} in user-limits"]
    return [problem for name, value in limits.items() for problem in check_integer(name, value)]


def set_user_limit(
    broker: Broker, user: str, limit: str, value: Any, *, by: str = INTERNAL_USER
) -> None:
    """Set one limit of a user. Raises LookupError for an unknown user, InvalidParameter."""
    record = _user(broker, user)
    problems = check_user_limits({limit: value})
    if problems:
        raise InvalidParameter(*problems, heading="")
    _put_limits(broker, record, {**record.limits, limit: value}, by)


def clear_user_limit(broker: Broker, user: str, limit: str, *, by: str = INTERNAL_USER) -> None:
    """Lift one limit of a user, if there is one. Raises LookupError for an unknown user."""
    record = _user(broker, user)
    limits = {name: value for name, value in record.limits.items() if name != limit}
    _put_limits(broker, record, limits, by)


def _user(broker: Broker, name: str) -> UserRecord:
    user = broker.access.user(name)
    if user is None:
        raise LookupError(f"user '{name}' does not exist")
    return user


def _put_limits(broker: Broker, user: UserRecord, limits: dict[str, int], by: str) -> None:
    broker.journal(
        broker.access.put_user(
            user.name, user.password_hash, user.hashing_algorithm, user.tags, limits=limits, by=by
        )
    )


# -- what is refused: each returns when there is room, and raises what the client gets when not


def require_connection_room(
    broker: Broker, home: VirtualHost, user: str, method: tuple[int, int]
) -> None:
    """530 if the virtual host, or the user, has as many connections as it may."""
    most = _most(home.limits, "max-connections")
    sessions = broker.sessions
    if most is not None and sum(session.virtual_host is home for session in sessions) >= most:
        text = f"access to vhost '{home.name}' refused for user '{user}'"
        text += f": connection limit ({most}) is reached"
        raise ConnectionException(NOT_ALLOWED, text, method)
    most = _most(_limits_of(broker, user), "max-connections")
    if most is not None and sum(session.user == user for session in sessions) >= most:
        text = f"connection refused for user '{user}'"
        text += f": user connection limit ({most}) is reached"
        raise ConnectionException(NOT_ALLOWED, text, method)


def require_channel_room(broker: Broker, user: str) -> None:
    """530 if the user has as many channels open as they may."""
    most = _most(_limits_of(broker, user), "max-channels")
    if most is None:
        return
    if sum(len(session.channels) for session in broker.sessions if session.user == user) >= most:
        text = f"number of channels opened for user '{user}' has reached the maximum allowed"
        text += f" user limit of ({most})"
        raise ConnectionException(NOT_ALLOWED, text)


def require_queue_room(home: VirtualHost, name: str, method: tuple[int, int]) -> None:
    """406 if the virtual host has as many queues as it may."""
    most = _most(home.limits, "max-queues")
    if most is not None and len(home.queues) >= most:
        text = f"cannot declare queue '{name}': queue limit in vhost '{home.name}' ({most})"
        raise amqp_error(PRECONDITION_FAILED, f"{text} is reached", method)


def _limits_of(broker: Broker, user: str) -> dict[str, int]:
    record = broker.access.user(user)
    return {} if record is None else record.limits


def _most(limits: dict[str, int], name: str) -> int | None:
    value = limits.get(name, -1)
    return None if value < 0 else value
