"""Every argument of a queue, and every type of exchange, means after a crash what it meant before.

Each case says what is declared and done before the crash, and then shows in a conversation that the
argument is still in force, for what was there and for what comes. To add an argument: a case here
(`test_no_argument_is_forgotten` says which are missing), and its row in docs/compatibility.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Final, NamedTuple

import pytest

from amqpd.broker.queue_arguments import CLASSIC, QUORUM, arguments_of
from amqpd.commands import Exchange, Queue
from amqpd.config import Compat
from amqpd.errors import PRECONDITION_FAILED
from amqpd.wire.properties import read_headers
from amqpd.wire.tables import encode_table, plain
from amqpd_exchanges.router import KINDS
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Delivery,
    Got,
    method,
    properties,
    table,
)


class World:
    """A broker with a journal, which commits whatever is said, and a client of it."""

    def __init__(self, compat: Compat) -> None:
        self.broker = BrokerUnderTest(journaling=True, compat=compat)
        self.channel = self.broker.client().channel()

    def restart(self) -> None:
        """Commit, kill -9, and a new client."""
        self.broker.journal.commit()
        self.broker.crash_and_recover()
        self.broker.turn()
        self.channel = self.broker.client().channel()

    def declare(self, name: str, arguments: Mapping[str, Any] | None = None) -> None:
        """A durable queue."""
        self.channel.send(
            method(Queue.Declare, queue=name, durable=True), table(dict(arguments or {}))
        )
        self.broker.journal.commit()
        self.channel.receive(Queue.DeclareOk)

    def declare_exchange(self, type: str, arguments: Mapping[str, Any]) -> None:
        """A durable exchange `x`."""
        said = method(Exchange.Declare, exchange="x", exchange_type=type, durable=True)
        self.channel.send(said, table(dict(arguments)))
        self.broker.journal.commit()
        self.channel.receive(Exchange.DeclareOk)

    def bind(
        self, queue: str, routing_key: str, arguments: Mapping[str, Any] | None = None
    ) -> None:
        """A binding of `x`."""
        self.channel.send(
            method(Queue.Bind, queue=queue, exchange="x", routing_key=routing_key),
            table(dict(arguments or {})),
        )
        self.broker.journal.commit()
        self.channel.receive(Queue.BindOk)

    def publish(self, *bodies: bytes, properties: bytes = PERSISTENT, key: str = "q") -> None:
        """To the queue `q`."""
        for body in bodies:
            self.channel.publish("", key, body, properties)
        self.broker.journal.commit()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.broker.advance(seconds)
        self.broker.journal.commit()

    def ready(self, queue: str = "q") -> int:
        """How many messages wait in the queue."""
        return self.channel.counts(queue)[0]

    def take(self, queue: str = "q") -> Got:
        """Its first message."""
        got = self.channel.get(queue)
        assert got is not None
        return got

    def reject(self, queue: str = "q", *, requeue: bool = False) -> None:
        """Its first message is not wanted."""
        self.channel.reject(self.take(queue).delivery_tag, requeue=requeue)
        self.broker.journal.commit()

    def confirmed(self, *bodies: bytes, properties: bytes = PERSISTENT) -> list[bool]:
        """Which of these publishes are acknowledged; the others are refused."""
        channel = self.broker.client().channel()
        channel.confirm_select()
        said: list[bool] = []
        for body in bodies:
            channel.publish("", "q", body, properties)
            self.broker.journal.commit()
            said += [confirm.ack for confirm in channel.confirms()]
        return said


Step = Callable[[World], None]


def nothing(world: World) -> None:
    """What is declared says it all."""


class Case(NamedTuple):
    """What is done with the queue `q` before the crash, and what shows afterwards."""

    arguments: dict[str, Any]
    before: Step
    after: Step
    kinds: tuple[str, ...] = (CLASSIC, QUORUM)
    compat: Compat = "3.13"


# -- what each argument means


def expires_a_second_after_it_came(world: World) -> None:
    world.publish(b"old")
    world.advance(0.5)


def old_then_new_expire(world: World) -> None:
    world.publish(b"new")
    assert world.ready() == 2
    world.advance(0.6)
    assert world.ready() == 1
    world.advance(0.5)
    assert world.ready() == 0


def publish_with_expirations(world: World) -> None:
    world.publish(b"old", properties=properties(expiration="1000", delivery_mode=2))
    world.publish(b"for ever")
    world.advance(0.5)


def the_first_expires(world: World) -> None:
    assert world.ready() == 2
    world.advance(0.6)
    assert world.channel.drain("q") == [b"for ever"]


def is_unused(world: World) -> None:
    world.advance(0.9)


def begins_a_new_life(world: World) -> None:
    """RabbitMQ's rule: the time of a queue that nobody uses counts from the start."""
    world.advance(0.9)
    assert world.ready() == 0  # which is a use
    world.advance(0.9)
    assert "q" in world.broker.core.virtual_hosts["/"].queues
    world.advance(0.2)
    assert "q" not in world.broker.core.virtual_hosts["/"].queues


