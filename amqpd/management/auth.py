"""Who calls, and what their tags let them do.

| tag | may |
|---|---|
| management | see and change what is in the virtual hosts they have permissions in |
| policymaker | the same, and policies and parameters there |
| monitoring | see connections, channels, consumers, shovels and nodes of everybody |
| administrator | see everything, and change what is no queue, exchange, binding or message |

What is done to those needs permissions in the virtual host, as in AMQP, of administrators too.
The rules are RabbitMQ's (`rabbit_mgmt_util:is_authorized_*`), path by path; so are the reasons.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from amqpd.broker.access import User
from amqpd.broker.broker import Broker
from amqpd.broker.passwords import SHA256
from amqpd.broker.virtual_host import VirtualHost
from amqpd.management.errors import login_failed, login_required, not_authorised

if TYPE_CHECKING:
    from amqpd.management.call import Call

ADMINISTRATOR: Final = frozenset({"administrator"})
POLICYMAKER: Final = ADMINISTRATOR | {"policymaker"}
MONITORING: Final = ADMINISTRATOR | {"monitoring"}
MANAGEMENT: Final = ADMINISTRATOR | {"management", "monitoring", "policymaker"}

OTHER_VIRTUAL_HOST: Final = "User not authorised to access virtual host"
OTHER_OBJECT: Final = "User not authorised to access object"

STRANGER: Final = User("", "", SHA256, ())
"""Who did not have to log in."""

Rule = Callable[["Call"], None]
"""Returns when the call is allowed, and raises 401 when not."""


def log_in(broker: Broker, headers: Mapping[str, str], is_loopback: bool) -> None:
    """HTTP Basic authentication, which counts as a login. Raises 401."""
    given = headers.get("authorization")
    if given is None:
        raise login_required()
    if given.partition(" ")[0].lower() != "basic":
        raise login_failed()
    user = _authenticated(broker, given)
    broker.count_login("http", user is not None)
    _let_in(broker, user, is_loopback)


def user_of(broker: Broker, headers: Mapping[str, str], is_loopback: bool) -> User:
    """The user as of now, of a request that has logged in. Raises 401.

    Asked for in the turn that does what is requested: while its body came, the user may have been
    deleted, or have got another password or other tags.
    """
    return _let_in(broker, _authenticated(broker, headers["authorization"]), is_loopback)


def _let_in(broker: Broker, user: User | None, is_loopback: bool) -> User:
    if user is None:
        raise login_failed()
    if not broker.access.login_allowed(user.name, is_loopback):
        raise not_authorised("User can only log in via localhost")
    return user


def _authenticated(broker: Broker, authorization: str) -> User | None:
    encoded = authorization.partition(" ")[2]
    try:
        name, _, password = base64.b64decode(encoded.strip()).partition(b":")
        return broker.access.authenticate(name.decode(), password)
    except ValueError:  # no base64, or a name that is no UTF-8
        return None


def has(user: User, tags: frozenset[str]) -> bool:
    """Whether the user has one of the tags."""
    return not tags.isdisjoint(user.tags)


def strangers(call: Call) -> None:
    """Everybody, whoever they are: `Call.user` is `STRANGER`."""


def anybody(call: Call) -> None:
    """Every user with a tag that lets them in at all. All other rules ask for one first."""
    if not has(call.user, MANAGEMENT):
        raise not_authorised("Not management user")


def administrators(call: Call) -> None:
    """Administrators only."""
    anybody(call)
    if not has(call.user, ADMINISTRATOR):
        raise not_authorised("Not administrator user")


def monitors(call: Call) -> None:
    """Who may look at the node."""
    anybody(call)
    if not has(call.user, MONITORING):
        raise not_authorised("Not monitor user")


def in_virtual_host(call: Call) -> None:
    """Who has permissions in the virtual host of the path, and administrators; one that is not
    there is 404 later."""
    anybody(call)
    if not has(call.user, ADMINISTRATOR) and not _enters(call):
        raise not_authorised(OTHER_VIRTUAL_HOST)


def seeing_virtual_host(call: Call) -> None:
    """Who is shown the virtual host of the path: the same, and monitoring."""
    anybody(call)
    if not has(call.user, MONITORING) and not _enters(call):
        raise not_authorised(OTHER_VIRTUAL_HOST)


def policymakers(call: Call) -> None:
    """Who may change policies and parameters in the virtual host of the path."""
    anybody(call)
    if has(call.user, ADMINISTRATOR):
        return
    if not has(call.user, POLICYMAKER) or not _enters(call):
        raise not_authorised(OTHER_OBJECT)


def require_own(call: Call, owner: str) -> None:
    """What is a user's own: monitoring may see it too, and administrators end it. Raises 401."""
    others = ADMINISTRATOR if call.method == "DELETE" else MONITORING
    if owner != call.user.name and not has(call.user, others):
        raise not_authorised(OTHER_OBJECT)


def _enters(call: Call) -> bool:
    name = call.parameters.get("vhost")
    if name is None or name not in call.broker.virtual_hosts:
        return True
    return call.broker.access.may_enter(call.user.name, name)


def visible_virtual_hosts(
    call: Call, everything: frozenset[str] = ADMINISTRATOR
) -> list[VirtualHost]:
    """Those whose contents the user is shown in lists; who has one of the tags `everything` is
    shown all."""
    hosts = list(call.broker.virtual_hosts.values())
    if has(call.user, everything):
        return hosts
    return [host for host in hosts if call.broker.access.may_enter(call.user.name, host.name)]


def wanted_virtual_hosts(
    call: Call, everything: frozenset[str] = ADMINISTRATOR
) -> list[VirtualHost]:
    """The one in the path, or without one those that the user is shown. Raises 404."""
    if "vhost" in call.parameters:
        return [call.virtual_host]
    return visible_virtual_hosts(call, everything)
