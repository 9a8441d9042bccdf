"""Random operations: what is said, on which connection and channel.

An operation is plain data, so that a sequence can be printed, cut and said again. What depends on
the run is named by symbols: `$gen1` is the first server-named queue, `$token1` the first token of
direct reply-to, and a settlement names a delivery by its place among those outstanding.

Names are few, and each has a usual declaration, so that sequences meet: most declarations agree,
some do not. To add an operation: a method `_verb` of `Generator`, and its weight in `_VERBS`.
Whatever amqpd does not do yet is left out (see `rules.LEFT_OUT`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from amqpd.commands import Arguments, Field

USERS: Final = {1: "guest", 2: "guest", 3: "limited"}
"""Connections, and who they are."""
CHANNELS: Final = (1, 2)
QUEUES: Final = ("q1", "q2", "q3", "q4")
EXCHANGES: Final = ("x1", "x2", "x3", "x4")
SOURCES: Final = ("amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match")
KEYS: Final = ("", "a", "a.b", "a.b.c", "q1", "q2", "b")
PATTERNS: Final = (*KEYS, "#", "*", "a.*", "*.b", "a.#", "#.c", "a*", "*.*.#")
TAGS: Final = ("", "", "t1", "t2")
FAR_MS: Final = 3_600_000
"""A time that does not come within a sequence."""
MANY: Final = 100_000
"""A length that no queue reaches here."""
NO_EXCHANGE: Final = "never"
"""Is never declared: as a dead letter exchange it is without effect."""

QUEUE_USUALLY: Final[dict[str, dict[str, bool]]] = {
    "q1": {"durable": True},
    "q2": {},
    "q3": {"durable": True, "auto_delete": True},
    "q4": {"exclusive": True},
}
EXCHANGE_USUALLY: Final[dict[str, dict[str, Any]]] = {
    "x1": {"exchange_type": "direct", "durable": True},
    "x2": {"exchange_type": "fanout"},
    "x3": {"exchange_type": "topic", "auto_delete": True},
    "x4": {"exchange_type": "headers", "durable": True},
}
QUEUE_ARGUMENTS: Final[dict[str, tuple[Field, ...]]] = {
    "x-expires": (("I", FAR_MS), ("l", FAR_MS), ("I", 0), ("I", -1), ("l", 1 << 40), ("S", "5")),
    "x-message-ttl": (("I", FAR_MS), ("I", 0), ("b", -1), ("l", 1 << 40), ("d", 5.0)),
    "x-max-length": (("I", 3), ("l", 1), ("i", 0), ("I", MANY), ("I", -5), ("t", True)),
    "x-max-length-bytes": (("l", 1 << 33), ("I", 120), ("s", -1), ("S", "1"), ("V", None)),
    "x-max-priority": (("I", 5), ("l", 1), ("I", 256), ("I", -1), ("S", "5"), ("f", 1.0)),
    "x-overflow": (("S", "drop-head"), ("S", "reject-publish"), ("S", "zz"), ("I", 1), ("x", b"")),
    "x-dead-letter-exchange": (("S", NO_EXCHANGE), ("I", 1), ("t", False)),
    "x-dead-letter-routing-key": (("S", "dead"), ("I", 7), ("A", [])),
    "x-queue-type": (("S", "classic"), ("S", "zz"), ("I", 1), ("S", "")),
    "x-queue-mode": (("S", "lazy"), ("S", "default"), ("S", "zz"), ("I", 1)),
    "x-queue-version": (("I", 1), ("I", 2), ("I", 3), ("S", "1")),
    "x-single-active-consumer": (("t", True), ("t", False), ("S", "true"), ("I", 1)),
    "x-delivery-limit": (("I", 5),),
    "x-max-age": (("S", "1h"),),
    "x-foo": (("I", 1), ("S", "bar"), ("F", {"a": ("A", [("I", 1)])}), ("V", None)),
}
ALTERNATES: Final[tuple[Field, ...]] = (
    *(("S", "x2"), ("S", "x1"), ("S", NO_EXCHANGE), ("S", "amq.fanout")),
    *(("I", 1), ("t", True), ("S", "")),
)
MATCH_HEADERS: Final[dict[str, tuple[Field, ...]]] = {
    # No float is equal to an integer here: see rules.LEFT_OUT, "numbers in headers".
    "n": (("I", 5), ("l", 5), ("S", "5"), ("d", 6.5)),
    "s": (("S", "one"), ("S", "two"), ("S", ""), ("x", b"one")),
    "b": (("t", True), ("t", False), ("V", None)),
    "x-s": (("S", "one"), ("S", "two")),
}
X_MATCHES: Final[tuple[Field, ...]] = (
    *(("S", "all"), ("S", "any"), ("S", "all"), ("S", "any")),
    *(("S", "all-with-x"), ("S", "any-with-x"), ("S", "zz"), ("I", 1), ("V", None)),
)
SIZES: Final = (0, 1, 10, 10, 100, 100, 1000, 4000)
LARGE_SIZES: Final = (131064, 131065, 200_000)
EXPIRATIONS: Final = (
    *(str(FAR_MS), "0", "0", "0"),
    *("abc", "12x", "-1", "", "99999999999999", "1.5", " 5", f"+{FAR_MS}", "5 "),
)
POLICY_VERBS: Final = ("policy.set", "policy.clear")
POLICIES: Final = ("p1", "p2", "p3")
POLICY_PATTERNS: Final = ("^q", "^q1$", "^q[23]", "", "^x", "1$", ".*", "[", "^amq.gen-")
QUEUE_POLICIES: Final[tuple[dict[str, Any], ...]] = (
    *({"max-length": 2}, {"max-length": 2, "overflow": "reject-publish"}, {"max-length": 0}),
    *({"max-length-bytes": 120}, {"max-length": MANY}, {"message-ttl": FAR_MS}),
    *({"message-ttl": 0}, {"expires": FAR_MS}, {"max-length": 1, "message-ttl": FAR_MS}),
    {"dead-letter-exchange": NO_EXCHANGE},
    *({"dead-letter-routing-key": "dead"}, {"queue-mode": "lazy"}),
)
EXCHANGE_POLICIES: Final[tuple[dict[str, Any], ...]] = (
    *({"alternate-exchange": "x2"}, {"alternate-exchange": "amq.fanout"}),
    *({"alternate-exchange": NO_EXCHANGE}, {"alternate-exchange": "x1", "max-length": 2}),
)
WRONG_POLICIES: Final[tuple[dict[str, Any], ...]] = (
    *({}, {"foo": 1}, {"max-length": -1}, {"max-length": "3"}, {"message-ttl": 1.5}),
    *({"overflow": "zz"}, {"expires": 0}, {"max-length": 2, "foo": 1}, {"alternate-exchange": 1}),
    *({"dead-letter-exchange": 1}, {"queue-mode": "zz"}, {"max-length-bytes": None}),
)
RAW: Final = (
    *("second open", "never opened", "server method", "connection method"),
    *("stray header", "stray body", "header class", "header weight", "method for header"),
    *("method for body", "bad utf-8", "truncated", "too long", "heartbeat", "frame end"),
    *("frame type", "frame size"),
)
"""Breaches of the protocol that end the connection; `play.raw_frames` has their octets."""


@dataclass(frozen=True)
class Operation:
    """One thing said."""

    connection: int
    channel: int
    verb: str
    fields: dict[str, Any] = field(default_factory=dict)
    arguments: Arguments = field(default_factory=dict)
    joined: bool = False
    """Said together with the one before, without waiting in between."""

    def __str__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self.fields.items() if value is not False]
        if self.arguments:
            shown.append(f"arguments={self.arguments}")
        plus = "+" if self.joined else " "
        return f"{plus} {self.connection}.{self.channel} {self.verb} {' '.join(shown)}".rstrip()


GROUPS: Final[dict[str, str]] = {
    **dict.fromkeys(("queue.declare", "queue.bind", "queue.unbind", "queue.delete"), "topology"),
    **dict.fromkeys(("exchange.declare", "exchange.delete"), "topology"),
    **dict.fromkeys(("exchange.bind", "exchange.unbind", "queue.purge"), "topology"),
    "publish": "publish",
    "settle": "settle",
    "basic.get": "get",
}
"""What may be said together: within a group, RabbitMQ's queues and channels keep the order. A
passive declare overtakes a publish there (its queues answer `stat` first), a consume may."""


GARBAGE_TOKEN: Final = "amq.rabbitmq.reply-to.garbage"


class Generator:
    """Makes one sequence."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._serial = 0
        self._generated = 0
        self._tokens = 0
        self._askers: set[tuple[int, int]] = set()
        """Connections and channels that may have a reply consumer."""
        self._governed = False
        self._live: dict[str, int] = {}
        """Queues that may well be there, and who declared them; q4 is only for the latter."""
        self._live_exchanges: dict[str, None] = {}
        self._modes: dict[tuple[int, int], str] = {}
        """Channels that may well be in confirm or tx mode."""

    def sequence(self, length: int) -> Iterator[Operation]:
        """That many operations."""
        made = 0
        if not self._one_in(4):
            for operation in self._prelude():
                yield operation
                made += 1
        verbs = [verb for verb, weight in self._VERBS for _ in range(weight)]
        home: tuple[int, int] = (1, 1)
        while made < length:
            if self._one_in(2):
                home = self._random.choice((1, 1, 1, 1, 2, 2, 3)), self._random.choice(CHANNELS)
            if self._one_in(40):
                for operation in self._transaction(*home):
                    yield operation
                    made += 1
            verb = self._random.choice(verbs)
            first = verb(self, *home)
            yield first
            made += 1
            group = GROUPS.get(first.verb)
            if group is None or first.verb == "raw":
                continue
            for _ in range(self._random.choice((0, 0, 1, 2, 4, 6))):
                following = self._random.choice(self._FOLLOWING[group])(self, *home)
                yield replace(following, joined=not _is_a_race_when_joined(following))
                made += 1

    def _prelude(self) -> Iterator[Operation]:
        """What most sequences begin with, so that there is something to talk about."""
        for name, fields in QUEUE_USUALLY.items():
            said: dict[str, Any] = {"queue": name, **fields, "nowait": False}
            if not self._one_in(4):
                self._live[name] = 1
                yield Operation(1, 1, "queue.declare", said, joined=True)
        for name, fields in EXCHANGE_USUALLY.items():
            said = {"exchange": name, **fields, "nowait": False}
            if not self._one_in(4):
                self._live_exchanges[name] = None
                yield Operation(1, 1, "exchange.declare", said, joined=True)
        for channel in (1, 2):
            if self._one_in(2):
                yield self._select(1, channel)

    # -- chances

    def _one_in(self, chances: int) -> bool:
        return self._random.randrange(chances) == 0

    def _queue(self, connection: int) -> str:
        random = self._random
        live = [
            name
            for name, owner in self._live.items()
            if owner == connection or not QUEUE_USUALLY.get(name, {}).get("exclusive")
        ]
        if live and not self._one_in(8):
            return random.choice(live)
        if self._generated and self._one_in(8):
            return f"$gen{random.randint(1, self._generated)}"
        if self._one_in(25):
            return random.choice(("", "", "missing", "q1\r\n", "é", "amq.rabbitmq.reply-to"))
        return random.choice(QUEUES)

    def _exchange(self) -> str:
        if self._one_in(30):
            return self._random.choice(("", "missing", "x1\n", "amq.rabbitmq.trace", "é"))
        known = self._live_exchanges
        if known and not self._one_in(8):
            return self._random.choice((*known, *known, *SOURCES))
        return self._random.choice((*EXCHANGES, *SOURCES))

    # -- exchange

    def _declare_exchange(self, connection: int, channel: int) -> Operation:
        random = self._random
        name = random.choice(EXCHANGES)
        if self._live_exchanges and self._one_in(2):
            name = random.choice(list(self._live_exchanges))
        fields: dict[str, Any] = {"exchange": name, **EXCHANGE_USUALLY[name]}
        arguments: Arguments = {}
        if self._one_in(4):
            fields[random.choice(("durable", "auto_delete", "internal"))] = self._one_in(2)
        if self._one_in(10):
            fields["exchange_type"] = random.choice(("direct", "fanout", "topic", "headers"))
        if self._one_in(5):
            fields["passive"] = True
        if self._one_in(20):
            fields["exchange"] = random.choice(
                ("", "amq.new", "amq.direct", "missing", "x1\r", "é")
            )
        if self._one_in(60):
            fields["exchange_type"] = random.choice(("blah", "x-nonesuch", "Direct"))
        if self._one_in(9):
            arguments["alternate-exchange"] = random.choice(ALTERNATES)
        if self._one_in(15):
            arguments["x-foo"] = random.choice(QUEUE_ARGUMENTS["x-foo"])
        fields["nowait"] = self._one_in(8)
        if not fields.get("passive"):
            self._live_exchanges[name] = None
        return Operation(connection, channel, "exchange.declare", fields, arguments)

    def _delete_exchange(self, connection: int, channel: int) -> Operation:
        fields = {
            "exchange": self._exchange() if self._one_in(6) else self._random.choice(EXCHANGES),
            "if_unused": self._one_in(3),
            "nowait": self._one_in(8),
        }
        self._live_exchanges.pop(str(fields["exchange"]), None)
        return Operation(connection, channel, "exchange.delete", fields)

    def _bind_exchange(self, connection: int, channel: int) -> Operation:
        # One end is from the pool, so that cleaning up takes the binding along.
        pool = list(self._live_exchanges) or EXCHANGES
        ends = [self._exchange(), self._random.choice(EXCHANGES if self._one_in(6) else pool)]
        self._random.shuffle(ends)
        fields: dict[str, Any] = {"destination": ends[0], "source": ends[1]}
        verb = "exchange.unbind" if self._one_in(3) else "exchange.bind"
        return self._with_binding(Operation(connection, channel, verb, fields))

    # -- queue

    def _declare_queue(self, connection: int, channel: int) -> Operation:
        random = self._random
        name = random.choice(QUEUES)
        fields: dict[str, Any] = {"queue": name, **QUEUE_USUALLY[name]}
        arguments: Arguments = {}
        if self._one_in(8):
            fields[random.choice(("durable", "auto_delete", "exclusive"))] = self._one_in(2)
        if self._one_in(5) and self._live:
            fields |= {"queue": self._queue(connection), "passive": True}
        elif self._one_in(12):
            self._generated += 1
            fields["queue"] = ""
            fields["exclusive"] = self._one_in(2)
        if self._one_in(15):
            names = ("amq.new", "missing", "q1\r\n", "é", "amq.rabbitmq.reply-to", "x" * 255)
            # See rules.LEFT_OUT: no channel asks for its own token.
            asker = (connection, channel) in self._askers
            token = GARBAGE_TOKEN if asker else self._token()
            fields["queue"] = random.choice((*names, "", token, self._queue(connection)))
            fields["passive"] = fields["queue"] in ("missing", "é", "") or self._one_in(2)
        for _ in range(random.choice((0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3))):
            key = random.choice(list(QUEUE_ARGUMENTS))
            values = QUEUE_ARGUMENTS[key]
            arguments[key] = values[0] if self._one_in(2) else random.choice(values)
        if not fields["queue"]:
            arguments.pop("x-queue-type", None)  # See rules.LEFT_OUT.
        fields["nowait"] = bool(fields["queue"]) and self._one_in(8)
        if not fields.get("passive"):
            self._live.setdefault(name, connection)
        return Operation(connection, channel, "queue.declare", fields, arguments)

    def _bind_queue(self, connection: int, channel: int) -> Operation:
        fields: dict[str, Any] = {"queue": self._queue(connection), "exchange": self._exchange()}
        verb = "queue.unbind" if self._one_in(4) else "queue.bind"
        return self._with_binding(Operation(connection, channel, verb, fields))

    def _with_binding(self, operation: Operation) -> Operation:
        random = self._random
        fields = {**operation.fields, "routing_key": random.choice(PATTERNS)}
        if operation.verb != "queue.unbind":
            fields["nowait"] = self._one_in(8)
        arguments: Arguments = {}
        if fields.get("exchange", fields.get("source")) in ("x4", "amq.headers", "amq.match"):
            arguments = self._some_headers()
            if self._one_in(2):
                arguments["x-match"] = random.choice(X_MATCHES)
        elif self._one_in(12):
            arguments = self._some_headers()
        return replace(operation, fields=fields, arguments=arguments)

    def _some_headers(self) -> Arguments:
        return {
            name: self._random.choice(values)
            for name, values in MATCH_HEADERS.items()
            if self._one_in(3)
        }

    def _purge(self, connection: int, channel: int) -> Operation:
        fields = {"queue": self._queue(connection), "nowait": self._one_in(8)}
        return Operation(connection, channel, "queue.purge", fields)

    def _delete_queue(self, connection: int, channel: int) -> Operation:
        fields = {
            "queue": self._queue(connection),
            "if_unused": self._one_in(4),
            "if_empty": self._one_in(4),
            "nowait": self._one_in(8),
        }
        self._live.pop(str(fields["queue"]), None)
        return Operation(connection, channel, "queue.delete", fields)

    # -- publish

    def _publish(self, connection: int, channel: int) -> Operation:
        random = self._random
        self._serial += 1
        fields: dict[str, Any] = {"exchange": "", "routing_key": self._queue(connection)}
        if self._one_in(2):
            fields = {"exchange": self._exchange(), "routing_key": random.choice(KEYS)}
        elif self._tokens and self._one_in(6):
            fields["routing_key"] = self._token()
        fields["mandatory"] = self._one_in(4)
        size = random.choice(LARGE_SIZES) if self._one_in(60) else random.choice(SIZES)
        fields["body"] = (self._serial, size)
        fields["properties"] = properties = self._properties()
        if USERS[connection] == "limited" and fields["exchange"] == "amq.topic":
            for name in ("CC", "BCC"):  # See rules.LEFT_OUT.
                properties.get("headers", {}).pop(name, None)
        if self._one_in(300):
            fields["immediate"] = True
        return Operation(connection, channel, "publish", fields)

    def _token(self) -> str:
        if not self._tokens or self._one_in(4):
            return GARBAGE_TOKEN
        return f"$token{self._random.randint(1, self._tokens)}"

    def _properties(self) -> dict[str, Any]:
        random = self._random
        chosen: dict[str, Any] = {}
        if self._one_in(2):
            chosen["delivery_mode"] = random.choice((1, 2, 2, 2))
        if self._one_in(2):
            return chosen
        for name in ("content_type", "content_encoding", "correlation_id", "message_id", "type"):
            if self._one_in(6):
                chosen[name] = random.choice(("", "text/plain", "é", "x" * 255))
        for name in ("app_id", "cluster_id"):
            if self._one_in(12):
                chosen[name] = random.choice(("", "app"))
        if self._one_in(6):
            chosen["priority"] = random.choice((0, 1, 2, 4, 9, 255))
        if self._one_in(6):
            chosen["timestamp"] = random.choice((0, 1_700_000_000, (1 << 64) - 1))
        if self._one_in(2):
            chosen["headers"] = self._headers()
        if self._one_in(20) and "L" not in chosen.get("headers", ()):
            chosen["reply_to"] = random.choice(("", "q1", "amq.rabbitmq.reply-to"))
        if self._one_in(16):
            wrong = self._one_in(3)
            chosen["expiration"] = random.choice(EXPIRATIONS) if wrong else str(FAR_MS)
        if self._one_in(12):
            chosen["user_id"] = random.choice(("guest",) * 8 + ("limited", ""))
        return chosen

    def _headers(self) -> Arguments:
        random = self._random
        headers = self._some_headers()
        for name in ("h1", "h2", "é", ""):
            if self._one_in(3):
                headers[name] = self._value(2)
        if self._one_in(4):
            # See rules.LEFT_OUT, "int64 as L".
            headers["L"] = ("L", random.choice((0, 1, -1)))
            return headers
        for name in ("CC", "BCC"):
            if self._one_in(8):
                keys: list[Field] = [
                    ("S", random.choice((*KEYS, *QUEUES))) for _ in range(random.randrange(4))
                ]
                headers[name] = ("A", keys)
                if self._one_in(12):
                    headers[name] = random.choice((("S", "q1"), ("I", 1), ("V", None)))
                elif self._one_in(20):
                    keys.append(random.choice((("I", 1), ("V", None), ("x", b"q1"))))
        items = list(headers.items())
        random.shuffle(items)
        return dict(items)

    def _value(self, depth: int) -> Field:
        random = self._random
        octet = random.choice("tbBsuIilfdDSTVxAF" if depth else "tIS")
        match octet:
            case "t":
                return octet, self._one_in(2)
            case "f" | "d":
                return octet, random.choice((0.0, -1.5, 1e10, 0.5))
            case "D":
                return octet, (random.randrange(256), random.randrange(1 << 32))
            case "S":
                return octet, random.choice(("", "text", "é", "\udcff\udc80"))
            case "x":
                return octet, random.randbytes(random.randrange(4))
            case "A":
                return octet, [self._value(depth - 1) for _ in range(random.randrange(4))]
            case "F":
                return octet, {
                    name: self._value(depth - 1) for name in ("b", "a", "c") if self._one_in(2)
                }
            case "V":
                return octet, None
            case "T":
                return octet, random.choice((0, 1_700_000_000, (1 << 64) - 1))
            case _:
                bits, signed = _INTEGERS[octet]
                low = -(1 << (bits - 1)) if signed else 0
                high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
                return octet, random.choice((0, 1, low, high))

    # -- consume

    def _consume(self, connection: int, channel: int) -> Operation:
        random = self._random
        fields: dict[str, Any] = {
            "queue": self._queue(connection),
            "consumer_tag": random.choice(TAGS),
            "no_ack": self._one_in(3),
            "exclusive": self._one_in(15),
            "no_local": self._one_in(10),
        }
        arguments: Arguments = {}
        if self._one_in(5):
            arguments["x-priority"] = random.choice(
                (*(("I", 1), ("I", 5), ("l", 1), ("b", -1)), *(("S", "5"), ("d", 1.0), ("V", None)))
            )
        if fields["queue"] == "amq.rabbitmq.reply-to" or self._one_in(12):
            fields |= {"queue": "amq.rabbitmq.reply-to", "no_ack": not self._one_in(5)}
            # See rules.LEFT_OUT: no other consumer has its tag.
            fields["consumer_tag"] = random.choice(("", "r1"))
            self._tokens += 1
            self._askers.add((connection, channel))
        fields["nowait"] = bool(fields["consumer_tag"]) and self._one_in(6)
        return Operation(connection, channel, "basic.consume", fields, arguments)

    def _cancel(self, connection: int, channel: int) -> Operation:
        tag = self._random.choice((*TAGS, "$ctag1", "$ctag2", "unknown"))
        fields = {"consumer_tag": tag, "nowait": self._one_in(6)}
        return Operation(connection, channel, "basic.cancel", fields)

    def _get(self, connection: int, channel: int) -> Operation:
        fields = {"queue": self._queue(connection), "no_ack": self._one_in(2)}
        return Operation(connection, channel, "basic.get", fields)

    def _settle(self, connection: int, channel: int) -> Operation:
        random = self._random
        how = random.choice(("ack", "ack", "ack", "nack", "nack", "reject"))
        fields: dict[str, Any] = {
            "how": how,
            "which": 0 if self._one_in(2) else random.randrange(8),
            "multiple": how != "reject" and self._one_in(4),
            "requeue": how != "ack" and not self._one_in(3),
        }
        if self._one_in(60):
            fields["fault"] = random.choice(("zero", "unknown", "again"))
        elif self._one_in(12):
            fields["fault"] = "all"
        return Operation(connection, channel, "settle", fields)

    def _recover(self, connection: int, channel: int) -> Operation:
        verb = "basic.recover_async" if self._one_in(4) else "basic.recover"
        return Operation(connection, channel, verb, {"requeue": not self._one_in(40)})

    def _qos(self, connection: int, channel: int) -> Operation:
        fields = {
            "prefetch_count": self._random.choice((0, 1, 2, 3, 10)),
            "global_": self._one_in(4),
            "prefetch_size": 10 if self._one_in(50) else 0,
        }
        return Operation(connection, channel, "basic.qos", fields)

    # -- policies

    def _govern(self, connection: int, channel: int) -> Operation:
        random = self._random
        fields: dict[str, Any] = {"name": random.choice(POLICIES)}
        if self._governed and self._one_in(3):
            return Operation(connection, channel, "policy.clear", fields)
        kind = random.choice(("queues", "queues", "queues", "exchanges", "all"))
        definitions = EXCHANGE_POLICIES if kind == "exchanges" else QUEUE_POLICIES
        definition = random.choice(WRONG_POLICIES if self._one_in(6) else definitions)
        fields["policy"] = {
            "pattern": random.choice(POLICY_PATTERNS),
            "definition": definition,
            # No two have the same: which of them holds is anybody's guess in RabbitMQ.
            "priority": POLICIES.index(fields["name"]) + random.choice((0, 0, 3, -3)),
            "apply-to": "zz" if self._one_in(20) else kind,
        }
        self._governed = True
        return Operation(connection, channel, "policy.set", fields)

    # -- modes, life and death

    def _select(self, connection: int, channel: int) -> Operation:
        verb = self._modes.get((connection, channel))
        if verb is None or self._one_in(6):
            verb = self._random.choice(("confirm.select", "confirm.select", "tx.select"))
        self._modes[connection, channel] = verb
        fields = {"nowait": self._one_in(6)} if verb == "confirm.select" else {}
        return Operation(connection, channel, verb, fields)

    def _transaction(self, connection: int, channel: int) -> Iterator[Operation]:
        """One in whose midst the bindings change that its publishes went by."""
        place = (connection, channel)
        queue, exchange = self._queue(connection), self._random.choice(SOURCES[:3])
        key = self._random.choice(KEYS[1:])
        binding = {"queue": queue, "exchange": exchange, "routing_key": key}
        publish = {"exchange": exchange, "routing_key": key, "properties": {}}
        self._modes[place] = "tx.select"
        yield Operation(*place, "tx.select")
        if self._one_in(2):
            yield Operation(*place, "queue.bind", {**binding, "nowait": False})
        for _ in range(2):
            self._serial += 1
            body = {"mandatory": self._one_in(3), "body": (self._serial, 12)}
            yield Operation(*place, "publish", {**publish, **body})
            if self._one_in(4):
                yield self._delete_queue(connection, channel)
                yield self._declare_queue(connection, channel)
            else:
                verb = self._random.choice(("queue.bind", "queue.unbind"))
                said = binding if verb == "queue.unbind" else {**binding, "nowait": False}
                yield Operation(*place, verb, said)
        yield Operation(*place, "tx.rollback" if self._one_in(4) else "tx.commit")
        yield Operation(*place, "basic.get", {"queue": queue, "no_ack": True})

    def _end_transaction(self, connection: int, channel: int) -> Operation:
        if self._modes.get((connection, channel)) != "tx.select" and not self._one_in(20):
            if not self._one_in(3):
                return self._settle(connection, channel)
            self._modes.setdefault((connection, channel), "tx.select")
            return Operation(connection, channel, "tx.select")
        verb = "tx.rollback" if self._one_in(3) else "tx.commit"
        return Operation(connection, channel, verb)

    def _flow(self, connection: int, channel: int) -> Operation:
        return Operation(connection, channel, "channel.flow", {"active": not self._one_in(10)})

    def _request_access(self, connection: int, channel: int) -> Operation:
        return Operation(connection, channel, "access.request", {"realm": "/data", "read": True})

    def _close_channel(self, connection: int, channel: int) -> Operation:
        self._modes.pop((connection, channel), None)
        return Operation(connection, channel, "channel.close", {"reply_code": 200})

    def _close_connection(self, connection: int, channel: int) -> Operation:
        return Operation(connection, channel, "connection.close", {"reply_code": 200})

    def _raw(self, connection: int, channel: int) -> Operation:
        return Operation(connection, channel, "raw", {"what": self._random.choice(RAW)})

    _VERBS: Final[tuple[tuple[Callable[[Generator, int, int], Operation], int], ...]] = (
        *((_declare_queue, 14), (_bind_queue, 14), (_purge, 2), (_delete_queue, 3)),
        *((_declare_exchange, 7), (_delete_exchange, 2), (_bind_exchange, 6)),
        *((_publish, 50), (_consume, 30), (_cancel, 7), (_get, 14), (_settle, 30)),
        *((_recover, 5), (_qos, 9), (_select, 8), (_end_transaction, 12), (_flow, 2)),
        *((_request_access, 1), (_close_channel, 4), (_close_connection, 1), (_raw, 1)),
        (_govern, 6),
    )
    _FOLLOWING: Final[dict[str, tuple[Callable[[Generator, int, int], Operation], ...]]] = {
        "topology": (
            *(_declare_queue, _declare_queue, _declare_queue, _bind_queue, _bind_queue),
            *(_bind_queue, _bind_queue, _declare_exchange, _bind_exchange, _bind_exchange),
            *(_delete_queue, _delete_exchange, _purge),
        ),
        "publish": (_publish,),
        "settle": (_settle,),
        "get": (_get,),
    }


def _is_a_race_when_joined(operation: Operation) -> bool:
    """Whether RabbitMQ's answer depends on when it comes to this one.

    An empty name is looked up even on a channel that is closing, for a second close. All that is
    outstanding (tag 0 with `multiple`, too) may include what the operation before requeued, or made
    room for: RabbitMQ's queues hand out while its channel reads on.
    """
    everything = operation.fields.get("fault") in ("all", "zero")
    return everything or operation.fields.get("queue") == ""


_INTEGERS: Final = {
    **{"b": (8, True), "B": (8, False), "s": (16, True), "u": (16, False)},
    **{"I": (32, True), "i": (32, False), "l": (64, True), "L": (64, True)},
}