def fill(world: World) -> None:
    world.publish(b"1", b"2")


def drops_the_oldest(world: World) -> None:
    assert world.confirmed(b"3") == [True]
    assert world.channel.drain("q") == [b"2", b"3"]


def refuses_a_third(world: World) -> None:
    assert world.confirmed(b"3") == [False]
    assert world.channel.drain("q") == [b"1", b"2"]


def refuses_a_third_which_dies(world: World) -> None:
    refuses_a_third(world)
    assert world.channel.drain("dead") == [b"3"]


def dies_once_in_each_queue(world: World) -> None:
    world.publish(b"m", properties=properties(delivery_mode=2, headers={"mine": 1}))
    world.reject("q")
    world.reject("back")


def goes_on_counting(world: World) -> None:
    world.reject("q")
    headers = plain(read_headers(world.take("back").properties, 64))
    deaths = [(death["queue"], death["count"]) for death in headers["x-death"]]
    assert deaths == [("q", 2), ("back", 1)]
    assert (headers["x-first-death-queue"], headers["mine"]) == ("q", 1)
    assert (headers["x-last-death-queue"], headers["x-last-death-reason"]) == ("q", "rejected")


def stays_without_a_route(world: World) -> None:
    world.publish(b"m", key="stuck")
    world.reject("stuck")


def gets_there_when_there_is_one(world: World) -> None:
    world.declare("late")
    world.advance(180)
    assert world.channel.drain("late") == [b"m"]


def publish_by_priority(world: World) -> None:
    for priority in (1, 255, 100, 255):
        body = b"%d" % priority
        world.publish(body, properties=properties(priority=priority, delivery_mode=2))


def the_highest_comes_first(world: World) -> None:
    world.publish(b"254", properties=properties(priority=254, delivery_mode=2))
    assert world.channel.drain("q") == [b"255", b"255", b"254", b"100", b"1"]


def serves_one_consumer_at_a_time(world: World) -> None:
    channel = world.channel
    for tag in ("first", "second"):
        channel.consume("q", tag)
    assert [said.consumer_tag for said in channel.deliveries()] == ["first"] * 2
    channel.cancel("first")
    world.publish(b"3")
    assert [said.consumer_tag for said in channel.deliveries()] == ["second"]


def comes_back_once(world: World) -> None:
    world.publish(b"m")
    world.reject(requeue=True)


def has_come_back_too_often(world: World) -> None:
    got = world.take()
    assert plain(read_headers(got.properties, 64))["x-delivery-count"] == 1
    world.channel.reject(got.delivery_tag)
    assert world.channel.drain("q") == []
    (dead,) = [world.take("dead")]
    (death,) = plain(read_headers(dead.properties, 64))["x-death"]
    assert (death["queue"], death["reason"], death["count"]) == ("q", "delivery_limit", 1)


