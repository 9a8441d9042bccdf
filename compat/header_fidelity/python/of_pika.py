"""What pika writes into headers."""

import datetime
import decimal
import os
import time

import pika

HEADERS = {
    "boolean": True,
    "small": 7,
    "negative": -70_000,
    "long": 2**40,
    "lowest": -(2**63),
    "decimal": decimal.Decimal("3.14"),
    "text": "grüße",
    "bytes": b"\x00\xff",
    "time": datetime.datetime(2024, 2, 29, 12, 30, 15, tzinfo=datetime.UTC),
    "nothing": None,
    "list": [1, "two", [None, True], {"k": 2**40}],
    "table": {"z": {"deep": -1}, "a": 1},
}
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()


def take(queue: str) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found, _, _ = channel.basic_get(queue)
        if found is not None:
            return int(found.delivery_tag)
        time.sleep(0.02)
    raise AssertionError(f"nothing came to {queue}")


properties = pika.BasicProperties(
    content_type="text/plain", headers=HEADERS, priority=3, timestamp=1_700_000_000, type="t"
)
channel.basic_publish("", "fidelity", b"x", properties)
channel.basic_reject(take("fidelity"), requeue=False)
channel.basic_ack(take("fidelity.dead"))
connection.close()
