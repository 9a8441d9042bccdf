"""Each trouble that a link may meet, for each kind of link: nothing confirmed is lost, and where
nothing broke nothing comes twice.

Cuts at any octet are in the tests of each kind (`test_a_link_cut_at_any_octet_loses_nothing`,
`test_a_cut_at_every_octet_loses_nothing`, `test_cuts_and_kills_lose_nothing`), chains, rings and
meshes in test_federation_networks and test_queue_federation; all of them at random, on disks whose
power goes, in tests/simulation/links.
"""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker.alarms import Alarm
from amqpd.broker.passwords import SHA256, hash_password
from amqpd.links.link import Link
from amqpd.links.reading import Delivery
from amqpd.links.shovels import shovel_statuses
from tests.conversation import PERSISTENT
from tests.links.network import Network, Site, network

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("kind", ["exchange", "queue", "shovel"])]

COUNT = 60


class Joined:
    """Two brokers, and a link by which the messages of `up` come to `down`."""

    def __init__(self, net: Network, kind: str, queue_type: str = "classic") -> None:
        self.net = net
        self.kind = kind
        self.queue_type = queue_type
        self.published = 0
        self.got: list[int] = []
        for site in (self.up, self.down):
            self.prepare(site)
        self.join()

    @property
    def up(self) -> Site:
        return self.net["up"]

    @property
    def down(self) -> Site:
        return self.net["down"]

    def prepare(self, site: Site) -> None:
        """What the link is about."""
        arguments = {"x-queue-type": self.queue_type} if site is self.up else {}
        site.channel.exchange_declare("x", "topic", durable=True)
        site.channel.queue_declare("q", durable=True, arguments=arguments)
        if site is self.down:
            site.channel.queue_bind("q", "x", "#")

    def join(self, **fields: Any) -> None:
        """Make the link, or make it otherwise."""
        if self.kind == "shovel":
            value: dict[str, Any] = {"src-uri": "amqp://up?heartbeat=0", "src-queue": "q"}
            value |= {"dest-uri": "amqp://", "dest-queue": "q", "reconnect-delay": 5}
            value |= {f"src-{name.replace('_', '-')}": item for name, item in fields.items()}
            self.down.core.parameters.set("/", "shovel", "s", value)
            self.down.turn()
        else:
            self.down.upstream("up", reconnect_delay=5, **fields)
            pattern = "^x$" if self.kind == "exchange" else "^q$"
            self.down.policy(pattern, {"federation-upstream": "up"})

    def publish(self, count: int = COUNT) -> None:
        """At the upstream; the network's disks are quick, so it is confirmed."""
        exchange = "x" if self.kind == "exchange" else ""
        for _ in range(count):
            self.up.channel.publish(exchange, "q", b"%d" % self.published, PERSISTENT)
            self.published += 1

    def set_password(self, password: str) -> None:
        """Of the user by whose name the link comes to the upstream."""
        core = self.up.core
        hashed = hash_password(password, b"salt")
        core.journal(core.access.put_user("guest", hashed, SHA256, ("administrator",)))
        self.up.turn()

    def state(self) -> str:
        """Of the link."""
        if self.kind == "shovel":
            (row,) = shovel_statuses(self.down.core)
            return str(row["state"])
        return str(self.down.link()["status"])

    def last_error(self) -> str:
        """Of the link."""
        (row,) = shovel_statuses(self.down.core) or self.down.links()
        return str(row["last_error"])

    async def arrived(self) -> list[int]:
        """What has come, in the end."""
        consumer = self.down.client().channel()
        consumer.consume("q")
        for _ in range(COUNT):
            await self.net.pass_time(1)
            deliveries = consumer.deliveries()
            self.got += [int(delivery.body) for delivery in deliveries]
            if not deliveries and self.got:
                break
            for delivery in deliveries:
                consumer.ack(delivery.delivery_tag)
        consumer.client.close()
        await self.net.settle()
        return self.got

    async def expect_each_once(self) -> None:
        assert await self.arrived() == list(range(self.published))

    async def expect_all(self) -> None:
        assert set(await self.arrived()) == set(range(self.published))


