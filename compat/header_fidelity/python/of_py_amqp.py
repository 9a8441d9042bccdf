"""What py-amqp writes into headers."""

import datetime
import decimal
import os
import time
from urllib.parse import urlsplit

import amqp

HEADERS = {
    "boolean": True,
    "small": 7,
    "negative": -70_000,
    "long": 2**40,
    "double": 0.1,
    "decimal": decimal.Decimal("3.14"),
    "text": "grüße",
    "bytes": b"\x00\xff",
    "time": datetime.datetime(2024, 2, 29, 12, 30, 15),
    "nothing": None,
    "list": [1, "two", [None, True], {"k": 2**40}],
    "table": {"z": {"deep": -1}, "a": 1},
}
url = urlsplit(os.environ["AMQP_URL"])
connection = amqp.Connection(f"{url.hostname}:{url.port}", url.username, url.password)
connection.connect()
channel = connection.channel()


def take(queue: str) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = channel.basic_get(queue)
        if found is not None:
            return int(found.delivery_tag)
        time.sleep(0.02)
    raise AssertionError(f"nothing came to {queue}")


properties = {"content_type": "text/plain", "priority": 3, "message_id": "m"}
channel.basic_publish(amqp.Message(b"x", application_headers=HEADERS, **properties), "", "fidelity")
channel.basic_reject(take("fidelity"), requeue=False)
channel.basic_ack(take("fidelity.dead"))
connection.close()
