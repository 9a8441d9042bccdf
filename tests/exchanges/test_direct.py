"""The direct, fanout and default exchanges: short enough to be checked side by side."""

from __future__ import annotations

import pytest

from amqpd_exchanges.exchange import Exchange
from amqpd_exchanges.router import Router
from tests.exchanges.content import Content


def reached(exchange: Exchange[str], key: str) -> list[object]:
    return list(exchange.route(key, Content()))


def test_direct_matches_the_whole_key_only() -> None:
    router: Router[str] = Router()
    direct = router.declare("d", "direct")
    router.bind("d", "q1", "a.b", {})
    router.bind("d", "q2", "*", {})
    router.bind("d", "q3", "", {})
    assert reached(direct, "a.b") == ["q1"]
    assert reached(direct, "a") == []
    assert reached(direct, "*") == ["q2"]
    assert reached(direct, "") == ["q3"]


def test_fanout_ignores_the_key() -> None:
    router: Router[str] = Router()
    fanout = router.declare("f", "fanout")
    router.bind("f", "q2", "x", {})
    router.bind("f", "q1", "y", {})
    assert reached(fanout, "z") == ["q2", "q1"]


def test_default_knows_queues_by_name() -> None:
    router: Router[str] = Router()
    default = router.find("")
    assert default is not None
    router.add_queue("name", "q1")
    assert reached(default, "name") == ["q1"]
    assert reached(default, "q1") == []
    assert not default.bindings
    router.remove_queue("name", "q1")
    assert reached(default, "name") == []


@pytest.mark.parametrize("kind", ["direct", "fanout", "topic"])
def test_a_destination_stays_until_its_last_binding_goes(kind: str) -> None:
    router: Router[str] = Router()
    exchange = router.declare("x", kind)
    assert router.bind("x", "q", "k", {}) is not None
    assert router.bind("x", "q", "k", {"n": ("I", 1)}) is not None
    assert router.unbind("x", "q", "k", {}) is not None
    assert set(reached(exchange, "k")) == {"q"}
    assert router.unbind("x", "q", "k", {"n": ("I", 1)}) is not None
    assert reached(exchange, "k") == []
