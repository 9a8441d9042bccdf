"""The class `access` of AMQP 0-8, as pamqp writes the others."""

from __future__ import annotations

from typing import ClassVar

from pamqp.base import Frame


class Access:
    """pamqp leaves it out; old clients still ask, and RabbitMQ still grants."""

    class Request(Frame):
        """Ask for an access ticket."""

        # The order on the wire, as in pamqp's classes.
        __slots__: ClassVar[list[str]] = [  # noqa: RUF023
            "realm",
            "exclusive",
            "passive",
            "active",
            "write",
            "read",
        ]
        frame_id: ClassVar[int] = 10
        index: ClassVar[int] = 0x001E000A
        name: ClassVar[str] = "Access.Request"
        synchronous: ClassVar[bool] = True
        valid_responses: ClassVar[list[str]] = ["Access.RequestOk"]

        _realm = "shortstr"
        _exclusive = "bit"
        _passive = "bit"
        _active = "bit"
        _write = "bit"
        _read = "bit"

        realm: str
        exclusive: bool
        passive: bool
        active: bool
        write: bool
        read: bool

    class RequestOk(Frame):
        """Grant it."""

        __slots__: ClassVar[list[str]] = ["ticket"]
        frame_id: ClassVar[int] = 11
        index: ClassVar[int] = 0x001E000B
        name: ClassVar[str] = "Access.RequestOk"

        _ticket = "short"

        def __init__(self, ticket: int = 1) -> None:
            self.ticket = ticket
