"""`amqpd serve`: from settings to a broker that answers, and back to nothing.

Whatever keeps it from starting is one line on standard error that says what, where and what to do,
with an exit code of sysexits.h.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

import anyio
from anyio.abc import TaskGroup

from amqpd.broker.broker import Broker
from amqpd.broker.definitions import VhostRecord
from amqpd.config import Config
from amqpd.exit_codes import (
    EX_CANTCREAT,
    EX_CONFIG,
    EX_DATAERR,
    EX_FORCED,
    EX_IOERR,
    EX_NOINPUT,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
)
from amqpd.runtime import busy_wait, giving_way, http_listener
from amqpd.runtime.backoff import Backoff
from amqpd.runtime.build import is_compiled
from amqpd.runtime.clock import MonotonicClock
from amqpd.runtime.definitions_file import DefinitionsError
from amqpd.runtime.delay_reader import DelayReader
from amqpd.runtime.journal_writer import JournalWriter
from amqpd.runtime.links import run_links
from amqpd.runtime.listen_advice import cannot_listen
from amqpd.runtime.logs import configure_logging
from amqpd.runtime.memory import keep_for_the_next_turn
from amqpd.runtime.pager import Pager
from amqpd.runtime.recovery import recover
from amqpd.runtime.resources import ResourceMonitor
from amqpd.runtime.server import (
    SHUTDOWN_REASON,
    Server,
    describe_platform,
    import_definitions,
    make_broker,
    read_definitions,
)
from amqpd.runtime.settings import OFF, ConfigError, data_directory, near_misses, parse_address
from amqpd.runtime.stop_signals import StopSignals
from amqpd_storage.errors import (
    DamagedStore,
    JournalFailed,
    StoreError,
    StoreLocked,
    StoreTooNew,
    StoreUnwritable,
)
from amqpd_storage.sqlite_engine import SQLiteStore, open_store

logger = logging.getLogger("amqpd.server")


STORE_EXITS: Final[tuple[tuple[type[StoreError], int], ...]] = (
    (StoreLocked, EX_TEMPFAIL),
    (StoreUnwritable, EX_CANTCREAT),
    (StoreTooNew, EX_CONFIG),
    (DamagedStore, EX_DATAERR),
    (JournalFailed, EX_IOERR),
)

SWITCH_INTERVAL_S: Final = 0.0005
"""How long the event loop may keep the interpreter from the journal's thread (Python: 5 ms)."""


GC_THRESHOLDS: Final = (50_000, 20, 50)
"""Messages form no cycles: the collector looks for those of closed connections, and need not do so
every 700 objects (Python's default), which took a fifth of the time under load."""


class Refused(Exception):
    """The broker cannot start, or cannot go on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def serve(config: Config) -> int:
    """Run a broker until it is told to stop; the exit code."""
    configure_logging(config.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)
    gc.freeze()
    keep_for_the_next_turn()
    allow_many_files()
    for warning in near_misses(os.environ):
        logger.warning(warning)
    try:
        anyio.run(run, config, backend="asyncio", backend_options={"use_uvloop": _has_uvloop()})
    except BaseExceptionGroup as group:
        known = group.subgroup((Refused, ConfigError))
        if known is None:
            raise
        refused = _first(known)
        assert isinstance(refused, Refused | ConfigError)
        return _report(refused)
    except (Refused, ConfigError) as refused:
        return _report(refused)
    except KeyboardInterrupt:
        return EX_FORCED
    return 0


async def run(config: Config) -> None:
    """Open the store, recover, listen, wait for a signal, drain."""
    began = time.monotonic()
    if config.in_memory:
        broker = make_broker(config, MonotonicClock(), journaling=False)
        await run_server(config, broker, None, began)
        return
    try:
        async with await _open(config) as store:
            # Not before: the directory, and this file, may belong to a broker that runs.
            remove_ready_file(config)
            broker = make_broker(config, MonotonicClock(), journaling=True)
            with collector_resting():
                count = await recover(broker, store)
            if count:
                logger.info("messages recovered", extra={"count": count})
            await run_server(config, broker, store, began)
    except StoreError as error:
        raise _refusal(error) from error


async def _open(config: Config) -> SQLiteStore:
    """The store. Raises StoreError, Refused."""
    directory = data_directory(config)
    if directory.is_file():
        text = f"{directory} is a file: choose a directory with --data-dir"
        raise Refused(text, EX_CANTCREAT)
    try:
        return await open_store(directory, config.durability)
    except (DamagedStore, StoreTooNew):
        remove_ready_file(config)  # nobody else has the directory: it is of a broker that is gone
        raise


@contextmanager
def collector_resting() -> Iterator[None]:
    """For a start: what is made meanwhile is there to stay. A hundred thousand queues are some
    million objects, which the collector would look at again and again, now and for ever."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


