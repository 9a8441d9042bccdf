"""Queue federation over a virtual network: messages go where somebody wants them."""

from __future__ import annotations

import itertools
from typing import Any

import anyio.lowlevel
import pytest

from amqpd.wire.properties import read_headers
from tests.conversation import PERSISTENT, Channel, properties
from tests.links.network import Network, Site, network

pytestmark = pytest.mark.anyio

BODIES = [b"%d" % number for number in range(50)]


async def federated(net: Network, **fields: Any) -> tuple[Site, Site]:
    """Queue q of `down` has that of `up` as its upstream, where fifty messages wait."""
    up, down = net["up"], net["down"]
    for site in (up, down):
        site.channel.queue_declare("q", durable=True)
    for body in BODIES:
        up.channel.publish("", "q", body, PERSISTENT)
    down.upstream("up", **fields)
    down.policy("^q$", {"federation-upstream": "up"})
    await net.settle()
    return up, down


def taken(channel: Channel) -> list[bytes]:
    """What a consumer has got, which is acknowledged."""
    deliveries = channel.deliveries()
    if deliveries:
        channel.ack(deliveries[-1].delivery_tag, multiple=True)
    return [delivery.body for delivery in deliveries]


async def drained(net: Network, *channels: Channel) -> list[list[bytes]]:
    """What each of several consumers gets until there is nothing left."""
    got: list[list[bytes]] = [[] for _ in channels]
    while True:
        await net.settle()
        new = [taken(channel) for channel in channels]
        if not any(new):
            return got
        for whole, part in zip(got, new, strict=True):
            whole += part


@pytest.mark.parametrize("ack_mode", ["on-confirm", "on-publish", "no-ack"])
async def test_messages_come_when_somebody_wants_them(ack_mode: str) -> None:
    async with network("up", "down", journaling=True) as net:
        up, down = await federated(net, ack_mode=ack_mode)
        assert down.link()["status"] == "running"
        assert (up.channel.counts("q"), down.channel.counts("q")) == ((50, 0), (0, 0))
        assert down.channel.get("q") is None
        await net.settle()
        assert up.channel.counts("q") == (50, 0)
        channel = down.client().channel()
        channel.consume("q")
        assert await drained(net, channel) == [BODIES]
        assert up.channel.counts("q") == (0, 1)
        channel.cancel(next(iter(channel.client.peer.session.channels[1].consumers)))  # type: ignore[union-attr]
        await net.settle()
        assert up.channel.counts("q") == (0, 0)


async def test_a_busy_consumer_wants_nothing_more() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net, prefetch_count=5)
        channel = down.client().channel()
        channel.qos(3)
        channel.consume("q")
        await net.settle()
        # Three are with the consumer, and what the link had taken by then waits here.
        ready, _ = down.channel.counts("q")
        assert len(channel.deliveries()) == 3
        assert 0 < ready <= 10
        assert up.channel.counts("q") == (50 - 3 - ready, 0)
        for _ in range(50):
            await net.settle()
            unacked = channel.client.peer.session.channels[1].unacked  # type: ignore[union-attr]
            for tag in list(unacked):
                channel.ack(tag)
        await net.settle()
        assert up.channel.counts("q")[0] == down.channel.counts("q")[0] == 0


@pytest.mark.parametrize("prefetch", [1, 2, 7])
async def test_nothing_is_left_behind_by_small_windows(prefetch: int) -> None:
    async with network("up", "down", seed=prefetch) as net:
        net.pieces = (1, 30, 1000)
        _, down = await federated(net, prefetch_count=prefetch)
        channel = down.client().channel()
        channel.qos(prefetch)
        channel.consume("q")
        assert await drained(net, channel) == [BODIES]


@pytest.mark.parametrize("ending", [False, True])
async def test_what_comes_too_late_for_a_deleted_queue_stays_upstream(ending: bool) -> None:
    """However much of it is under way; `ending`: so is the link, and was left to it."""
    partly = 0
    for steps in range(0, 400, 10):
        async with network("up", "down") as net:
            net.pieces = (100,)
            up, down = await federated(net)
            channel = down.client().channel()
            channel.consume("q")
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            if ending:
                down.clear_policy()
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
            arrived = len(channel.deliveries()) + down.channel.counts("q")[0]
            down.channel.queue_delete("q")
            await net.pass_time(10)
            left, held = up.channel.counts("q")
            assert (left + arrived >= 50, held) == (True, 0), steps
            partly += 0 < arrived < 50
    assert partly


