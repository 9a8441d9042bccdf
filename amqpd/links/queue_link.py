"""One attempt of a federation link of a queue, without a socket: see `link` for how messages move,
and rabbit_federation_queue_link for whose work it does.

The link consumes the queue upstream only while it is wanted: while the queue here is empty and has
a consumer that could take more (`want`). It does so with priority -1, so that consumers there come
first, and itself counts for no demand anywhere: two queues that are upstreams of each other do not
pass a message to and fro that nobody takes. Rules kept:

- A queue that is there upstream is taken as it is; a missing one is declared like ours.
- The first link of a message notes where it was published, since further on it comes from the
  default exchange; each link notes how often it came by.
- What was taken when the demand ends is brought home: up to the prefetch.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, NamedTuple

from amqpd.commands import Arguments, Basic, Channel, Confirm, Field, MethodCommand, Queue
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
    Link,
    LinkFailed,
    Preparation,
    Step,
    described,
)
from amqpd.links.methods import consume, declare_queue, look_for_queue, unchecked
from amqpd.links.reading import Delivery
from amqpd.links.travelled import entries, prepended, with_changed
from amqpd.links.upstream import Upstream
from amqpd.short_string import short_string
from amqpd.wire.properties import USER_ID, has_property, read_headers, with_property
from amqpd_exchanges.federation_upstream import RECEIVED_FROM

PRIORITY: Final[Arguments] = {"x-priority": ("l", -1)}
ORIGINAL_EXCHANGE: Final = "x-original-exchange"
ORIGINAL_KEY: Final = "x-original-routing-key"
ORIGINAL_CC: Final = "x-original-cc"
VISITS: Final = "visit-count"


class FederatedQueue(NamedTuple):
    """The queue here, as it was declared."""

    name: str
    durable: bool
    auto_delete: bool
    arguments: Arguments


class QueueLink(Link):
    """From a queue upstream to a queue here."""

    SOURCE: ClassVar[str] = "upstream"
    DESTINATION: ClassVar[str] = "here"
    MANDATORY: ClassVar[bool] = True
    """The queue here may be gone before we hear of it: what came for it stays upstream."""

    def __init__(
        self,
        upstream: Upstream,
        queue: FederatedQueue,
        source: LinkClient,
        destination: LinkClient,
        *,
        wanted: bool,
        shown_uri: str,
    ) -> None:
        """`wanted` is what `want` would say now."""
        super().__init__(
            source, destination, ack_mode=upstream.ack_mode, prefetch_count=upstream.prefetch_count
        )
        self.upstream = upstream
        self.queue = queue
        self._wanted = wanted
        self._entry: Arguments = {"uri": ("S", shown_uri), "queue": ("S", queue.name)}
        self._rewritten: dict[tuple[bytes, bytes, bool], bytes] = {}
        self._home = b"\x00" + short_string(queue.name)

    def want(self, wanted: bool) -> None:
        """Messages are wanted here, or not for now."""
        self._wanted = wanted
        if self.running:
            self._consume_or_not()

    def _consume_or_not(self) -> None:
        if self.retiring or self.source.state is not State.OPEN:
            return
        tag = self.upstream.consumer_tag
        if self._wanted and not self._consumer_tag:
            self._consumer_tag = tag
            method = consume(self.upstream.queue, tag, no_ack=not self._settles, nowait=True)
            self.source.send(CHANNEL, method, PRIORITY)
        elif not self._wanted and self._consumer_tag:
            self._consumer_tag = ""
            self.source.send(CHANNEL, unchecked(Basic.Cancel, consumer_tag=tag, nowait=True))

    # -- preparations

    def _prepare(self) -> Preparation:
        source, destination = self.source, self.destination
        yield Step(destination, Channel.Open())
        if self._confirms:
            yield Step(destination, Confirm.Select())
        self._require_priorities()
        yield Step(source, Channel.Open())
        queue, name = self.queue, self.upstream.queue
        answer = yield Step(source, look_for_queue(name), may_fail=(NOT_FOUND,))
        if isinstance(answer, ChannelClosed):
            yield Step(source, Channel.Open())
            declare = declare_queue(name, durable=queue.durable, auto_delete=queue.auto_delete)
            answer = yield Step(source, declare, queue.arguments)
        if not isinstance(answer, Queue.DeclareOk):
            raise LinkFailed(f"{self.SOURCE}: queue '{name}': {described(answer)}")
        if self._prefetch:
            yield Step(source, Basic.Qos(0, self._prefetch, False))

    def _require_priorities(self) -> None:
        octet, capabilities = self.source.server_properties.get("capabilities", ("V", None))
        if octet != "F" or capabilities.get("consumer_priorities") != ("t", True):
            raise LinkFailed(f"{self.SOURCE}: upstream_lacks_consumer_priorities")

    def _started(self) -> None:
        self._consume_or_not()

    # -- while it runs

    def _hear_method(self, client: LinkClient, command: MethodCommand) -> None:
        if client is self.source and isinstance(command.method, Queue.DeclareOk):
            self.lag = command.method.message_count

    def _look(self, now: float) -> None:
        """How many messages wait upstream."""
        self._look_at = now + LAG_EVERY_S
        if self.source.state is State.OPEN:
            self.source.send(CHANNEL, look_for_queue(self.upstream.queue))

    # -- messages

    def _envelope(self, delivery: Delivery) -> bytes:
        return self._home

    def _changed(self, delivery: Delivery) -> bytes:
        known = self._rewritten
        if len(delivery.properties) > REWRITTEN_BYTES_MAX:
            return self._rewrite(delivery)
        key = (delivery.properties, delivery.envelope, delivery.redelivered)
        if key not in known:
            if len(known) >= REWRITTEN_MAX:
                known.clear()
            known[key] = self._rewrite(delivery)
        return known[key]

    def _rewrite(self, delivery: Delivery) -> bytes:
        properties = delivery.properties
        if not self.upstream.trust_user_id and has_property(properties, USER_ID):
            properties = with_property(properties, USER_ID, None)
        came = read_headers(properties, TABLE_DEPTH_MAX)
        headers = dict(came)
        before = entries(headers, RECEIVED_FROM)
        visits = 0
        if RECEIVED_FROM in headers and headers[RECEIVED_FROM][0] == "A":
            again = [entry for entry in before if self._is_ours(entry)]
            visits = _visits(again[0]) if len(again) == 1 else 0
            headers[RECEIVED_FROM] = ("A", [entry for entry in before if entry not in again])
        else:
            split = 1 + delivery.envelope[0]
            exchange, routing_key = delivery.envelope[1:split], delivery.envelope[split + 1 :]
            headers[ORIGINAL_EXCHANGE] = ("S", exchange.decode("utf-8", "surrogateescape"))
            headers[ORIGINAL_KEY] = ("S", routing_key.decode("utf-8", "surrogateescape"))
        # Here the message is for the one queue, whoever else got it there.
        renamed = {ORIGINAL_CC if key == "CC" else key: item for key, item in headers.items()}
        visited: Arguments = {
            **self._entry,
            "redelivered": ("t", delivery.redelivered),
            VISITS: ("l", visits + 1),
        }
        written = prepended(renamed, RECEIVED_FROM, ("F", visited))
        return with_changed(properties, came, written)

    def _is_ours(self, entry: Field) -> bool:
        """Whether the message came over this link before (rabbit_federation_queue_link:
        visit_match)."""
        octet, table = entry
        return octet == "F" and all(
            table.get(name) == self._entry.get(name) for name in ("uri", "virtual_host", "queue")
        )


def _visits(entry: Field) -> int:
    count: Any = entry[1].get(VISITS, ("V", None))[1]
    return count if isinstance(count, int) else 0
