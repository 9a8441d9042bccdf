"""All shovels of a broker: the component `shovel` of its runtime parameters, and static ones.

    broker.parameters.register(shovels)        before recovery: parameters make shovels
    await shovels.run(surroundings)            they move messages from then on
    shovel_statuses(broker, "/")               what /api/shovels tells

Setting a parameter again restarts its shovel with the new definition; clearing it ends the shovel,
whether it ever connected or not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import anyio

from amqpd.commands import Arguments
from amqpd.links.keeper import Keeper, hang_up
from amqpd.links.runner import GOODBYE_S, Side, Surroundings
from amqpd.links.shovel import Shovel
from amqpd.links.shovel_definition import (
    COMPONENT,
    ShovelDefinition,
    check_definition,
    read_definition,
)
from amqpd.links.tending import Tending

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker

logger = logging.getLogger("amqpd.shovel")

STATIC: Final = 0
"""Instead of a virtual host in the keys of static shovels: a dynamic one may have the same name."""
NO_SHOVELS: Final[Mapping[str, Mapping[str, Any]]] = {}


class ShovelKeeper(Keeper):
    """Keeps one shovel going, and knows how it is."""

    KIND: ClassVar[str] = "shovel"

    def __init__(
        self,
        vhost: str,
        name: str,
        definition: ShovelDefinition,
        epoch_s: Callable[[], float],
        *,
        static: bool = False,
    ) -> None:
        super().__init__(vhost, name, definition.reconnect_delay_s, epoch_s, logger)
        self.definition = definition
        self.static = static
        """The configuration wants it, and no parameter."""
        self.src_uri = definition.src_uris[0]
        self.dest_uri = definition.dest_uris[0]

    @property
    def shovel(self) -> Shovel | None:
        """The attempt under way."""
        return cast("Shovel | None", self.link)

    @property
    def told_state(self) -> str:
        """Of what RabbitMQ tells: starting, running, blocked or terminated."""
        shovel = self.shovel
        if self.state == "running" and shovel is not None and shovel.blocked:
            return "blocked"
        return self.state

    async def run(self, around: Surroundings) -> bool:
        """As for any link, but no longer than `src-delete-after-duration`: what was taken by then
        is settled first."""
        seconds = self.definition.delete_after_duration_s
        if seconds is None:
            return await super().run(around)
        finished = expired = False
        async with anyio.create_task_group() as tasks:

            async def expire() -> None:
                nonlocal expired
                await around.sleep(seconds)
                expired = True
                if self.retire():
                    await around.sleep(GOODBYE_S)
                tasks.cancel_scope.cancel()

            tasks.start_soon(expire)
            finished = await super().run(around)
            tasks.cancel_scope.cancel()
        return finished or expired

    async def _connect_both(self, around: Surroundings, attempt: int) -> tuple[Side, Side]:
        definition, name = self.definition, f"Shovel {self.name}"
        self.src_uri = definition.src_uris[attempt % len(definition.src_uris)]
        self.dest_uri = definition.dest_uris[attempt % len(definition.dest_uris)]
        source = await self._connect(around, "source", self.src_uri, name)
        try:
            return source, await self._connect(around, "destination", self.dest_uri, name)
        except BaseException:
            await hang_up(source)
            raise

    def _make(self, around: Surroundings, source: Side, destination: Side) -> Shovel:
        entry = self._forward_entry(around.cluster_name())
        return Shovel(self.definition, source.client, destination.client, entry, self._epoch_s)

    def _forward_entry(self, cluster_name: str) -> Arguments:
        """What `x-shovelled` says, in RabbitMQ's order."""
        definition = self.definition
        said = {
            "shovelled-by": cluster_name,
            "shovel-type": "static" if self.static else "dynamic",
            "shovel-name": self.name,
            "shovel-vhost": self.vhost,
            "src-uri": self.src_uri.shown,
            "dest-uri": self.dest_uri.shown,
            **definition.source_fields,
            **definition.destination_fields,
        }
        return {name: ("S", value) for name, value in said.items()}


