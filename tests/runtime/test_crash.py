"""kill -9 under load, again and again: what was confirmed is there, whole, in order, and once.

How often is `AMQPD_TEST_KILLS`; what happens depends on chance and on the machine, and a failure
says in which life of the broker it was noticed.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from pamqp import commands

from tests.runtime.client import Client, Closed, Delivery
from tests.runtime.every_exercise import every_exercise
from tests.runtime.kills import World
from tests.runtime.process import BrokerProcess

KILLS = int(os.environ.get("AMQPD_TEST_KILLS", "16"))


def test_killed_again_and_again(broker: BrokerProcess) -> None:
    chance = random.Random(KILLS)
    world = World(broker, every_exercise())
    world.begin()
    for life in range(KILLS):
        world.live(chance.uniform(0.02, 0.35))
        world.check()
        if life % 3 == 2:
            world.empty()
    assert sum(len(names) for names in world.expected.values()) > 0


def test_flags_after_a_kill(broker: BrokerProcess) -> None:
    broker.start()
    with Client(broker.address) as client, Client(broker.address) as other:
        client.declare("q")
        client.confirm_select()
        for number in range(8):
            client.publish("", "q", b"%d" % number)
        client.wait_confirmed()
        got = [take(other, "q") for _ in range(4)]
        other.ack(got[1].delivery_tag)
        other.send(commands.Basic.Reject(got[2].delivery_tag, requeue=True))
        other.message_count("q")
        client.publish("", "q", b"8")
        client.wait_confirmed()  # and with it, everything before it
        broker.kill()
    broker.start()
    with Client(broker.address) as client:
        assert [
            (delivery.body, delivery.redelivered)
            for delivery in [take(client, "q") for _ in range(8)]
        ] == [(b"%d" % number, number < 4) for number in range(9) if number != 1]
        assert client.get("q") is None


def take(client: Client, queue: str) -> Delivery:
    delivery = client.get(queue)
    assert delivery is not None
    return delivery


def test_definitions_after_a_kill(broker: BrokerProcess) -> None:
    broker.start(environment={"RABBITMQ_DEFAULT_USER": "ada", "RABBITMQ_DEFAULT_PASS": "s3cret"})

    def client() -> Client:
        return Client(broker.address, user="ada", password="s3cret")

    with client() as ada:
        exchange, queue, call = commands.Exchange, commands.Queue, ada.call
        call(exchange.Declare(0, "kept", "headers", durable=True))
        call(exchange.Declare(0, "gone", "direct", durable=False))
        call(exchange.Declare(0, "deleted", "direct", durable=True))
        call(exchange.Delete(0, "deleted"))
        call(exchange.Declare(0, "inner", "topic", durable=True, internal=True))
        call(exchange.Bind(0, "inner", "kept", "", arguments={"x-match": "any", "a": 1}))
        ada.declare("kept", arguments={"x-single-active-consumer": True})
        ada.declare("gone", durable=False)
        ada.declare("mine", exclusive=True)
        ada.declare("deleted")
        call(queue.Delete(0, "deleted"))
        call(queue.Bind(0, "kept", "kept", "", arguments={"x-match": "all", "b": "c"}))
        call(queue.Bind(0, "kept", "inner", "a.#"))
        call(queue.Bind(0, "kept", "amq.direct", "k"))
        call(queue.Bind(0, "kept", "amq.direct", "unbound"))
        call(queue.Unbind(0, "kept", "amq.direct", "unbound"))
        call(queue.Bind(0, "gone", "amq.direct", "to a transient queue"))
        broker.kill()

    broker.start()
    with client() as ada:
        assert exists(ada, commands.Exchange.Declare, "kept", "inner")
        assert exists(ada, commands.Queue.Declare, "kept")
        for name in ("gone", "deleted"):
            assert not exists(ada, commands.Exchange.Declare, name)
        for name in ("gone", "mine", "deleted"):
            assert not exists(ada, commands.Queue.Declare, name)
        # The same declarations are equivalent, and others are not.
        ada.call(commands.Exchange.Declare(0, "inner", "topic", durable=True, internal=True))
        ada.declare("kept", arguments={"x-single-active-consumer": True})
        ada.publish("amq.direct", "k", b"bound", mandatory=True)
        ada.publish("amq.direct", "unbound", b"unbound", mandatory=True)
        ada.publish("amq.direct", "to a transient queue", b"gone", mandatory=True)
        assert ada.message_count("kept") == 1
        assert [returned.body for returned in ada.returned] == [b"unbound", b"gone"]
        with pytest.raises(Closed, match="inequivalent arg 'x-single-active-consumer'"):
            ada.declare("kept")
    with pytest.raises(Closed, match="Login was refused"):
        Client(broker.address)  # there never was a guest


def exists(client: Client, declare: Callable[..., object], *names: str) -> bool:
    """Whether passive declarations succeed."""
    kinds = {"exchange" if declare is commands.Exchange.Declare else "queue"}
    (field,) = kinds
    methods = [declare(**{field: name, "passive": True}) for name in names]
    return all(client.exists(method) for method in methods)  # type: ignore[arg-type]


def test_stopped_and_started(broker: BrokerProcess) -> None:
    broker.start()
    with Client(broker.address) as client:
        client.declare("durable")
        client.declare("transient", durable=False)
        for persistent in (True, False, True):
            for queue in ("durable", "transient"):
                client.publish("", queue, b"%d" % persistent, persistent=persistent)
        unacked = take(client, "durable")
        broker.signal(signal.SIGTERM)
        with pytest.raises(Closed, match="shutdown"):
            client.wait_confirmed(1)
        client.send(commands.Connection.CloseOk(), 0)
        assert broker.wait() == 0
    assert list(broker.data_directory.glob("*-wal")) == []  # it left nothing to be recovered
    broker.start()
    with Client(broker.address) as client:
        assert not exists(client, commands.Queue.Declare, "transient")
        first, second = take(client, "durable"), take(client, "durable")
        assert (first.body, first.redelivered) == (unacked.body, True)
        assert (second.body, second.redelivered) == (b"1", False)
        assert client.get("durable") is None
    assert broker.stop() == 0


def test_in_memory_keeps_nothing(broker: BrokerProcess) -> None:
    broker.start(in_memory=True)
    with Client(broker.address) as client:
        client.declare("q")
        client.confirm_select()
        client.publish("", "q", b"gone tomorrow")
        client.wait_confirmed()
        client.close()
    assert broker.stop() == 0
    assert sorted(path.name for path in broker.directory.iterdir()) == ["log", "ready.json"]
    broker.start(in_memory=True)
    with Client(broker.address) as client:
        assert not exists(client, commands.Queue.Declare, "q")


def test_one_owner(broker: BrokerProcess, tmp_path: Path) -> None:
    broker.start()
    (tmp_path / "second").mkdir()
    second = BrokerProcess(tmp_path / "second")
    second.data_directory = broker.data_directory
    second.spawn()
    try:
        assert second.wait() == os.EX_TEMPFAIL
    finally:
        second.end()
    (line,) = second.log.splitlines()
    assert f"in use by process {broker.pid}" in line
    with Client(broker.address) as client:  # the first one did not notice
        client.declare("q")
        client.close()
    broker.kill()
    broker.start()  # a dead owner is no owner
    with Client(broker.address) as client:
        assert client.message_count("q") == 0