async def test_consumers_upstream_come_first() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        there, here = up.client().channel(), down.client().channel()
        there.consume("q")
        here.consume("q")
        first, second = await drained(net, there, here)
        assert (first, second) == (BODIES, [])
        there.close()
        await net.settle()
        up.channel.publish("", "q", b"m")
        assert await drained(net, here) == [[b"m"]]


async def test_links_and_consumers_of_low_priority_are_no_demand() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        channel = down.client().channel()
        channel.consume("q", arguments={"x-priority": -1})
        await net.settle()
        assert up.channel.counts("q") == (50, 0)


async def test_two_queues_that_are_upstreams_of_each_other_do_not_play_ping_pong() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        up.upstream("down")
        up.policy("^q$", {"federation-upstream": "down"})
        await net.settle()
        assert (up.channel.counts("q"), down.channel.counts("q")) == ((50, 0), (0, 0))
        here, there = down.client().channel(), up.client().channel()
        here.consume("q")
        assert await drained(net, here) == [BODIES]
        there.qos(1)
        there.consume("q")
        for body in BODIES:
            down.channel.publish("", "q", body)
        got = await drained(net, here, there)
        assert sorted(got[0] + got[1], key=int) == BODIES
        forwarded = [link["forwarded"] for site in (up, down) for link in site.links()]
        assert sum(forwarded) <= 50 + len(got[1])


async def test_messages_find_their_way_through_a_full_mesh_of_four() -> None:
    names = "abcd"
    async with network(*names) as net:
        for name in names:
            net[name].channel.queue_declare("q")
            for other in names.replace(name, ""):
                net[name].upstream(other)
            net[name].policy("^q$", {"federation-upstream-set": "all"})
        await net.settle()
        for number, body in enumerate(BODIES):
            net[names[number % 4]].channel.publish("", "q", body)
        await net.settle()
        # Wherever the consumer goes, there they come, and nothing is on the way without one.
        moved = sum(link["forwarded"] for name in names for link in net[name].links())
        assert moved == 0
        consumer = net["c"].client().channel()
        consumer.consume("q")
        (got,) = await drained(net, consumer)
        assert sorted(got, key=int) == BODIES
        consumer.close()
        await net.settle()
        net["c"].channel.publish("", "q", b"m")
        consumer = net["a"].client().channel()
        consumer.consume("q")
        assert await drained(net, consumer) == [[b"m"]]


async def test_a_chain_of_five_moves_only_what_the_next_one_wants() -> None:
    """A link is no demand: what is two brokers away stays there, as with RabbitMQ."""
    names = "abcde"
    async with network(*names) as net:
        for name in names:
            net[name].channel.queue_declare("q")
        for left, right in itertools.pairwise(names):
            net[right].upstream(left)
            net[right].policy("^q$", {"federation-upstream": left})
        await net.settle()
        net["a"].channel.publish("", "q", b"far")
        net["d"].channel.publish("", "q", b"near")
        consumer = net["e"].client().channel()
        consumer.consume("q")
        assert await drained(net, consumer) == [[b"near"]]


async def test_headers_say_where_a_message_was_published_and_how_often_it_came_by() -> None:
    async with network("up", "down") as net:
        up, down = net["up"], net["down"]
        for site, other in ((up, "down"), (down, "up")):
            site.channel.queue_declare("q")
            site.upstream(other)
            site.policy("^q$", {"federation-upstream": other})
        up.channel.exchange_declare("x", "direct")
        up.channel.queue_bind("q", "x", "k")
        sent = properties(headers={"CC": ["elsewhere"], "n": ("I", 1)}, user_id="guest")
        up.channel.publish("x", "k", b"m", sent)
        sites = [down, up, down]
        headers: dict[str, Any] = {}
        for site in sites:
            consumer = site.client().channel()
            consumer.qos(1)
            consumer.consume("q")
            await net.settle()
            (delivery,) = consumer.deliveries()
            assert (delivery.exchange, delivery.routing_key) == ("", "q")
            headers = read_headers(delivery.properties, 64)
            consumer.close()
            await net.settle()
        assert headers["x-original-exchange"] == ("S", "x")
        assert headers["x-original-routing-key"] == ("S", "k")
        assert headers["x-original-cc"] == ("A", [("S", "elsewhere")])
        assert "CC" not in headers
        hops = [entry for _, entry in headers["x-received-from"][1]]
        assert [hop["uri"][1] for hop in hops] == ["amqp://up", "amqp://down"]
        assert list(hops[0]) == ["uri", "queue", "redelivered", "visit-count"]
        assert [hop["visit-count"] for hop in hops] == [("l", 2), ("l", 1)]


