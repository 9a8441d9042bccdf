"""Plays a sequence on two brokers at once and says where they first differ.

Operations that are said together make a step. After each one both brokers are brought to rest:

1. `channel.flow` on the channel of the step: its flow-ok comes once the channel has done all;
   confirms that are due, and tx.commit-ok, are awaited;
2. a passive declare of every queue, on a connection that does nothing else (or on that of the
   owner of an exclusive queue): its queue has done what the channel asked for;
3. flow on every open channel: what the queues sent has arrived; and the passive declares again,
   whose counts are compared. Repeated until a round brings nothing new.

Compared are, per channel: replies, returns and closes in order; deliveries in order per consumer
(two queues deliver to one channel in any order); confirms and cancels as sets. When a channel was
closed in the step, what was still under way to it is a race in RabbitMQ and not compared.
"""

from __future__ import annotations

import hashlib
import re
import select
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from struct import pack
from typing import Any, Final

from pamqp.commands import INDEX_MAPPING

from amqpd.commands import Access, Arguments, Channel, Exchange, Frame, Queue
from amqpd.commands import Basic as BasicClass
from amqpd.commands import Connection as ConnectionClass
from amqpd.protocol.methods import encode_method, method_name
from amqpd.wire.tables import encode_table
from compat.differential import rules
from compat.differential.operations import (
    EXCHANGES,
    GROUPS,
    POLICY_VERBS,
    QUEUES,
    USERS,
    Operation,
)
from compat.differential.policies import PolicyClient
from compat.differential.wire import Event, Wire, content, frame, method

WAIT_SECONDS: Final = 60.0
ROUNDS_MAX: Final = 20
LATE_SECONDS: Final = 20.0
"""The longest that is waited for what RabbitMQ has yet to notice (see rules.LATE)."""
PROBES: Final = 1000
"""Channels from here on ask for queues, one each."""
MONITOR: Final = 0
UNKNOWN_TAG: Final = 987_654
THEIRS, OURS = 0, 1

METHODS: Final[dict[str, type[Frame]]] = {
    method_name(frame_type): frame_type for frame_type in (*INDEX_MAPPING.values(), Access.Request)
}
GENERATED: Final = (
    (re.compile(r"amq\.gen-[A-Za-z0-9_-]{22}"), "gen"),
    (re.compile(r"amq\.ctag-[A-Za-z0-9_-]{22}"), "ctag"),
    (re.compile(r"amq\.rabbitmq\.reply-to\.(?!garbage)[A-Za-z0-9+/=_.-]+"), "token"),
)
TOKEN_IN_OCTETS: Final = re.compile(
    rb".amq\.rabbitmq\.reply-to\.(?!garbage)[A-Za-z0-9+/=_.-]+", re.S
)
SYMBOL: Final = re.compile(r"\$(?:gen|ctag|token)\d+")

ENDS: Final = (
    *("channel.close", "channel.close_ok", "connection.close", "connection.close_ok"),
    "dropped",
)

Place = tuple[int, int]
"""Connection and channel."""


@dataclass
class Difference(Exception):
    """The brokers do not agree."""

    step: int
    where: str
    theirs: Any
    ours: Any

    def __str__(self) -> str:
        return f"{self.where}:\n  RabbitMQ: {self.theirs}\n  amqpd:    {self.ours}"

    @property
    def signature(self) -> str:
        """What makes two differences one: names and numbers aside."""
        said = (re.sub(r"'\$?[^ ]{0,12}'", "_", str(one)) for one in (self.theirs, self.ours))
        said = (re.sub(r"b['\"].*", "", one) for one in said)
        return re.sub(r"[-\d]+", "_", f"{self.where}: {' / '.join(said)}")


class Unsettled(Exception):
    """RabbitMQ did not come to rest; nothing can be said."""


class Side:
    """One broker: its connections and the names it made up."""

    def __init__(self, broker: tuple[str, str], label: str, vhost: str) -> None:
        """`broker` is its AMQP URL, and that of its HTTP API."""
        self.url = broker[0]
        self.vhost = vhost
        self.policies = PolicyClient(broker[1], vhost)
        self.label = label
        self.wires: dict[int, Wire] = {}
        self._names: dict[str, str] = {}
        self._symbols: dict[str, str] = {}

    def wire(self, connection: int) -> Wire:
        """The connection, opened when first asked for."""
        wire = self.wires.get(connection)
        if wire is None:
            wire = self.wires[connection] = Wire(
                self.url, USERS.get(connection, "guest"), self.vhost
            )
        return wire

    def forget(self, connection: int) -> None:
        """The connection is over."""
        wire = self.wires.pop(connection, None)
        if wire is not None:
            wire.shut()

    def forget_names(self) -> None:
        """A new sequence begins."""
        self._names.clear()
        self._symbols.clear()

    def actual(self, text: str) -> str:
        """Symbols -> names; one that stands for nothing yet is a name without its `$`."""
        if "$" not in text:
            return text
        return SYMBOL.sub(lambda found: self._names.get(found[0], found[0][1:]), text)

    def symbolic(self, text: str) -> str:
        """Names -> symbols; new names get the next one."""
        if "amq." in text:
            for pattern, kind in GENERATED:
                text = pattern.sub(self._symbol_maker(kind), text)
        return text

    def symbolic_octets(self, octets: bytes) -> bytes:
        """The same for tokens in a content header; the length before one goes as well."""
        if b"amq.rabbitmq.reply-to." not in octets:
            return octets
        return TOKEN_IN_OCTETS.sub(
            lambda found: self._symbol(found[0][1:].decode(), "token").encode(), octets
        )

    def _symbol_maker(self, kind: str) -> Callable[[re.Match[str]], str]:
        return lambda found: self._symbol(found[0], kind)

    def _symbol(self, name: str, kind: str) -> str:
        symbol = self._symbols.get(name)
        if symbol is None:
            number = 1 + sum(known.startswith(f"${kind}") for known in self._names)
            symbol = self._symbols[name] = f"${kind}{number}"
            self._names[symbol] = name
        return symbol


