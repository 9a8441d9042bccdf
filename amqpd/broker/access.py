"""Who may log in, which virtual hosts they may enter, and what they may touch there.

Rules, as RabbitMQ's internal backend has them:

- A permission is a regular expression on the resource's name, found anywhere in it (unanchored).
  An empty one matches nothing. The default exchange is looked up as `amq.default`.
- Without a permission in a virtual host a user does not enter it; without a topic permission for
  an exchange all its routing keys are allowed.
- In topic permissions `{username}` and `{vhost}` stand for those names, put in as they are, not
  escaped. RabbitMQ's `{client_id}` is known to MQTT clients only and stays as it is here.

Every changing method returns the entries that make the change durable, none when nothing changed.
`version` grows with every change, for those who keep an answer from before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import msgspec

from amqpd.broker.definitions import (
    PermissionRecord,
    TopicPermissionRecord,
    UserRecord,
    drop,
    encode,
)
from amqpd.broker.events import INTERNAL_USER, Events, Properties
from amqpd.broker.passwords import check_algorithm, check_hash, check_password
from amqpd.broker.patterns import Pattern, compile_pattern, compile_topic_pattern
from amqpd.broker.version import Version
from amqpd.errors import ACCESS_REFUSED, NOT_ALLOWED, amqp_error
from amqpd_storage.entries import DropDefinition, PutDefinition

User = UserRecord
Kind = Literal["configure", "write", "read"]
TopicKind = Literal["write", "read"]
Resource = Literal["queue", "exchange"]
DefinitionEntries = list[PutDefinition | DropDefinition]

GRANTED_CACHE_MAX: Final = 8192
"""Answers of yes kept by `may`; when full they are all forgotten and found anew."""


class _Permission(NamedTuple):
    record: PermissionRecord
    configure: Pattern
    write: Pattern
    read: Pattern


class _TopicPermission(NamedTuple):
    record: TopicPermissionRecord
    write: Pattern
    read: Pattern


class Access:
    """All users and their permissions."""

    def __init__(
        self,
        loopback_users: Iterable[str] = (),
        events: Events | None = None,
        granted_cache_max: int = GRANTED_CACHE_MAX,
    ) -> None:
        """`events` hears of changes; `by`, with each of them, is the user who asked for it."""
        self.loopback_users: Final = frozenset(loopback_users)
        """Users who may log in from this machine only."""
        self.version: Final = Version()
        self._events = events
        self._granted_cache_max: Final = granted_cache_max
        self._granted: set[tuple[str, str, Kind, str]] = set()
        self._users: dict[str, User] = {}
        self._permissions: dict[tuple[str, str], _Permission] = {}
        self._topic_permissions: dict[tuple[str, str, str], _TopicPermission] = {}

    # Users

    def users(self) -> list[User]:
        """All users, oldest first."""
        return list(self._users.values())

    def user(self, name: str) -> User | None:
        """The user of that name."""
        return self._users.get(name)

    def put_user(
        self,
        name: str,
        password_hash: str,
        hashing_algorithm: str,
        tags: Iterable[str] = (),
        *,
        limits: dict[str, int] | None = None,
        by: str = INTERNAL_USER,
    ) -> DefinitionEntries:
        """Create or change a user; limits stay as they are unless there are new ones.

        Raises ValueError for a hash that could never match, and for the broker's own name.
        """
        if name == INTERNAL_USER:
            raise ValueError(f"user name '{name}' is reserved for the broker itself")
        before = self._users.get(name)
        if limits is None:
            limits = {} if before is None else before.limits
        user = UserRecord(name, password_hash, hashing_algorithm, tuple(tags), limits)
        entries = self._put_user(user)
        if entries:
            self._tell_changed(before, user, by)
        return entries

    def delete_user(self, name: str, *, by: str = INTERNAL_USER) -> DefinitionEntries:
        """Delete a user with all permissions; no entries if there is none of that name."""
        user = self._users.pop(name, None)
        if user is None:
            return []
        self._changed()
        permissions = [key for key in self._permissions if key[0] == name]
        topics = [key for key in self._topic_permissions if key[0] == name]
        self._tell("user.deleted", {"name": name}, by)
        return [*self._drop_permissions(permissions, topics), drop(user)]

    def authenticate(self, name: str, password: bytes) -> User | None:
        """The user, if the password is theirs."""
        user = None if name == INTERNAL_USER else self._users.get(name)
        if user is None:
            return None
        right = check_password(password, user.password_hash, user.hashing_algorithm)
        return user if right else None

    def login_allowed(self, user: str, peer_is_loopback: bool) -> bool:
        """Whether the user may log in from where they are."""
        return peer_is_loopback or user not in self.loopback_users

    # Permissions

    def permissions(self) -> list[PermissionRecord]:
        """All permissions, oldest first."""
        return [permission.record for permission in self._permissions.values()]

    def put_permission(
        self,
        user: str,
        vhost: str,
        configure: str,
        write: str,
        read: str,
        *,
        by: str = INTERNAL_USER,
    ) -> DefinitionEntries:
        """Let the user enter the virtual host with these rights, in place of those before.

        Raises ValueError for an invalid regular expression, LookupError for an unknown user.
        """
        self._require_user(user)
        record = PermissionRecord(user, vhost, configure, write, read)
        entries = self._put_permission(record)
        if entries:
            self._tell("permission.created", msgspec.structs.asdict(record), by)
        return entries

    def delete_permission(
        self, user: str, vhost: str, *, by: str = INTERNAL_USER
    ) -> DefinitionEntries:
        """Let the user no longer enter; topic permissions stay, as in RabbitMQ."""
        if (user, vhost) not in self._permissions:
            return []
        self._changed()
        self._tell("permission.deleted", {"user": user, "vhost": vhost}, by)
        return self._drop_permissions([(user, vhost)], [])

    def permission(self, user: str, vhost: str) -> PermissionRecord | None:
        """What the user may do in the virtual host."""
        permission = self._permissions.get((user, vhost))
        return None if permission is None else permission.record

    def topic_permission(
        self, user: str, vhost: str, exchange: str
    ) -> TopicPermissionRecord | None:
        """Which routing keys of the exchange the user may use, if that is restricted."""
        permission = self._topic_permissions.get((user, vhost, exchange))
        return None if permission is None else permission.record

    def topic_permissions(self) -> list[TopicPermissionRecord]:
        """All topic permissions, oldest first."""
        return [permission.record for permission in self._topic_permissions.values()]

    def put_topic_permission(
        self,
        user: str,
        vhost: str,
        exchange: str,
        write: str,
        read: str,
        *,
        by: str = INTERNAL_USER,
    ) -> DefinitionEntries:
        """Restrict the user to these routing keys of the exchange. Raises as put_permission."""
        self._require_user(user)
        record = TopicPermissionRecord(user, vhost, exchange, write, read)
        entries = self._put_topic_permission(record)
        if entries:
            self._tell("topic.permission.created", msgspec.structs.asdict(record), by)
        return entries

    def delete_topic_permission(
        self, user: str, vhost: str, exchange: str | None = None, *, by: str = INTERNAL_USER
    ) -> DefinitionEntries:
        """Lift the restriction for one exchange, or for all of the virtual host."""
        keys = [
            key
            for key in self._topic_permissions
            if key[:2] == (user, vhost) and exchange in (None, key[2])
        ]
        if keys:
            self._changed()
            told = {"user": user, "vhost": vhost}
            if exchange is not None:
                told["exchange"] = exchange
            self._tell("topic.permission.deleted", told, by)
        return self._drop_permissions([], keys)

    def drop_vhost(self, vhost: str, *, by: str = INTERNAL_USER) -> DefinitionEntries:
        """Forget every permission in a virtual host that is going away."""
        permissions = [key for key in self._permissions if key[1] == vhost]
        topics = [key for key in self._topic_permissions if key[1] == vhost]
        if permissions or topics:
            self._changed()
        for user, _ in permissions:
            self._tell("permission.deleted", {"user": user, "vhost": vhost}, by)
        for user, _, exchange in topics:
            told = {"user": user, "vhost": vhost, "exchange": exchange}
            self._tell("topic.permission.deleted", told, by)
        return self._drop_permissions(permissions, topics)

    def restore(self, record: UserRecord | PermissionRecord | TopicPermissionRecord) -> None:
        """Take in what the journal remembers, in any order. Raises ValueError if unusable."""
        if isinstance(record, UserRecord):
            self._put_user(record)
        elif isinstance(record, PermissionRecord):
            self._put_permission(record)
        else:
            self._put_topic_permission(record)

    # Questions

    def may_enter(self, user: str, vhost: str) -> bool:
        """Whether the user may open connections to the virtual host. The broker itself may do
        anything anywhere: what it does in a client's place is checked before."""
        return (user, vhost) in self._permissions or user == INTERNAL_USER

    def may(self, user: str, vhost: str, kind: Kind, resource_name: str) -> bool:
        """Whether the user has that right on a queue or exchange; `""` is the default exchange."""
        question = (user, vhost, kind, resource_name)
        if question in self._granted or user == INTERNAL_USER:
            return True
        permission = self._permissions.get((user, vhost))
        if permission is None:
            return False
        pattern: Pattern = getattr(permission, kind)
        if pattern.search(resource_name or "amq.default") is None:
            return False
        if len(self._granted) >= self._granted_cache_max:
            self._granted.clear()
        self._granted.add(question)
        return True

    def may_topic(
        self, user: str, vhost: str, exchange: str, kind: TopicKind, routing_key: str
    ) -> bool:
        """Whether the user may use the routing key; to be asked of topic exchanges only."""
        permission = self._topic_permissions.get((user, vhost, exchange))
        if permission is None:
            return True
        pattern = permission.write if kind == "write" else permission.read
        return pattern.search(routing_key) is not None

    # Refusals: each returns when it is allowed, and raises what the client gets when not

    def require_entry(self, user: str, vhost: str, method: tuple[int, int] = (10, 40)) -> None:
        """530 unless the user may enter the virtual host."""
        if not self.may_enter(user, vhost):
            text = f"access to vhost '{vhost}' refused for user '{user}'"
            raise amqp_error(NOT_ALLOWED, text, method)

    def require(
        self,
        user: str,
        vhost: str,
        kind: Kind,
        resource: Resource,
        name: str,
        method: tuple[int, int],
    ) -> None:
        """403 unless the user has that right."""
        if not self.may(user, vhost, kind, name):
            raise amqp_error(ACCESS_REFUSED, _refusal(user, vhost, kind, resource, name), method)

    def require_any(
        self, user: str, vhost: str, resource: Resource, name: str, method: tuple[int, int]
    ) -> None:
        """403 unless the user has one of the three rights (passive declare from 4.2 on)."""
        kinds: tuple[Kind, ...] = ("configure", "write", "read")
        if not any(self.may(user, vhost, kind, name) for kind in kinds):
            text = _refusal(user, vhost, "configure", resource, name)
            raise amqp_error(ACCESS_REFUSED, text, method)

    def require_topic(
        self,
        user: str,
        vhost: str,
        exchange: str,
        kind: TopicKind,
        routing_key: str,
        method: tuple[int, int],
    ) -> None:
        """403 unless the user may use the routing key; to be asked of topic exchanges only."""
        if not self.may_topic(user, vhost, exchange, kind, routing_key):
            text = (
                f"{kind} access to topic '{routing_key}' in exchange '{exchange}'"
                f" in vhost '{vhost}' refused for user '{user}'"
            )
            raise amqp_error(ACCESS_REFUSED, text, method)

    # Changes

    def _tell(self, key: str, properties: Properties, by: str) -> None:
        if self._events is not None:
            self._events.emit(key, properties, by)

    def _tell_changed(self, before: User | None, user: User, by: str) -> None:
        """What is new about the user: all of it, the password, the tags."""
        if before is None:
            self._tell("user.created", {"name": user.name}, by)
        elif before.password_hash != user.password_hash:
            change = "changed" if user.password_hash else "cleared"
            self._tell(f"user.password.{change}", {"name": user.name}, by)
        if (before.limits if before is not None else {}) != user.limits:
            change = "set" if user.limits else "cleared"
            self._tell(f"user.limits.{change}", {"name": user.name, **user.limits}, by)
        if (before.tags if before is not None else ()) != user.tags:
            self._tell("user.tags.set", {"name": user.name, "tags": list(user.tags)}, by)

    def _put_user(self, record: UserRecord) -> DefinitionEntries:
        check_algorithm(record.hashing_algorithm)
        check_hash(record.password_hash)
        if self._users.get(record.name) == record:
            return []
        self._users[record.name] = record
        self._changed()
        return [encode(record)]

    def _put_permission(self, record: PermissionRecord) -> DefinitionEntries:
        key = (record.user, record.vhost)
        before = self._permissions.get(key)
        if before is not None and before.record == record:
            return []
        self._permissions[key] = _Permission(
            record,
            compile_pattern(record.configure),
            compile_pattern(record.write),
            compile_pattern(record.read),
        )
        self._changed()
        return [encode(record)]

    def _put_topic_permission(self, record: TopicPermissionRecord) -> DefinitionEntries:
        key = (record.user, record.vhost, record.exchange)
        before = self._topic_permissions.get(key)
        if before is not None and before.record == record:
            return []
        self._topic_permissions[key] = _TopicPermission(
            record,
            compile_topic_pattern(record.write, record.user, record.vhost),
            compile_topic_pattern(record.read, record.user, record.vhost),
        )
        self._changed()
        return [encode(record)]

    def _drop_permissions(
        self, permissions: list[tuple[str, str]], topics: list[tuple[str, str, str]]
    ) -> DefinitionEntries:
        return [
            *(drop(self._permissions.pop(key).record) for key in permissions),
            *(drop(self._topic_permissions.pop(topic).record) for topic in topics),
        ]

    def _require_user(self, name: str) -> None:
        if name not in self._users:
            raise LookupError(f"user '{name}' does not exist")

    def _changed(self) -> None:
        self._granted.clear()
        self.version.number += 1


def _refusal(user: str, vhost: str, kind: Kind, resource: Resource, name: str) -> str:
    # RabbitMQ asks for the default exchange as amq.default, and says so.
    shown = name or "amq.default"
    return f"{kind} access to {resource} '{shown}' in vhost '{vhost}' refused for user '{user}'"
