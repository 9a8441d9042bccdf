"""Three amqpd and a RabbitMQ in the middle, joined by every kind of link, in trouble.

    exchange ring     north ──> rabbitmq ──> south ──> east ──> north     max-hops 10: all the way
    exchange near     the same ring                                       max-hops 1: to the next
    queue work        each is an upstream of each                         to where consumers are
    shovels           north out ──> rabbitmq relay ──> south relay ──> east archive
                      (north's)     (RabbitMQ's own)   (east's)

Each broker is reached through a proxy that cuts connections after any number of octets, and each is
killed (SIGKILL) and started again while messages flow. In the end nothing that was confirmed to a
publisher is missing, anywhere where it should be; nothing is where it should not be; and what was
sent while nothing broke is there once. `make several-brokers` runs this alone, and tells of it.

One link may lose something, RabbitMQ's own from the exchanges in the north. When it begins again it
first deletes the internal exchange that it is about to declare (rabbit_federation_exchange_link:
ensure_internal_exchange): cut off twice on the way, or killed before it has written down which of
the two was the last, it leaves no bindings upstream until it runs again. What is published amid
trouble is expected behind that link only if it came over it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import pytest

from compat import harness, rabbitmq_server
from tests.runtime.client import Client, Closed, Gone
from tests.runtime.process import BrokerProcess
from tests.runtime.sites import CuttingProxy, Site, bind, site, until

RING: Final = ("north", "rabbitmq", "south", "east")
"""Each has the one before it as the upstream of its exchanges."""
PLUGINS: Final = ("rabbitmq_federation_management", "rabbitmq_shovel_management")
KINDS: Final = ("ring", "near", "work")
"""What everybody publishes to; `out` is published to in the north alone."""
BATCH: Final = 25
TAKEN: Final = 20
"""Messages that a consumer takes amid trouble, before it leaves."""
PREFETCH: Final = 40
OWN_LINK: Final = "rabbitmq"
"""The broker whose link from the one before it is not ours."""
LINKS: Final = 5
"""Of federation, of each broker: two exchanges with one upstream each, a queue with three."""


class Message(NamedTuple):
    """What a body says."""

    kind: str
    source: str
    number: int

    @property
    def body(self) -> bytes:
        """As it is sent."""
        return f"{self.kind} {self.source} {self.number}".encode()


def message_in(body: bytes) -> Message:
    """The message whose body it is."""
    kind, source, number = body.decode().split()
    return Message(kind, source, int(number))


class Broker:
    """One of the four, and the proxy through which the others reach it."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Site],
        kill: Callable[[], None],
        count: Callable[[Site], dict[str, int]],
    ) -> None:
        """`count` is of the messages in each queue, ready or not acknowledged."""
        self.name = name
        self._start = start
        self._kill = kill
        self._count = count
        self.site = start()
        self.proxy = CuttingProxy(self.site.address)
        self.publisher = self._connect()
        self._unconfirmed: dict[int, Message] = {}

    def kill(self) -> None:
        """SIGKILL; its clients hear of it at the end of what they were told."""
        self._kill()

    def end(self) -> None:
        """Nothing of it is needed any more."""
        self.publisher.sock.close()
        self.proxy.close()

    def start(self) -> None:
        """Again, on the same directory."""
        self.site = self._start()
        self.proxy.target = self.site.address
        self.publisher.sock.close()
        self.publisher = self._connect()
        self._unconfirmed = {}

    def _connect(self) -> Client:
        client = Client(self.site.address)
        client.confirm_select()
        return client

    def publish(self, message: Message) -> None:
        """Say it, and wait for nothing."""
        exchange = message.kind if message.kind in ("ring", "near") else ""
        number = self.publisher.publish(exchange, message.kind, message.body)
        self._unconfirmed[number] = message

    def confirmed(self) -> set[Message]:
        """Of what was published: what is confirmed in the end, or was when the broker died."""
        with contextlib.suppress(Gone, Closed, ConnectionResetError):
            self.publisher.wait_confirmed()
        upto = self.publisher.confirmed
        messages = {said for number, said in self._unconfirmed.items() if number <= upto}
        self._unconfirmed = {}
        return messages

    def link_connections(self) -> set[str]:
        """What the links of federation that run are connected to it by."""
        return {row["local_connection"] for row in self.site.links() if row["status"] == "running"}

    def holds_anything(self) -> bool:
        """Whether there is a message in any queue that is not the end of a way."""
        ends = ("ring.got", "near.got", "archive")
        return any(count for queue, count in self.counts().items() if queue not in ends)

    def counts(self) -> dict[str, int]:
        """Of the messages in each queue, ready or not acknowledged."""
        return self._count(self.site)

    def drain(self, queue: str) -> list[Message]:
        """What is in a queue now."""
        found = []
        with Client(self.site.address) as client:
            while (got := client.get(queue, no_ack=True)) is not None:
                found.append(message_in(got.body))
        return found

    def take(self, count: int) -> list[Message]:
        """So many messages from the queue `work`, wherever they are; it waits for them."""
        found = []
        with Client(self.site.address) as client:
            client.consume("work", prefetch=10)
            for _ in range(count):
                delivery = client.next_delivery()
                found.append(message_in(delivery.body))
                client.ack(delivery.delivery_tag)
            # What the acknowledgements are behind is answered: they have arrived.
            client.declare("work", passive=True)
        return found


