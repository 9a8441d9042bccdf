"""Chains, rings and meshes of federated exchanges: who gets what, how often, and over which way."""

from __future__ import annotations

import itertools
from typing import Any

import anyio.lowlevel
import pytest

from amqpd.wire.properties import read_headers
from tests.conversation import PERSISTENT
from tests.links.network import Network, network

pytestmark = pytest.mark.anyio


def exchanges(net: Network, *names: str) -> None:
    """Everybody has the exchange x, and a queue q that is bound to it with a key of everybody."""
    for name in names or net.sites:
        channel = net[name].channel
        channel.exchange_declare("x", "topic", durable=True)
        channel.queue_declare("q", durable=True)
        channel.queue_bind("q", "x", "all.#")
        net[name].policy("^x$", {"federation-upstream-set": "all"})


def hops(net: Network, name: str) -> list[list[str]]:
    """Over which brokers the messages in a queue came, the newest first."""
    ways = []
    while (got := net[name].channel.get("q", no_ack=True)) is not None:
        entries = read_headers(got.properties, 64).get("x-received-from", ("A", []))[1]
        ways.append([entry["cluster-name"][1] for _, entry in entries])
    return ways


@pytest.mark.parametrize("max_hops", [1, 2, 3, 4, 5])
async def test_a_chain_of_five(max_hops: int) -> None:
    names = "abcde"
    async with network(*names) as net:
        exchanges(net)
        for left, right in itertools.pairwise(names):
            net[right].upstream(left, max_hops=max_hops)
        # One by one: a binding at the end has to find its way to the beginning.
        await net.settle()
        net["a"].channel.publish("x", "all.a", b"m")
        await net.settle()
        for distance, name in enumerate(names):
            came = [list(reversed(names[:distance]))] if distance <= max_hops else []
            assert hops(net, name) == came, name


async def test_what_nobody_at_the_end_wants_does_not_set_out() -> None:
    names = "abcde"
    async with network(*names) as net:
        for name in names:
            net[name].channel.exchange_declare("x", "topic")
            net[name].policy("^x$", {"federation-upstream-set": "all"})
        for left, right in itertools.pairwise(names):
            net[right].upstream(left, max_hops=4)
        await net.settle()
        end = net["e"].channel
        end.queue_declare("q")
        end.queue_bind("q", "x", "wanted")
        await net.settle()
        for key in ("wanted", "not wanted"):
            net["a"].channel.publish("x", key, b"m")
        await net.settle()
        assert hops(net, "e") == [["d", "c", "b", "a"]]
        sent = [link["forwarded"] for name in "bcde" for link in net[name].links()]
        assert sent == [1, 1, 1, 1]
        end.queue_unbind("q", "x", "wanted")
        await net.settle()
        assert net["a"].bindings_of("x") == []


@pytest.mark.parametrize("max_hops", [1, 2, 4, 10])
async def test_a_ring_of_five(max_hops: int) -> None:
    names = "abcde"
    async with network(*names) as net:
        exchanges(net)
        for left, right in zip(names, names[1:] + names[:1], strict=True):
            net[right].upstream(left, max_hops=max_hops)
        await net.settle()
        net["c"].channel.publish("x", "all.c", b"m")
        await net.settle()
        for distance, name in enumerate("cdeab"):
            assert len(hops(net, name)) == (distance <= max_hops), name


async def test_two_that_are_upstreams_of_each_other() -> None:
    async with network("a", "b") as net:
        exchanges(net)
        net["a"].upstream("b", max_hops=5)
        net["b"].upstream("a", max_hops=5)
        await net.settle()
        for name in "ab":
            net[name].channel.publish("x", "all", b"m")
        await net.settle()
        assert sorted(hops(net, "a")) == [[], ["b"]]
        assert sorted(hops(net, "b")) == [[], ["a"]]


async def test_a_full_mesh_of_four_with_one_hop_gives_one_copy() -> None:
    names = "abcd"
    async with network(*names) as net:
        exchanges(net)
        for name in names:
            for other in names.replace(name, ""):
                net[name].upstream(other)
        await net.settle()
        for number in range(20):
            net[names[number % 4]].channel.publish("x", "all", b"%d" % number)
        await net.settle()
        for name in names:
            bodies = net[name].channel.drain("q")
            assert sorted(map(int, bodies)) == list(range(20))


async def test_brokers_of_one_name_are_told_so(caplog: pytest.LogCaptureFixture) -> None:
    async with network("a", "b") as net:
        exchanges(net)
        net["b"].core.parameters.set_global("cluster_name", "a")
        net["b"].upstream("a")
        await net.settle()
        assert "calls itself 'a' like this broker" in caplog.text


async def test_brokers_that_nobody_named_have_different_names() -> None:
    async with network("a", "b") as net:
        names = set()
        for site in net.sites.values():
            site.core.parameters.clear_global("cluster_name")
            site.core.parameters.set_global(
                "internal_cluster_id", f"rabbitmq-cluster-id-{site.name}"
            )
            names.add(site.core.cluster_name)
        assert len(names) == 2
        assert all(name.startswith("amqpd@localhost.") for name in names)


