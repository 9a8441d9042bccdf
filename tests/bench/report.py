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

from tests.bench.goals import CPU, Goal, Verdict

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
    memory_mb: float | None = None
    """The most resident memory of the broker while this was measured."""

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
    goals: Sequence[Goal] = ()
    """What the first broker is to reach; none if it is another product."""
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
            "goals": [asdict(verdict) for verdict in self.verdicts()],
            "failures": self.failures,
        }

    def write(self, path: Path) -> None:
        """The JSON file."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n")

    def verdicts(self) -> list[Verdict]:
        """What became of each goal whose figure was measured."""
        first, *others = self.brokers
        values: dict[str, dict[str, float | None]] = {
            name: {broker: figure.value for broker, figure in row.items()}
            for name, row in self.rows()
        }
        values |= {
            f"{name}: {CPU}": {broker: figure.cpu_us for broker, figure in row.items()}
            for name, row in self.rows()
        }
        return [
            verdict
            for goal in self.goals
            if goal.figure in values
            for verdict in goal.verdicts(values[goal.figure], first, others, self.machine)
        ]

    def text(self) -> str:
        """The table: a line per figure, columns per broker, ratios to the first; then the goals."""
        first, *others = self.brokers
        head = ["", "unit"]
        for broker in self.brokers:
            head += [broker, "spread", "CPU µs", "RSS MB"]
        head += [f"{first} : {other}" for other in others]
        lines = [head]
        notes = []
        for name, row in self.rows():
            some = next(iter(row.values()))
            line = [name, some.unit]
            for broker in self.brokers:
                line += _cells(row.get(broker), self.samples[name].get(broker, []))
            line += [_ratio(row.get(first), row.get(other)) for other in others]
            lines.append(line)
            notes += [f"{name}, {b}: {f.note}" for b, f in row.items() if f.note]
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        versions = ", ".join(f"{label} {version}" for label, version in self.brokers.items())
        about = [machine, versions]
        if others:
            about.append(f"{first} : other is above 1 where {first} is ahead")
        failed = [f"FAILED {line}" for line in self.failures]
        return "\n".join([*about, "", *_aligned(lines), *notes, *failed, *self._goal_lines()])

    def _goal_lines(self) -> list[str]:
        verdicts = self.verdicts()
        if not verdicts:
            return []
        lines = [["goal", "", "reached", "", ""]]
        for verdict in verdicts:
            reached = MISSING if verdict.reached is None else _rounded(verdict.reached)
            word = "" if verdict.met is None else "met" if verdict.met else "NOT MET"
            lines.append([verdict.figure, verdict.wanted, reached, word, verdict.why])
        met = sum(verdict.met is True for verdict in verdicts)
        return ["", *_aligned(lines), f"{met} of {len(verdicts)} goals met"]


def median(taken: Sequence[Figure]) -> Figure:
    """The middle sample, with every number its own median and all the notes."""
    middle = statistics.median_low([figure.value for figure in taken])
    chosen = next(figure for figure in taken if figure.value == middle)
    cpu = [figure.cpu_us for figure in taken if figure.cpu_us is not None]
    memory = [figure.memory_mb for figure in taken if figure.memory_mb is not None]
    notes = dict.fromkeys(figure.note for figure in taken if figure.note)
    return replace(
        chosen,
        cpu_us=statistics.median(cpu) if cpu else None,
        memory_mb=statistics.median(memory) if memory else None,
        note="; ".join(notes),
    )


def number(figure: Figure) -> str:
    """Three digits that mean something, and no more; a share needs those behind the nines."""
    return f"{figure.value:.3f}" if figure.unit == "%" else _rounded(figure.value)


def _rounded(value: float) -> str:
    if abs(value) < 100:
        return f"{value:.3g}"
    return f"{round(value, 3 - len(str(int(abs(value))))):,.0f}"


def spread(taken: Sequence[Figure]) -> str:
    """Half of what lies between the least and the most round, of the median; '' for one round."""
    values = [figure.value for figure in taken]
    middle = statistics.median_low(values)
    if len(values) < 2 or not middle:
        return ""
    return f"±{50 * (max(values) - min(values)) / abs(middle):.0f} %"


def _cells(figure: Figure | None, taken: Sequence[Figure]) -> list[str]:
    if figure is None:
        return [MISSING, "", MISSING, MISSING]
    mark = "*" if figure.note else ""
    return [
        number(figure) + mark,
        spread(taken),
        *(MISSING if n is None else _rounded(n) for n in (figure.cpu_us, figure.memory_mb)),
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
