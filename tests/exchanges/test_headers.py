"""The headers exchange: x-match in all its forms, comparison by type, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpd_exchanges.exchange import Arguments, Field, InvalidBinding
from amqpd_exchanges.router import Router
from tests.exchanges.content import Content

ABSENT: Field = ("V", "absent")


def is_matched(arguments: Arguments, headers: Arguments) -> bool:
    """Bind, route, unbind, route: the answer, and that nothing stays behind."""
    router: Router[str] = Router()
    exchange = router.declare("h", "headers")
    router.bind("h", "q", "", arguments)
    found = set(exchange.route("any", Content(headers)))
    router.unbind("h", "q", "", arguments)
    assert list(exchange.route("any", Content(headers))) == []
    return found == {"q"}


def with_x_match(mode: str | None, arguments: Arguments) -> Arguments:
    return dict(arguments) if mode is None else {"x-match": ("S", mode), **arguments}


A: Field = ("S", "a")
B: Field = ("S", "b")


@pytest.mark.parametrize(
    ("arguments", "headers", "matched_by"),
    [
        # matched_by: which of all, any, all-with-x, any-with-x
        ({}, {}, "all all-with-x"),
        ({}, {"k": A}, "all all-with-x"),
        ({"k": A}, {}, ""),
        ({"k": A}, {"k": A}, "all any all-with-x any-with-x"),
        ({"k": A}, {"k": B}, ""),
        ({"k": A}, {"k": A, "other": B}, "all any all-with-x any-with-x"),
        ({"k": A, "l": B}, {"k": A}, "any any-with-x"),
        ({"k": A, "l": B}, {"k": A, "l": A}, "any any-with-x"),
        ({"k": A, "l": B}, {"k": A, "l": B}, "all any all-with-x any-with-x"),
        ({"k": A, "l": B}, {"k": B, "l": A}, ""),
        ({"x-k": A}, {}, "all"),
        ({"x-k": A}, {"x-k": A}, "all all-with-x any-with-x"),
        ({"x-k": A}, {"x-k": B}, "all"),
        ({"x-k": A, "k": A}, {"k": A}, "all any any-with-x"),
        ({"x-k": A, "k": A}, {"x-k": A}, "any-with-x"),
        ({"k": ("V", None)}, {}, ""),
        ({"k": ("V", None)}, {"k": A}, "all any all-with-x any-with-x"),
        ({"k": ("V", None)}, {"k": ("V", None)}, "all any all-with-x any-with-x"),
        ({"k": A}, {"k": ("V", None)}, ""),
        ({"k": ("V", None), "l": A}, {"k": B}, "any any-with-x"),
        ({"k": ("V", None), "l": A}, {"k": B, "l": A}, "all any all-with-x any-with-x"),
        ({"x-k": ("V", None)}, {"x-k": B}, "all all-with-x any-with-x"),
        # x-match is never a criterion, though a message may carry a header of that name
        ({}, {"x-match": ("S", "all-with-x")}, "all all-with-x"),
    ],
)
def test_modes(arguments: Arguments, headers: Arguments, matched_by: str) -> None:
    modes = ["all", "any", "all-with-x", "any-with-x"]
    found = [mode for mode in modes if is_matched(with_x_match(mode, arguments), headers)]
    assert found == matched_by.split()
    assert is_matched(with_x_match(None, arguments), headers) == ("all" in found)


@pytest.mark.parametrize(
    ("wanted", "given_", "matched"),
    [
        (("I", 5), ("l", 5), True),
        (("b", 5), ("i", 5), True),
        (("L", 5), ("u", 5), True),
        (("f", 0.5), ("d", 0.5), True),
        (("S", "5"), ("I", 5), False),
        (("I", 5), ("d", 5.0), False),
        (("t", True), ("t", True), True),
        (("t", True), ("I", 1), False),
        (("I", 0), ("t", False), False),
        (("S", "5"), ("x", b"5"), True),
        (("A", [("I", 1)]), ("A", [("I", 1)]), True),
        (("A", [("I", 1)]), ("A", [("I", 2)]), False),
        (("F", {"a": A, "b": B}), ("F", {"b": B, "a": A}), True),
        (("d", float("nan")), ("d", float("nan")), False),
        (("D", (1, 5)), ("D", (1, 5)), True),
        (("T", 5), ("T", 5), True),
    ],
)
def test_values_compare_with_type(wanted: Field, given_: Field, matched: bool) -> None:
    assert is_matched({"k": wanted}, {"k": given_}) is matched
    assert is_matched({"x-match": ("S", "any"), "k": wanted}, {"k": given_}) is matched


@pytest.mark.parametrize(
    ("x_match", "text"),
    [
        (
            ("S", "zz"),
            'Invalid x-match field value <<"zz">>; expected all, any, all-with-x, or any-with-x',
        ),
        (
            ("S", ""),
            "Invalid x-match field value <<>>; expected all, any, all-with-x, or any-with-x",
        ),
        (("I", 5), "Invalid x-match field type signedint (value 5); expected longstr"),
        (("t", True), "Invalid x-match field type bool (value true); expected longstr"),
        (("b", 1), "Invalid x-match field type byte (value 1); expected longstr"),
        (("V", None), "Invalid x-match field type void (value undefined); expected longstr"),
        (("x", b"all"), 'Invalid x-match field type binary (value <<"all">>); expected longstr'),
    ],
)
def test_a_bad_x_match_is_refused_and_leaves_nothing(x_match: Field, text: str) -> None:
    router: Router[str] = Router()
    exchange = router.declare("h", "headers")
    version = router.version
    with pytest.raises(InvalidBinding) as refusal:
        router.bind("h", "q", "", {"x-match": x_match, "k": A})
    assert str(refusal.value) == text
    assert not exchange.bindings
    assert not router.bindings_to("q")
    assert list(exchange.route("", Content({"k": A}))) == []
    assert router.version == version


@pytest.mark.parametrize("kind", ["direct", "fanout", "topic"])
def test_other_types_do_not_look_at_x_match(kind: str) -> None:
    router: Router[str] = Router()
    router.declare("x", kind)
    assert router.bind("x", "q", "k", {"x-match": ("I", 5)}) is not None


def test_order_does_not_depend_on_hashes() -> None:
    router: Router[str] = Router()
    exchange = router.declare("h", "headers")
    for number in range(20):
        router.bind("h", f"q{number}", "", {"k": A, f"l{number}": B})
    headers = {"k": A} | {f"l{number}": B for number in reversed(range(20))}
    # q0 came when no criterion was shared, and took its first; the others their own.
    assert list(exchange.route("", Content(headers))) == ["q0"] + [
        f"q{n}" for n in range(19, 0, -1)
    ]


FIELDS = st.sampled_from([A, B, ("I", 5), ("l", 5), ("S", "5"), ("t", True), ("V", None)])
TABLES = st.dictionaries(st.sampled_from(["k", "l", "m", "x-k", "x-l"]), FIELDS, max_size=4)
MODES = st.sampled_from([None, "all", "any", "all-with-x", "any-with-x"])


def matches(mode: str | None, arguments: Arguments, headers: Arguments) -> bool:
    """Section 6 of the reference, read aloud, for the fields above."""
    answers = []
    for name, (octet, value) in arguments.items():
        if name.startswith("x-") and mode not in ("all-with-x", "any-with-x"):
            continue
        header = headers.get(name, ABSENT)
        if octet == "V":
            answers.append(header is not ABSENT)
        else:
            same_type = octet == header[0] or {octet, header[0]} == {"I", "l"}
            answers.append(same_type and value == header[1])
    return any(answers) if mode in ("any", "any-with-x") else all(answers)


@given(
    bindings=st.lists(st.tuples(MODES, TABLES), max_size=8),
    headers=TABLES,
    removed=st.sets(st.integers(0, 7)),
)
def test_agrees_with_trying_each_binding(
    bindings: list[tuple[str | None, dict[str, Field]]],
    headers: dict[str, Field],
    removed: set[int],
) -> None:
    router: Router[int] = Router()
    exchange = router.declare("h", "headers")
    for queue, (mode, arguments) in enumerate(bindings):
        router.bind("h", queue, "", with_x_match(mode, arguments))
    kept = []
    for queue, (mode, arguments) in enumerate(bindings):
        if queue in removed:
            assert router.unbind("h", queue, "", with_x_match(mode, arguments)) is not None
        else:
            kept.append((queue, mode, arguments))
    expected = {queue for queue, mode, wanted in kept if matches(mode, wanted, headers)}
    assert set(exchange.route("", Content(headers))) == expected


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [("all", {}), ("all", {"a": ("S", "1")}), ("any", {"a": ("S", "1"), "b": ("V", None)})],
)
def test_bindings_that_differ_in_what_is_left_out_count_as_one(
    mode: str, wanted: dict[str, Field]
) -> None:
    """A client may make as many as it likes: they cost their publisher no more than one."""
    router: Router[str] = Router()
    exchange = router.declare("h", "headers")
    tables = [with_x_match(mode, {**wanted, "x-serial": ("I", n)}) for n in range(100)]
    for table in tables:
        assert router.bind("h", "q", "", table) is not None
    headers: dict[str, Field] = {"a": ("S", "1"), "c": ("S", "2")}
    for table in tables:
        assert list(exchange.route("", Content(headers))) == ["q"]
        assert router.unbind("h", "q", "", table) is not None
    assert list(exchange.route("", Content(headers))) == []
