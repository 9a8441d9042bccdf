"""amqpd: an AMQP 0-9-1 broker that RabbitMQ's clients work with, unchanged."""

__version__ = "0.1.0"