async def joined(net: Network, kind: str, **how: Any) -> Joined:
    both = Joined(net, kind, **how)
    await net.settle()
    assert both.state() == "running"
    return both


async def test_where_nothing_breaks(kind: str) -> None:
    async with network("up", "down", journaling=True) as net:
        both = await joined(net, kind)
        both.publish()
        await both.expect_each_once()


async def test_the_other_side_is_gone_for_an_hour(kind: str) -> None:
    async with network("up", "down", journaling=True) as net:
        both = await joined(net, kind)
        net["up"].away = True
        net.cut()
        both.publish()
        await net.pass_time(3600)
        assert both.state() in ("error", "terminated", "starting")
        assert "Connection refused" in both.last_error()
        net["up"].away = False
        await net.pass_time(6)
        assert both.state() == "running"
        await both.expect_each_once()


async def test_the_other_side_is_restarted_empty(kind: str) -> None:
    async with network("up", "down") as net:
        both = await joined(net, kind)
        await net.kill("up")
        both.prepare(both.up)
        await net.pass_time(6)
        assert both.state() == "running"
        both.publish()
        await both.expect_each_once()


async def test_an_alarm_here_blocks_what_comes(kind: str) -> None:
    async with network("up", "down", journaling=True) as net:
        both = await joined(net, kind)
        both.join(prefetch_count=10)
        await net.pass_time(3)
        both.down.core.set_alarm(Alarm.MEMORY, True)
        both.down.turn()
        consumer = both.down.client().channel()
        consumer.consume("q")
        both.publish()
        await net.pass_time(300)
        both.got += [int(delivery.body) for delivery in consumer.deliveries()]
        # The window that was taken before the alarm was told has arrived, if that: not all.
        assert len(both.got) <= 10
        both.down.core.set_alarm(Alarm.MEMORY, False)
        both.down.turn()
        net.unblock()
        await net.settle()
        both.got += [int(delivery.body) for delivery in consumer.deliveries()]
        consumer.ack(0, multiple=True)
        consumer.client.close()
        await both.expect_each_once()


async def test_the_login_is_refused_for_a_while(kind: str) -> None:
    async with network("up", "down", journaling=True) as net:
        both = await joined(net, kind)
        both.set_password("another")
        net.cut()
        await net.pass_time(60)
        assert "403 ACCESS_REFUSED" in both.last_error()
        both.set_password("guest")
        both.publish()
        await net.pass_time(6)
        assert both.state() == "running"
        await both.expect_each_once()


async def test_the_queue_there_is_of_another_type(kind: str) -> None:
    async with network("up", "down", journaling=True) as net:
        both = await joined(net, kind, queue_type="quorum")
        both.publish()
        await both.expect_each_once()


async def test_it_is_configured_anew_while_messages_flow(kind: str) -> None:
    async with network("up", "down", seed=5, journaling=True) as net:
        both = await joined(net, kind)
        net.pieces = (50, 1000)
        for prefetch in range(1, 12):
            both.publish(20)
            both.join(prefetch_count=prefetch)
            if prefetch % 3 == 0:
                await net.pass_time(0.5)
        await net.pass_time(3)
        await both.expect_each_once()


async def test_both_sides_restart_at_once(kind: str) -> None:
    async with network("up", "down", journaling=True) as net:
        both = await joined(net, kind)
        both.publish()
        await net.kill("up")
        await net.kill("down")
        both.publish()
        await net.pass_time(20)
        assert both.state() == "running"
        await both.expect_all()


async def test_a_bug_ends_an_attempt_and_not_the_link(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours, or one of the other end's that brings us to it."""
    async with network("up", "down", journaling=True) as net:
        both = await joined(net, kind)
        failing = [KeyError("bug")]
        take = Link._take

        def fail_once(link: Link, delivery: Delivery) -> None:
            if failing:
                raise failing.pop()
            take(link, delivery)

        monkeypatch.setattr(Link, "_take", fail_once)
        both.publish()
        await both.expect_all()
        assert not failing
        assert both.state() == "running"
        assert both.last_error() == "internal error: see the log"
        assert "KeyError: 'bug'" in caplog.text
