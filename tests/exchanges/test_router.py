"""The router: one case for each of its rules. What they do together: test_router_model.py."""

from __future__ import annotations

from itertools import pairwise

import pytest

from amqpd_exchanges.exchange import Arguments, Exchange
from amqpd_exchanges.router import KINDS, UNBOUND_AT_ONCE, Router
from tests.exchanges.content import Content, Unread

NEEDED: Arguments = {"x-delayed-type": ("S", "topic"), "x-max-hops": ("l", 1)}
"""For the types that need one of these."""


def made(**kinds: str) -> Router[str]:
    router: Router[str] = Router()
    for name, kind in kinds.items():
        router.declare(name, kind, arguments=NEEDED)
    return router


def exchange(router: Router[str], name: str) -> Exchange[str]:
    found = router.find(name)
    assert found is not None
    return found


def route(router: Router[str], name: str, key: str, *extra_keys: str) -> tuple[str, ...]:
    """Routed twice, since the second answer may come from memory."""
    first = router.route(exchange(router, name), key, Unread(), extra_keys)
    assert router.route(exchange(router, name), key, Unread(), extra_keys) == first
    return first


# Exchanges


def test_a_new_router_has_the_default_exchange_only() -> None:
    router: Router[str] = Router()
    assert [found.name for found in router.exchanges()] == [""]
    assert exchange(router, "").kind == "direct"


def test_declare_and_delete() -> None:
    router: Router[str] = Router()
    declared = router.declare("x", "topic", "other")
    assert (declared.name, declared.kind, declared.alternate) == ("x", "topic", "other")
    assert router.find("x") is declared
    assert router.delete("x") == []
    assert router.find("x") is None
    assert router.delete("x") == []


def test_the_types_that_may_be_declared() -> None:
    assert sorted(KINDS) == [
        "direct",
        "fanout",
        "headers",
        "topic",
        "x-consistent-hash",
        "x-delayed-message",
        "x-federation-upstream",
        "x-local-random",
        "x-message-deduplication",
        "x-modulus-hash",
        "x-random",
        "x-recent-history",
    ]
    router: Router[str] = Router()
    with pytest.raises(KeyError):
        router.declare("x", "default")
    assert router.find("x") is None


def test_delete_returns_the_bindings_from_and_to_the_exchange_once_each() -> None:
    router = made(a="fanout", b="fanout", c="fanout")
    into = router.bind("a", exchange(router, "b"), "", {})
    loop = router.bind("b", exchange(router, "b"), "", {})
    out = router.bind("b", "q", "", {})
    kept = router.bind("a", exchange(router, "c"), "", {})
    assert router.delete("b") == [loop, out, into]
    assert list(exchange(router, "a").bindings) == [kept]
    assert not router.bindings_to("q")
    assert list(router.bindings_to(exchange(router, "c"))) == [kept]


def test_a_deleted_exchange_does_not_answer_for_its_heir() -> None:
    router = made(x="fanout")
    old = exchange(router, "x")
    router.bind("x", "q1", "", {})
    router.delete("x")
    router.declare("x", "fanout")
    router.bind("x", "q2", "", {})
    assert router.route(old, "k", Unread()) == ()
    assert route(router, "x", "k") == ("q2",)


# Bindings


def test_a_binding_is_its_source_destination_key_and_arguments() -> None:
    router = made(x="direct", y="direct")
    arguments: Arguments = {"a": ("I", 1), "b": ("S", "s")}
    turned: Arguments = {"b": ("S", "s"), "a": ("I", 1)}
    first = router.bind("x", "q", "k", arguments)
    assert first is not None
    assert (first.source, first.destination) == (exchange(router, "x"), "q")
    assert (first.routing_key, first.arguments) == ("k", arguments)
    assert router.bind("x", "q", "k", turned) is None
    for changed in [
        router.bind("y", "q", "k", arguments),
        router.bind("x", "p", "k", arguments),
        router.bind("x", "q", "l", arguments),
        router.bind("x", "q", "k", {}),
        router.bind("x", "q", "k", {"a": ("l", 1), "b": ("S", "s")}),
    ]:
        assert changed is not None
    assert router.unbind("x", "q", "k", turned) is first
    assert router.unbind("x", "q", "k", turned) is None


