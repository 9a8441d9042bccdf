"""How long a message has to wait: what is no matter of a conversation."""

from __future__ import annotations

import pytest

from amqpd_exchanges.delayed import DELAY_MS_MAX, delay_ms


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_float_that_is_no_number_is_no_delay(value: float) -> None:
    assert delay_ms({"x-delay": ("d", value)}) == 0


def test_the_bounds() -> None:
    assert delay_ms({}) == 0
    assert delay_ms({"x-delay": ("l", 1)}) == 1
    assert delay_ms({"x-delay": ("l", DELAY_MS_MAX)}) == DELAY_MS_MAX
    assert delay_ms({"x-delay": ("l", DELAY_MS_MAX + 1)}) == 0
    assert delay_ms({"x-delay": ("S", str(DELAY_MS_MAX))}) == DELAY_MS_MAX
    assert delay_ms({"x-delay": ("d", 0.9)}) == 0
