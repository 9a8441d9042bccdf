"""`python -m amqpd`."""

from amqpd.cli import main

main()
