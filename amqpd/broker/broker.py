"""The broker: virtual hosts, users and sessions, and the turn-by-turn contract with the runtime.

Sans-IO. The runtime calls in, one turn at a time:

    session / channel calls ...      what peers said
    finish_turn()                    -> entries to journal; confirms that are due went to outlets
    committed(enqueues, barriers)    what the journal made safe; then finish_turn() again

A confirm for a journaled message is sent by `committed` alone (or at once when the message was
settled before it was written), so it cannot overtake its commit.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from typing import Final

from amqpd.broker import definitions
from amqpd.broker.access import Access
from amqpd.broker.alarms import Alarm, Alarms
from amqpd.broker.counts import Churn
from amqpd.broker.definitions import VhostRecord
from amqpd.broker.dying import Dying
from amqpd.broker.effects import Effects
from amqpd.broker.events import INTERNAL_USER, Events, Properties
from amqpd.broker.federation import NOBODY, FederationListener
from amqpd.broker.flow import FlowControl
from amqpd.broker.internal_publishing import InternalPublishing
from amqpd.broker.limits import VhostLimits, require_connection_room
from amqpd.broker.messages import PendingConfirm, QueueMessage
from amqpd.broker.paging import PageRequest
from amqpd.broker.parameters import Parameters
from amqpd.broker.passwords import SALT_BYTES, SHA256, hash_password
from amqpd.broker.policies import KINDS, PolicyComponent
from amqpd.broker.queue_ids import QueueIds
from amqpd.broker.reply_to import ReplyConsumer
from amqpd.broker.session import Origin, Session
from amqpd.broker.virtual_host import VirtualHost
from amqpd.broker.waiting_room import DelayedMessage
from amqpd.config import DEFAULT_CLUSTER_NAME, Config
from amqpd.errors import NOT_ALLOWED, ConnectionException
from amqpd.timers import Timers
from amqpd.wire.tables import erlang
from amqpd_storage.entries import (
    PASSING_QUEUE_ID_MIN,
    QUEUE_ID_MAX,
    SAFE,
    Barrier,
    Content,
    Delay,
    Enqueue,
    Entry,
)

CONNECTION_OPEN: Final = (10, 40)
CLUSTER_ID: Final = "internal_cluster_id"
CLUSTER_NAME: Final = "cluster_name"
"""Global parameters that RabbitMQ has too."""
CLUSTER_ID_PREFIX: Final = "rabbitmq-cluster-id-"
ID_SHOWN: Final = 8
"""Characters of it in the name of a broker that nobody named."""
NAME_OCTETS: Final = 16
"""Random octets in a generated name: 22 characters of URL-safe base64."""


class SafeCall:
    """Somebody who is no channel and waits for the journal."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def barrier_safe(self, barrier: Barrier, mark: object) -> None:
        """What was waited for is on disk."""
        self._call()


STEP_ASKED_S: Final = 0.5
"""If the time of day leaps by less, what it makes due may be as much late."""


