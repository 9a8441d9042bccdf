"""`amqpd definitions export` and `import`: the definitions of a store that no broker has open.

What they say goes to standard output; what keeps them from their work is one line on standard
error, with an exit code of sysexits.h.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from amqpd.broker.broker import Broker
from amqpd.broker.definitions_export import export_definitions, export_vhost_definitions
from amqpd.broker.parameters import NoSuchVhost
from amqpd.exit_codes import EX_CANTCREAT, EX_DATAERR, EX_NOINPUT
from amqpd.runtime.clock import MonotonicClock
from amqpd.runtime.definitions_file import DefinitionsError, load_definitions
from amqpd.runtime.definitions_import import DefinitionsImport
from amqpd.runtime.journal_writer import JournalWriter
from amqpd.runtime.maintenance import STANDARD_OUTPUT, directory_of, explained, store_in
from amqpd.runtime.recovery import recover
from amqpd.runtime.server import make_broker
from amqpd.runtime.settings import read_config
from amqpd_storage.sqlite_engine import SQLiteStore, open_store

STANDARD_INPUT: Final = "-"


def export(data_dir: str | None, vhost: str | None, file: str, *, force: bool = False) -> int:
    """Write the definitions of a store, or of one of its virtual hosts, as JSON."""
    if file != STANDARD_OUTPUT and not force and Path(file).is_file():
        print(f"amqpd: {file} exists: name another FILE, or give --force", file=sys.stderr)
        return EX_CANTCREAT
    return explained(lambda: anyio.run(_export, data_dir, vhost, file))


def import_(data_dir: str | None, vhost: str | None, file: str, *, dry_run: bool) -> int:
    """Apply a definitions file to a store, wholly or not at all, or say what that would change."""

    def run() -> int:
        try:
            text = _standard_input() if file == STANDARD_INPUT else Path(file).read_bytes()
        except OSError as error:
            what = f"cannot read {file} ({error.strerror})"
            print(f"amqpd: {what}: give another FILE", file=sys.stderr)
            return EX_NOINPUT
        name = "standard input" if file == STANDARD_INPUT else file
        return anyio.run(partial(_import, dry_run=dry_run), data_dir, vhost, name, text)

    return explained(run)


def _standard_input() -> bytes:
    # By its number: Python has no `sys.stdin` where it is closed.
    with open(0, "rb", closefd=False) as stream:
        return stream.read()


@asynccontextmanager
async def _opened(data_dir: str | None) -> AsyncIterator[tuple[Broker, SQLiteStore]]:
    """The broker of a store, to be asked and changed. Raises StoreError."""
    directory = directory_of(data_dir)
    store_in(directory)  # nothing is made where there is no store
    async with await open_store(directory, "full") as store:
        broker = make_broker(read_config({}, None), MonotonicClock(), journaling=True)
        await recover(broker, store)
        yield broker, store


async def _export(data_dir: str | None, vhost: str | None, file: str) -> int:
    async with _opened(data_dir) as (broker, _):
        try:
            definitions = (
                export_definitions(broker)
                if vhost is None
                else export_vhost_definitions(broker, vhost)
            )
        except NoSuchVhost as error:
            print(f"amqpd: {error}", file=sys.stderr)
            return EX_DATAERR
    text = json.dumps(definitions, indent=2, ensure_ascii=False) + "\n"
    if file == STANDARD_OUTPUT:
        sys.stdout.write(text)
    else:
        try:
            write_for_owner(Path(file), text)
        except OSError as error:
            why = error.strerror or str(error)
            print(f"amqpd: cannot write {file} ({why}): choose another FILE", file=sys.stderr)
            return EX_CANTCREAT
    return 0


def write_for_owner(path: Path, text: str) -> None:
    """A file that nobody else reads, whole or not at all: it has the hashes of passwords.

    Where a symlink stands, it is made where that leads to. Raises OSError.
    """
    if path.exists() and not path.is_file():  # a device or a pipe is written to, not replaced
        path.write_text(text, encoding="utf-8")
        return
    path = Path(os.path.realpath(path))
    # mkstemp makes it with mode 0600.
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
    unfinished = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(text)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


async def _import(
    data_dir: str | None, vhost: str | None, name: str, text: bytes, *, dry_run: bool
) -> int:
    async with _opened(data_dir) as (broker, store):
        try:
            file = load_definitions(text, name, broker.config.default_vhost, vhost)
            importing = DefinitionsImport(broker, file, name)
            changes = importing.check() if dry_run else importing.apply()
        except DefinitionsError as error:
            print(f"amqpd: {error}; nothing was changed, correct the file", file=sys.stderr)
            return EX_DATAERR
        if not dry_run:
            await _keep(broker, store)
    for warning in importing.warnings:
        print(f"warning: {warning}")
    for change in changes:
        print(f"would {change}" if dry_run else change)
    if not changes:
        print("nothing to change")
    return 0


async def _keep(broker: Broker, store: SQLiteStore) -> None:
    """All changes in one transaction. Raises JournalFailed."""
    writer = JournalWriter(
        broker,
        store,
        finish_turn=lambda: None,
        on_trouble=lambda error: None,
        bytes_max=broker.limits.unwritten_bytes_max,
        retry_s=broker.limits.disk_full_retry_s,
        retry_max_s=broker.limits.disk_error_retry_max_s,
    )
    writer.append(broker.finish_turn())
    await writer.settle()