@pytest.mark.parametrize("there", ["missing", "quorum", "other"])
async def test_the_queue_upstream_may_be_missing_or_of_another_type(there: str) -> None:
    async with network("up", "down") as net:
        up, down = net["up"], net["down"]
        if there == "quorum":
            up.channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
        name = "elsewhere" if there == "other" else "q"
        arguments = {"x-max-priority": 3}
        down.channel.queue_declare("q", durable=True, arguments=arguments)
        down.upstream("up", queue=name, consumer_tag="tag")
        down.policy("^q$", {"federation-upstream": "up"})
        await net.settle()
        link = down.link()
        assert (link["status"], link["upstream_queue"], link["type"]) == ("running", name, "queue")
        assert link["consumer_tag"] == "tag"
        if there != "quorum":
            assert "x-max-priority" in up.core.virtual_hosts["/"].queues[name].arguments
        up.channel.publish("", name, b"m")
        consumer = down.client().channel()
        consumer.consume("q")
        assert await drained(net, consumer) == [[b"m"]]


async def test_what_is_not_federated() -> None:
    async with network("up", "down") as net:
        down = net["down"]
        down.upstream("up")
        down.policy("", {"federation-upstream": "up"})
        for link in down.links():
            assert link["type"] == "exchange"
        down.channel.queue_declare("e", exclusive=True)
        down.channel.queue_declare("i", arguments={"x-internal-purpose": "federation"})
        assert not [link for link in down.links() if link["type"] == "queue"]
        down.channel.queue_declare("q")
        await net.settle()
        assert [link["queue"] for link in down.links() if link["type"] == "queue"] == ["q"]
        down.channel.queue_delete("q")
        await net.settle()
        assert not [link for link in down.links() if link["type"] == "queue"]
        assert net["up"].queues().count("q") == 1


async def test_a_policy_that_changes_while_messages_flow_repeats_nothing() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net, prefetch_count=3)
        consumer = down.client().channel()
        consumer.consume("q")
        got: list[bytes] = []
        for number in range(200):
            up.channel.publish("", "q", b"%d" % (number + 50))
            if not number % 7:
                down.policy("^q$", {"federation-upstream-set": "all"}, name=f"p{number % 3}")
                await net.settle()
                got += taken(consumer)
        got += (await drained(net, consumer))[0]
        assert got == [b"%d" % number for number in range(250)]


@pytest.mark.parametrize("seed", range(15))
async def test_cuts_and_kills_lose_nothing(seed: int) -> None:
    names = "abc"
    async with network(*names, seed=seed, journaling=True) as net:
        random = net.random
        for name in names:
            net[name].channel.queue_declare("q", durable=True)
            for other in names.replace(name, ""):
                net[name].upstream(other, reconnect_delay=1, prefetch_count=7)
            net[name].policy("^q$", {"federation-upstream-set": "all"})
        await net.settle()
        net.pieces = (1, 20, 300, 5000)
        net.lifetime = lambda: random.choice((10, 1500, 4000, 9000, 30_000))
        net.cut()
        published, got = 0, set[int]()
        for _ in range(40):
            for _ in range(random.randrange(8)):
                site = net[random.choice(names)]
                site.channel.publish("", "q", b"%d" % published, PERSISTENT)
                published += 1
            name = random.choice(names)
            match random.randrange(6):
                case 0:
                    await net.kill(name)
                case 1:
                    net.cut(name)
                case 2 | 3:
                    consumer = net[name].client().channel()
                    consumer.qos(random.choice((0, 1, 5)))
                    consumer.consume("q")
                    await net.settle()
                    got |= set(map(int, taken(consumer)))
                    consumer.close()
                case _:
                    await net.pass_time(random.choice((0, 0.5, 3, 60)))
        net.lifetime = lambda: float("inf")
        net.cut()
        await net.pass_time(10)
        consumer = net["b"].client().channel()
        consumer.consume("q")
        (rest,) = await drained(net, consumer)
        assert got | set(map(int, rest)) == set(range(published))
        assert [link["status"] for name in names for link in net[name].links()] == ["running"] * 6