class Broker:
    """Everything that clients share."""

    def __init__(
        self,
        config: Config,
        *,
        journaling: bool,
        entropy: Callable[[int], bytes],
        epoch_s: float = 0.0,
    ) -> None:
        """The core has no randomness and no time of its own: `entropy(n)` gives n random octets,
        `epoch_s` is the time since 1970 at which the runtime's clock would have shown 0."""
        self.config = config
        self.limits = config.limits
        self.effects = Effects(journaling, epoch_s)
        self._creation = int(epoch_s)
        self.event_vhost: str = config.event_exchange_vhost or config.default_vhost
        """Where the event exchange is."""
        self.internal_publishing = InternalPublishing(self)
        self.events = Events(self, self.event_vhost)
        self.access = Access(config.loopback_users, self.events)
        self.virtual_hosts: dict[str, VirtualHost] = {}
        self.federation: FederationListener = NOBODY
        """Who has links to other brokers: set before anything is declared."""
        self.parameters = Parameters(
            config.limits, self.journal, lambda name: name in self.virtual_hosts, self.events
        )
        for kind in KINDS:
            self.parameters.register(PolicyComponent(kind, self))
        self.parameters.register(VhostLimits(self))
        self.sessions: dict[Session, None] = {}
        self.churn = Churn()
        self.reply_consumers: dict[str, ReplyConsumer] = {}
        self.alarms = Alarms()
        self.login_attempts: dict[str, tuple[int, int]] = {}
        """How many logins succeeded and failed, by RabbitMQ's name of the protocol."""
        self._warned: set[str] = set()
        self.timers = Timers()
        """All deadlines: of the queues here, and of whatever the runtime enters."""
        self.dying = Dying(self.effects)
        self.flow = FlowControl(self.effects, self.timers, config.limits)
        self.random_octets = entropy
        self.queue_ids = QueueIds(1, PASSING_QUEUE_ID_MIN)
        """Those of durable queues."""
        self.passing_ids = QueueIds(PASSING_QUEUE_ID_MIN, QUEUE_ID_MAX + 1)
        """Those of transient messages that are out of memory."""
        self._message_id_max = 0
        self._serial_max = 0
        self._exchange_id_max = 0
        self._delay_sequence = 0

    @property
    def node(self) -> str:
        """The name of this node."""
        return self.config.cluster_name

    @property
    def cluster_name(self) -> str:
        """How federation and clients know this broker: as named at run time, or configured.

        Nobody's name is that of all who have none. To federation these must differ: then the id
        that the broker gave itself at its first start is a part of it (decision 10).
        """
        name = self.parameters.global_value(CLUSTER_NAME)
        if isinstance(name, str):
            return name
        cluster_id = self.parameters.global_value(CLUSTER_ID)
        if self.config.cluster_name != DEFAULT_CLUSTER_NAME or not isinstance(cluster_id, str):
            return self.config.cluster_name
        return f"{DEFAULT_CLUSTER_NAME}.{cluster_id.removeprefix(CLUSTER_ID_PREFIX)[:ID_SHOWN]}"

    @property
    def now(self) -> float:
        """Seconds of the runtime's clock, at the beginning of this turn."""
        return self.effects.now

    @now.setter
    def now(self, now: float) -> None:
        self.effects.now = now

    # -- names and ids

    def generate_name(self, prefix: str) -> str:
        """A name for a queue, consumer or reply token that its user left to the broker."""
        octets = urlsafe_b64encode(self.random_octets(NAME_OCTETS))
        return prefix + octets.rstrip(b"=").decode()

    def next_message_id(self) -> int:
        """An id for a message that several rows of the store will share."""
        self._message_id_max += 1
        return self._message_id_max

    def next_serial(self) -> int:
        """A number for a connection or channel that no other one of this run has."""
        self._serial_max += 1
        return self._serial_max

    def pid(self, serial: int) -> str:
        """A connection's or channel's identity in the form of an Erlang process's, which is what
        RabbitMQ's events and tools call them by: node, start of the broker, serial number."""
        return f"<{self.node}.{self._creation}.{serial}.0>"

    def next_exchange_id(self) -> int:
        """What a delayed exchange's messages are stored under. Never used twice: rows of a deleted
        exchange may still be in the store when the next one is declared."""
        self._exchange_id_max += 1
        return self._exchange_id_max

    def next_delay_sequence(self) -> int:
        """The number of one more message that waits: what came later has a higher one."""
        self._delay_sequence += 1
        return self._delay_sequence

    def warn_once(self, subject: str, warning: str) -> None:
        """Tell whoever reads the log; of each subject once."""
        if subject not in self._warned:
            self._warned.add(subject)
            self.effects.warnings.append(warning)

    def has_warned(self, subject: str) -> bool:
        """Whether `warn_once` was called with it."""
        return subject in self._warned

    def count_login(self, protocol: str, succeeded: bool) -> None:
        """Somebody tried to log in."""
        good, bad = self.login_attempts.get(protocol, (0, 0))
        self.login_attempts[protocol] = (good + 1, bad) if succeeded else (good, bad + 1)

    # -- virtual hosts, users

    def add_virtual_host(
        self, record: VhostRecord, *, journal: bool = True, user: str = INTERNAL_USER
    ) -> VirtualHost:
        """A new virtual host with its predeclared exchanges; the existing one if there is one."""
        existing = self.virtual_hosts.get(record.name)
        if existing is not None:
            return existing
        virtual_host = VirtualHost(record, self)
        self.virtual_hosts[record.name] = virtual_host
        if journal and self.effects.journaling:
            self.effects.define(definitions.encode(record))
        if self.events.wanted:
            for exchange in virtual_host.exchanges.values():
                virtual_host.tell_created(exchange, user)
            self.events.emit("vhost.created", self._told(record, user), None)
        return virtual_host

    def _told(self, record: VhostRecord, user: str) -> Properties:
        """What vhost.created says, in RabbitMQ's order and terms."""
        return {
            "name": record.name,
            "default_queue_type": record.default_queue_type or "undefined",
            "metadata": f"#{{description => {erlang('S', record.description)},"
            f"tags => [{','.join(record.tags)}]}}",
            "tracing": False,
            "cluster_state": {self.node: "running"},
            "user_who_performed_action": user,
            "description": record.description,
            "tags": list(record.tags) or "",
        }

    def add_defaults(self) -> None:
        """The first user, virtual host and permission of an empty broker."""
        config = self.config
        self.add_virtual_host(VhostRecord(name=config.default_vhost))
        self.parameters.set_global(CLUSTER_ID, self.generate_name(CLUSTER_ID_PREFIX))
        password_hash = hash_password(config.default_pass, self.random_octets(SALT_BYTES))
        self.journal(
            self.access.put_user(config.default_user, password_hash, SHA256, ("administrator",))
        )
        self.journal(
            self.access.put_permission(config.default_user, config.default_vhost, ".*", ".*", ".*")
        )

    def journal(self, entries: Iterable[Entry]) -> None:
        """Keep a change of definitions, if anything is kept."""
        if self.effects.journaling:
            for entry in entries:
                self.effects.define(entry)

    def call_when_safe(self, call: Callable[[], None]) -> None:
        """Call once everything journaled so far is on disk; at once if it is already."""
        effects = self.effects
        if not effects.entries and not effects.barriers:
            call()
            return
        barrier = Barrier()
        effects.entries.append(barrier)
        effects.barriers[barrier] = (SafeCall(call), None)

    # -- sessions

    def open_session(
        self, user: str, virtual_host_name: str, origin: Origin, capabilities: frozenset[str]
    ) -> Session:
        """connection.open. Raises `ConnectionException` 530 with the reason."""
        virtual_host = self.virtual_hosts.get(virtual_host_name)
        if virtual_host is None:
            raise ConnectionException(
                NOT_ALLOWED, f"vhost {virtual_host_name} not found", CONNECTION_OPEN
            )
        # In RabbitMQ's order: who may not enter is told of a full virtual host all the same.
        require_connection_room(self, virtual_host, user, CONNECTION_OPEN)
        self.access.require_entry(user, virtual_host_name, CONNECTION_OPEN)
        most = self.limits.connections_max
        if len(self.sessions) >= most:
            raise ConnectionException(
                NOT_ALLOWED,
                f"connection refused: node connection limit ({most}) is reached",
                CONNECTION_OPEN,
            )
        session = Session(self, virtual_host, user, origin, capabilities)
        self.sessions[session] = None
        self.churn.connection_created += 1
        session.tell_created()
        return session

    def set_alarm(self, alarm: Alarm, raised: bool) -> bool:
        """Raise or clear a resource alarm; True if that changed something."""
        changed = self.alarms.set(alarm, raised)
        if changed:
            told = {"source": alarm.value, "node": self.node}
            self.events.emit("alarm.set" if raised else "alarm.cleared", told, None)
        return changed

    def set_epoch(self, epoch_s: float) -> None:
        """The time of day was set, or the machine slept: the runtime's clock would have shown 0 at
        another time since 1970. Times that have to outlast a restart are right from now on, and
        what came before expires, or is due, by the new time."""
        effects = self.effects
        forward_s = epoch_s - effects.epoch_s
        effects.epoch_s = epoch_s
        if forward_s < STEP_ASKED_S:
            return  # whoever is asked too early looks again
        for virtual_host in self.virtual_hosts.values():
            for queue in virtual_host.queues.values():
                effects.timed_queues[queue] = None
            for exchange in virtual_host.exchanges.values():
                if exchange.waiting_room is not None:
                    effects.timed_queues[exchange.waiting_room] = None

    # -- turns

    def finish_turn(self) -> list[Entry]:
        """Send the confirms that are due; return what the journal has to keep, in order."""
        effects = self.effects
        if self.internal_publishing.pending:
            self.internal_publishing.publish()
        self.flow.finish_turn()
        if effects.demands:
            self._tell_demands()
        if effects.timed_queues:
            for queue in effects.timed_queues:
                self.timers.watch(queue)
            effects.timed_queues.clear()
        if effects.due_confirms:
            for confirms in effects.due_confirms:
                confirms.flush()
            effects.due_confirms.clear()
        if effects.entries or effects.marked_queues:
            return effects.take_entries()
        return []

    def _tell_demands(self) -> None:
        """Links hear what federated queues want, now that the turn has left them as they are."""
        demands, self.effects.demands = self.effects.demands, {}
        for queue in demands:
            self.federation.demand(queue)
            if queue.ready and queue.consumers.serves(0):
                # On their way from the disk to whoever can take them: look again then.
                self.effects.demands[queue] = None

    def committed(
        self,
        enqueues: Iterable[Enqueue[Content]],
        barriers: Iterable[Barrier],
        delays: Iterable[Delay[Content]] = (),
    ) -> None:
        """The journal wrote and flushed these: confirm, and let replies out."""
        for delay in delays:
            assert isinstance(delay, DelayedMessage)
            delay.safe()
        for enqueue in enqueues:
            assert isinstance(enqueue, QueueMessage)
            enqueue.state = SAFE
            confirm = enqueue.confirm
            if confirm is not None:
                enqueue.confirm = None
                confirm.safe()
        for barrier in barriers:
            waiting = self.effects.barriers.pop(barrier)
            if isinstance(waiting, PendingConfirm):
                waiting.safe()
            elif waiting is not None:
                waiter, mark = waiting
                waiter.barrier_safe(barrier, mark)

    def take_page_requests(self) -> list[PageRequest]:
        """What the runtime is to read, and to answer with `request.queue.page_in`."""
        requests = self.effects.page_requests
        if requests:
            self.effects.page_requests = []
        return requests

    # -- recovery

    def recovered(self, queue_ids: set[int], message_id_max: int) -> None:
        """What the store had in use, so that new ids are new."""
        self.queue_ids.recovered(queue_ids)
        self.passing_ids.recovered(queue_ids)
        self._message_id_max = message_id_max

    def recovered_delays(self, exchange_id_max: int, sequence_max: int) -> None:
        """What waiting messages had in use."""
        self._exchange_id_max = exchange_id_max
        self._delay_sequence = sequence_max