class Brokers:
    """All four, what was published, and what arrived."""

    def __init__(self, directory: Path, node: rabbitmq_server.Node, stack: ExitStack) -> None:
        self.by_name: dict[str, Broker] = {}
        self.said: set[Message] = set()
        self.confirmed: set[Message] = set()
        self.calm: set[Message] = set()
        """What was published while nothing broke."""
        self.ring: dict[str, Counter[Message]] = {name: Counter() for name in RING}
        self.near: dict[str, Counter[Message]] = {name: Counter() for name in RING}
        self.work: Counter[Message] = Counter()
        self.archive: list[Message] = []
        self._numbers = itertools.count()
        for name in RING:
            if name == "rabbitmq":
                broker = Broker(
                    name, lambda: rabbitmq_site(node), node.kill, lambda site: node.message_counts()
                )
            else:
                broker = amqpd(name, directory, stack)
            self.by_name[name] = broker
            stack.callback(broker.end)
        for before, after in zip(RING, RING[1:] + RING[:1], strict=True):
            self._join(self.by_name[before], self.by_name[after])
        self._shovel()

    def __iter__(self) -> Iterator[Broker]:
        return iter(self.by_name.values())

    def _join(self, before: Broker, broker: Broker) -> None:
        """`broker` gets what there is at the one before it, and shares its work with all."""
        with Client(broker.site.address) as client:
            for exchange in ("ring", "near"):
                bind(client, exchange, f"{exchange}.got", "#")
            for queue in ("work", "relay", "out", "archive"):
                client.declare(queue)
        others = [other for other in self if other is not broker]
        for other in others:
            broker.site.upstream(other.name, other.proxy.address, prefetch_count=PREFETCH)
        sets: dict[str, list[dict[str, Any]]] = {
            "ring": [{"upstream": before.name, "max-hops": 10}],
            "near": [{"upstream": before.name, "max-hops": 1}],
            "work": [{"upstream": other.name} for other in others],
        }
        for name, value in sets.items():
            path = f"/parameters/federation-upstream-set/%2F/{name}"
            broker.site.ask("PUT", path, {"value": value})
            broker.site.policy(name, f"^{name}$", name)

    def _shovel(self) -> None:
        self._put_shovel("north", "amqp://", "out", self._uri("rabbitmq"), "relay")
        here = f"amqp://guest:guest@{self.by_name['rabbitmq'].site.address}/%2F"
        self._put_shovel("rabbitmq", here, "relay", self._uri("south"), "relay")
        self._put_shovel("east", self._uri("south"), "relay", "amqp://", "archive")

    def _put_shovel(self, at: str, source: str, queue: str, destination: str, to: str) -> None:
        value = {"src-uri": source, "src-queue": queue, "dest-uri": destination, "dest-queue": to}
        options = {"src-prefetch-count": PREFETCH, "reconnect-delay": 1}
        path = "/parameters/shovel/%2F/relay"
        self.by_name[at].site.ask("PUT", path, {"value": value | options})

    def _uri(self, name: str) -> str:
        return f"amqp://guest:guest@{self.by_name[name].proxy.address}/%2F"

    # -- links

    def await_links(self) -> None:
        """Until all links run, and bindings are where they are needed."""
        for broker in self:
            broker.site.await_running(LINKS)
        for name in ("north", "rabbitmq", "east"):
            until(lambda: self.shovel_states(name) == ["running"])  # noqa: B023
        for exchange, broker in itertools.product(("ring", "near"), self):
            until(lambda: len(self._bindings(broker, exchange)) >= 2)  # noqa: B023

    def renew_links(self) -> int:
        """Cut all connections once more, and wait until no link runs over a former one; how many
        there were."""
        self.await_links()
        former = {broker.name: broker.link_connections() for broker in self}
        cuts = sum(broker.proxy.cut() for broker in self)
        for broker in self:
            until(lambda: not broker.link_connections() & former[broker.name])  # noqa: B023
        self.await_links()
        return cuts

    def shovel_states(self, name: str) -> list[str]:
        """Of the shovels of a broker."""
        return [row["state"] for row in self.by_name[name].site.ask("GET", "/shovels")]

    def _bindings(self, broker: Broker, exchange: str) -> list[Any]:
        """From an exchange: to its own queue, and to the broker that is behind it."""
        rows: list[Any] = broker.site.ask("GET", f"/exchanges/%2F/{exchange}/bindings/source")
        return rows

    # -- messages

    def publish(self, count: int, where: Iterator[Broker] | None = None) -> None:
        """So many of each kind, at each of these, or at all."""
        for broker in self if where is None else where:
            kinds = (*KINDS, "out") if broker.name == "north" else KINDS
            for kind in kinds * count:
                message = Message(kind, broker.name, next(self._numbers))
                self.said.add(message)
                broker.publish(message)

    def await_confirms(self, *dead: str) -> None:
        """Of everything published; these have died, and confirm no more."""
        for broker in self:
            found = broker.confirmed()
            assert broker.name in dead or broker.publisher.confirmed == broker.publisher.published
            self.confirmed |= found

    def collect(self) -> None:
        """What is in the queues at the ends of links now."""
        for broker in self:
            self.ring[broker.name].update(broker.drain("ring.got"))
            self.near[broker.name].update(broker.drain("near.got"))
        self.archive += self.by_name["east"].drain("archive")

    def wanted(self, kind: str, *sources: str) -> set[Message]:
        """What is confirmed, of a kind, by publishers at these brokers or at all."""
        return {
            message
            for message in self.confirmed
            if message.kind == kind and message.source in (sources or RING)
        }

    def await_all(self) -> None:
        """Until everything that was confirmed has arrived everywhere where it should."""

        def arrived() -> bool:
            self.collect()
            return not any(self.missing().values())

        until(arrived, self.complaint)
        consumer = self.by_name["south"]
        while left := len(self.wanted("work") - self.work.keys()):
            self.work.update(consumer.take(left))

    def await_quiet(self) -> None:
        """Until links have settled everything they took: what is cut now, nobody repeats."""
        until(lambda: not any(broker.holds_anything() for broker in self))
        self.collect()

    def missing(self) -> dict[str, set[Message]]:
        """What has not arrived, by the end of exchange federation or shovels where it should."""
        found = {"archive": self.wanted("out") - set(self.archive)}
        for before, name in zip(RING[-1:] + RING[:-1], RING, strict=True):
            ring, near = self.wanted("ring", name), self.wanted("near", name)
            if name == OWN_LINK:
                ring |= self.wanted("ring") & self.calm
                near |= self.wanted("near", before) & self.calm
            else:
                # Where a message was, it went on from.
                ring |= self.wanted("ring") & self.ring[before].keys()
                near |= self.wanted("near", before)
            found[f"ring at {name}"] = ring - self.ring[name].keys()
            found[f"near at {name}"] = near - self.near[name].keys()
        return found

    def lost_by_rabbitmq(self) -> int:
        """Messages that its own link has not brought, amid trouble."""
        before = RING[RING.index(OWN_LINK) - 1]
        came = self.wanted("ring") & self.ring[before].keys()
        near = self.wanted("near", before) - self.near[OWN_LINK].keys()
        return len(came - self.ring[OWN_LINK].keys()) + len(near)

    def complaint(self) -> str:
        """What has not arrived, and where it may be."""
        lines = [
            f"{where} misses {sorted(messages)}"
            for where, messages in self.missing().items()
            if messages
        ]
        for broker in self:
            lines.append(f"{broker.name} holds {broker.counts()}; its links:")
            lines += map(str, broker.site.links() + broker.site.ask("GET", "/shovels"))
        return "\n".join(lines)

    def check_sources(self) -> None:
        """Nothing came from nowhere, and nothing went farther than it may."""
        for before, name in zip(RING[-1:] + RING[:-1], RING, strict=True):
            assert self.ring[name].keys() <= self.said
            assert self.near[name].keys() <= self.said
            assert {message.source for message in self.near[name]} <= {before, name}
        assert set(self.archive) <= self.said
        assert self.work.keys() <= self.said


