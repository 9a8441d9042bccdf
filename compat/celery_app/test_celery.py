"""What users of Celery rely on, with real workers in processes of their own.

`scenario` is app.py beside this file, imported under the environment that the runner sets.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import app as scenario
import pytest
from amqp.exceptions import MessageNacked
from celery import chain, chord, group
from celery.events.receiver import EventReceiver
from celery.events.state import State
from celery.exceptions import TaskRevokedError
from kombu.exceptions import DecodeError, OperationalError

from compat.cutting_proxy import CuttingProxy

PATIENCE_SECONDS = 60.0
RUN, HOME = scenario.RUN, scenario.HOME


def result(asynchronous: Any) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return asynchronous.get(timeout=PATIENCE_SECONDS, interval=0.02)
        except DecodeError:  # The file is written where it is read.
            if time.monotonic() > deadline:
                raise


def until(done: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := done()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return value


class Worker:
    """A worker process, in this one's process group: what stops a run stops its workers, too."""

    def __init__(self, queues: str, *options: str, **env: str) -> None:
        self.name = f"{uuid.uuid4().hex[:8]}@scenario"
        log = HOME / f"worker-{self.name}.log"
        line = [sys.executable, "-m", "celery", "-A", "app", "worker", "-n", self.name]
        line += ["-Q", queues, "--loglevel", "INFO", "--without-mingle", *options]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                line,
                cwd=Path(__file__).parent,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        until(lambda: b" ready." in log.read_bytes(), "the worker")

    def inspect(self) -> Any:
        return scenario.app.control.inspect(
            destination=[self.name], timeout=PATIENCE_SECONDS, limit=1
        )

    def kill(self) -> None:
        """At once and with its children: no goodbye to the broker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = children.read_text().split() if children.exists() else []
        self.process.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)

    def stop(self) -> int:
        """Warm shutdown; the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE_SECONDS)
        finally:
            self.kill()


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    worker = Worker(f"{RUN},{RUN}.media,{RUN}.all", "--concurrency", "2")
    yield worker
    assert worker.stop() == 0


@pytest.fixture
def queue() -> Iterator[str]:
    """A queue for a worker of the test's own, deleted at the end."""
    name = f"{RUN}.{uuid.uuid4().hex[:8]}"
    yield name
    with scenario.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete(name)
        channel.exchange_delete(name)


pytestmark = pytest.mark.usefixtures("worker")


def test_a_hundred_tasks() -> None:
    pending = [scenario.add.delay(n, n) for n in range(100)]
    assert [result(p) for p in pending] == [n + n for n in range(100)]


def test_a_large_argument() -> None:
    text = "x" * 2_000_000
    assert result(scenario.echo.delay(text)) == text


def test_a_failure() -> None:
    with pytest.raises(ValueError, match="no good"):
        result(scenario.fail.delay("no good"))


def test_countdown() -> None:
    begun = time.time()
    assert result(scenario.when.apply_async(countdown=1)) - begun >= 1.0


def test_eta() -> None:
    eta = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    assert result(scenario.when.apply_async(eta=eta)) >= eta.timestamp()


def test_many_etas_at_once() -> None:
    """Each raises the worker's prefetch count while it waits."""
    pending = [scenario.add.apply_async((n, 1), countdown=1) for n in range(20)]
    assert [result(p) for p in pending] == [n + 1 for n in range(20)]


def test_expired() -> None:
    with pytest.raises(TaskRevokedError):
        result(scenario.add.apply_async((1, 1), countdown=1, expires=0.2))


def test_retries() -> None:
    assert result(scenario.succeed_at.delay(3)) == 3


def test_chain() -> None:
    assert result(chain(scenario.add.s(1, 2), scenario.add.s(3), scenario.add.s(4))()) == 10


def test_group() -> None:
    assert result(group(scenario.add.s(n, n) for n in range(10))()) == [2 * n for n in range(10)]


def test_chord() -> None:
    work = chord([scenario.add.s(n, n) for n in range(10)], scenario.total.s())
    assert result(work()) == 90


def test_chord_in_a_chain() -> None:
    work = chain(
        group(scenario.add.s(n, 1) for n in range(3)), scenario.total.s(), scenario.add.s(100)
    )
    assert result(work()) == 106


