"""An exchange of a virtual host: what was declared, beside the routing table that does its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amqpd.broker.counts import Tally
from amqpd.broker.policies import Governed
from amqpd.commands import Arguments
from amqpd_exchanges.delayed import DelayedExchange
from amqpd_exchanges.exchange import Exchange as RoutingTable

if TYPE_CHECKING:
    from amqpd.broker.exchange_memory import ExchangeMemory
    from amqpd.broker.queue import Queue
    from amqpd.broker.waiting_room import WaitingRoom


class BrokerExchange(Governed):
    """What exchange.declare said. Declared and deleted by `VirtualHost`."""

    __slots__ = (
        "arguments",
        "auto_delete",
        "durable",
        "exchange_id",
        "federated",
        "internal",
        "memory",
        "name",
        "table",
        "tally",
        "type",
        "waiting_room",
    )

    def __init__(
        self,
        name: str,
        type: str,
        table: RoutingTable[Queue],
        *,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Arguments,
        memory: ExchangeMemory | None = None,
        exchange_id: int = 0,
    ) -> None:
        super().__init__()
        self.name = name
        self.type = type
        self.table = table
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = arguments
        self.memory = memory
        """What exchanges of some types remember of messages; None for all others."""
        self.exchange_id = exchange_id
        """Names a durable delayed exchange in the store; 0 for others."""
        self.waiting_room: WaitingRoom | None = None
        """Where messages wait, if this is a delayed exchange."""
        self.federated = False
        """Links follow its bindings; set by `amqpd.broker.federation`'s listener."""
        self.tally = Tally()

    def apply_policies(self) -> None:
        """The alternate exchange is that of the arguments, or else that of the policies."""
        if self.memory is not None:
            self.memory.apply_policies(self.effective_policy_definition or {})
        declared = self.arguments.get("alternate-exchange")
        if declared is not None:
            self.table.alternate = declared[1]
        elif self.name:  # what the default exchange cannot route goes nowhere, whatever is said
            self.table.alternate = (self.effective_policy_definition or {}).get(
                "alternate-exchange"
            )

    @property
    def routing_type(self) -> str:
        """The type that decides where messages go: of a delayed exchange, the one before which
        they wait."""
        table = self.table
        return table.inner.kind if isinstance(table, DelayedExchange) else self.type

    @property
    def messages_delayed(self) -> int | None:
        """How many messages wait here, as the plugin's field of that name; None for other types."""
        return None if self.waiting_room is None else self.waiting_room.messages
