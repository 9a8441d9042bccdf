"""The peer at the other end of the broker's own links."""

from __future__ import annotations

from amqpd.broker.definitions import UserRecord
from amqpd.broker.events import INTERNAL_USER
from amqpd.protocol.connection import LoginAttempt
from amqpd.runtime.peer import Peer


class TrustedPeer(Peer):
    """The broker's own link: it need not say who it is, and may do anything in its virtual host."""

    def _login(self, attempt: LoginAttempt, now: float) -> None:
        self._user = UserRecord(INTERNAL_USER, "", "", ())
        self.connection.accept_login()
