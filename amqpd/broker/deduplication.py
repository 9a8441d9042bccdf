"""The memory of a deduplication exchange: the headers it has seen lately."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, Final

from amqpd.broker.definitions import HistoryRecord, SeenRecord
from amqpd.broker.exchange_memory import ExchangeMemory
from amqpd.commands import Arguments, Field, Message
from amqpd_exchanges.deduplication import CACHE_PERSISTENCE, CACHE_SIZE, CACHE_TTL
from amqpd_exchanges.fields import comparable
from amqpd_exchanges.recording import INTEGERS, decimal

if TYPE_CHECKING:
    from amqpd.broker.virtual_host import VirtualHost

HEADER: Final = "x-deduplication-header"
SHOWN_OCTETS_MAX: Final = 64
"""A header that is shown at greater length is remembered by its digest."""


def header_text(field: Field) -> str:
    """Equal for two headers that mean the same: 42 of any integer type, but not "42" or 42.0."""
    shown = repr(comparable(field))
    if len(shown) <= SHOWN_OCTETS_MAX:
        return shown
    return blake2b(shown.encode(), digest_size=SHOWN_OCTETS_MAX // 2).hexdigest()


class Deduplication(ExchangeMemory):
    """Headers in the order in which they came, each with its number and when it is forgotten."""

    KIND: ClassVar[str] = SeenRecord.KIND

    __slots__ = ("_arguments", "_may_journal", "_seen", "_size", "_ttl_ms")

    def __init__(
        self, virtual_host: VirtualHost, exchange: str, arguments: Arguments, *, durable: bool
    ) -> None:
        super().__init__(virtual_host, exchange, durable=durable)
        self._arguments = arguments
        self._may_journal = self._journaled
        self._size = 1
        self._ttl_ms: int | None = None
        # Not a dict: the way to the first key of that leads past the traces of all that were first.
        self._seen: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self.apply_policies({})

    @property
    def entries(self) -> int:
        """How many headers are remembered."""
        return len(self._seen)

    @property
    def size(self) -> int:
        """How many may be."""
        return self._size

    def passes(self, message: Message, headers: Arguments) -> bool:
        """Whether no message with its header has passed lately. Without a header it passes."""
        field = headers.get(HEADER)
        if field is None:
            return True
        header = header_text(field)
        now_ms = self._effects.epoch_ms()
        if header in self._seen:
            expires_ms = self._seen[header][1]
            if not 0 < expires_ms <= now_ms:
                return False
            del self._seen[header]
        self._make_room(now_ms)
        octet, ttl_ms = headers.get(CACHE_TTL, ("I", self._ttl_ms))
        if octet not in INTEGERS:
            ttl_ms = self._ttl_ms
        number, expires_ms = self._take_number(), 0 if ttl_ms is None else max(1, now_ms + ttl_ms)
        self._seen[header] = (number, expires_ms)
        if self._journaled:
            self._keep(self._record(header, number, expires_ms))
        return True

    def apply_policies(self, definition: Mapping[str, Any]) -> None:
        """As in the plug-in, a policy wins over the arguments."""
        size_max = self._virtual_host.broker.limits.deduplication_cache_max
        size = definition.get(CACHE_SIZE) or decimal(self._arguments[CACHE_SIZE]) or 1
        self._size = min(size, size_max)
        declared_ttl = self._arguments.get(CACHE_TTL)
        declared_ttl_ms = None if declared_ttl is None else decimal(declared_ttl)
        self._ttl_ms = definition.get(CACHE_TTL, declared_ttl_ms)
        _, persistence = self._arguments.get(CACHE_PERSISTENCE, ("S", "disk"))
        self._keep_on_disk(definition.get(CACHE_PERSISTENCE, persistence) != "memory")
        while len(self._seen) > self._size:
            self._remove(next(iter(self._seen)))

    def _keep_on_disk(self, wanted: bool) -> None:
        """From now on, and what it remembers already."""
        journals = wanted and self._may_journal
        if journals == self._journaled:
            return
        self._journaled = journals
        for header, (number, expires_ms) in self._seen.items():
            record = self._record(header, number, expires_ms)
            if journals:
                self._keep(record)
            else:
                self._forget(record)

    def take_back(self, headers: Arguments) -> None:
        if HEADER in headers:
            self._remove(header_text(headers[HEADER]))

    def drop(self) -> None:
        for header in list(self._seen):
            self._remove(header)

    def restore(self, record: HistoryRecord | SeenRecord) -> None:
        assert isinstance(record, SeenRecord)
        self._seen[record.header] = (record.number, record.expires_ms)
        self._next_number = record.number + 1

    def _make_room(self, now_ms: int) -> None:
        """For one more: what has expired goes, and the oldest if there is too much still.

        Those in front expire first, unless messages have times of their own; these wait until they
        are in front, or come again.
        """
        while self._seen:
            header, (_, expires_ms) = next(iter(self._seen.items()))
            if len(self._seen) < self._size and not 0 < expires_ms <= now_ms:
                break
            self._remove(header)

    def _remove(self, header: str) -> None:
        number, expires_ms = self._seen.pop(header)
        if self._journaled:
            self._forget(self._record(header, number, expires_ms))

    def _record(self, header: str, number: int, expires_ms: int) -> SeenRecord:
        return SeenRecord(
            vhost=self._virtual_host.name,
            exchange=self._exchange,
            header=header,
            number=number,
            expires_ms=expires_ms,
        )