@dataclass
class ChannelModel:
    """What is known of a channel, from what RabbitMQ answered."""

    consumers: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Tag -> queue, no-ack."""
    deliveries: list[tuple[int, int]] = field(default_factory=list)
    """Outstanding, as a pair of delivery tags, in RabbitMQ's order."""
    tags: dict[tuple[int, int], str] = field(default_factory=dict)
    """The consumers they went to; none for basic.get."""
    settled: list[tuple[int, int]] = field(default_factory=list)
    """In the transaction that is open."""
    settled_before: tuple[int, int] | None = None
    global_prefetch: int = 0
    confirming: bool = False
    transactional: bool = False
    published: int = 0
    confirmed: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))
    bodies: dict[bytes, int] = field(default_factory=dict)
    """Publish numbers by body digest, where bodies are not empty."""
    last_queue: str = ""


@dataclass
class Said:
    """A step, ready to be sent."""

    octets: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    operations: list[Operation] = field(default_factory=list)
    commits: int = 0

    def method(self, channel: int, one: Frame, other: Frame, arguments: Arguments) -> None:
        """A method to each."""
        for octets, said in zip(self.octets, (one, other), strict=True):
            octets += frame(1, channel, encode_method(said, arguments))


class Players:
    """Both brokers."""

    def __init__(self, theirs: tuple[str, str], ours: tuple[str, str], vhost: str = "/") -> None:
        self.sides = (Side(theirs, "RabbitMQ", vhost), Side(ours, "amqpd", vhost))
        self.said = 0
        """Operations, ever."""
        self.excuses: dict[str, int] = {}
        """Rules that were needed, and how often."""
        self.heard: Counter[str] = Counter()
        """What RabbitMQ said, by name."""

    # -- a sequence

    def play(self, operations: Sequence[Operation]) -> None:
        """Raises `Difference`."""
        game = _Game(self)
        try:
            try:
                for number, step in enumerate(steps(operations)):
                    game.number = number
                    game.step(step)
                    self.said += len(step)
                game.audit()
            finally:
                self.clean_up(game.other_queues(), list(game.policies))
        except (Difference, Unsettled):
            raise
        except Exception:
            for side in self.sides:
                for connection in list(side.wires):
                    side.forget(connection)
            raise

    def clean_up(self, queues: list[str], policies: list[str]) -> None:
        """Nothing is left of the sequence."""
        for name in policies:
            for side in self.sides:
                side.policies.delete(name)
        for side in self.sides:
            for connection in list(side.wires):
                if connection != MONITOR:
                    wire = side.wires[connection]
                    if wire.alive:
                        wire.say(0, method(ConnectionClass.Close, reply_code=200))
        self.wait(
            lambda side: not any(w.alive for c, w in side.wires.items() if c != MONITOR), "the end"
        )
        for side in self.sides:
            for connection in list(side.wires):
                if connection != MONITOR:
                    side.forget(connection)
            wire = side.wire(MONITOR)
            self._open(wire, 1)
            names = (*QUEUES, "missing", "é", "x" * 255, *queues)
            for queue in names:
                wire.say(1, method(Queue.Delete, queue=side.actual(queue), nowait=True))
            for exchange in (*EXCHANGES, "missing", "é"):
                wire.say(1, method(Exchange.Delete, exchange=exchange, nowait=True))
            wire.say(1, method(Channel.Flow, active=True))
        self.wait(lambda side: side.wires[MONITOR].flow_oks.get(1, 0) > 0, "cleaning up")
        for side in self.sides:
            wire = side.wires[MONITOR]
            if any(event.channel == 1 for event in wire.events if event.name == "channel.close"):
                raise RuntimeError(f"cleaning up failed on {side.label}: {wire.events}")
            wire.flow_oks.clear()
            wire.events.clear()
            side.forget_names()

    def _open(self, wire: Wire, channel: int) -> None:
        if channel not in wire.open:
            wire.open.add(channel)
            wire.say(channel, Channel.Open())

    # -- sockets

    def wait(
        self,
        done: Callable[[Side], bool],
        what: str,
        seconds: float = WAIT_SECONDS,
    ) -> list[str]:
        """Read until both sides are done; who is not, after a while."""
        deadline = time.monotonic() + seconds
        for side in self.sides:
            for wire in side.wires.values():
                wire.flush()
        while True:
            waiting = [side for side in self.sides if not done(side)]
            if not waiting:
                return []
            left = deadline - time.monotonic()
            if left <= 0:
                return [f"{side.label} is silent: {what}" for side in waiting]
            wires = [wire for side in waiting for wire in side.wires.values() if wire.fileno() >= 0]
            if not wires:
                return [f"{side.label} is gone: {what}" for side in waiting]
            for wire in _readable(wires, left):
                wire.read()


def _readable(wires: list[Wire], seconds: float) -> list[Wire]:
    poll = select.poll()
    by_descriptor = {}
    for wire in wires:
        by_descriptor[wire.fileno()] = wire
        poll.register(wire.fileno(), select.POLLIN)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(seconds * 1000)]


