"""What exchanges, queues and bindings of a definitions file would come to, without making them.

They are made on a scratch broker, by the code that makes the real ones. Of the real broker it gets
only what the file touches: names that are there already, and the ends of bindings.
"""

from __future__ import annotations

from typing import Final

from amqpd.broker.broker import Broker
from amqpd.broker.definitions import VhostRecord
from amqpd.broker.exchange import BrokerExchange
from amqpd.broker.queue import Queue
from amqpd.broker.virtual_host import VirtualHost
from amqpd.runtime.definitions_file import BindingDefinition, ExchangeDefinition, QueueDefinition
from amqpd_exchanges.exchange import InvalidBinding

CREATED: Final = True
THERE: Final = False


class Rehearsal:
    """A scratch broker in front of the real one."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._scratch = Broker(broker.config, journaling=False, entropy=bytes)

    def add_vhost(self, name: str) -> None:
        """The file has a virtual host of that name."""
        self._scratch.add_virtual_host(VhostRecord(name))

    def has_vhost(self, name: str) -> bool:
        """Whether it is there, or will be."""
        return name in self._broker.virtual_hosts or name in self._scratch.virtual_hosts

    def exchange(self, exchange: ExchangeDefinition) -> bool:
        """CREATED, or THERE if there is one of that name."""
        if self._find_exchange(exchange.vhost, exchange.name) is not None:
            return THERE
        self._home(exchange.vhost).declare_exchange(
            exchange.name,
            exchange.type,
            durable=exchange.durable,
            auto_delete=exchange.auto_delete,
            internal=exchange.internal,
            arguments=exchange.arguments,
        )
        return CREATED

    def queue(self, queue: QueueDefinition) -> bool:
        """CREATED, or THERE if there is one of that name."""
        if self._find_queue(queue.vhost, queue.name) is not None:
            return THERE
        self._add_queue(queue.vhost, queue.name)
        return CREATED

    def binding(self, binding: BindingDefinition) -> bool:
        """CREATED, or THERE if there is the same one.

        Raises LookupError if an end of it is missing, ValueError for what its source refuses.
        """
        vhost = binding.vhost
        source = self._find_exchange(vhost, binding.source)
        if source is None:
            raise LookupError(f"no exchange '{binding.source}' in vhost '{vhost}'")
        find = self._find_queue if binding.destination_type == "queue" else self._find_exchange
        end = find(vhost, binding.destination)
        if end is None:
            kind, name = binding.destination_type, binding.destination
            raise LookupError(f"no {kind} '{name}' in vhost '{vhost}'")
        routing_key, arguments = binding.routing_key, binding.arguments
        home = self._home(vhost)
        if home.is_bound(source.name, end, routing_key, arguments):
            return THERE
        try:
            home.bind(source, end, routing_key, arguments)
        except InvalidBinding as problem:
            raise ValueError(str(problem)) from problem
        return THERE if self._is_bound(binding) else CREATED

    def _is_bound(self, binding: BindingDefinition) -> bool:
        real = self._broker.virtual_hosts.get(binding.vhost)
        if real is None:
            return False
        end = real.destination(binding.destination_type, binding.destination)
        if end is None:
            return False
        return real.is_bound(binding.source, end, binding.routing_key, binding.arguments)

    def _home(self, vhost: str) -> VirtualHost:
        return self._scratch.add_virtual_host(VhostRecord(vhost))

    def _find_exchange(self, vhost: str, name: str) -> BrokerExchange | None:
        home = self._home(vhost)
        real = self._broker.virtual_hosts.get(vhost)
        if name not in home.exchanges and real is not None and name in real.exchanges:
            there = real.exchanges[name]
            home.declare_exchange(
                name,
                there.type,
                durable=there.durable,
                auto_delete=False,
                internal=there.internal,
                arguments=there.arguments,
            )
        return home.exchanges.get(name)

    def _find_queue(self, vhost: str, name: str) -> Queue | None:
        home = self._home(vhost)
        real = self._broker.virtual_hosts.get(vhost)
        if name not in home.queues and real is not None and name in real.queues:
            self._add_queue(vhost, name)
        return home.queues.get(name)

    def _add_queue(self, vhost: str, name: str) -> None:
        # Whatever its arguments, it is the same to bindings.
        self._home(vhost).declare_queue(name, durable=False, auto_delete=False, arguments={})
