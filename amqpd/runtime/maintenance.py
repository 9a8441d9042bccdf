"""`amqpd doctor`, `recover`, `backup` and `restore`: a store without its broker, or beside it.

What they say goes to standard output; what keeps them from their work is one line on standard
error, with an exit code of sysexits.h. None of them changes the store it is asked about.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from amqpd.broker.definitions import ExchangeRecord, QueueRecord, encode
from amqpd.command_output import written
from amqpd.exit_codes import (
    EX_CANTCREAT,
    EX_CONFIG,
    EX_DATAERR,
    EX_NOINPUT,
    EX_TEMPFAIL,
    EX_USAGE,
)
from amqpd.runtime.definitions_check import (
    DefinitionsCheck,
    check_records,
    decode_all,
    describe,
)
from amqpd.runtime.mending import Mended
from amqpd.runtime.settings import ConfigError, data_directory, named_path, read_config
from amqpd.runtime.store_words import (
    QueueNames,
    count_of,
    describe_lost,
    found_again,
    left_over,
    print_lines,
    show_bytes,
    show_name,
)
from amqpd_storage.backup import back_up, empty_directory
from amqpd_storage.backup import restore as restore_store
from amqpd_storage.doctor import Examination, QueueContent, examine
from amqpd_storage.errors import (
    DamagedStore,
    StoreError,
    StoreLocked,
    StoreMissing,
    StoreTooNew,
    StoreUnreadable,
    StoreUnwritable,
    TargetTaken,
)
from amqpd_storage.ownership import unowned
from amqpd_storage.presence import is_there
from amqpd_storage.rescue import new_store, place, put_definitions, rescue
from amqpd_storage.salvage import Salvage
from amqpd_storage.sqlite_file import FILE_NAME
from amqpd_storage.sqlite_log import log_of

EXITS: Final[tuple[tuple[type[StoreError], int], ...]] = (
    (StoreLocked, EX_TEMPFAIL),
    (StoreMissing, EX_NOINPUT),
    (StoreUnreadable, EX_NOINPUT),
    (StoreTooNew, EX_CONFIG),
    (DamagedStore, EX_DATAERR),
    (TargetTaken, EX_CANTCREAT),
    (StoreError, EX_CANTCREAT),
)

STANDARD_OUTPUT: Final = "-"

KINDS: Final = {
    "vhost": "virtual host",
    "user": "user",
    "permission": "permission",
    "topic_permission": "topic permission",
    "parameter": "parameter",
    "global_parameter": "global parameter",
    "exchange": "exchange",
    "queue": "queue",
    "binding": "binding",
    "history": "kept message",
    "seen": "seen header",
}


# -- the commands: what they return is the exit code


def doctor(data_dir: str | None) -> int:
    """Say what is whole in a store that no broker has open."""
    return explained(lambda: _doctor(directory_of(data_dir)))


def recover(data_dir: str | None, into: str) -> int:
    """Save what can be read in a store into a new directory."""
    return explained(lambda: _recover(directory_of(data_dir), Path(into)))


def backup(data_dir: str | None, file: str, *, force: bool) -> int:
    """Copy a store, of a running broker or a stopped one, into a file."""
    if file == STANDARD_OUTPUT:
        why = "a backup is checked before it is there, which standard output cannot be"
        print(f"amqpd: {why}: name a FILE", file=sys.stderr)
        return EX_USAGE

    def run() -> int:
        directory = directory_of(data_dir)
        try:
            size = back_up(directory, Path(file), force=force)
        except StoreUnwritable as error:
            if error.path != Path(file):
                raise
            why = f"cannot write {file} ({error.reason})"
            print(f"amqpd: {why}: choose another FILE, or make room for it", file=sys.stderr)
            return EX_CANTCREAT
        print(f"{file}: a backup of {directory}, {show_bytes(size)}")
        return 0

    return explained(run)


def restore(file: str, data_dir: str) -> int:
    """Put a backup into a new directory."""

    def run() -> int:
        size = restore_store(Path(file), Path(data_dir))
        print(f"{data_dir}: restored from {file}, {show_bytes(size)}")
        return 0

    return explained(run)


def explained(run: Callable[[], int]) -> int:
    """Run a command; what keeps it from its work becomes a line on standard error."""

    def explaining() -> int:
        try:
            return run()
        except ConfigError as error:
            print(f"amqpd: {error}", file=sys.stderr)
            return error.exit_code
        except StoreError as error:
            print(f"amqpd: {error}", file=sys.stderr)
            return next(code for kind, code in EXITS if isinstance(error, kind))

    return written(explaining)


def directory_of(data_dir: str | None) -> Path:
    """As `amqpd serve` finds it; with the flag, no other setting has a say."""
    if data_dir is not None:
        return named_path(data_dir)
    config = read_config({}, None)
    if config.in_memory:
        raise ConfigError("the settings say in_memory, which has no store: give --data-dir DIR")
    return data_directory(config)


def store_in(directory: Path) -> Path:
    """The store's file. Raises StoreMissing, StoreUnreadable."""
    path = directory / FILE_NAME
    try:
        if not (is_there(path) or is_there(log_of(path))):
            raise StoreMissing(path, "name the broker's data directory with --data-dir")
    except OSError as error:
        raise StoreUnreadable(path, error) from error
    return path


