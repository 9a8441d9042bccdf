"""The ways in which the HTTP API says no, in RabbitMQ's words.

The body is `{"error": ..., "reason": ...}`. Both spellings of authorised are RabbitMQ's: a failed
login is `not_authorized`, a login that may not do this `not_authorised`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from amqpd.errors import ACCESS_REFUSED, NOT_FOUND, AMQPException

LINE_MAX: Final = 80
LINE_BREAK: Final = ",\n "
CHALLENGE: Final = {"www-authenticate": 'Basic realm="RabbitMQ Management"'}


class ApiError(Exception):
    """Ends a call with this status; `body` None is an empty one."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers: Mapping[str, str] = headers or {}


def bad_request(reason: Any) -> ApiError:
    """400: `reason` is a text, or a list where RabbitMQ has a tuple."""
    return ApiError(400, {"error": "bad_request", "reason": reason})


def missing_keys(names: list[str]) -> ApiError:
    """400: the body lacks something. What is longer than a line, Erlang writes on several."""
    parts = [f"{{key_missing,{name}}}" for name in names]
    text = f"[{','.join(parts)}]"
    return bad_request(text if len(text) <= LINE_MAX else f"[{LINE_BREAK.join(parts)}]")


def not_found(reason: str | None = None) -> ApiError:
    """404; without a reason the one for an object that is not there."""
    if reason is None:
        return ApiError(404, {"error": "Object Not Found", "reason": "Not Found"})
    return ApiError(404, {"error": "not_found", "reason": reason})


def login_required() -> ApiError:
    """401: nobody said who they are."""
    return ApiError(401, None, CHALLENGE)


def login_failed() -> ApiError:
    """401: not that user's password."""
    return ApiError(401, {"error": "not_authorized", "reason": "Login failed"}, CHALLENGE)


def not_authorised(reason: str) -> ApiError:
    """401: logged in, and not allowed to do this. No challenge: another login is not asked for."""
    return ApiError(401, {"error": "not_authorised", "reason": reason})


def from_amqp(error: AMQPException, *, declaring: bool) -> ApiError:
    """What AMQP refused. `declaring`: RabbitMQ leaves the reply code out of the reason there."""
    if error.code == ACCESS_REFUSED:
        return not_authorised("Access refused.")
    if declaring:
        if error.code == NOT_FOUND:
            return not_found(error.explanation)
        return bad_request(error.explanation)
    return bad_request(f"{error.code} {error.reply_text}")