def steps(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Operations that are said together."""
    step: list[Operation] = []
    for operation in operations:
        last = step[-1] if step else None
        if last is None or not _belong_together(last, operation):
            if step:
                yield step
            step = []
        step.append(operation)
    if step:
        yield step


def _belong_together(last: Operation, operation: Operation) -> bool:
    """Whether the second is said without waiting for what the first one causes."""
    if not operation.joined or GROUPS.get(last.verb) != GROUPS.get(operation.verb, ""):
        return False
    if (last.connection, last.channel) != (operation.connection, operation.channel):
        return False
    # In RabbitMQ's queues an ack overtakes a requeue. And a consumer whose queue is declared again
    # before its channel hears of the end is silently subscribed to the new one.
    return last.verb != "queue.delete" and not any(
        said.fields.get("requeue") for said in (last, operation)
    )


def _refused_above(policy: Mapping[str, Any]) -> int:
    """The length above which a policy lets queues refuse publishes; 0 for never."""
    definition = policy.get("definition", {})
    return definition.get("max-length", 0) if definition.get("overflow") == "reject-publish" else 0


class _Game:
    """One sequence, on its way."""

    def __init__(self, players: Players) -> None:
        self.players = players
        self.sides = players.sides
        self.number = 0
        self.channels: dict[Place, ChannelModel] = {}
        self.queues: dict[str, int] = {}
        """Those that may exist, and the connection to ask on."""
        self.policies: dict[str, Mapping[str, Any]] = {}
        """Those that may exist."""
        self._ready = 0
        """In the longest queue."""
        self._slots: dict[str, int] = {}
        self._other_queues: list[str] = []

    def other_queues(self) -> list[str]:
        """Queues with other names than `QUEUES`, server-named ones as symbols."""
        return self._other_queues

    # -- a step

    def step(self, operations: list[Operation]) -> None:
        """Say it, wait, compare, remember."""
        place = operations[0].connection, operations[0].channel
        if operations[0].verb in POLICY_VERBS:
            self._govern(place, operations[0])
            return
        channel = self._channel(place)
        operations = [
            operation for operation in operations if not self._is_a_race(place, channel, operation)
        ]
        if not operations:
            return
        if any(self._ends_connection(channel, operation) for operation in operations):
            self._close_other_channels(place)
        said = self._compose(channel, operations)
        if not said.operations:
            return
        connection, _ = place
        for side, octets in zip(self.sides, said.octets, strict=True):
            side.wire(connection).flow_oks.clear()
            side.wire(connection).send(bytes(octets))
        silent = self._await_replies(place, channel, said)
        self._see(place, said, silent)

    def _govern(self, place: Place, operation: Operation) -> None:
        """Set a policy, or take it away, and see what comes of it."""
        name = operation.fields["name"]
        policy = operation.fields.get("policy")
        known = {**self.policies, name: policy or {}}
        if self._ready > max(map(_refused_above, known.values()), default=0) > 0:
            return  # see rules.LEFT_OUT, "a queue that is to refuse"
        self.policies = known
        theirs, ours = (
            side.policies.delete(name) if policy is None else side.policies.put(name, policy)
            for side in self.sides
        )
        if theirs != ours:
            raise Difference(self.number, f"status of {operation.verb}", theirs, ours)
        self._see(place, Said(operations=[operation]), [])

    def _see(self, place: Place, said: Said, silent: list[str]) -> None:
        """What has come of it, on both sides."""
        probes: Any = None
        if not silent:
            probes, silent = self._come_to_rest()
        events = [self._take_events(side) for side in self.sides]
        self.players.heard.update(_heard(event) for _, event in events[THEIRS])
        if silent:
            raise Difference(
                self.number,
                "no answer",
                silent,
                [self._plain(side, e) for side, e in zip(self.sides, events, strict=True)],
            )
        if not self._compare(place, said, events):
            self._compare_probes(probes)

    def _plain(self, side: Side, events: list[tuple[int, Event]]) -> list[Any]:
        return [(place, event.name, self._values(side, event)) for place, event in events]

    def _channel(self, place: Place) -> ChannelModel:
        """The channel, opened if it is not."""
        connection, number = place
        if place in self.channels:
            return self.channels[place]
        for side in self.sides:
            wire = side.wire(connection)
            wire.say(number, Channel.Open())
        silent = self.players.wait(
            lambda side: number in side.wires[connection].open or not side.wires[connection].alive,
            f"channel.open on {place}",
        )
        if silent:
            raise Difference(self.number, "channel.open", silent, "")
        for side in self.sides:
            wire = side.wires[connection]
            wire.events = [event for event in wire.events if event.name != "channel.open_ok"]
        channel = self.channels[place] = ChannelModel()
        return channel

    def _is_a_race(self, place: Place, channel: ChannelModel, operation: Operation) -> bool:
        """Whether RabbitMQ itself may answer in several ways."""
        fields = operation.fields
        queues = {queue for queue, _ in channel.consumers.values()}
        if operation.verb == "basic.qos" and fields["global_"] and fields["prefetch_count"]:
            # See rules.LEFT_OUT, "global qos".
            got = any(not channel.tags[one] for one in channel.deliveries)
            unfair = bool(channel.settled) or (got and not channel.global_prefetch)
            return len(queues) > 1 or unfair
        if operation.verb in ("basic.recover", "basic.recover_async") and fields["requeue"]:
            return bool(channel.global_prefetch) or _of_several(channel, channel.deliveries)
        if operation.verb == "settle" and fields["requeue"] and channel.global_prefetch:
            return True
        if operation.verb == "basic.consume" and channel.global_prefetch:
            return bool(queues) and queues != {fields["queue"]}
        return False

    def _ends_connection(self, channel: ChannelModel, operation: Operation) -> bool:
        fields = operation.fields
        match operation.verb:
            case "raw" | "connection.close":
                return True
            case "basic.consume":
                return fields["consumer_tag"] in channel.consumers
            case "exchange.declare":
                return fields.get("exchange_type") in ("blah", "x-nonesuch", "Direct")
            case "basic.recover" | "basic.recover_async":
                return not fields["requeue"]
            case "basic.qos":
                return bool(fields["prefetch_size"])
            case "channel.flow":
                return not fields["active"]
            case "publish":
                return "immediate" in fields
        return False

    def _close_other_channels(self, place: Place) -> None:
        """Channels of a connection end in any order in RabbitMQ: let it be this one.

        Only needed where there is something to requeue, or somebody to hand it to.
        """
        if not any(
            other[0] == place[0] and other != place and (model.deliveries or model.consumers)
            for other, model in self.channels.items()
        ):
            return
        for other in list(self.channels):
            if other[0] == place[0] and other != place:
                close = Operation(*other, "channel.close", {"reply_code": 200})
                self.step([close])

    # -- what is said

    def _compose(self, channel: ChannelModel, operations: list[Operation]) -> Said:
        said = Said()
        number = operations[0].channel
        for operation in operations:
            if operation.verb == "settle":
                if not self._compose_settlement(channel, operation, said):
                    continue
            elif operation.verb == "publish":
                self._compose_publish(channel, operation, said)
            elif operation.verb == "raw":
                for octets in said.octets:
                    octets += raw_octets(operation)
            else:
                frame_type = METHODS[operation.verb]
                said.commits += operation.verb == "tx.commit"
                one, other = (
                    method(
                        frame_type,
                        **{
                            name: side.actual(value) if isinstance(value, str) else value
                            for name, value in operation.fields.items()
                        },
                    )
                    for side in self.sides
                )
                at = 0 if operation.verb == "connection.close" else number
                said.method(at, one, other, operation.arguments)
            said.operations.append(operation)
        return said

    def _compose_publish(self, channel: ChannelModel, operation: Operation, said: Said) -> None:
        fields = operation.fields
        serial, size = fields["body"]
        body = body_of(serial, size)
        for side, octets in zip(self.sides, said.octets, strict=True):
            publish = method(
                BasicClass.Publish,
                exchange=fields["exchange"],
                routing_key=side.actual(fields["routing_key"]),
                mandatory=fields["mandatory"],
                immediate=fields.get("immediate", False),
            )
            octets += frame(1, operation.channel, encode_method(publish))
            octets += content(operation.channel, properties_of(fields["properties"]), body)
        if channel.confirming:
            channel.published += 1
            if body:
                channel.bodies[_digest(body)] = channel.published

    def _compose_settlement(self, channel: ChannelModel, operation: Operation, said: Said) -> bool:
        fields = operation.fields
        deliveries = channel.deliveries
        multiple = fields["multiple"]
        pair = (0, 0)
        fault = fields.get("fault")
        if fault == "unknown":
            pair = (UNKNOWN_TAG, UNKNOWN_TAG)
        elif fault == "again" and channel.settled_before:
            pair = channel.settled_before
        elif fault == "all":
            multiple = fields["how"] != "reject"
            if multiple and fields["requeue"] and _of_several(channel, deliveries):
                return False
            if multiple:
                self._settled(channel, list(deliveries))
            elif not deliveries:
                return False
        elif fault is None:
            if not deliveries:
                return False
            index = fields["which"] % len(deliveries)
            pair = deliveries[index]
            if multiple:
                first = set(deliveries[: index + 1])
                multiple = first == {one for one in deliveries if one[OURS] <= pair[OURS]}
                multiple = multiple and not (fields["requeue"] and _of_several(channel, first))
            self._settled(channel, deliveries[: index + 1] if multiple else [pair])
        frame_type = METHODS[f"basic.{fields['how']}"]
        one, other = (
            method(frame_type, delivery_tag=tag, multiple=multiple, requeue=fields["requeue"])
            for tag in pair
        )
        said.method(operation.channel, one, other, {})
        return True

    def _settled(self, channel: ChannelModel, deliveries: list[tuple[int, int]]) -> None:
        gone = set(deliveries)
        channel.deliveries = [one for one in channel.deliveries if one not in gone]
        if deliveries:
            channel.settled_before = deliveries[-1]
        if channel.transactional:
            channel.settled += deliveries

    # -- waiting

    def _await_replies(self, place: Place, channel: ChannelModel, said: Said) -> list[str]:
        connection, number = place
        last = said.operations[-1].verb
        wait = self.players.wait

        def over(side: Side) -> bool:
            wire = side.wires[connection]
            return not wire.alive or number not in wire.open

        if last in ("channel.close", "connection.close"):
            return wait(over, last)
        if said.commits:
            silent = wait(
                lambda side: (
                    over(side)
                    or any(
                        event.name == "tx.commit_ok" and event.channel == number
                        for event in side.wires[connection].events
                    )
                ),
                "tx.commit",
            )
            if silent:
                return silent
        for side in self.sides:
            wire = side.wires[connection]
            if number in wire.open:
                wire.say(number, method(Channel.Flow, active=True))
        flows = 1 + sum(operation.verb == "channel.flow" for operation in said.operations)
        silent = wait(
            lambda side: over(side) or side.wires[connection].flow_oks.get(number, 0) >= flows,
            "channel.flow after it",
        )
        if silent or not channel.confirming:
            return silent
        return wait(
            lambda side: (
                over(side) or len(self._confirmed(side, place, channel)) >= channel.published
            ),
            "confirms",
        )

    def _confirmed(self, side: Side, place: Place, channel: ChannelModel) -> set[int]:
        """Numbers that were confirmed, by the events that have come as well."""
        connection, number = place
        confirmed = set(channel.confirmed[self.sides.index(side)])
        for event in side.wires[connection].events:
            if event.channel == number and event.name in ("basic.ack", "basic.nack"):
                confirmed |= set(_numbers(event, confirmed, channel.published))
        return confirmed

    def _come_to_rest(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Settle; where one side may be late, until both have come to the same, for a while."""
        probes, silent = self._settle_down()
        deadline = time.monotonic() + LATE_SECONDS
        late = False
        while not silent and self._may_be_late() and time.monotonic() < deadline:
            theirs, ours = (
                (found, self._number_of_deliveries(side)) for side, found in self._with(probes)
            )
            if theirs == ours:
                break
            late = True
            probes, silent = self._settle_down()
        if late:
            self._excuse(rules.LATE.name)
        return probes, silent

    def _may_be_late(self) -> bool:
        """Whether a channel has ended that had messages by basic.get, in this step or before it
        (see rules.LATE)."""
        ended = self._ended(self.sides[THEIRS])
        got = {
            at
            for at, channel in self.channels.items()
            if any(not channel.tags[one] for one in channel.deliveries)
        } | {
            (connection, event.channel)
            for connection, wire in self.sides[THEIRS].wires.items()
            for event in wire.events
            if event.name == "basic.get_ok"
        }
        return any(at in ended or (at[0], 0) in ended for at in got)

    def _ended(self, side: Side) -> set[Place]:
        """Channels that have ended in this step, and connections as channel 0."""
        return {
            (connection, event.channel)
            for connection, wire in side.wires.items()
            for event in wire.events
            if event.name in ENDS
        }

    def _number_of_deliveries(self, side: Side) -> int:
        """In this step, to channels that go on: those that end get more or less of them."""
        ended = self._ended(side)
        return sum(
            event.name == "basic.deliver"
            and {(connection, event.channel), (connection, 0)}.isdisjoint(ended)
            for connection, wire in side.wires.items()
            for event in wire.events
        )

    def _settle_down(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Rounds of probes and flows until nothing new comes; the last probes."""
        before: Any = None
        silent = self._round(flows=False)
        for _ in range(ROUNDS_MAX):
            if silent:
                return [], silent
            state = [
                (
                    sum(e.channel < PROBES for w in side.wires.values() for e in w.events),
                    self._probe_results(side),
                )
                for side in self.sides
            ]
            if state == before:
                return [found for _, found in state], []
            before = state
            silent = self._round(flows=True)
        raise Unsettled(f"no rest after {ROUNDS_MAX} rounds: {before}")

    def _round(self, *, flows: bool) -> list[str]:
        expected: list[tuple[dict[Place, int], list[Place]]] = []
        for side in self.sides:
            wanted: dict[Place, int] = {}
            asked: list[Place] = []
            for wire in side.wires.values():
                wire.events = [event for event in wire.events if event.channel < PROBES]
            for queue, connection in self.queues.items():
                wire = side.wire(connection)
                if not wire.alive:
                    continue
                slot = PROBES + self._slots.setdefault(queue, len(self._slots))
                if slot not in wire.open:
                    wire.open.add(slot)
                    wire.say(slot, Channel.Open())
                wire.say(slot, method(Queue.Declare, queue=side.actual(queue), passive=True))
                asked.append((connection, slot))
            if flows:
                for connection, wire in side.wires.items():
                    for number in sorted(wire.open):
                        if 0 < number < PROBES and connection != MONITOR:
                            place = connection, number
                            wanted[place] = wire.flow_oks.get(number, 0) + 1
                            wire.say(number, method(Channel.Flow, active=True))
            expected.append((wanted, asked))

        def done(side: Side) -> bool:
            wanted, asked = expected[self.sides.index(side)]
            for (connection, number), count in wanted.items():
                wire = side.wires[connection]
                if number in wire.open and wire.flow_oks.get(number, 0) < count:
                    return False
            for connection, number in asked:
                wire = side.wires[connection]
                if wire.alive and not any(
                    event.channel == number and event.name != "channel.open_ok"
                    for event in wire.events
                ):
                    return False
            return True

        return self.players.wait(done, "flows and passive declares")

    def _probe_results(self, side: Side) -> dict[str, Any]:
        results: dict[str, Any] = {}
        names = {PROBES + slot: queue for queue, slot in self._slots.items()}
        for wire in side.wires.values():
            for event in wire.events:
                if event.channel < PROBES or event.name == "channel.open_ok":
                    continue
                values = event.values
                if event.name == "queue.declare_ok":
                    found = f"{values['message_count']} ready, {values['consumer_count']} consumers"
                else:
                    found = f"{values.get('reply_code')} {values.get('reply_text')}"
                results[names[event.channel]] = side.symbolic(found)
        return results

    # -- comparing

    def _take_events(self, side: Side) -> list[tuple[int, Event]]:
        taken = []
        for connection, wire in sorted(side.wires.items()):
            if connection != MONITOR:
                taken += [(connection, e) for e in wire.events if e.channel < PROBES]
            wire.events = []
        return taken

    def _values(self, side: Side, event: Event) -> dict[str, Any]:
        values = {
            name: side.symbolic(value) if isinstance(value, str) else value
            for name, value in event.values.items()
        }
        if "reply_text" in values:
            values["reply_text"] = rules.same_text(values["reply_text"])
        return values

    def _compare(self, place: Place, said: Said, events: list[list[tuple[int, Event]]]) -> bool:
        """Raises `Difference`; whether one was excused."""
        heard = [self._by_channel(taken) for taken in events]
        places = sorted({*heard[THEIRS], *heard[OURS]}, key=lambda one: (one[1], one != place))
        over = self._over(heard)
        closed_connections = {connection for connection, number in over if number == 0}
        reset: set[int] = set()
        if self._is_excused(place[0], events):
            reset.add(place[0])
        for at in places:
            replies = [self._replies(side, h.get(at, [])) for side, h in self._with(heard)]
            if replies[THEIRS] != replies[OURS] and at[0] not in reset:
                if at[1] and at[0] in closed_connections and is_cut_short(*replies):
                    self._excuse(rules.CUT_SHORT.name)
                    continue
                theirs, ours = _first_unequal(*replies)
                raise Difference(self.number, f"replies on {_shown(at)}", theirs, ours)
        ended = closed_connections | reset
        for at in places:
            if at not in over and at[0] not in ended:
                self._compare_flow(at, said if at == place else None, heard)
        self._remember(place, said, heard, over, ended)
        for connection in ended:
            for side in self.sides:
                wire = side.wires.get(connection)
                if wire is not None and wire.alive:
                    wire.say(0, method(ConnectionClass.Close, reply_code=200))
        if ended:
            self.players.wait(
                lambda side: not any(w.alive for c, w in side.wires.items() if c in ended),
                "closing",
            )
            for connection in ended:
                for side in self.sides:
                    side.forget(connection)
        return bool(reset)

    def _with(self, heard: list[Any]) -> Iterator[tuple[Side, Any]]:
        return zip(self.sides, heard, strict=True)

    def _by_channel(self, events: list[tuple[int, Event]]) -> dict[Place, list[Event]]:
        heard: dict[Place, list[Event]] = {}
        for connection, event in events:
            heard.setdefault((connection, event.channel), []).append(event)
        return heard

    def _over(self, heard: list[dict[Place, list[Event]]]) -> set[Place]:
        """Channels that were closed in the step, and connections as channel 0."""
        return {
            at
            for one in heard
            for at, events in one.items()
            for event in events
            if event.name in ENDS
        }

    def _replies(self, side: Side, events: list[Event]) -> list[Any]:
        replies = []
        for event in events:
            if event.name in ("basic.deliver", "basic.ack", "basic.nack", "basic.cancel"):
                continue
            values = self._values(side, event)
            if event.name == "dropped" and any(
                other.name.startswith("connection.close") for other in events
            ):
                continue
            if event.name == "basic.get_ok":
                del values["delivery_tag"]
            replies.append((event.name, values, *self._content(side, event)))
        return replies

    def _content(self, side: Side, event: Event) -> tuple[Any, ...]:
        if not event.properties:
            return ()
        body = event.body
        shown = body if len(body) < 40 else f"{body[:10]!r}..{len(body)}..{_digest(body).hex()}"
        return side.symbolic_octets(event.properties), shown

    def _is_excused(self, connection: int, events: list[list[tuple[int, Event]]]) -> bool:
        """Whether the brokers closed differently, and a rule says that they may."""
        closes = [
            next(
                (
                    self._values(side, event)
                    for at, event in taken
                    if at == connection and event.name in ("channel.close", "connection.close")
                ),
                {},
            )
            for side, taken in self._with(events)
        ]
        if closes[THEIRS] == closes[OURS]:
            return False
        rule = rules.excused(closes[THEIRS], closes[OURS])
        if rule is not None:
            self._excuse(rule.name)
        return rule is not None

    def _excuse(self, rule: str) -> None:
        self.players.excuses[rule] = self.players.excuses.get(rule, 0) + 1

    def _compare_flow(
        self, at: Place, said: Said | None, heard: list[dict[Place, list[Event]]]
    ) -> None:
        """Deliveries, confirms and cancels of a channel that goes on."""
        deliveries = [self._deliveries(side, h.get(at, [])) for side, h in self._with(heard)]
        for tag in sorted({*deliveries[THEIRS], *deliveries[OURS]}):
            theirs, ours = (one.get(tag, []) for one in deliveries)
            if theirs != ours:
                theirs, ours = _first_unequal(theirs, ours)
                raise Difference(
                    self.number, f"deliveries on {_shown(at)} to {tag!r}", theirs, ours
                )
        cancels = [
            {
                side.symbolic(event.values["consumer_tag"])
                for event in one.get(at, [])
                if event.name == "basic.cancel"
            }
            for side, one in self._with(heard)
        ]
        if cancels[THEIRS] != cancels[OURS]:
            raise Difference(self.number, f"basic.cancel on {_shown(at)}", *cancels)
        channel = self.channels.get(at)
        if channel is None:
            return
        verdicts: list[dict[int, str]] = []
        for index, (side, one) in enumerate(self._with(heard)):
            found: dict[int, str] = {}
            for event in one.get(at, []):
                if event.name in ("basic.ack", "basic.nack"):
                    known = channel.confirmed[index]
                    numbers = _numbers(event, known, channel.published)
                    found |= dict.fromkeys(numbers, event.name)
                    known.update(numbers)
                elif event.name == "basic.return":
                    number = channel.bodies.get(_digest(event.body), 0)
                    if number in channel.confirmed[index]:
                        raise Difference(
                            self.number, "a return after its ack", side.label, event.values
                        )
            verdicts.append(found)
        if verdicts[THEIRS] != verdicts[OURS]:
            raise Difference(self.number, f"confirms on {_shown(at)}", *verdicts)

    def _deliveries(self, side: Side, events: list[Event]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for event in events:
            if event.name == "basic.deliver":
                values = self._values(side, event)
                del values["delivery_tag"]
                tag = values.pop("consumer_tag")
                found.setdefault(tag, []).append((values, *self._content(side, event)))
        return found

    def _compare_probes(self, probes: list[dict[str, Any]]) -> None:
        theirs, ours = probes
        for queue in sorted({*theirs, *ours}):
            if theirs.get(queue) != ours.get(queue):
                raise Difference(
                    self.number, f"state of {queue!r}", theirs.get(queue), ours.get(queue)
                )
            if "ready" not in theirs[queue]:
                self.queues.pop(queue, None)
        lengths = [int(found.split()[0]) for found in theirs.values() if "ready" in found]
        self._ready = max(lengths, default=0)

    # -- remembering

    def _remember(
        self,
        place: Place,
        said: Said,
        heard: list[dict[Place, list[Event]]],
        over: set[Place],
        ended: set[int],
    ) -> None:
        self._remember_queues(place, said, heard[THEIRS].get(place, []))
        for connection in ended:
            self.channels = {at: c for at, c in self.channels.items() if at[0] != connection}
            self.queues = {q: owner for q, owner in self.queues.items() if owner != connection}
        for at in over:
            self.channels.pop(at, None)
        channel = self.channels.get(place)
        consumers_before = {at: dict(c.consumers) for at, c in self.channels.items()}
        if channel is not None:
            self._remember_modes(channel, said, heard[THEIRS].get(place, []))
        for at, model in self.channels.items():
            self._remember_deliveries(at, model, consumers_before[at], said, place, heard)

    def _remember_queues(self, place: Place, said: Said, events: list[Event]) -> None:
        declared = [event for event in events if event.name == "queue.declare_ok"]
        for operation in said.operations:
            if operation.verb != "queue.declare":
                continue
            fields = operation.fields
            side = self.sides[THEIRS]
            name = side.actual(fields["queue"].replace("\r", "").replace("\n", ""))
            if not fields["nowait"]:
                if not declared:
                    break
                name = declared.pop(0).values["queue"]
            name = side.symbolic(name)
            if name.startswith(("amq.rabbitmq.", "$token")):
                continue
            if name not in (*QUEUES, *self._other_queues):
                self._other_queues.append(name)
            if name not in self.queues:
                self.queues[name] = place[0] if fields.get("exclusive") else MONITOR

    def _remember_modes(self, channel: ChannelModel, said: Said, events: list[Event]) -> None:
        tags = [
            self.sides[THEIRS].symbolic(event.values["consumer_tag"])
            for event in events
            if event.name == "basic.consume_ok"
        ]
        for operation in said.operations:
            fields = operation.fields
            match operation.verb:
                case "confirm.select":
                    channel.confirming = True
                case "tx.select":
                    channel.transactional = True
                case "tx.commit":
                    channel.settled = []
                case "tx.rollback":
                    channel.deliveries = sorted([*channel.deliveries, *channel.settled])
                    channel.settled = []
                case "basic.recover" | "basic.recover_async":
                    channel.deliveries = []
                case "basic.qos":
                    if fields["global_"]:
                        channel.global_prefetch = fields["prefetch_count"]
                case "basic.consume":
                    tag = fields["consumer_tag"] if fields["nowait"] else tags.pop(0)
                    channel.consumers[tag] = fields["queue"], fields["no_ack"]
                case "basic.cancel":
                    tag = self.sides[THEIRS].actual(fields["consumer_tag"])
                    channel.consumers.pop(self.sides[THEIRS].symbolic(tag), None)

    def _remember_deliveries(
        self,
        at: Place,
        channel: ChannelModel,
        consumers_before: dict[str, tuple[str, bool]],
        said: Said,
        place: Place,
        heard: list[dict[Place, list[Event]]],
    ) -> None:
        consumers = {**consumers_before, **channel.consumers}
        tags: list[dict[tuple[str, int], int]] = []
        gets = [
            operation.fields["no_ack"]
            for operation in said.operations
            if at == place and operation.verb == "basic.get"
        ]
        for side, one in self._with(heard):
            counts: dict[str, int] = {}
            found: dict[tuple[str, int], int] = {}
            got = iter(gets)
            for event in one.get(at, []):
                if event.name == "basic.deliver":
                    tag = side.symbolic(event.values["consumer_tag"])
                    counts[tag] = counts.get(tag, 0) + 1
                    if tag not in consumers:
                        raise Difference(
                            self.number, "a delivery to nobody", side.label, event.values
                        )
                    if not consumers[tag][1]:
                        found[tag, counts[tag]] = event.values["delivery_tag"]
                elif event.name in ("basic.get_ok", "basic.get_empty"):
                    counts[""] = counts.get("", 0) + 1
                    if not next(got) and event.name == "basic.get_ok":
                        found["", counts[""]] = event.values["delivery_tag"]
            tags.append(found)
        pairs = {(tag, tags[OURS][key]): key[0] for key, tag in tags[THEIRS].items()}
        channel.deliveries += sorted(pairs)
        channel.tags |= pairs
        for event in heard[THEIRS].get(at, []):
            if event.name == "basic.cancel":
                tag = self.sides[THEIRS].symbolic(event.values["consumer_tag"])
                channel.consumers.pop(tag, None)

    # -- the end

    def audit(self) -> None:
        """Everybody leaves, and what the queues and exchanges hold is compared."""
        for connection in sorted({at[0] for at in self.channels}):
            first = min(at for at in self.channels if at[0] == connection)
            self.step([Operation(*first, "connection.close", {"reply_code": 200})])
        probes, silent = self._settle_down()
        if silent:
            raise Difference(self.number, "no answer", silent, "at the end")
        for side in self.sides:
            side.wire(MONITOR).events = []
        self._compare_probes(probes)
        place = (4, 1)
        for queue in list(self.queues):
            ready = int(probes[THEIRS][queue].split()[0])
            get = Operation(*place, "basic.get", {"queue": queue, "no_ack": True})
            self.step([get] * (ready + 1))
        for exchange in EXCHANGES:
            fields = {"exchange": exchange, "passive": True, "exchange_type": "direct"}
            self.step([Operation(*place, "exchange.declare", fields)])


def _of_several(channel: ChannelModel, deliveries: Iterable[tuple[int, int]]) -> bool:
    """Whether they went to more than one consumer (see rules.LEFT_OUT)."""
    return len({channel.tags[one] for one in deliveries}) > 1


def _heard(event: Event) -> str:
    code = event.values.get("reply_code")
    return f"{event.name} {code}" if event.name.endswith(".close") else event.name


def _numbers(event: Event, known: set[int], published: int) -> list[int]:
    number = event.values["delivery_tag"]
    if event.values["multiple"]:
        return [one for one in range(1, (number or published) + 1) if one not in known]
    return [number]


def is_cut_short(theirs: list[Any], ours: list[Any]) -> bool:
    """Whether RabbitMQ said the same, but not to the end (see rules.CUT_SHORT)."""
    return len(theirs) < len(ours) and ours[: len(theirs)] == theirs


def _first_unequal(theirs: list[Any], ours: list[Any]) -> tuple[Any, Any]:
    """Where two lists part, with how long they are."""
    index = 0
    while index < min(len(theirs), len(ours)) and theirs[index] == ours[index]:
        index += 1
    return tuple(  # type: ignore[return-value]
        f"{one[index]} (number {index + 1} of {len(one)})"
        if index < len(one)
        else f"nothing after number {index}"
        for one in (theirs, ours)
    )


def _shown(at: Place) -> str:
    return f"{at[0]}.{at[1]}"


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=8).digest()


def body_of(serial: int, size: int) -> bytes:
    """A body that no other message has, where there is room."""
    text = b"%d." % serial
    return (text * (size // len(text) + 1))[:size]


def _short(text: str) -> bytes:
    octets = text.encode("utf-8", "surrogateescape")
    return bytes((len(octets),)) + octets


_PROPERTIES: Final[tuple[tuple[int, str, Callable[[Any], bytes]], ...]] = (
    *(
        (15, "content_type", _short),
        (14, "content_encoding", _short),
        (13, "headers", encode_table),
    ),
    (12, "delivery_mode", lambda value: bytes((value,))),
    (11, "priority", lambda value: bytes((value,))),
    *((10, "correlation_id", _short), (9, "reply_to", _short), (8, "expiration", _short)),
    (7, "message_id", _short),
    (6, "timestamp", lambda value: pack(">Q", value)),
    *(
        (5, "type", _short),
        (4, "user_id", _short),
        (3, "app_id", _short),
        (2, "cluster_id", _short),
    ),
)


def properties_of(values: dict[str, Any]) -> bytes:
    """Flags and property list, by the standard."""
    flags, parts = 0, []
    for bit, name, encode in _PROPERTIES:
        if name in values:
            flags |= 1 << bit
            parts.append(encode(values[name]))
    return pack(">H", flags) + b"".join(parts)


def raw_octets(operation: Operation) -> bytes:
    """A breach of the protocol, by its name in `operations.RAW`."""
    number = operation.channel
    publish = frame(1, number, encode_method(method(BasicClass.Publish, routing_key="q1")))
    header = b"\x00\x3c\x00\x00" + (5).to_bytes(8, "big") + b"\x00\x00"
    match operation.fields["what"]:
        case "second open":
            return frame(1, number, encode_method(Channel.Open()))
        case "never opened":
            return frame(1, 77, encode_method(method(Queue.Declare, queue="q1")))
        case "server method":
            return frame(1, number, encode_method(method(Queue.DeclareOk, queue="q1")))
        case "connection method":
            return frame(1, number, encode_method(method(ConnectionClass.Open)))
        case "stray header":
            return frame(2, number, header)
        case "stray body":
            return frame(3, number, b"stray")
        case "header class":
            return publish + frame(2, number, b"\x00\x32" + header[2:])
        case "header weight":
            return publish + frame(2, number, b"\x00\x3c\x00\x01" + header[4:])
        case "method for header":
            return publish + publish
        case "method for body":
            return publish + frame(2, number, header) + publish
        case "bad utf-8":
            said = method(Queue.Declare, queue="\udcff")
            return frame(1, number, encode_method(said))
        case "truncated":
            return frame(1, number, encode_method(method(Queue.Declare, queue="q1"))[:9])
        case "too long":
            return frame(1, number, encode_method(method(Queue.Purge, queue="q1")) + b"\x00")
        case "heartbeat":
            return frame(8, number, b"")
        case "frame end":
            return frame(1, number, encode_method(Channel.Open()))[:-1] + b"\x00"
        case "frame type":
            return frame(7, number, b"what")
        case "frame size":
            return b"\x03" + pack(">HI", number, 200_000) + bytes(40)
    raise ValueError(operation)


__all__ = ["Difference", "Players", "Unsettled", "is_cut_short", "steps"]