def amqpd(name: str, directory: Path, stack: ExitStack) -> Broker:
    """One of ours, named and started."""
    (directory / name).mkdir()
    process = BrokerProcess(directory / name)
    stack.callback(process.end)

    def start() -> Site:
        process.start("--management", "127.0.0.1:0")
        return site(process, name)

    broker = Broker(name, start, process.kill, message_counts)
    broker.site.ask("PUT", "/cluster-name", {"name": name})
    return broker


def message_counts(site: Site) -> dict[str, int]:
    """In the queues of one of ours, whose HTTP API counts what there is now."""
    return {row["name"]: row["messages"] for row in site.ask("GET", "/queues/%2F")}


def rabbitmq_site(node: rabbitmq_server.Node) -> Site:
    """RabbitMQ, started."""
    node.start()
    management = urlsplit(node.broker.management_url or "").netloc
    found = Site("rabbitmq", node.broker.addresses["amqp"][0], management)

    def answers() -> bool:
        try:
            return bool(found.ask("GET", "/overview"))
        except OSError:
            return False

    until(answers)
    return found


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Brokers]:
    with ExitStack() as stack:
        try:
            node = rabbitmq_server.prepare(tmp_path, management=True, plugins=PLUGINS)
        except harness.Unavailable as reason:
            pytest.skip(str(reason))
        stack.callback(node.end)
        stack.callback(node.kill)  # it has nothing to lose any more, and would take its time
        yield Brokers(tmp_path, node, stack)