class Shovels:
    """The shovels that there are to be, and those that run."""

    name = COMPONENT

    def __init__(
        self, broker: Broker, static: Mapping[str, Mapping[str, Any]] = NO_SHOVELS
    ) -> None:
        """`static` are those of the configuration, by name, which `check_static` has passed."""
        self._broker = broker
        self._tending: Tending[ShovelKeeper] = Tending(self._finished)
        self._finish_turn: Callable[[], None] = lambda: None
        for name, value in static.items():
            vhost = value.get("vhost", broker.config.default_vhost)
            keeper = ShovelKeeper(vhost, name, read_definition(value), self._epoch_s, static=True)
            self._tending.put((STATIC, name), keeper)

    # -- as amqpd.broker.parameters.Component

    def check(self, name: str, value: Any) -> list[str]:
        """What is wrong with a shovel."""
        return check_definition(name, value)

    def changed(self, vhost: str, name: str, value: Any, by: str) -> None:
        """A shovel is wanted, or wanted otherwise."""
        self._put(vhost, name, read_definition(value))

    def cleared(self, vhost: str, name: str, by: str) -> None:
        """It is not wanted any more."""
        self._tending.drop((vhost, name))

    # -- for those who administer a broker

    def restart(self, vhost: str, name: str) -> None:
        """End a shovel and begin anew. Raises LookupError."""
        keeper = self._tending.get((vhost, name))
        if keeper is not None:
            self._put(vhost, name, keeper.definition)
            return
        keeper = self._tending.get((STATIC, name))
        if keeper is None or keeper.vhost != vhost:
            raise LookupError(f"no shovel '{name}' in vhost '{vhost}'")
        again = ShovelKeeper(vhost, name, keeper.definition, self._epoch_s, static=True)
        self._tending.put((STATIC, name), again)

    @property
    def keepers(self) -> Iterator[ShovelKeeper]:
        """Of all shovels that there are to be."""
        return iter(self._tending)

    def statuses(self, vhost: str | None = None) -> list[dict[str, Any]]:
        """Of the shovels of a virtual host, or of all: what /api/shovels tells."""
        node = self._broker.node
        return [
            _status(keeper, node)
            for keeper in self.keepers
            if vhost is None or keeper.vhost == vhost
        ]

    # -- running

    async def run(self, surroundings: Surroundings) -> None:
        """Keep the shovels going until cancelled."""
        self._finish_turn = surroundings.finish_turn
        await self._tending.run(surroundings)

    def _put(self, vhost: str, name: str, definition: ShovelDefinition) -> None:
        keeper = ShovelKeeper(vhost, name, definition, self._epoch_s)
        self._tending.put((vhost, name), keeper)

    def _epoch_s(self) -> float:
        return self._broker.effects.epoch_ms() / 1000

    def _finished(self, keeper: ShovelKeeper) -> None:
        """delete-after or its duration was reached."""
        details = {"shovel": keeper.name, "vhost": keeper.vhost}
        if keeper.static:
            logger.info("shovel finished", extra=details)
            keeper.fail("it has done all that it was to do")
            return
        logger.info("shovel finished: deleted", extra=details)
        self._broker.parameters.clear(keeper.vhost, COMPONENT, keeper.name)
        self._finish_turn()


def shovel_statuses(broker: Broker, vhost: str | None = None) -> list[dict[str, Any]]:
    """What /api/shovels tells: of one virtual host, or of all."""
    if not broker.parameters.has(COMPONENT):
        return []
    return cast(Shovels, broker.parameters.component(COMPONENT)).statuses(vhost)


def restart_shovel(broker: Broker, vhost: str, name: str) -> None:
    """End a shovel and begin anew. Raises LookupError."""
    cast(Shovels, broker.parameters.component(COMPONENT)).restart(vhost, name)


def _status(keeper: ShovelKeeper, node: str) -> dict[str, Any]:
    definition, shovel = keeper.definition, keeper.shovel
    state = keeper.told_state
    status: dict[str, Any] = {
        "node": node,
        "timestamp": shown_time(keeper.changed_epoch_s),
        "name": keeper.name,
        "vhost": keeper.vhost,
        "type": "static" if keeper.static else "dynamic",
        "state": state,
        "src_uri": keeper.src_uri.shown,
        "src_protocol": definition.src_protocol,
        "dest_uri": keeper.dest_uri.shown,
        "dest_protocol": definition.dest_protocol,
    }
    fields = {**definition.source_fields, **definition.destination_fields}
    status |= {name.replace("-", "_"): value for name, value in fields.items()}
    if keeper.state == "terminated":
        status["reason"] = keeper.reason
    if keeper.last_error:
        status["last_error"] = keeper.last_error
    if keeper.uptime_ms is not None:
        status["uptime"] = keeper.uptime_ms
    if shovel is not None:
        endless = "unlimited"
        status |= {
            "remaining": endless if shovel.remaining is None else shovel.remaining,
            "remaining_unacked": shovel.unconfirmed,
            "pending": shovel.pending,
            "forwarded": shovel.forwarded,
            "refused": shovel.refused,
            "blocked_status": "blocked" if shovel.blocked else "running",
        }
        if shovel.lag is not None:
            status["lag"] = shovel.lag + shovel.pending
    return status


def shown_time(epoch_s: float) -> str:
    """`2026-11-21 4:05:09`, as RabbitMQ writes it: the hour without a zero in front."""
    time = datetime.fromtimestamp(epoch_s, UTC)
    return f"{time:%Y-%m-%d} {time.hour}:{time:%M:%S}"
