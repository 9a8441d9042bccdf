"""The topic exchange: binding keys are patterns of words.

Words are what stands between dots: `*` matches exactly one, `#` zero or more. An empty word is a
word (`a.` has two), but the empty key has none. A wildcard inside a word (`a*`) is literal.

Binding keys without wildcards match only themselves, so they stay in a dict. The others are paths
in a trie:

    a.*.c   a.#   #.c            root
                                 ├── a ──┬── * ─── c    [a.*.c]
                                 │       └── #          [a.#]
                                 └── # ───── c          [#.c]

The walk goes word by word and holds the nodes that the words so far lead to. A `#` node is entered
together with its parent (it may match nothing) and stays for good (it may match everything that
follows). So no node is held twice, and a key of n words looks at no more than n times the nodes of
the trie, however many `#` a peer has put into its keys. Where even that is too much, because a peer
has made patterns for the purpose, the walk is given up, and `topic_bits` takes all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final, Generic

from amqpd_exchanges.exchange import (
    Binding,
    Content,
    Declaration,
    Destination,
    Destinations,
    Exchange,
    Q,
    drop_destination,
    take_destination,
)
from amqpd_exchanges.topic_bits import PatternBits

__all__ = ["TopicExchange", "TopicTrie", "split_words"]


STEPS_MAX: Final = 8192
"""Nodes that a walk may look at, about two milliseconds, before it is given up."""
UNUSED_CHANGES_MAX: Final = 1024
"""So many patterns may come and go before the bits that nobody has needed meanwhile are dropped."""


def split_words(key: str) -> list[str]:
    """The words of a routing or binding key."""
    return key.split(".") if key else []


class TopicExchange(Exchange[Q]):
    """Destinations by exact key, and a trie for the keys with wildcards."""

    __slots__ = ("_by_key", "_patterns")

    kind: ClassVar[str] = "topic"

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(declaration)
        self._by_key: dict[str, Destinations[Q]] = {}
        self._patterns: TopicTrie[Q] = TopicTrie()

    def bind(self, binding: Binding[Q]) -> None:
        super().bind(binding)
        key = binding.routing_key
        words = split_words(key)
        if _has_wildcards(words):
            self._patterns.add(words, binding.destination)
        else:
            take_destination(self._by_key.setdefault(key, {}), binding.destination)

    def unbind(self, binding: Binding[Q]) -> None:
        super().unbind(binding)
        key = binding.routing_key
        words = split_words(key)
        if _has_wildcards(words):
            self._patterns.remove(words, binding.destination)
            return
        destinations = self._by_key[key]
        drop_destination(destinations, binding.destination)
        if not destinations:
            del self._by_key[key]

    def route(self, routing_key: str, content: Content) -> Iterable[Destination[Q]]:
        exact = self._by_key.get(routing_key)
        if self._patterns.is_empty():
            return exact if exact is not None else ()
        found = self._patterns.match(split_words(routing_key))
        return found if exact is None else [*exact, *found]


class TopicTrie(Generic[Q]):
    """Patterns of words, each with the destinations bound by it."""

    __slots__ = ("_bits", "_destinations", "_root", "_steps_max", "_unused_changes", "steps")

    def __init__(self, steps_max: int = STEPS_MAX) -> None:
        self._root: _Node[Q] = _Node()
        self._destinations: Destinations[Q] = {}
        self._steps_max = steps_max
        self._bits: PatternBits[_Node[Q]] | None = None
        self._unused_changes = 0
        self.steps = 0
        """Nodes that the last `match` looked at; the tests hold it to its bound."""

    def is_empty(self) -> bool:
        return self._root.is_bare()

    def add(self, words: Sequence[str], destination: Destination[Q]) -> None:
        """One more binding with the pattern `words` leads to `destination`."""
        node = self._root
        for word in words:
            child = node.child(word)
            if child is None:
                child = _Node()
                node.set_child(word, child)
            node = child
        if self._bits is not None and not node.destinations:
            self._bits.add(words, node)
            self._changed(self._bits)
        take_destination(node.destinations, destination)
        take_destination(self._destinations, destination)

    def remove(self, words: Sequence[str], destination: Destination[Q]) -> None:
        """Take back one `add`, and the nodes that nothing needs any longer."""
        path = [self._root]
        for word in words:
            child = path[-1].child(word)
            assert child is not None, "removed what was never added"
            path.append(child)
        node = path[-1]
        drop_destination(node.destinations, destination)
        drop_destination(self._destinations, destination)
        if self._bits is not None and not node.destinations:
            self._bits.remove(node)
            self._changed(self._bits)
        for depth in range(len(words) - 1, -1, -1):
            if not path[depth + 1].is_bare():
                break
            path[depth].set_child(words[depth], None)

    def match(self, words: Sequence[str]) -> Iterable[Destination[Q]]:
        """The destinations of all patterns that match, at most once for each pattern."""
        found: list[Destination[Q]] = []
        held = [self._root]
        entered: set[_Node[Q]] = set()  # the `#` nodes met so far
        kept: list[_Node[Q]] = []  # those of them that lead on
        steps = 0
        if self._root.hash is not None:
            _enter_hash(self._root.hash, entered, kept, found)
        for word in words:
            nodes = [*held, *kept]
            if not nodes:
                break
            if steps + len(nodes) > self._steps_max:
                self.steps = steps
                return self._match_all_at_once(words)
            steps += len(nodes)
            held = []
            for node in nodes:
                literal = node.literals.get(word)
                if literal is not None:
                    held.append(literal)
                    if literal.hash is not None:
                        _enter_hash(literal.hash, entered, kept, found)
                star = node.star
                if star is not None:
                    held.append(star)
                    if star.hash is not None:
                        _enter_hash(star.hash, entered, kept, found)
        for node in held:
            found.extend(node.destinations)
        self.steps = steps
        return found

    def _match_all_at_once(self, words: Sequence[str]) -> Iterable[Destination[Q]]:
        """The same, each once, when there is too much to look at one after the other."""
        if self._bits is None:
            self._bits = PatternBits(self._patterns())
        self._unused_changes = 0
        found: Destinations[Q] = {}
        for node in self._bits.match(words):
            found.update(node.destinations)
            if len(found) == len(self._destinations):
                break  # more patterns lead nowhere else
        return found

    def _changed(self, bits: PatternBits[_Node[Q]]) -> None:
        """Whoever makes many bindings need not pay for what nobody uses."""
        self._unused_changes += 1
        if self._unused_changes > UNUSED_CHANGES_MAX or bits.is_worn:
            self._bits = None

    def _patterns(self) -> Iterator[tuple[list[str], _Node[Q]]]:
        """Each with the node at which it ends."""
        waiting: list[tuple[list[str], _Node[Q]]] = [([], self._root)]
        while waiting:
            words, node = waiting.pop()
            if node.destinations:
                yield words, node
            waiting += [([*words, word], child) for word, child in node.children()]


class _Node(Generic[Q]):
    """A place in the trie: what comes next, and the destinations of the pattern that ends here."""

    __slots__ = ("destinations", "hash", "literals", "star")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[Q]] = {}
        self.star: _Node[Q] | None = None
        self.hash: _Node[Q] | None = None
        self.destinations: Destinations[Q] = {}

    def leads_on(self) -> bool:
        return bool(self.literals) or self.star is not None or self.hash is not None

    def is_bare(self) -> bool:
        return not self.destinations and not self.leads_on()

    def child(self, word: str) -> _Node[Q] | None:
        if word == "*":
            return self.star
        if word == "#":
            return self.hash
        return self.literals.get(word)

    def children(self) -> Iterator[tuple[str, _Node[Q]]]:
        yield from self.literals.items()
        if self.star is not None:
            yield "*", self.star
        if self.hash is not None:
            yield "#", self.hash

    def set_child(self, word: str, child: _Node[Q] | None) -> None:
        if word == "*":
            self.star = child
        elif word == "#":
            self.hash = child
        elif child is None:
            del self.literals[word]
        else:
            self.literals[word] = child


def _enter_hash(
    node: _Node[Q],
    entered: set[_Node[Q]],
    kept: list[_Node[Q]],
    found: list[Destination[Q]],
) -> None:
    """Enter a `#` node, and those right behind it: each of them may match zero words.

    What is bound here matches already, since a `#` takes all the words that are left.
    """
    following: _Node[Q] | None = node
    while following is not None and following not in entered:
        entered.add(following)
        found.extend(following.destinations)
        if following.leads_on():
            kept.append(following)
        following = following.hash


def _has_wildcards(words: Sequence[str]) -> bool:
    return "*" in words or "#" in words
