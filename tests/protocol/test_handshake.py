"""From the first octet to connection.open-ok: greetings, logins, tuning, and what refuses them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from amqpd.commands import Arguments, Basic, Channel, Connection, Queue
from amqpd.config import Compat, Limits
from amqpd.protocol.connection import State
from amqpd.protocol.handshake import Credentials, read_amqplain, read_plain
from amqpd.protocol.methods import method_frame
from amqpd.wire.tables import encode_table
from tests.conversation import BrokerUnderTest, method
from tests.protocol.client import (
    GREETING,
    FrameClient,
    close,
    frame,
    opened,
    pamqp_method,
    split_frames,
    stranger,
)

CLOSE_WANTED: Arguments = {"authentication_failure_close": ("t", True)}
REFUSED = (
    "ACCESS_REFUSED - Login was refused using authentication mechanism {}. "
    "For details see the broker logfile."
)


@pytest.fixture
def broker() -> BrokerUnderTest:
    return BrokerUnderTest()


# -- greetings


@pytest.mark.parametrize("greeting", [GREETING, b"AMQP\x01\x01\x00\x09"])
def test_greeting_is_answered_with_start(broker: BrokerUnderTest, greeting: bytes) -> None:
    client = stranger(broker)
    client.send_bytes(greeting)
    ((channel, name, major, minor, properties, mechanisms, locales),) = client.heard_now()
    assert (channel, name, major, minor) == (0, "connection.start", 0, 9)
    assert (mechanisms, locales) == ("PLAIN AMQPLAIN", "en_US")
    assert properties["product"] == "RabbitMQ"
    assert properties["version"] == "3.13.7"
    # Nobody named it: to federation it must not be called as others are.
    assert properties["cluster_name"] == broker.core.cluster_name
    assert properties["cluster_name"].startswith("amqpd@localhost.")
    assert properties["information"] == "test"
    assert set(properties) >= {"copyright", "platform"}
    assert properties["capabilities"] == dict.fromkeys(
        (
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        ),
        True,
    )


def test_version_follows_the_profile() -> None:
    versions: dict[Compat, str] = {"4.2": "4.2.1", "4.3": "4.3.0"}
    for compat, version in versions.items():
        client = stranger(BrokerUnderTest(compat=compat))
        client.send_bytes(GREETING)
        assert client.heard_now()[0][4]["version"] == version


def test_greeting_may_come_in_parts_and_with_more_behind_it(broker: BrokerUnderTest) -> None:
    start_ok = method(
        Connection.StartOk, mechanism="PLAIN", response=b"\x00guest\x00guest", locale="en_US"
    )
    data = GREETING + method_frame(0, start_ok)
    for cut in range(1, len(data)):
        client = stranger(broker)
        client.send_bytes(data[:cut])
        client.send_bytes(data[cut:])
        assert [said[1] for said in client.heard_now()] == ["connection.start", "connection.tune"]
    client = stranger(broker)
    for octet in data:
        client.send_bytes(bytes((octet,)))
    assert [said[1] for said in client.heard_now()] == ["connection.start", "connection.tune"]


FOREIGN = {
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n": "refused an HTTP request",
    b"POST /api HTTP/1.1\r\n": "refused an HTTP request",
    b"PUT / HTTP/1.1\r\n": "refused an HTTP request",
    b"HEAD / HTTP/1.0\r\n": "refused an HTTP request",
    b"OPTIONS * HTTP/1.1\r\n": "refused an HTTP request",
    b"DELETE /x HTTP/1.1\r\n": "refused an HTTP request",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": "refused a TLS handshake",
    b"AMQP\x00\x01\x00\x00": "refused an AMQP 1.0 client: only AMQP 0-9-1",
    b"AMQP\x03\x01\x00\x00": "refused an AMQP 1.0 client: only AMQP 0-9-1",
    b"AMQP\x02\x01\x00\x00": "refused an AMQP 1.0 client that wants TLS",
    b"AMQP\x01\x01\x08\x00": "refused a client of AMQP 1-1-8-0",
    b"AMQP\x01\x01\x00\x0a": "refused a client of AMQP 1-1-0-10",
    b"AMQP\x00\x00\x09\x00": "refused a client of AMQP 0-0-9-0",
    b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test": "refused an MQTT client",
    b"\x10\x12\x00\x06MQIsdp\x03\x02\x00\x3c": "refused an MQTT client",
    b"CONNECT\naccept-version:1.2\n": "refused a STOMP client",
    b"CONNECT example.org:443 HTTP/1.1\r\n": "refused an HTTP request",
    b"STOMP\naccept-version:1.2\n\n\x00": "refused a STOMP client",
    b"SSH-2.0-OpenSSH_9.2\r\n": "refused octets that are not a greeting of AMQP 0-9-1: b'SSH-",
    b"\x00" * 100: "refused octets that are not a greeting of AMQP 0-9-1: b'\\x00",
    b"\xff": "refused octets that are not a greeting of AMQP 0-9-1: b'\\xff'",
    b"amqp\x00\x00\x09\x01": "refused octets that are not a greeting of AMQP 0-9-1: b'amqp",
}


@pytest.mark.parametrize("greeting", FOREIGN)
def test_foreign_greeting_is_told_the_version_and_dropped(
    broker: BrokerUnderTest, greeting: bytes
) -> None:
    client = stranger(broker)
    client.send_bytes(greeting)
    assert client.raw == GREETING
    assert client.dropped
    assert client.end_reason.startswith(FOREIGN[greeting])
    # Nothing that follows is looked at.
    client.send_bytes(GREETING)
    assert client.raw == GREETING
    assert client.peer.deadline() is None


@pytest.mark.parametrize("greeting", FOREIGN)
def test_foreign_greeting_is_refused_however_it_is_cut(
    broker: BrokerUnderTest, greeting: bytes
) -> None:
    for cut in range(1, min(len(greeting), 12)):
        client = stranger(broker)
        client.send_bytes(greeting[:cut])
        client.send_bytes(greeting[cut:])
        assert client.raw == GREETING
        assert client.dropped


def test_reason_shows_a_bounded_part_of_a_strange_greeting(broker: BrokerUnderTest) -> None:
    client = stranger(broker)
    client.send_bytes(b"\xff" * 100_000)
    assert len(client.end_reason) < 500


# -- time


@pytest.mark.parametrize("said", [b"", b"A", GREETING[:7]])
def test_silence_ends_with_the_handshake_timeout(broker: BrokerUnderTest, said: bytes) -> None:
    client = stranger(broker)
    if said:
        client.send_bytes(said)
    broker.advance(9.99)
    assert not client.dropped
    broker.advance(0.01)
    assert client.dropped
    assert client.end_reason == "handshake not finished in 10 s"
    assert client.raw == b""


def test_handshake_timeout_reaches_to_open() -> None:
    """Whatever was said on the way does not lengthen it."""
    broker = BrokerUnderTest(limits=Limits(handshake_timeout_s=5.0))
    clients = [stranger(broker) for _ in range(4)]
    clients[0].send_bytes(GREETING)
    for client in clients[1:]:
        client.send_bytes(GREETING)
        client.start_ok()
    broker.advance(4)
    clients[2].tune_ok()
    clients[3].tune_ok()
    clients[3].send(0, Connection.Open("/"))
    broker.advance(0.5)
    assert not any(client.dropped for client in clients)
    broker.advance(0.5)
    assert [client.dropped for client in clients] == [True, True, True, False]
    assert {client.end_reason for client in clients[:3]} == {"handshake not finished in 5 s"}
    broker.advance(3600)
    assert not clients[3].dropped


# -- logging in


def logged_in(client: FrameClient) -> bool:
    names = [said[1] for said in client.heard_now()]
    return names == ["connection.start", "connection.tune"]


def test_plain_and_tune(broker: BrokerUnderTest) -> None:
    client = stranger(broker)
    client.send_bytes(GREETING)
    client.heard_now()
    client.start_ok()
    assert client.heard_now() == [(0, "connection.tune", 2047, 131072, 60)]


def amqplain(**fields: Any) -> bytes:
    return encode_table(fields)[4:]


AMQPLAIN_GUEST = amqplain(LOGIN=("S", "guest"), PASSWORD=("S", "guest"))


@pytest.mark.parametrize(
    "response",
    [
        AMQPLAIN_GUEST,
        amqplain(PASSWORD=("x", b"guest"), LOGIN=("S", "guest"), more=("I", 5)),
    ],
)
def test_amqplain(broker: BrokerUnderTest, response: bytes) -> None:
    client = stranger(broker)
    client.send_bytes(GREETING)
    client.start_ok("AMQPLAIN", response)
    assert logged_in(client)


def test_passwords_may_be_any_octets() -> None:
    assert read_plain(b"\x00\xc3\xa9\x00\xff\xfe") == Credentials("é", b"\xff\xfe")
    assert read_plain(b"\x00u\x00") == Credentials("u", b"")
    assert read_plain(b"\x00\xff\x00p") is None
    table = b"\x05LOGINS\x00\x00\x00\x01u\x08PASSWORDS\x00\x00\x00\x01\xff"
    assert read_amqplain(table, 64) == Credentials("u", b"\xff")


UNREADABLE = {
    "an authorisation identity": ("PLAIN", b"guest\x00guest\x00guest"),
    "two parts": ("PLAIN", b"\x00guest"),
    "four parts": ("PLAIN", b"\x00guest\x00guest\x00"),
    "nothing": ("PLAIN", b""),
    "a name that is not text": ("PLAIN", b"\x00\xff\x00guest"),
    "no table": ("AMQPLAIN", b"\x00guest\x00guest"),
    "no password": ("AMQPLAIN", amqplain(LOGIN=("S", "guest"))),
    "no login": ("AMQPLAIN", amqplain(PASSWORD=("S", "guest"))),
    "a login of another type": ("AMQPLAIN", amqplain(LOGIN=("I", 1), PASSWORD=("S", "guest"))),
    "a password of another type": ("AMQPLAIN", amqplain(LOGIN=("S", "guest"), PASSWORD=("I", 1))),
    "a table with its length": ("AMQPLAIN", encode_table({"LOGIN": ("S", "guest")})),
    "a mechanism of later versions": ("ANONYMOUS", b""),
    "a mechanism that needs TLS": ("EXTERNAL", b""),
    "a mechanism in small letters": ("plain", b"\x00guest\x00guest"),
    "no mechanism": ("", b"\x00guest\x00guest"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_login_is_dropped_after_a_pause_without_a_word(
    broker: BrokerUnderTest, name: str
) -> None:
    client = stranger(broker)
    client.send_bytes(GREETING)
    client.heard_now()
    client.start_ok(*UNREADABLE[name], capabilities=CLOSE_WANTED)
    assert client.connection.state is State.DOOMED
    broker.advance(2.99)
    assert not client.dropped
    # Nor does anything else get it a word, or more time.
    client.start_ok()
    client.send(0, Connection.Close(200, "bye", 0, 0))
    broker.advance(0.01)
    assert client.dropped
    assert client.heard_now() == []
    assert client.end_reason.startswith("SYNTAX_ERROR - no credentials")


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b"\x00guest\x00wrong"),
        ("PLAIN", b"\x00guest\x00"),
        ("PLAIN", b"\x00nobody\x00guest"),
        ("PLAIN", b"\x00\x00"),
        ("AMQPLAIN", amqplain(LOGIN=("S", "guest"), PASSWORD=("S", "wrong"))),
    ],
)
def test_bad_credentials(
    broker: BrokerUnderTest,
    mechanism: str,
    response: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Told at once to those who ask to be told; silence, and the end after a pause, for others."""
    for capabilities in (None, {}, {"authentication_failure_close": ("t", False)}):
        client = stranger(broker)
        client.send_bytes(GREETING)
        client.heard_now()
        client.start_ok(mechanism, response, capabilities)
        broker.advance(2.99)
        assert not client.dropped
        broker.advance(0.01)
        assert client.dropped
        assert client.end_reason == "login refused"
        assert client.heard_now() == []

    client = stranger(broker)
    client.send_bytes(GREETING)
    client.heard_now()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        client.start_ok(mechanism, response, CLOSE_WANTED)
    assert client.heard_now() == [close(403, REFUSED.format(mechanism))]
    assert [record.message for record in caplog.records] == ["login refused"]
    client.send(0, Connection.CloseOk())
    assert client.dropped
    assert client.end_reason == REFUSED.format(mechanism)