def comes_back_twice(world: World) -> None:
    world.publish(b"m")
    for _ in range(2):
        world.reject(requeue=True)
        world.advance(3)
    world.reject(requeue=True)
    world.advance(1)


def waits_for_the_rest_of_the_longest_delay(world: World) -> None:
    """The third delay would be three seconds, and the longest is two and a half."""
    world.advance(1.4)
    assert world.ready() == 0
    world.advance(0.1)
    assert world.channel.drain("q") == [b"m"]


def times_out(world: World) -> None:
    world.publish(b"m")
    world.channel.consume("q")
    world.channel.take(Delivery)
    world.advance(60)
    text = "delivery acknowledgement on channel 1 timed out. Timeout value used: 30000 ms."
    text += " This timeout value can be configured, see consumers doc guide to learn more"
    world.channel.expect_closed(PRECONDITION_FAILED, f"PRECONDITION_FAILED - {text}", (0, 0))


def publish_one_of_a_kind(world: World) -> None:
    world.publish(b"1", properties=KIND_1)


def takes_others_only(world: World) -> None:
    assert world.confirmed(b"again", properties=KIND_1) == [False]
    assert world.confirmed(b"2", properties=KIND_2) == [True]
    assert world.channel.drain("q") == [b"1", b"2"]
    assert world.confirmed(b"once more", properties=KIND_1) == [True]


def has_them_in_order(world: World) -> None:
    world.publish(b"3")
    assert world.channel.drain("q") == [b"1", b"2", b"3"]


def kind(value: str) -> bytes:
    """Properties of a persistent message with such a header for deduplication."""
    return properties(delivery_mode=2, headers={"x-deduplication-header": value})


KIND_1: Final = kind("1")
KIND_2: Final = kind("2")
TO_DEAD: Final = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
TO_BACK: Final = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "back"}
FULL_AT_2: Final = {"x-max-length": 2}
RETRY: Final = {
    "x-delayed-retry-type": "failed",
    "x-delayed-retry-min": 1000,
    "x-delayed-retry-max": 2500,
}
AT_LEAST_ONCE: Final = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


def ignored(name: str, value: Any, *kinds: str) -> Case:
    """An argument that is accepted and means nothing here."""
    return Case({name: value}, fill, has_them_in_order, kinds or (CLASSIC, QUORUM))


CASES: Final[dict[str, Case]] = {
    "x-message-ttl": Case(
        {"x-message-ttl": 1000}, expires_a_second_after_it_came, old_then_new_expire
    ),
    "expiration": Case({}, publish_with_expirations, the_first_expires),
    "x-expires": Case({"x-expires": 1000}, is_unused, begins_a_new_life),
    "x-max-length": Case(FULL_AT_2, fill, drops_the_oldest),
    "x-max-length-bytes": Case({"x-max-length-bytes": 2}, fill, drops_the_oldest),
    "x-overflow": Case(
        {**FULL_AT_2, "x-overflow": "reject-publish"}, fill, refuses_a_third, (CLASSIC,)
    ),
    "x-overflow-dlx": Case(
        {**FULL_AT_2, **TO_DEAD, "x-overflow": "reject-publish-dlx"},
        fill,
        refuses_a_third_which_dies,
        (CLASSIC,),
    ),
    "x-dead-letter-exchange": Case(TO_BACK, dies_once_in_each_queue, goes_on_counting),
    "x-dead-letter-exchange-4.2": Case(
        TO_BACK, dies_once_in_each_queue, goes_on_counting, compat="4.2"
    ),
    "x-dead-letter-routing-key": Case(TO_BACK, dies_once_in_each_queue, goes_on_counting),
    "x-dead-letter-strategy": Case(
        {}, stays_without_a_route, gets_there_when_there_is_one, (QUORUM,)
    ),
    "x-max-priority": Case(
        {"x-max-priority": 255}, publish_by_priority, the_highest_comes_first, (CLASSIC,)
    ),
    "x-single-active-consumer": Case(
        {"x-single-active-consumer": True}, fill, serves_one_consumer_at_a_time
    ),
    "x-delivery-limit": Case(
        {"x-delivery-limit": 1, **TO_DEAD}, comes_back_once, has_come_back_too_often, (QUORUM,)
    ),
    "x-delayed-retry-type": Case(RETRY, comes_back_twice, waits_for_the_rest_of_the_longest_delay),
    "x-delayed-retry-min": Case(RETRY, comes_back_twice, waits_for_the_rest_of_the_longest_delay),
    "x-delayed-retry-max": Case(RETRY, comes_back_twice, waits_for_the_rest_of_the_longest_delay),
    "x-consumer-timeout": Case({"x-consumer-timeout": 30_000}, nothing, times_out),
    "x-message-deduplication": Case(
        {"x-message-deduplication": True}, publish_one_of_a_kind, takes_others_only, (CLASSIC,)
    ),
    "x-queue-type": Case({}, fill, has_them_in_order),
    "x-queue-mode": ignored("x-queue-mode", "lazy", CLASSIC),
    "x-queue-version": ignored("x-queue-version", 2, CLASSIC),
    "x-queue-master-locator": ignored("x-queue-master-locator", "min-masters", CLASSIC),
    "x-queue-leader-locator": ignored("x-queue-leader-locator", "balanced"),
    "x-max-in-memory-length": ignored("x-max-in-memory-length", 1, QUORUM),
    "x-max-in-memory-bytes": ignored("x-max-in-memory-bytes", 1, QUORUM),
    "x-quorum-initial-group-size": ignored("x-quorum-initial-group-size", 3, QUORUM),
    "x-nobody-knows": ignored("x-nobody-knows", {"deep": ["er", None, 5.5]}),
}


