"""Conversations with the broker's core, in this process, without a socket or a clock.

    bytes -> Peer -> Broker -> bytes          every call is one turn; time passes when told to

A test reads like what a client and the broker say to each other:

    def test_publish_to_a_missing_exchange(broker: BrokerUnderTest) -> None:
        channel = broker.client().channel()
        channel.publish("nope", "key", b"x")
        channel.expect_closed(404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (60, 40))

What the broker says is kept per channel, in order, until the test takes it (`take`, `deliveries`,
`confirms`, ...). The methods of `Channel` wait for their reply, as client libraries do: they leave
deliveries, returns and confirms that came before it where they are, and raise `Refused` when a
close came instead. `send` says something without waiting for an answer.

With `BrokerUnderTest(journaling=True)` nothing is ever safe until the test says
`broker.journal.commit()`; `broker.crash_and_recover()` starts again from what was committed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import pack, unpack_from
from typing import Any, Final, TypeVar, cast

from amqpd.broker.broker import Broker
from amqpd.broker.definitions import VhostRecord
from amqpd.broker.parameters import Component
from amqpd.broker.passwords import SHA256, hash_password
from amqpd.commands import (
    Arguments,
    Basic,
    Confirm,
    Exchange,
    Field,
    Frame,
    Queue,
    Tx,
)
from amqpd.commands import (
    Channel as ChannelClass,
)
from amqpd.commands import (
    Connection as ConnectionClass,
)
from amqpd.config import Compat, Config, Limits
from amqpd.protocol.connection import Connection
from amqpd.protocol.methods import decode_method, encode_method
from amqpd.runtime.peer import Peer
from amqpd.runtime.recovery import recover, restored_delays
from amqpd.wire.tables import encode_table
from amqpd_storage.entries import (
    LARGE_BYTES,
    PASSING_QUEUE_ID_MIN,
    POSITION_BITS,
    POSITION_MAX,
    Backlog,
    Barrier,
    Delay,
    Delivered,
    DropDefinition,
    DropDefinitions,
    DropDelays,
    DropQueue,
    DropRange,
    Enqueue,
    Entry,
    PutDefinition,
    Release,
    Settle,
    StoredDelay,
    StoredDelays,
    StoredMessage,
    storage_key,
)
from amqpd_storage.journal import Batch, Journal
from amqpd_storage.sqlite_engine import Recovery, SQLiteStore
from tests.hyphens import hyphenated

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
DEPTH_MAX: Final = 64
TURNS_MAX: Final = 1000
"""So many turns in a row are too many: what goes on so does not end."""
CAPABILITIES: Final = (
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "authentication_failure_close",
)
"""What pika claims."""

F = TypeVar("F", bound=Frame)
T = TypeVar("T")


# -- what is said


def method(frame_type: type[F], **fields: Any) -> F:
    """A method with these fields and everything else empty; nothing is checked."""
    made = frame_type.__new__(frame_type)
    for name, value in fields.items():
        assert name in frame_type.__slots__, f"{frame_type.name} has no {name}"
        setattr(made, name, value)
    return made


def table(values: Mapping[str, Any]) -> Arguments:
    """A field table. A `Field` (`("u", 5)`) stays; Python's values go as pika sends them."""
    return {name: field(value) for name, value in values.items()}


def field(value: Any) -> Field:
    """One value of a field table."""
    match value:
        case (str(octet), _) if len(octet) == 1:
            return cast(Field, value)
        case bool():
            return ("t", value)
        case int():
            return ("I", value) if -(2**31) <= value < 2**31 else ("l", value)
        case float():
            return ("d", value)
        case str():
            return ("S", value)
        case bytes():
            return ("x", value)
        case None:
            return ("V", None)
        case list():
            return ("A", [field(item) for item in value])
        case dict():
            return ("F", table(value))
    raise TypeError(f"no field for {value!r}")


def _short(text: str | None) -> bytes | None:
    if text is None:
        return None
    octets = text.encode("utf-8", "surrogateescape")
    return bytes((len(octets),)) + octets


def properties(
    *,
    content_type: str | None = None,
    content_encoding: str | None = None,
    headers: Mapping[str, Any] | None = None,
    delivery_mode: int | None = None,
    priority: int | None = None,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    expiration: str | None = None,
    message_id: str | None = None,
    timestamp: int | None = None,
    type: str | None = None,
    user_id: str | None = None,
    app_id: str | None = None,
    cluster_id: str | None = None,
) -> bytes:
    """Flags and property list of a content header, written by the standard and not by our codec."""
    parts: list[bytes] = []
    flags = 0
    encoded: tuple[tuple[int, bytes | None], ...] = (
        (15, _short(content_type)),
        (14, _short(content_encoding)),
        (13, None if headers is None else encode_table(table(headers))),
        (12, None if delivery_mode is None else bytes((delivery_mode,))),
        (11, None if priority is None else bytes((priority,))),
        (10, _short(correlation_id)),
        (9, _short(reply_to)),
        (8, _short(expiration)),
        (7, _short(message_id)),
        (6, None if timestamp is None else pack(">Q", timestamp)),
        (5, _short(type)),
        (4, _short(user_id)),
        (3, _short(app_id)),
        (2, _short(cluster_id)),
    )
    for bit, octets in encoded:
        if octets is not None:
            flags |= 1 << bit
            parts.append(octets)
    return pack(">H", flags) + b"".join(parts)


