"""Applying a definitions file to a broker: what is missing is added, nothing is deleted.

Users and permissions of the file replace those of the same name; an exchange or queue that is
there already stays as it is, as in RabbitMQ. Nothing reaches the store before all of it was
accepted: the broker does not start otherwise.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from amqpd.broker.broker import Broker
from amqpd.broker.definitions import PermissionRecord, TopicPermissionRecord
from amqpd.broker.handlers.exchange import check_type_arguments, is_known_type
from amqpd.broker.passwords import SALT_BYTES, SHA256, hash_password
from amqpd.broker.queue import Queue
from amqpd.broker.queue_arguments import check_arguments, check_properties
from amqpd.broker.virtual_host import VirtualHost
from amqpd.commands import Field
from amqpd.errors import AMQPException
from amqpd.runtime.definitions_file import (
    BindingDefinition,
    DefinitionsError,
    DefinitionsFile,
    ExchangeDefinition,
    QueueDefinition,
    UserDefinition,
)
from amqpd_exchanges.exchange import InvalidBinding

NO_TYPE: Final[Field] = ("V", None)
NOT_OFFERED: Final = ("stream",)
"""RabbitMQ's queue types that are right, but not to be had here yet."""


class DefinitionsImport:
    """One import. `source_name` is what refusals call the file."""

    def __init__(self, broker: Broker, source_name: str) -> None:
        self._broker = broker
        self._source_name = source_name
        self._left_out: set[tuple[str, str]] = set()
        """Virtual host and name of queues that cannot be made here."""
        self.warnings: list[str] = []
        """What was left out, a line each."""

    def apply(self, file: DefinitionsFile) -> None:
        """Raises DefinitionsError with the path in the JSON of what cannot be applied."""
        for vhost in file.vhosts:
            self._broker.add_virtual_host(vhost)
            if vhost.default_queue_type not in (None, "classic"):
                self._broker.warn_once(
                    "default_queue_type",
                    f"vhost '{vhost.name}' makes queues of type {vhost.default_queue_type} by"
                    " default: this version makes classic ones",
                )
        for index, user in enumerate(file.users):
            with self._at(f"$.users[{index}]"):
                self._user(user)
        for index, permission in enumerate(file.permissions):
            with self._at(f"$.permissions[{index}]"):
                self._permission(permission)
        for index, topic_permission in enumerate(file.topic_permissions):
            with self._at(f"$.topic_permissions[{index}]"):
                self._topic_permission(topic_permission)
        for index, exchange in enumerate(file.exchanges):
            with self._at(f"$.exchanges[{index}]"):
                self._exchange(exchange)
        for index, queue in enumerate(file.queues):
            path = f"$.queues[{index}]"
            with self._at(path):
                self._queue(queue, path)
        for index, binding in enumerate(file.bindings):
            with self._at(f"$.bindings[{index}]"):
                self._binding(binding)

    @contextmanager
    def _at(self, path: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, LookupError) as error:
            problem = str(error.args[0]) if error.args else str(error)
            raise DefinitionsError(path, problem, self._source_name) from error
        except AMQPException as refusal:
            raise DefinitionsError(path, refusal.explanation, self._source_name) from refusal

    def _user(self, user: UserDefinition) -> None:
        password_hash, algorithm = user.password_hash, user.hashing_algorithm
        if user.password is not None:
            algorithm = SHA256
            password_hash = hash_password(user.password, secrets.token_bytes(SALT_BYTES))
        access = self._broker.access
        self._broker.journal(access.put_user(user.name, password_hash, algorithm, user.tags))

    def _permission(self, row: PermissionRecord) -> None:
        self._virtual_host(row.vhost)
        access = self._broker.access
        entries = access.put_permission(row.user, row.vhost, row.configure, row.write, row.read)
        self._broker.journal(entries)

    def _topic_permission(self, row: TopicPermissionRecord) -> None:
        self._virtual_host(row.vhost)
        access = self._broker.access
        self._broker.journal(
            access.put_topic_permission(row.user, row.vhost, row.exchange, row.write, row.read)
        )

    def _exchange(self, exchange: ExchangeDefinition) -> None:
        virtual_host = self._virtual_host(exchange.vhost)
        if not is_known_type(exchange.type, self._broker.config.compat):
            raise ValueError(f"unknown exchange type '{exchange.type}'")
        if exchange.name not in virtual_host.exchanges:
            check_type_arguments(exchange.type, exchange.arguments, self._broker.limits)
            virtual_host.declare_exchange(
                exchange.name,
                exchange.type,
                durable=exchange.durable,
                auto_delete=exchange.auto_delete,
                internal=exchange.internal,
                arguments=exchange.arguments,
            )

    def _queue(self, queue: QueueDefinition, path: str) -> None:
        virtual_host = self._virtual_host(queue.vhost)
        if queue.name in virtual_host.queues:
            return
        kind = queue.arguments.get("x-queue-type", NO_TYPE)[1]
        if kind in NOT_OFFERED:
            # Made as a classic queue it would stand in the way of the real one later.
            self._left_out.add((queue.vhost, queue.name))
            self.warnings.append(
                f"{path}: queue '{queue.name}' in vhost '{queue.vhost}' is left out with its "
                f"bindings: this version has no {kind} queues"
            )
            return
        resource = f"queue '{queue.name}' in vhost '{queue.vhost}'"
        check_arguments(queue.arguments, resource, (50, 10), self._broker.config.compat)
        check_properties(
            queue.arguments,
            resource,
            (50, 10),
            durable=queue.durable,
            exclusive=False,
            auto_delete=queue.auto_delete,
        )
        virtual_host.declare_queue(
            queue.name,
            durable=queue.durable,
            auto_delete=queue.auto_delete,
            arguments=queue.arguments,
        )

    def _binding(self, binding: BindingDefinition) -> None:
        virtual_host = self._virtual_host(binding.vhost)
        destination = (binding.vhost, binding.destination)
        if binding.destination_type == "queue" and destination in self._left_out:
            return
        if not binding.source:
            return  # every queue is bound to the default exchange already
        source = virtual_host.exchanges.get(binding.source)
        if source is None:
            raise LookupError(f"no exchange '{binding.source}' in vhost '{binding.vhost}'")
        bound = virtual_host.destination(binding.destination_type, binding.destination)
        if bound is None:
            kind, name = binding.destination_type, binding.destination
            raise LookupError(f"no {kind} '{name}' in vhost '{binding.vhost}'")
        end = bound if isinstance(bound, Queue) else bound.table
        try:
            source.table.validate(end, binding.routing_key, binding.arguments)
            virtual_host.bind(source, bound, binding.routing_key, binding.arguments)
        except InvalidBinding as problem:
            raise ValueError(str(problem)) from problem

    def _virtual_host(self, name: str) -> VirtualHost:
        virtual_host = self._broker.virtual_hosts.get(name)
        if virtual_host is None:
            raise LookupError(f"no vhost '{name}'")
        return virtual_host
