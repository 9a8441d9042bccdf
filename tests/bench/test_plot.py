"""Charts are whole, and show what was measured."""

from __future__ import annotations

from xml.dom import minidom

import pytest

from tests.bench.plot import HEIGHT, WIDTH, Line, line_chart, short

POINTS = [(1.0, 300.0), (100.0, 150.0), (10_000.0, 0.0)]


def chart(*lines: Line) -> minidom.Document:
    return minidom.parseString(line_chart("A < B", "x", "msg/s", lines))


def test_points_lie_where_they_belong() -> None:
    marks = chart(Line("one", POINTS)).getElementsByTagName("circle")
    places = [(float(m.getAttribute("cx")), float(m.getAttribute("cy"))) for m in marks][:3]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)  # decades
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.2)  # linear, from 0
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in places)


def test_one_point_is_a_chart_too() -> None:
    assert chart(Line("one", [(5.0, 0.0)])).getElementsByTagName("circle")


def test_names_are_escaped() -> None:
    (title,) = chart(Line("one & two", POINTS)).getElementsByTagName("title")
    assert title.firstChild is not None
    assert title.firstChild.nodeValue == "A < B"


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (12, "12"), (1500, "1.5k"), (1e6, "1M"), (2.5e9, "2.5G")]
)
def test_numbers_are_short(value: float, said: str) -> None:
    assert short(value) == said
