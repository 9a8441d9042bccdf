"""Policies: rules for queues and exchanges by their names, set and cleared while they are in use.

At most one policy and one operator policy hold for an object: of those whose pattern is found in
its name, which are for its kind, and which set nothing that its queue type does not take, the one
of the highest priority (of several, the first by name: RabbitMQ leaves that open). What holds is
found again when a policy changes, and applied at once.

Policies are runtime parameters of the components `policy` and `operator_policy`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from amqpd.broker.erlang_terms import term
from amqpd.broker.events import INTERNAL_USER
from amqpd.broker.parameter_validation import Field, check_number, check_object, check_pattern
from amqpd.broker.patterns import Pattern, compile_name_pattern
from amqpd.broker.policy_settings import (
    UNSUPPORTED,
    Definition,
    Kind,
    QueueType,
    check_definition,
    merge_operator,
)

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.queue import Queue

KINDS: Final[tuple[Kind, Kind]] = ("policy", "operator_policy")
APPLY_TO: Final = ("queues", "classic_queues", "quorum_queues", "streams", "exchanges", "all")

_QUEUE_TYPES: Final[dict[str, tuple[QueueType, ...]]] = {
    "all": ("classic", "quorum", "stream"),
    "queues": ("classic", "quorum", "stream"),
    "classic_queues": ("classic",),
    "quorum_queues": ("quorum",),
    "streams": ("stream",),
    "exchanges": (),
}


class Policy(NamedTuple):
    """One policy or operator policy."""

    name: str
    vhost: str
    pattern: str
    apply_to: str
    priority: int | float
    """As it was given: as `float` alone, what is compiled makes 1.0 of 1, which clients refuse."""
    definition: Definition
    regex: Pattern

    def value(self) -> dict[str, Any]:
        """As a runtime parameter."""
        return {
            "pattern": self.pattern,
            "definition": dict(self.definition),
            "priority": self.priority,
            "apply-to": self.apply_to,
        }

    def fits_queue(self, name: str, type: QueueType) -> bool:
        """Whether it is for the queue."""
        return (
            type in _QUEUE_TYPES[self.apply_to]
            and UNSUPPORTED[type].isdisjoint(self.definition)
            and self.regex.search(name) is not None
        )

    def fits_exchange(self, name: str) -> bool:
        """Whether it is for the exchange."""
        return self.apply_to in ("all", "exchanges") and self.regex.search(name) is not None


class PolicyTable:
    """The policies of one virtual host, of both kinds, the strongest first."""

    def __init__(self) -> None:
        self._policies: dict[Kind, list[Policy]] = {kind: [] for kind in KINDS}

    def put(self, kind: Kind, policy: Policy) -> None:
        """Add a policy, or replace that of its name."""
        self.drop(kind, policy.name)
        self._policies[kind].append(policy)
        self._policies[kind].sort(key=lambda policy: (-policy.priority, policy.name))

    def drop(self, kind: Kind, name: str) -> None:
        """Forget a policy, if there is one."""
        self._policies[kind] = [policy for policy in self._policies[kind] if policy.name != name]

    def of_kind(self, kind: Kind) -> list[Policy]:
        """All of one kind, the strongest first."""
        return list(self._policies[kind])

    def match_queue(self, name: str, type: QueueType) -> tuple[Policy | None, Policy | None]:
        """The policy and the operator policy that hold for a queue."""
        if not (self._policies["policy"] or self._policies["operator_policy"]):
            return None, None
        user, operator = (
            next((policy for policy in self._policies[kind] if policy.fits_queue(name, type)), None)
            for kind in KINDS
        )
        return user, operator

    def match_exchange(self, name: str) -> tuple[Policy | None, Policy | None]:
        """The policy and the operator policy that hold for an exchange."""
        user, operator = (
            next((policy for policy in self._policies[kind] if policy.fits_exchange(name)), None)
            for kind in KINDS
        )
        return user, operator


class Governed:
    """A queue or an exchange, for which policies may hold."""

    __slots__ = ("operator_policy", "policy")

    def __init__(self) -> None:
        self.policy: Policy | None = None
        self.operator_policy: Policy | None = None

    @property
    def effective_policy_definition(self) -> Definition | None:
        """What the policies that hold for it say together; None without any."""
        return merge_operator(
            None if self.policy is None else self.policy.definition,
            None if self.operator_policy is None else self.operator_policy.definition,
        )

    def govern(self, policies: tuple[Policy | None, Policy | None]) -> bool:
        """These hold from now on; whether that is a change."""
        if policies == (self.policy, self.operator_policy):
            return False
        self.policy, self.operator_policy = policies
        return True


class PolicyComponent:
    """Policies of one kind, as runtime parameters."""

    def __init__(self, kind: Kind, broker: Broker) -> None:
        self.name = kind
        self._kind: Kind = kind
        self._broker = broker
        self._fields = (
            Field("priority", check_number),
            Field("pattern", check_pattern),
            Field("apply-to", _check_apply_to, mandatory=False),
            Field("definition", self._check_definition),
        )

    def check(self, name: str, value: Any) -> list[str]:
        """What is wrong with it, everything at once."""
        return check_object(name, self._fields, value)

    def _check_definition(self, _: str, definition: Any) -> list[str]:
        return check_definition(self._kind, self._broker.config.compat, definition)

    def changed(self, vhost: str, name: str, value: Any, by: str) -> None:
        """Apply it."""
        if "ha-mode" in value["definition"]:
            self._broker.warn_once(
                "classic_queue_mirroring",
                f"policy '{name}' asks for mirrored classic queues, which RabbitMQ 4.0 no longer"
                " has: here there is one broker, and nothing to mirror to",
            )
        virtual_host = self._broker.virtual_hosts[vhost]
        virtual_host.policies.put(self._kind, make_policy(vhost, name, value))
        changed = virtual_host.apply_policies()
        self._tell_queues("queue.policy.updated", vhost, changed, by, value)
        self._broker.events.emit("policy.set", {"name": name, "vhost": vhost, **value}, by)

    def cleared(self, vhost: str, name: str, by: str) -> None:
        """Take back what it did."""
        virtual_host = self._broker.virtual_hosts[vhost]
        virtual_host.policies.drop(self._kind, name)
        changed = virtual_host.apply_policies()
        self._tell_queues("queue.policy.cleared", vhost, changed, by, {})
        key = f"{self._kind.replace('_', '.')}.cleared"
        self._broker.events.emit(key, {"name": name, "vhost": vhost}, by)

    def _tell_queues(
        self, key: str, vhost: str, queues: list[Queue], by: str, value: dict[str, Any]
    ) -> None:
        """Events of the queues for which another policy holds now; `value` is the one that was set,
        whichever it is that holds (as in RabbitMQ)."""
        if self._broker.events.wanted:
            for queue in queues:
                kind = f"rabbit_{queue.type}_queue"
                told = {"name": queue.name, "vhost": vhost, "type": kind, **value}
                self._broker.events.emit(key, told, by)


def make_policy(vhost: str, name: str, value: dict[str, Any]) -> Policy:
    """The policy that a parameter's checked value describes."""
    return Policy(
        name=name,
        vhost=vhost,
        pattern=value["pattern"],
        apply_to=value.get("apply-to", "all"),
        priority=value["priority"],
        definition=value["definition"],
        regex=compile_name_pattern(value["pattern"]),
    )


