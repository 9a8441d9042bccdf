"""What comes over sockets that is no well-behaved client, and what it costs the others: nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pamqp import commands, frame

from amqpd.broker.broker import Broker
from amqpd.config import Config
from amqpd.runtime.peer import Peer
from tests.patience import PATIENCE_S
from tests.runtime.client import (
    GREETING,
    Client,
    Closed,
    Gone,
    connect,
    encode_frame,
    publish_frames,
    read_to_end,
    reset,
)
from tests.runtime.process import BrokerProcess, wait_until

MIB = 1024 * 1024
START_OK = frame.marshal(commands.Connection.StartOk({}, "PLAIN", "\x00guest\x00guest", "en_US"), 0)
TUNE_OK = frame.marshal(commands.Connection.TuneOk(2047, 131072, 0), 0)
OPEN = frame.marshal(commands.Connection.Open("/"), 0)
CHANNEL_OPEN = frame.marshal(commands.Channel.Open(), 1)
CONVERSATION = GREETING + START_OK + TUNE_OK + OPEN + CHANNEL_OPEN


def start(broker: BrokerProcess, **limits: float) -> BrokerProcess:
    """A broker in memory with small limits."""
    config = broker.directory / "amqpd.toml"
    config.write_text("[limits]\n" + "".join(f"{key} = {value}\n" for key, value in limits.items()))
    return broker.start("--config", str(config), in_memory=True)


@pytest.fixture
def healthy(broker: BrokerProcess) -> Iterator[Callable[[], None]]:
    """Ask whether the broker still serves others, and has not met a bug of its own."""

    def check() -> None:
        with Client(broker.address) as client:
            name = client.declare("", durable=False, exclusive=True).queue
            client.publish("", name, b"alive")
            delivery = client.get(name, no_ack=True)
            assert delivery is not None
            assert delivery.body == b"alive"
            client.close()

    yield check
    assert "Traceback" not in broker.log
    assert "internal error" not in broker.log


# -- greetings


@pytest.mark.parametrize(
    ("said", "explained"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "an HTTP request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "a TLS handshake"),
        (b"AMQP\x00\x01\x00\x00", "an AMQP 1.0 client"),
        (b"AMQP\x03\x01\x00\x00", "an AMQP 1.0 client"),
        (b"AMQP\x00\x00\x08\x00", "a client of AMQP 0-0-8-0"),
        (b"\x10\x16\x00\x04MQTT\x04\x02\x00\x3c", "an MQTT client"),
        (b"CONNECT\naccept-version:1.2\n\n\x00", "a STOMP client"),
        (b"\x00\xff junk \r\n\x1b[31m", "octets that are not a greeting"),
    ],
)
def test_foreign_greetings(
    broker: BrokerProcess, healthy: Callable[[], None], said: bytes, explained: str
) -> None:
    start(broker)
    for pieces in ([said], [said[i : i + 1] for i in range(len(said))]):
        sock = connect(broker.address)
        try:
            for piece in pieces:
                sock.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it had heard enough
        assert read_to_end(sock) in (GREETING, b"")
        sock.close()
    broker.wait_for_log(explained)
    healthy()


def test_the_answer_to_a_foreign_greeting_arrives(broker: BrokerProcess) -> None:
    start(broker)
    sock = connect(broker.address)
    sock.sendall(b"AMQP\x00\x01\x00\x00" + b"x" * 100_000)  # more than anybody will ever read
    assert sock.recv(8, socket.MSG_WAITALL) == GREETING
    sock.close()


def test_silence(broker: BrokerProcess, healthy: Callable[[], None]) -> None:
    start(broker, handshake_timeout_s=0.3)
    said = (b"", b"AMQ", GREETING, GREETING + START_OK, GREETING + START_OK + TUNE_OK)
    silent = [connect(broker.address) for _ in said]
    for sock, octets in zip(silent, said, strict=True):
        sock.sendall(octets)
    with Client(broker.address) as client:
        for sock in silent:
            read_to_end(sock)
            sock.close()
        broker.wait_for_log("handshake not finished in 0.3 s", len(said))
        client.declare("q")  # who has finished it is not hurried
        client.close()
    healthy()


def test_a_login_refused_without_a_word_takes_its_time(broker: BrokerProcess) -> None:
    start(broker, authentication_failure_delay_s=0.3)
    began = time.monotonic()
    with pytest.raises((Gone, ConnectionResetError)):
        Client(broker.address, password="wrong", capabilities={})
    assert time.monotonic() - began > 0.25
    assert 'reason="wrong password"' in broker.log


# -- slow clients


def test_a_client_that_never_reads(broker: BrokerProcess, healthy: Callable[[], None]) -> None:
    """50 MB wait for it: in its queue, not in its socket's buffers. Others are served meanwhile."""
    start(broker)
    body = os.urandom(MIB // 4)
    count = 200
    with (
        Client(broker.address) as publisher,
        Client(broker.address, receive_buffer_bytes=65536) as slow,
        Client(broker.address) as other,
    ):
        publisher.confirm_select()
        publisher.declare("slow")
        publisher.declare("other")
        for _ in range(count):
            publisher.publish("", "slow", body)
        publisher.wait_confirmed()
        full = broker.resident_bytes
        slow.send(commands.Basic.Consume(0, "slow", "", no_ack=True))
        other.consume("other", no_ack=True)
        for number in range(100):
            publisher.publish("", "other", b"%d" % number)
            assert other.next_delivery().body == b"%d" % number
        # The messages are in memory already: what is on its way to it is not there twice.
        ready = publisher.message_count("slow")
        assert ready > count - 40
        assert broker.resident_bytes < full + 16 * MIB
        # Deliveries go on as it reads.
        for _ in range(count):
            assert slow.next_delivery().body == body
        assert publisher.message_count("slow") == 0
        for client in (publisher, slow, other):
            client.close()
    healthy()


def test_one_octet_at_a_time(broker: BrokerProcess, healthy: Callable[[], None]) -> None:
    start(broker)
    octets = CONVERSATION
    octets += frame.marshal(commands.Queue.Declare(0, "q"), 1)
    octets += publish_frames("", "q", b"drop by drop")
    octets += frame.marshal(commands.Basic.Get(0, "q", no_ack=True), 1)
    sock = connect(broker.address)
    for index in range(len(octets)):
        sock.sendall(octets[index : index + 1])
    with Client.__new__(Client) as client:
        client.sock, client.received = sock, bytearray()
        client.deliveries = deque()
        while not client.deliveries:
            client.step()
        assert client.deliveries[0].body == b"drop by drop"
    healthy()


def test_a_client_that_reads_one_octet_at_a_time(broker: BrokerProcess) -> None:
    start(broker)
    with Client(broker.address, receive_buffer_bytes=1) as client:
        client.declare("q")
        for number in range(20):
            client.publish("", "q", b"%d" % number * 50)
        client.consume("q", no_ack=True)
        client.sock.settimeout(PATIENCE_S)
        octets = bytearray(client.received)
        client.received.clear()
        while len(client.deliveries) < 20:
            octets += client.sock.recv(1)
            if octets.endswith(b"\xce"):
                client.received[:], octets = octets, bytearray()
                try_steps(client)
                octets[:0] = client.received
                client.received.clear()
        assert [d.body for d in client.deliveries] == [b"%d" % n * 50 for n in range(20)]


def try_steps(client: Client) -> None:
    """Take whole messages out of what has come; leave the rest."""
    while True:
        kept = bytes(client.received)
        sock, client.sock = client.sock, Dry()  # type: ignore[assignment]
        try:
            client.step()
        except Gone:
            client.received[:] = kept
            return
        finally:
            client.sock = sock


class Dry:
    """A socket out of which nothing comes."""

    def recv(self, _: int) -> bytes:
        return b""


# -- ends


def phases() -> list[bytes]:
    """Everything a client says until it is in the middle of a message, phase by phase."""
    publish = publish_frames("", "q", b"x" * 300_000)
    consume = frame.marshal(commands.Basic.Consume(0, "q"), 1)
    declare = frame.marshal(commands.Queue.Declare(0, "q"), 1)
    return [
        b"",
        GREETING[:3],
        GREETING,
        GREETING + START_OK[:20],
        GREETING + START_OK,
        GREETING + START_OK + TUNE_OK,
        GREETING + START_OK + TUNE_OK + OPEN,
        CONVERSATION,
        CONVERSATION + declare + publish[:40],
        CONVERSATION + declare + publish[:150_000],
        CONVERSATION + declare + publish + consume,
        CONVERSATION + frame.marshal(commands.Connection.Close(200, "", 0, 0), 0),
        CONVERSATION + encode_frame(1, 0, b"\xff\xff\xff\xff"),
        CONVERSATION + b"\xff" * 100,
    ]


@pytest.mark.parametrize("end", [reset, socket.socket.close, "half"])
@pytest.mark.parametrize("patient", [True, False])
def test_sockets_that_end_in_every_phase(
    broker: BrokerProcess,
    healthy: Callable[[], None],
    end: Callable[[socket.socket], None] | str,
    patient: bool,
) -> None:
    start(broker, linger_s=0.2, closing_timeout_s=0.2, authentication_failure_delay_s=0.1)
    healthy()
    files = broker.open_files
    for said in phases():
        for _ in range(5):
            sock = connect(broker.address)
            sock.sendall(said)
            if patient and said[:8] == GREETING:
                sock.recv(1)
            if callable(end):
                end(sock)
            else:
                sock.shutdown(socket.SHUT_WR)
                read_to_end(sock)
                sock.close()
    wait_until(lambda: broker.open_files <= files, lambda: f"files left open\n{broker.log[-3000:]}")
    healthy()
    assert broker.stop() == 0


def test_close_ok_that_never_comes(broker: BrokerProcess, healthy: Callable[[], None]) -> None:
    start(broker, closing_timeout_s=0.3, linger_s=0.3)
    with Client(broker.address) as client:
        client.sock.sendall(encode_frame(8, 1, b""))  # a heartbeat on a channel
        with pytest.raises(Closed) as closed:
            client.expect(commands.Channel.OpenOk)
        assert closed.value.code == 505
        client.wait_gone()
    broker.wait_for_log("UNEXPECTED_FRAME")
    # The same of a client that does not even read.
    files = broker.open_files
    with Client(broker.address, receive_buffer_bytes=4096) as client:
        fill(client)
        client.sock.sendall(encode_frame(8, 1, b""))
        wait_until(lambda: broker.open_files <= files)
    healthy()


def fill(client: Client) -> None:
    """Leave the broker with more to send than the socket takes."""
    client.declare("big", durable=False, exclusive=True)
    for _ in range(16):
        client.publish("", "big", b"x" * MIB)
    client.message_count("big")
    client.send(commands.Basic.Consume(0, "big", "", no_ack=True))
    time.sleep(0.1)  # whether it is full already does not change what has to follow


def test_a_client_that_says_goodbye_and_does_not_read(
    broker: BrokerProcess, healthy: Callable[[], None]
) -> None:
    start(broker, linger_s=0.3)
    healthy()
    files = broker.open_files
    with Client(broker.address, receive_buffer_bytes=4096) as client:
        fill(client)
        client.send(commands.Connection.Close(200, "goodbye", 0, 0), 0)
        wait_until(lambda: broker.open_files <= files)
    healthy()


def test_missed_heartbeats(broker: BrokerProcess, healthy: Callable[[], None]) -> None:
    """Two to three intervals of silence; and who does not read is not spared."""
    start(broker, linger_s=0.3)
    healthy()
    files = broker.open_files
    with (
        Client(broker.address, heartbeat=1) as silent,
        Client(broker.address, heartbeat=1, receive_buffer_bytes=4096) as stuck,
        Client(broker.address, heartbeat=1) as beating,
    ):
        fill(stuck)
        beats = b""
        while broker.log.count("missed heartbeats from client, timeout: 1s") < 2:
            beating.sock.sendall(encode_frame(8, 0, b""))
            beating.sock.settimeout(0.1)
            try:
                beats += beating.sock.recv(100)
            except TimeoutError:
                continue
        assert beats.count(encode_frame(8, 0, b"")) >= 2  # half an interval each
        assert silent.wait_gone().count(encode_frame(8, 0, b"")) >= 2
        wait_until(lambda: broker.open_files <= files + 1)
        beating.sock.settimeout(PATIENCE_S)
        beating.call(commands.Channel.Open(), 2)
        beating.close()
    healthy()


# -- leaks


def test_opened_and_closed_again_and_again(
    broker: BrokerProcess, healthy: Callable[[], None]
) -> None:
    start(broker)

    def wave() -> None:
        clients = [Client(broker.address, heartbeat=60) for _ in range(100)]
        for number, client in enumerate(clients):
            client.declare("", durable=False, exclusive=True)
            if number % 3 == 0:
                client.close()
            elif number % 3 == 1:
                reset(client.sock)
            client.sock.close()

    healthy()
    files = broker.open_files
    wave()
    wait_until(lambda: broker.open_files <= files)
    before = broker.resident_bytes
    for _ in range(5):
        wave()
    wait_until(lambda: broker.open_files <= files, lambda: broker.log[-3000:])
    assert broker.resident_bytes < before + 4 * MIB  # one wave is 2 MB and more
    healthy()


def test_more_clients_than_files(broker: BrokerProcess, healthy: Callable[[], None]) -> None:
    """Running out of file descriptors is a bad time for new clients, and for nobody else."""
    resource = pytest.importorskip("resource")
    start(broker)
    healthy()
    limit = broker.open_files + 20
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (limit, limit))
    with Client(broker.address) as early:
        waiting = [connect(broker.address) for _ in range(40)]
        wait_until(lambda: broker.open_files >= limit - 1)
        early.declare("q")
        for sock in waiting:
            sock.close()
        early.close()
    healthy()


