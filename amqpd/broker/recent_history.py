"""The memory of a recent history exchange: its last messages, for queues that come later."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar

from amqpd.broker.definitions import HistoryRecord, SeenRecord
from amqpd.broker.exchange_memory import ExchangeMemory
from amqpd.broker.publishing import hand_on
from amqpd.commands import Arguments, Message, copy_of, make_message, target_of
from amqpd_exchanges.exchange import Exchange as RoutingTable
from amqpd_exchanges.recent_history import LENGTH, LENGTH_DEFAULT, NO_STORE

if TYPE_CHECKING:
    from amqpd.broker.queue import Queue
    from amqpd.broker.virtual_host import VirtualHost


class RecentHistory(ExchangeMemory):
    """The messages, the oldest first, each with its number if it is journaled, otherwise 0."""

    KIND: ClassVar[str] = HistoryRecord.KIND

    __slots__ = ("_length", "_messages")

    def __init__(
        self, virtual_host: VirtualHost, exchange: str, arguments: Arguments, *, durable: bool
    ) -> None:
        super().__init__(virtual_host, exchange, durable=durable)
        self._length: int = arguments.get(LENGTH, ("I", LENGTH_DEFAULT))[1]
        self._messages: deque[tuple[int, Message]] = deque()

    def passes(self, message: Message, headers: Arguments) -> bool:
        """Every message passes."""
        if headers.get(NO_STORE) == ("t", True):
            return True
        number = 0
        if self._journaled and message.persistent:
            number = self._take_number()
            self._keep(self._record(number, message))
        self._messages.append((number, copy_of(message)))
        self._shorten()
        return True

    def take_back(self, headers: Arguments) -> None:
        """It stays: the history is of what was published."""

    def replay(self, destination: Queue | RoutingTable[Queue]) -> None:
        """A binding to a queue or an exchange is new: it gets what it has missed."""
        for _, message in list(self._messages):
            hand_on(self._virtual_host, copy_of(message), destination)

    def drop(self) -> None:
        for number, message in self._messages:
            if number:
                self._forget(self._record(number, message))
        self._messages.clear()

    def restore(self, record: HistoryRecord | SeenRecord) -> None:
        assert isinstance(record, HistoryRecord)
        target = target_of(record.envelope)
        message = make_message(0, target, record.properties, record.body, True, True)
        self._messages.append((record.number, message))
        self._next_number = record.number + 1

    def _shorten(self) -> None:
        while len(self._messages) > self._length:
            number, message = self._messages.popleft()
            if number:
                self._forget(self._record(number, message))

    def _record(self, number: int, message: Message) -> HistoryRecord:
        return HistoryRecord(
            vhost=self._virtual_host.name,
            exchange=self._exchange,
            number=number,
            envelope=message.envelope,
            properties=message.properties,
            body=message.keep(),
        )
