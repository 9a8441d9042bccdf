"""A shovel's keeper: attempts, delays and ends, in virtual time and without a socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from amqpd.links.runner import Surroundings, wait_until
from amqpd.links.shovel_definition import check_definition, read_definition
from amqpd.links.shovels import ShovelKeeper, Shovels, shovel_statuses
from amqpd.links.transport import Transport
from amqpd.links.uri import LinkURI
from tests.conversation import PERSISTENT, BrokerUnderTest
from tests.hyphens import hyphenated
from tests.links.network import network
from tests.links.wire import Wire
from tests.patience import PATIENCE_S


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


class WireTransport:
    """A broker under test at the other end."""

    name = "link"

    def __init__(self, broker: BrokerUnderTest) -> None:
        self._wire = Wire(broker)
        # The wire's own link stays silent: this transport carries another one's bytes.
        self._wire.link.take_output(0)
        self.cut = False

    async def receive(self) -> bytes:
        while not self._wire._to_link:
            await anyio.lowlevel.checkpoint()
            if self.cut:
                raise anyio.BrokenResourceError
        data, self._wire._to_link = self._wire._to_link, b""
        return data

    async def send(self, data: bytes) -> None:
        if self.cut:
            raise anyio.BrokenResourceError
        self._wire.send_bytes(data)
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._wire.drop()


class World:
    """A broker that may be away, and time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.broker = BrokerUnderTest()
        self.channel = self.broker.client().channel()
        self.slept: list[float] = []
        self.asked: list[str] = []
        self.away = False
        self.transports: list[WireTransport] = []
        self.while_asleep: Callable[[], None] = lambda: None

    @property
    def surroundings(self) -> Surroundings:
        return Surroundings(
            connect=self.connect,
            now=lambda: self.broker.now,
            finish_turn=self.broker.turn,
            sleep=self.sleep,
            wait=wait_until,
            cluster_name=lambda: "here",
        )

    async def connect(self, uri: LinkURI, vhost: str) -> Transport:
        self.asked.append(uri.host)
        await anyio.lowlevel.checkpoint()
        if self.away:
            raise ConnectionRefusedError(111, "Connection refused")
        self.transports.append(WireTransport(self.broker))
        return self.transports[-1]

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.broker.now += seconds
        await anyio.lowlevel.checkpoint()
        self.while_asleep()


def value(**fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "src-uri": ["amqp://a?heartbeat=0", "amqp://b?heartbeat=0"],
        "dest-uri": "amqp://c?heartbeat=0",
        "src-queue": "from",
        "dest-queue": "to",
    }
    made |= hyphenated(fields)
    assert check_definition("s", made) == []
    return made


def keeper(world: World, **fields: Any) -> ShovelKeeper:
    return ShovelKeeper("/", "s", read_definition(value(**fields)), lambda: world.broker.now)


async def test_a_broker_that_is_away_for_an_hour() -> None:
    world = World()
    world.away = True
    began = world.broker.now

    def come_back() -> None:
        world.away = world.broker.now < began + 3600

    world.while_asleep = come_back
    world.channel.queue_declare("from", durable=True)
    world.channel.publish("", "from", b"m")
    shovel = keeper(world, src_delete_after=1, reconnect_delay=5)
    assert await shovel.run(world.surroundings)
    assert world.slept == [5] * 720
    assert world.asked[:4] == ["a", "b", "a", "b"]
    assert world.channel.drain("to") == [b"m"]


async def test_no_delay_is_so_short_that_attempts_never_end() -> None:
    world = World()
    world.away = True
    world.while_asleep = lambda: setattr(world, "away", len(world.slept) < 3)
    world.channel.queue_declare("from", durable=True)
    world.channel.publish("", "from", b"m")
    shovel = keeper(world, src_delete_after=1, reconnect_delay=0.00001)
    assert await shovel.run(world.surroundings)
    assert world.slept == [0.1] * 3


async def test_zero_delay_is_no_reconnection() -> None:
    world = World()
    world.away = True
    shovel = keeper(world, reconnect_delay=0)
    assert not await shovel.run(world.surroundings)
    assert (shovel.state, world.slept) == ("terminated", [])
    assert shovel.reason == "source: cannot connect to amqp://a: Connection refused"


@pytest.mark.parametrize("away", [False, True])
async def test_a_shovel_that_has_been_there_long_enough_is_deleted(away: bool) -> None:
    """With what it has taken settled, and whether it ever connected or not."""
    async with network("here", "there", journaling=True) as net:
        here, there = net["here"], net["there"]
        here.channel.queue_declare("from", durable=True)
        there.away = away
        fields = {"src-uri": "amqp://", "dest-uri": "amqp://there?heartbeat=0"}
        fields |= {"src-queue": "from", "dest-queue": "to"}
        said = {**fields, "src-delete-after-duration": 60, "src-prefetch-count": 10}
        here.core.parameters.set("/", "shovel", "s", said)
        here.turn()
        for number in range(100):
            here.channel.publish("", "from", b"%d" % number, PERSISTENT)
        await net.pass_time(59)
        assert len(shovel_statuses(here.core)) == 1
        net.commits = False
        here.channel.publish("", "from", b"100", PERSISTENT)
        await net.pass_time(1.5)
        assert len(shovel_statuses(here.core)) == (0 if away else 1)
        net.commits = True
        there.journal.commit()
        here.journal.commit()
        await net.pass_time(3)
        assert shovel_statuses(here.core) == []
        assert here.core.parameters.value("/", "shovel", "s") is None
        left = here.channel.drain("from")
        moved = [] if away else there.channel.drain("to")
        assert moved + left == [b"%d" % number for number in range(101)]


