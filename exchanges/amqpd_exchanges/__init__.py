"""Routing, and nothing else: from an exchange, a routing key and headers to queues.

One exchange type per file; `router.py` walks from exchange to exchange and remembers results.
The package imports the standard library only. It never sees a message, a clock, a random source
or a file, and a queue is to it an opaque hashable object.
"""