def test_guest_may_come_from_this_machine_only(broker: BrokerUnderTest) -> None:
    client = stranger(broker, is_loopback=False)
    client.send_bytes(GREETING)
    client.heard_now()
    client.start_ok(capabilities=CLOSE_WANTED)
    assert client.heard_now() == [close(403, REFUSED.format("PLAIN"))]


def test_others_may_come_from_anywhere(broker: BrokerUnderTest) -> None:
    broker.add_user("jane")
    client = stranger(broker, is_loopback=False)
    client.send_bytes(GREETING)
    client.start_ok(response=b"\x00jane\x00secret")
    assert logged_in(client)


# -- tuning


@pytest.mark.parametrize("frame_max", [4096, 4097, 8192, 131072])
@pytest.mark.parametrize("channel_max", [1, 2047])
def test_tuning_within_the_limits(
    broker: BrokerUnderTest, frame_max: int, channel_max: int
) -> None:
    client = opened(broker, frame_max=frame_max, channel_max=channel_max)
    assert client.connection.reader.frame_bytes_max == frame_max
    assert client.connection.channel_max == channel_max
    # An empty message of just that size is read; one octet above the tolerance ends it.
    client.send_bytes(frame(1, 1, bytes(frame_max)))
    assert not client.heard_now()[0][3].endswith("}")
    client = opened(broker, frame_max=frame_max, channel_max=channel_max)
    client.send_bytes(frame(1, 1, bytes(frame_max + 1)))
    expected = f"{{frame_too_large,{frame_max + 1},{frame_max - 8}}}"
    assert client.heard_now() == [
        close(501, f"FRAME_ERROR - type 1, all octets = <<>>: {expected}")
    ]


