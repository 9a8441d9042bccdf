"""A broker of its own for every test that asks for one; none outlives its test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.process import BrokerProcess


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """Not started yet: each test says how."""
    process = BrokerProcess(tmp_path)
    yield process
    process.end()
