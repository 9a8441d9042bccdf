"""RabbitMQ's HTTP API: what the broker is doing, and how to change it, as JSON.

    request -> app -> routing -> auth -> resources/* -> broker        (one turn, no await)
    response <- app <- fields, options <-----------------+
                 |
                 +-- waits until what was changed is on disk

Resources are sans-IO: a handler gets a `Call` and returns an `Answer` or raises an `ApiError`. The
ASGI application around them is the only part that awaits. Paths, fields, statuses and words are
those of rabbitmq_management; what differs is in docs/management.md.
"""
