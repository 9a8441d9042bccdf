"""Log lines: one event, one line, whatever a peer would like to write there."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpd.runtime.logs import configure_logging

logger = logging.getLogger("amqpd.test")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger("amqpd")
    handlers, level, propagate = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.propagate = handlers, propagate
    root.setLevel(level)


def logged(message: str, level: int = logging.INFO, **extra: object) -> str:
    stream = io.StringIO()
    configure_logging("info", stream)
    logger.log(level, message, extra=extra)
    return stream.getvalue()


def test_a_line() -> None:
    line = logged("connection opened", peer="127.0.0.1:1 -> 127.0.0.1:2", user="guest", channel=1)
    _, _, rest = line.partition("[")
    assert rest == (
        'info] connection opened peer="127.0.0.1:1 -> 127.0.0.1:2" user=guest channel=1\n'
    )


def test_levels() -> None:
    assert "[warning]" in logged("x", logging.WARNING)
    assert logged("x", logging.DEBUG) == ""


def test_nobody_forges_a_pair_or_a_line() -> None:
    line = logged("login refused", user='x" reason=none\n2026-01-01 00:00:00.000 [info] all well')
    assert line.count("\n") == 1
    assert r'user="x\" reason=none\n2026-01-01' in line
    assert logged("x", user="a b").endswith('user="a b"\n')
    assert logged("x", user="").endswith('user=""\n')


def test_nobody_speaks_to_the_terminal() -> None:
    assert r"\x1b[31m" in logged("file \x1b[31mred")
    assert r"\u001b[31m" in logged("x", user="\x1b[31mred")
    assert "\x7f" not in logged("x", user="\x7f")
    assert "\u202e" not in logged("gnitirw \u202e right to left")
    assert "Grüße 漢字" in logged("Grüße 漢字")


@given(st.text(st.characters()), st.text(st.characters()))
def test_one_event_is_one_line(message: str, value: str) -> None:
    line = logged(message, key=value)
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    line.encode()


def test_a_traceback_is_indented() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    try:
        raise ValueError("first\n2026-01-01 00:00:00.000 [info] forged")
    except ValueError:
        logger.exception("internal error")
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("[error] internal error")
    assert all(line.startswith("    ") for line in others)
    assert any("forged" in line for line in others)
