"""The two ways in which AMQP 0-9-1 says no.

A *channel exception* closes one channel, a *connection exception* the whole connection. Which of
the two it is follows from the reply code alone, as in RabbitMQ, so handlers name the code and the
words, and `amqp_error` finds the scope. Each carries the class and method id of the method at
fault; (0, 0) stands for frame-level faults and for most faults of channel 0.
"""

from __future__ import annotations

from typing import Final

CONTENT_TOO_LARGE: Final = 311
NO_ROUTE: Final = 312
CONNECTION_FORCED: Final = 320
INVALID_PATH: Final = 402
ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
RESOURCE_LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406
FRAME_ERROR: Final = 501
SYNTAX_ERROR: Final = 502
COMMAND_INVALID: Final = 503
CHANNEL_ERROR: Final = 504
UNEXPECTED_FRAME: Final = 505
RESOURCE_ERROR: Final = 506
NOT_ALLOWED: Final = 530
NOT_IMPLEMENTED: Final = 540
INTERNAL_ERROR: Final = 541

REPLY_NAMES: Final[dict[int, str]] = {
    CONTENT_TOO_LARGE: "CONTENT_TOO_LARGE",
    NO_ROUTE: "NO_ROUTE",
    CONNECTION_FORCED: "CONNECTION_FORCED",
    INVALID_PATH: "INVALID_PATH",
    ACCESS_REFUSED: "ACCESS_REFUSED",
    NOT_FOUND: "NOT_FOUND",
    RESOURCE_LOCKED: "RESOURCE_LOCKED",
    PRECONDITION_FAILED: "PRECONDITION_FAILED",
    FRAME_ERROR: "FRAME_ERROR",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    COMMAND_INVALID: "COMMAND_INVALID",
    CHANNEL_ERROR: "CHANNEL_ERROR",
    UNEXPECTED_FRAME: "UNEXPECTED_FRAME",
    RESOURCE_ERROR: "RESOURCE_ERROR",
    NOT_ALLOWED: "NOT_ALLOWED",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    INTERNAL_ERROR: "INTERNAL_ERROR",
}

CHANNEL_SCOPED: Final = frozenset(
    {CONTENT_TOO_LARGE, NO_ROUTE, ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED}
)

REPLY_TEXT_CHARACTERS_MAX: Final = 255
"""A reply text travels as a short string; RabbitMQ cuts longer ones and ends them in `...`."""


class AMQPException(Exception):
    """A refusal with a reply code, the text a client will read and the method at fault."""

    def __init__(self, code: int, explanation: str, method: tuple[int, int] = (0, 0)) -> None:
        super().__init__(code, explanation, method)
        self.code = code
        self.explanation = explanation
        self.class_id, self.method_id = method

    @property
    def reply_text(self) -> str:
        """`NAME - explanation`, never longer than a short string can carry."""
        name = REPLY_NAMES[self.code]
        return cut(f"{name} - {self.explanation}" if self.explanation else name)

    def __str__(self) -> str:
        return self.reply_text


class ChannelException(AMQPException):
    """Closes the channel on which it happened."""


class ConnectionException(AMQPException):
    """Closes the connection on which it happened."""


def amqp_error(
    code: int, explanation: str, method: tuple[int, int] = (0, 0)
) -> ChannelException | ConnectionException:
    """The exception for `code`, scoped as RabbitMQ scopes it."""
    scope = ChannelException if code in CHANNEL_SCOPED else ConnectionException
    return scope(code, explanation, method)


def cut(text: str) -> str:
    """`text` as a short string can carry it: at most 255 octets, `...` where it was cut.

    Names may hold octets that are not UTF-8, as surrogate escapes.
    """
    encoded = text.encode("utf-8", "surrogateescape")
    if len(encoded) <= REPLY_TEXT_CHARACTERS_MAX:
        return text
    return encoded[: REPLY_TEXT_CHARACTERS_MAX - 3].decode("utf-8", "ignore") + "..."
