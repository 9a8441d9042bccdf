"""Random and local random exchanges, the modulus hash exchange, and what they are made of."""

from __future__ import annotations

from collections import Counter

import pytest

from amqpd_exchanges.chance import Chance, mixed
from amqpd_exchanges.exchange import Exchange, InvalidBinding
from amqpd_exchanges.hashing import hash_of
from amqpd_exchanges.router import Router
from tests.exchanges.content import Unread


def router_with(kind: str, *names: str, seed: int = 0) -> tuple[Router[str], Exchange[str]]:
    router: Router[str] = Router(seed=seed)
    exchange = router.declare("x", kind)
    for name in names:
        router.add_queue(name, name)
        router.bind("x", name, "", {})
    return router, exchange


def test_splitmix64() -> None:
    """The first numbers of the reference implementation, from its seed 1234567."""
    state = 1234567
    numbers = []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        numbers.append(mixed(state))
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 1000])
def test_numbers_are_even(bound: int) -> None:
    chance = Chance(7)
    counts = Counter(chance.below(bound) for _ in range(20 * bound + 10_000))
    assert set(counts) <= set(range(bound))
    expected = (20 * bound + 10_000) / bound
    distance = sum((counts[n] - expected) ** 2 / expected for n in range(bound))
    assert distance < bound + 5 * (2 * bound) ** 0.5 + 15


def test_hashes_are_for_ever() -> None:
    """What went to a queue before an upgrade goes there after it."""
    assert hash_of("") == 0xB4B2797457A0A6E4
    assert hash_of("a") == 0x2F42665B399EF840
    assert hash_of("\udcff") == 0x91BF0C83D9EE2EA7  # an octet that is not UTF-8


@pytest.mark.parametrize("kind", ["x-random", "x-local-random"])
def test_each_binding_has_its_turn(kind: str) -> None:
    router, exchange = router_with(kind, "a", "b", "c", "d")
    counts = Counter(router.route(exchange, "k", Unread()) for _ in range(4000))
    assert set(counts) == {("a",), ("b",), ("c",), ("d",)}
    assert all(850 < count < 1150 for count in counts.values())


@pytest.mark.parametrize("kind", ["x-random", "x-local-random"])
def test_chance_is_asked_anew_for_each_message_and_once(kind: str) -> None:
    router, exchange = router_with(kind, "a", "b")
    content = Unread()
    assert {router.route(exchange, "k", content) for _ in range(50)} == {("a",), ("b",)}
    assert not content.lasting
    for _ in range(50):
        assert len(router.route(exchange, "k", Unread(), ["l", "m"])) == 1


@pytest.mark.parametrize("kind", ["x-random", "x-local-random"])
def test_bindings_come_and_go(kind: str) -> None:
    router, exchange = router_with(kind)
    assert router.route(exchange, "k", Unread()) == ()
    router.add_queue("a", "a")
    router.bind("x", "a", "", {})
    assert router.route(exchange, "k", Unread()) == ("a",)
    router.add_queue("b", "b")
    router.bind("x", "b", "", {})
    router.unbind("x", "a", "", {})
    assert {router.route(exchange, "k", Unread()) for _ in range(20)} == {("b",)}


def test_two_bindings_are_two_chances() -> None:
    router, exchange = router_with("x-random", "a", "b")
    router.bind("x", "a", "other", {})
    counts = Counter(router.route(exchange, "k", Unread()) for _ in range(3000))
    assert 1850 < counts[("a",)] < 2150


def test_another_seed_is_another_sequence() -> None:
    sequences = []
    for seed in (1, 1, 2):
        router, exchange = router_with("x-random", "a", "b", seed=seed)
        sequences.append([router.route(exchange, "k", Unread()) for _ in range(64)])
    assert sequences[0] == sequences[1] != sequences[2]


def test_what_local_random_does_not_bind() -> None:
    router, exchange = router_with("x-local-random", "a")
    with pytest.raises(InvalidBinding, match=r"^Non empty binding 'k' key not permitted$"):
        router.bind("x", "a", "k", {})
    with pytest.raises(InvalidBinding, match=r"^Destination not found$"):
        router.bind("x", exchange, "", {})
    assert len(exchange.bindings) == 1


def test_modulus_hash_by_key_and_whatever_the_order() -> None:
    names = ["a", "b", "c", "d"]
    router, exchange = router_with("x-modulus-hash", *names)
    turned, turned_exchange = router_with("x-modulus-hash", *reversed(names))
    counts: Counter[tuple[str, ...]] = Counter()
    for number in range(4000):
        content = Unread()
        found = router.route(exchange, f"key {number}", content)
        assert content.lasting
        assert turned.route(turned_exchange, f"key {number}", Unread(), ["other"]) == found
        counts[found] += 1
    assert len(counts) == 4
    assert all(850 < count < 1150 for count in counts.values())
    router.unbind("x", "a", "", {})
    assert all(router.route(exchange, f"key {number}", Unread()) != ("a",) for number in range(50))


def test_modulus_hash_without_bindings() -> None:
    router, exchange = router_with("x-modulus-hash")
    assert router.route(exchange, "k", Unread()) == ()