async def run_server(
    config: Config, broker: Broker, store: SQLiteStore | None, began: float
) -> None:
    """Serve clients until told to stop."""
    server = Server(config, broker)
    directory = None if store is None else store.path.parent
    look_before_sleeping(server)
    give_way_between_reads(server)
    prepare(config, broker)
    async with anyio.create_task_group() as tasks, journaling(server, store, tasks):
        # From here on a signal is an orderly stop. Before, it may end the process as it likes.
        signals = StopSignals()
        signals.watch()
        tasks.start_soon(server.run_timers)
        tasks.start_soon(ResourceMonitor(server, directory).run)
        async with anyio.create_task_group() as listeners:
            await _listen(server, listeners)
            http = _bind_management(server)
            if store is None:  # without a directory, an address is what only one broker has
                remove_ready_file(config)
            if config.ready_file is not None:
                with _explained_ready_file(config.ready_file):
                    server.write_ready_file()
            _greet(server, directory, began)
            if http:
                listeners.start_soon(http_listener.run, server, http, directory)
            listeners.start_soon(run_links, server)
            number = await signals.first()
            logger.info("stopping", extra={"signal": number.name})
            listeners.cancel_scope.cancel()
        await drain(server)
        tasks.cancel_scope.cancel()


def look_before_sleeping(server: Server) -> None:
    """As the settings say, where other processes need not wait for that."""
    longest_s = server.limits.busy_wait_s
    if longest_s and busy_wait.is_possible():
        loop = asyncio.get_running_loop()
        server.turns.busy_wait = busy_wait.BusyWait(loop, server.clock.now, longest_s)


def give_way_between_reads(server: Server) -> None:
    """Of large bodies, if the system can do that."""
    if giving_way.is_possible():
        server.turns.giving_way = giving_way.GivingWay(server.clock.now)


def prepare(config: Config, broker: Broker) -> None:
    """What an empty broker begins with, and what the definitions file adds at every start."""
    is_new = not broker.virtual_hosts
    file = None
    if config.definitions is not None:
        try:
            file = read_definitions(broker, Path(config.definitions))
        except DefinitionsError as error:
            raise Refused(f"{error}; correct the file", EX_DATAERR) from error
        except OSError as error:
            text = f"cannot read {config.definitions} ({error.strerror}): "
            text += "give a file that is there with --definitions"
            raise Refused(text, EX_NOINPUT) from error
    if is_new:
        # As in RabbitMQ, who brings users of his own does not get a guest as well.
        if file is None or not file.users:
            broker.add_defaults()
        elif not file.vhosts:
            broker.add_virtual_host(VhostRecord(name=config.default_vhost))
    else:
        warn_of_defaults(config, broker)
    if file is not None:
        try:
            import_definitions(broker, file, Path(config.definitions or ""))
        except DefinitionsError as error:
            raise Refused(f"{error}; correct the file", EX_DATAERR) from error


def warn_of_defaults(config: Config, broker: Broker) -> None:
    """Who sets a first user for a store that has users waits for a login that never works."""
    named = config.default_user, config.default_pass, config.default_vhost
    if named == (Config().default_user, Config().default_pass, Config().default_vhost):
        return
    user = broker.access.authenticate(config.default_user, config.default_pass.encode())
    if user is None or config.default_vhost not in broker.virtual_hosts:
        logger.warning(
            "default_user, default_pass and default_vhost have no effect: the store is not new",
            extra={"user": config.default_user, "vhost": config.default_vhost},
        )


@asynccontextmanager
async def journaling(
    server: Server, store: SQLiteStore | None, tasks: TaskGroup
) -> AsyncIterator[None]:
    """Keep the journal written while the broker runs, and once more when it stops."""
    if store is None:
        yield
        return
    limits = server.limits
    pauses = limits.disk_full_retry_s, limits.disk_error_retry_max_s
    writer = JournalWriter(
        server.broker,
        store,
        finish_turn=server.turns.finish,
        on_trouble=partial(server.set_disk_trouble, "the journal can be written"),
        bytes_max=limits.unwritten_bytes_max,
        retry_s=limits.disk_full_retry_s,
        retry_max_s=limits.disk_error_retry_max_s,
    )
    reader = DelayReader(
        store,
        server.turns.finish,
        partial(server.set_disk_trouble, "delayed messages can be read"),
        Backoff(*pauses),
    )
    server.attach_journal(writer)
    pager = Pager(
        store,
        server.turns.finish,
        partial(server.set_disk_trouble, "messages can be read"),
        Backoff(*pauses),
    )
    server.turns.pager = pager
    server.turns.delay_reader = reader
    # What was made before anybody could connect (defaults, definitions) is safe before they can.
    server.turns.finish()
    try:
        try:
            await writer.flush()
            tasks.start_soon(_run_writer, writer)
            tasks.start_soon(_run_pager, pager)
            tasks.start_soon(_run_reader, reader)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await writer.settle()
    except StoreError as error:
        raise _refusal(error) from error