@pytest.mark.parametrize("seed", range(12))
async def test_anything_may_happen_to_three_brokers(seed: int) -> None:
    """Each is an upstream of each. Links are cut, brokers are killed and away, policies change;
    in the end everybody has everything that was confirmed to be published."""
    names = "abc"
    async with network(*names, seed=seed, journaling=True) as net:
        random = net.random
        exchanges(net)
        for name in names:
            for other in names.replace(name, ""):
                net[name].upstream(other, max_hops=1, reconnect_delay=1, prefetch_count=10)
        await net.settle()
        # Bindings reach the other side a little later than they are made: from here on all are.
        net.pieces = (1, 20, 300, 5000)
        net.lifetime = lambda: random.choice((10, 1500, 4000, 9000, 30_000))
        published = 0
        for _ in range(40):
            for _ in range(random.randrange(8)):
                site = net[random.choice(names)]
                site.channel.publish("x", "all.k", b"%d" % published, PERSISTENT)
                published += 1
            name = random.choice(names)
            match random.randrange(7):
                case 0:
                    await net.kill(name)
                case 1:
                    net.cut(name)
                case 2:
                    net[name].away = not net[name].away
                case 3:
                    for other in names.replace(name, ""):
                        net[name].upstream(
                            other, reconnect_delay=1, prefetch_count=random.randrange(1, 50)
                        )
                case 4:
                    net[name].policy("^x$", {"federation-upstream-pattern": "."})
                case _:
                    await net.pass_time(random.choice((0, 0.5, 3, 60)))
        net.lifetime = lambda: float("inf")
        for site in net.sites.values():
            site.away = False
        net.cut()
        await net.pass_time(10)
        wanted = set(range(published))
        for name in names:
            links = net[name].links()
            assert [link["status"] for link in links] == ["running"] * 2, links
            assert set(map(int, net[name].channel.drain("q"))) == wanted, name
            assert len(net[name].queues()) == 3
            assert len(net[name].internal_exchanges()) == 2


def numbers(net: Network, name: str) -> list[int]:
    return [int(body) for body in net[name].channel.drain("q")]


async def linked(net: Network, **fields: Any) -> None:
    """Exchange x of `down` is fed by that of `up`."""
    exchanges(net, "down")
    net["down"].upstream("up", **fields)
    await net.settle()


async def test_an_upstream_that_is_away_for_an_hour() -> None:
    async with network("up", "down", journaling=True) as net:
        await linked(net)
        net["up"].away = True
        net.cut()
        for number in range(100):
            net["up"].channel.publish("x", "all", b"%d" % number, PERSISTENT)
        await net.pass_time(3600)
        assert net["down"].link()["status"] == "error"
        # Every five seconds, for ever: the wait neither ends nor grows.
        attempts = [keeper.attempts for keeper in net["down"].keepers()]
        assert 700 <= attempts[0] <= 722
        net["up"].away = False
        await net.pass_time(6)
        assert numbers(net, "down") == list(range(100))


async def test_an_upstream_that_was_restarted_empty() -> None:
    async with network("up", "down") as net:
        await linked(net)
        await net.kill("up")
        await net.pass_time(6)
        assert net["down"].link()["status"] == "running"
        net["up"].channel.publish("x", "all", b"1")
        await net.settle()
        assert numbers(net, "down") == [1]


async def test_both_sides_restart_at_once() -> None:
    async with network("up", "down", journaling=True) as net:
        await linked(net)
        for number in range(100):
            net["up"].channel.publish("x", "all", b"%d" % number, PERSISTENT)
        await net.kill("up")
        await net.kill("down")
        for number in range(100, 200):
            net["up"].channel.publish("x", "all", b"%d" % number, PERSISTENT)
        await net.pass_time(20)
        assert set(numbers(net, "down")) == set(range(200))


async def test_a_login_that_is_refused_is_tried_again() -> None:
    async with network("up", "down") as net:
        await linked(net, uri="amqp://link:secret@up?heartbeat=0")
        await net.pass_time(60)
        assert "403 ACCESS_REFUSED" in net["down"].link()["error"]
        net["up"].add_user("link")
        await net.pass_time(6)
        assert "not_allowed" in net["down"].link()["error"].lower()
        net["up"].permit("link", "nothing", "nothing", "nothing")
        await net.pass_time(6)
        assert "403 ACCESS_REFUSED" in net["down"].link()["error"]
        net["up"].permit("link", ".*", ".*", ".*")
        await net.pass_time(6)
        assert net["down"].link()["status"] == "running"


async def test_a_policy_that_changes_while_messages_flow_repeats_and_loses_nothing() -> None:
    async with network("up", "down", seed=3, journaling=True) as net:
        net.pieces = (50, 1000)
        await linked(net, prefetch_count=10)
        for number in range(400):
            net["up"].channel.publish("x", "all", b"%d" % number, PERSISTENT)
            if number % 9 == 0:
                name = f"p{number % 4}"
                net["down"].policy("^x$", {"federation-upstream-pattern": "up"}, name=name)
            if number % 5 == 0:
                for _ in range(net.random.randrange(40)):
                    await anyio.lowlevel.checkpoint()
        await net.settle()
        assert numbers(net, "down") == list(range(400))
