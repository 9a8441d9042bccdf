"""Hostile conversations by the thousand: valid ones are made, then damaged, then held against a
broker in this process.

    python -m tests.fuzz.fuzzer --seed 7 --rounds 10000 [--journaling] [--only ROUND]

Each round is one client. Whatever it says:

- nothing but the broker's words comes out of `Peer.receive`: no exception, no hang;
- the words can be read, and keep the order that AMQP prescribes;
- the connection is healthy afterwards, or it ended as it should: with a close that has a code of
  the table, or without a word where a peer that has not logged in is not told why;
- a well-behaved client of the same broker goes on working;
- nothing is left behind in the broker.

A failure names seed and round. `Arena` is also what the Hypothesis tests use.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final

from amqpd.commands import (
    Access,
    Arguments,
    Basic,
    Channel,
    Confirm,
    Connection,
    Exchange,
    Frame,
    Queue,
    Tx,
)
from amqpd.config import Compat, Limits
from amqpd.errors import CHANNEL_SCOPED, REPLY_NAMES
from amqpd.protocol.connection import State
from amqpd.protocol.methods import encode_method
from amqpd.wire.tables import encode_table
from amqpd_storage.journal import Batch
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Confirmed,
    Delivery,
    MemoryStore,
    method,
    properties,
)
from tests.protocol.client import GREETING, FrameClient, frame, stranger

RawFrame = tuple[int, int, bytes]
"""Kind, channel, payload."""

CPU_SECONDS_MAX: Final = 20
"""Of one round; the slowest take some hundredths of one."""
HOSTILE_LIMITS: Final = Limits(
    channel_max=6,
    frame_bytes_max=8192,
    message_bytes_max=2000,
    content_bytes_max=8000,
    table_depth_max=8,
    unsent_bytes_max=3000,
    unsent_replies_bytes_max=5000,
    consumers_per_channel_max=4,
    publish_targets_max=8,
    route_cache_max=16,
    connections_max=2,
)
COMPATS: Final[tuple[Compat, ...]] = ("3.13", "4.2", "4.3")
NAMES: Final = ("", "f1", "f2", "f3", "amq.gen-x", "é" * 20)
EXCHANGES: Final = ("", "f1", "f2", "amq.direct", "amq.topic", "amq.headers", "amq.fanout", "nope")
TYPES: Final = ("direct", "fanout", "topic", "headers", "x-none")
KEYS: Final = ("", "a", "a.b", "#", "*.b", "f1", "f2", "x" * 255)
TAGS: Final = ("", "c1", "c2")
INTERESTING: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Hang(BaseException):
    """One round takes for ever."""


# -- valid conversations


def random_table(random: Random, depth: int = 2) -> Arguments:
    """A few arguments: known ones with good and bad values, and others of every type."""
    table: Arguments = {}
    for _ in range(random.choice((0, 0, 1, 2))):
        name = random.choice(
            (
                "x-max-length",
                "x-single-active-consumer",
                "x-priority",
                "x-match",
                "x-queue-type",
                "x-expires",
                "x-dead-letter-exchange",
                "alternate-exchange",
                "CC",
                "BCC",
                "a",
            )
        )
        table[name] = random_field(random, depth)
    return table


def random_field(random: Random, depth: int) -> tuple[str, Any]:
    """A value of any type."""
    octet = random.choice("tbBsuIilLfdDSATFVxSS" if depth else "tIS")
    match octet:
        case "t":
            return octet, random.random() < 0.5
        case "f" | "d":
            return octet, random.choice((0.0, -1.5, 1e10))
        case "D":
            return octet, (random.randrange(256), random.randrange(1 << 32))
        case "S":
            return octet, random.choice(
                ("", "all", "any", "classic", "quorum", "f1", "\udcff", "é")
            )
        case "x":
            return octet, random.randbytes(random.randrange(4))
        case "A":
            return octet, [random_field(random, depth - 1) for _ in range(random.randrange(3))]
        case "F":
            return octet, random_table(random, depth - 1)
        case "V":
            return octet, None
        case _:
            return octet, random.choice((0, 1, 5, 100))


class Speaker:
    """Makes the frames of one client that knows the protocol, and mostly what it is doing."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._open: list[int] = []
        self._queues: dict[str, Frame] = {}
        """Declared, and how: to say the same the next time."""
        self._exchanges = [name for name in EXCHANGES if name[:3] in ("", "amq")]
        self._tags = 0
        """About how many deliveries there may have been."""
        self._modes: dict[int, type[Frame]] = {}
        self.frames: list[RawFrame] = []

    def converse(self, length: int) -> list[RawFrame]:
        """A conversation behind connection.open."""
        for number in self._random.sample((1, 2, 3, 65535), self._random.choice((1, 1, 2))):
            self._open_channel(number)
            self._declare_queue(number)
            self._random.choice((self._consume, self._bind, self._select))(number)
        for _ in range(length):
            self._say_something()
        return self.frames

    def say(self, channel: int, said: Frame, arguments: Arguments | None = None) -> None:
        """One method."""
        self.frames.append((1, channel, encode_method(said, arguments or {})))

    def _say_something(self) -> None:
        random = self._random
        if not self._open or self._rarely():
            number = random.choice((1, 2, 3, 65535))
            if number not in self._open:
                self._open_channel(number)
            return
        channel = random.choice(self._open)
        random.choice(self._VERBS)(self, channel)

    def _flag(self) -> bool:
        return self._random.random() < 0.3

    def _rarely(self) -> bool:
        return self._random.random() < 0.03

    def _some_queue(self) -> str:
        """One that is there, most of the time."""
        if not self._queues or self._rarely():
            return self._random.choice(NAMES)
        return self._random.choice(list(self._queues))

    def _some_exchange(self) -> str:
        return "nope" if self._rarely() else self._random.choice(self._exchanges)

    def _some_arguments(self) -> Arguments | None:
        return random_table(self._random) if self._random.random() < 0.1 else None

    def _open_channel(self, number: int) -> None:
        self._open.append(number)
        self._modes.pop(number, None)
        self.say(number, Channel.Open())

    def _declare_queue(self, channel: int) -> None:
        random = self._random
        name = random.choice(NAMES if self._rarely() else NAMES[:4])
        said = self._queues.get(name)
        if said is None or self._rarely():
            said = method(
                Queue.Declare,
                queue=name,
                passive=self._rarely(),
                durable=random.random() < 0.6,
                exclusive=self._flag(),
                auto_delete=self._flag(),
                nowait=self._flag(),
            )
        self._queues[name] = said
        self.say(channel, said, self._some_arguments())

    def _declare_exchange(self, channel: int) -> None:
        random = self._random
        name = random.choice(("f1", "f2"))
        if name not in self._exchanges or self._rarely():
            self._exchanges.append(name)
            said = method(
                Exchange.Declare,
                exchange=name,
                exchange_type="x-none" if self._rarely() else TYPES[len(name) * ord(name[1]) % 4],
                passive=self._rarely(),
                durable=name == "f1",
                internal=self._rarely(),
                nowait=self._flag(),
            )
            self.say(channel, said, self._some_arguments())

    def _bind(self, channel: int) -> None:
        random = self._random
        routing_key = random.choice(KEYS)
        said: Frame
        source = self._some_exchange() or "amq.topic"
        if random.random() < 0.7:
            said = method(
                random.choice((Queue.Bind, Queue.Bind, Queue.Unbind)),
                queue=self._some_queue(),
                exchange=source,
                routing_key=routing_key,
            )
        else:
            said = method(
                random.choice((Exchange.Bind, Exchange.Unbind)),
                destination=random.choice(("f1", "f2")),
                source=source,
                routing_key=routing_key,
            )
        self.say(channel, said, self._some_arguments())

    def _delete(self, channel: int) -> None:
        random = self._random
        name = self._some_queue()
        kind = random.choice((Queue.Delete, Queue.Purge, Queue.Purge, Exchange.Delete))
        said: Frame
        if kind is Queue.Delete:
            self._queues.pop(name, None)
            said = method(
                Queue.Delete,
                queue=name,
                if_unused=self._rarely(),
                if_empty=self._rarely(),
                nowait=self._flag(),
            )
        elif kind is Queue.Purge:
            said = method(Queue.Purge, queue=name, nowait=self._flag())
        else:
            said = method(Exchange.Delete, exchange=random.choice(("f1", "f2")))
        self.say(channel, said)

    def _publish(self, channel: int) -> None:
        random = self._random
        direct = random.random() < 0.6
        said = method(
            Basic.Publish,
            exchange="" if direct else self._some_exchange(),
            routing_key=self._some_queue() if direct else random.choice(KEYS),
            mandatory=self._flag(),
            immediate=random.random() < 0.005,
        )
        self._tags += direct
        self.say(channel, said)
        size = random.choice((0, 1, 10, 100, 1000, 1000, 2000, 5000 if self._rarely() else 4))
        props = random.choice((b"\x00\x00", PERSISTENT, PERSISTENT))
        if self._flag():
            props = properties(
                delivery_mode=random.choice((None, 1, 2)),
                headers={"CC": ["f2"], "n": random.randrange(9)} if self._flag() else None,
                expiration="100" if self._flag() else None,
                reply_to="amq.rabbitmq.reply-to" if self._rarely() else random.choice((None, "r")),
                user_id="guest" if self._flag() else None,
                priority=random.choice((None, 5)),
            )
        content_header = b"\x00\x3c\x00\x00" + size.to_bytes(8, "big") + props
        self.frames.append((2, channel, content_header))
        body = random.randbytes(1) * size
        step = random.choice((4088, 4088, 700))
        for start in range(0, size, step):
            self.frames.append((3, channel, body[start : start + step]))

    def _consume(self, channel: int) -> None:
        random = self._random
        replies = random.random() < 0.1
        said = method(
            Basic.Consume,
            queue="amq.rabbitmq.reply-to" if replies else self._some_queue(),
            consumer_tag=random.choice(TAGS) if self._rarely() else "",
            no_ack=replies or random.random() < 0.3,
            exclusive=self._rarely(),
            nowait=self._flag(),
        )
        self.say(channel, said, self._some_arguments())

    def _settle(self, channel: int) -> None:
        random = self._random
        said: Frame
        if random.random() < 0.7:
            tag, flag = 0, True
        else:
            tag, flag = random.randint(1, max(1, self._tags // 2)), random.random() < 0.5
        kind = random.choice((Basic.Ack, Basic.Nack, Basic.Reject))
        if kind is Basic.Reject:
            said = method(Basic.Reject, delivery_tag=tag or 1, requeue=flag)
        elif kind is Basic.Nack:
            said = method(Basic.Nack, delivery_tag=tag, multiple=flag, requeue=self._flag())
        else:
            said = method(Basic.Ack, delivery_tag=tag, multiple=flag)
        self.say(channel, said)

    def _fetch(self, channel: int) -> None:
        self._tags += 1
        no_ack = self._random.random() < 0.5
        self.say(channel, method(Basic.Get, queue=self._some_queue(), no_ack=no_ack))

    def _adjust(self, channel: int) -> None:
        random = self._random
        said: Frame = random.choice(
            (
                method(Basic.Qos, prefetch_count=random.randrange(4), global_=self._flag()),
                method(Basic.Qos, prefetch_count=random.randrange(4)),
                method(Basic.Cancel, consumer_tag=random.choice(TAGS), nowait=self._flag()),
                method(Basic.Recover, requeue=not self._rarely()),
                method(Basic.RecoverAsync, requeue=True),
                method(Channel.Flow, active=not self._rarely()),
                method(Channel.FlowOk, active=True),
                method(Access.Request, realm="/data"),
            )
        )
        self.say(channel, said)

    def _select(self, channel: int) -> None:
        """Confirm or tx mode, and what belongs to the latter."""
        random = self._random
        mode = self._modes.get(channel)
        if mode is None or self._rarely():
            mode = self._modes[channel] = random.choice((Confirm.Select, Tx.Select))
            self.say(channel, mode())
        elif mode is Tx.Select:
            self.say(channel, random.choice((Tx.Commit, Tx.Rollback))())

    def _close(self, channel: int) -> None:
        if self._rarely():
            self.say(channel, Channel.CloseOk())
        elif self._flag():
            self._open.remove(channel)
            self.say(channel, method(Channel.Close, reply_code=200, reply_text="bye"))

    def _beat(self, channel: int) -> None:
        self.frames.append((8, 0, b""))

    _VERBS: Final[tuple[Callable[[Speaker, int], None], ...]] = (
        *(_declare_queue, _declare_queue, _bind, _publish, _publish, _publish, _publish),
        *(_publish, _publish, _consume, _consume, _settle, _settle, _fetch, _fetch),
        *(_declare_exchange, _delete, _adjust, _select, _close, _beat),
    )


# -- damage


def damage(random: Random, frames: list[RawFrame], times: int) -> list[bytes]:
    """The conversation as bytes, frame by frame, with that many things wrong."""
    frames = list(frames)
    for _ in range(times):
        if not frames:
            break
        if random.random() < 0.6:
            random.choice(_WHOLE_FRAMES)(random, frames)
    chunks = [frame(*raw) for raw in frames]
    for _ in range(times):
        if chunks and random.random() < 0.5:
            at = random.randrange(len(chunks))
            chunks[at] = random.choice(_OCTETS)(random, bytearray(chunks[at]))
    return chunks


def _place(random: Random, frames: list[RawFrame]) -> int:
    return random.randrange(len(frames))


def _change_payload(random: Random, frames: list[RawFrame]) -> None:
    """Within a frame that still is one."""
    at = _place(random, frames)
    kind, channel, payload = frames[at]
    frames[at] = (kind, channel, random.choice(_OCTETS)(random, bytearray(payload)))


def _change_channel(random: Random, frames: list[RawFrame]) -> None:
    at = _place(random, frames)
    kind, _, payload = frames[at]
    frames[at] = (kind, random.choice((0, 1, 2, 3, 7, 65535)), payload)


def _change_kind(random: Random, frames: list[RawFrame]) -> None:
    at = _place(random, frames)
    _, channel, payload = frames[at]
    frames[at] = (random.choice((0, 1, 2, 3, 4, 8, 255)), channel, payload)


def _change_method(random: Random, frames: list[RawFrame]) -> None:
    at = _place(random, frames)
    kind, channel, payload = frames[at]
    class_id = random.choice((10, 20, 30, 40, 50, 60, 85, 90, 99))
    method_id = random.choice((10, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 70, 80, 90, 110, 120))
    ids = class_id.to_bytes(2, "big") + method_id.to_bytes(2, "big")
    frames[at] = (kind, channel, ids + payload[4:])


def _change_content(random: Random, frames: list[RawFrame]) -> None:
    """Class, weight or size of a content header."""
    headers = [at for at, (kind, _, _) in enumerate(frames) if kind == 2]
    if not headers:
        return
    at = random.choice(headers)
    _, channel, payload = frames[at]
    size = random.choice((0, 1, 2001, 8001, 536870913, (1 << 64) - 1)).to_bytes(8, "big")
    changed = random.choice(
        (
            payload[:4] + size + payload[12:],
            payload[:4] + size + payload[12:],
            b"\x00\x32" + payload[2:],
            payload[:2] + b"\x00\x01" + payload[4:],
            payload[:12] + random.randbytes(2) + payload[14:],
            payload[: random.randrange(len(payload) + 1)],
        )
    )
    frames[at] = (2, channel, changed)


def _repeat(random: Random, frames: list[RawFrame]) -> None:
    frames.insert(_place(random, frames), frames[_place(random, frames)])


def _drop(random: Random, frames: list[RawFrame]) -> None:
    del frames[_place(random, frames)]


def _swap(random: Random, frames: list[RawFrame]) -> None:
    one, other = _place(random, frames), _place(random, frames)
    frames[one], frames[other] = frames[other], frames[one]


def _nest(random: Random, frames: list[RawFrame]) -> None:
    """A declaration whose arguments go deep."""
    field: tuple[str, Any] = ("V", None)
    for _ in range(random.choice((3, 8, 9, 64, 65, 400))):
        field = random.choice((("A", [field]), ("F", {"a": field})))
    table = encode_table({"deep": field})
    frames.insert(_place(random, frames), (1, 1, b"\x00\x32\x00\x0a\x00\x00\x02f1\x00" + table))


def _lie_in_table(random: Random, frames: list[RawFrame]) -> None:
    """A table whose lengths do not fit."""
    table = bytearray(encode_table(random_table(random) | {"a": ("F", {"b": ("S", "c")})}))
    octets = _OCTETS[random.randrange(len(_OCTETS))](random, table)
    payload = random.choice(
        (
            b"\x00\x32\x00\x0a\x00\x00\x02f1\x00" + octets,
            b"\x00\x32\x00\x14\x00\x00\x02f1\x0aamq.direct\x00\x00" + octets,
            b"\x00\x3c\x00\x14\x00\x00\x02f1\x00\x00" + octets,
        )
    )
    frames.insert(_place(random, frames), (1, 1, payload))


def _fill(random: Random, frames: list[RawFrame]) -> None:
    """A frame as large as allowed, or a little larger."""
    size = random.choice((4088, 8184, 8192, 8193, 70000))
    frames.insert(
        _place(random, frames), (random.choice((1, 2, 3, 8)), random.randrange(3), bytes(size))
    )


def _end(random: Random, frames: list[RawFrame]) -> None:
    """The connection's close, from either point of view, anywhere."""
    said: Frame = random.choice(
        (
            method(Connection.Close, reply_code=200, reply_text="bye"),
            Connection.CloseOk(),
            method(Connection.UpdateSecret, new_secret=b"s", reason="r"),
            method(Connection.Open, virtual_host="/"),
            method(Connection.TuneOk, channel_max=1, frame_max=4096, heartbeat=1),
        )
    )
    frames.insert(_place(random, frames), (1, 0, encode_method(said, {})))


def _flip(random: Random, octets: bytearray) -> bytes:
    for _ in range(random.choice((1, 1, 1, 4))):
        if octets:
            octets[random.randrange(len(octets))] ^= 1 << random.randrange(8)
    return bytes(octets)


def _insert(random: Random, octets: bytearray) -> bytes:
    at = random.randrange(len(octets) + 1)
    octets[at:at] = random.randbytes(random.choice((1, 2, 4, 9)))
    return bytes(octets)


def _cut(random: Random, octets: bytearray) -> bytes:
    at = random.randrange(len(octets) + 1)
    del octets[at : at + random.choice((1, 2, 4, 1000))]
    return bytes(octets)


def _put_number(random: Random, octets: bytearray) -> bytes:
    size = random.choice((1, 2, 4))
    number = random.choice([number for number in INTERESTING if number < 1 << 8 * size])
    at = random.randrange(len(octets) + 1)
    octets[at : at + size] = number.to_bytes(size, "big")
    return bytes(octets)


def _junk(random: Random, octets: bytearray) -> bytes:
    return random.randbytes(random.choice((1, 7, 8, 30, 300)))


_OCTETS: Final = (_flip, _flip, _insert, _cut, _put_number, _put_number, _junk)
_WHOLE_FRAMES: Final = (
    *(_change_payload, _change_payload, _change_payload, _change_channel, _change_kind),
    *(_change_method, _change_content, _change_content, _repeat, _drop, _swap, _nest),
    *(_lie_in_table, _fill, _end),
)


# -- the broker that has to bear it


class Store(MemoryStore):
    """Checks after each batch that no row lost its message."""

    def write(self, batch: Batch) -> None:
        """One transaction."""
        super().write(batch)
        for row in self.rows.values():
            assert not row.message_id or row.message_id in self.shared, "a row lost its message"


class Arena:
    """A broker, a client that behaves, and the rules that hold whatever others do."""

    def __init__(
        self, *, journaling: bool, limits: Limits = HOSTILE_LIMITS, compat: Compat = "3.13"
    ) -> None:
        self.journaling = journaling
        self.compat = compat
        self.broker = BrokerUnderTest(journaling=journaling, limits=limits, compat=compat)
        if journaling:
            store = Store()
            store.definitions = self.broker.journal.store.definitions
            self.broker.journal.store = store
        self.witness = self.broker.client(
            frame_max=0 if not limits.frame_bytes_max else 4096,
            channel_max=min(limits.channel_max, 5),
        )
        self.channel = self.witness.channel()
        # Said without waiting, because durable things wait for the journal.
        self.channel.send(method(Queue.Declare, queue="witness", durable=True))
        self.channel.send(Confirm.Select())
        self.channel.send(method(Basic.Consume, queue="witness", consumer_tag="witness"))
        self.commit()
        assert len(self.channel.heard) == 3
        self.channel.take_all()
        self._tag = 0
        self._baseline = self.sizes()

    def commit(self) -> None:
        """Everything journaled is safe now."""
        if self.journaling:
            self.broker.journal.commit()
            self.broker.journal.entries.clear()

    def sizes(self) -> dict[str, Any]:
        """What must not grow."""
        core = self.broker.core
        virtual_host = core.virtual_hosts["/"]
        router = virtual_host.router
        sizes: dict[str, Any] = {
            "virtual hosts": list(core.virtual_hosts),
            "sessions": len(core.sessions),
            "reply consumers": list(core.reply_consumers),
            "entries": len(core.effects.entries),
            "due confirms": len(core.effects.due_confirms),
            "marked queues": len(core.effects.marked_queues),
            "barriers": len(core.effects.barriers),
            "queues": sorted(virtual_host.queues),
            "exchanges": sorted(virtual_host.exchanges),
            "routing tables": sorted(router._exchanges),
            "bindings": {
                destination: len(bindings)
                for destination, bindings in router._bindings_to.items()
                if bindings
            },
            "ready": virtual_host.queues["witness"].ready,
            "unacked": virtual_host.queues["witness"].unacked,
            "queue ids": core.queue_ids.in_use,
        }
        if self.journaling:
            store = self.broker.journal.store
            sizes["definitions"] = sorted(store.definitions)
            sizes["rows"] = len(store.rows)
            sizes["shared messages"] = len(store.shared)
        return sizes

    # -- one client

    @contextmanager
    def visitor(self) -> Iterator[FrameClient]:
        """A client, what becomes of it, and that the broker is as it was before."""
        client = stranger(self.broker)
        yield client
        self._see_out(client)
        del self.broker.clients[client.connection]
        self.check_witness()
        self._clean_up()
        sizes = self.sizes()
        assert sizes == self._baseline, f"left behind: {sizes}, before: {self._baseline}"

    def _see_out(self, client: FrameClient) -> None:
        client.read()
        self.commit()
        client.read()
        state = client.connection.state
        if state is State.RUNNING:
            # Healthy, unless it waits for the rest of a frame: then it hears no goodbye.
            client.send(0, method(Connection.Close, reply_code=200, reply_text="bye"))
            if client.connection.state is State.RUNNING:
                client.drop()
        elif state is State.CLOSING:
            client.send(0, Connection.CloseOk())
        if not client.dropped:
            self.broker.advance(31)
            self.witness_lives()
        assert client.dropped, f"{state} for ever"
        assert client.peer.deadline() is None
        assert client.peer.session is None
        check_what_was_heard(client)

    def witness_lives(self) -> None:
        """It wants no heartbeats, and so time does it no harm."""
        assert not self.witness.peer.closed

    def check_witness(self) -> None:
        """Publish, confirm, consume, acknowledge: as if nobody else were there."""
        channel = self.channel
        channel.publish("", "witness", b"still here", PERSISTENT)
        self._tag += 1
        heard = channel.take_all()
        if self.journaling:
            assert len(heard) == 1, "a confirm before its commit"
            self.commit()
            heard += channel.take_all()
        delivery, confirmed = heard
        assert isinstance(delivery, Delivery)
        assert isinstance(confirmed, Confirmed)
        assert (delivery.body, delivery.delivery_tag) == (b"still here", self._tag)
        assert (confirmed.number, confirmed.ack) == (self._tag, True)
        channel.ack(self._tag)
        self.commit()
        self.witness.log.clear()

    def _clean_up(self) -> None:
        """Delete what the visitor declared, as far as it may stay."""
        virtual_host = self.broker.core.virtual_hosts["/"]
        for name in list(virtual_host.queues):
            if name != "witness":
                self.channel.send(method(Queue.Delete, queue=name))
        kept = set(self._baseline["exchanges"])
        for name in list(virtual_host.exchanges):
            if name not in kept and name in virtual_host.exchanges:
                self.channel.send(method(Exchange.Delete, exchange=name))
        self.commit()
        for said in self.channel.take_all():
            assert isinstance(said, Queue.DeleteOk | Exchange.DeleteOk), said
        self.witness.log.clear()


def check_what_was_heard(client: FrameClient) -> None:
    """The broker's words, in an order and with codes that a client understands."""
    connection_closed = False
    channels: dict[int, str] = {}
    for _, (channel, name, *arguments) in client.timeline:
        if connection_closed:
            assert (channel, name) == (0, "connection.close_ok"), name
        if channel == 0:
            if name == "connection.close":
                code, text, *_ = arguments
                assert code in REPLY_NAMES
                assert text.startswith(REPLY_NAMES[code])
                assert text != "INTERNAL_ERROR", "a crash"
                assert len(text.encode("utf-8", "surrogateescape")) <= 255
                connection_closed = True
            continue
        before = channels.get(channel, "closed")
        if name == "channel.open_ok":
            assert before != "open"
            channels[channel] = "open"
        elif name == "channel.close":
            assert before == "open"
            assert arguments[0] in CHANNEL_SCOPED
            channels[channel] = "closing"
        elif name == "channel.close_ok":
            # While a channel closes, each close of the peer is answered.
            assert before != "closed"
            channels[channel] = "closed" if before == "open" else "closed by both"
        else:
            assert before == "open", f"{name} on a channel that is {before}"


# -- rounds


def handshake(random: Random, compat: Compat) -> list[RawFrame]:
    """What a client says until its connection is open."""
    frame_max = random.choice((4096, 8192))
    heartbeat = random.choice((0, 0, 0, 1, 30))
    capabilities: Arguments = {
        name: ("t", True)
        for name in ("consumer_cancel_notify", "authentication_failure_close")
        if random.random() < 0.5
    }
    response = b"\x00guest\x00guest"
    if random.random() < 0.1:
        response = random.choice((b"\x00guest\x00wrong", b"", b"\x00\x00", b"\xff" * 9))
    start_ok = method(Connection.StartOk, mechanism="PLAIN", response=response, locale="en_US")
    said: list[tuple[Frame, Arguments]] = [
        (start_ok, {"capabilities": ("F", capabilities)}),
        (method(Connection.TuneOk, channel_max=4, frame_max=frame_max, heartbeat=heartbeat), {}),
        (method(Connection.Open, virtual_host="/"), {}),
    ]
    return [(1, 0, encode_method(one, arguments)) for one, arguments in said]


def play_round(arena: Arena, random: Random) -> None:
    """One client: says something, most of it right."""
    opening = handshake(random, arena.compat)
    talk = Speaker(random).converse(random.randrange(4, 40))
    times = random.choice((0, 1, 1, 1, 2, 3, 8))
    if times and random.random() < 0.1:
        chunks = damage(random, opening + talk, times)
    else:
        chunks = [frame(*raw) for raw in opening] + damage(random, talk, times)
    chunks.insert(0, GREETING)
    if times and random.random() < 0.03:
        at = random.randrange(len(chunks))
        chunks[at] = random.choice(_OCTETS)(random, bytearray(chunks[at]))
    chunk_octets = random.choice((100_000, 5000, 1000, 50, 13))
    with arena.visitor() as client:
        waiting = bytearray()
        for number, chunk in enumerate(chunks):
            waiting += chunk
            # A client that knows what it does answers a channel's close, between two messages.
            between = number + 1 == len(chunks) or chunks[number + 1][:1] == b"\x01"
            if between and random.random() < 0.9:
                waiting += answers(client)
            while waiting and not client.dropped:
                step = random.randint(1, chunk_octets)
                if step > len(waiting) and number + 1 < len(chunks):
                    break
                client.send_bytes(bytes(waiting[:step]))
                del waiting[:step]
                something_happens(arena, client, random)
    if times == 0:
        for _, (_, name, *arguments) in client.timeline:
            if name == "connection.close":
                assert arguments[0] not in (501, 505), f"nothing was wrong: {arguments}"


def answers(client: FrameClient) -> bytes:
    """close-ok and open for each channel that the broker closed."""
    said = b""
    for channel, name, *_ in client.heard_now():
        if name == "channel.close":
            said += frame(1, channel, encode_method(Channel.CloseOk()))
            said += frame(1, channel, encode_method(Channel.Open(), {}))
    return said


def something_happens(arena: Arena, client: FrameClient, random: Random) -> None:
    """The client stops reading or goes on, time passes, or the journal writes."""
    event = random.random()
    if event < 0.02:
        client.reading = not client.reading
        client.take_output()
    elif event < 0.04:
        arena.broker.advance(random.choice((0.1, 1, 2)))
    elif event < 0.3:
        arena.commit()


def run(
    seed: int,
    rounds: int,
    *,
    journaling: bool,
    only: int | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> None:
    """Play rounds. Raises whatever went wrong, with seed and round noted on it."""
    compat = COMPATS[seed % len(COMPATS)]
    arena = Arena(journaling=journaling, compat=compat)
    previous = signal.signal(signal.SIGVTALRM, _hang)
    try:
        for number in range(rounds) if only is None else (only,):
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS_MAX)
            try:
                play_round(arena, Random(f"{seed}/{number}"))
            except BaseException as error:
                flag = " --journaling" if journaling else ""
                error.add_note(
                    f"python -m tests.fuzz.fuzzer --seed {seed} --rounds {number + 1}{flag}"
                    f"   (perhaps with --only {number})"
                )
                raise
            if number % 1000 == 999:
                say(f"{number + 1} rounds")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def _hang(signum: int, interrupted: object) -> None:
    raise Hang(f"one round took {CPU_SECONDS_MAX} s of processor time")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description="hostile conversations with a broker in process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--only", type=int, help="this round alone")
    parser.add_argument("--journaling", action="store_true")
    options = parser.parse_args()
    logging.getLogger("amqpd").setLevel(logging.CRITICAL)
    run(
        options.seed,
        options.rounds,
        journaling=options.journaling,
        only=options.only,
        say=lambda line: print(line, file=sys.stderr),
    )


if __name__ == "__main__":
    main()
