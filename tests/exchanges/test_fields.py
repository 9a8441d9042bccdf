"""Equality and names of field-table values."""

from __future__ import annotations

import pytest

from amqpd_exchanges.fields import Field, canonical, canonical_table, comparable, rendered

INTEGERS: list[Field] = [(octet, 1) for octet in "bBsuIilL"]


def test_one_table_in_two_key_orders_is_one_table() -> None:
    inner = {"x": ("I", 1), "y": ("S", "2")}
    turned = dict(reversed(inner.items()))
    one = canonical_table({"a": ("F", inner), "b": ("A", [("F", inner)])})
    other = canonical_table({"b": ("A", [("F", turned)]), "a": ("F", turned)})
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("I", 1), ("l", 1)),
        (("I", 1), ("t", True)),
        (("d", 1.0), ("I", 1)),
        (("f", 1.0), ("d", 1.0)),
        (("S", "a"), ("x", b"a")),
        (("A", [("I", 1), ("I", 2)]), ("A", [("I", 2), ("I", 1)])),
        (("A", []), ("F", {})),
        (("V", None), ("S", "")),
    ],
)
def test_types_and_order_tell_canonical_values_apart(one: Field, other: Field) -> None:
    assert canonical(one) != canonical(other)


def test_both_int64_octets_are_one_type() -> None:
    assert canonical(("l", 1)) == canonical(("L", 1))


def test_a_canonical_nan_is_found_again() -> None:
    assert canonical(("d", float("nan"))) == canonical(("d", float("nan")))


@pytest.mark.parametrize("one", INTEGERS)
@pytest.mark.parametrize("other", INTEGERS)
def test_integers_of_any_width_compare_equal(one: Field, other: Field) -> None:
    assert comparable(one) == comparable(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("f", 0.5), ("d", 0.5)),
        (("S", "a"), ("x", b"a")),
        (("S", "\udcff"), ("x", b"\xff")),
        (("F", {"a": ("I", 1), "b": ("I", 2)}), ("F", {"b": ("I", 2), "a": ("I", 1)})),
    ],
)
def test_values_of_one_kind_compare_equal(one: Field, other: Field) -> None:
    assert comparable(one) == comparable(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("S", "5"), ("I", 5)),
        (("I", 5), ("d", 5.0)),
        (("t", True), ("I", 1)),
        (("t", False), ("I", 0)),
        (("T", 5), ("I", 5)),
        (("V", None), ("S", "")),
        (("D", (0, 5)), ("I", 5)),
    ],
)
def test_values_of_different_kinds_differ(one: Field, other: Field) -> None:
    assert comparable(one) != comparable(other)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (("S", "zz"), '<<"zz">>'),
        (("S", ""), "<<>>"),
        (("S", 'a"b\\'), '<<"a\\"b\\\\">>'),
        (("S", "żółw"), '<<"żółw"/utf8>>'),
        (("S", "a\x00"), "<<97,0>>"),
        (("S", "\udcff"), "<<255>>"),
        (("x", b"zz"), '<<"zz">>'),
        (("I", -5), "-5"),
        (("d", 1.5), "1.5"),
        (("t", True), "true"),
        (("t", False), "false"),
        (("V", None), "undefined"),
        (("D", (2, 314)), "{2,314}"),
        (("A", [("S", "a"), ("I", 1)]), '[{longstr,<<"a">>},{signedint,1}]'),
        (("F", {"k": ("t", True)}), '[{<<"k">>,bool,true}]'),
    ],
)
def test_values_are_rendered_as_erlang_terms(field: Field, text: str) -> None:
    assert rendered(field) == text
