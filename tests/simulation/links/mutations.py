"""Mistakes to be found: each is planted in the links, and a few seeds have to find it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

from msgspec.structs import replace

from amqpd.commands import Exchange
from amqpd.links.exchange_link import ExchangeLink, FederatedExchange
from amqpd.links.link import Link
from amqpd.links.methods import unchecked
from amqpd.links.tending import Tending
from amqpd.links.upstream import Upstream
from tests.simulation.links.plan import Plan


class Bug:
    """A mistake: none here."""

    def may_show(self, plan: Plan) -> bool:
        """Whether it could be seen in such a network; others are not tried."""
        return True

    @contextmanager
    def planted(self) -> Iterator[None]:
        """While it lasts, it is made."""
        yield


class AckEarly(Bug):
    """What was published is acknowledged at the source, before the destination confirms it."""

    def may_show(self, plan: Plan) -> bool:
        """Something breaks while confirms are under way."""
        return plan.ack_mode == "on-confirm" and plan.trouble == 1 and plan.breaks

    @contextmanager
    def planted(self) -> Iterator[None]:
        """As if every link were on-publish."""
        began = Link.__init__

        def begin(self: Link, *about: Any, **how: Any) -> None:
            began(self, *about, **how)
            self._confirms = False

        with patch.object(Link, "__init__", begin):
            yield


class ForgetHops(Bug):
    """Messages and bindings travel on, however far they came."""

    def may_show(self, plan: Plan) -> bool:
        """There is somewhere farther to go."""
        return plan.kind == "exchange" and plan.max_hops < len(plan.names) - 1

    @contextmanager
    def planted(self) -> Iterator[None]:
        """As if nobody had set a limit."""
        began = ExchangeLink.__init__

        def begin(self: ExchangeLink, upstream: Upstream, *about: Any, **how: Any) -> None:
            began(self, replace(upstream, max_hops=100), *about, **how)

        with patch.object(ExchangeLink, "__init__", begin):
            yield


class ForgetWhereItWas(Bug):
    """A message comes back to where it was."""

    def may_show(self, plan: Plan) -> bool:
        """There is a way back."""
        return plan.kind == "exchange" and plan.shape == "ring"

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The link looks for another name than its broker has, and tells the upstream so."""
        began = ExchangeLink.__init__

        def begin(
            self: ExchangeLink,
            upstream: Upstream,
            exchange: FederatedExchange,
            *about: Any,
            **how: Any,
        ) -> None:
            exchange = exchange._replace(cluster_name=f"not {exchange.cluster_name}")
            began(self, upstream, exchange, *about, **how)

        with patch.object(ExchangeLink, "__init__", begin):
            yield


class Greedy(Bug):
    """The source is not told of the prefetch."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """It sends all it has."""
        began = Link.__init__

        def begin(self: Link, *about: Any, **how: Any) -> None:
            began(self, *about, **how)
            self._prefetch = 0

        with patch.object(Link, "__init__", begin):
            yield


class UnbindFirst(Bug):
    """A link that begins again takes the former bindings away before there are new ones."""

    def may_show(self, plan: Plan) -> bool:
        """Links begin again."""
        return plan.kind == "exchange" and plan.trouble == 1 and plan.breaks

    @contextmanager
    def planted(self) -> Iterator[None]:
        """What is published in between is gone."""
        ensure = ExchangeLink._ensure_bindings

        def ensure_late(self: ExchangeLink) -> Any:
            for suffix in "AB":
                name = f"{self.queue} {suffix}"
                if (yield from self._exists(name)):
                    yield self._command(unchecked(Exchange.Delete, exchange=name))
            yield from ensure(self)

        with patch.object(ExchangeLink, "_ensure_bindings", ensure_late):
            yield


class Impatient(Bug):
    """A link that is to be replaced is cut off, with what it has taken."""

    def may_show(self, plan: Plan) -> bool:
        """Nothing breaks, and links are set again."""
        return plan.is_quick and plan.trouble == 1 and not plan.breaks

    @contextmanager
    def planted(self) -> Iterator[None]:
        """It settles nothing first."""
        stop = Tending._stop

        def cut_off(self: Tending[Any], key: Any, **how: Any) -> None:
            entry = self._entries.get(key)
            stop(self, key, **how)
            if entry is not None and entry.scope is not None:
                entry.scope.cancel()

        with patch.object(Tending, "_stop", cut_off):
            yield


BUGS: Final[dict[str, type[Bug]]] = {
    bug.__name__: bug
    for bug in (AckEarly, ForgetHops, ForgetWhereItWas, Greedy, UnbindFirst, Impatient)
}
