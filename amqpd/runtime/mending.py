"""Definitions that a broker can start with, out of those that could be saved.

What is missing is made again where messages or definitions need it, and told as lost: a virtual
host without its settings, a queue by the name of `recovered-ID`. What refers to something that is
gone for good (a binding to a lost exchange) is dropped, and told.
"""

from __future__ import annotations

from typing import Final

from amqpd.broker.definitions import (
    BindingRecord,
    ExchangeRecord,
    ParameterRecord,
    QueueRecord,
    Record,
    UserRecord,
    VhostRecord,
)
from amqpd.runtime.definitions_check import (
    DefinitionsCheck,
    check_records,
    decode_all,
    describe,
)
from amqpd.runtime.store_words import QueueNames, count_of, describe_lost, found_again
from amqpd.wire.tables import encode_table
from amqpd_exchanges.delayed import DELAYED_TYPE, DelayedExchange
from amqpd_storage.rescue import Rescued

RECOVERED_VHOST: Final = "/"
NO_ARGUMENTS: Final = encode_table({})


class Mended:
    """The definitions of the new store, and what became of those of the old one."""

    def __init__(self, rescued: Rescued) -> None:
        self.rescued = rescued
        self.notes: list[str] = []
        self.added: list[str] = []
        """What was lost as a definition, and had to be made again for what refers to it."""
        self.placeless_id = 0
        """The queue for messages whose queue nobody knows; 0 if there are none."""
        records, self._unreadable = decode_all(rescued.definitions)
        self._add_virtual_hosts(records)
        check = check_records(records)
        self._refused = check.refused
        records = self._with_queues(check)
        self.check = check_records(records)
        self._add_notes()

    def lost(self) -> list[str]:
        """What the new store does not have, and the old one had."""
        rescued = self.rescued
        names = QueueNames(self.check.queues)
        return [
            *describe_lost(rescued.lost, names),
            *(
                f"{names[rows.queue_id]}: {count_of(rows.messages, 'message')} at positions "
                f"{rows.first} to {rows.last}, whose contents were shared with other queues and "
                "are missing"
                for rows in rescued.dangling
            ),
            *self._unreadable,
            *(f"{describe(record)}: {reason}" for record, reason in self._refused),
            *self.added,
        ]

    def _add_virtual_hosts(self, records: list[Record]) -> None:
        known = {record.name for record in records if isinstance(record, VhostRecord)}
        needed = {
            record.vhost
            for record in records
            if isinstance(record, ParameterRecord | ExchangeRecord | QueueRecord | BindingRecord)
        }
        for name in sorted(needed - known):
            records.append(VhostRecord(name))
            self.added.append(f"virtual host {name!r}: made again, without its settings")

    def _with_queues(self, check: DefinitionsCheck) -> list[Record]:
        """The records, and a queue for every id that only messages name."""
        records = check.records
        rescued = self.rescued
        taken = {record.name for record in check.queues.values()}
        queue_ids = sorted(rescued.queues.keys() - check.queues.keys())
        if rescued.placeless:
            self.placeless_id = 1 + max([0, *rescued.queues, *check.queues])
            queue_ids.append(self.placeless_id)
        for queue_id in queue_ids:
            name = f"recovered-{queue_id}"
            while name in taken:
                name += "-again"
            taken.add(name)
            records.append(QueueRecord(RECOVERED_VHOST, name, False, NO_ARGUMENTS, queue_id))
            if queue_id == self.placeless_id:
                text = f"which are in queue {name!r} of virtual host '/' instead"
                self.added.append(f"the places of {count_of(rescued.placeless, 'message')}, {text}")
            else:
                held = count_of(rescued.queues[queue_id], "message")
                text = f"what it held, {held}, is in queue {name!r} of virtual host '/'"
                self.added.append(f"the definition of the queue with id {queue_id}: {text}")
        added_exchanges = self._add_exchanges(check, records)
        hosts = {record.name for record in records if isinstance(record, VhostRecord)}
        if (queue_ids or added_exchanges) and RECOVERED_VHOST not in hosts:
            records.append(VhostRecord(RECOVERED_VHOST))
            self.notes.append("virtual host '/' was made, for the queues that were recovered")
        return records

    def _add_exchanges(self, check: DefinitionsCheck, records: list[Record]) -> bool:
        """An exchange, and a queue bound to it, for every id that only delayed messages name."""
        lost = sorted(self.rescued.delays.keys() - check.delayed_exchanges.keys())
        queue_ids = {
            queue_id
            for record in records
            if isinstance(record, QueueRecord)
            for queue_id in record.lane_ids
        }
        taken = {record.name for record in records if isinstance(record, ExchangeRecord)}
        for exchange_id in lost:
            name = f"recovered-delayed-{exchange_id}"
            while name in taken:
                name += "-again"
            taken.add(name)
            queue_id = 1 + max(queue_ids, default=0)
            queue_ids.add(queue_id)
            records += [
                ExchangeRecord(
                    RECOVERED_VHOST,
                    name,
                    DelayedExchange.kind,
                    True,
                    False,
                    False,
                    encode_table({DELAYED_TYPE: ("S", "fanout")}),
                    exchange_id,
                ),
                QueueRecord(RECOVERED_VHOST, name, False, NO_ARGUMENTS, queue_id),
                BindingRecord(RECOVERED_VHOST, name, name, "queue", "", NO_ARGUMENTS),
            ]
            held = count_of(self.rescued.delays[exchange_id], "delayed message")
            text = f"{held} will come to queue {name!r} of virtual host '/'"
            self.added.append(f"the definition of the exchange with id {exchange_id}: {text}")
        return bool(lost)

    def _add_notes(self) -> None:
        self.notes += self.check.loose
        if not any(isinstance(record, UserRecord) for record in self.check.records):
            self.notes.append(
                "there is no user: start the broker with --definitions FILE that brings one"
            )
        if self.rescued.found_again:
            self.notes.append(found_again(self.rescued.found_again))
