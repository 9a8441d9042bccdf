"""/parameters, /global-parameters, /policies, /operator-policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from amqpd.broker.parameters import (
    POLICY,
    InvalidParameter,
    NoSuchParameter,
    NoSuchVhost,
)
from amqpd.broker.policies import Policy, clear_policy, policies, set_policy
from amqpd.broker.policy_settings import Kind
from amqpd.management.auth import (
    administrators,
    in_virtual_host,
    policymakers,
    wanted_virtual_hosts,
)
from amqpd.management.call import Answer, Call, done, listed
from amqpd.management.errors import bad_request, not_found
from amqpd.management.routing import Handler, Table


def refusing(handler: Handler) -> Handler:
    """The handler, with the core's refusals as HTTP's."""

    def refused(call: Call) -> Answer:
        try:
            return handler(call)
        except InvalidParameter as error:
            raise bad_request(str(error)) from error
        except NoSuchVhost as error:
            raise not_found("vhost_not_found") from error
        except NoSuchParameter as error:
            raise not_found() from error

    return refused


# -- runtime parameters


def every(call: Call) -> Answer:
    """Of a component, of a virtual host, or of all that the user sees; policies have their own."""
    hosts = {host.name for host in wanted_virtual_hosts(call)}
    component = call.parameters.get("component")
    if component == POLICY:
        return listed([])
    records = call.broker.parameters.records(component=component)
    return listed(
        [msgspec.structs.asdict(record) for record in records if record.vhost in hosts],
        "vhost",
        "component",
        "name",
    )


def show(call: Call) -> Answer:
    """One parameter."""
    return Answer(body=msgspec.structs.asdict(_record(call)))


def _record(call: Call) -> Any:
    for record in call.broker.parameters.records(vhost=call["vhost"], component=call["component"]):
        if record.name == call["name"]:
            return record
    raise not_found()


def put(call: Call) -> Answer:
    """Set a parameter."""
    call.require_virtual_host()
    value = call.json_with("value")["value"]
    is_new = call.broker.parameters.set(
        call["vhost"], call["component"], call["name"], value, by=call.user.name
    )
    return done(is_new)


def delete(call: Call) -> Answer:
    """Clear a parameter."""
    _record(call)
    call.broker.parameters.clear(call["vhost"], call["component"], call["name"], by=call.user.name)
    return done()


# -- global parameters


def every_global(call: Call) -> Answer:
    """All of them."""
    records = call.broker.parameters.global_records()
    return listed([msgspec.structs.asdict(record) for record in records], "name")


def show_global(call: Call) -> Answer:
    """One of them."""
    for record in call.broker.parameters.global_records():
        if record.name == call["name"]:
            return Answer(body=msgspec.structs.asdict(record))
    raise not_found()


def put_global(call: Call) -> Answer:
    """Set one."""
    value = call.json_with("value")["value"]
    return done(call.broker.parameters.set_global(call["name"], value, by=call.user.name))


def delete_global(call: Call) -> Answer:
    """Clear one."""
    call.broker.parameters.clear_global(call["name"], by=call.user.name)
    return done()


# -- policies


def policy_fields(policy: Policy) -> dict[str, Any]:
    """A policy as JSON."""
    return {"vhost": policy.vhost, "name": policy.name, **policy.value()}


class Policies:
    """The handlers for policies of one kind."""

    def __init__(self, kind: Kind) -> None:
        self._kind: Kind = kind

    def every(self, call: Call) -> Answer:
        """In one virtual host, or in all that the user sees."""
        hosts = wanted_virtual_hosts(call)
        found = [policy for host in hosts for policy in self._in(call, host.name)]
        return listed([policy_fields(policy) for policy in found], "vhost", "name")

    def show(self, call: Call) -> Answer:
        """One policy."""
        for policy in self._in(call, call["vhost"]):
            if policy.name == call["name"]:
                return Answer(body=policy_fields(policy))
        raise not_found()

    def put(self, call: Call) -> Answer:
        """Set a policy; it holds at once."""
        body = call.json_with("pattern", "definition")
        is_new = set_policy(
            call.broker,
            call["vhost"],
            call["name"],
            pattern=body["pattern"],
            definition=body["definition"],
            priority=body.get("priority", 0),
            apply_to=body.get("apply-to", "all"),
            kind=self._kind,
            by=call.user.name,
        )
        return done(is_new)

    def delete(self, call: Call) -> Answer:
        """Clear a policy."""
        clear_policy(call.broker, call["vhost"], call["name"], kind=self._kind, by=call.user.name)
        return done()

    def _in(self, call: Call, vhost: str) -> list[Policy]:
        return policies(call.broker, vhost, kind=self._kind)


def register(table: Table) -> None:
    """The paths."""
    wrapped: Callable[[Handler], Handler] = refusing
    table.add("/parameters", GET=(every, policymakers))
    table.add("/parameters/{component}", GET=(every, policymakers))
    table.add("/parameters/{component}/{vhost}", GET=(every, policymakers))
    table.add(
        "/parameters/{component}/{vhost}/{name}",
        GET=(show, policymakers),
        PUT=(wrapped(put), policymakers),
        DELETE=(wrapped(delete), policymakers),
    )
    table.add("/global-parameters", GET=(every_global, policymakers))
    table.add(
        "/global-parameters/{name}",
        GET=(show_global, policymakers),
        PUT=(wrapped(put_global), policymakers),
        DELETE=(wrapped(delete_global), policymakers),
    )
    kinds: tuple[tuple[str, Kind], ...] = (
        ("policies", "policy"),
        ("operator-policies", "operator_policy"),
    )
    for path, kind in kinds:
        handlers = Policies(kind)
        # What an operator decided is not for policymakers to change. In lists all may see it.
        rule = policymakers if kind == POLICY else administrators
        table.add(f"/{path}", GET=(handlers.every, in_virtual_host))
        table.add(f"/{path}/{{vhost}}", GET=(handlers.every, in_virtual_host))
        table.add(
            f"/{path}/{{vhost}}/{{name}}",
            GET=(handlers.show, rule),
            PUT=(wrapped(handlers.put), rule),
            DELETE=(wrapped(handlers.delete), rule),
        )
