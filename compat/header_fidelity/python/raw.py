"""Header fields of every type there is, in octets of our own."""

import os
import sys
import time
import uuid
from pathlib import Path
from struct import pack

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from amqpd.commands import Basic, Channel, Queue
from compat.differential.wire import Event, Wire, content, method

QUEUE, DEAD = "fidelity", "fidelity.dead"
FIELDS = {
    b"t": b"t\x01",
    b"not only 0 and 1": b"t\x00",
    b"b": b"b\x80",
    b"B": b"B\xff",
    b"s": b"s\x80\x01",
    b"u": b"u\xff\xfe",
    b"I": b"I\x80\x00\x00\x01",
    b"i": b"i\xff\xff\xff\xfe",
    b"l": b"l\x80\x00\x00\x00\x00\x00\x00\x01",
    b"f": b"f" + pack(">f", 0.1),
    b"d": b"d" + pack(">d", 0.1),
    b"negative zero": b"d" + pack(">d", -0.0),
    b"D": b"D\x02\x00\x00\x01\x3a",
    b"S": b"S\x00\x00\x00\x03abc",
    b"no text": b"S\x00\x00\x00\x02\xff\xfe",
    b"x": b"x\x00\x00\x00\x03a\x00c",
    b"T": b"T\x00\x00\x00\x00\x65\x53\xf1\x00",
    b"V": b"V",
    b"A": b"A\x00\x00\x00\x04s\x00\x01V",
    b"no items": b"A\x00\x00\x00\x00",
    b"F": b"F\x00\x00\x00\x09\x01zs\x00\x07\x01at\x01",
    b"no fields": b"F\x00\x00\x00\x00",
    "grüße".encode(): b"V",
}
TABLE = b"".join(bytes([len(name)]) + name + value for name, value in FIELDS.items())
PROPERTIES = pack(">HI", 1 << 13 | 1 << 12 | 1 << 7, len(TABLE)) + TABLE + b"\x01\x02id"


def ask(wire: Wire, said: object, *names: str) -> Event:
    """Say a method on channel 1, and wait for its answer."""
    wire.say(1, said)
    while True:
        for event in wire.events:
            if event.name in names:
                wire.events.clear()
                return event
        assert wire.read(), wire.events


def take(wire: Wire, queue: str) -> int:
    """A message of this queue; its delivery tag."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        got = ask(
            wire, method(Basic.Get, queue=queue, no_ack=False), "basic.get_ok", "basic.get_empty"
        )
        if got.name == "basic.get_ok":
            return int(got.values["delivery_tag"])
        time.sleep(0.02)
    raise AssertionError(f"nothing came to {queue}")


wire = Wire(os.environ["AMQP_URL"], "guest")
ask(wire, Channel.Open(), "channel.open_ok")
publish = method(Basic.Publish, exchange="", routing_key=QUEUE, mandatory=False, immediate=False)
wire.say(1, publish)
wire.send(content(1, PROPERTIES, uuid.uuid4().bytes))
wire.say(1, Basic.Reject(delivery_tag=take(wire, QUEUE), requeue=False))
wire.say(1, Basic.Ack(delivery_tag=take(wire, DEAD)))
ask(wire, Queue.Declare(queue=DEAD, passive=True), "queue.declare_ok")
