"""The laws of the consistent hash exchange: shares by weight, and few keys move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqpd_exchanges.consistent_hash import ConsistentHashExchange
from amqpd_exchanges.exchange import (
    Arguments,
    Exchange,
    InvalidArguments,
    InvalidBinding,
)
from amqpd_exchanges.router import Router
from tests.exchanges.content import Content, Unread

KEYS = [f"key {number}" for number in range(1000)]
few = settings(max_examples=30, deadline=None)

weights = st.dictionaries(
    st.sampled_from([f"q{number}" for number in range(8)]), st.integers(1, 20), min_size=1
)


def router_with(bound: Mapping[str, int], arguments: Arguments | None = None) -> Router[str]:
    router: Router[str] = Router()
    router.declare("x", "x-consistent-hash", arguments=arguments or {})
    for name, weight in bound.items():
        add(router, name, weight)
    return router


def add(router: Router[str], name: str, weight: int) -> None:
    router.add_queue(name, name)
    router.bind("x", name, str(weight), {})


def exchange(router: Router[str]) -> Exchange[str]:
    found = router.find("x")
    assert found is not None
    return found


def homes(router: Router[str]) -> dict[str, str]:
    """Where each of the keys goes: always to exactly one queue."""
    table = {}
    for key in KEYS:
        (table[key],) = router.route(exchange(router), key, Unread())
    return table


@few
@given(bound=weights)
def test_shares_are_as_the_weights(bound: dict[str, int]) -> None:
    """Pearson's test. What is above the bound happens once in a million times: hence never, since
    neither names nor keys change with the run."""
    counts = Counter(homes(router_with(bound)).values())
    total = sum(bound.values())
    distance = 0.0
    for name, weight in bound.items():
        expected = len(KEYS) * weight / total
        distance += (counts[name] - expected) ** 2 / expected
    assert distance < 50  # chi-square with 7 degrees of freedom: 41.0 at one in a million


@few
@given(bound=weights)
def test_the_order_of_bindings_and_a_restart_change_nothing(bound: dict[str, int]) -> None:
    turned = dict(reversed(bound.items()))
    assert homes(router_with(bound)) == homes(router_with(turned))


@few
@given(bound=weights, weight=st.integers(1, 20))
def test_a_new_binding_moves_only_what_it_gets(bound: dict[str, int], weight: int) -> None:
    router = router_with(bound)
    before = homes(router)
    add(router, "new", weight)
    after = homes(router)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} <= {"new"}
    share = weight / (weight + sum(bound.values()))
    deviation = (len(KEYS) * share * (1 - share)) ** 0.5
    assert abs(len(moved) - len(KEYS) * share) < 6 * deviation


@few
@given(bound=weights, data=st.data())
def test_a_binding_that_goes_moves_only_what_it_had(
    bound: dict[str, int], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(bound)))
    router = router_with({**bound, "stays": 1})
    before = homes(router)
    router.unbind("x", gone, str(bound[gone]), {})
    after = homes(router)
    for key in KEYS:
        assert after[key] != gone
        assert before[key] in (after[key], gone)
    router.bind("x", gone, str(bound[gone]), {})
    assert homes(router) == before


@few
@given(bound=weights, data=st.data(), weight=st.integers(1, 20))
def test_a_change_of_weight_moves_keys_in_one_direction(
    bound: dict[str, int], data: st.DataObject, weight: int
) -> None:
    changed = data.draw(st.sampled_from(sorted(bound)))
    before = homes(router_with({**bound, "stays": 3}))
    after = homes(router_with({**bound, changed: weight, "stays": 3}))
    for key in KEYS:
        if before[key] != after[key]:
            assert changed == (after if weight > bound[changed] else before)[key]


def test_no_binding_no_queue() -> None:
    assert router_with({}).route(exchange(router_with({})), "k", Unread()) == ()


def test_a_second_binding_of_a_queue_counts_when_the_first_is_gone() -> None:
    router = router_with({"a": 1, "b": 1})
    before = homes(router)
    router.bind("x", "a", "5", {})
    assert homes(router) == before
    router.unbind("x", "a", "1", {})
    assert homes(router) == homes(router_with({"a": 5, "b": 1}))
    router.unbind("x", "a", "5", {})
    assert set(homes(router).values()) == {"b"}


def test_a_queue_and_an_exchange_of_one_name_are_two_destinations() -> None:
    router = router_with({"same": 1, "end": 1})
    inner = router.declare("same", "fanout")
    router.bind("same", "end", "", {})
    router.bind("x", inner, "1", {})
    assert 0.57 < Counter(homes(router).values())["end"] / len(KEYS) < 0.76  # two thirds


def test_the_first_key_alone_counts() -> None:
    router = router_with({f"q{number}": 1 for number in range(10)})
    for key in KEYS[:50]:
        alone = router.route(exchange(router), key, Unread())
        assert router.route(exchange(router), key, Unread(), ["other", "another"]) == alone


def test_the_routing_key_is_remembered_and_headers_are_not() -> None:
    content = Content()
    by_key = router_with({"a": 1})
    by_key.route(exchange(by_key), "k", content)
    assert content.lasting
    by_header = router_with({"a": 1}, {"hash-header": ("S", "h")})
    by_header.route(exchange(by_header), "k", content)
    assert not content.lasting


def test_by_header() -> None:
    bound = {f"q{number}": 1 for number in range(10)}
    router = router_with(bound, {"hash-header": ("S", "h")})
    start = exchange(router)
    reached = set()
    for number in range(100):
        contents = Content({"h": ("I", number), "other": ("I", number % 7)})
        found = router.route(start, "k", contents)
        assert found == router.route(start, "l", Content({"h": ("l", number)}))
        reached.add(found)
    assert len(reached) == 10
    assert router.route(start, "k", Content()) == router.route(start, "l", Content({"i": ("I", 1)}))


@pytest.mark.parametrize("name", ["message_id", "correlation_id", "timestamp"])
def test_by_property(name: str) -> None:
    bound = {f"q{number}": 1 for number in range(10)}
    router = router_with(bound, {"hash-property": ("S", name)})
    start = exchange(router)
    values: list[str | int] = list(range(100)) if name == "timestamp" else list(KEYS[:100])
    reached = {router.route(start, "k", Content(properties={name: value})) for value in values}
    assert len(reached) == 10
    for value in values:
        found = router.route(start, "k", Content(properties={name: value}))
        assert router.route(start, "l", Content(properties={name: value})) == found
    assert router.route(start, "k", Content()) == router.route(start, "l", Content())


@pytest.mark.parametrize("key", ["1", "+5", "007", "9" * 255])
def test_weights(key: str) -> None:
    router = router_with({"light": 1})
    router.add_queue("q", "q")
    assert router.bind("x", "q", key, {}) is not None
    assert "q" in homes(router).values()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("abc", 'The binding key must be an integer: <<"abc">>'),
        ("", "The binding key must be an integer: <<>>"),
        ("1.5", 'The binding key must be an integer: <<"1.5">>'),
        (" 5", 'The binding key must be an integer: <<" 5">>'),
        ("5 ", 'The binding key must be an integer: <<"5 ">>'),
        ("-", 'The binding key must be an integer: <<"-">>'),
        ("1_0", 'The binding key must be an integer: <<"1_0">>'),
        ("\u0665", 'The binding key must be an integer: <<"\u0665"/utf8>>'),
        ("0", "The binding key must be greater than 0"),
        ("-3", "The binding key must be greater than 0"),
    ],
)
def test_what_is_no_weight(key: str, reason: str) -> None:
    router = router_with({})
    with pytest.raises(InvalidBinding) as refusal:
        exchange(router).validate("q", key, {})
    assert str(refusal.value) == reason
    with pytest.raises(InvalidBinding):
        router.bind("x", "q", key, {})
    assert not exchange(router).bindings


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"hash-property": ("S", "app_id")}, "Unsupported property: app_id"),
        (
            {"hash-header": ("S", "h"), "hash-property": ("S", "message_id")},
            "hash-header and hash-property are mutually exclusive",
        ),
        ({"hash-header": ("I", 5)}, "Invalid argument 5, 'hash-header' must be a string"),
        ({"hash-property": ("t", True)}, "Invalid argument true, 'hash-property' must be a string"),
    ],
)
def test_arguments_that_are_refused(arguments: Arguments, reason: str) -> None:
    with pytest.raises(InvalidArguments) as refusal:
        ConsistentHashExchange.check_arguments(arguments)
    assert str(refusal.value) == reason


@pytest.mark.parametrize("arguments", [{}, {"hash-header": ("S", "")}, {"other": ("I", 1)}])
def test_arguments_that_are_taken(arguments: Arguments) -> None:
    ConsistentHashExchange.check_arguments(arguments)