@pytest.mark.timeout(1800)
def test_nothing_confirmed_is_lost_through_cuts_kills_and_loops(brokers: Brokers) -> None:
    random = Random(8)
    brokers.await_links()
    cuts = 0

    # While nothing breaks: once each, and in order where there is one way.
    brokers.publish(BATCH)
    brokers.await_confirms()
    calm = frozenset(brokers.said)
    brokers.calm |= calm
    assert brokers.confirmed == calm
    brokers.await_all()
    brokers.await_quiet()
    assert brokers.archive == sorted(brokers.wanted("out"))
    for before, name in zip(RING[-1:] + RING[:-1], RING, strict=True):
        assert brokers.ring[name] == Counter(brokers.wanted("ring"))
        assert brokers.near[name] == Counter(brokers.wanted("near", before, name))
    assert brokers.work == Counter(brokers.wanted("work"))
    print(f"calm: {len(calm)} messages at four brokers arrived once")

    # Trouble: connections live for a while each, and brokers die and come back.
    for broker in brokers:
        broker.proxy.lifetime = lambda: random.choice((5, 700, 4_000, 15_000, 60_000))
    consumers = itertools.cycle(RING)
    for victims in (("north",), ("rabbitmq",), ("south", "east"), RING, ()):
        brokers.publish(BATCH)
        name = next(consumers)
        brokers.work.update(brokers.by_name[name].take(TAKEN))
        brokers.publish(BATCH)
        for victim in victims:
            brokers.by_name[victim].kill()
        cuts += sum(broker.proxy.cut() for broker in brokers)
        living = [broker for broker in brokers if broker.name not in victims]
        brokers.publish(BATCH, iter(living))
        brokers.await_confirms(*victims)
        for victim in victims:
            brokers.by_name[victim].start()
        brokers.collect()
        brokers.check_sources()
        print(f"killed {', '.join(victims) or 'nobody'}, and {cuts} connections cut so far")

    # Calm again: everything that was confirmed is everywhere where it should be.
    cuts += sum(broker.proxy.cuts for broker in brokers)
    for broker in brokers:
        broker.proxy.lifetime = lambda: float("inf")
    cuts += brokers.renew_links()
    amid_trouble = frozenset(brokers.said)
    brokers.publish(BATCH)
    brokers.calm |= brokers.said - amid_trouble
    brokers.await_confirms()
    brokers.await_all()
    brokers.check_sources()
    assert cuts >= 10  # the first time alone: all links ran
    assert len(brokers.confirmed - calm) > 1000
    print(f"{len(brokers.confirmed)} messages confirmed, {cuts} connections cut; nothing lost")
    print(f"except {brokers.lost_by_rabbitmq()} on the way from the north over RabbitMQ's own link")
