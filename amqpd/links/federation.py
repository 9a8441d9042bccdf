"""Federation: exchanges of this broker that get what is published to exchanges of others, and
queues that get what waits in queues of others while it is wanted here.

    federation = Federation(broker)            before recovery: policies and upstreams make links
    await federation.run(surroundings)         they work from then on
    federation_statuses(broker, "/")           what /api/federation-links tells

A link is wanted for each upstream that the policy of an exchange or queue names. When a policy, an
upstream or a set of upstreams changes, what is wanted is found anew: a link that is not wanted any
more ends and takes away what it had declared upstream; one that is wanted otherwise settles what it
has taken, and begins again in its new form, with the queue upstream where it was.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, cast

from amqpd.broker.exchange import BrokerExchange
from amqpd.broker.federation import FederationListener
from amqpd.commands import Arguments
from amqpd.links.exchange_link import ExchangeLink, FederatedExchange, UnknownExchangeType
from amqpd.links.keeper import Keeper, hang_up
from amqpd.links.link import LinkFailed
from amqpd.links.queue_link import FederatedQueue, QueueLink
from amqpd.links.runner import Side, Surroundings
from amqpd.links.shovels import shown_time
from amqpd.links.tending import Tending
from amqpd.links.upstream import (
    UPSTREAM,
    UPSTREAM_SET,
    Upstream,
    check_upstream,
    check_upstream_set,
    find_upstreams,
    is_federated,
)
from amqpd.links.uri import LinkURI

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.queue import Queue
    from amqpd.broker.virtual_host import VirtualHost

logger = logging.getLogger("amqpd.federation")

HERE: Final = LinkURI()
STATUSES: Final = {"terminated": "error"}
"""RabbitMQ's words for our states, where they differ."""


class LinkKey(NamedTuple):
    """What makes a link another one (rabbit_federation_status)."""

    kind: str
    """exchange or queue"""
    vhost: str
    name: str
    upstream: str
    upstream_name: str

    @property
    def id(self) -> str:
        """Eight hexadecimal digits, the same for the same link."""
        return f"{zlib.crc32(repr(tuple(self)).encode('utf-8', 'surrogatepass')):08x}"


