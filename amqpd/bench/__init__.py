"""`amqpd bench`: load for any AMQP 0-9-1 broker, with PerfTest's letters.

- `plan`: what was asked for; `topology`: exchange, queues and bindings for it
- `producer`, `consumer`: the two roles, on a client without a socket (`amqpd.links.client`)
- `speaker`: what both are: a channel that prepares itself and then works
- `histogram`, `tally`: latencies and counts; `summary`: as text and as JSON
- `connection`: a socket with its speakers; `run`: all of it, in one event loop

Imported by the command alone: `amqpd serve` never pays for it.
"""
