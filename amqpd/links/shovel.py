"""One attempt of a shovel, without a socket: two clients, and messages from the one to the other.

    source ──delivery──> [backlog] ──publish──> destination
       ^                     |                       |
       +─── ack, nack ── waiting: publish number -> delivery tag <── confirm

The destination is made ready first, so that nothing is taken that cannot be put anywhere; then the
source is asked, one method at a time (`_prepare`), and consumed. Rules kept:

- A message is acknowledged at the source when its ack-mode says so, and never before: on-confirm
  when the destination has confirmed it, on-publish when it was given to the destination's
  connection. What the destination refuses goes back into its queue.
- Properties and body pass as bytes, but for what the definition changes.
- Memory is bounded: what is taken and not settled by the prefetch; in any case, and where there is
  no prefetch (no-ack), the source is not read while `wants_source` is false.
- With delete-after N, N messages are settled, and what came beyond them goes back when we leave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from itertools import takewhile
from typing import Any, Final

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
    Blocked,
    ChannelClosed,
    Event,
    LinkClient,
    Opened,
    State,
    Unblocked,
    short_string,
)
from amqpd.links.reading import Confirmed, Delivery
from amqpd.links.shovel_definition import ShovelDefinition
from amqpd.wire.properties import read_headers, with_headers, with_property
from amqpd.wire.tables import typed

NOT_FOUND: Final = 404
CHANNEL: Final = 1
UNSENT_MAX: Final = 1024 * 1024
"""Octets that wait for the destination to read above which nothing more is taken."""
TAKEN_MAX: Final = 65535
"""Messages taken and not settled, where the prefetch sets no limit."""
ENVELOPES_MAX: Final = 1024
TABLE_DEPTH_MAX: Final = 64
FORWARD_HEADER: Final = "x-shovelled"
TIMESTAMP_HEADER: Final = "x-shovelled-timestamp"

Step = tuple[LinkClient, Frame, Arguments]
Answer = Frame | ChannelClosed


class LinkFailed(Exception):
    """This attempt is over; `str()` says why, for people."""


class Shovel:
    """Moves messages over two connections until one of them ends, or all is done."""

    def __init__(
        self,
        definition: ShovelDefinition,
        source: LinkClient,
        destination: LinkClient,
        forward_entry: Arguments,
        epoch_s: Callable[[], float],
    ) -> None:
        """`forward_entry` is what `x-shovelled` says of this shovel; `epoch_s()` is the time since
        1970."""
        self.definition = definition
        self.source = source
        self.destination = destination
        self.running = False
        """The source is consumed."""
        self.blocked = False
        """The destination takes nothing for now."""
        self.finished = False
        """delete-after has been reached: the shovel is to be deleted."""
        self.forwarded = 0
        self.remaining: int | None = None
        """Messages still to be settled; None for no end."""
        self._to_forward: int | None = None
        """Messages still to be sent."""
        self._backlog: deque[Delivery] = deque()
        self._waiting: dict[int, int] = {}
        """Publish number -> delivery tag, oldest first, of what is not confirmed yet."""
        self._done_tags: list[int] = []
        """Delivery tags to be acknowledged at the end of the chunk."""
        self._opened = 0
        self._script = self._prepare()
        self._asked: LinkClient | None = None
        """Whose answer the preparations wait for."""
        self._asked_passively = False
        self._entry: Field = ("F", forward_entry)
        self._epoch_s = epoch_s
        self._plain = not (
            definition.publish_properties
            or definition.add_forward_headers
            or definition.add_timestamp_header
        )
        self._envelopes: dict[bytes, bytes] = {}
        self._settles = definition.ack_mode != "no-ack"
        self._confirms = definition.ack_mode == "on-confirm"
        prefetch = definition.prefetch_count if self._settles else 0
        self._taken_max = prefetch or TAKEN_MAX

    # -- state

    @property
    def pending(self) -> int:
        """Messages taken and not passed on."""
        return len(self._backlog)

    @property
    def unconfirmed(self) -> int:
        """Messages passed on and not confirmed."""
        return len(self._waiting)

    @property
    def wants_source(self) -> bool:
        """Whether to read what the source says; if not, until the destination has said more or
        has been sent what waits for it."""
        return self.finished or not (
            self.destination.unsent_bytes > UNSENT_MAX
            or len(self._backlog) + len(self._waiting) > self._taken_max
        )

    # -- events

    def hear(self, client: LinkClient, events: list[Event]) -> None:
        """Act on what either side said. Raises LinkFailed."""
        from_source = client is self.source
        for event in events:
            kind = type(event)
            if kind is Delivery:
                self._backlog.append(event)  # type: ignore[arg-type]
            elif kind is Confirmed:
                self._confirm(event)  # type: ignore[arg-type]
            elif isinstance(event, Opened):
                self._opened += 1
                if self._opened == 2:
                    self._ask(next(self._script))
            elif isinstance(event, Blocked) and not from_source:
                self.blocked = True
            elif isinstance(event, Unblocked) and not from_source:
                self.blocked = False
            elif isinstance(event, ChannelClosed):
                self._channel_closed(client, event)
            elif isinstance(event, MethodCommand):
                self._reply(client, event)
        if self._backlog:
            self._forward()
        if self._done_tags:
            self._settle()
        if client.state is State.CLOSED and not self.finished:
            side = "source" if from_source else "destination"
            raise LinkFailed(f"{side}: {client.end_reason or 'closed'}")

    def _reply(self, client: LinkClient, command: MethodCommand) -> None:
        method = command.method
        if isinstance(method, Basic.Cancel):
            raise LinkFailed("source: the consumer was cancelled, its queue is gone")
        if client is self._asked:
            self._answer(method)

    def _channel_closed(self, client: LinkClient, event: ChannelClosed) -> None:
        # Only a passive declare may fail: what is missing is declared then.
        if client is self._asked and self._asked_passively and event.code == NOT_FOUND:
            self._answer(event)
            return
        side = "source" if client is self.source else "destination"
        raise LinkFailed(f"{side}: {event.code} {event.text}")

    # -- preparations

    def _ask(self, step: Step) -> None:
        client, method, arguments = step
        self._asked = client
        self._asked_passively = bool(getattr(method, "passive", False))
        try:
            client.send(CHANNEL, method, arguments)
        except ValueError as error:
            raise LinkFailed(f"{method.name}: {error}") from None

    def _answer(self, answer: Answer) -> None:
        self._asked = None
        try:
            step = self._script.send(answer)
        except StopIteration:
            self.running = True
            return
        self._ask(step)

    def _prepare(self) -> Generator[Step, Answer, None]:
        """Both ends, one question at a time."""
        definition, source, destination = self.definition, self.source, self.destination
        yield destination, Channel.Open(), {}
        if definition.dest_queue is not None:
            yield from _ensure_queue(
                destination,
                definition.dest_queue,
                typed(definition.dest_queue_args),
                definition.dest_predeclared,
            )
        elif definition.dest_exchange and definition.dest_predeclared:
            yield from _require_exchange(destination, definition.dest_exchange)
        if self._confirms:
            yield destination, Confirm.Select(), {}
        yield source, Channel.Open(), {}
        queue, length = yield from self._prepare_source()
        if definition.delete_after != "never":
            number = definition.delete_after
            count = length if number == "queue-length" else int(number)
            self.remaining = self._to_forward = count
            if not count:
                self.finished = True
                return
        if self._settles and definition.prefetch_count:
            yield source, Basic.Qos(0, definition.prefetch_count, False), {}
        consume = Basic.Consume.__new__(Basic.Consume)
        consume.ticket, consume.queue, consume.consumer_tag = 0, queue, definition.src_consumer_name
        consume.no_local = consume.exclusive = consume.nowait = False
        consume.no_ack = not self._settles
        yield source, consume, typed(definition.src_consumer_args)

    def _prepare_source(self) -> Generator[Step, Answer, tuple[str, int]]:
        """The queue to consume, and how many messages are in it."""
        definition, source = self.definition, self.source
        if definition.src_queue is not None:
            return (
                yield from _ensure_queue(
                    source,
                    definition.src_queue,
                    typed(definition.src_queue_args),
                    definition.src_predeclared,
                )
            )
        exchange = definition.src_exchange or ""
        if definition.src_predeclared and exchange:
            yield from _require_exchange(source, exchange)
        answer = yield source, _declare("", exclusive=True), {}
        assert isinstance(answer, Queue.DeclareOk)
        queue = answer.queue or ""
        bind = Queue.Bind.__new__(Queue.Bind)
        bind.ticket, bind.queue, bind.exchange, bind.nowait = 0, queue, exchange, False
        bind.routing_key = definition.src_exchange_key
        yield source, bind, {}
        return queue, 0

    # -- messages

    def _forward(self) -> None:
        """Pass on what was taken, as far as it may be."""
        backlog, waiting, destination = self._backlog, self._waiting, self.destination
        while backlog and not self.blocked and destination.state is State.OPEN:
            if self._to_forward is not None and self._settles:
                if not self._to_forward:
                    return
                self._to_forward -= 1
            delivery = backlog.popleft()
            properties = delivery.properties
            if not self._plain:
                properties = self._changed(properties)
            envelope = self._envelopes.get(delivery.envelope)
            if envelope is None:
                envelope = self._envelope(delivery)
            number = destination.publish(CHANNEL, envelope, properties, delivery.body)
            self.forwarded += 1
            if self._confirms:
                waiting[number] = delivery.delivery_tag
            elif self._settles:
                self._done_tags.append(delivery.delivery_tag)
            elif self.remaining is not None:
                self._count_settled(1)

    def _envelope(self, delivery: Delivery) -> bytes:
        """Where a message goes: remembered for others like it."""
        definition = self.definition
        split = 1 + delivery.envelope[0]
        exchange, routing_key = delivery.envelope[:split], delivery.envelope[split:]
        if definition.dest_queue is not None:
            exchange, routing_key = b"\x00", short_string(definition.dest_queue)
        else:
            if definition.dest_exchange is not None:
                exchange = short_string(definition.dest_exchange)
            if definition.dest_exchange_key is not None:
                routing_key = short_string(definition.dest_exchange_key)
        if len(self._envelopes) >= ENVELOPES_MAX:
            self._envelopes.clear()
        envelope = self._envelopes[delivery.envelope] = exchange + routing_key
        return envelope

    def _changed(self, properties: bytes) -> bytes:
        """A message's properties with what the definition adds, in RabbitMQ's order."""
        definition = self.definition
        for flag, value in definition.publish_properties:
            properties = with_property(properties, flag, value)
        if not (definition.add_forward_headers or definition.add_timestamp_header):
            return properties
        headers = read_headers(properties, TABLE_DEPTH_MAX)
        if definition.add_forward_headers:
            octet, before = headers.get(FORWARD_HEADER, ("V", None))
            # Newest first; one of another type is a client's own, and replaced.
            entries: list[Any] = before if octet == "A" else []
            headers[FORWARD_HEADER] = ("A", [self._entry, *entries])
        if definition.add_timestamp_header:
            headers[TIMESTAMP_HEADER] = ("l", int(self._epoch_s()))
        return with_headers(properties, headers)

    def _confirm(self, confirmed: Confirmed) -> None:
        waiting, number = self._waiting, confirmed.publish_number
        if confirmed.multiple:
            numbers = list(takewhile(lambda oldest: oldest <= number, waiting))
        else:
            numbers = [number] if number in waiting else []
        tags = [waiting.pop(settled) for settled in numbers]
        if confirmed.safe:
            self._done_tags += tags
            return
        for tag in tags:
            self.source.nack(CHANNEL, tag)
            if self._to_forward is not None:
                self._to_forward += 1

    def _settle(self) -> None:
        """Acknowledge, in as few words as tell the truth."""
        done, source = sorted(self._done_tags), self.source
        self._done_tags = []
        # Everything below the oldest message that is still open is done, and one word says so.
        first_open = next(iter(self._waiting.values()), None)
        if first_open is None and self._backlog:
            first_open = self._backlog[0].delivery_tag
        if first_open is None or done[-1] < first_open:
            source.ack(CHANNEL, done[-1], multiple=True)
        else:
            below = [tag for tag in done if tag < first_open]
            if below:
                source.ack(CHANNEL, below[-1], multiple=True)
            for tag in done[len(below) :]:
                source.ack(CHANNEL, tag)
        if self.remaining is not None:
            self._count_settled(len(done))

    def _count_settled(self, count: int) -> None:
        assert self.remaining is not None
        self.remaining = max(0, self.remaining - count)
        if not self.remaining:
            self.finished = True


def _declare(queue: str, *, exclusive: bool = False, passive: bool = False) -> Queue.Declare:
    # Not through the constructor, which refuses names that brokers take.
    declare = Queue.Declare.__new__(Queue.Declare)
    declare.ticket, declare.queue, declare.passive = 0, queue, passive
    declare.durable, declare.exclusive = not exclusive, exclusive
    declare.auto_delete = declare.nowait = False
    return declare


def _ensure_queue(
    client: LinkClient, queue: str, arguments: Arguments, predeclared: bool
) -> Generator[Step, Answer, tuple[str, int]]:
    """The queue as it is; if it is missing, one is declared, unless it has to be there."""
    answer = yield client, _declare(queue, passive=True), {}
    if isinstance(answer, ChannelClosed):
        if predeclared:
            raise LinkFailed(f"{answer.code} {answer.text}: its queue is to be predeclared")
        yield client, Channel.Open(), {}
        answer = yield client, _declare(queue), arguments
    if not isinstance(answer, Queue.DeclareOk):
        raise LinkFailed(f"queue '{queue}' cannot be declared: {_shown(answer)}")
    return queue, answer.message_count or 0


def _require_exchange(client: LinkClient, exchange: str) -> Generator[Step, Answer, None]:
    declare = Exchange.Declare.__new__(Exchange.Declare)
    declare.ticket, declare.exchange, declare.exchange_type = 0, exchange, "direct"
    declare.passive = True
    declare.durable = declare.auto_delete = declare.internal = declare.nowait = False
    answer = yield client, declare, {}
    if isinstance(answer, ChannelClosed):
        raise LinkFailed(f"{answer.code} {answer.text}: its exchange is to be predeclared")


def _shown(answer: Answer) -> str:
    if isinstance(answer, ChannelClosed):
        return f"{answer.code} {answer.text}"
    return f"the answer was {answer.name}"