class FederationKeeper(Keeper):
    """Keeps one link of federation going, and knows how it is."""

    KIND: ClassVar[str] = "federation link"

    def __init__(
        self,
        thing: BrokerExchange | Queue,
        key: LinkKey,
        upstream: Upstream,
        policy: str,
        epoch_s: Callable[[], float],
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        """`thing` is what is federated; `tell` is called with the status when that changes."""
        super().__init__(key.vhost, key.name, upstream.reconnect_delay_s, epoch_s, logger)
        self._thing = thing
        self.key = key
        self.upstream = upstream
        self.uri = upstream.uris[0]
        self.local_connection = ""
        self.policy = policy
        self._tell = tell

    def again(self) -> FederationKeeper:
        """Another one for the same link."""
        return type(self)(
            self._thing, self.key, self.upstream, self.policy, self._epoch_s, self._tell
        )

    def end_for_good(self) -> None:
        """Nobody wants it any more: what it declared upstream goes with it."""

    async def _connect_both(self, around: Surroundings, attempt: int) -> tuple[Side, Side]:
        upstream = self.upstream
        self.uri = upstream.uris[attempt % len(upstream.uris)]
        name = f"Federation link (upstream: {upstream.name}, policy: {self.policy})"
        destination = await self._connect(around, "here", HERE, name)
        try:
            source = await self._connect(around, "upstream", self.uri, name)
        except BaseException:
            await hang_up(destination)
            raise
        self.local_connection = destination.transport.name
        return source, destination

    def _details(self) -> dict[str, Any]:
        return {
            "kind": self.key.kind,
            "vhost": self.vhost,
            "upstream": self.upstream.name,
            "uri": self.uri.shown,
        }

    def _status_changed(self) -> None:
        self._tell(self.status())

    def identity(self) -> dict[str, Any]:
        """Which link it is, in RabbitMQ's order."""
        key = self.key
        shown: dict[str, Any] = {key.kind: key.name, f"upstream_{key.kind}": key.upstream_name}
        if key.kind == "queue":
            shown["consumer_tag"] = self.upstream.consumer_tag
        shown |= {"type": key.kind, "vhost": key.vhost, "upstream": key.upstream, "id": key.id}
        return shown

    def status(self) -> dict[str, Any]:
        """In RabbitMQ's order; what is our own comes last."""
        link = self.link
        shown = self.identity()
        shown["status"] = STATUSES.get(self.state, self.state)
        if self.state == "running":
            shown["local_connection"] = self.local_connection
        elif self.state == "terminated":
            shown["error"] = self.reason
        shown |= {"uri": self.uri.shown, "timestamp": shown_time(self.changed_epoch_s)}
        if self.last_error:
            shown["last_error"] = self.last_error
        if link is not None and self.uptime_ms is not None:
            shown["uptime"] = self.uptime_ms
            shown |= {"forwarded": link.forwarded, "unconfirmed": link.unconfirmed}
            shown |= {"blocked": link.blocked, "refused": link.refused}
            if link.lag is not None:
                shown["lag"] = link.lag + link.pending
        return shown


class ExchangeKeeper(FederationKeeper):
    """Of an exchange."""

    _fanout = False
    """The upstream has no x-federation-upstream."""

    @property
    def exchange_link(self) -> ExchangeLink | None:
        """The attempt under way."""
        return cast("ExchangeLink | None", self.link)

    def end_for_good(self) -> None:
        """As for any link; one that is not connected leaves there what it once declared."""
        if self.exchange_link is not None:
            self.exchange_link.for_good = True

    def bindings_changed(
        self,
        change: Callable[[ExchangeLink, str, Arguments], None],
        routing_key: str,
        arguments: Arguments,
    ) -> None:
        """`change` is `ExchangeLink.bound` or `unbound`. Whoever binds is not to suffer from what
        becomes of the link."""
        if self.exchange_link is None:
            return
        try:
            change(self.exchange_link, routing_key, arguments)
        except LinkFailed as failure:
            self.break_off(str(failure))
        except Exception:
            self.break_off(self.internal_error())
        self.wake()

    async def _attempt(self, around: Surroundings) -> None:
        try:
            await super()._attempt(around)
        except UnknownExchangeType:
            # Once more, and without it.
            self._fanout = True
            await super()._attempt(around)

    def _make(self, around: Surroundings, source: Side, destination: Side) -> ExchangeLink:
        exchange, vhost = cast(BrokerExchange, self._thing), self.vhost
        return ExchangeLink(
            self.upstream,
            FederatedExchange(
                cluster_name=around.cluster_name(),
                vhost=vhost,
                name=exchange.name,
                type=exchange.type,
                durable=exchange.durable,
                auto_delete=exchange.auto_delete,
                arguments=exchange.arguments,
            ),
            source.client,
            destination.client,
            [(item.routing_key, dict(item.arguments)) for item in exchange.table.bindings],
            around.now(),
            shown_uri=self.uri.shown,
            upstream_vhost=vhost if self.uri.vhost is None else self.uri.vhost,
            fanout=self._fanout,
        )


class QueueKeeper(FederationKeeper):
    """Of a queue."""

    def want(self, wanted: bool) -> None:
        """Messages are wanted here, or not for now."""
        link = cast("QueueLink | None", self.link)
        if link is not None:
            link.want(wanted)
            self.wake()

    def _make(self, around: Surroundings, source: Side, destination: Side) -> QueueLink:
        queue = cast("Queue", self._thing)
        return QueueLink(
            self.upstream,
            FederatedQueue(queue.name, queue.durable, queue.auto_delete, queue.arguments),
            source.client,
            destination.client,
            wanted=queue.wants_more,
            shown_uri=self.uri.shown,
        )


class _Parameters:
    """A component of runtime parameters that says what upstreams there are."""

    def __init__(
        self,
        name: str,
        check: Callable[[str, Any], list[str]],
        adjust: Callable[[str], None],
    ) -> None:
        self.name = name
        self._check = check
        self._adjust = adjust

    def check(self, name: str, value: Any) -> list[str]:
        """What is wrong with a value."""
        return self._check(name, value)

    def changed(self, vhost: str, name: str, value: Any, by: str) -> None:
        """Links may be wanted, or wanted otherwise."""
        self._adjust(vhost)

    def cleared(self, vhost: str, name: str, by: str) -> None:
        """Links may not be wanted any more."""
        self._adjust(vhost)


class Federation(FederationListener):
    """All links of federation of a broker."""

    def __init__(self, broker: Broker) -> None:
        """To be made, and told to the broker (`broker.federation`), before anything is declared."""
        self._broker = broker
        self._tending: Tending[FederationKeeper] = Tending(lambda keeper: None)
        self._links: dict[tuple[str, str, str], dict[LinkKey, FederationKeeper]] = {}
        """Of each federated thing, by its kind, virtual host and name."""
        self._finish_turn: Callable[[], None] = lambda: None
        broker.parameters.register(_Parameters(UPSTREAM, check_upstream, self._adjust))
        broker.parameters.register(_Parameters(UPSTREAM_SET, check_upstream_set, self._adjust))

    async def run(self, surroundings: Surroundings) -> None:
        """Keep the links going until cancelled."""
        self._finish_turn = surroundings.finish_turn
        await self._tending.run(surroundings)

    # -- for those who administer a broker

    @property
    def keepers(self) -> Iterator[FederationKeeper]:
        """Of all links that there are to be."""
        return iter(self._tending)

    def statuses(self, vhost: str | None = None) -> list[dict[str, Any]]:
        """Of the links of a virtual host, or of all."""
        node = self._broker.node
        return [
            {"node": node, **keeper.status()}
            for keeper in self.keepers
            if vhost is None or keeper.vhost == vhost
        ]

    def restart(self, vhost: str, link_id: str) -> None:
        """End a link and begin anew; its queue upstream stays. Raises LookupError."""
        for keeper in self.keepers:
            if keeper.vhost == vhost and keeper.key.id == link_id:
                self._put(keeper.again())
                return
        raise LookupError(f"no federation link '{link_id}' in vhost '{vhost}'")

    # -- as amqpd.broker.federation.FederationListener

    def exchange_governed(self, virtual_host: VirtualHost, exchange: BrokerExchange) -> None:
        """An exchange was declared, or other policies hold for it."""
        definition = exchange.effective_policy_definition
        exchange.federated = (
            bool(exchange.name) and not exchange.internal and is_federated(definition)
        )
        place = ("exchange", virtual_host.name, exchange.name)
        if exchange.federated:
            self._links.setdefault(place, {})
            self._want(virtual_host, exchange)
        elif place in self._links:
            self._drop_all(place)

    def exchange_deleted(self, virtual_host: VirtualHost, exchange: BrokerExchange) -> None:
        """A federated exchange is gone."""
        self._drop_all(("exchange", virtual_host.name, exchange.name))

    def bound(
        self, virtual_host: VirtualHost, exchange: str, routing_key: str, arguments: Arguments
    ) -> None:
        """A federated exchange has one more binding."""
        for keeper in self._of_exchange(virtual_host, exchange):
            keeper.bindings_changed(ExchangeLink.bound, routing_key, arguments)

    def unbound(
        self, virtual_host: VirtualHost, exchange: str, routing_key: str, arguments: Arguments
    ) -> None:
        """A federated exchange has one binding fewer."""
        for keeper in self._of_exchange(virtual_host, exchange):
            keeper.bindings_changed(ExchangeLink.unbound, routing_key, arguments)

    def queue_governed(self, virtual_host: VirtualHost, queue: Queue) -> None:
        """A queue was declared, or other policies hold for it."""
        federated = (
            queue.owner is None
            and "x-internal-purpose" not in queue.arguments
            and is_federated(queue.effective_policy_definition)
        )
        if federated or queue.consumers.touched is not None:
            queue.federate(federated)
        place = ("queue", virtual_host.name, queue.name)
        if federated:
            self._links.setdefault(place, {})
            self._want(virtual_host, queue)
        elif place in self._links:
            self._drop_all(place)

    def queue_deleted(self, virtual_host: VirtualHost, queue: Queue) -> None:
        """A federated queue is about to go: what was taken for it goes back."""
        self._drop_all(("queue", virtual_host.name, queue.name), at_once=True)

    def demand(self, queue: Queue) -> None:
        """What a federated queue wants may have changed."""
        if queue.deleted:
            return  # another one may have its name by now
        wanted = queue.wants_more
        links = self._links.get(("queue", queue.virtual_host, queue.name), {})
        for keeper in links.values():
            if isinstance(keeper, QueueKeeper):
                keeper.want(wanted)

    def _of_exchange(self, virtual_host: VirtualHost, exchange: str) -> list[ExchangeKeeper]:
        links = self._links.get(("exchange", virtual_host.name, exchange), {})
        return [keeper for keeper in links.values() if isinstance(keeper, ExchangeKeeper)]

    # -- what is wanted

    def _adjust(self, vhost: str) -> None:
        """Upstreams or sets of them changed."""
        virtual_host = self._broker.virtual_hosts.get(vhost)
        if virtual_host is None:
            return
        for kind, home, name in list(self._links):
            if home == vhost:
                things = virtual_host.queues if kind == "queue" else virtual_host.exchanges
                self._want(virtual_host, things[name])

    def _want(self, virtual_host: VirtualHost, thing: BrokerExchange | Queue) -> None:
        """Find out which links an exchange or queue is to have, and let it have these."""
        kind = "exchange" if isinstance(thing, BrokerExchange) else "queue"
        vhost, name = virtual_host.name, thing.name
        links = self._links[kind, vhost, name]
        policy = "" if thing.policy is None else thing.policy.name
        definition = thing.effective_policy_definition
        wanted: dict[LinkKey, Upstream] = {}
        for upstream in find_upstreams(self._broker.parameters, vhost, definition, name):
            there = upstream.exchange if kind == "exchange" else upstream.queue
            wanted.setdefault(LinkKey(kind, vhost, name, upstream.name, there), upstream)
        for key in [key for key in links if key not in wanted]:
            self._drop(links, key)
        for key, upstream in wanted.items():
            present = links.get(key)
            if present is not None and (present.upstream, present.policy) == (upstream, policy):
                continue
            keep = ExchangeKeeper if kind == "exchange" else QueueKeeper
            self._put(keep(thing, key, upstream, policy, self._epoch_s, self._tell))

    def _put(self, keeper: FederationKeeper) -> None:
        key = keeper.key
        links = self._links[key.kind, key.vhost, key.name]
        former = links.get(key)
        if former is not None and _is_elsewhere(former.upstream, keeper.upstream):
            former.end_for_good()
        links[key] = keeper
        self._tending.put(key, keeper)

    def _drop_all(self, place: tuple[str, str, str], *, at_once: bool = False) -> None:
        links = self._links.pop(place, {})
        for key in list(links):
            self._drop(links, key, at_once=at_once)

    def _drop(
        self, links: dict[LinkKey, FederationKeeper], key: LinkKey, *, at_once: bool = False
    ) -> None:
        keeper = links.pop(key)
        for each in self._tending.lineage(key):
            each.end_for_good()
        self._tending.drop(key, at_once=at_once)
        self._broker.events.emit("federation.link.removed", keeper.identity())

    def _epoch_s(self) -> float:
        return self._broker.effects.epoch_ms() / 1000

    def _tell(self, status: dict[str, Any]) -> None:
        """A link has come or gone on its own: a turn of the broker like any other."""
        self._broker.events.emit("federation.link.status", status)
        self._finish_turn()


def _is_elsewhere(former: Upstream, present: Upstream) -> bool:
    """Whether an upstream is another broker now: nobody would come back for the queue there."""
    places = [{(uri.host, uri.port, uri.vhost) for uri in one.uris} for one in (former, present)]
    return places[0].isdisjoint(places[1])


def federation_statuses(broker: Broker, vhost: str | None = None) -> list[dict[str, Any]]:
    """What /api/federation-links tells: of one virtual host, or of all."""
    federation = broker.federation
    return federation.statuses(vhost) if isinstance(federation, Federation) else []


def restart_federation_link(broker: Broker, vhost: str, link_id: str) -> None:
    """End a link and begin anew. Raises LookupError."""
    cast(Federation, broker.federation).restart(vhost, link_id)
