"""What rabbitpy writes into headers."""

import datetime
import decimal
import os
import time

import rabbitpy

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
with (
    rabbitpy.Connection(os.environ["AMQP_URL"] + "/%2F") as connection,
    connection.channel() as channel,
):

    def take(queue: str) -> rabbitpy.Message:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = rabbitpy.Queue(channel, queue).get()
            if found is not None:
                return found
            time.sleep(0.02)
        raise AssertionError(f"nothing came to {queue}")

    message = rabbitpy.Message(channel, b"x", {"headers": HEADERS, "priority": 3})
    message.publish("", "fidelity")
    take("fidelity").reject(requeue=False)
    take("fidelity.dead").ack()