# -- doctor


def _doctor(directory: Path) -> int:
    with unowned(directory):
        found = examine(store_in(directory))
    records, unreadable = decode_all(found.definitions)
    check = check_records(records)
    names = QueueNames(check.queues)
    damage = [
        *found.problems,
        *describe_lost(found.lost, names),
        *unreadable,
        *(f"{describe(record)}: {reason}" for record, reason in check.refused),
        *(
            f"{names[queue_id]}: {count_of(queue.dangling, 'message')} lost, whose contents "
            "were shared with other queues and are missing"
            for queue_id, queue in sorted(found.queues.items())
            if queue.dangling
        ),
        *(
            f"{names[queue_id]}: {count_of(queue.messages, 'message')}, and no queue"
            for queue_id, queue in sorted(found.queues.items())
            if queue_id not in check.queues
        ),
        *(
            f"delayed exchange with id {exchange_id}: {count_of(delays.messages, 'message')}, "
            "and no exchange"
            for exchange_id, delays in sorted(found.delays.items())
            if exchange_id not in check.delayed_exchanges
        ),
    ]
    _print_store(found)
    _print_definitions(check)
    _print_contents("queue", found.queues, check.queues)
    _print_contents("delayed exchange", found.delays, check.delayed_exchanges)
    print_lines("note:", _notes(found, check))
    if not damage:
        print("whole: nothing is wrong with this store")
        return 0
    print_lines("damaged:", damage)
    print(
        f"damaged: `amqpd recover --data-dir {shlex.quote(str(directory))} --into NEWDIR` saves "
        "what can be read into a new directory"
    )
    return EX_DATAERR


def _print_store(found: Examination) -> None:
    log = f", write-ahead log {show_bytes(found.log_bytes)}" if found.log_bytes else ""
    print(f"{found.path}: {show_bytes(found.file_bytes)}{log}")
    version = found.meta.get("schema_version", "unknown")
    print(f"store version {version}, created {found.meta.get('created', 'nobody knows when')}")


def _print_definitions(check: DefinitionsCheck) -> None:
    counts = Counter(type(record).KIND for record in check.records)
    words = [count_of(counts[kind], word) for kind, word in KINDS.items() if counts[kind]]
    print("definitions: " + (", ".join(words) or "none"))


def _print_contents(
    title: str,
    contents: dict[int, QueueContent],
    records: Mapping[int, QueueRecord | ExchangeRecord],
) -> None:
    """A table of what each of them holds. A queue with priorities has an id for each level."""
    if not records:
        return
    sums = {(record.vhost, record.name): [0, 0] for record in records.values()}
    for number, record in records.items():
        if content := contents.get(number):
            held = sums[record.vhost, record.name]
            held[0] += content.messages
            held[1] += content.body_bytes
    rows = [(title, "vhost", "messages", "bytes")]
    for (vhost, name), (count, size) in sorted(sums.items()):
        rows.append((show_name(name), show_name(vhost), str(count), str(size)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = zip(row, "<<>>", widths, strict=True)
        print("  ".join(f"{cell:{side}{width}}" for cell, side, width in cells).rstrip())


def _notes(found: Examination, check: DefinitionsCheck) -> list[str]:
    notes = list(check.loose)
    if found.unreferenced:
        notes.append(left_over(found.unreferenced, "shared message"))
    if found.found_again:
        notes.append(found_again(found.found_again))
    if marks := found.marked - check.queues.keys():
        notes.append(left_over(len(marks), "mark of deliveries", "marks of deliveries"))
    return notes


# -- recover


def _recover(directory: Path, into: Path) -> int:
    with unowned(directory):
        path = store_in(directory)
        if into.resolve().is_relative_to(directory.resolve()):
            raise TargetTaken(into, f"lies in {directory}, which stays as it is", "name another")
        salvage = Salvage(path)
        try:
            with empty_directory(into) as target, new_store(target) as connection:
                rescued = rescue(salvage, connection)
                mended = Mended(rescued)
                if mended.placeless_id:
                    place(connection, mended.placeless_id)
                put_definitions(connection, [encode(record) for record in mended.check.records])
        finally:
            salvage.close()
    lost = mended.lost()
    count = sum(rescued.queues.values()) + rescued.placeless
    kinds = Counter(type(record).KIND for record in mended.check.records)
    messages, queues = count_of(count, "message"), count_of(kinds["queue"], "queue")
    waiting = sum(rescued.delays.values())
    delayed = f", {count_of(waiting, 'delayed message')}" if waiting else ""
    print(f"{into}: {messages} in {queues}{delayed}")
    _print_definitions(mended.check)
    print_lines("note:", mended.notes)
    if not lost:
        print(f"nothing was lost; {directory} is unchanged")
        return 0
    print_lines("lost:", lost)
    print(f"lost: what is listed above; {directory} is unchanged")
    return EX_DATAERR
