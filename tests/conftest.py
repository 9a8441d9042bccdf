"""For all tests: how fast a machine is says nothing about the code."""

from hypothesis import settings

settings.register_profile("amqpd", deadline=None)
settings.load_profile("amqpd")
