"""Greeting, refusal, tuning, heartbeats and farewell."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pika
import pika.exceptions
import pytest

if TYPE_CHECKING:
    from compat.pika_scenarios.conftest import Scene

HEARTBEAT_SECONDS = 4
"""The broker gives a client up after two of them: long enough for a machine that has much to do."""


def test_server_properties(scene: Scene, connection: pika.BlockingConnection) -> None:
    capabilities = connection._impl.server_capabilities
    for name in (
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ):
        assert capabilities[name] is True
    properties = connection._impl.server_properties
    assert properties["product"] == "RabbitMQ"
    assert {"cluster_name", "copyright", "information", "platform"} <= properties.keys()
    assert scene.version() >= (3, 10)


def test_tuning(scene: Scene) -> None:
    parameters = scene.connect(heartbeat=7, channel_max=9)._impl.params
    assert (parameters.channel_max, parameters.frame_max) == (9, 131072)
    assert parameters.heartbeat == 7


def test_missing_virtual_host(scene: Scene) -> None:
    name = scene.name()
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError) as caught:
        scene.connect(virtual_host=name)
    assert f"(530) 'NOT_ALLOWED - vhost {name} not found'" in str(caught.value)


@pytest.mark.parametrize("user", ["guest", "nobody"])
def test_wrong_password(scene: Scene, user: str) -> None:
    """One refusal for a wrong password and an unknown user: it does not tell which it was."""
    credentials = pika.PlainCredentials(user, "wrong")
    with pytest.raises(pika.exceptions.ProbableAuthenticationError) as caught:
        scene.connect(credentials=credentials)
    assert (
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."
        " For details see the broker logfile."
    ) in str(caught.value)


def test_update_secret(scene: Scene, connection: pika.BlockingConnection) -> None:
    password = connection._impl.params.credentials.password
    connection.update_secret(password, "it was time")
    queue = scene.queue(connection.channel())
    assert queue


def test_many_channels(scene: Scene, connection: pika.BlockingConnection) -> None:
    channels = [connection.channel() for _ in range(100)]
    queue = scene.queue(channels[0])
    for channel in channels:
        channel.basic_publish("", queue, str(channel.channel_number).encode())
    for channel in channels[1:]:
        channel.close()
    taken = scene.bodies(channels[0], queue)
    assert sorted(map(int, taken)) == [c.channel_number for c in channels]


def test_a_channel_number_is_used_again(scene: Scene, connection: pika.BlockingConnection) -> None:
    for _ in range(20):
        channel = connection.channel(5)
        queue = scene.queue(channel)
        scene.fill(channel, queue, b"x")
        received = scene.consumer(channel, queue)
        scene.wait(connection, lambda received=received: received, "a message")
        assert received[0].method.delivery_tag == 1
        channel.close()


def test_channel_max_is_enforced(scene: Scene) -> None:
    """It bounds how many there are, not their numbers; a given number passes the client's check."""
    connection = scene.connect(channel_max=2)
    for number in (7, 9):
        connection.channel(number)
    closure = scene.refused(lambda: connection.channel(1))
    assert (closure.scope, closure.code) == ("connection", 530)
    assert closure.text == (
        "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"
    )


def test_old_and_foreign_protocols_are_told_the_right_one(scene: Scene) -> None:
    parameters = scene.parameters()
    for greeting in (b"AMQP\x00\x00\x08\x00", b"GET / HT", b"AMQP\x01\x01\x00\x0a"):
        with socket.create_connection((parameters.host, parameters.port), scene.patience) as sock:
            sock.sendall(greeting)
            answer = sock.recv(8)
            assert answer in (b"AMQP\x00\x00\x09\x01", b"AMQP\x03\x01\x00\x00")
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(8) == b""


def test_heartbeats(scene: Scene) -> None:
    """The one that keeps time stays, and so hears the broker's; the one that sleeps is dropped."""
    lively = scene.connect(heartbeat=HEARTBEAT_SECONDS)
    asleep = scene.connect(heartbeat=1)
    begun = time.monotonic()
    dropped: list[float] = []

    def watch() -> None:
        sock = asleep._impl._transport._sock
        sock.setblocking(True)
        with contextlib.suppress(OSError):
            while sock.recv(4096):
                pass
        dropped.append(time.monotonic() - begun)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    scene.wait(lively, lambda: dropped, "the end of the one that sleeps")
    while time.monotonic() - begun < 3.2 * HEARTBEAT_SECONDS:
        lively.process_data_events(time_limit=0.1)
    assert lively.is_open
    assert dropped[0] > 1.5
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        scene.wait(asleep, lambda: False, "its end")


def test_without_heartbeats(scene: Scene) -> None:
    connection = scene.connect(heartbeat=0)
    assert connection._impl.params.heartbeat == 0
    time.sleep(0.3)
    connection.channel()


def test_closing(scene: Scene) -> None:
    connection = scene.connect()
    channel = connection.channel()
    queue = scene.queue(channel)
    received = scene.consumer(channel, queue)
    connection.close(320, "enough")
    assert connection.is_closed
    assert received == []


def test_a_broken_frame_ends_the_connection(scene: Scene) -> None:
    connection = scene.connect()
    frame = struct.pack(">BHI", 1, 0, 4) + b"\x00\x00\x00\x00" + b"\x00"
    connection._impl._transport.write(frame)
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as caught:
        scene.wait(connection, lambda: False, "its end")
    assert caught.value.reply_code == 501
    assert caught.value.reply_text.startswith("FRAME_ERROR - type 1, all octets = <<0,0,0,0>>")
