"""All exchanges of one virtual host, the bindings between them, and the way to the queues.

Rules:

- A message visits each exchange once and each queue gets it once, in the order of first match.
  Exchanges bound to exchanges may form cycles.
- An exchange's alternate is asked only when no binding of that exchange matched, under any of the
  message's keys. A binding that leads to an exchange is a match, wherever that leads. An alternate
  that does not exist is passed over, and so is the default exchange: its implicit bindings hold for
  what is published to it alone.
- Results are remembered by exchange and routing key, and all forgotten at any change; `version`
  grows with each, so that a caller can remember a result too. A result that headers had a part in,
  or the keys of CC and BCC, is not remembered.
- A queue with very many bindings is gone at once for whoever asks, and its bindings leave the
  indexes of their exchanges a little at a time (`sweep`).
- The broker has checked names, permissions and exclusivity before it calls: what is missing here
  is a bug there. Deleting exchanges that nothing is bound to any longer is the broker's duty too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, Generic

from amqpd_exchanges.chance import Chance
from amqpd_exchanges.consistent_hash import ConsistentHashExchange
from amqpd_exchanges.deduplication import DeduplicationExchange
from amqpd_exchanges.default import DefaultExchange
from amqpd_exchanges.delayed import INNER_KINDS, DelayedExchange
from amqpd_exchanges.direct import DirectExchange
from amqpd_exchanges.exchange import (
    NO_ARGUMENTS,
    Arguments,
    Binding,
    Content,
    Declaration,
    Destination,
    Exchange,
    Q,
    binding_identity,
)
from amqpd_exchanges.fanout import FanoutExchange
from amqpd_exchanges.federation_upstream import FederationUpstreamExchange
from amqpd_exchanges.headers import HeadersExchange
from amqpd_exchanges.local_random import LocalRandomExchange
from amqpd_exchanges.modulus_hash import ModulusHashExchange
from amqpd_exchanges.random import RandomExchange
from amqpd_exchanges.recent_history import RecentHistoryExchange
from amqpd_exchanges.shrinking import shrink
from amqpd_exchanges.topic import TopicExchange

__all__ = ["KINDS", "Router"]

KINDS: Final[dict[str, type[Exchange[Any]]]] = {
    exchange.kind: exchange
    for exchange in (
        DirectExchange,
        FanoutExchange,
        HeadersExchange,
        TopicExchange,
        ConsistentHashExchange,
        DeduplicationExchange,
        FederationUpstreamExchange,
        LocalRandomExchange,
        ModulusHashExchange,
        RandomExchange,
        RecentHistoryExchange,
    )
}
"""The types that exchange.declare may ask for.

