"""Brokers to talk to."""

from __future__ import annotations

import pytest

from tests.conversation import BrokerUnderTest, Channel


@pytest.fixture
def broker() -> BrokerUnderTest:
    """In memory."""
    return BrokerUnderTest()


@pytest.fixture
def journaled() -> BrokerUnderTest:
    """With a journal that commits by hand."""
    return BrokerUnderTest(journaling=True)


@pytest.fixture
def channel(broker: BrokerUnderTest) -> Channel:
    """A channel of the broker in memory."""
    return broker.client().channel()
