"""One attempt of a federation link of an exchange, without a socket: see `link` for how messages
move, and rabbit_federation_exchange_link for whose work it does.

    upstream broker                                                       this broker
    exchange ──bindings of ours──> internal exchange ──> queue ──link──> exchange

The queue (`federation: X -> this broker`) holds what was published while the link is away. The
internal exchange, of type x-federation-upstream, has the bindings: one for each routing key and
arguments that somebody has bound here. Rules kept:

- Bindings that went while the link was away must go upstream too. Each start makes a new internal
  exchange with the bindings there are, its name ending in A or B, and only then deletes the former
  one: no message falls between. Which one is the former is asked upstream and remembered nowhere
  (decision 10).
- While the link runs, each change of our bindings follows at once, in order.
- A binding that came over a link itself carries where it has been (`x-bound-from`), and goes on as
  far as messages could come back.
- A message that has travelled enough, or was here, is acknowledged and dropped. That is the
  internal exchange's duty, but an upstream that has no such type gives us a fanout.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable
from typing import Any, ClassVar, Final, NamedTuple

from amqpd.commands import (
    Arguments,
    Basic,
    Channel,
    Confirm,
    Exchange,
    Field,
    Frame,
    MethodCommand,
    Queue,
)
from amqpd.links.client import (
    TABLE_DEPTH_MAX,
    ChannelClosed,
    LinkClient,
    State,
)
from amqpd.links.link import (
    CHANNEL,
    LAG_EVERY_S,
    NOT_FOUND,
    REWRITTEN_BYTES_MAX,
    REWRITTEN_MAX,
    Answer,
    Link,
    LinkFailed,
    Preparation,
    Step,
    described,
)
from amqpd.links.methods import (
    consume,
    declare_queue,
    look_for_exchange,
    look_for_queue,
    unchecked,
)
from amqpd.links.reading import Delivery
from amqpd.links.travelled import entries, prepended, with_changed
from amqpd.links.upstream import Upstream
from amqpd.short_string import short_string
from amqpd.wire.properties import (
    USER_ID,
    has_property,
    read_headers,
    with_header_octets,
    with_property,
)
from amqpd.wire.tables import encode_table
from amqpd_exchanges.federation_upstream import (
    RECEIVED_FROM,
    FederationUpstreamExchange,
    has_visited,
    may_travel,
)
from amqpd_exchanges.fields import canonical_table

BOUND_FROM: Final = "x-bound-from"
RECEIVED_FROM_OCTETS: Final = short_string(RECEIVED_FROM)
PURPOSE: Final[Arguments] = {"x-internal-purpose": ("S", "federation")}
COMMAND_CHANNEL: Final = 2
PRECONDITION_FAILED: Final = 406
COMMAND_INVALID: Final = 503
BINDINGS_UNDER_WAY_MAX: Final = 256
"""Changes of bindings that the upstream has not answered."""
COMMAND_OVERHEAD: Final = 1024
"""Octets of exchange.bind beside its arguments: three names, and the frame."""
CHECK_EVERY_S: Final = 90.0
"""Between two looks at the internal exchange (rabbitmq_federation:
internal_exchange_check_interval)."""

Questions = Generator[Step | None, Answer, None]


class UnknownExchangeType(LinkFailed):
    """The upstream has no x-federation-upstream, and said so by closing the connection."""


class FederatedExchange(NamedTuple):
    """The exchange here, as it was declared, and the broker it is of."""

    cluster_name: str
    vhost: str
    name: str
    type: str
    durable: bool
    auto_delete: bool
    arguments: Arguments


class _Change(NamedTuple):
    """Of a binding upstream."""

    bind: bool
    routing_key: str
    arguments: Arguments


class ExchangeLink(Link):
    """From an exchange upstream to an exchange here."""

    SOURCE: ClassVar[str] = "upstream"
    DESTINATION: ClassVar[str] = "here"

    def __init__(
        self,
        upstream: Upstream,
        exchange: FederatedExchange,
        source: LinkClient,
        destination: LinkClient,
        bindings: Iterable[tuple[str, Arguments]],
        now: float,
        *,
        shown_uri: str,
        upstream_vhost: str,
        fanout: bool = False,
    ) -> None:
        """`bindings` are those from the exchange as it is now: `bound` and `unbound` tell what
        changes. `fanout`: the upstream has no better type."""
        super().__init__(
            source, destination, ack_mode=upstream.ack_mode, prefetch_count=upstream.prefetch_count
        )
        self.upstream = upstream
        self.exchange = exchange
        self.for_good = False
        """The link is not wanted any more: what it declared upstream goes with it."""
        self.queue = upstream_queue_name(exchange, upstream.exchange, upstream_vhost)
        self._upstream_name: str | None = None
        self._upstream_vhost = upstream_vhost
        self._shown_uri = shown_uri
        self._fanout = fanout
        self._commands = CHANNEL if upstream.one_channel else COMMAND_CHANNEL
        self._internal = ""
        """The internal exchange that gets the bindings."""
        self._counts: dict[Hashable, int] = {}
        """How many bindings here there are of each key and arguments."""
        self._wanted: dict[Hashable, tuple[str, Arguments]] = {}
        self._changes: dict[Hashable, _Change] = {}
        """What the upstream has not been told yet, in order."""
        self._under_way = 0
        self._binding = False
        """Changes may be told now."""
        self._check_at = now + CHECK_EVERY_S
        self._fields: dict[bool, Field] = {}
        """What a message gets on top of its header, by redelivered; and the same as octets."""
        self._octets: dict[bool, bytes] = {}
        self._rewritten: dict[tuple[bytes, bool], bytes | None] = {}
        for routing_key, arguments in bindings:
            self.bound(routing_key, arguments)

    # -- bindings here

    def bound(self, routing_key: str, arguments: Arguments) -> None:
        """Somebody has bound something to the exchange here."""
        key = (routing_key, canonical_table(arguments))
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count == 1:
            self._wanted[key] = (routing_key, arguments)
            self._change(key, _Change(True, routing_key, arguments))

    def unbound(self, routing_key: str, arguments: Arguments) -> None:
        """A binding from the exchange here is gone."""
        key = (routing_key, canonical_table(arguments))
        count = self._counts.pop(key, 0) - 1
        if count > 0:
            self._counts[key] = count
        elif count == 0:
            del self._wanted[key]
            self._change(key, _Change(False, routing_key, arguments))

    def _change(self, key: Hashable, change: _Change) -> None:
        before = self._changes.pop(key, None)
        if before is None or before.bind == change.bind:
            self._changes[key] = change
        if self._binding:
            self._tell_changes()

    def _tell_changes(self) -> None:
        """As many as may be under way. Where the upstream is not to answer, one in so many is
        answered all the same: others here have a turn meanwhile."""
        nowait = self.upstream.bind_nowait
        under_way_max = 1 if nowait else BINDINGS_UNDER_WAY_MAX
        unanswered = 0
        while self._changes and self._under_way < under_way_max:
            change = self._changes.pop(next(iter(self._changes)))
            arguments = self._upstream_arguments(change.arguments)
            if arguments is None or not self._fits(arguments):
                continue
            unanswered += nowait
            is_answered = not nowait or unanswered == BINDINGS_UNDER_WAY_MAX
            method = unchecked(
                Exchange.Bind if change.bind else Exchange.Unbind,
                source=self.upstream.exchange,
                destination=self._internal,
                routing_key=change.routing_key,
                nowait=not is_answered,
            )
            self._send(method, arguments)
            self._under_way += is_answered

    def _fits(self, arguments: Arguments) -> bool:
        """Whether they go into a frame: here they did, without where they come from."""
        if len(encode_table(arguments)) <= self.source.frame_bytes_max - COMMAND_OVERHEAD:
            return True
        warning = (
            f"a binding of exchange '{self.exchange.name}' has too many arguments for a frame of"
            " the upstream's: what it asks for does not come from there"
        )
        if warning not in self.warnings:  # clients may bind for ever
            self.warnings.append(warning)
        return False

    def _upstream_arguments(self, arguments: Arguments) -> Arguments | None:
        """Those of the binding upstream; None if it has no business there.

        Bindings travel as far as messages can come back: the hops that are left are counted down
        from the lowest `max-hops` on the way.
        """
        hops = self.upstream.max_hops
        # Whoever binds may have put anything there: what is no table is nobody's hop.
        before = [entry for entry in entries(arguments, BOUND_FROM) if entry[0] == "F"]
        if before:
            if has_visited(before, self._upstream_name, self._upstream_vhost):
                return None
            left: Any = dict(before[0][1] or {}).get("hops", ("V", None))[1]
            hops = min(hops, left - 1) if isinstance(left, int) else hops
        if hops <= 0:
            return None
        exchange = self.exchange
        entry: Arguments = {
            "cluster-name": ("S", exchange.cluster_name),
            "vhost": ("S", exchange.vhost),
            "exchange": ("S", f"{exchange.vhost}:{exchange.name} {self._internal[-1]}"),
            "hops": ("s", hops),
        }
        return prepended(arguments, BOUND_FROM, ("F", entry))

    # -- preparations

    def _prepare(self) -> Preparation:
        source, destination = self.source, self.destination
        yield Step(destination, Channel.Open())
        if self._confirms:
            yield Step(destination, Confirm.Select())
        yield Step(source, Channel.Open())
        if self._commands != CHANNEL:
            yield self._command(Channel.Open())
        self._know_upstream()
        yield from self._ensure_queue()
        yield from self._ensure_upstream_exchange()
        yield from self._ensure_bindings()
        if self._prefetch:
            yield Step(source, Basic.Qos(0, self._prefetch, False))
        yield Step(source, consume(self.queue, "", no_ack=not self._settles))

    def _know_upstream(self) -> None:
        octet, name = self.source.server_properties.get("cluster_name", ("V", None))
        self._upstream_name = name if octet == "S" else None
        here = self.exchange
        if (name, self._upstream_vhost) == (
            here.cluster_name,
            here.vhost,
        ) and self.source.is_remote:
            self.warnings.append(
                f"the upstream calls itself '{name}' like this broker: what comes from there goes"
                " no further, and other links may share its queue. Give each broker a cluster_name"
            )
        entry: Arguments = {
            "uri": ("S", self._shown_uri),
            # The one here: what RabbitMQ says, and means.
            "exchange": ("S", here.name),
        }
        for redelivered in (False, True):
            table: Arguments = {**entry, "redelivered": ("t", redelivered)}
            if self._upstream_name is not None:
                table["cluster-name"] = ("S", self._upstream_name)
            table["vhost"] = ("S", self._upstream_vhost)
            field = self._fields[redelivered] = ("F", table)
            self._octets[redelivered] = encode_table({RECEIVED_FROM: ("A", [field])})[4:]

    def _ensure_queue(self) -> Questions:
        upstream = self.upstream
        arguments = dict(PURPOSE)
        if upstream.expires_ms is not None:
            arguments["x-expires"] = ("l", upstream.expires_ms)
        if upstream.message_ttl_ms is not None:
            arguments["x-message-ttl"] = ("l", upstream.message_ttl_ms)
        arguments["x-queue-type"] = ("S", upstream.queue_type)
        declare = declare_queue(self.queue)
        answer = yield self._command(declare, arguments, PRECONDITION_FAILED)
        if isinstance(answer, ChannelClosed):
            # It was declared with other arguments once, and holds messages: it is better than none.
            self.warnings.append(
                f"the upstream's queue '{self.queue}' stays as it was declared: {answer.text}."
                " Delete it there, with what is in it, to have it as it is configured now"
            )
            yield self._command(Channel.Open())
            answer = yield self._command(look_for_queue(self.queue))
        if not isinstance(answer, Queue.DeclareOk):
            raise LinkFailed(f"{self.SOURCE}: queue '{self.queue}': {described(answer)}")

    def _ensure_upstream_exchange(self) -> Questions:
        exchange, name = self.exchange, self.upstream.exchange
        if not (yield from self._exists(name, exchange.type)):
            declare = unchecked(
                Exchange.Declare,
                exchange=name,
                exchange_type=exchange.type,
                durable=exchange.durable,
                auto_delete=exchange.auto_delete,
            )
            yield self._command(declare, exchange.arguments)

    def _ensure_bindings(self) -> Questions:
        """A new internal exchange with all our bindings, and then none of the former ones."""
        first, second = (f"{self.queue} {suffix}" for suffix in "AB")
        has_first = yield from self._exists(first)
        has_second = yield from self._exists(second)
        if has_first and has_second:
            # We were cut off between the two, and only one of them has what was bound when we
            # left. Whichever it is: with all bindings of now the first will do for a moment.
            yield from self._complete(first)
            yield self._command(unchecked(Exchange.Delete, exchange=second))
        former, fresh = (first, second) if has_first else (second, first)
        yield from self._declare_internal(fresh)
        yield from self._complete(fresh)
        if has_first or has_second:
            yield self._command(unchecked(Exchange.Delete, exchange=former))

    def _declare_internal(self, name: str) -> Questions:
        declare = unchecked(
            Exchange.Declare,
            exchange=name,
            exchange_type=FederationUpstreamExchange.kind,
            durable=True,
            auto_delete=True,
            internal=True,
        )
        arguments: Arguments = {
            "x-max-hops": ("l", self.upstream.max_hops),
            "x-downstream-name": ("S", self.exchange.cluster_name),
            "x-downstream-vhost": ("S", self.exchange.vhost),
            **PURPOSE,
        }
        if not self._fanout:
            answer = yield self._command(declare, arguments, PRECONDITION_FAILED)
            if not isinstance(answer, ChannelClosed):
                return
            yield self._command(Channel.Open())
        declare.exchange_type = "fanout"
        yield self._command(declare, dict(PURPOSE))

    def _complete(self, internal: str) -> Questions:
        """All bindings to the internal exchange, and from it the one to the queue."""
        bind = unchecked(Queue.Bind, queue=self.queue, exchange=internal, routing_key="")
        yield self._command(bind)
        self._internal = internal
        self._changes = {key: _Change(True, *wanted) for key, wanted in self._wanted.items()}
        self._binding = True
        self._tell_changes()
        while self._changes or self._under_way:
            yield None
        self._binding = False

    def _exists(
        self, exchange: str, type: str = FederationUpstreamExchange.kind
    ) -> Generator[Step | None, Answer, bool]:
        answer = yield self._command(look_for_exchange(exchange, type), {}, NOT_FOUND)
        if isinstance(answer, ChannelClosed):
            yield self._command(Channel.Open())
            return False
        return True

    def _command(self, method: Frame, arguments: Arguments | None = None, *may_fail: int) -> Step:
        return Step(self.source, method, arguments or {}, self._commands, may_fail)

    def _connection_closed(self, client: LinkClient) -> None:
        asked = self._asked
        if (
            client is self.source
            and client.end_code == COMMAND_INVALID
            and asked is not None
            and getattr(asked.method, "exchange_type", "") == FederationUpstreamExchange.kind
        ):
            raise UnknownExchangeType(f"{self.SOURCE}: {client.end_reason}")
        super()._connection_closed(client)

    # -- while it runs

    def _started(self) -> None:
        self._binding = True
        self._tell_changes()

    def _hear_method(self, client: LinkClient, command: MethodCommand) -> None:
        method = command.method
        if client is not self.source:
            return
        if isinstance(method, Exchange.BindOk | Exchange.UnbindOk):
            self._under_way -= 1
            self._tell_changes()
            if not self.running and not (self._changes or self._under_way):
                self._go_on()
        elif isinstance(method, Queue.DeclareOk):
            self.lag = method.message_count

    def _look_due(self) -> float | None:
        return min(self._check_at, self._look_at) if self.running else None

    def _look(self, now: float) -> None:
        """Whether the internal exchange is there still (if not the upstream says 404, and we begin
        again), and how many messages wait."""
        if now >= self._check_at:
            self._check_at = now + CHECK_EVERY_S
            self._send(look_for_exchange(self._internal, FederationUpstreamExchange.kind), {})
        if now >= self._look_at:
            self._look_at = now + LAG_EVERY_S
            self._send(look_for_queue(self.queue), {})

    def leave(self) -> None:
        """Take away what we declared, if nobody wants it any more."""
        if not self.for_good or self.upstream.clean_up == "never":
            return
        self._send(unchecked(Queue.Delete, queue=self.queue, nowait=True), {})
        if self._internal:
            self._send(unchecked(Exchange.Delete, exchange=self._internal, nowait=True), {})

    def _send(self, method: Frame, arguments: Arguments) -> None:
        if self.source.state is not State.OPEN:
            return
        try:
            self.source.send(self._commands, method, arguments)
        except ValueError as error:
            raise LinkFailed(f"{self.SOURCE}: {method.name}: {error}") from None

    # -- messages

    def _envelope(self, delivery: Delivery) -> bytes:
        split = 1 + delivery.envelope[0]
        return short_string(self.exchange.name) + delivery.envelope[split:]

    def _changed(self, delivery: Delivery) -> bytes | None:
        if len(delivery.properties) > REWRITTEN_BYTES_MAX:
            return self._rewrite(delivery)
        known, key = self._rewritten, (delivery.properties, delivery.redelivered)
        if key not in known:
            if len(known) >= REWRITTEN_MAX:
                known.clear()
            known[key] = self._rewrite(delivery)
        return known[key]

    def _rewrite(self, delivery: Delivery) -> bytes | None:
        properties = delivery.properties
        if not self.upstream.trust_user_id and has_property(properties, USER_ID):
            properties = with_property(properties, USER_ID, None)
        if RECEIVED_FROM_OCTETS not in properties:
            return with_header_octets(properties, self._octets[delivery.redelivered])
        headers = read_headers(properties, TABLE_DEPTH_MAX)
        here = self.exchange
        if not may_travel(headers, self.upstream.max_hops, here.cluster_name, here.vhost):
            return None
        written = prepended(headers, RECEIVED_FROM, self._fields[delivery.redelivered])
        return with_changed(properties, headers, written)


def upstream_queue_name(exchange: FederatedExchange, upstream: str, upstream_vhost: str) -> str:
    """As RabbitMQ names the queue of a link: what differs at both ends is part of it."""
    if exchange.vhost != upstream_vhost:
        downstream = f":{exchange.vhost}:{exchange.name}"
    else:
        downstream = "" if exchange.name == upstream else f":{exchange.name}"
    return f"federation: {upstream} -> {exchange.cluster_name}{downstream}"
