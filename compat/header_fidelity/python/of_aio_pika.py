"""What aio-pika, and beneath it aiormq and pamqp, write into headers."""

import asyncio
import datetime
import decimal
import os

import aio_pika

HEADERS = {
    "boolean": True,
    "small": 7,
    "negative": -70_000,
    "unsigned": 4_000_000_000,
    "long": 2**40,
    "double": 0.1,
    "decimal": decimal.Decimal("3.14"),
    "text": "grüße",
    "bytes": bytearray(b"\x00\xff"),
    "time": datetime.datetime(2024, 2, 29, 12, 30, 15, tzinfo=datetime.UTC),
    "nothing": None,
    "list": [1, "two", [None, True], {"k": 2**40}],
    "table": {"z": {"deep": -1}, "a": 1},
}


async def take(queue: aio_pika.abc.AbstractQueue) -> aio_pika.abc.AbstractIncomingMessage:
    for _ in range(500):
        found = await queue.get(fail=False)
        if found is not None:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"nothing came to {queue}")


async def main() -> None:
    connection = await aio_pika.connect(os.environ["AMQP_URL"])
    async with connection:
        channel = await connection.channel()
        message = aio_pika.Message(b"x", headers=HEADERS, priority=3, message_id="m", type="t")
        await channel.default_exchange.publish(message, "fidelity")
        got = await take(await channel.get_queue("fidelity", ensure=False))
        await got.reject(requeue=False)
        dead = await take(await channel.get_queue("fidelity.dead", ensure=False))
        await dead.ack()


asyncio.run(main())
