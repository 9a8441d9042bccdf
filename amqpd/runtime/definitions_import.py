"""Applying definitions to a broker: what is missing is added, nothing is deleted.

    importing = DefinitionsImport(broker, file, "definitions.json")
    changes = importing.check()      everything that would change; raises for what is wrong
    importing.apply()                all of it

All of a file is looked at before anything changes, so an import happens wholly or not at all, also
over a broker that runs; and what one turn changes reaches the store in one transaction.

Users, virtual hosts, permissions, parameters and policies of the file replace those of the same
name. An exchange or queue that is there already stays as it is, as in RabbitMQ. The order is
RabbitMQ's, so policies hold for queues from their beginning.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal, NamedTuple

from amqpd.broker import administration
from amqpd.broker.broker import Broker
from amqpd.broker.definitions import (
    PermissionRecord,
    TopicPermissionRecord,
    UserRecord,
    VhostRecord,
)
from amqpd.broker.events import INTERNAL_USER
from amqpd.broker.handlers.exchange import check_type_arguments, is_known_type
from amqpd.broker.parameters import POLICY, InvalidParameter
from amqpd.broker.passwords import SALT_BYTES, SHA256, hash_password
from amqpd.broker.policies import set_policy
from amqpd.broker.queue_arguments import check_arguments, check_properties
from amqpd.commands import Field
from amqpd.errors import AMQPException
from amqpd.runtime.definitions_file import (
    BindingDefinition,
    DefinitionsError,
    DefinitionsFile,
    ExchangeDefinition,
    ParameterDefinition,
    PolicyDefinition,
    QueueDefinition,
    UserDefinition,
)
from amqpd.runtime.definitions_rehearsal import Rehearsal
from amqpd_exchanges.delayed import unknown_kind

NO_TYPE: Final[Field] = ("V", None)
DECLARE: Final = (50, 10)
NOT_OFFERED: Final = ("stream",)
"""RabbitMQ's queue types that are right, but not to be had here yet."""
NO_COMPONENT: Final = ("federation-upstream", "federation-upstream-set")
"""RabbitMQ's components of parameters that may be missing here."""

Action = Literal["create", "update"]


class Change(NamedTuple):
    """One thing that an import makes or changes."""

    action: Action
    what: str
    """`queue 'q' in vhost '/'`."""
    path: str
    """Where the file says so: `$.queues[3]`."""

    def __str__(self) -> str:
        return f"{self.action} {self.what}"