PERSISTENT: Final = properties(delivery_mode=2)
TRANSIENT: Final = properties()


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame as bytes."""
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


# -- what is heard


@dataclass(frozen=True)
class Delivery:
    """basic.deliver with its content."""

    consumer_tag: str
    delivery_tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


@dataclass(frozen=True)
class Got:
    """basic.get-ok with its content."""

    delivery_tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    message_count: int
    properties: bytes
    body: bytes


@dataclass(frozen=True)
class Returned:
    """basic.return with its content."""

    code: int
    text: str
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


@dataclass(frozen=True)
class Confirmed:
    """basic.ack or basic.nack from the broker."""

    number: int
    multiple: bool = False
    ack: bool = True


Heard = Frame | Delivery | Got | Returned | Confirmed


class Refused(Exception):
    """A close came where a reply was due."""

    def __init__(self, close: ChannelClass.Close | ConnectionClass.Close) -> None:
        self.code = close.reply_code or 0
        self.text = close.reply_text or ""
        self.ids = (close.class_id or 0, close.method_id or 0)
        self.of_connection = isinstance(close, ConnectionClass.Close)
        super().__init__(f"{self.code} {self.text} {self.ids}")

    def check(self, code: int, text: str, ids: tuple[int, int], *, of_connection: bool) -> None:
        """It is this refusal, word for word."""
        assert (self.code, self.text, self.ids) == (code, text, ids)
        assert self.of_connection is of_connection


class Ear:
    """Frames -> what one channel heard, in order."""

    def __init__(self) -> None:
        self.heard: deque[Heard] = deque()
        self._method: Frame | None = None
        self._properties = b""
        self._body = b""
        self._remaining = 0

    def hear(self, kind: int, payload: bytes) -> Heard | None:
        """One frame; what it completes."""
        if kind == METHOD:
            assert self._method is None, "a method frame came amid content"
            heard, _ = decode_method(payload, DEPTH_MAX)
            if isinstance(heard, Basic.Deliver | Basic.GetOk | Basic.Return):
                self._method = heard
                self._properties = b""
                return None
            if isinstance(heard, Basic.Ack | Basic.Nack):
                confirmed = Confirmed(
                    heard.delivery_tag or 0, bool(heard.multiple), isinstance(heard, Basic.Ack)
                )
                return self._keep(confirmed)
            return self._keep(heard)
        assert self._method is not None, "content came without a method"
        if kind == HEADER:
            assert not self._properties, "two content headers"
            class_id, weight, self._remaining = unpack_from(">HHQ", payload)
            assert (class_id, weight) == (60, 0)
            self._properties, self._body = payload[12:], b""
        else:
            assert kind == BODY
            assert payload, "an empty body frame"
            self._body += payload
            self._remaining -= len(payload)
        assert self._remaining >= 0
        if self._remaining:
            return None
        completed, self._method = self._method, None
        return self._keep(self._content(completed))

    def _keep(self, heard: Heard) -> Heard:
        self.heard.append(heard)
        return heard

    def _content(self, completed: Frame) -> Heard:
        match completed:
            case Basic.Deliver():
                return Delivery(
                    completed.consumer_tag or "",
                    completed.delivery_tag or 0,
                    bool(completed.redelivered),
                    completed.exchange or "",
                    completed.routing_key or "",
                    self._properties,
                    self._body,
                )
            case Basic.GetOk():
                return Got(
                    completed.delivery_tag or 0,
                    bool(completed.redelivered),
                    completed.exchange or "",
                    completed.routing_key or "",
                    completed.message_count or 0,
                    self._properties,
                    self._body,
                )
            case Basic.Return():
                return Returned(
                    completed.reply_code or 0,
                    completed.reply_text or "",
                    completed.exchange or "",
                    completed.routing_key or "",
                    self._properties,
                    self._body,
                )
        raise AssertionError(f"{completed.name} has no content")


# -- clients


class Client:
    """One connection to the broker under test. Made by `BrokerUnderTest.client`."""

    def __init__(
        self,
        broker: BrokerUnderTest,
        *,
        name: str = "client",
        is_loopback: bool = True,
        capabilities: Sequence[str] = CAPABILITIES,
        frame_max: int = 131072,
        channel_max: int = 2047,
        heartbeat: int = 0,
        peer_type: type[Peer] = Peer,
    ) -> None:
        self.broker = broker
        self.reading = True
        """Whether it takes what the broker has to say; see `read`."""
        self.heartbeats = 0
        """Heartbeats heard."""
        self.log: list[tuple[int, Heard]] = []
        """Everything ever heard, with its channel, over all channels in order."""
        self.frame_max = frame_max
        self._capabilities = capabilities
        self._channel_max = channel_max
        self._heartbeat = heartbeat
        self._ears: dict[int, Ear] = {}
        self._buffer = b""
        self._pipeline: list[bytes] | None = None
        self._unread: list[bytes] = []
        """What the broker has not read yet, because it had to wait."""
        self._next_channel = 1
        self.peer = peer_type(
            broker.core,
            name,
            is_loopback=is_loopback,
            information="test",
            now=broker.now,
            speaking=broker.speaking,
        )

    # -- bytes

    def send_bytes(self, data: bytes) -> None:
        """Say something; one turn of the broker, unless `together`."""
        if self._pipeline is not None:
            self._pipeline.append(data)
            return
        self._unread.append(data)
        self.be_read()
        self.broker.turn()

    def be_read(self) -> bool:
        """Let the broker read what was said, as far as it does; whether it read any."""
        peer = self.peer
        read = False
        while peer.may_go_on:
            peer.go_on(self.broker.now)
            read = True
        while self._unread and not peer.busy:
            peer.receive(self._unread.pop(0), self.broker.now)
            read = True
        return read

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is said within arrives as one chunk, and so is one turn."""
        assert self._pipeline is None
        self._pipeline = []
        try:
            yield
        finally:
            data = b"".join(self._pipeline)
            self._pipeline = None
            self.send_bytes(data)

    def send(self, channel: int, said: Frame, arguments: Arguments | None = None) -> None:
        """Say a method."""
        self.send_bytes(frame(METHOD, channel, encode_method(said, arguments or {})))

    def read(self) -> None:
        """Hear what piled up while not `reading`, and go on reading."""
        self.reading = True
        self.take_output()
        self.broker.turn()

    def take_output(self) -> None:
        """Hear what the broker has to say now."""
        if not self.reading:
            return
        data = self.peer.connection.take_output(self.broker.now)
        self._hear(data)
        self.peer.sent(len(data))

    def _hear(self, data: bytes) -> None:
        data = self._buffer + data
        position = 0
        if data.startswith(b"AMQP"):
            self.log.append((0, method(ConnectionClass.Start)))
            position = 8
        while position + 8 <= len(data):
            kind, channel, size = unpack_from(">BHI", data, position)
            if self.frame_max:
                assert size + 8 <= self.frame_max, "a frame above frame_max"
            end = position + 7 + size
            if end >= len(data):
                break
            assert data[end] == 0xCE
            self._hear_frame(kind, channel, data[position + 7 : end])
            position = end + 1
        self._buffer = data[position:]

    def _hear_frame(self, kind: int, channel: int, payload: bytes) -> None:
        if kind == HEARTBEAT:
            assert (channel, payload) == (0, b"")
            self.heartbeats += 1
            return
        heard = self.ear(channel).hear(kind, payload)
        if heard is not None:
            self.log.append((channel, heard))

    def ear(self, channel: int) -> Ear:
        """What was heard on a channel."""
        return self._ears.setdefault(channel, Ear())

    # -- the connection's life

    def connect(self, user: str = "guest", password: str = "guest", vhost: str = "/") -> Client:
        """The whole handshake. Raises `Refused`."""
        self.send_bytes(PROTOCOL_HEADER)
        self.receive(ConnectionClass.Start)
        client_properties = table(
            {"capabilities": dict.fromkeys(self._capabilities, True), "product": "test"}
        )
        response = b"\x00" + user.encode() + b"\x00" + password.encode()
        start_ok = method(
            ConnectionClass.StartOk, mechanism="PLAIN", response=response, locale="en_US"
        )
        self.send(0, start_ok, client_properties)
        self.receive(ConnectionClass.Tune)
        tune_ok = method(
            ConnectionClass.TuneOk,
            channel_max=self._channel_max,
            frame_max=self.frame_max,
            heartbeat=self._heartbeat,
        )
        self.send(0, tune_ok)
        self.send(0, method(ConnectionClass.Open, virtual_host=vhost))
        self.receive(ConnectionClass.OpenOk)
        return self

    def receive(self, frame_type: type[F]) -> F:
        """The next method on channel 0, which has to be this one. Raises `Refused`."""
        heard = self.ear(0).heard
        assert heard, f"nothing was said, {frame_type.name} was due"
        said = heard.popleft()
        if isinstance(said, ConnectionClass.Close) and frame_type is not ConnectionClass.Close:
            raise Refused(said)
        assert isinstance(said, frame_type), said
        return said

    def channel(self, number: int | None = None) -> Channel:
        """Open a channel: this one, or the next."""
        if number is None:
            number = self._next_channel
        self._next_channel = max(self._next_channel, number + 1)
        return Channel(self, number).open()

    def close(self) -> None:
        """connection.close, and its answer."""
        self.send(0, method(ConnectionClass.Close, reply_code=200, reply_text="bye"))
        self.receive(ConnectionClass.CloseOk)
        assert self.peer.closed

    def drop(self) -> None:
        """The socket is gone without a word."""
        self.peer.lost("dropped by the test")
        self.broker.turn()

    def expect_closed(self, code: int, text: str, ids: tuple[int, int]) -> None:
        """The broker closed the connection, with these words; answers it."""
        Refused(self.receive(ConnectionClass.Close)).check(code, text, ids, of_connection=True)
        self._after_close()

    def _after_close(self) -> None:
        assert self.peer.session is None
        self.send(0, method(ConnectionClass.CloseOk))
        assert self.peer.closed

    @contextmanager
    def refuses(self, code: int, text: str, ids: tuple[int, int]) -> Iterator[None]:
        """What is said within closes the connection, with these words."""
        refused = None
        try:
            yield
        except Refused as raised:
            refused = raised
        if refused is None:
            self.expect_closed(code, text, ids)
            return
        refused.check(code, text, ids, of_connection=True)
        self._after_close()