async def test_shovels_that_have_done_their_work_are_forgotten() -> None:
    """Whoever moves messages by them gives each another name."""
    async with network("here") as net:
        here = net["here"]
        here.channel.queue_declare("from", durable=True)
        for number in range(3):
            here.channel.publish("", "from", b"m")
            fields = value(src_uri="amqp://", dest_uri="amqp://", src_delete_after=1)
            here.core.parameters.set("/", "shovel", f"s{number}", fields)
            here.turn()
            await net.pass_time(10)
        assert here.channel.counts("to") == (3, 0)
        shovels = here.core.parameters.component("shovel")
        assert isinstance(shovels, Shovels)
        assert list(shovels._tending) == []
        assert shovels._tending._ending == {}


async def test_the_lag_is_what_waits_at_the_source_and_the_log_says_so_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with network("here", "there", journaling=True) as net:
        here = net["here"]
        here.channel.queue_declare("from", durable=True)
        fields = {"src-uri": "amqp://", "dest-uri": "amqp://there?heartbeat=0"}
        fields |= {"src-queue": "from", "dest-queue": "to"}
        here.core.parameters.set("/", "shovel", "s", {**fields, "src-prefetch-count": 10})
        here.turn()
        await net.settle()
        net.commits = False
        for number in range(50):
            here.channel.publish("", "from", b"%d" % number, PERSISTENT)
        here.journal.commit()
        await net.pass_time(6)
        (row,) = shovel_statuses(here.core)
        assert (row["lag"], row["remaining_unacked"], row["forwarded"]) == (40, 10, 10)
        assert row["uptime"] == 6000
        net.cut("there")
        await net.pass_time(1)
        (record,) = [item for item in caplog.records if item.message == "shovel failed"]
        assert vars(record)["uptime_s"] == 6
        assert vars(record)["lag"] == 40
        assert vars(record)["reason"].startswith("destination: ")
        (row,) = shovel_statuses(here.core)
        assert row["last_error"] == vars(record)["reason"]
        net.commits = True
        net["there"].journal.commit()
        await net.pass_time(12)
        (row,) = shovel_statuses(here.core)
        assert (row["state"], row["lag"]) == ("running", 0)


async def test_a_cut_link_begins_again_and_loses_nothing() -> None:
    world = World()
    world.channel.queue_declare("from", durable=True)
    bodies = [b"%d" % number for number in range(50)]
    for body in bodies[:25]:
        world.channel.publish("", "from", body)

    def more() -> None:
        for body in bodies[25:]:
            world.channel.publish("", "from", body)

    world.while_asleep = more
    shovel = keeper(world)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shovel.run, world.surroundings)
        while shovel.shovel is None or shovel.shovel.forwarded < 25:
            await anyio.lowlevel.checkpoint()
        world.transports[-1].cut = True
        while len(world.transports) < 4 or shovel.shovel is None or shovel.shovel.forwarded < 25:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert world.slept == [5]
    assert set(world.channel.drain("to")) == set(bodies)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_parameters_make_restart_and_end_shovels() -> None:
    world = World()
    core = world.broker.core
    core.parameters.register(Shovels(core))
    shovels = core.parameters.component("shovel")
    assert isinstance(shovels, Shovels)
    core.parameters.set("/", "shovel", "early", value())

    def state(name: str) -> str:
        rows = {row["name"]: row for row in shovel_statuses(core, "/")}
        return str(rows[name]["state"]) if name in rows else "gone"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shovels.run, world.surroundings)
        await until(lambda: state("early") == "running")
        core.parameters.set("/", "shovel", "late", value(dest_queue="other"))
        await until(lambda: state("late") == "running")
        assert shovel_statuses(core, "missing") == []
        connections = len(world.transports)
        shovels.restart("/", "late")
        assert state("late") == "starting"
        await until(lambda: len(world.transports) == connections + 2)
        await until(lambda: state("late") == "running")
        core.parameters.clear("/", "shovel", "late")
        assert state("late") == "gone"
        core.parameters.set("/", "shovel", "early", value(src_delete_after=0))
        await until(lambda: state("early") == "gone")
        assert core.parameters.value("/", "shovel", "early") is None
        world.away = True
        core.parameters.set("/", "shovel", "never", value(reconnect_delay=0))
        await until(lambda: state("never") == "terminated")
        core.parameters.clear("/", "shovel", "never")
        assert shovel_statuses(core) == []
        tasks.cancel_scope.cancel()


async def test_the_status_says_all_there_is() -> None:
    world = World()
    core = world.broker.core
    core.parameters.register(Shovels(core))
    shovels = core.parameters.component("shovel")
    assert isinstance(shovels, Shovels)
    core.parameters.set("/", "shovel", "s", value())
    assert shovel_statuses(core) == [
        {
            "node": core.node,
            "timestamp": "1970-01-01 0:16:40",
            "name": "s",
            "vhost": "/",
            "type": "dynamic",
            "state": "starting",
            "src_uri": "amqp://a",
            "src_protocol": "amqp091",
            "src_queue": "from",
            "dest_uri": "amqp://c",
            "dest_protocol": "amqp091",
            "dest_queue": "to",
        }
    ]