@pytest.mark.parametrize(
    ("tuning", "text"),
    [
        (
            {"frame_max": 200000},
            "negotiated frame_max = 200000 is higher than the maximum allowed value (131072)",
        ),
        (
            {"frame_max": 131073},
            "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)",
        ),
        (
            {"frame_max": 0},
            "negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072)",
        ),
        (
            {"frame_max": 4095},
            "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)",
        ),
        (
            {"channel_max": 2048},
            "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)",
        ),
        (
            {"channel_max": 0},
            "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
        ),
    ],
)
def test_tuning_outside_the_limits(
    broker: BrokerUnderTest, tuning: dict[str, int], text: str
) -> None:
    client = stranger(broker).tuned(**tuning)
    ((_, name, code, reply_text, *_),) = client.heard_now()
    assert (name, code, reply_text) == ("connection.close", 530, f"NOT_ALLOWED - {text}")
    client.send(0, Connection.CloseOk())
    assert client.dropped


def test_no_limit_is_accepted_where_there_is_none() -> None:
    broker = BrokerUnderTest(limits=Limits(frame_bytes_max=0, channel_max=0))
    client = opened(broker, 1, 65535, frame_max=0, channel_max=0)
    octets = bytes(300_000)
    client.send(1, Queue.Declare(queue="q"))
    channel = pamqp_method(1, Basic.Publish(exchange="", routing_key="q"))
    content_header = b"\x00\x3c\x00\x00" + len(octets).to_bytes(8, "big") + b"\x00\x00"
    client.send_bytes(channel + frame(2, 1, content_header) + frame(3, 1, octets))
    client.raw = b""
    client.send(1, Basic.Get(queue="q"))
    assert [len(payload) for kind, _, payload in split_frames(client.raw) if kind == 3] == [300_000]


