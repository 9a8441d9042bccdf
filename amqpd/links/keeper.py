"""Keeps a link going: connects, runs it, and begins again after its delay, for ever.

    keeper.run(surroundings)     attempts, each with the next of the URIs
    keeper.retire()              take nothing more, settle what was taken, and end

What kind of link it is, and how it is shown, is for the subclasses.
"""

from __future__ import annotations

import logging
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, Final

import anyio

from amqpd.links.client import LinkClient
from amqpd.links.link import Link, LinkFailed
from amqpd.links.runner import ENDS, LinkRun, Side, Surroundings, describe_end
from amqpd.links.uri import LinkURI

RECONNECT_DELAY_MIN_S: Final = 0.1
"""However short a delay was asked for: attempts without end leave no processor to others."""


class Keeper(ABC):
    """One link, however often it has to be begun again, and how it is."""

    KIND: ClassVar[str]
    """In the log."""

    def __init__(
        self,
        vhost: str,
        name: str,
        reconnect_delay_s: float,
        epoch_s: Callable[[], float],
        logger: logging.Logger,
    ) -> None:
        self.vhost = vhost
        self.name = name
        self.reconnect_delay_s = reconnect_delay_s
        """0: do not reconnect."""
        self.state = "starting"
        """starting, running or terminated."""
        self.reason = ""
        """Why it is terminated."""
        self.last_error = ""
        """Why it was terminated last, even if it runs again."""
        self.changed_epoch_s = epoch_s()
        self.running_since_epoch_s: float | None = None
        self.attempts = 0
        self.link: Link | None = None
        """The attempt under way."""
        self._run: LinkRun | None = None
        self._retired = False
        self._epoch_s = epoch_s
        self._logger = logger

    @property
    def uptime_ms(self) -> int | None:
        """How long it has been running; None if it is not."""
        if self.running_since_epoch_s is None:
            return None
        return int((self._epoch_s() - self.running_since_epoch_s) * 1000)

    # -- for the kind of link

    @abstractmethod
    async def _connect_both(self, around: Surroundings, attempt: int) -> tuple[Side, Side]:
        """Source and destination. Raises LinkFailed."""

    @abstractmethod
    def _make(self, around: Surroundings, source: Side, destination: Side) -> Link:
        """What is to run on them."""

    def _details(self) -> dict[str, Any]:
        """What the log says of it, beside its name."""
        return {"vhost": self.vhost}

    def _status_changed(self) -> None:  # noqa: B027
        """It is starting, running or terminated."""

    # -- running

    async def run(self, around: Surroundings) -> bool:
        """Move messages. True when the link has done all that it was to do; False when it failed
        and is not to be tried again, or was retired."""
        while not self._retired:
            self._set("starting")
            try:
                await self._attempt(around)
            except LinkFailed as failure:
                self._failed(str(failure))
            except Exception:
                # A bug of ours, or the other end's with one: the next attempt may fare better.
                self._failed(self.internal_error())
            else:
                return not self._retired
            finally:
                self.link = self._run = None
                self.running_since_epoch_s = None
            if self._retired or not self.reconnect_delay_s:
                return False
            await around.sleep(max(self.reconnect_delay_s, RECONNECT_DELAY_MIN_S))
        return False

    def retire(self) -> bool:
        """Take nothing more, settle what was taken, and end; whether there is anything to wait
        for."""
        self._retired = True
        if self._run is None:
            return False
        self._run.retire()
        return True

    def wake(self) -> None:
        """The link may have something to say."""
        if self._run is not None:
            self._run.wake()

    def break_off(self, reason: str) -> None:
        """End the attempt under way: it has failed."""
        if self._run is not None:
            self._run.end(reason)

    def internal_error(self) -> str:
        """Log the exception that is being handled, which is a bug; what to say of it."""
        self._logger.exception("internal error", extra={"link": self.name})
        return "internal error: see the log"

    def fail(self, reason: str) -> None:
        """It is over, for a reason that is not the link's."""
        self._set("terminated", reason)

    async def _attempt(self, around: Surroundings) -> None:
        """Connect and run to the end. Raises LinkFailed."""
        number, self.attempts = self.attempts, self.attempts + 1
        source, destination = await self._connect_both(around, number)
        self.link = self._make(around, source, destination)
        self._run = LinkRun(self.link, (source, destination), around, self._runs)
        if self._retired:
            self._run.retire()
        await self._run.run()

    async def _connect(
        self, around: Surroundings, side: str, uri: LinkURI, connection_name: str
    ) -> Side:
        """To one broker. Raises LinkFailed."""
        try:
            transport = await around.connect(uri, self.vhost)
        except (ssl.SSLError, *ENDS) as error:
            reason = describe_end(error)
            raise LinkFailed(f"{side}: cannot connect to {uri.shown}: {reason}") from None
        return Side(LinkClient(uri, self.vhost, connection_name, around.now()), transport)

    def _runs(self) -> None:
        self.running_since_epoch_s = self._epoch_s()
        self._set("running")
        details = {"link": self.name} | self._details()
        self._logger.info(f"{self.KIND} running", extra=details)
        for warning in [] if self.link is None else self.link.warnings:
            self._logger.warning(warning, extra=details)

    def _failed(self, reason: str) -> None:
        self._set("terminated", reason)
        details = {"link": self.name, **self._details(), "reason": reason}
        if self.uptime_ms is not None:
            details["uptime_s"] = self.uptime_ms // 1000
        if self.link is not None and self.link.lag is not None:
            details["lag"] = self.link.lag
        details["retry_s"] = self.reconnect_delay_s or "never"
        self._logger.warning(f"{self.KIND} failed", extra=details)

    def _set(self, state: str, reason: str = "") -> None:
        self.last_error = reason or self.last_error
        if state != self.state or reason != self.reason:
            self.state, self.reason = state, reason
            self.changed_epoch_s = self._epoch_s()
            self._status_changed()


async def hang_up(side: Side) -> None:
    """Give up a connection that was never used, at once: who is at its other end may be silent,
    and TLS would wait for a last word."""
    with suppress(*ENDS), anyio.CancelScope() as scope:
        scope.cancel()
        await side.transport.aclose()