class DefinitionsImport:
    """One import. `source_name` is what refusals call the file, `by` the user who wants it."""

    def __init__(
        self, broker: Broker, file: DefinitionsFile, source_name: str, by: str = INTERNAL_USER
    ) -> None:
        self._broker = broker
        self._file = file
        self._source_name = source_name
        self._by = by
        self._steps: list[tuple[Change, Callable[[], object]]] = []
        self._rehearsal = Rehearsal(broker)
        self._users = {user.name for user in file.users}
        self._left_out: set[tuple[str, str]] = set()
        """Virtual host and name of queues that cannot be made here."""
        self.warnings: list[str] = list(file.warnings)
        """What was left out, a line each."""

    def check(self) -> list[Change]:
        """What the import would change; the broker stays as it is. To be called once.

        Raises DefinitionsError with the path in the JSON of the first thing that is wrong.
        """
        file = self._file
        for index, user in enumerate(file.users):
            self._user(user, f"$.users[{index}]")
        for index, vhost in enumerate(file.vhosts):
            self._vhost(vhost, f"$.vhosts[{index}]")
        for index, permission in enumerate(file.permissions):
            self._permission(permission, f"$.permissions[{index}]")
        for index, topic_permission in enumerate(file.topic_permissions):
            self._topic_permission(topic_permission, f"$.topic_permissions[{index}]")
        for index, parameter in enumerate(file.parameters):
            self._parameter(parameter, f"$.parameters[{index}]")
        self._global_parameters()
        for index, policy in enumerate(file.policies):
            self._policy(policy, f"$.policies[{index}]")
        self._require_parameter_room()
        for index, exchange in enumerate(file.exchanges):
            self._exchange(exchange, f"$.exchanges[{index}]")
        for index, queue in enumerate(file.queues):
            self._queue(queue, f"$.queues[{index}]")
        self._require_queue_room()
        for index, binding in enumerate(file.bindings):
            self._binding(binding, f"$.bindings[{index}]")
        return self.changes

    @property
    def changes(self) -> list[Change]:
        """What `check` found."""
        return [change for change, _ in self._steps]

    def apply(self) -> list[Change]:
        """Check everything, then change everything; what was changed. Raises as `check`."""
        self.check()
        for _, change in self._steps:
            change()
        return self.changes

    # -- checks, each with what is to be done

    def _step(self, new: bool, what: str, path: str, do: Callable[[], object]) -> None:
        self._steps.append((Change("create" if new else "update", what, path), do))

    @contextmanager
    def _at(self, path: str) -> Iterator[None]:
        try:
            yield
        except InvalidParameter as error:
            raise DefinitionsError(path, "; ".join(error.problems), self._source_name) from error
        except (ValueError, LookupError) as error:
            problem = str(error.args[0]) if error.args else str(error)
            raise DefinitionsError(path, problem, self._source_name) from error
        except AMQPException as refusal:
            raise DefinitionsError(path, refusal.explanation, self._source_name) from refusal

    def _user(self, user: UserDefinition, path: str) -> None:
        password_hash, algorithm = user.password_hash, user.hashing_algorithm
        if user.password is not None:
            algorithm = SHA256
            password_hash = hash_password(user.password, secrets.token_bytes(SALT_BYTES))
        there = self._broker.access.user(user.name)
        limits = user.limits
        if limits is None:
            limits = {} if there is None else there.limits
        if there == UserRecord(user.name, password_hash, algorithm, user.tags, limits):
            return
        put = partial(
            administration.put_user,
            *(self._broker, user.name, password_hash, algorithm, user.tags),
            limits=limits,
            by=self._by,
        )
        self._step(there is None, f"user '{user.name}'", path, put)

    def _vhost(self, vhost: VhostRecord, path: str) -> None:
        self._rehearsal.add_vhost(vhost.name)
        with self._at(f"{path}.default_queue_type"):
            administration.check_queue_type(vhost.default_queue_type)
        there = self._broker.virtual_hosts.get(vhost.name)
        if there is not None and there.record == vhost:
            return
        put = partial(administration.put_vhost, self._broker, vhost, by=self._by)
        self._step(there is None, f"vhost '{vhost.name}'", path, put)

    def _permission(self, row: PermissionRecord, path: str) -> None:
        self._require_user(row.user, path)
        self._require_vhost(row.vhost, path)
        access = self._broker.access
        there = access.permission(row.user, row.vhost)
        if there == row:
            return

        def put() -> None:
            entries = access.put_permission(
                *(row.user, row.vhost, row.configure, row.write, row.read), by=self._by
            )
            self._broker.journal(entries)

        what = f"permission of user '{row.user}' in vhost '{row.vhost}'"
        self._step(there is None, what, path, put)

    def _topic_permission(self, row: TopicPermissionRecord, path: str) -> None:
        self._require_user(row.user, path)
        self._require_vhost(row.vhost, path)
        access = self._broker.access
        there = access.topic_permission(row.user, row.vhost, row.exchange)
        if there == row:
            return

        def put() -> None:
            entries = access.put_topic_permission(
                *(row.user, row.vhost, row.exchange, row.write, row.read), by=self._by
            )
            self._broker.journal(entries)

        what = f"topic permission of user '{row.user}' on '{row.exchange}' in vhost '{row.vhost}'"
        self._step(there is None, what, path, put)

    def _parameter(self, row: ParameterDefinition, path: str) -> None:
        self._require_vhost(row.vhost, path)
        parameters = self._broker.parameters
        what = f"parameter '{row.name}' of {row.component} in vhost '{row.vhost}'"
        if row.component in NO_COMPONENT and not parameters.has(row.component):
            self.warnings.append(f"{path}: {what} is left out: this version has no such thing")
            return
        if row.component == POLICY:
            raise DefinitionsError(
                f"{path}.component", "policies stand in `policies`", self._source_name
            )
        with self._at(path if parameters.has(row.component) else f"{path}.component"):
            parameters.check(row.component, row.name, row.value)
        there = parameters.value(row.vhost, row.component, row.name)
        if there != row.value:
            put = partial(
                parameters.set, row.vhost, row.component, row.name, row.value, by=self._by
            )
            self._step(there is None, what, path, put)

    def _global_parameters(self) -> None:
        parameters = self._broker.parameters
        for index, row in enumerate(self._file.global_parameters):
            path = f"$.global_parameters[{index}]"
            with self._at(f"{path}.value"):
                parameters.check_size(row.value)
            there = parameters.global_value(row.name)
            if there != row.value:
                put = partial(parameters.set_global, row.name, row.value, by=self._by)
                self._step(there is None, f"global parameter '{row.name}'", path, put)

    def _policy(self, row: PolicyDefinition, path: str) -> None:
        self._require_vhost(row.vhost, path)
        parameters = self._broker.parameters
        value = {
            "pattern": row.pattern,
            "definition": row.definition,
            "priority": row.priority,
            "apply-to": row.apply_to,
        }
        right = {"pattern": "", "definition": {"max-length": 1}, "priority": 0, "apply-to": "all"}
        for name, field in value.items():
            with self._at(f"{path}.{name}"):
                parameters.check(POLICY, row.name, {**right, name: field})
        there = parameters.value(row.vhost, POLICY, row.name)
        if there == value:
            return
        put = partial(
            set_policy,
            *(self._broker, row.vhost, row.name),
            pattern=row.pattern,
            definition=row.definition,
            priority=row.priority,
            apply_to=row.apply_to,
            by=self._by,
        )
        self._step(there is None, f"policy '{row.name}' in vhost '{row.vhost}'", path, put)

    def _require_parameter_room(self) -> None:
        parameters = self._broker.parameters
        with self._at("$.parameters"):
            parameters.require_room(self._new("parameters") + self._new("policies"))
        with self._at("$.global_parameters"):
            parameters.require_global_room(self._new("global_parameters"))

    def _new(self, section: str) -> int:
        return sum(
            change.action == "create" and change.path.startswith(f"$.{section}[")
            for change in self.changes
        )

    def _exchange(self, row: ExchangeDefinition, path: str) -> None:
        self._require_vhost(row.vhost, path)
        if not is_known_type(row.type, self._broker.config.compat):
            raise DefinitionsError(f"{path}.type", unknown_kind(row.type), self._source_name)
        with self._at(f"{path}.arguments"):
            check_type_arguments(row.type, row.arguments, self._broker.config)
            if not self._rehearsal.exchange(row):
                return

        def declare() -> None:
            self._broker.virtual_hosts[row.vhost].declare_exchange(
                row.name,
                row.type,
                durable=row.durable,
                auto_delete=row.auto_delete,
                internal=row.internal,
                arguments=row.arguments,
                user=self._by,
            )

        self._step(True, f"exchange '{row.name}' in vhost '{row.vhost}'", path, declare)

    def _queue(self, row: QueueDefinition, path: str) -> None:
        self._require_vhost(row.vhost, path)
        resource = f"queue '{row.name}' in vhost '{row.vhost}'"
        kind = row.arguments.get("x-queue-type", NO_TYPE)[1]
        if kind in NOT_OFFERED:
            # Made as a classic queue it would stand in the way of the real one later.
            self._left_out.add((row.vhost, row.name))
            self.warnings.append(
                f"{path}: {resource} is left out with its bindings: this version has no {kind}"
                " queues"
            )
            return
        with self._at(f"{path}.arguments"):
            check_arguments(row.arguments, resource, DECLARE, self._broker.config.compat)
        with self._at(path):
            check_properties(
                row.arguments,
                resource,
                DECLARE,
                durable=row.durable,
                exclusive=False,
                auto_delete=row.auto_delete,
            )
        if not self._rehearsal.queue(row):
            return

        def declare() -> None:
            self._broker.virtual_hosts[row.vhost].declare_queue(
                row.name,
                durable=row.durable,
                auto_delete=row.auto_delete,
                arguments=row.arguments,
                user=self._by,
            )

        self._step(True, resource, path, declare)

    def _require_queue_room(self) -> None:
        """Limits that hold before the import are for its queues too, in RabbitMQ's words."""
        news = Counter(
            self._file.queues[int(change.path[len("$.queues[") : -1])].vhost
            for change in self.changes
            if change.path.startswith("$.queues[")
        )
        for vhost, count in news.items():
            home = self._broker.virtual_hosts.get(vhost)
            most = -1 if home is None else home.limits.get("max-queues", -1)
            if home is not None and 0 <= most < count + len(home.queues):
                problem = (
                    f'Adding {count} queue(s) to virtual host "{vhost}" would exceed the limit of'
                    f" {most} queue(s). This virtual host currently has {len(home.queues)}"
                    " queue(s) defined. Import aborted!"
                )
                raise DefinitionsError("$.queues", problem, self._source_name)

    def _binding(self, row: BindingDefinition, path: str) -> None:
        self._require_vhost(row.vhost, path)
        if row.destination_type == "queue" and (row.vhost, row.destination) in self._left_out:
            return
        if not row.source:
            return  # every queue is bound to the default exchange already
        with self._at(path):
            if not self._rehearsal.binding(row):
                return

        def bind() -> None:
            home = self._broker.virtual_hosts[row.vhost]
            end = home.destination(row.destination_type, row.destination)
            assert end is not None
            source = home.exchanges[row.source]
            home.bind(source, end, row.routing_key, row.arguments, user=self._by)

        what = f"binding from '{row.source}' to {row.destination_type} '{row.destination}'"
        what += f" by '{row.routing_key}' in vhost '{row.vhost}'"
        self._step(True, what, path, bind)

    def _require_vhost(self, name: str, path: str) -> None:
        if not self._rehearsal.has_vhost(name):
            raise DefinitionsError(f"{path}.vhost", f"no vhost '{name}'", self._source_name)

    def _require_user(self, name: str, path: str) -> None:
        if self._broker.access.user(name) is None and name not in self._users:
            problem = f"user '{name}' does not exist"
            raise DefinitionsError(f"{path}.user", problem, self._source_name)
