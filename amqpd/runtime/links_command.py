"""`amqpd links`: federation links and shovels of a running broker, asked over its HTTP API.

kind      name  vhost  from                    to       state    uptime  lag  last error
exchange  x     /      x on amqp://site-a      x        running  1 h     0
shovel    move  /      from on amqp://         to ...   blocked  -       -    ...
"""

from __future__ import annotations

import base64
import http.client
import json
import sys
from typing import Any, Final
from urllib.parse import urlsplit

from amqpd.command_output import printable, written
from amqpd.exit_codes import EX_UNAVAILABLE, EX_USAGE
from amqpd.host_name import is_host

TIMEOUT_S: Final = 10.0
WORKING: Final = ("running", "starting", "flow")
HEADINGS: Final = (
    *("kind", "name", "vhost", "from", "to", "state", "uptime", "forwarded", "lag", "last error"),
)


class CannotAsk(Exception):
    """The HTTP API does not answer; `str()` says why, and what to do."""

    def __init__(self, message: str, exit_code: int = EX_UNAVAILABLE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def show(url: str, user: str, password: str, *, as_json: bool) -> int:
    """Print them; the exit code: 0 if all work, 1 if any does not, 69 if nobody answers, 64 for
    a URL that is none, 74 or 141 if they cannot be printed."""
    return written(lambda: _show(url, user, password, as_json=as_json))


def _show(url: str, user: str, password: str, *, as_json: bool) -> int:
    try:
        federation: list[dict[str, Any]] = _ask(url, "/api/federation-links", user, password)
        shovels: list[dict[str, Any]] = _ask(url, "/api/shovels", user, password)
    except CannotAsk as reason:
        print(printable(f"amqpd: {reason}"), file=sys.stderr)
        return reason.exit_code
    if as_json:
        print(json.dumps({"federation_links": federation, "shovels": shovels}, indent=2))
    else:
        rows = [_federation_row(link) for link in federation]
        rows += [_shovel_row(shovel) for shovel in shovels]
        print(_table([HEADINGS, *rows]) if rows else "no links")
    states = [link["status"] for link in federation] + [item["state"] for item in shovels]
    return 0 if all(state in WORKING for state in states) else 1


def _ask(url: str, path: str, user: str, password: str) -> Any:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 15672
    except ValueError:  # of the port, or of an IPv6 address
        host = ""
    if not host or parts.scheme not in ("http", "https") or not is_host(host):
        text = f"{url} is no URL of an HTTP API: give --url http://HOST:PORT"
        raise CannotAsk(text, EX_USAGE)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=TIMEOUT_S)
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    try:
        connection.request("GET", path, headers={"Authorization": f"Basic {credentials}"})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error)
        text = f"cannot reach the HTTP API at {url}: {reason}. Is the broker running, and its"
        raise CannotAsk(f"{text} management on? Give --url if it is elsewhere") from None
    finally:
        connection.close()
    if response.status == 401:
        raise CannotAsk(f"{url} refuses user '{user}': give --user and --password of a monitor")
    if response.status != 200:
        raise CannotAsk(f"{url}{path} answered {response.status} {response.reason}")
    try:
        return json.loads(content)
    except ValueError:
        raise CannotAsk(f"{url}{path} did not answer with JSON: is that a broker?") from None


def _federation_row(link: dict[str, Any]) -> tuple[str, ...]:
    kind = link["type"]
    error = link.get("error") or link.get("last_error") or ""
    state = "blocked" if link.get("blocked") else link["status"]
    return (
        kind,
        link["upstream"],
        link["vhost"],
        f"{link[f'upstream_{kind}']} on {link['uri']}",
        link[kind],
        state,
        _duration(link.get("uptime")),
        _number(link.get("forwarded")),
        _number(link.get("lag")),
        error,
    )


def _shovel_row(shovel: dict[str, Any]) -> tuple[str, ...]:
    ends = []
    for side in ("src", "dest"):
        place = shovel.get(f"{side}_queue", shovel.get(f"{side}_exchange", "as published"))
        ends.append(f"{place} on {shovel[f'{side}_uri']}")
    return (
        "shovel",
        shovel["name"],
        shovel["vhost"],
        *ends,
        shovel["state"],
        _duration(shovel.get("uptime")),
        _number(shovel.get("forwarded")),
        _number(shovel.get("lag")),
        shovel.get("reason") or shovel.get("last_error") or "",
    )


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _duration(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    seconds = milliseconds // 1000
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _table(table: list[tuple[str, ...]]) -> str:
    """Names are others': none may look like another row, or speak to the terminal."""
    rows = [[printable(cell) for cell in row] for row in table]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)
