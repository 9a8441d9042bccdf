"""Laws of merging: policy with operator policy, policies with arguments (Hypothesis)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from amqpd.broker.policies import PolicyTable, make_policy
from amqpd.broker.policy_settings import check_definition, known_keys, merge_operator
from amqpd.broker.queue_rules import read_rules
from amqpd.wire.tables import typed

NUMBERS = ("expires", "message-ttl", "max-length", "max-length-bytes")
TEXTS = ("dead-letter-exchange", "dead-letter-routing-key", "overflow")

number = st.integers(1, 9)
overflow = st.sampled_from(["drop-head", "reject-publish", "reject-publish-dlx"])
settings: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(NUMBERS, number),
    "dead-letter-exchange": st.sampled_from(["", "a", "b"]),
    "dead-letter-routing-key": st.sampled_from(["", "k"]),
    "overflow": overflow,
}
definitions = st.none() | st.fixed_dictionaries({}, optional=settings)
operators = st.none() | st.fixed_dictionaries(
    {}, optional={**dict.fromkeys(NUMBERS, number), "overflow": overflow}
)
arguments = st.fixed_dictionaries({}, optional={f"x-{key}": settings[key] for key in settings})


@given(definitions, operators)
def test_an_operator_only_lowers_numbers(
    definition: dict[str, Any] | None, operator: dict[str, Any] | None
) -> None:
    merged = merge_operator(definition, operator)
    if definition is None and operator is None:
        assert merged is None
        return
    assert merged is not None
    assert merged.keys() == (definition or {}).keys() | (operator or {}).keys()
    for key, value in merged.items():
        ours, theirs = (definition or {}).get(key), (operator or {}).get(key)
        if key in NUMBERS:
            assert value == min(item for item in (ours, theirs) if item is not None)
        else:
            assert value == (ours if theirs is None else theirs)


@given(definitions, operators)
def test_an_operator_policy_applied_twice_changes_nothing_more(
    definition: dict[str, Any] | None, operator: dict[str, Any] | None
) -> None:
    once = merge_operator(definition, operator)
    assert merge_operator(once, operator) == once


@given(arguments, definitions)
def test_rules_are_those_of_the_model(
    arguments: dict[str, Any], definition: dict[str, Any] | None
) -> None:
    def numbers(key: str) -> int | None:
        found = [arguments.get(f"x-{key}"), (definition or {}).get(key)]
        return min((item for item in found if item is not None), default=None)

    def text(key: str) -> str | None:
        found: str | None = arguments.get(f"x-{key}", (definition or {}).get(key))
        return found

    rules = read_rules(typed(arguments, 8), definition)
    assert rules.expires_ms == numbers("expires")
    assert rules.message_ttl_ms == numbers("message-ttl")
    assert rules.max_length == numbers("max-length")
    assert rules.max_length_bytes == numbers("max-length-bytes")
    assert rules.dead_letter_exchange == text("dead-letter-exchange")
    assert rules.dead_letter_routing_key == text("dead-letter-routing-key")
    assert rules.overflow == (text("overflow") or "drop-head")


@given(arguments, definitions)
def test_a_type_whose_policies_win(
    arguments: dict[str, Any], definition: dict[str, Any] | None
) -> None:
    rules = read_rules(typed(arguments, 8), definition, policy_first=("overflow",))
    said = (definition or {}).get("overflow", arguments.get("x-overflow"))
    assert rules.overflow == (said or "drop-head")


def test_a_negative_delivery_limit_is_none() -> None:
    def merged(ours: int, theirs: int) -> Any:
        return (merge_operator({"delivery-limit": ours}, {"delivery-limit": theirs}) or {})[
            "delivery-limit"
        ]

    assert (merged(3, 5), merged(5, 3)) == (3, 3)
    assert (merged(-1, 5), merged(5, -1), merged(-1, -1)) == (5, 5, -1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.integers(-2, 2),
            st.sampled_from(["", "^q", "x"]),
            st.booleans(),
        )
    )
)
def test_the_strongest_that_fits_holds(steps: list[tuple[str, int, str, bool]]) -> None:
    """However policies were put and dropped before."""
    table = PolicyTable()
    model: dict[str, tuple[int, str]] = {}
    for name, priority, pattern, keep in steps:
        value = {"pattern": pattern, "priority": priority, "definition": {"max-length": 1}}
        table.put("policy", make_policy("/", name, value))
        model[name] = (priority, pattern)
        if not keep:
            table.drop("policy", name)
            del model[name]
    fitting = [(-priority, name) for name, (priority, pattern) in model.items() if pattern != "x"]
    holding, operator = table.match_queue("q", "classic")
    assert (holding.name if holding else None) == (min(fitting)[1] if fitting else None)
    assert operator is None


@given(st.sampled_from(["3.13", "4.2", "4.3"]), st.dictionaries(st.text(max_size=3), st.integers()))
def test_unknown_settings_are_refused_and_known_ones_of_operators_are_policies_too(
    compat: Any, definition: dict[str, Any]
) -> None:
    assert check_definition("policy", compat, definition)
    assert known_keys("operator_policy", compat) < known_keys("policy", compat)
