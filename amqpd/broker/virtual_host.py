"""A virtual host: its exchanges, queues and bindings, and what of them is durable.

It does what was decided; who may do it, and what to answer, is for `handlers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from amqpd.broker import definitions
from amqpd.broker.binding_sweep import BindingSweep
from amqpd.broker.counts import Counts
from amqpd.broker.deduplication import Deduplication
from amqpd.broker.definitions import BindingRecord, ExchangeRecord, QueueRecord, VhostRecord
from amqpd.broker.delayed import DelayedMessages
from amqpd.broker.events import EVENT_EXCHANGE, INTERNAL_USER, Properties, terms
from amqpd.broker.exchange import BrokerExchange
from amqpd.broker.exchange_memory import ExchangeMemory
from amqpd.broker.firehose import Firehose
from amqpd.broker.policies import PolicyTable
from amqpd.broker.priority_queue import PriorityQueue
from amqpd.broker.queue import Queue, QueueDeclaration
from amqpd.broker.queue_arguments import QUORUM, queue_type
from amqpd.broker.quorum import QuorumQueue
from amqpd.broker.recent_history import RecentHistory
from amqpd.broker.version import Version
from amqpd.commands import Arguments, Field
from amqpd.wire.tables import encode_table
from amqpd_exchanges.deduplication import DeduplicationExchange
from amqpd_exchanges.delayed import DELAYED_TYPE, DelayedExchange
from amqpd_exchanges.exchange import Binding, binding_identity
from amqpd_exchanges.exchange import Exchange as RoutingTable
from amqpd_exchanges.recent_history import RecentHistoryExchange
from amqpd_exchanges.router import UNBOUND_AT_ONCE, Router
from amqpd_exchanges.shrinking import shrink

if TYPE_CHECKING:
    from amqpd.broker.access import Access
    from amqpd.broker.broker import Broker
    from amqpd.broker.session import Session

PREDECLARED: Final = (
    ("amq.direct", "direct", False),
    ("amq.fanout", "fanout", False),
    ("amq.topic", "topic", False),
    ("amq.headers", "headers", False),
    ("amq.match", "headers", False),
    ("amq.rabbitmq.trace", "topic", True),
)
"""Name, type, internal. They are durable, and there whether the store knows them or not."""
CLASSIC: Final[Field] = ("S", "classic")


ROUTER_SEED_OCTETS: Final = 8


class VirtualHost:
    """One name space of exchanges and queues."""

    def __init__(self, record: VhostRecord, broker: Broker) -> None:
        self.name = name = record.name
        self.record = record
        """Description, tags, and the type of queues that are declared without one."""
        self.limits: dict[str, int] = {}
        """See `amqpd.broker.limits`."""
        self.broker = broker
        self.effects = broker.effects
        self.events = broker.events
        self.access: Access = broker.access
        self._access_version: Version = broker.access.version
        seed = int.from_bytes(broker.random_octets(ROUTER_SEED_OCTETS), "little")
        self.router: Router[Queue] = Router(broker.limits.route_cache_max, seed)
        self._sweep = BindingSweep(self.router, broker.effects)
        self.policies = PolicyTable()
        self.exchanges: dict[str, BrokerExchange] = {}
        self.queues: dict[str, Queue] = {}
        self.quorum_queues = 0
        """Queues that keep transient messages on disk, too: their confirms may have to wait."""
        self.received_bytes = self.sent_bytes = 0
        """Octets of connections that are gone; the runtime counts them."""
        self.counts = Counts()
        """What channels that are gone have counted."""
        self.firehose: Firehose | None = None
        """Copies messages while the virtual host is traced."""
        self.refusing_queues = 0
        """Queues that refuse what they have no room for, or have already: publishing asks them
        first. (One that does both counts twice.)"""
        default = self.router.find("")
        assert default is not None
        self.exchanges[""] = _predeclared("", "direct", default, False)
        predeclared: tuple[tuple[str, str, bool], ...] = PREDECLARED
        if name == broker.event_vhost:
            predeclared += ((EVENT_EXCHANGE, "topic", True),)
        for exchange_name, type, internal in predeclared:
            table = self.router.declare(exchange_name, type)
            self.exchanges[exchange_name] = _predeclared(exchange_name, type, table, internal)

    @property
    def route_version(self) -> int:
        """Another one when a route may be: what a target keeps of its own is true no longer."""
        return self.router.version + self._access_version.number

    # -- tracing

    @property
    def tracing(self) -> bool:
        """Whether messages are copied to `amq.rabbitmq.trace`."""
        return self.firehose is not None

    def set_tracing(self, on: bool) -> None:
        """trace_on, trace_off; messages from the next one on. Off after a start, as in RabbitMQ."""
        if on == self.tracing:
            return
        self.firehose = firehose = Firehose(self) if on else None
        self.router.version += 1  # what targets know of routes would go past the firehose
        for session in self.broker.sessions:
            if session.virtual_host is self:
                for channel in session.channels.values():
                    for consumer in channel.consumers.values():
                        consumer.outlet = firehose.outlet(consumer) if firehose else channel.outlet

    # -- exchanges

    def declare_exchange(
        self,
        name: str,
        type: str,
        *,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Arguments,
        exchange_id: int = 0,
        journal: bool = True,
        user: str = INTERNAL_USER,
    ) -> BrokerExchange:
        """A new exchange, whose type has accepted the arguments. KeyError for an unknown type.

        `journal` is false while recovering; `exchange_id` is then what the store says.
        """
        alternate = arguments.get("alternate-exchange")
        table = self.router.declare(name, type, alternate[1] if alternate else None, arguments)
        exchange = BrokerExchange(
            name,
            type,
            table,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
            memory=self._memory(name, type, arguments, durable),
            exchange_id=exchange_id,
        )
        if isinstance(table, DelayedExchange):
            if journal and durable and self.effects.journaling:
                exchange.exchange_id = self.broker.next_exchange_id()
            exchange.waiting_room = room = DelayedMessages(self, exchange)
            destination: Any = room  # to the router a queue like any other
            table.waiting_room = destination
        self.exchanges[name] = exchange
        self._govern_exchange(exchange)
        if journal and durable and self.effects.journaling:
            self.effects.define(definitions.encode(self._exchange_record(exchange)))
        self.tell_created(exchange, user)
        return exchange

    def tell_created(self, exchange: BrokerExchange, user: str) -> None:
        """exchange.created, for whoever listens."""
        if self.events.wanted:
            properties = {
                "vhost": self.name,
                "name": exchange.name,
                "type": exchange.type,
                "durable": exchange.durable,
                "auto_delete": exchange.auto_delete,
                "internal": exchange.internal,
                "arguments": terms(exchange.arguments),
                "policy": "",
            }
            self.events.emit("exchange.created", properties, user)

    def _memory(
        self, name: str, type: str, arguments: Arguments, durable: bool
    ) -> ExchangeMemory | None:
        if type == DelayedExchange.kind:
            type = arguments[DELAYED_TYPE][1]
        if type == DeduplicationExchange.kind:
            return Deduplication(self, name, arguments, durable=durable)
        if type == RecentHistoryExchange.kind:
            return RecentHistory(self, name, arguments, durable=durable)
        return None

    def delete_exchange(self, exchange: BrokerExchange, user: str = INTERNAL_USER) -> None:
        """The exchange goes with its bindings; auto-delete exchanges that fed it may go too."""
        self._delete_unused(_sources(self._remove_exchange(exchange, user)))

    def _remove_exchange(
        self, exchange: BrokerExchange, user: str = INTERNAL_USER
    ) -> list[Binding[Queue]]:
        """Forget the exchange and its bindings; which they were."""
        del self.exchanges[exchange.name]
        removed = self.router.delete(exchange.name)
        if exchange.waiting_room is not None:
            self.broker.timers.forget(exchange.waiting_room)
            exchange.waiting_room.drop()
        # The journal hears of the bindings while both ends of them still have their durability.
        self._journal_end_of_exchange(exchange, removed)
        if exchange.memory is not None:
            exchange.memory.drop()
        if exchange.durable and self.effects.journaling:
            self.effects.define(definitions.drop(self._exchange_record(exchange)))
        if exchange.federated:
            self.broker.federation.exchange_deleted(self, exchange)
        self.events.emit("exchange.deleted", {"vhost": self.name, "name": exchange.name}, user)
        self._tell_unbound(removed, user)
        return removed

    def keep_event_exchange(self) -> None:
        """The store has a binding of `amq.rabbitmq.event` here: where it was bound it stays, as in
        RabbitMQ, though another virtual host may have the events now."""
        if EVENT_EXCHANGE not in self.exchanges:
            self.declare_exchange(
                EVENT_EXCHANGE,
                "topic",
                durable=True,
                auto_delete=False,
                internal=True,
                arguments={},
                journal=False,
            )

    # -- queues

    def declare_queue(
        self,
        name: str,
        *,
        durable: bool,
        auto_delete: bool,
        arguments: Arguments,
        owner: Session | None = None,
        queue_id: int = 0,
        lanes: int = 0,
        user: str = INTERNAL_USER,
    ) -> Queue:
        """A new queue. `queue_id` and `lanes` are given while recovering; otherwise they are
        found."""
        journaled = durable and self.effects.journaling
        recovering = queue_id != 0
        class_ = queue_class(arguments)
        if not recovering:
            lanes = class_.levels_of(arguments, self.broker.config.compat)
            if journaled:
                queue_id, lanes = self.broker.queue_ids.take_lanes(lanes)
        queue = class_(
            self, QueueDeclaration(name, durable, auto_delete, arguments, owner, queue_id, lanes)
        )
        self.queues[name] = queue
        self.router.add_queue(name, queue)
        queue.use()
        self.refusing_queues += queue.can_refuse
        if queue.type == QUORUM:
            self.quorum_queues += 1
        self._govern_queue(queue)
        if owner is not None:
            owner.exclusive_queues[queue] = None
        if not recovering:
            self.broker.churn.queue_created += 1
        if journaled and not recovering:
            self.effects.define(definitions.encode(self._queue_record(queue)))
        if self.events.wanted:
            properties = {
                "vhost": self.name,
                "name": name,
                "durable": durable,
                "auto_delete": auto_delete,
                "arguments": terms(arguments),
                "owner_pid": owner.origin.pid if owner is not None else "",
                "exclusive": owner is not None,
                "type": f"rabbit_{arguments.get('x-queue-type', CLASSIC)[1]}_queue",
            }
            self.events.emit("queue.created", properties, user)
        return queue

    def delete_queue(
        self,
        queue: Queue,
        answer: Callable[[int], None] | None = None,
        user: str = INTERNAL_USER,
    ) -> None:
        """The queue goes with its messages and bindings.

        Who asked for it has its `answer`, with how many messages were ready, before any consumer
        hears that it has lost its queue.
        """
        del self.queues[queue.name]
        shrink(self.queues)
        self.broker.churn.queue_deleted += 1
        self.broker.timers.forget(queue)
        self.refusing_queues -= queue.can_refuse
        if queue.type == QUORUM:
            self.quorum_queues -= 1
        removed = self.router.remove_queue(queue.name, queue)
        self._sweep.begin()
        sources = _sources(removed)
        self._journal_end_of_queue(queue, removed, sources)
        if queue.consumers.touched is not None:
            self.broker.federation.queue_deleted(self, queue)
        count = queue.drop()
        if queue.durable and self.effects.journaling:
            self.effects.define(definitions.drop(self._queue_record(queue)))
            if not queue.is_long:
                for lane_id in queue.lane_ids:
                    self.broker.queue_ids.release(lane_id)
        if queue.owner is not None:
            queue.owner.exclusive_queues.pop(queue, None)
        for consumer in queue.consumers.members():
            consumer.channel.tell_consumer_gone(consumer)
        self._delete_unused(sources)
        self._tell_unbound(removed)
        self.events.emit("queue.deleted", {"vhost": self.name, "name": queue.name}, user)
        if answer is not None:
            answer(count)
        for consumer in queue.consumers.members():
            queue.consumers.remove(consumer)
            consumer.channel.consumer_lost(consumer)

    # -- bindings

    def destination(self, type: str, name: str) -> Queue | BrokerExchange | None:
        """What a binding leads to: `type` is queue or exchange."""
        return self.queues.get(name) if type == "queue" else self.exchanges.get(name)

    def bind(
        self,
        source: BrokerExchange,
        destination: Queue | BrokerExchange,
        routing_key: str,
        arguments: Arguments,
        *,
        journal: bool = True,
        user: str = INTERNAL_USER,
    ) -> None:
        """Add a binding, if it is not there. Raises InvalidBinding. `journal`: as above."""
        end = destination if isinstance(destination, Queue) else destination.table
        binding = self.router.bind(source.name, end, routing_key, arguments)
        if binding is None or not journal:
            return
        if source.federated:
            self.broker.federation.bound(self, source.name, routing_key, arguments)
        if self._durable(binding, None):
            self.effects.define(definitions.encode(self._binding_record(binding)))
        if self.events.wanted:
            self.events.emit("binding.created", self._told(binding), user)
        if isinstance(source.memory, RecentHistory):
            source.memory.replay(end)

    def is_bound(
        self,
        source: str,
        destination: Queue | BrokerExchange,
        routing_key: str,
        arguments: Arguments,
    ) -> bool:
        """Whether there is such a binding."""
        exchange = self.exchanges.get(source)
        if exchange is None:
            return False
        end = destination if isinstance(destination, Queue) else destination.table
        identity = binding_identity(exchange.table, end, routing_key, arguments)
        return exchange.table.binding(identity) is not None

    def unbind(
        self,
        source: str,
        destination: Queue | BrokerExchange,
        routing_key: str,
        arguments: Arguments,
        user: str = INTERNAL_USER,
    ) -> None:
        """Remove a binding, if it is there; its source may go with it."""
        end = destination if isinstance(destination, Queue) else destination.table
        binding = self.router.unbind(source, end, routing_key, arguments)
        if binding is not None:
            self._journal_unbindings([binding], None)
            self._tell_unbound([binding], user)
            self._delete_unused([source])

    def _delete_unused(self, sources: list[str]) -> None:
        """Auto-delete exchanges go when the last binding from them does: these have lost some.

        That may end the bindings to them, and so on: a chain as long as a peer has made it.
        """
        losing = list(sources)  # grows while it is walked
        for source in losing:
            exchange = self.exchanges.get(source)
            if exchange is not None and exchange.auto_delete and not exchange.table.bindings:
                losing += _sources(self._remove_exchange(exchange))

    def _tell_unbound(self, removed: list[Binding[Queue]], user: str = INTERNAL_USER) -> None:
        """Links hear of each, and binding.deleted goes to whoever listens."""
        sources = [self.exchanges.get(name) for name in _sources(removed)]
        federated = {source.name for source in sources if source is not None and source.federated}
        if federated:
            for binding in removed:
                name = binding.source.name
                if name in federated:
                    arguments = dict(binding.arguments)
                    self.broker.federation.unbound(self, name, binding.routing_key, arguments)
        if self.events.wanted:
            for binding in removed:
                self.events.emit("binding.deleted", self._told(binding), user)

    def _told(self, binding: Binding[Queue]) -> Properties:
        """What events say of a binding."""
        destination = binding.destination
        return {
            "source_name": binding.source.name,
            "source_kind": "exchange",
            "destination_name": destination.name,
            "destination_kind": "queue" if isinstance(destination, Queue) else "exchange",
            "routing_key": binding.routing_key,
            "arguments": terms(dict(binding.arguments)),
            "vhost": self.name,
        }

    # -- policies

    def apply_policies(self) -> list[Queue]:
        """Policies changed: everything finds anew which of them hold for it.

        The queues for which others hold now.
        """
        for exchange in self.exchanges.values():
            self._govern_exchange(exchange)
        return [queue for queue in list(self.queues.values()) if self._govern_queue(queue)]

    def _govern_exchange(self, exchange: BrokerExchange) -> None:
        if exchange.govern(self.policies.match_exchange(exchange.name)):
            exchange.apply_policies()
            self.broker.federation.exchange_governed(self, exchange)

    def _govern_queue(self, queue: Queue) -> bool:
        if not queue.govern(self.policies.match_queue(queue.name, queue.type)):
            return False
        queue.apply_policies()
        self.broker.federation.queue_governed(self, queue)
        return True

    # -- the end

    def clear(self, user: str = INTERNAL_USER) -> None:
        """Delete all queues, exchanges and bindings: the virtual host itself is to go."""
        for queue in list(self.queues.values()):
            if self.queues.get(queue.name) is queue:
                self.delete_queue(queue, user=user)
        for exchange in list(self.exchanges.values()):
            made_here = exchange.name and not exchange.name.startswith("amq.")
            if made_here and exchange.name in self.exchanges:
                self.delete_exchange(exchange, user)
        # What is left are bindings between predeclared exchanges.
        for exchange in self.exchanges.values():
            for binding in list(exchange.table.bindings):
                destination = self.exchanges[binding.destination.name]
                arguments = dict(binding.arguments)
                self.unbind(exchange.name, destination, binding.routing_key, arguments, user)

    # -- the journal

    def _durable(self, binding: Binding[Queue], gone: BrokerExchange | None) -> bool:
        """Whether the binding survives a restart: both its ends do. `gone` was just deleted."""
        if not self.effects.journaling:
            return False
        source = self._exchange_of(binding.source, gone)
        destination = binding.destination
        if isinstance(destination, Queue):
            return source.durable and destination.durable
        return source.durable and self._exchange_of(destination, gone).durable

    def _exchange_of(
        self, table: RoutingTable[Queue], gone: BrokerExchange | None
    ) -> BrokerExchange:
        if gone is not None and table is gone.table:
            return gone
        return self.exchanges[table.name]

    def _journal_unbindings(
        self, removed: list[Binding[Queue]], gone: BrokerExchange | None
    ) -> None:
        if not self.effects.journaling:
            return
        for binding in removed:
            if self._durable(binding, gone):
                self.effects.define(definitions.drop(self._binding_record(binding)))

    def _journal_end_of_queue(
        self, queue: Queue, removed: list[Binding[Queue]], sources: list[str]
    ) -> None:
        """A queue is gone, and so are these bindings. If they are many, one word stands for all."""
        if len(removed) <= UNBOUND_AT_ONCE:
            self._journal_unbindings(removed, None)
        elif queue.durable and self.effects.journaling:
            for source in sources:
                if self.exchanges[source].durable:
                    all_of_them = (self.name, source, "queue", queue.name)
                    self.effects.define(definitions.drop_all(BindingRecord, *all_of_them))

    def _journal_end_of_exchange(
        self, exchange: BrokerExchange, removed: list[Binding[Queue]]
    ) -> None:
        """The same for an exchange, and the bindings from it and to it."""
        if len(removed) > UNBOUND_AT_ONCE:
            if exchange.durable and self.effects.journaling:
                self.effects.define(definitions.drop_all(BindingRecord, self.name, exchange.name))
            removed = [binding for binding in removed if binding.source is not exchange.table]
        self._journal_unbindings(removed, exchange)

    def _exchange_record(self, exchange: BrokerExchange) -> ExchangeRecord:
        return ExchangeRecord(
            vhost=self.name,
            name=exchange.name,
            type=exchange.type,
            durable=exchange.durable,
            auto_delete=exchange.auto_delete,
            internal=exchange.internal,
            arguments=encode_table(exchange.arguments),
            exchange_id=exchange.exchange_id,
        )

    def _queue_record(self, queue: Queue) -> QueueRecord:
        return QueueRecord(
            vhost=self.name,
            name=queue.name,
            auto_delete=queue.auto_delete,
            arguments=encode_table(queue.arguments),
            queue_id=queue.queue_id,
            lanes=queue.lanes,
        )

    def _binding_record(self, binding: Binding[Queue]) -> BindingRecord:
        destination = binding.destination
        return BindingRecord(
            vhost=self.name,
            source=binding.source.name,
            destination=destination.name,
            destination_type="queue" if isinstance(destination, Queue) else "exchange",
            routing_key=binding.routing_key,
            arguments=encode_table(dict(binding.arguments)),
        )


def _sources(bindings: list[Binding[Queue]]) -> list[str]:
    """The names of the exchanges that the bindings come from, each once."""
    return list(dict.fromkeys([binding.source.name for binding in bindings]))


def queue_class(arguments: Arguments) -> type[Queue]:
    """What kind of queue the arguments ask for."""
    if queue_type(arguments) == QUORUM:
        return QuorumQueue
    return PriorityQueue if "x-max-priority" in arguments else Queue


def _predeclared(
    name: str, type: str, table: RoutingTable[Queue], internal: bool
) -> BrokerExchange:
    return BrokerExchange(
        name, type, table, durable=True, auto_delete=False, internal=internal, arguments={}
    )