To add one: a file of its own with a subclass of Exchange; `remembered` False if anything but the
routing key has a part in its answers (headers, chance, a turn taken); `routes_once` True if a
message with CC must pass it only once; `check_arguments` for what exchange.declare may say;
InvalidBinding from `bind` and `validate`, before anything is changed, with RabbitMQ's text; an
entry here; and, if its answers are a matter of bindings alone, a line in the model of
tests/exchanges/test_router_model.py. The default exchange is no entry on purpose: nobody may
declare another one.
"""

UNBOUND_AT_ONCE: Final = 500
"""Bindings of a queue that is removed; it takes about two milliseconds."""

_NO_ARGUMENTS: Final[dict[str, Any]] = {}

# Any of these may be the type behind a delayed exchange, which is none of them itself.
INNER_KINDS.update(KINDS)
KINDS[DelayedExchange.kind] = DelayedExchange


class Router(Generic[Q]):
    """Exchanges and bindings of one virtual host. `Q` is whatever object the broker calls a queue.

    `cache_max` bounds the remembered results: the number of keys and of queues in them, together.
    `seed` begins the numbers by which random exchanges choose.
    """

    __slots__ = (
        "_bindings_to",
        "_cache",
        "_cache_max",
        "_cache_size",
        "_chance",
        "_default",
        "_exchanges",
        "_gone",
        "_queue_names",
        "version",
    )

    def __init__(self, cache_max: int = 16384, seed: int = 0) -> None:
        self.version = 0
        self._chance = Chance(seed)
        self._cache_max = cache_max
        self._cache_size = 0
        # By exchange object rather than by name: one that was deleted can't answer for its heir.
        self._cache: dict[tuple[Exchange[Q], str], tuple[Q, ...]] = {}
        self._bindings_to: dict[Destination[Q], dict[Binding[Q], None]] = {}
        self._queue_names: dict[Q, str] = {}
        self._gone: dict[Q, list[Binding[Q]]] = {}
        """Queues that were removed, and their bindings that are still to be unbound."""
        self._default: DefaultExchange[Q] = DefaultExchange(
            Declaration("", on_change=self._changed)
        )
        self._exchanges: dict[str, Exchange[Q]] = {"": self._default}

    def declare(
        self,
        name: str,
        kind: str,
        alternate: str | None = None,
        arguments: Arguments = NO_ARGUMENTS,
    ) -> Exchange[Q]:
        """Make an exchange that does not exist yet. An unknown kind is a KeyError.

        The arguments have passed the kind's `check_arguments`.
        """
        assert name not in self._exchanges, "declared twice"
        exchange: Exchange[Q] = KINDS[kind](
            Declaration(name, arguments, alternate, self._changed, self._chance, self._gone)
        )
        self._exchanges[name] = exchange
        self._changed()
        return exchange

    def find(self, name: str) -> Exchange[Q] | None:
        return self._exchanges.get(name)

    def exchanges(self) -> Collection[Exchange[Q]]:
        """All exchanges, the default one first, in order of declaration: a live view."""
        return self._exchanges.values()

    def delete(self, name: str) -> list[Binding[Q]]:
        """Delete an exchange, and return the bindings that went with it, from it and to it."""
        exchange = self._exchanges.get(name)
        if exchange is None:
            return []
        assert exchange is not self._default, "the default exchange stays"
        removed = list(exchange.bindings)
        for binding in removed:
            self._remove(binding)
        removed += self._remove_bindings_to(exchange)
        del self._exchanges[name]
        self._changed()
        return removed

    def add_queue(self, name: str, queue: Q) -> None:
        """The default exchange routes to `queue` by this name from now on."""
        assert name not in self._default.queues, "added twice"
        assert queue not in self._gone, "a queue that was removed does not come back"
        self._default.queues[name] = (queue,)
        self._queue_names[queue] = name
        self._changed()

    def remove_queue(self, name: str, queue: Q) -> list[Binding[Q]]:
        """Forget a queue, and return the explicit bindings that led to it."""
        self._default.queues.pop(name, None)
        self._queue_names.pop(queue, None)
        shrink(self._default.queues)
        shrink(self._queue_names)
        removed = list(self._bindings_to.pop(queue, ()))
        shrink(self._bindings_to)
        at_once = removed
        if len(removed) > UNBOUND_AT_ONCE:
            at_once, later = [], removed[:]
            if any(source.chooses for source in {binding.source for binding in removed}):
                # Who chooses among destinations must not choose one that is gone.
                at_once = [binding for binding in removed if binding.source.chooses]
                later = [binding for binding in removed if not binding.source.chooses]
            self._gone[queue] = later
        for binding in at_once:
            binding.source.unbind(binding)
        self._changed()
        return removed

    @property
    def is_swept(self) -> bool:
        """Whether no binding is left of a queue that was removed."""
        return not self._gone

    def sweep(self, bindings_max: int = UNBOUND_AT_ONCE) -> None:
        """Unbind so many of them. To be called until `is_swept`, now and then."""
        for _ in range(bindings_max):
            if not self._gone:
                break
            queue, bindings = next(iter(self._gone.items()))
            if bindings:
                binding = bindings.pop()
                binding.source.unbind(binding)
            if not bindings:
                del self._gone[queue]

    def bind(
        self, source: str, destination: Destination[Q], routing_key: str, arguments: Arguments
    ) -> Binding[Q] | None:
        """Add a binding; None when it was there already. Raises InvalidBinding."""
        exchange = self._exchanges[source]
        identity = binding_identity(exchange, destination, routing_key, arguments)
        if exchange.binding(identity) is not None:
            return None
        # Most have no arguments: they share the table that says so.
        table = arguments or _NO_ARGUMENTS
        name = self._name_of(destination)
        binding = Binding(exchange, destination, routing_key, table, identity, name)
        exchange.bind(binding)
        self._bindings_to.setdefault(destination, {})[binding] = None
        self._changed()
        return binding

    def unbind(
        self, source: str, destination: Destination[Q], routing_key: str, arguments: Arguments
    ) -> Binding[Q] | None:
        """Remove a binding and return it; None when there was none, or no such exchange."""
        exchange = self._exchanges.get(source)
        if exchange is None:
            return None
        identity = binding_identity(exchange, destination, routing_key, arguments)
        binding = exchange.binding(identity)
        if binding is not None:
            self._remove(binding)
            self._changed()
        return binding

    def bindings_to(self, destination: Destination[Q]) -> Collection[Binding[Q]]:
        """The explicit bindings to a queue or exchange, in order of creation.

        A view: good until the next change.
        """
        return self._bindings_to.get(destination, {}).keys()

    def bindings_from(self, exchange: Exchange[Q]) -> Collection[Binding[Q]]:
        """The explicit bindings from an exchange, in order of creation: a live view."""
        return exchange.bindings

    def route(
        self,
        exchange: Exchange[Q],
        routing_key: str,
        content: Content,
        extra_keys: Sequence[str] = (),
    ) -> tuple[Q, ...]:
        """The queues that get a message published to `exchange`, each once.

        Whether the next message with this key gets to them too is left in `content.lasting`.
        `extra_keys` are those of the message's CC and BCC headers.
        """
        if extra_keys:
            content.lasting = False
            return self._walk(exchange, dict.fromkeys((routing_key, *extra_keys)), content)
        if exchange is self._default:
            return self._default.queues.get(routing_key, ())
        queues = self._cache.get((exchange, routing_key))
        if queues is None:
            queues = self._walk(exchange, (routing_key,), content)
            if content.lasting:
                self._remember(exchange, routing_key, queues)
        return queues

    def _walk(self, start: Exchange[Q], keys: Collection[str], content: Content) -> tuple[Q, ...]:
        queues: dict[Q, None] = {}
        path = [start]  # grows while it is walked
        seen = {start}
        for exchange in path:
            if not exchange.remembered:
                content.lasting = False
            matched = False
            for key in keys:
                destinations = exchange.route(key, content)
                if self._gone:
                    destinations = [each for each in destinations if each not in self._gone]
                for destination in destinations:
                    matched = True
                    if not isinstance(destination, Exchange):
                        queues[destination] = None
                    elif destination not in seen:
                        seen.add(destination)
                        path.append(destination)
                if exchange.routes_once:
                    break
            if not matched and exchange.alternate:
                alternate = self._exchanges.get(exchange.alternate)
                if alternate is not None and alternate not in seen:
                    seen.add(alternate)
                    path.append(alternate)
        return tuple(queues)

    def _name_of(self, destination: Destination[Q]) -> str:
        if isinstance(destination, Exchange):
            return destination.name
        return self._queue_names.get(destination, "")

    def _remember(self, exchange: Exchange[Q], routing_key: str, queues: tuple[Q, ...]) -> None:
        # The queues count as well: keys are a peer's choice, and a thousand new ones through a
        # fanout to a thousand queues are a million references.
        size = 1 + len(queues)
        if self._cache_size + size > self._cache_max:
            self._forget()
        if size <= self._cache_max:
            self._cache[exchange, routing_key] = queues
            self._cache_size += size

    def _forget(self) -> None:
        self._cache.clear()
        self._cache_size = 0

    def _changed(self) -> None:
        self.version += 1
        self._forget()

    def _remove(self, binding: Binding[Q]) -> None:
        binding.source.unbind(binding)
        siblings = self._bindings_to[binding.destination]
        del siblings[binding]
        if not siblings:
            del self._bindings_to[binding.destination]

    def _remove_bindings_to(self, destination: Destination[Q]) -> list[Binding[Q]]:
        removed = list(self._bindings_to.pop(destination, ()))
        for binding in removed:
            binding.source.unbind(binding)
        return removed
