"""An exchange of a virtual host: what was declared, beside the routing table that does its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amqpd.broker.policies import Governed
from amqpd.commands import Arguments
from amqpd_exchanges.exchange import Exchange as RoutingTable

if TYPE_CHECKING:
    from amqpd.broker.exchange_memory import ExchangeMemory
    from amqpd.broker.queue import Queue


class BrokerExchange(Governed):
    """What exchange.declare said. Declared and deleted by `VirtualHost`."""

    __slots__ = (
        "arguments",
        "auto_delete",
        "durable",
        "internal",
        "memory",
        "name",
        "table",
        "type",
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

    def apply_policies(self) -> None:
        """The alternate exchange: that of the arguments, or else that of the policies."""
        declared = self.arguments.get("alternate-exchange")
        if declared is not None:
            self.table.alternate = declared[1]
        elif self.name:  # what the default exchange cannot route goes nowhere, whatever is said
            self.table.alternate = (self.effective_policy_definition or {}).get(
                "alternate-exchange"
            )
