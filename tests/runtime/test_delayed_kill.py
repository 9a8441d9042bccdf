"""kill -9 while messages are delayed and come due: what was confirmed arrives, once, not too early.

How often is `AMQPD_TEST_KILLS`, as in test_crash.
"""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from contextlib import suppress

from pamqp import commands

from tests.runtime.client import Client, Gone, encode_frame, short
from tests.runtime.process import BrokerProcess, wait_until

KILLS = int(os.environ.get("AMQPD_TEST_KILLS", "8"))
DELAY_MS_MAX = 1500
WINDOW = 100


def publish_delayed(client: Client, body: bytes, delay_ms: int) -> None:
    """A persistent message for `later`."""
    field = short("x-delay") + b"I" + struct.pack(">i", delay_ms)
    properties = b"\x30\x00" + struct.pack(">I", len(field)) + field + b"\x02"
    method = struct.pack(">HHH", 60, 40, 0) + short("later") + short("k") + b"\0"
    client.sock.sendall(
        encode_frame(1, 1, method)
        + encode_frame(2, 1, struct.pack(">HHQ", 60, 0, len(body)) + properties)
        + encode_frame(3, 1, body)
    )
    client.published += 1


def set_up(client: Client) -> None:
    client.call(
        commands.Exchange.Declare(
            0,
            "later",
            "x-delayed-message",
            durable=True,
            arguments={"x-delayed-type": "direct"},
        )
    )
    client.declare("q")
    client.call(commands.Queue.Bind(0, "q", "later", "k"))


class Publisher:
    """Publishes with random delays until the broker is gone."""

    def __init__(self, address: str, life: int) -> None:
        self.sent: list[bytes] = []
        self.failure: BaseException | None = None
        self.client = Client(address)
        self._life = life
        self._chance = random.Random(life)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with self.client, suppress(Gone, OSError):
                self.client.confirm_select()
                while True:
                    delay_ms = self._chance.choice((1, 20, 300, DELAY_MS_MAX))
                    due_ms = time.time_ns() // 1_000_000 + delay_ms
                    body = b"%d.%d.%d" % (self._life, len(self.sent), due_ms)
                    self.sent.append(body)
                    publish_delayed(self.client, body, delay_ms)
                    self.client.wait_confirmed(len(self.sent) - WINDOW)
        except BaseException as error:
            self.failure = error


def test_killed_again_and_again(broker: BrokerProcess) -> None:
    chance = random.Random(KILLS)
    confirmed: list[bytes] = []
    sent: list[bytes] = []
    broker.start()
    with Client(broker.address) as client:
        set_up(client)
        client.close()
    for life in range(KILLS):
        publisher = Publisher(broker.address, life)
        publisher.thread.start()
        time.sleep(chance.uniform(0.02, 0.5))
        broker.kill()
        publisher.thread.join()
        assert publisher.failure is None
        sent += publisher.sent
        confirmed += publisher.sent[: publisher.client.confirmed]
        broker.start()
    assert len(confirmed) > KILLS
    began = time.time_ns() // 1_000_000
    with Client(broker.address) as client:
        wait_until(lambda: time.time_ns() // 1_000_000 > began + DELAY_MS_MAX + 500)
        arrived = [client.get("q", no_ack=True) for _ in range(client.message_count("q"))]
        client.close()
    bodies = [delivery.body for delivery in arrived if delivery is not None]
    assert len(set(bodies)) == len(bodies), "nothing comes twice"
    assert set(confirmed) <= set(bodies) <= set(sent)


def test_it_waits_through_a_kill_and_arrives_when_it_is_due(broker: BrokerProcess) -> None:
    broker.start()
    with Client(broker.address) as client:
        set_up(client)
        client.confirm_select()
        published = time.monotonic()
        publish_delayed(client, b"soon", 1)
        publish_delayed(client, b"x", 2000)
        client.wait_confirmed()
    broker.kill()
    broker.start()
    with Client(broker.address) as client:
        client.consume("q", no_ack=True)
        assert client.next_delivery().body == b"soon"
        assert client.next_delivery().body == b"x"
        assert 1.9 < time.monotonic() - published < 20
        client.close()