def test_unbind_of_what_is_not_there_is_none() -> None:
    router = made(x="topic")
    version = router.version
    assert router.unbind("missing", "q", "k", {}) is None
    assert router.unbind("x", "q", "a.#", {}) is None
    assert router.version == version


def test_bindings_are_listed_in_order_of_creation() -> None:
    router = made(x="topic", y="fanout")
    made_bindings = [
        router.bind(source, "q", key, {}) for source, key in [("x", "b"), ("y", ""), ("x", "#")]
    ]
    router.bind("x", "other", "b", {})
    assert list(router.bindings_to("q")) == made_bindings
    keys = [binding.routing_key for binding in router.bindings_from(exchange(router, "x"))]
    assert keys == ["b", "#", "b"]


def key_for(kind: str, text: str) -> str:
    """A binding key that the exchange takes: where it can, this one."""
    return {"x-consistent-hash": "1", "x-local-random": ""}.get(kind, text)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_removing_a_queue_removes_its_bindings(kind: str) -> None:
    router = made(x=kind)
    router.add_queue("q", "q")
    binding = router.bind("x", "q", key_for(kind, "a.*"), {"k": ("I", 1)})
    kept = router.bind("x", "p", key_for(kind, "a.*"), {"k": ("I", 1)})
    assert router.remove_queue("q", "q") == [binding]
    assert list(exchange(router, "x").bindings) == [kept]
    headers: Arguments = {"k": ("I", 1)}
    assert set(exchange(router, "x").route("a.*", Content(headers))) == {"p"}
    assert router.remove_queue("q", "q") == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_hundred_thousand_bindings(kind: str) -> None:
    router: Router[int] = Router()
    found = router.declare("x", kind, arguments=NEEDED)
    for queue in range(100_000):
        router.bind("x", queue, key_for(kind, f"{queue}.*"), {"n": ("I", queue)})
    assert len(found.bindings) == 100_000
    for queue in range(99_999):
        router.remove_queue(str(queue), queue)
    left = router.route(found, "99999.*", Content({"n": ("I", 99_999)}))
    assert left == (99_999,)


# Exchange to exchange


@pytest.mark.parametrize("kind", ["direct", "fanout", "topic", "headers", "x-consistent-hash"])
def test_a_queue_with_many_bindings_is_gone_at_once(kind: str) -> None:
    router: Router[str] = Router()
    exchange = router.declare("x", kind, alternate="alternate")
    router.declare("alternate", "fanout")
    for queue in ("gone", "stays", "left"):
        router.add_queue(queue, queue)
    router.bind("alternate", "left", "", {})
    for number in range(2 * UNBOUND_AT_ONCE):
        arguments = {"n": ("I", number)} if kind == "headers" else {}
        key = f"{number}.*" if kind == "topic" else str(number + 1)
        router.bind("x", "gone", key, arguments)
    number = UNBOUND_AT_ONCE + 1
    key = f"{number}.k" if kind == "topic" else str(number)
    content = Content({"n": ("I", number)})
    assert router.route(exchange, key, content) == ("gone",)
    removed = router.remove_queue("gone", "gone")
    assert len(removed) == 2 * UNBOUND_AT_ONCE
    while True:
        assert list(exchange.bindings) == []
        assert router.route(exchange, key, content) == ("left",)
        if router.is_swept:
            break
        before = len(exchange._bindings)
        router.sweep()
        assert before - len(exchange._bindings) <= UNBOUND_AT_ONCE
    assert not exchange._bindings
    router.bind("x", "stays", "1" if kind != "headers" else "", {})
    assert len(exchange.bindings) == 1


