"""What is measured without a broker is what is said of it."""

from __future__ import annotations

from pathlib import Path

from tests.bench.flushes import BODY, LENGTH, appending, behind_a_socket, overwriting
from tests.bench.load import Limit


def test_each_message_is_flushed_before_it_is_answered(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with kept.open("w+b", buffering=0) as file:
        answered = behind_a_socket(appending(file.fileno()), Limit(20, 60))
    assert answered.count == 20
    assert kept.stat().st_size == 20 * len(BODY)


def test_what_is_written_over_does_not_grow(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with kept.open("w+b", buffering=0) as file:
        flush = overwriting(file.fileno())
        for _ in range(20):
            flush()
    assert kept.stat().st_size == LENGTH