class Channel:
    """One channel of a client, speaking AMQP's verbs."""

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.number = number
        self._ear = client.ear(number)

    # -- saying and hearing

    def send(self, said: Frame, arguments: Arguments | None = None) -> None:
        """Say a method without waiting for anything."""
        self.client.send(self.number, said, arguments)

    def call(self, said: Frame, reply: type[F], arguments: Mapping[str, Any] | None = None) -> F:
        """Say a method and hear its reply. Raises `Refused`."""
        self.send(said, table(arguments or {}))
        return self.receive(reply)

    def receive(self, frame_type: type[F]) -> F:
        """The next reply, which has to be this one; deliveries and the like before it stay."""
        heard = self._ear.heard
        for index, said in enumerate(heard):
            if isinstance(said, frame_type):
                del heard[index]
                return said
            if isinstance(said, ChannelClass.Close):
                del heard[index]
                raise Refused(said)
            if isinstance(said, Frame) and not isinstance(said, Basic.Cancel):
                raise AssertionError(f"{said.name} came, {frame_type.name} was due")
        if self.client.ear(0).heard:
            self.client.receive(frame_type)
        raise AssertionError(f"{frame_type.name} was due, there is {list(heard)}")

    @property
    def heard(self) -> list[Heard]:
        """What was said and not taken yet."""
        return list(self._ear.heard)

    def take(self, heard_type: type[T]) -> T:
        """The next thing said, which has to be of this type."""
        assert self._ear.heard, f"nothing was said, {heard_type.__name__} was due"
        said = self._ear.heard.popleft()
        assert isinstance(said, heard_type), said
        return said

    def take_all(self) -> list[Heard]:
        """Everything said since."""
        said = self.heard
        self._ear.heard.clear()
        return said

    def expect_nothing(self) -> None:
        """Nothing was said, here or on channel 0."""
        assert self.heard == []
        assert not self.client.ear(0).heard

    def deliveries(self) -> list[Delivery]:
        """Everything said since, which has to be deliveries."""
        said = self.take_all()
        assert all(isinstance(item, Delivery) for item in said), said
        return cast(list[Delivery], said)

    def bodies(self) -> list[bytes]:
        """The bodies of everything said since, which has to be deliveries."""
        return [delivery.body for delivery in self.deliveries()]

    def confirms(self) -> list[Confirmed]:
        """Everything said since, which has to be confirms."""
        said = self.take_all()
        assert all(isinstance(item, Confirmed) for item in said), said
        return cast(list[Confirmed], said)

    def expect_closed(self, code: int, text: str, ids: tuple[int, int]) -> None:
        """The broker closed the channel, with these words; answers it. `open` opens it again."""
        Refused(self.take(ChannelClass.Close)).check(code, text, ids, of_connection=False)
        self._after_close()

    @contextmanager
    def refuses(self, code: int, text: str, ids: tuple[int, int]) -> Iterator[None]:
        """What is said within closes the channel, with these words, and not the connection."""
        refused = None
        try:
            yield
        except Refused as raised:
            refused = raised
        if refused is None:
            self.expect_closed(code, text, ids)
            return
        refused.check(code, text, ids, of_connection=False)
        self._after_close()

    def _after_close(self) -> None:
        self.expect_nothing()
        self.send(method(ChannelClass.CloseOk))

    # -- class channel

    def open(self) -> Channel:
        """channel.open."""
        self.call(method(ChannelClass.Open), ChannelClass.OpenOk)
        return self

    def close(self) -> None:
        """channel.close."""
        self.call(
            method(ChannelClass.Close, reply_code=200, reply_text="bye"), ChannelClass.CloseOk
        )

    def flow(self, active: bool) -> bool:
        """channel.flow."""
        return bool(self.call(method(ChannelClass.Flow, active=active), ChannelClass.FlowOk).active)

    # -- class exchange

    def exchange_declare(
        self,
        name: str,
        type: str = "direct",
        *,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """exchange.declare; the name, for brevity."""
        said = method(
            Exchange.Declare,
            exchange=name,
            exchange_type=type,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
        )
        self.call(said, Exchange.DeclareOk, arguments)
        return name

    def exchange_delete(self, name: str, *, if_unused: bool = False) -> None:
        """exchange.delete."""
        said = method(Exchange.Delete, exchange=name, if_unused=if_unused)
        self.call(said, Exchange.DeleteOk)

    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """exchange.bind."""
        said = method(
            Exchange.Bind, destination=destination, source=source, routing_key=routing_key
        )
        self.call(said, Exchange.BindOk, arguments)

    def exchange_unbind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """exchange.unbind."""
        said = method(
            Exchange.Unbind, destination=destination, source=source, routing_key=routing_key
        )
        self.call(said, Exchange.UnbindOk, arguments)

    # -- class queue

    def queue_declare(
        self,
        name: str = "",
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> Queue.DeclareOk:
        """queue.declare."""
        said = method(
            Queue.Declare,
            queue=name,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
        )
        return self.call(said, Queue.DeclareOk, arguments)

    def counts(self, name: str) -> tuple[int, int]:
        """Ready messages and consumers, from a passive declare."""
        ok = self.queue_declare(name, passive=True)
        assert ok.queue == name
        return ok.message_count or 0, ok.consumer_count or 0

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """queue.bind."""
        said = method(Queue.Bind, queue=queue, exchange=exchange, routing_key=routing_key)
        self.call(said, Queue.BindOk, arguments)

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """queue.unbind."""
        said = method(Queue.Unbind, queue=queue, exchange=exchange, routing_key=routing_key)
        self.call(said, Queue.UnbindOk, arguments)

    def queue_purge(self, name: str) -> int:
        """queue.purge; how many messages."""
        return self.call(method(Queue.Purge, queue=name), Queue.PurgeOk).message_count or 0

    def queue_delete(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """queue.delete; how many messages."""
        said = method(Queue.Delete, queue=name, if_unused=if_unused, if_empty=if_empty)
        return self.call(said, Queue.DeleteOk).message_count or 0

    # -- class basic

    def qos(self, count: int, *, of_channel: bool = False, size: int = 0) -> None:
        """basic.qos; `of_channel` is its flag `global`."""
        said = method(Basic.Qos, prefetch_size=size, prefetch_count=count, global_=of_channel)
        self.call(said, Basic.QosOk)

    def consume(
        self,
        queue: str,
        tag: str = "",
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        no_local: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """basic.consume; the consumer tag."""
        said = method(
            Basic.Consume,
            queue=queue,
            consumer_tag=tag,
            no_ack=no_ack,
            exclusive=exclusive,
            no_local=no_local,
        )
        return self.call(said, Basic.ConsumeOk, arguments).consumer_tag or ""

    def cancel(self, tag: str) -> None:
        """basic.cancel."""
        assert self.call(method(Basic.Cancel, consumer_tag=tag), Basic.CancelOk).consumer_tag == tag

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes = b"",
        properties: bytes = TRANSIENT,
        *,
        mandatory: bool = False,
        immediate: bool = False,
    ) -> None:
        """basic.publish, all frames in one turn."""
        said = method(
            Basic.Publish,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=mandatory,
            immediate=immediate,
        )
        frames = [
            frame(METHOD, self.number, encode_method(said)),
            frame(HEADER, self.number, pack(">HHQ", 60, 0, len(body)) + properties),
        ]
        room = (self.client.frame_max or 131072) - 8
        for start in range(0, len(body), room):
            frames.append(frame(BODY, self.number, body[start : start + room]))
        self.client.send_bytes(b"".join(frames))

    def get(self, queue: str, *, no_ack: bool = False) -> Got | None:
        """basic.get; None if the queue is empty. Raises `Refused`."""
        self.send(method(Basic.Get, queue=queue, no_ack=no_ack))
        for index, said in enumerate(self._ear.heard):
            if isinstance(said, Got):
                del self._ear.heard[index]
                return said
        self.receive(Basic.GetEmpty)
        return None

    def drain(self, queue: str) -> list[bytes]:
        """The bodies of everything ready, taken for good."""
        bodies: list[bytes] = []
        while (got := self.get(queue, no_ack=True)) is not None:
            bodies.append(got.body)
        return bodies

    def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """basic.ack."""
        self.send(method(Basic.Ack, delivery_tag=delivery_tag, multiple=multiple))

    def nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        """basic.nack."""
        self.send(method(Basic.Nack, delivery_tag=delivery_tag, multiple=multiple, requeue=requeue))

    def reject(self, delivery_tag: int, *, requeue: bool = True) -> None:
        """basic.reject."""
        self.send(method(Basic.Reject, delivery_tag=delivery_tag, requeue=requeue))

    def recover(self, *, requeue: bool = True) -> None:
        """basic.recover."""
        self.call(method(Basic.Recover, requeue=requeue), Basic.RecoverOk)

    # -- classes confirm and tx

    def confirm_select(self) -> None:
        """confirm.select."""
        self.call(method(Confirm.Select), Confirm.SelectOk)

    def tx_select(self) -> None:
        """tx.select."""
        self.call(method(Tx.Select), Tx.SelectOk)

    def tx_commit(self) -> None:
        """tx.commit."""
        self.call(method(Tx.Commit), Tx.CommitOk)

    def tx_rollback(self) -> None:
        """tx.rollback."""
        self.call(method(Tx.Rollback), Tx.RollbackOk)


# -- the broker


class MemoryStore:
    """What would be on the disk. Strict: it refuses what the real engine would trip over."""

    path = Path("memory")

    def __init__(self) -> None:
        self.definitions: dict[tuple[str, str], bytes] = {}
        self.delivered: dict[int, int] = {}
        self.rows: dict[int, StoredMessage] = {}
        self.shared: set[int] = set()
        self.lasts: dict[int, int] = {}
        """The last position that each queue ever had."""
        self.delays: dict[int, tuple[int, StoredDelay]] = {}
        self.dropped: list[tuple[int, int]] = []
        """First and last key of what is deleted when there is time: whatever is there then."""
        self.page_bytes_max = 1 << 40

    def write(self, batch: Batch) -> None:
        """One transaction."""
        for content in batch.shared:
            assert content.message_id not in self.shared
            self.shared.add(content.message_id)
        for entry in batch.entries:
            self._apply(entry)

    def _apply(self, entry: Entry) -> None:
        match entry:
            case PutDefinition():
                self.definitions[entry.kind, entry.key] = entry.value
            case DropDefinition():
                del self.definitions[entry.kind, entry.key]
            case DropDefinitions():
                self.definitions = {
                    (kind, key): value
                    for (kind, key), value in self.definitions.items()
                    if kind != entry.kind or not key.startswith(entry.prefix)
                }
            case Enqueue():
                content = entry.content
                assert entry.key not in self.rows, "a key was used twice"
                assert not any(first <= entry.key <= last for first, last in self.dropped)
                assert not content.message_id or content.message_id in self.shared
                queue_id, position = entry.key >> POSITION_BITS, entry.key & POSITION_MAX
                self.lasts[queue_id] = max(position, self.lasts.get(queue_id, 0))
                self.rows[entry.key] = StoredMessage(
                    entry.key,
                    content.message_id,
                    content.envelope,
                    content.properties,
                    content.keep(),
                    entry.expires_ms,
                )
            case Settle():
                rows = [self.rows.pop(key) for key in range(entry.key, entry.last + 1)]
                assert sum(len(row.body) for row in rows) == entry.body_bytes
                assert {row.message_id for row in rows} == {entry.message_id}
                assert len(rows) == 1 or (not entry.message_id and entry.body_bytes < LARGE_BYTES)
                self._release(entry.message_id)
            case DropRange():
                gone = [key for key in self.rows if entry.first <= key <= entry.last]
                rows = [self.rows.pop(key) for key in gone]
                assert len(rows) == entry.messages
                assert sum(len(row.body) for row in rows) == entry.body_bytes
                for row in rows:
                    self._release(row.message_id)
                self.dropped.append((entry.first, entry.last))
            case Delay():
                assert entry.sequence not in self.delays, "a sequence was used twice"
                content = entry.content
                self.delays[entry.sequence] = (
                    entry.exchange_id,
                    StoredDelay(
                        entry.due_ms,
                        entry.sequence,
                        content.envelope,
                        content.properties,
                        content.keep(),
                    ),
                )
            case Release():
                assert self.delays.pop(entry.sequence)[0] == entry.exchange_id
            case DropDelays():
                self.delays = {
                    sequence: row
                    for sequence, row in self.delays.items()
                    if row[0] != entry.exchange_id
                }
            case Delivered():
                assert entry.below >= self.delivered.get(entry.queue_id, 0)
                self.delivered[entry.queue_id] = entry.below
            case DropQueue():
                self.delivered.pop(entry.queue_id, None)
                self.lasts.pop(entry.queue_id, None)
                gone = [key for key in self.rows if key >> POSITION_BITS == entry.queue_id]
                for key in gone:
                    self._release(self.rows.pop(key).message_id)
                if entry.is_long:
                    queue_id = entry.queue_id
                    whole = storage_key(queue_id, 0), storage_key(queue_id, POSITION_MAX)
                    self.dropped.append(whole)
            case Barrier():
                raise AssertionError("barriers are not written")

    def _release(self, message_id: int) -> None:
        """A row that referred to this message is gone."""
        if message_id and all(row.message_id != message_id for row in self.rows.values()):
            self.shared.discard(message_id)

    # -- as `SQLiteStore`, for recovery

    async def recover(self) -> Recovery:
        """Definitions and numbers."""
        definitions = [(kind, key, value) for (kind, key), value in self.definitions.items()]
        highest = max(self.shared, default=0)
        store = cast(SQLiteStore, self)
        passing = storage_key(PASSING_QUEUE_ID_MIN, 0)
        self.rows = {key: row for key, row in self.rows.items() if key < passing}
        self.lasts = {
            queue_id: last
            for queue_id, last in self.lasts.items()
            if queue_id < PASSING_QUEUE_ID_MIN
        }
        backlogs = {queue_id: Backlog(0, 0, last) for queue_id, last in self.lasts.items()}
        for key, row in self.rows.items():
            messages, body_bytes, last = backlogs[key >> POSITION_BITS]
            backlogs[key >> POSITION_BITS] = Backlog(messages + 1, body_bytes + len(row.body), last)
        delays = StoredDelays(
            dict(Counter(exchange_id for exchange_id, _ in self.delays.values())),
            max((exchange_id for exchange_id, _ in self.delays.values()), default=0),
            max(self.delays, default=0),
        )
        dropped = {first >> POSITION_BITS for first, _ in self.dropped}
        delivered = dict(self.delivered)
        return Recovery(store, sorted(definitions), delivered, backlogs, dropped, highest, delays)

    async def read_messages(
        self, after: int, last: int = (1 << 63) - 1, rows_max: int = 2000
    ) -> list[StoredMessage]:
        """The next messages between two keys."""
        return self.page(after, last, rows_max)

    def page(self, after: int, last: int, rows_max: int) -> list[StoredMessage]:
        """The same, without waiting. It ends with the row that reaches `page_bytes_max`."""
        rows: list[StoredMessage] = []
        size = 0
        for key, row in sorted(self.rows.items()):
            if after < key <= last and len(rows) < rows_max and size < self.page_bytes_max:
                rows.append(row)
                size += len(row.body)
        return rows

    def read_delays(
        self, exchange_id: int, after: tuple[int, int], rows_max: int
    ) -> tuple[list[StoredDelay], bool]:
        """The next messages that wait at an exchange, and whether these are the last."""
        rows = sorted(row for owner, row in self.delays.values() if owner == exchange_id)
        rows = [row for row in rows if row[:2] > after]
        return rows[:rows_max], len(rows) <= rows_max


class HandJournal:
    """A journal that commits when the test says so."""

    def __init__(self, broker: BrokerUnderTest, store: MemoryStore) -> None:
        self.store = store
        self._broker = broker
        self._journal = Journal()
        self._under_way: Batch | None = None
        self.entries: list[Entry] = []
        """Everything ever appended, barriers and elided messages too."""

    def append(self, entries: list[Entry]) -> None:
        """The turn ended with these."""
        self.entries += entries
        self._journal.append_all(entries)

    def begin_commit(self) -> Batch | None:
        """Take a batch, as when its write begins: what it holds can not be elided any more."""
        assert self._under_way is None
        self._under_way = self._journal.take()
        return self._under_way

    def end_commit(self) -> None:
        """The write is done and flushed."""
        batch, self._under_way = self._under_way, None
        assert batch is not None
        self.store.write(batch)
        self._journal.committed(batch)
        self._broker.core.committed(batch.enqueues, batch.barriers, batch.delays)
        self._broker.turn()

    def commit(self) -> list[Entry]:
        """Write everything pending; what was written."""
        written: list[Entry] = []
        if self._under_way is not None:
            written += self._under_way.entries
            self.end_commit()
        while (batch := self.begin_commit()) is not None:
            written += batch.entries
            self.end_commit()
        return written


class BrokerUnderTest:
    """A broker, its clients and its time."""

    def __init__(
        self,
        *,
        journaling: bool = False,
        compat: Compat = "3.13",
        limits: Limits | None = None,
        components: Callable[[Broker], Iterable[Component]] = lambda broker: (),
    ) -> None:
        """`components` are those of runtime parameters that it has beside the core's own."""
        self.config = Config(compat=compat, limits=limits or Limits())
        self.journaling = journaling
        self._components = components
        self.now = 1000.0
        self.speaking: list[Connection] = []
        self.clients: dict[Connection, Client] = {}
        self.reads_at_once = True
        """What the store is asked for is there in the same turn; if not, see `answer_reads`."""
        self._octets = 0
        self.core = self._new_core()
        self.core.add_defaults()
        self._journal = HandJournal(self, MemoryStore()) if journaling else None
        self.turn()
        if journaling:
            self.journal.commit()

    @property
    def journal(self) -> HandJournal:
        """The journal, where there is one."""
        assert self._journal is not None
        return self._journal

    @property
    def warnings(self) -> list[str]:
        """What the log would show."""
        return self.core.effects.warnings

    def _new_core(self) -> Broker:
        core = Broker(self.config, journaling=self.journaling, entropy=self._entropy)
        for component in self._components(core):
            core.parameters.register(component)
        return core

    def _entropy(self, octets: int) -> bytes:
        """Random enough: never the same twice, and the same in every run."""
        self._octets += 1
        return self._octets.to_bytes(octets, "big")

    # -- users and virtual hosts

    def add_vhost(self, name: str) -> None:
        """A virtual host that guest may use."""
        self.core.add_virtual_host(VhostRecord(name=name))
        self.permit("guest", ".*", ".*", ".*", vhost=name)

    def add_user(self, name: str, *tags: str, password: str = "secret") -> None:
        """A user without permissions."""
        password_hash = hash_password(password, b"salt")
        self.core.journal(self.core.access.put_user(name, password_hash, SHA256, tags))

    def permit(
        self, user: str, configure: str = "", write: str = "", read: str = "", *, vhost: str = "/"
    ) -> None:
        """Set a user's permissions in a virtual host."""
        access = self.core.access
        self.core.journal(access.put_permission(user, vhost, configure, write, read))
        self.turn()

    # -- clients

    def client(
        self,
        user: str = "guest",
        password: str | None = None,
        vhost: str = "/",
        **how: Any,
    ) -> Client:
        """A connected client; `how` is what `Client` takes. Raises `Refused`."""
        if password is None:
            password = "guest" if user == "guest" else "secret"
        return self.stranger(**how).connect(user, password, vhost)

    def stranger(self, **how: Any) -> Client:
        """A client that has not said anything yet."""
        client = Client(self, **how)
        self.clients[client.peer.connection] = client
        return client

    # -- turns and time

    def turn(self) -> None:
        """What the runtime does after each chunk, until nobody has anything to say."""
        evictions = self.core.effects.evictions
        for client in list(self.clients.values()):
            if client.peer.session is not None and client.peer.session in evictions:
                client.peer.close(evictions[client.peer.session], self.now)
        evictions.clear()
        for _ in range(TURNS_MAX):
            entries = self.core.finish_turn()
            if entries:
                self.journal.append(entries)
            read = self._read_pages()
            speaking = self.speaking[:]
            self.speaking.clear()
            read = (self.reads_at_once and self.answer_reads()) or read
            if not speaking and not read:
                return
            for connection in speaking:
                self.clients[connection].take_output()
        raise AssertionError("somebody always has something to say, or to read")

    def _read_pages(self) -> bool:
        """Answer the queues that want to have messages read, and let who waited for it go on."""
        requests = self.core.take_page_requests()
        for request in requests:
            pages = [
                self.journal.store.page(after, last, request.rows_max)
                for after, last in request.ranges
            ]
            request.queue.page_in(request, pages)
        read = [client.be_read() for client in self.clients.values()]
        return bool(requests) or any(read)

    def answer_reads(self) -> bool:
        """Read what waiting rooms asked for; the turn is not finished. Whether any asked."""
        reads = self.core.effects.delay_reads[:]
        self.core.effects.delay_reads.clear()
        for read in reads:
            rows, at_end = self.journal.store.read_delays(
                read.exchange_id, read.after, read.rows_max
            )
            read.room.fill(restored_delays(read.room, rows), at_end=at_end)
        return bool(reads)

    def advance(self, seconds: float) -> None:
        """Let time pass, asking each connection at each of its deadlines."""
        until = self.now + seconds
        while True:
            due = [
                (deadline, index, client)
                for index, client in enumerate(self.clients.values())
                if (deadline := client.peer.deadline()) is not None and deadline <= until
            ]
            queues_due = self.core.timers.next_deadline()
            if queues_due is not None and queues_due <= min([until, *(at for at, _, _ in due)]):
                self.core.now = self.now = max(self.now, queues_due)
                self.core.timers.advance(self.now)
            elif due:
                deadline, _, client = min(due)
                self.now = max(self.now, deadline)
                client.peer.handle_timer(self.now)
            else:
                break
            self.turn()
        self.core.now = self.now = until

    def crash_and_recover(self) -> None:
        """kill -9, and a new start from what was committed. All clients are gone."""
        store = self.journal.store
        self.clients.clear()
        self.speaking.clear()
        self.core = self._new_core()
        self._journal = HandJournal(self, store)
        self.core.now = self.now
        _finish(recover(self.core, cast(SQLiteStore, store)))


def _finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast(T, stop.value)
    raise AssertionError("it waited")


__all__ = [
    "BODY",
    "CAPABILITIES",
    "HEADER",
    "HEARTBEAT_FRAME",
    "METHOD",
    "PERSISTENT",
    "PROTOCOL_HEADER",
    "TRANSIENT",
    "BrokerUnderTest",
    "Channel",
    "Client",
    "Confirmed",
    "Delivery",
    "Got",
    "HandJournal",
    "Heard",
    "MemoryStore",
    "Refused",
    "Returned",
    "field",
    "frame",
    "method",
    "properties",
    "table",
]


def declare(channel: Channel, name: str = "q", /, **arguments: object) -> None:
    """A durable queue with these arguments, whose names have hyphens."""
    channel.queue_declare(name, durable=True, arguments=hyphenated(arguments))