def test_many_at_once(broker: BrokerProcess, healthy: Callable[[], None]) -> None:
    start(broker)
    failures: list[BaseException] = []

    def visit() -> None:
        try:
            for _ in range(10):
                with Client(broker.address) as client:
                    client.declare("shared", durable=False)
                    client.publish("", "shared", b"x")
                    client.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=visit) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with Client(broker.address) as client:
        assert client.message_count("shared") == 160
    healthy()


# -- alarms


def test_short_of_disk(broker: BrokerProcess) -> None:
    """The monitor runs in the real process: publishers wait, consumers do not."""
    broker.start(environment={"AMQPD_DISK_FREE_LIMIT_BYTES": str(1 << 62)})
    broker.wait_for_log("disk alarm raised")
    with Client(broker.address, capabilities={"connection.blocked": True}) as publisher:
        publisher.declare("q")
        publisher.publish("", "q", b"not now")
        blocked = publisher.expect(commands.Connection.Blocked)
        assert blocked.reason == "low on disk"
        with Client(broker.address) as consumer:
            assert consumer.message_count("q") in (0, 1)
            consumer.close()
        broker.signal(signal.SIGTERM)
        with pytest.raises(Closed, match="shutdown"):
            publisher.expect(commands.Connection.CloseOk)
        publisher.send(commands.Connection.CloseOk(), 0)  # which is read, alarm or not
        publisher.sock.close()
        assert broker.wait() == 0
        assert "did not close their connections" not in broker.log