def test_topic_routing() -> None:
    sent = scenario.add.apply_async((1, 2), exchange=f"{RUN}.topic", routing_key="media.video.x")
    assert result(sent) == 3


def test_broadcast() -> None:
    mark = uuid.uuid4().hex
    scenario.leave_mark.apply_async((mark,), exchange=f"{RUN}.all")
    until(lambda: HOME.joinpath(mark).exists(), "the broadcast task")


def test_reject_and_requeue() -> None:
    assert result(scenario.requeue_once.delay()) is True


def test_late_acks_survive_a_killed_worker(queue: str) -> None:
    mark = uuid.uuid4().hex
    first = Worker(queue, "--concurrency", "1")
    try:
        pending = scenario.survive.apply_async((mark,), queue=queue)
        until(lambda: HOME.joinpath(mark).exists(), "the first run")
    finally:
        first.kill()
    second = Worker(queue, "--concurrency", "1")
    try:
        assert result(pending) == {"redelivered": True}
    finally:
        assert second.stop() == 0


def test_shutdown_by_remote_control(queue: str) -> None:
    other = Worker(queue, "--concurrency", "1")
    try:
        scenario.app.control.shutdown(destination=[other.name])
        assert other.process.wait(PATIENCE_SECONDS) == 0
    finally:
        other.kill()


def test_a_worker_comes_back_after_cuts(queue: str) -> None:
    with CuttingProxy(os.environ["AMQP_URL"]) as proxy:
        other = Worker(queue, "--concurrency", "1", AMQP_URL=proxy.url)
        try:
            for number in range(3):
                assert result(scenario.add.apply_async((number, 1), queue=queue)) == number + 1
                proxy.cut()
        finally:
            other.kill()


def test_a_worker_over_tls(queue: str) -> None:
    authority = os.environ["CERTIFICATES"] + "/ca.pem"
    url = os.environ["AMQPS_URL"]
    other = Worker(queue, "--concurrency", "1", AMQP_URL=url, CELERY_AUTHORITY=authority)
    try:
        assert result(scenario.add.apply_async((1, 2), queue=queue)) == 3
    finally:
        assert other.stop() == 0


def test_a_task_that_the_broker_refuses_is_told(queue: str) -> None:
    with scenario.app.connection_for_write() as connection, connection.channel() as channel:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(queue, auto_delete=False, arguments=arguments)
        channel.queue_bind(queue, "amq.direct", queue)
    where = {"exchange": "amq.direct", "routing_key": queue, "retry": False}
    scenario.add.apply_async((1, 2), **where)
    with pytest.raises(OperationalError) as caught:
        scenario.add.apply_async((1, 2), **where)
    assert isinstance(caught.value.__cause__, MessageNacked)


def test_header_fields_of_every_type(queue: str) -> None:
    headers = {
        **{"words": "grüße", "octets": b"\x00\xff\xce", "nothing": None, "yes": True, "no": False},
        **{"whole": -7, "large": 1 << 40, "real": 2.5, "exact": Decimal("-1.25")},
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5),
        **{"list": [1, "two", [True, None]], "table": {"deep": {"deeper": "still"}, "none": {}}},
    }
    with scenario.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_declare(queue, auto_delete=False)
        channel.queue_bind(queue, "amq.direct", queue)
        where = {"exchange": "amq.direct", "routing_key": queue}
        scenario.add.apply_async((1, 2), **where, headers=headers)
        message = until(lambda: channel.basic_get(queue, no_ack=True), "the message")
    assert {name: message.headers[name] for name in headers} == headers


def test_ping(worker: Worker) -> None:
    assert worker.inspect().ping() == {worker.name: {"ok": "pong"}}
    pong = {worker.name: {"ok": "pong"}}
    until(lambda: pong in scenario.app.control.ping(timeout=1.0), "the answer among all workers'")


def test_inspect_active(worker: Worker) -> None:
    mark = uuid.uuid4().hex
    pending = scenario.wait_for.delay(mark)
    active = until(lambda: worker.inspect().active()[worker.name], "an active task")
    assert [task["id"] for task in active] == [pending.id]
    assert active[0]["delivery_info"]["routing_key"] == RUN
    HOME.joinpath(mark).touch()
    assert result(pending) == mark