def test_an_exchange_may_go_before_its_bindings_are_swept() -> None:
    router: Router[str] = Router()
    router.declare("x", "direct")
    router.add_queue("q", "q")
    for number in range(2 * UNBOUND_AT_ONCE):
        router.bind("x", "q", str(number), {})
    router.remove_queue("q", "q")
    assert router.delete("x") == []
    while not router.is_swept:
        router.sweep()
    router.add_queue("q", "q")


def test_a_diamond_gives_one_copy() -> None:
    router = made(top="fanout", left="direct", right="topic", bottom="fanout")
    for side in ("left", "right"):
        router.bind("top", exchange(router, side), "", {})
        router.bind(side, exchange(router, "bottom"), "k", {})
        router.bind(side, side, "k", {})
    router.bind("bottom", "q", "", {})
    assert route(router, "top", "k") == ("left", "right", "q")
    assert route(router, "top", "other") == ()


def test_cycles_end() -> None:
    router = made(a="fanout", b="fanout", c="fanout")
    for source, destination in [("a", "b"), ("b", "c"), ("c", "a"), ("c", "c")]:
        router.bind(source, exchange(router, destination), "", {})
    for name in "abc":
        router.bind(name, f"q{name}", "", {})
    assert route(router, "b", "k") == ("qb", "qc", "qa")


# Alternate exchanges


def test_the_alternate_gets_what_matched_nothing() -> None:
    router: Router[str] = Router()
    router.declare("x", "direct", "spare")
    router.declare("spare", "topic")
    router.bind("x", "q", "k", {})
    router.bind("spare", "unrouted", "o.#", {})
    assert route(router, "x", "k") == ("q",)
    assert route(router, "x", "o.p") == ("unrouted",)
    assert route(router, "x", "p") == ()


def test_a_binding_to_an_exchange_is_a_match_wherever_it_leads() -> None:
    router: Router[str] = Router()
    router.declare("x", "fanout", "spare")
    router.declare("spare", "fanout")
    router.declare("nowhere", "fanout")
    router.bind("spare", "unrouted", "", {})
    router.bind("x", exchange(router, "nowhere"), "", {})
    assert route(router, "x", "k") == ()


def test_a_binding_back_to_a_visited_exchange_is_a_match() -> None:
    router: Router[str] = Router()
    router.declare("x", "fanout", "spare")
    router.declare("spare", "fanout")
    router.bind("spare", "unrouted", "", {})
    router.bind("x", exchange(router, "x"), "", {})
    assert route(router, "x", "k") == ()


def test_an_exchange_on_the_way_has_its_alternate_too() -> None:
    router: Router[str] = Router()
    router.declare("top", "fanout")
    router.declare("x", "direct", "spare")
    router.declare("spare", "fanout")
    router.bind("top", exchange(router, "x"), "", {})
    router.bind("top", "q", "", {})
    router.bind("spare", "unrouted", "", {})
    assert route(router, "top", "k") == ("q", "unrouted")


def test_alternates_in_a_circle_end() -> None:
    router: Router[str] = Router()
    router.declare("a", "direct", "b")
    router.declare("b", "direct", "c")
    router.declare("c", "direct", "a")
    router.declare("self", "direct", "self")
    assert route(router, "a", "k") == ()
    assert route(router, "self", "k") == ()
    router.bind("c", "q", "k", {})
    assert route(router, "a", "k") == ("q",)


def test_a_missing_alternate_is_passed_over_until_it_comes() -> None:
    router: Router[str] = Router()
    router.declare("x", "direct", "spare")
    assert route(router, "x", "k") == ()
    router.declare("spare", "fanout")
    router.bind("spare", "unrouted", "", {})
    assert route(router, "x", "k") == ("unrouted",)


def test_an_alternate_may_be_set_later() -> None:
    router = made(x="direct", spare="fanout")
    router.bind("spare", "unrouted", "", {})
    assert route(router, "x", "k") == ()
    exchange(router, "x").alternate = "spare"
    assert route(router, "x", "k") == ("unrouted",)
    version = router.version
    exchange(router, "x").alternate = "spare"
    assert router.version == version
    exchange(router, "x").alternate = None
    assert route(router, "x", "k") == ()