# -- who is local


def test_guest_is_for_loopback_only() -> None:
    broker = Broker(Config(), journaling=False, entropy=bytes)
    broker.add_defaults()
    peers = [
        Peer(broker, "peer", is_loopback=local, information="", now=0.0, speaking=[])
        for local in (True, False)
    ]
    for peer in peers:
        peer.receive(GREETING, 0.0)
        peer.connection.take_output(0.0)
        properties: Any = {"capabilities": {"authentication_failure_close": True}}
        start_ok = commands.Connection.StartOk(properties, "PLAIN", "\x00guest\x00guest", "en_US")
        peer.receive(frame.marshal(start_ok, 0), 0.0)
    local, remote = (frame.unmarshal(peer.connection.take_output(0.0))[2] for peer in peers)
    assert isinstance(local, commands.Connection.Tune)
    assert isinstance(remote, commands.Connection.Close)
    assert remote.reply_code == 403


NETWORK = """
import sys
sys.path.insert(0, {root!r})
from tests.runtime.client import Client, Closed
try:
    Client({address!r}).close()
    print("welcome")
except Closed as closed:
    print(closed.code)
Client({address!r}, user="ada", password="pw").close()
print("ada is welcome")
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and network namespaces"
)
def test_guest_from_another_machine(broker: BrokerProcess) -> None:
    """Another network namespace is as good as another machine."""
    name = f"amqpd{os.getpid()}"
    outside, inside = f"a{os.getpid() % 100000}", f"b{os.getpid() % 100000}"
    subnet = os.getpid() % 250
    here, there = f"10.213.{subnet}.1", f"10.213.{subnet}.2"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError:
        pytest.skip("network namespaces cannot be made here")
    try:
        try:
            ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
        except subprocess.CalledProcessError:
            pytest.skip("virtual network devices cannot be made here")
        ip("address", "add", f"{here}/30", "dev", outside)
        ip("link", "set", outside, "up")
        ip("-n", name, "address", "add", f"{there}/30", "dev", inside)
        ip("-n", name, "link", "set", inside, "up")
        definitions = broker.directory / "definitions.json"
        definitions.write_text(
            '{"users": [{"name": "ada", "password": "pw", "tags": []},'
            ' {"name": "guest", "password": "guest", "tags": []}],'
            ' "permissions": [{"user": "ada", "vhost": "/", "configure": "", "write": "",'
            ' "read": ""}, {"user": "guest", "vhost": "/", "configure": "", "write": "",'
            ' "read": ""}]}'
        )
        broker.start("--definitions", str(definitions), listen=f"{here}:0")
        script = NETWORK.format(root=str(Path(__file__).parents[2]), address=broker.address)
        answer = subprocess.run(
            ["ip", "netns", "exec", name, sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert answer.stdout == "403\nada is welcome\n", answer.stderr
        assert "user 'guest' can only connect via localhost" in broker.log
    finally:
        broker.end()
        subprocess.run(["ip", "link", "delete", outside], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