def test_inspect_scheduled_and_revoke(worker: Worker) -> None:
    pending = scenario.add.apply_async((1, 1), countdown=600)
    scheduled = until(lambda: worker.inspect().scheduled()[worker.name], "a scheduled task")
    assert [task["request"]["id"] for task in scheduled] == [pending.id]
    (answer,) = scenario.app.control.revoke(
        pending.id, reply=True, timeout=PATIENCE_SECONDS, limit=1
    )
    assert "ok" in answer[worker.name]
    assert pending.id in worker.inspect().revoked()[worker.name]


def test_terminate(worker: Worker) -> None:
    pending = scenario.wait_for.delay("what never comes")
    until(lambda: worker.inspect().active()[worker.name], "an active task")
    pending.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result(pending)


def test_inspect_the_rest(worker: Worker) -> None:
    inspect = worker.inspect()
    assert "app.add" in inspect.registered()[worker.name]
    queues = {queue["name"] for queue in inspect.active_queues()[worker.name]}
    assert {RUN, f"{RUN}.media"} <= queues
    stats = inspect.stats()[worker.name]
    assert stats["pool"]["max-concurrency"] == 2
    assert stats["broker"]["transport"] in ("amqp", "pyamqp")
    assert inspect.conf()[worker.name]["task_default_queue"] == RUN


def test_rate_limit(worker: Worker) -> None:
    control = scenario.app.control
    (answer,) = control.rate_limit(
        "app.limited", "1/s", reply=True, timeout=PATIENCE_SECONDS, limit=1
    )
    assert "ok" in answer[worker.name]
    try:
        times = sorted(result(p) for p in [scenario.limited.delay() for _ in range(4)])
        assert times[-1] - times[0] > 1.0
    finally:
        control.rate_limit("app.limited", "0", reply=True, timeout=PATIENCE_SECONDS, limit=1)


def test_add_and_cancel_a_consumer(worker: Worker, queue: str) -> None:
    control = scenario.app.control
    answers = control.add_consumer(queue, reply=True, timeout=PATIENCE_SECONDS, limit=1)
    assert "ok" in answers[0][worker.name]
    assert result(scenario.add.apply_async((2, 3), queue=queue)) == 5
    control.cancel_consumer(queue, reply=True, timeout=PATIENCE_SECONDS, limit=1)
    wait_without_consumers(queue)
    pending = scenario.add.apply_async((3, 3), queue=queue)
    time.sleep(0.5)
    assert not pending.ready()


def wait_without_consumers(queue: str) -> None:
    """The worker answers before it has cancelled: ask the broker."""
    until = time.monotonic() + PATIENCE_SECONDS
    with scenario.app.connection_for_read() as connection:
        channel = connection.channel()
        while channel.queue_declare(queue, passive=True).consumer_count:
            assert time.monotonic() < until, "the worker goes on consuming"
            time.sleep(0.02)


class Listener(EventReceiver):
    """Tells when it listens, since events are not kept for who comes late."""

    def __init__(self, state: State) -> None:
        self.listening = threading.Event()
        connection = scenario.app.connection_for_read()
        super().__init__(connection, handlers={"*": state.event}, app=scenario.app)

    def on_consume_ready(self, *_: Any, **__: Any) -> None:
        self.listening.set()


def states(state: State) -> dict[str, str]:
    return {identity: task.state for identity, task in state.itertasks()}


def test_events(worker: Worker) -> None:
    state = State()
    listener = Listener(state)
    thread = threading.Thread(target=listener.capture, kwargs={"wakeup": False}, daemon=True)
    thread.start()
    assert listener.listening.wait(PATIENCE_SECONDS)
    good, bad = scenario.add.delay(1, 2), scenario.fail.delay("seen")
    expected = {good.id: "SUCCESS", bad.id: "FAILURE"}
    try:
        until(lambda: expected.items() <= states(state).items(), "the events")
    finally:
        listener.should_stop = True
        thread.join(PATIENCE_SECONDS)
    task = state.tasks[good.id]
    assert (task.name, task.result, task.worker.hostname) == ("app.add", "3", worker.name)
    assert task.sent
    assert task.received
    assert task.started
    assert state.workers[worker.name].alive
