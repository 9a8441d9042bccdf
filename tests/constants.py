"""Other values for what is constant."""

from __future__ import annotations

from types import ModuleType

import pytest


def replace_constant(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, value: int
) -> None:
    """Skips the test if the module is compiled: its constants are part of its code then."""
    if not str(module.__file__).endswith(".py"):
        pytest.skip(f"{module.__name__} is compiled, and {name} with it")
    monkeypatch.setattr(module, name, value)
