"""For all tests: how fast a machine is says nothing about the code."""

import os

from hypothesis import settings

from amqpd.runtime.build import is_compiled

settings.register_profile("amqpd", deadline=None)
settings.load_profile("amqpd")

if os.environ.get("AMQPD_TEST_COMPILED") == "1":
    assert is_compiled(), "the compiled build was to be tested, and is not what is imported"