@pytest.mark.parametrize(
    ("name", "queue_type"), [(name, kind) for name, case in CASES.items() for kind in case.kinds]
)
def test_queue_arguments(name: str, queue_type: str) -> None:
    case = CASES[name]
    world = World(case.compat)
    arguments = {**case.arguments, "x-queue-type": queue_type}
    world.declare("q", arguments)
    world.declare("dead")
    world.declare("back", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"})
    stuck = {**AT_LEAST_ONCE, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "late"}
    world.declare("stuck", {**stuck, "x-queue-type": "quorum"})
    case.before(world)
    world.restart()
    queue = world.broker.core.virtual_hosts["/"].queues["q"]
    assert encode_table(queue.arguments) == encode_table(table(arguments)), "octet by octet"
    case.after(world)
    if "q" in world.broker.core.virtual_hosts["/"].queues:
        channel = world.broker.client().channel()
        channel.queue_declare("q", durable=True, arguments=arguments)


@pytest.mark.parametrize("queue_type", [CLASSIC, QUORUM])
def test_no_argument_is_forgotten(queue_type: str) -> None:
    shown = {name for name, case in CASES.items() if queue_type in case.kinds}
    if queue_type == QUORUM:
        shown.add("x-overflow")  # below
    assert set(arguments_of(queue_type)) <= shown


def test_the_overflow_of_a_quorum_queue() -> None:
    """It begins to refuse when it is above its limit, and not at it."""
    world = World("3.13")
    overflow = {**FULL_AT_2, "x-overflow": "reject-publish", "x-queue-type": "quorum"}
    world.declare("q", overflow)
    world.publish(b"1", b"2", b"3")
    world.restart()
    assert world.confirmed(b"4") == [False]
    assert world.channel.drain("q") == [b"1", b"2", b"3"]


# -- exchanges


class Route(NamedTuple):
    """An exchange `x`, by whose bindings some of the queues `a`, `b` and `c` get a message."""

    arguments: dict[str, Any]
    bindings: dict[str, tuple[str, dict[str, Any]]]
    compat: Compat = "3.13"


EVERYWHERE: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    queue: ("", {}) for queue in ("a", "b", "c")
}
WEIGHED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    queue: (weight, {}) for queue, weight in (("c", "1"), ("a", "2"), ("b", "3"))
}