def test_frames_before_login_are_small() -> None:
    """The limit before login is the least frame_max, whatever the broker's frame_max is."""
    broker = BrokerUnderTest(limits=Limits(frame_bytes_max=1 << 20))
    client = stranger(broker)
    client.send_bytes(GREETING)
    client.heard_now()
    client.send_bytes(frame(1, 0, bytes(4097)))
    assert client.connection.state is State.DOOMED
    assert client.end_reason.endswith("{frame_too_large,4097,4088}")
    broker.advance(3)
    assert client.dropped
    assert client.heard_now() == []


# -- opening


def test_open(broker: BrokerUnderTest) -> None:
    client = stranger(broker).tuned()
    client.send(0, Connection.Open("/"))
    assert client.heard_now() == [(0, "connection.open_ok", "")]
    assert client.connection.state is State.RUNNING
    assert len(broker.core.sessions) == 1


def test_open_of_a_virtual_host_that_is_not_there(broker: BrokerUnderTest) -> None:
    client = stranger(broker).tuned()
    client.send(0, Connection.Open("nope"))
    assert client.heard_now() == [close(530, "NOT_ALLOWED - vhost nope not found", 10, 40)]
    assert broker.core.sessions == {}


def test_open_without_permission(broker: BrokerUnderTest) -> None:
    broker.add_user("jane")
    client = stranger(broker)
    client.send_bytes(GREETING)
    client.start_ok(response=b"\x00jane\x00secret")
    client.tune_ok()
    client.heard_now()
    client.send(0, Connection.Open("/"))
    text = "NOT_ALLOWED - access to vhost '/' refused for user 'jane'"
    assert client.heard_now() == [close(530, text, 10, 40)]