def _check_apply_to(name: str, value: Any) -> list[str]:
    if value in APPLY_TO:
        return []
    shown = value if isinstance(value, str) else term(value)
    return [
        f"{name} '{shown}' unrecognised; should be one of: 'queues', 'classic_queues', "
        " 'quorum_queues', 'streams', 'exchanges', or 'all'"
    ]


# -- for those who administer a broker


def set_policy(
    broker: Broker,
    vhost: str,
    name: str,
    *,
    pattern: Any,
    definition: Any,
    priority: Any = 0,
    apply_to: Any = "all",
    kind: Kind = "policy",
    by: str = INTERNAL_USER,
) -> bool:
    """Set a policy or operator policy; whether it is a new one.

    Values are as JSON has them: what is wrong with any is told by InvalidParameter, all at once.
    Raises NoSuchVhost.
    """
    value = {
        "pattern": pattern,
        "definition": definition,
        "priority": priority,
        "apply-to": apply_to,
    }
    return broker.parameters.set_any(vhost, kind, name, value, by=by)


def clear_policy(
    broker: Broker, vhost: str, name: str, *, kind: Kind = "policy", by: str = INTERNAL_USER
) -> None:
    """Clear a policy or operator policy. Raises NoSuchParameter."""
    broker.parameters.clear_any(vhost, kind, name, by=by)


def policies(broker: Broker, vhost: str | None = None, *, kind: Kind = "policy") -> list[Policy]:
    """The policies of a virtual host, or of all, the strongest first within each.

    A virtual host that does not exist has none.
    """
    hosts: Iterable[str] = broker.virtual_hosts if vhost is None else (vhost,)
    return [
        policy
        for name in hosts
        if name in broker.virtual_hosts
        for policy in broker.virtual_hosts[name].policies.of_kind(kind)
    ]
