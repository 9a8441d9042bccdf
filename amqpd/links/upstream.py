"""Upstreams of federation: the runtime parameters `federation-upstream` and
`federation-upstream-set`, checked in RabbitMQ's words (rabbit_federation_parameters), and what
policies make of them (rabbit_federation_upstream).

    federation-upstream: NAME             this one
    federation-upstream-set: NAME         those of the set, each with what the set says otherwise
    federation-upstream-set: all          all of the virtual host
    federation-upstream-pattern: REGEX    those in whose name it is found

An upstream that does not exist (any more) is passed over: it may come later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from amqpd.broker.erlang_terms import term
from amqpd.broker.parameter_validation import Field, check_object
from amqpd.broker.parameters import Parameters
from amqpd.broker.patterns import compile_name_pattern
from amqpd.links.link import AckMode
from amqpd.links.parameter_checks import (
    check_boolean,
    check_delay,
    check_name,
    check_prefetch,
    check_text,
    check_uris,
    integer_within,
    one_of,
)
from amqpd.links.uri import LinkURI, parse_uri

UPSTREAM: Final = "federation-upstream"
UPSTREAM_SET: Final = "federation-upstream-set"
UPSTREAM_PATTERN: Final = "federation-upstream-pattern"
ALL: Final = "all"

PREFETCH_COUNT: Final = 1000
RECONNECT_DELAY_S: Final = 5
MAX_HOPS_MAX: Final = 32767
"""What the hops of `x-bound-from`, 16 bits, can say."""
TIME_MAX_MS: Final = 315_360_000_000
"""Ten years: RabbitMQ's limit for every time to live."""
UPSTREAMS_MAX: Final = 1024
"""In one set."""

CleanUp = Literal["default", "never"]


class Upstream(Struct, frozen=True):
    """One upstream of one exchange or queue."""

    name: str
    uris: tuple[LinkURI, ...]
    exchange: str
    """At the other end; that of the exchange here if nobody said otherwise. `queue` likewise."""
    queue: str
    consumer_tag: str
    prefetch_count: int = PREFETCH_COUNT
    reconnect_delay_s: float = RECONNECT_DELAY_S
    max_hops: int = 1
    """Links that a message may travel over."""
    expires_ms: int | None = None
    message_ttl_ms: int | None = None
    trust_user_id: bool = False
    ack_mode: AckMode = "on-confirm"
    queue_type: str = "classic"
    """Of the link's own queue at an upstream exchange."""
    bind_nowait: bool = False
    clean_up: CleanUp = "default"
    """`never`: what the link declared upstream stays when the link is not wanted any more."""
    one_channel: bool = False
    """Bindings go over the channel of the messages."""


def find_upstreams(
    parameters: Parameters, vhost: str, definition: Mapping[str, Any] | None, name: str
) -> list[Upstream]:
    """The upstreams that a policy's definition gives an exchange or queue of this name."""
    if not definition:
        return []
    found: dict[tuple[str, str, str], Upstream] = {}
    for element in _elements(parameters, vhost, definition):
        value = parameters.value(vhost, UPSTREAM, element["upstream"])
        if value is not None:
            upstream = _merge(element, value, name)
            found.setdefault((upstream.name, upstream.exchange, upstream.queue), upstream)
    return list(found.values())


def is_federated(definition: Mapping[str, Any] | None) -> bool:
    """Whether a policy's definition asks for federation."""
    keys = (UPSTREAM, UPSTREAM_SET, UPSTREAM_PATTERN)
    return definition is not None and any(key in definition for key in keys)


def _elements(
    parameters: Parameters, vhost: str, definition: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What an upstream set would say."""
    if UPSTREAM in definition:
        return [{"upstream": definition[UPSTREAM]}]
    names = [record.name for record in parameters.records(vhost=vhost, component=UPSTREAM)]
    if UPSTREAM_PATTERN in definition:
        pattern = compile_name_pattern(definition[UPSTREAM_PATTERN])
        return [{"upstream": name} for name in names if pattern.search(name) is not None]
    set_name = definition.get(UPSTREAM_SET)
    if set_name is None:
        return []
    if set_name == ALL:
        return [{"upstream": name} for name in names]
    elements: list[dict[str, Any]] = parameters.value(vhost, UPSTREAM_SET, set_name) or []
    return elements


def _merge(element: Mapping[str, Any], value: Mapping[str, Any], name: str) -> Upstream:
    """The upstream that a set's element makes of a parameter's value."""

    def said(key: str, default: Any) -> Any:
        return element.get(key, value.get(key, default))

    upstream: str = element["upstream"]
    uris = value["uri"]
    return Upstream(
        name=upstream,
        uris=tuple(map(parse_uri, [uris] if isinstance(uris, str) else uris)),
        exchange=said("exchange", name),
        queue=said("queue", name),
        consumer_tag=said("consumer-tag", f"federation-link-{upstream}"),
        prefetch_count=said("prefetch-count", PREFETCH_COUNT),
        reconnect_delay_s=said("reconnect-delay", RECONNECT_DELAY_S),
        max_hops=said("max-hops", 1),
        expires_ms=said("expires", None),
        message_ttl_ms=said("message-ttl", None),
        trust_user_id=said("trust-user-id", False),
        ack_mode=said("ack-mode", "on-confirm"),
        queue_type=said("queue-type", "classic"),
        bind_nowait=said("bind-nowait", False),
        clean_up=said("resource-cleanup-mode", "default"),
        one_channel=said("channel-use-mode", "multiple") == "single",
    )


# -- checks


def check_upstream(name: str, value: Any) -> list[str]:
    """What is wrong with an upstream; nothing if all is well."""
    return check_object(name, UPSTREAM_FIELDS, value)


def check_upstream_set(name: str, value: Any) -> list[str]:
    """What is wrong with a set of upstreams."""
    if not isinstance(value, list):
        return [f"{name} should be list, actually was {term(value)}"]
    if len(value) > UPSTREAMS_MAX:
        return [f"{name} should have up to {UPSTREAMS_MAX} upstreams, actually had {len(value)}"]
    return [problem for element in value for problem in check_object(name, SET_FIELDS, element)]


SHARED_FIELDS: Final = (
    Field("exchange", check_name, mandatory=False),
    Field("queue", check_name, mandatory=False),
    Field("consumer-tag", check_name, mandatory=False),
    Field("prefetch-count", check_prefetch, mandatory=False),
    Field("reconnect-delay", check_delay, mandatory=False),
    Field("max-hops", integer_within(1, MAX_HOPS_MAX), mandatory=False),
    Field("expires", integer_within(1, TIME_MAX_MS), mandatory=False),
    Field("message-ttl", integer_within(0, TIME_MAX_MS), mandatory=False),
    Field("trust-user-id", check_boolean, mandatory=False),
    Field("ack-mode", one_of("no-ack", "on-publish", "on-confirm"), mandatory=False),
    Field("resource-cleanup-mode", one_of("default", "never"), mandatory=False),
    # Of mirrored queues, which there are none of any more: taken, and without effect.
    Field("ha-policy", check_text, mandatory=False),
    Field("bind-nowait", check_boolean, mandatory=False),
    Field("channel-use-mode", one_of("multiple", "single"), mandatory=False),
    Field("queue-type", one_of("classic", "quorum"), mandatory=False),
)
UPSTREAM_FIELDS: Final = (Field("uri", check_uris), *SHARED_FIELDS)
SET_FIELDS: Final = (Field("upstream", check_text), *SHARED_FIELDS)
