"""Figures, the table a person reads, and the JSON that outlives the run.

No figure is asserted anywhere: the machine is shared, and a slow run is information, not a failure.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

MISSING: Final = "-"


@dataclass(frozen=True)
class Figure:
    """One number about one broker."""

    name: str
    value: float
    unit: str
    cpu_us: float | None = None
    """CPU of the broker per message, all its threads; None where it makes no sense."""
    load_us: float | None = None
    """CPU of the load generator per message, to see that it was not what was measured."""
    note: str = ""

    @property
    def more_is_better(self) -> bool:
        """Rates grow with a better broker, times and sizes shrink."""
        return self.unit.endswith("/s") or self.unit == "%"


@dataclass
class Report:
    """All samples of a run, in the order they were first taken."""

    machine: Mapping[str, object]
    brokers: Mapping[str, str]
    """Label and version; the first one is the one the others are compared with."""
    samples: dict[str, dict[str, list[Figure]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, broker: str, figures: Iterable[Figure]) -> None:
        """Samples of one workload; the rounds of a run add up."""
        for figure in figures:
            row = self.samples.setdefault(figure.name, {})
            row.setdefault(broker, []).append(figure)

    def rows(self) -> list[tuple[str, dict[str, Figure]]]:
        """The median round of each figure, by broker."""
        return [
            (name, {broker: median(taken) for broker, taken in row.items()})
            for name, row in self.samples.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything, the single samples included."""
        return {
            "machine": dict(self.machine),
            "brokers": dict(self.brokers),
            "figures": [
                {
                    "broker": broker,
                    **asdict(figure),
                    "samples": [sample.value for sample in self.samples[name][broker]],
                }
                for name, row in self.rows()
                for broker, figure in row.items()
            ],
            "failures": self.failures,
        }

    def write(self, path: Path) -> None:
        """The JSON file."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n")

    def text(self) -> str:
        """The table: a line per figure, a pair of columns per broker, ratios to the first."""
        first, *others = self.brokers
        head = ["", "unit"]
        for broker in self.brokers:
            head += [broker, "CPU µs"]
        head += [f"{first} : {other}" for other in others]
        lines = [head]
        notes = []
        for name, row in self.rows():
            some = next(iter(row.values()))
            line = [name, some.unit]
            for broker in self.brokers:
                line += _cells(row.get(broker))
            line += [_ratio(row.get(first), row.get(other)) for other in others]
            lines.append(line)
            notes += [f"{name}, {b}: {f.note}" for b, f in row.items() if f.note]
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        versions = ", ".join(f"{label} {version}" for label, version in self.brokers.items())
        about = [machine, versions]
        if others:
            about.append(f"{first} : other is above 1 where {first} is ahead")
        failed = [f"FAILED {line}" for line in self.failures]
        return "\n".join([*about, "", *_aligned(lines), *notes, *failed])


def median(taken: Sequence[Figure]) -> Figure:
    """The middle sample, with every number its own median and all the notes."""
    middle = statistics.median_low([figure.value for figure in taken])
    chosen = next(figure for figure in taken if figure.value == middle)
    cpu = [figure.cpu_us for figure in taken if figure.cpu_us is not None]
    notes = dict.fromkeys(figure.note for figure in taken if figure.note)
    return replace(
        chosen,
        cpu_us=statistics.median(cpu) if cpu else None,
        note="; ".join(notes),
    )


def number(figure: Figure) -> str:
    """Three digits that mean something, and no more; a share needs those behind the nines."""
    return f"{figure.value:.3f}" if figure.unit == "%" else _rounded(figure.value)


def _rounded(value: float) -> str:
    if abs(value) < 100:
        return f"{value:.3g}"
    return f"{round(value, 3 - len(str(int(abs(value))))):,.0f}"


def _cells(figure: Figure | None) -> list[str]:
    if figure is None:
        return [MISSING, MISSING]
    mark = "*" if figure.note else ""
    return [
        number(figure) + mark,
        MISSING if figure.cpu_us is None else _rounded(figure.cpu_us),
    ]


def _ratio(ours: Figure | None, theirs: Figure | None) -> str:
    if ours is None or theirs is None or not ours.value or not theirs.value:
        return MISSING
    ratio = ours.value / theirs.value
    return f"{ratio if ours.more_is_better else 1 / ratio:.2f}"


def _aligned(lines: list[list[str]]) -> list[str]:
    """Text to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
