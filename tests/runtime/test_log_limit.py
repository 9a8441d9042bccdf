"""A client that fails its channels in a loop does not fill the log."""

from __future__ import annotations

import pytest

from amqpd.runtime.log_limit import LINES_MAX, WINDOW_S, LogLimit
from tests.conversation import BrokerUnderTest, Channel


def fail(channel: Channel, times: int) -> None:
    """Publish to an exchange that is not there, again and again."""
    for _ in range(times):
        channel.publish("nope", "k", b"")
        text = "NOT_FOUND - no exchange 'nope' in vhost '/'"
        channel.expect_closed(404, text, (60, 40))
        channel.open()


def test_channel_errors_in_a_loop(caplog: pytest.LogCaptureFixture) -> None:
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    fail(channel, LINES_MAX + 5)
    said = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.message for record in said] == ["channel closed by the broker"] * LINES_MAX
    broker.advance(WINDOW_S)
    fail(channel, LINES_MAX + 2)
    said = [record for record in caplog.records if record.levelname == "WARNING"][LINES_MAX:]
    assert len(said) == LINES_MAX
    assert vars(said[0])["not_logged_before"] == 5
    assert "not_logged_before" not in vars(said[1])
    channel.client.close()
    last = caplog.records[-1]
    assert (last.message, vars(last)["count"]) == ("more channels were closed by the broker", 2)


def test_one_connection_does_not_silence_another(caplog: pytest.LogCaptureFixture) -> None:
    broker = BrokerUnderTest()
    fail(broker.client().channel(), LINES_MAX + 5)
    caplog.clear()
    client = broker.client()
    fail(client.channel(), 1)
    client.close()
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["channel closed by the broker"]


def test_the_limit() -> None:
    limit = LogLimit()
    assert [limit.admits(100.0) for _ in range(LINES_MAX + 2)] == [True] * LINES_MAX + [False] * 2
    assert not limit.admits(100.0 + WINDOW_S - 0.001)
    assert limit.take_left_out() == 3
    assert limit.take_left_out() == 0
    assert limit.admits(100.0 + WINDOW_S)
