"""What exchanges remember of messages: recent history, and the headers that deduplication has seen.

A message that is routed through such an exchange is remembered in the same turn in which its queues
get it, and what one turn appends is one commit of the journal. So after a crash an exchange
remembers a message exactly if its queues have it: none is lost as a duplicate of one that never
got anywhere, and none gets through twice.

The memory of a durable exchange is durable, as records of its own kinds beside the definitions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from amqpd.broker import definitions
from amqpd.broker.definitions import HistoryRecord, SeenRecord
from amqpd.commands import Arguments, Message

if TYPE_CHECKING:
    from amqpd.broker.virtual_host import VirtualHost


class ExchangeMemory(ABC):
    """The memory of one exchange."""

    KIND: ClassVar[str]
    """Of its records."""

    __slots__ = ("_effects", "_exchange", "_journaled", "_next_number", "_virtual_host")

    def __init__(self, virtual_host: VirtualHost, exchange: str, *, durable: bool) -> None:
        self._virtual_host = virtual_host
        self._effects = virtual_host.effects
        self._exchange = exchange
        self._journaled = durable and virtual_host.effects.journaling
        self._next_number = 1

    @abstractmethod
    def passes(self, message: Message, headers: Arguments) -> bool:
        """Whether the message may pass; it is remembered."""

    @abstractmethod
    def take_back(self, headers: Arguments) -> None:
        """Forget the latest message that passed, which had these headers: a queue refused it, and
        its publisher will try again."""

    def apply_policies(self, definition: Mapping[str, Any]) -> None:  # noqa: B027
        """Policies came, changed or went: what of this one concerns it holds at once."""

    @abstractmethod
    def drop(self) -> None:
        """The exchange is deleted."""

    @abstractmethod
    def restore(self, record: HistoryRecord | SeenRecord) -> None:
        """Remember what was found in the store. Records come in the order of their numbers."""

    def _take_number(self) -> int:
        number = self._next_number
        self._next_number = number + 1
        return number

    def _keep(self, record: HistoryRecord | SeenRecord) -> None:
        self._effects.entries.append(definitions.encode(record))

    def _forget(self, record: HistoryRecord | SeenRecord) -> None:
        self._effects.entries.append(definitions.drop(record))
