"""A line chart as SVG: the horizontal axis logarithmic, light, without a library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 640
HEIGHT: Final = 320
LEFT: Final = 70
RIGHT: Final = 20
TOP: Final = 40
BOTTOM: Final = 70
COLOURS: Final = ("#1f6fb4", "#c4532d", "#3a8f4d")
"""They differ in brightness, too, and so do the marks' shapes below."""
FONT: Final = 'font-family="sans-serif" font-size="12" fill="#333"'
MARK: Final = 4


@dataclass(frozen=True)
class Line:
    """What was measured at each place; x is above 0."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """An SVG document. The vertical axis is linear and starts at 0, so that a bend is seen."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks = _decades(min(xs), max(xs))
    highest = max(ys) or 1.0
    step = _round_up(highest / 4)
    low, high = math.log10(x_ticks[0]), math.log10(x_ticks[-1])
    top = step * math.ceil(highest / step)

    def at_x(x: float) -> float:
        share = (math.log10(x) - low) / (high - low) if high > low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" {FONT} font-weight="bold">{escape(title)}</text>',
    ]
    for y in range(round(top / step) + 1):
        height = at_y(y * step)
        out.append(
            f'<path d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end" {FONT}>'
            f"{short(y * step)}</text>"
        )
    for x in x_ticks:
        out.append(
            f'<text x="{at_x(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" {FONT}>'
            f"{short(x)}</text>"
        )
    axes = f"{x_name}; {y_name}"
    out.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - BOTTOM + 38}" text-anchor="middle"'
        f" {FONT}>{escape(axes)}</text>"
    )
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        places = [(at_x(x), at_y(y)) for x, y in sorted(line.points)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [_mark(number, x, y, colour) for x, y in places]
        begin = LEFT + number * (WIDTH - LEFT - RIGHT) / max(1, len(lines))
        out.append(_mark(number, begin, HEIGHT - 16, colour))
        out.append(f'<text x="{begin + 10}" y="{HEIGHT - 12}" {FONT}>{escape(line.name)}</text>')
    return "\n".join([*out, "</svg>", ""])


def _mark(number: int, x: float, y: float, colour: str) -> str:
    if number % 2:
        return (
            f'<rect x="{x - MARK:.1f}" y="{y - MARK:.1f}" width="{2 * MARK}" height="{2 * MARK}"'
            f' fill="{colour}"/>'
        )
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{MARK}" fill="{colour}"/>'


def _decades(least: float, most: float) -> list[float]:
    """Powers of ten around all values."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= value * 0.999999)


def short(value: float) -> str:
    """12,000 as 12k, 3,000,000 as 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
