"""What an operator does to virtual hosts, users and connections: made, changed, deleted.

Call these within a turn. `by` is the user who asked for it, whom events name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from amqpd.broker import definitions
from amqpd.broker.definitions import VhostRecord
from amqpd.broker.events import INTERNAL_USER
from amqpd.broker.limits import check_user_limits
from amqpd.broker.parameters import InvalidParameter, NoSuchVhost
from amqpd.short_string import SHORT_STRING_OCTETS_MAX, fits_short_string

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.session import Session

QUEUE_TYPES: Final = ("classic", "quorum", "stream")


def put_vhost(broker: Broker, record: VhostRecord, *, by: str = INTERNAL_USER) -> bool:
    """Create a virtual host, or change the settings of an existing one; whether it is new.

    Raises InvalidParameter.
    """
    check_name("vhost", record.name)
    check_queue_type(record.default_queue_type)
    virtual_host = broker.virtual_hosts.get(record.name)
    if virtual_host is None:
        broker.add_virtual_host(record, user=by)
        return True
    if virtual_host.record != record:
        virtual_host.record = record
        broker.journal([definitions.encode(record)])
    return False


def delete_vhost(broker: Broker, name: str, *, by: str = INTERNAL_USER) -> None:
    """Delete a virtual host and everything in it, and close its connections.

    Raises NoSuchVhost.
    """
    virtual_host = broker.virtual_hosts.get(name)
    if virtual_host is None:
        raise NoSuchVhost(name)
    for session in broker.sessions:
        if session.virtual_host is virtual_host:
            close_connection(broker, session, f"vhost '{name}' is down")
    virtual_host.clear(by)
    broker.parameters.drop_vhost(name, by=by)
    broker.journal(broker.access.drop_vhost(name, by=by))
    del broker.virtual_hosts[name]
    broker.journal([definitions.drop(virtual_host.record)])
    broker.events.emit("vhost.deleted", {"name": name}, by)


def put_user(
    broker: Broker,
    name: str,
    password_hash: str,
    hashing_algorithm: str,
    tags: Iterable[str] = (),
    *,
    limits: dict[str, int] | None = None,
    by: str = INTERNAL_USER,
) -> bool:
    """Create or change a user; whether it is a new one. Without `limits` they stay as they are.

    Raises ValueError for a hash that could never match, InvalidParameter for what else is wrong.
    """
    check_name("user", name)
    problems = check_user_limits(limits) if limits is not None else []
    if problems:
        raise InvalidParameter(*problems, heading="")
    access = broker.access
    new = access.user(name) is None
    entries = access.put_user(name, password_hash, hashing_algorithm, tags, limits=limits, by=by)
    broker.journal(entries)
    return new


def delete_user(broker: Broker, name: str, *, by: str = INTERNAL_USER) -> None:
    """Delete a user with all permissions, and close their connections, as RabbitMQ does.

    Raises LookupError.
    """
    entries = broker.access.delete_user(name, by=by)
    if not entries:
        raise LookupError(f"user '{name}' does not exist")
    broker.journal(entries)
    for session in broker.sessions:
        if session.user == name:
            close_connection(broker, session, f"user '{name}' is deleted")


def close_connection(broker: Broker, session: Session, reason: str) -> None:
    """Close a client's connection at the end of the turn: 320 with the reason."""
    broker.effects.evictions.setdefault(session, reason)


def check_queue_type(kind: str | None) -> None:
    """Raises InvalidParameter for a default queue type that there is not."""
    if kind is not None and kind not in QUEUE_TYPES:
        raise InvalidParameter(f"unsupported default queue type '{kind}'", heading="")


def check_name(what: str, name: str) -> None:
    """Raises InvalidParameter for a name that AMQP cannot carry."""
    if not name or not fits_short_string(name):
        text = f"{what} name must have 1 to {SHORT_STRING_OCTETS_MAX} bytes"
        raise InvalidParameter(text, heading="")