async def _run_writer(writer: JournalWriter) -> None:
    try:
        await writer.run()
    except StoreError as error:
        logger.critical("the journal cannot be written: stopping", extra={"reason": str(error)})
        raise _refusal(error) from error


async def _run_pager(pager: Pager) -> None:
    try:
        await pager.run()
    except StoreError as error:
        logger.critical("messages cannot be read: stopping", extra={"reason": str(error)})
        raise _refusal(error) from error


async def _run_reader(reader: DelayReader) -> None:
    try:
        await reader.run()
    except StoreError as error:
        logger.critical("the store cannot be read: stopping", extra={"reason": str(error)})
        raise _refusal(error) from error


async def _listen(server: Server, listeners: TaskGroup) -> None:
    try:
        await server.listen(listeners)
    except OSError as error:
        text = cannot_listen(error.filename, error.filename2, error)
        raise Refused(text, EX_UNAVAILABLE) from error


def _bind_management(server: Server) -> list[socket.socket]:
    """The HTTP API's sockets: none if it is off."""
    if server.config.management == OFF:
        return []
    address = parse_address(server.config.management)
    try:
        bound = http_listener.bind(address)
    except OSError as error:
        text = cannot_listen(f"{address} for the HTTP API", "--management", error)
        raise Refused(f"{text}; `--management off` does without it", EX_UNAVAILABLE) from error
    server.addresses["management"] += [http_listener.shown(listening) for listening in bound]
    return bound


async def drain(server: Server) -> None:
    """Return when the clients are gone or given up on."""
    server.close_connections(SHUTDOWN_REASON)
    with anyio.move_on_after(server.limits.shutdown_s) as patience:
        await server.wait_until_empty()
    if patience.cancelled_caught:
        logger.warning("some clients did not close their connections and were dropped")


@contextmanager
def _explained_ready_file(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = f"cannot write {name} ({error.strerror}): choose another place with --ready-file"
        raise Refused(text, EX_CANTCREAT) from error


def remove_ready_file(config: Config) -> None:
    """Nobody must take that of a broker that was killed for ours."""
    if config.ready_file is not None:
        with _explained_ready_file(config.ready_file):
            Path(config.ready_file).unlink(missing_ok=True)


def allow_many_files() -> None:
    """Each client is a file: take as many as the system lets this user have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has further limits of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _greet(server: Server, directory: Path | None, began: float) -> None:
    """The first lines: for a person on a terminal, and for scripts that wait for the words."""
    amqp = server.addresses["amqp"] + server.addresses["amqps"]
    logger.info(
        "Server startup complete",
        extra={
            "amqp": ",".join(server.addresses["amqp"]) or "off",
            "amqps": ",".join(server.addresses["amqps"]) or "off",
            "management": ",".join(server.addresses["management"]) or "off",
            "compat": server.config.compat,
            "data": directory or "in memory",
            "build": "compiled" if is_compiled() else "plain Python",
            "ready_ms": round((time.monotonic() - began) * 1000),
            "platform": describe_platform(),
        },
    )
    if sys.stdout.isatty():
        user = _shown_user(server)
        scheme = "amqp" if server.addresses["amqp"] else "amqps"
        print(f"AMQP   {scheme}://{user}:***@{amqp[0]}/")
        management = server.addresses["management"]
        print(f"HTTP   {f'http://{management[0]}/api/' if management else 'off'}")
        print(f"Data   {directory or 'in memory: gone when the broker stops'}")
        print("Stop   Ctrl-C", flush=True)


def _shown_user(server: Server) -> str:
    """Somebody who is there: the first user, if the store still has it."""
    access, user = server.broker.access, server.config.default_user
    if access.user(user) is None:
        user = next((each.name for each in access.users()), "USER")
    return quote(user, safe="")


def _refusal(error: StoreError) -> Refused:
    for kind, exit_code in STORE_EXITS:
        if isinstance(error, kind):
            return Refused(str(error), exit_code)
    return Refused(str(error), EX_IOERR)


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _report(refused: Refused | ConfigError) -> int:
    print(f"amqpd: {refused}", file=sys.stderr)
    return refused.exit_code


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True
