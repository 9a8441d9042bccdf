"""The topic exchange: its table of edge cases, its trie against a naive matcher, its bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from amqpd_exchanges.router import Router
from amqpd_exchanges.topic import (
    STEPS_MAX,
    UNUSED_CHANGES_MAX,
    TopicExchange,
    TopicTrie,
    split_words,
)
from tests.exchanges.content import Content


def matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """The definition, word for word; exponential, and meant to be."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return matches(pattern[1:], words) or (bool(words) and matches(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and matches(pattern[1:], words[1:])


@pytest.mark.parametrize(
    ("binding_key", "routing_key", "matched"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.", True),
        ("*.*", "a.", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.*.*", "a..b", True),
        ("a..b", "a..b", True),
        ("a.*.b", "a..b", True),
        ("a.b", "a..b", False),
        ("#", "", True),
        ("", "", True),
        ("*", "", False),
        ("", "a", False),
        ("*", "a", True),
        ("*", ".", False),
        ("*.*", ".", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "a.", True),
        ("a.#", "b.a", False),
        ("#.a", "a", True),
        ("#.a", "b.c.a", True),
        ("#.a", "a.b", False),
        ("a.#.b", "a.b", True),
        ("a.#.b", "a.x.y.b", True),
        ("a.#.b", "a.x.y", False),
        ("#.*", "", False),
        ("#.*", "a.b", True),
        ("*.#", "", False),
        ("*.#", "a", True),
        ("#.#", "", True),
        ("#.#.#", "a.b", True),
        ("#.a.#", "x.a.y", True),
        ("#.a.#.a.#", "a", False),
        ("a*", "a*", True),
        ("a*", "ab", False),
        ("a#.b", "ax.b", False),
        ("**", "a", False),
        ("a.*.c", "a.*.c", True),
        ("a.b.c", "a.*.c", False),
        ("a.b.c", "a.#", False),
        ("a.*", "a.#", True),
        ("#.b", "#.b", True),
    ],
)
def test_edge_table(binding_key: str, routing_key: str, matched: bool) -> None:
    router: Router[str] = Router()
    topic = router.declare("t", "topic")
    router.bind("t", "q", binding_key, {})
    assert list(topic.route(routing_key, Content())) == ["q"] * matched
    assert matches(split_words(binding_key), split_words(routing_key)) is matched
    router.unbind("t", "q", binding_key, {})
    assert list(topic.route(routing_key, Content())) == []


@pytest.mark.parametrize("key", ["a.a.a", ".".join("a" * 40)])
def test_each_pattern_is_found_once(key: str) -> None:
    trie: TopicTrie[str] = TopicTrie()
    patterns = ["#", "#.#", "#.a.#", "#.*.#", "a.#", "#.a"]
    for pattern in patterns:
        trie.add(split_words(pattern), pattern)
    assert Counter(map(str, trie.match(split_words(key)))) == Counter(patterns)


@pytest.mark.parametrize(
    "pattern", ["#." * 126 + "#", "#.a." * 63 + "b", "#.*." * 63 + "b", "*.#." * 63 + "b"]
)
def test_many_hashes_cost_no_more_than_words_times_nodes(pattern: str) -> None:
    # Tried one way after the other, these keys would take longer than the universe has.
    trie: TopicTrie[str] = TopicTrie()
    trie.add(split_words(pattern), "q")
    words = ["a"] * 128
    found = list(trie.match(words))
    nodes = len(split_words(pattern)) + 1
    assert len(found) == (pattern[-1] == "#")
    assert trie.steps <= len(words) * nodes


def test_many_patterns_with_hashes_keep_the_bound_together() -> None:
    trie: TopicTrie[int] = TopicTrie()
    prefixes: set[tuple[str, ...]] = {()}
    for number in range(256):
        words = [word for bit in f"{number:08b}" for word in ("#", "ab"[int(bit)])]
        trie.add(words, number)
        prefixes.update(tuple(words[:length]) for length in range(1, len(words) + 1))
    key = ["a", "b"] * 64
    assert len(list(trie.match(key))) == 128  # those that end in b
    assert trie.steps <= len(key) * len(prefixes)


def test_a_walk_that_looks_at_too_much_is_given_up() -> None:
    """All 6,561 patterns of `a`, `*` and `#` hold nearly every place of the trie at each word."""
    trie: TopicTrie[str] = TopicTrie()
    patient: TopicTrie[str] = TopicTrie(steps_max=1 << 62)
    patterns = [".".join(words) for words in product("a*#", repeat=8)]
    for pattern in patterns:
        trie.add(split_words(pattern), pattern)
        patient.add(split_words(pattern), pattern)
    for key in ("a" * 3, "a" * 8, "ab" * 5, "ab" * 60):
        found = Counter(map(str, trie.match(list(key))))
        assert found == Counter(map(str, patient.match(list(key))))
        assert trie.steps <= STEPS_MAX
    assert trie._bits is not None
    trie.remove(split_words(patterns[0]), patterns[0])
    trie.add(split_words("a.#.b.#.c"), "new")
    assert patterns[0] not in set(trie.match(["a"] * 8))
    assert "new" in set(trie.match(["a", "b", "a", "b", "c", "b", "c"]))


def test_bits_that_nobody_needs_are_dropped() -> None:
    trie: TopicTrie[int] = TopicTrie(steps_max=0)
    trie.add(["*"], 0)
    assert list(trie.match(["a"])) == [0]
    for number in range(1, UNUSED_CHANGES_MAX + 1):
        trie.add(["#", str(number)], number)
    assert trie._bits is not None
    trie.remove(["#", "1"], 1)
    assert trie._bits is None
    assert set(trie.match(["7"])) == {0, 7}


def test_bits_are_made_anew_when_they_are_worn() -> None:
    trie: TopicTrie[int] = TopicTrie(steps_max=0)
    trie.add(["*"], 0)
    for number in range(3000):
        trie.add(["#", str(number), "#"], number)
        assert 0 in list(trie.match(["a"]))
        trie.remove(["#", str(number), "#"], number)
        assert trie._bits is None or trie._bits._size < 5000
    assert list(trie.match(["a"])) == [0]


WORDS = st.sampled_from(["a", "b", "", "*", "#", "a*"])
KEYS = st.lists(WORDS, max_size=6).map(".".join)


class TrieMachine(RuleBasedStateMachine):
    """The topic exchange answers as the naive matcher does, whatever came and went before."""

    bound = Bundle("bound")

    def __init__(self) -> None:
        super().__init__()
        self.router: Router[str] = Router()
        self.exchange = self.router.declare("t", "topic")
        self.bindings: set[tuple[str, str]] = set()

    @rule(target=bound, queue=st.sampled_from(["q1", "q2", "q3"]), key=KEYS)
    def bind(self, queue: str, key: str) -> tuple[str, str]:
        added = self.router.bind("t", queue, key, {})
        assert (added is None) == ((queue, key) in self.bindings)
        self.bindings.add((queue, key))
        return queue, key

    @rule(binding=consumes(bound))
    def unbind(self, binding: tuple[str, str]) -> None:
        removed = self.router.unbind("t", *binding, {})
        assert (removed is None) == (binding not in self.bindings)
        self.bindings.discard(binding)

    @rule(key=KEYS)
    def route(self, key: str) -> None:
        words = split_words(key)
        expected = {queue for queue, bound in self.bindings if matches(split_words(bound), words)}
        assert set(self.exchange.route(key, Content())) == expected

    @rule(queue=st.sampled_from(["q1", "q2", "q3"]))
    def remove_queue(self, queue: str) -> None:
        removed = {(queue, binding.routing_key) for binding in self.router.remove_queue("", queue)}
        assert removed == {binding for binding in self.bindings if binding[0] == queue}
        self.bindings -= removed

    @invariant()
    def count_agrees(self) -> None:
        assert len(self.exchange.bindings) == len(self.bindings)


TestTrie = TrieMachine.TestCase


class AllAtOnceMachine(TrieMachine):
    """The same, without the trie's walk."""

    def __init__(self) -> None:
        super().__init__()
        assert isinstance(self.exchange, TopicExchange)
        self.exchange._patterns = TopicTrie(steps_max=0)


TestAllAtOnce = AllAtOnceMachine.TestCase


class PruningMachine(RuleBasedStateMachine):
    """After the last removal the trie is as empty as it was made."""

    added = Bundle("added")

    def __init__(self) -> None:
        super().__init__()
        self.trie: TopicTrie[str] = TopicTrie()
        self.patterns: Counter[str] = Counter()

    @rule(target=added, key=KEYS)
    def add(self, key: str) -> str:
        self.trie.add(split_words(key), "q")
        self.patterns[key] += 1
        return key

    @rule(key=consumes(added))
    def remove(self, key: str) -> None:
        self.trie.remove(split_words(key), "q")
        self.patterns[key] -= 1

    @invariant()
    def empty_when_nothing_is_bound(self) -> None:
        assert self.trie.is_empty() == (not +self.patterns)

    def teardown(self) -> None:
        for key in list(self.patterns.elements()):
            self.remove(key)
        assert self.trie.is_empty()


TestPruning = PruningMachine.TestCase
