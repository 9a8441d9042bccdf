"""Nameko services, as its documentation shows them; eventlet's hub is in this process."""

from __future__ import annotations

import os
import ssl
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import eventlet

eventlet.monkey_patch()

import pytest  # noqa: E402
from amqp.exceptions import MessageNacked  # noqa: E402
from kombu import Connection, Exchange, Queue  # noqa: E402
from kombu.exceptions import OperationalError  # noqa: E402
from nameko.amqp.publish import Publisher as Sender  # noqa: E402
from nameko.containers import ServiceContainer  # noqa: E402
from nameko.events import BROADCAST, SINGLETON, EventDispatcher, event_handler  # noqa: E402
from nameko.exceptions import (  # noqa: E402
    MethodNotFound,
    RemoteError,
    RpcTimeout,
    UnknownService,
)
from nameko.messaging import Publisher, consume  # noqa: E402
from nameko.rpc import RpcProxy, rpc  # noqa: E402
from nameko.standalone.events import event_dispatcher  # noqa: E402
from nameko.standalone.rpc import ClusterRpcProxy  # noqa: E402

from compat.cutting_proxy import CuttingProxy  # noqa: E402

CONFIG = {"AMQP_URI": os.environ.get("AMQP_URL", ""), "heartbeat": 5, "max_workers": 10}
PATIENCE_SECONDS = 60.0
Start = Callable[..., ServiceContainer]


