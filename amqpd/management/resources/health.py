"""/health/checks, /healthchecks, /aliveness-test: is it well, in one word.

Healthy is 200 `{"status": "ok"}`; unhealthy is 503 with `failed` and a reason, for load balancers
and container probes that look at the status alone.
"""

from __future__ import annotations

from typing import Any, Final

from amqpd.commands import Queue
from amqpd.management import amqp, messages
from amqpd.management.auth import anybody, in_virtual_host
from amqpd.management.call import Answer, Call
from amqpd.management.errors import bad_request, not_found
from amqpd.management.options import number
from amqpd.management.resources.overview import listeners, node_name
from amqpd.management.routing import Handler, Table

OK: Final = {"status": "ok"}
ALIVENESS_QUEUE: Final = "aliveness-test"
SECONDS: Final = {"days": 86400, "weeks": 7 * 86400, "months": 30 * 86400, "years": 365 * 86400}
PROTOCOLS: Final = {
    "amqp091": "amqp",
    "amqp0.9.1": "amqp",
    "amqp0-9-1": "amqp",
    "amqps": "amqp/ssl",
    "http/web": "http",
}
"""Other words for the protocols of listeners."""


def failed(reason: str, **more: Any) -> Answer:
    """Something is not well."""
    return Answer(503, {"status": "failed", "reason": reason, **more})


def well(call: Call) -> Answer:
    """There is nothing here that could be otherwise and still answer."""
    return Answer(body=OK)


def alone(call: Call) -> Answer:
    """Whether others depend on this node."""
    return Answer(body={"status": "ok", "reason": "single node cluster"})


def alarms(where: str) -> Handler:
    """Whether something is short."""

    def check(call: Call) -> Answer:
        active = call.broker.alarms.active
        if not active:
            return Answer(body=OK)
        raised = [{"node": node_name(call.node), "resource": alarm.value} for alarm in active]
        return failed(f"There are alarms in effect {where}", alarms=raised)

    return check


def port_listener(call: Call) -> Answer:
    """Whether something listens on a port."""
    port = number(call["port"])
    if port is None:
        raise bad_request("Invalid port")
    ports = [listener["port"] for listener in listeners(call.node)]
    if port in ports:
        return Answer(body={"status": "ok", "port": port})
    return failed("No active listener", missing=port, ports=ports)


def protocol_listener(call: Call) -> Answer:
    """Whether something listens for a protocol."""
    name = call["protocol"].lower()
    wanted = PROTOCOLS.get(name, name)
    protocols = list(dict.fromkeys(listener["protocol"] for listener in listeners(call.node)))
    if wanted in protocols:
        return Answer(body={"status": "ok", "protocol": call["protocol"]})
    return failed("No active listener", missing=call["protocol"], protocols=protocols)


def certificate_expiration(call: Call) -> Answer:
    """Whether the certificates of the TLS listeners are good for that long."""
    unit = SECONDS.get(call["unit"])
    if unit is None:
        raise bad_request("Time unit not recognised. Supported units: days, weeks, months, years.")
    within = number(call["within"])
    if within is None:
        raise bad_request("Invalid expiration value.")
    ends_s = call.node.certificate_ends_s
    now_s = call.broker.effects.epoch_ms() / 1000
    if ends_s is None or ends_s > now_s + within * unit:
        return Answer(body=OK)
    expired = [
        {
            "node": listener["node"],
            "protocol": listener["protocol"],
            "interface": listener["ip_address"],
            "port": listener["port"],
            "expires_on": int(ends_s),
        }
        for listener in listeners(call.node)
        if listener["protocol"] == "amqp/ssl"
    ]
    return failed("Certificates expiring", expired=expired)


def aliveness(call: Call) -> Answer:
    """Declare a queue, publish to it and fetch from it."""
    call.require_virtual_host()
    declare = amqp.frame(
        Queue.Declare,
        queue=ALIVENESS_QUEUE,
        passive=False,
        durable=False,
        exclusive=False,
        auto_delete=False,
        nowait=False,
    )
    amqp.perform(call, declare)
    message = messages.message("", ALIVENESS_QUEUE, b"test_message")
    wanted = messages.Wanted(1, None, messages.as_text, None)
    if messages.publish(call, message) and messages.get(call, ALIVENESS_QUEUE, wanted):
        return Answer(body=OK)
    return failed("the message that was published could not be fetched")


def node_health(call: Call) -> Answer:
    """The check of older versions: 4.x has none."""
    if call.broker.config.compat != "3.13":
        raise not_found()
    if "node" in call.parameters and call["node"] != node_name(call.node):
        raise not_found()
    active = call.broker.alarms.active
    if active:
        shown = ", ".join(alarm.value for alarm in active)
        return Answer(body={"status": "failed", "reason": f"resource alarm(s) in effect:[{shown}]"})
    return Answer(body=OK)


def register(table: Table) -> None:
    """The paths."""
    checks = "/health/checks"
    table.add(f"{checks}/alarms", GET=(alarms("in the cluster"), anybody))
    table.add(f"{checks}/local-alarms", GET=(alarms("on the node"), anybody))
    for name in ("virtual-hosts", "is-in-service", "ready-to-serve-clients"):
        table.add(f"{checks}/{name}", GET=(well, anybody))
    for name in ("below-node-connection-limit", "metadata-store/initialized"):
        table.add(f"{checks}/{name}", GET=(well, anybody))
    for name in ("node-is-mirror-sync-critical", "node-is-quorum-critical"):
        table.add(f"{checks}/{name}", GET=(alone, anybody))
    table.add(f"{checks}/port-listener/{{port}}", GET=(port_listener, anybody))
    table.add(f"{checks}/protocol-listener/{{protocol}}", GET=(protocol_listener, anybody))
    table.add(
        f"{checks}/certificate-expiration/{{within}}/{{unit}}",
        GET=(certificate_expiration, anybody),
    )
    table.add("/healthchecks/node", GET=(node_health, anybody))
    table.add("/healthchecks/node/{node}", GET=(node_health, anybody))
    table.add("/aliveness-test/{vhost}", GET=(aliveness, in_virtual_host))
