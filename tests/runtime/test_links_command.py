"""`amqpd links`, of a broker that has links with odd names. What they do: `test_federation.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from amqpd.exit_codes import EX_PIPE
from amqpd.runtime.links_command import show
from tests.patience import PATIENCE_S

SHOVEL = {
    "name": "naïve",
    "vhost": "/",
    "src_uri": "amqp://",
    "src_queue": "a",
    "dest_uri": "amqp://",
    "dest_queue": "b",
    "state": "running",
}
ODD = SHOVEL | {"name": "a\nshovel  b", "vhost": "\x1b[2J", "src_queue": "\u202eq\u200b"}


class Answers(BaseHTTPRequestHandler):
    """No federation link, and two shovels."""

    def do_GET(self) -> None:
        """As the HTTP API."""
        content = json.dumps([SHOVEL, ODD] if self.path == "/api/shovels" else []).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """Where they are told of."""
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_names_neither_make_rows_nor_speak_to_the_terminal(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(url, "guest", "guest", as_json=False) == 0
    headings, plain, odd = capsys.readouterr().out.splitlines()
    assert headings.startswith("kind    name          vhost    from ")
    assert plain.startswith("shovel  naïve         /        a on ")
    assert odd.startswith(r"shovel  a\nshovel  b  \x1b[2J  \u202eq\u200b on ")


def links(url: str, stdout: int, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "amqpd", "links", "--url", url],
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        timeout=PATIENCE_S,
        env=os.environ | environment,
    )


def test_a_terminal_without_the_letters(url: str) -> None:
    done = links(url, subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"na\xefve" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_where_nothing_fits(url: str) -> None:
    """1 would say that a link is down."""
    with Path("/dev/full").open("wb") as full:
        done = links(url, full.fileno())
    assert done.returncode == os.EX_IOERR
    assert done.stderr == b"amqpd: No space left on device: check the disk\n"


def test_nobody_reads(url: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = links(url, writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (EX_PIPE, b"")