def unique(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def until(done: Callable[[], object]) -> None:
    with eventlet.Timeout(PATIENCE_SECONDS):
        while not done():
            eventlet.sleep(0.02)


@pytest.fixture
def start() -> Iterator[Start]:
    """Run a service; stopped at the end."""
    running: list[ServiceContainer] = []

    def begin(service: type, **settings: Any) -> ServiceContainer:
        container = ServiceContainer(service, config={**CONFIG, **settings})
        container.start()
        running.append(container)
        return container

    yield begin
    for container in running:
        container.stop()


@pytest.fixture
def queue() -> Iterator[Queue]:
    """A durable queue, deleted at the end."""
    queue = Queue(unique("queue"), durable=True)
    yield queue
    with Connection(CONFIG["AMQP_URI"]) as connection, connection.channel() as channel:
        channel.queue_delete(queue.name)


def test_rpc(start: Start) -> None:
    class Greeter:
        name = unique("greeter")

        @rpc
        def greet(self, who: str, mark: str = "!") -> dict[str, Any]:
            return {"said": f"hello {who}{mark}", "numbers": [1, 2.5, None]}

    start(Greeter)
    with ClusterRpcProxy(CONFIG, timeout=PATIENCE_SECONDS) as cluster:
        service = cluster[Greeter.name]
        assert service.greet("you", mark="?") == {"said": "hello you?", "numbers": [1, 2.5, None]}
        pending = [service.greet.call_async(str(n)) for n in range(20)]
        answers = [reply.result()["said"] for reply in reversed(pending)]
        assert answers == [f"hello {n}!" for n in reversed(range(20))]


def test_errors_come_back(start: Start) -> None:
    class Broken:
        name = unique("broken")

        @rpc
        def fail(self) -> None:
            raise ValueError("on purpose")

    start(Broken)
    with ClusterRpcProxy(CONFIG, timeout=PATIENCE_SECONDS) as cluster:
        with pytest.raises(RemoteError, match="ValueError on purpose"):
            cluster[Broken.name].fail()
        with pytest.raises(MethodNotFound):
            cluster[Broken.name].missing()


def test_a_service_that_is_not_there_is_told_by_a_return() -> None:
    with (
        ClusterRpcProxy(CONFIG, timeout=PATIENCE_SECONDS) as cluster,
        pytest.raises(UnknownService),
    ):
        cluster[unique("nobody")].method()


def test_a_call_without_an_answer_ends(start: Start) -> None:
    class Slow:
        name = unique("slow")

        @rpc
        def sleep(self) -> None:
            eventlet.sleep(1.0)

    start(Slow)
    with ClusterRpcProxy(CONFIG, timeout=0.3) as cluster, pytest.raises(RpcTimeout):
        cluster[Slow.name].sleep()


def test_a_service_calls_another(start: Start) -> None:
    adder = unique("adder")

    class Adder:
        name = adder

        @rpc
        def add(self, left: int, right: int) -> int:
            return left + right

    class Doubler:
        name = unique("doubler")
        adder_proxy = RpcProxy(adder)

        @rpc
        def double(self, number: int) -> int:
            return int(self.adder_proxy.add(number, number))

    start(Adder)
    start(Doubler)
    with ClusterRpcProxy(CONFIG, timeout=PATIENCE_SECONDS) as cluster:
        assert [cluster[Doubler.name].double(n) for n in range(5)] == [0, 2, 4, 6, 8]


def test_events_go_to_one_of_a_pool_or_to_every_instance(start: Start) -> None:
    source = unique("source")
    pool: list[int] = []
    everyone: list[int] = []
    single: list[int] = []

    class Listener:
        name = unique("listener")

        @event_handler(source, "happened")
        def once(self, payload: int) -> None:
            pool.append(payload)

        @event_handler(source, "happened", handler_type=BROADCAST, reliable_delivery=False)
        def always(self, payload: int) -> None:
            everyone.append(payload)

        @event_handler(source, "happened", handler_type=SINGLETON)
        def alone(self, payload: int) -> None:
            single.append(payload)

    start(Listener)
    start(Listener)
    dispatch = event_dispatcher(CONFIG)
    for number in range(10):
        dispatch(source, "happened", number)
    until(lambda: len(pool) >= 10 and len(everyone) >= 20 and len(single) >= 10)
    eventlet.sleep(0.2)
    assert sorted(pool) == list(range(10))
    assert sorted(everyone) == sorted([*range(10), *range(10)])
    assert sorted(single) == list(range(10))


def test_a_service_dispatches_events(start: Start) -> None:
    heard: list[str] = []
    source = unique("dispatching")

    class Source:
        name = source
        dispatch = EventDispatcher()

        @rpc
        def tell(self, what: str) -> None:
            self.dispatch("told", what)

    class Listener:
        name = unique("listener")

        @event_handler(source, "told")
        def hear(self, payload: str) -> None:
            heard.append(payload)

    start(Source)
    start(Listener)
    with ClusterRpcProxy(CONFIG, timeout=PATIENCE_SECONDS) as cluster:
        cluster[source].tell("news")
    until(lambda: heard)
    assert heard == ["news"]


def test_messages_through_queues_of_its_own(start: Start) -> None:
    exchange = Exchange(unique("exchange"), type="topic", durable=False, auto_delete=True)
    queue = Queue(unique("queue"), exchange=exchange, routing_key="a.#", auto_delete=True)
    seen: list[Any] = []

    class Worker:
        name = unique("worker")

        @consume(queue)
        def take(self, payload: Any) -> None:
            seen.append(payload)

    class Sender:
        name = unique("sender")
        publish = Publisher(exchange=exchange)

        @rpc
        def send(self, payload: Any) -> None:
            self.publish(payload, routing_key="a.b")
            self.publish("elsewhere", routing_key="c")

    start(Worker)
    start(Sender)
    with ClusterRpcProxy(CONFIG, timeout=PATIENCE_SECONDS) as cluster:
        cluster[Sender.name].send({"text": "grüße"})
    until(lambda: seen)
    assert seen == [{"text": "grüße"}]


def test_a_failure_requeues_once_it_is_told_to(start: Start) -> None:
    queue = Queue(unique("again"), auto_delete=True)
    exchange = Exchange("")
    attempts: list[int] = []

    class Worker:
        name = unique("worker")

        @consume(queue, requeue_on_error=True)
        def take(self, payload: int) -> None:
            attempts.append(payload)
            if len(attempts) < 3:
                raise RuntimeError("not yet")

    class Sender:
        name = unique("sender")
        publish = Publisher(exchange=exchange)

        @rpc
        def send(self) -> None:
            self.publish(7, routing_key=queue.name)

    start(Worker)
    start(Sender)
    with ClusterRpcProxy(CONFIG, timeout=PATIENCE_SECONDS) as cluster:
        cluster[Sender.name].send()
    until(lambda: len(attempts) == 3)
    assert attempts == [7, 7, 7]


def test_a_service_comes_back_after_cuts(start: Start, queue: Queue) -> None:
    seen: set[str] = set()

    class Worker:
        name = unique("worker")

        @consume(queue)
        def take(self, payload: str) -> None:
            seen.add(payload)

    sender = Sender(CONFIG["AMQP_URI"], declare=[queue])
    with CuttingProxy(CONFIG["AMQP_URI"]) as proxy:
        container = start(Worker, AMQP_URI=proxy.url)
        for number in range(3):
            text = str(number) * 500_000
            sender.publish(text, routing_key=queue.name)
            until(lambda text=text: text in seen)
            proxy.cut()
        sender.publish("last", routing_key=queue.name)
        until(lambda: "last" in seen)
        container.stop()


def test_over_tls(start: Start) -> None:
    secure = {
        "AMQP_URI": os.environ["AMQPS_URL"].replace("amqps:", "amqp:"),
        "AMQP_SSL": {
            "ca_certs": os.environ["CERTIFICATES"] + "/ca.pem",
            "cert_reqs": ssl.CERT_REQUIRED,
        },
    }

    class Echo:
        name = unique("echo")

        @rpc
        def echo(self, text: str) -> str:
            return text

    start(Echo, **secure)
    text = "grüße" * 200_000
    with ClusterRpcProxy({**CONFIG, **secure}, timeout=PATIENCE_SECONDS) as cluster:
        assert cluster[Echo.name].echo(text) == text


def test_a_service_takes_no_more_than_it_has_workers(start: Start, queue: Queue) -> None:
    begun: list[int] = []
    go = eventlet.event.Event()

    class Worker:
        name = unique("worker")

        @consume(queue)
        def take(self, payload: int) -> None:
            begun.append(payload)
            go.wait()

    sender = Sender(CONFIG["AMQP_URI"], declare=[queue])
    for number in range(5):
        sender.publish(number, routing_key=queue.name)
    start(Worker, max_workers=3)
    until(lambda: len(begun) == 3)
    with Connection(CONFIG["AMQP_URI"]) as connection, connection.channel() as channel:
        assert channel.queue_declare(queue.name, passive=True).message_count == 2
    go.send()
    until(lambda: len(begun) == 5)
    assert sorted(begun) == [0, 1, 2, 3, 4]


def test_a_message_that_the_broker_refuses_is_told(queue: Queue) -> None:
    full = Queue(
        queue.name,
        durable=True,
        queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"},
    )
    sender = Sender(CONFIG["AMQP_URI"], declare=[full])
    sender.publish(1, routing_key=queue.name)
    with pytest.raises(OperationalError) as caught:
        sender.publish(2, routing_key=queue.name)
    assert isinstance(caught.value.__cause__, MessageNacked)