ROUTES: Final[dict[str, Route]] = {
    "direct": Route({}, {"a": ("1", {}), "b": ("2", {}), "c": ("2", {})}),
    "fanout": Route({}, EVERYWHERE),
    "topic": Route({}, {"a": ("#", {}), "b": ("*", {}), "c": ("2", {})}),
    "headers": Route({}, {"a": ("", {"n": 1}), "b": ("", {"n": None}), "c": ("", {"n": "1"})}),
    "x-consistent-hash": Route({"hash-header": "n"}, WEIGHED),
    "x-modulus-hash": Route({}, EVERYWHERE),
    "x-random": Route({}, EVERYWHERE),
    "x-local-random": Route({}, EVERYWHERE, "4.2"),
    "x-recent-history": Route({"x-recent-history-length": 5}, {"a": ("", {}), "b": ("", {})}),
    "x-federation-upstream": Route({"x-max-hops": ("l", 1)}, EVERYWHERE),
    "x-message-deduplication": Route({"x-cache-size": 100}, {"a": ("", {}), "c": ("", {})}),
    "x-delayed-message": Route({"x-delayed-type": "topic"}, {"a": ("2", {}), "b": ("#", {})}),
}
CHANCE: Final = ("x-random", "x-local-random")


def publish_numbers(world: World, first: int) -> None:
    """Twenty messages, whose keys and headers are their numbers; those before `first` are delayed
    where that can be."""
    for number in range(20):
        headers = {"n": number, "x-deduplication-header": number, "x-delay": 1000}
        if number >= first:
            del headers["x-delay"]
        sent = properties(delivery_mode=2, headers=headers)
        world.channel.publish("x", str(number), b"%d" % number, sent)
    world.broker.journal.commit()


def shares(world: World) -> dict[str, list[bytes]]:
    """What each queue has, taken for good."""
    found = {queue: world.channel.drain(queue) for queue in "abc"}
    world.broker.journal.commit()
    return found


def open_exchange(type: str) -> World:
    route = ROUTES[type]
    world = World(route.compat)
    for queue in "abc":
        world.declare(queue)
    world.declare_exchange(type, {**route.arguments, "alternate-exchange": "amq.fanout"})
    for queue, (routing_key, arguments) in route.bindings.items():
        world.bind(queue, routing_key, arguments)
    return world


@pytest.mark.parametrize("type", ROUTES)
def test_exchanges(type: str) -> None:
    world = open_exchange(type)
    publish_numbers(world, first=0)
    before = shares(world)
    arguments = world.broker.core.virtual_hosts["/"].exchanges["x"].arguments
    world.restart()
    exchange = world.broker.core.virtual_hosts["/"].exchanges["x"]
    assert encode_table(exchange.arguments) == encode_table(arguments)
    assert exchange.table.alternate == "amq.fanout"
    publish_numbers(world, first=0)
    after = shares(world)
    if type in CHANCE:
        assert sorted(chain(*after.values())) == sorted(chain(*before.values()))
    elif type == "x-message-deduplication":
        assert after == {"a": [], "b": [], "c": []}, "they have all been here"
    else:
        assert after == before
    assert any(before.values())


def test_delayed_messages_wait_through_it() -> None:
    world = open_exchange("x-delayed-message")
    publish_numbers(world, first=10)
    assert len(shares(world)["b"]) == 10
    world.advance(0.4)
    world.restart()
    world.advance(0.599)
    assert shares(world) == {"a": [], "b": [], "c": []}
    world.advance(0.001)
    assert shares(world) == {"a": [b"2"], "b": [b"%d" % n for n in range(10)], "c": []}


def test_history_comes_back() -> None:
    world = open_exchange("x-recent-history")
    publish_numbers(world, first=0)
    world.restart()
    world.bind("c", "")
    assert world.channel.drain("c") == [b"15", b"16", b"17", b"18", b"19"]


def test_no_type_is_forgotten() -> None:
    assert set(ROUTES) == set(KINDS)