# CC and BCC


def test_extra_keys_are_routed_as_well() -> None:
    router = made(x="direct")
    for key in "abc":
        router.bind("x", f"q{key}", key, {})
    router.bind("x", "qa", "b", {})
    assert route(router, "x", "a", "b", "a", "b") == ("qa", "qb")
    assert route(router, "x", "z", "c") == ("qc",)
    assert route(router, "x", "a") == ("qa",)


def test_extra_keys_name_queues_of_the_default_exchange() -> None:
    router: Router[str] = Router()
    router.add_queue("a", "qa")
    router.add_queue("b", "qb")
    assert route(router, "", "b", "a", "missing") == ("qb", "qa")
    assert route(router, "", "b") == ("qb",)
    assert route(router, "", "missing") == ()


def test_the_alternate_is_asked_only_if_no_key_matched() -> None:
    router: Router[str] = Router()
    router.declare("x", "direct", "spare")
    router.declare("spare", "direct")
    router.bind("x", "q", "a", {})
    router.bind("spare", "unrouted", "b", {})
    assert route(router, "x", "b", "a") == ("q",)
    assert route(router, "x", "z", "b") == ("unrouted",)


# Headers, and what is remembered


def test_headers_are_read_only_on_the_way() -> None:
    router = made(x="direct", h1="headers", h2="headers")
    router.bind("x", exchange(router, "h1"), "k", {})
    router.bind("x", exchange(router, "h2"), "k", {})
    router.bind("h1", "q1", "", {"n": ("I", 1)})
    router.bind("h2", "q2", "", {"n": ("I", 2)})
    start = exchange(router, "x")
    for number in (1, 2, 1):
        content = Content({"n": ("l", number)})
        assert router.route(start, "k", content) == (f"q{number}",)
        assert not content.lasting
        unread = Unread()
        assert router.route(start, "other", unread) == ()
        assert unread.lasting


def test_the_memory_is_bounded_in_keys_and_queues() -> None:
    router: Router[int] = Router(cache_max=50)
    router.declare("x", "fanout")
    found = router.find("x")
    assert found is not None
    for queue in range(9):
        router.bind("x", queue, "", {})
    remembered = 0
    for number in range(200):
        assert len(router.route(found, str(number), Unread())) == 9
        remembered = max(remembered, len(router._cache))
    assert remembered == 5
    for queue in range(9, 60):
        router.bind("x", queue, "", {})
    assert len(router.route(found, "k", Unread())) == 60
    assert not router._cache


def test_results_are_remembered_only_where_the_key_alone_decides() -> None:
    router = made(x="direct", h="headers")
    router.add_queue("q", "q")
    router.bind("x", "q", "k", {})
    router.bind("h", "q", "", {})
    route(router, "", "q")
    route(router, "x", "k", "l")
    router.route(exchange(router, "h"), "k", Content({}))
    assert not router._cache
    first = router.route(exchange(router, "x"), "k", Unread())
    assert router.route(exchange(router, "x"), "k", Unread()) is first


def test_every_change_is_seen_and_counted() -> None:
    router: Router[str] = Router()
    router.declare("x", "direct")
    start = exchange(router, "x")
    answers: list[tuple[str, ...]] = []
    versions = [router.version]

    def changed() -> None:
        answers.append(route(router, "x", "k"))
        versions.append(router.version)

    router.bind("x", "q", "k", {})
    changed()
    router.unbind("x", "q", "k", {})
    changed()
    router.bind("x", "q", "k", {})
    router.remove_queue("q", "q")
    changed()
    start.alternate = "spare"
    changed()
    router.declare("spare", "fanout")
    router.bind("spare", "p", "", {})
    changed()
    router.delete("spare")
    changed()
    start.alternate = ""
    router.add_queue("k", "named k")
    changed()
    router.remove_queue("k", "named k")
    changed()
    assert answers == [("q",), (), (), (), ("p",), (), (), ()]
    assert all(later > earlier for earlier, later in pairwise(versions))