def test_open_of_one_connection_too_many() -> None:
    broker = BrokerUnderTest(limits=Limits(connections_max=2))
    first, _ = opened(broker), opened(broker)
    third = stranger(broker).tuned()
    third.send(0, Connection.Open("/"))
    text = "NOT_ALLOWED - connection refused: node connection limit (2) is reached"
    assert third.heard_now() == [close(530, text, 10, 40)]
    # Those that are not open do not count, and those that ended do not either.
    stranger(broker).tuned()
    first.send(0, Connection.Close(200, "bye", 0, 0))
    opened(broker)


def test_long_names_are_cut_in_texts(broker: BrokerUnderTest) -> None:
    client = stranger(broker).tuned()
    client.send(0, method(Connection.Open, virtual_host="v" * 255))
    ((_, _, code, text, *_),) = client.heard_now()
    assert code == 530
    assert len(text) == 255
    assert text.startswith("NOT_ALLOWED - vhost vvv")
    assert text.endswith("v...")


# -- the wrong word at the wrong time


def at(state: State, broker: BrokerUnderTest) -> FrameClient:
    """A client whose connection waits in this state; what it heard is forgotten."""
    client = stranger(broker)
    client.send_bytes(GREETING)
    if state is not State.STARTING:
        client.start_ok()
    if state is State.OPENING:
        client.tune_ok()
    assert client.connection.state is state
    client.heard_now()
    return client


