"""What AMQPStorm writes into headers."""

import datetime
import decimal
import os
import time

from amqpstorm import Message, UriConnection

HEADERS = {
    "boolean": True,
    "small": 7,
    "negative": -70_000,
    "long": 2**40,
    "double": 0.1,
    "decimal": decimal.Decimal("3.14"),
    "text": "grüße",
    "time": datetime.datetime(2024, 2, 29, 12, 30, 15, tzinfo=datetime.UTC),
    "nothing": None,
    "list": [1, "two", [None, True], {"k": 2**40}],
    "table": {"z": {"deep": -1}, "a": 1},
}
with UriConnection(os.environ["AMQP_URL"] + "/%2F") as connection:
    channel = connection.channel()

    def take(queue: str) -> Message:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = channel.basic.get(queue)
            if found is not None:
                return found
            time.sleep(0.02)
        raise AssertionError(f"nothing came to {queue}")

    Message.create(channel, "x", {"headers": HEADERS, "priority": 3}).publish("fidelity")
    take("fidelity").reject(requeue=False)
    take("fidelity.dead").ack()
