"""One attempt of a shovel, without a socket: see `link` for how messages move.

The destination is made ready first, so that nothing is taken that cannot be put anywhere; then the
source is asked, one method at a time (`_prepare`), and consumed. With delete-after N, N messages
are settled, and what came beyond them goes back when we leave.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, ClassVar, Final

from amqpd.commands import (
    Arguments,
    Basic,
    Channel,
    Confirm,
    Exchange,
    Field,
    MethodCommand,
    Queue,
)
from amqpd.links.client import TABLE_DEPTH_MAX, ChannelClosed, LinkClient, State
from amqpd.links.link import (
    CHANNEL,
    LAG_EVERY_S,
    NOT_FOUND,
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
from amqpd.links.shovel_definition import ShovelDefinition
from amqpd.short_string import short_string
from amqpd.wire.properties import read_headers, with_headers, with_property
from amqpd.wire.tables import typed

FORWARD_HEADER: Final = "x-shovelled"
TIMESTAMP_HEADER: Final = "x-shovelled-timestamp"
ARGUMENTS_DEPTH_MAX: Final = 1000
"""Arguments were checked when they were set. What was stored by a version that took deeper ones is
for the other end to refuse."""


class Shovel(Link):
    """Moves messages until one of the connections ends, or delete-after is reached."""

    SOURCE: ClassVar[str] = "source"
    DESTINATION: ClassVar[str] = "destination"

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
        super().__init__(
            source,
            destination,
            ack_mode=definition.ack_mode,
            prefetch_count=definition.prefetch_count,
        )
        self.definition = definition
        self.remaining: int | None = None
        """Messages still to be settled; None for no end. At 0 the shovel is to be deleted."""
        self._queue = ""
        """That is consumed, once it is known."""
        self._to_forward: int | None = None
        """Messages still to be sent."""
        self._entry: Field = ("F", forward_entry)
        self._epoch_s = epoch_s
        self._plain = not (
            definition.publish_properties
            or definition.add_forward_headers
            or definition.add_timestamp_header
        )

    # -- preparations

    def _prepare(self) -> Preparation:
        """Both ends, one question at a time."""
        definition, source, destination = self.definition, self.source, self.destination
        yield Step(destination, Channel.Open())
        if definition.dest_queue is not None:
            yield from _ensure_queue(
                destination,
                definition.dest_queue,
                typed(definition.dest_queue_args, ARGUMENTS_DEPTH_MAX),
                definition.dest_predeclared,
            )
        elif definition.dest_exchange and definition.dest_predeclared:
            yield from _require_exchange(destination, definition.dest_exchange)
        if self._confirms:
            yield Step(destination, Confirm.Select())
        yield Step(source, Channel.Open())
        queue, length = yield from self._prepare_source()
        self._queue = queue
        if definition.delete_after != "never":
            number = definition.delete_after
            count = length if number == "queue-length" else int(number)
            self.remaining = self._to_forward = count
            if not count:
                self.finished = True
                return
        if self._prefetch:
            yield Step(source, Basic.Qos(0, self._prefetch, False))
        yield Step(
            source,
            consume(queue, definition.src_consumer_name, no_ack=not self._settles),
            typed(definition.src_consumer_args, ARGUMENTS_DEPTH_MAX),
        )

    def _prepare_source(self) -> Generator[Step | None, Answer, tuple[str, int]]:
        """The queue to consume, and how many messages are in it."""
        definition, source = self.definition, self.source
        if definition.src_queue is not None:
            return (
                yield from _ensure_queue(
                    source,
                    definition.src_queue,
                    typed(definition.src_queue_args, ARGUMENTS_DEPTH_MAX),
                    definition.src_predeclared,
                )
            )
        exchange = definition.src_exchange or ""
        if definition.src_predeclared and exchange:
            yield from _require_exchange(source, exchange)
        answer = yield Step(source, unchecked(Queue.Declare, queue="", exclusive=True))
        if not isinstance(answer, Queue.DeclareOk):
            raise LinkFailed(f"a queue for exchange '{exchange}': {described(answer)}")
        queue = answer.queue or ""
        key = definition.src_exchange_key
        bind = unchecked(Queue.Bind, queue=queue, exchange=exchange, routing_key=key)
        yield Step(source, bind)
        return queue, 0

    # -- while it runs

    def _hear_method(self, client: LinkClient, command: MethodCommand) -> None:
        if client is self.source and isinstance(command.method, Queue.DeclareOk):
            self.lag = command.method.message_count

    def _look(self, now: float) -> None:
        """How many messages wait there."""
        self._look_at = now + LAG_EVERY_S
        if self.source.state is State.OPEN:
            self.source.send(CHANNEL, look_for_queue(self._queue))

    # -- messages

    def _may_forward(self) -> bool:
        if self._to_forward is not None and self._settles:
            if not self._to_forward:
                return False
            self._to_forward -= 1
        return True

    def _envelope(self, delivery: Delivery) -> bytes:
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
        return exchange + routing_key

    def _changed(self, delivery: Delivery) -> bytes:
        """A message's properties with what the definition adds, in RabbitMQ's order."""
        properties = delivery.properties
        if self._plain:
            return properties
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

    def _count_settled(self, count: int) -> None:
        if self.remaining is not None:
            self.remaining = max(0, self.remaining - count)
            if not self.remaining:
                self.finished = True

    def _count_refused(self, count: int) -> None:
        if self._to_forward is not None:
            self._to_forward += count


def _ensure_queue(
    client: LinkClient, queue: str, arguments: Arguments, predeclared: bool
) -> Generator[Step | None, Answer, tuple[str, int]]:
    """The queue as it is; if it is missing, one is declared, unless it has to be there."""
    answer = yield Step(client, look_for_queue(queue), may_fail=(NOT_FOUND,))
    if isinstance(answer, ChannelClosed):
        if predeclared:
            raise LinkFailed(f"{answer.code} {answer.text}: its queue is to be predeclared")
        yield Step(client, Channel.Open())
        answer = yield Step(client, declare_queue(queue), arguments)
    if not isinstance(answer, Queue.DeclareOk):
        raise LinkFailed(f"queue '{queue}' cannot be declared: {described(answer)}")
    return queue, answer.message_count or 0


def _require_exchange(client: LinkClient, exchange: str) -> Generator[Step | None, Answer, None]:
    answer = yield Step(client, look_for_exchange(exchange), may_fail=(NOT_FOUND,))
    if isinstance(answer, ChannelClosed):
        raise LinkFailed(f"{answer.code} {answer.text}: its exchange is to be predeclared")
    if not isinstance(answer, Exchange.DeclareOk):
        raise LinkFailed(f"exchange '{exchange}': {described(answer)}")