EXPECTED = {
    State.STARTING: Connection.StartOk,
    State.TUNING: Connection.TuneOk,
    State.OPENING: Connection.Open,
}
WORDS: list[Any] = [
    Connection.StartOk(),
    Connection.SecureOk(),
    Connection.TuneOk(),
    Connection.Open(),
    Connection.CloseOk(),
    Connection.Start(),
    Connection.OpenOk(),
    Connection.UpdateSecret("x", "y"),
    Channel.Open(),
    Basic.Get(),
]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.name)
@pytest.mark.parametrize("state", EXPECTED)
def test_other_methods_than_the_one_due(broker: BrokerUnderTest, state: State, word: Any) -> None:
    if isinstance(word, EXPECTED[state]):
        return
    client = at(state, broker)
    client.send(0, word)
    text = f"CHANNEL_ERROR - unexpected method in connection state {state.name.lower()}"
    if state is State.STARTING:
        assert client.connection.state is State.DOOMED
        assert client.heard_now() == []
        assert client.end_reason == text
        broker.advance(3)
    else:
        ids = (word.index >> 16, word.index & 0xFFFF)
        assert client.heard_now() == [close(504, text, *ids)]
        client.send(0, Connection.CloseOk())
    assert client.dropped


@pytest.mark.parametrize("state", [State.TUNING, State.OPENING])
def test_frames_on_channels_before_open(broker: BrokerUnderTest, state: State) -> None:
    client = at(state, broker)
    client.send(1, Channel.Open())
    text = "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>"
    assert client.heard_now() == [close(505, text)]
    client = at(State.STARTING, broker)
    client.send(1, Channel.Open())
    assert client.connection.state is State.DOOMED
    assert client.heard_now() == []


def test_heartbeats_are_welcome_during_the_handshake(broker: BrokerUnderTest) -> None:
    for state in EXPECTED:
        client = at(state, broker)
        client.send_bytes(frame(8, 0, b""))
        assert client.connection.state is state


@pytest.mark.parametrize("state", [State.TUNING, State.OPENING])
def test_client_may_close_once_it_is_logged_in(broker: BrokerUnderTest, state: State) -> None:
    client = at(state, broker)
    client.send(0, Connection.Close(200, "never mind", 0, 0))
    assert client.heard_now() == [(0, "connection.close_ok")]
    assert client.dropped


def test_whole_handshake_in_one_chunk(broker: BrokerUnderTest) -> None:
    """Clients may say everything before they hear anything."""
    client = stranger(broker)
    start_ok = method(
        Connection.StartOk, mechanism="PLAIN", response=b"\x00guest\x00guest", locale="en_US"
    )
    said = [
        method_frame(0, start_ok),
        pamqp_method(0, Connection.TuneOk(100, 8192, 0)),
        pamqp_method(0, Connection.Open("/")),
        pamqp_method(1, Channel.Open()),
        pamqp_method(2, Channel.Open()),
    ]
    client.send_bytes(GREETING + b"".join(said))
    assert [said[:2] for said in client.heard_now()] == [
        (0, "connection.start"),
        (0, "connection.tune"),
        (0, "connection.open_ok"),
        (1, "channel.open_ok"),
        (2, "channel.open_ok"),
    ]


def test_frame_max_holds_from_the_frame_behind_tune_ok(broker: BrokerUnderTest) -> None:
    client = at(State.TUNING, broker)
    octets = bytes(6000)
    publish = b"".join(
        (
            pamqp_method(1, Basic.Publish(exchange="", routing_key="q")),
            frame(2, 1, b"\x00\x3c\x00\x00" + len(octets).to_bytes(8, "big") + b"\x00\x00"),
            frame(3, 1, octets),
        )
    )
    client.send_bytes(
        pamqp_method(0, Connection.TuneOk(100, 8192, 0))
        + pamqp_method(0, Connection.Open("/"))
        + pamqp_method(1, Channel.Open())
        + pamqp_method(1, Queue.Declare(queue="q"))
        + publish
        + pamqp_method(1, Queue.Purge(queue="q"))
    )
    assert client.heard_now()[-1] == (1, "queue.purge_ok", 1)
