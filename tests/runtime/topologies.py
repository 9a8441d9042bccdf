"""Definitions of a broker, at random: something of every kind that a definitions file can hold.

Whatever refers to something finds it, so each of them can be imported.
"""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from tests.hyphens import hyphenated

Row = dict[str, Any]
Rows = st.SearchStrategy[list[Row]]

HOSTS: Final = ("/", "v")
ROOT: Final = "root"
"""The user whom permissions are for."""

names = st.sampled_from(["a", "b", "é", 'c"[0]', "d.e"])
hosts = st.sampled_from(HOSTS)
patterns = st.sampled_from(["", "^a", "b$", ".", "^(a|b)+$"])
scalars = st.booleans() | st.integers(-5, 1 << 40) | st.sampled_from(["", "x"]) | st.just(0.5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("kl"), inner, max_size=2)
    ),
    max_leaves=4,
)
arguments = st.dictionaries(st.sampled_from(["k", "l"]), values, max_size=2)
milliseconds = st.integers(1, 10_000)


def rows(fields: dict[str, st.SearchStrategy[Any]], *key: str) -> Rows:
    """A few rows, each with another key."""
    return st.lists(
        st.fixed_dictionaries(fields),
        max_size=3,
        unique_by=lambda row: tuple(row[name] for name in key),
    )


def some(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Row]:
    """An object with some of these; `_` stands for a hyphen."""
    fields = hyphenated(optional)
    return st.fixed_dictionaries({}, optional=fields)


# -- queues

of_every_type = some(
    x_expires=milliseconds,
    x_message_ttl=milliseconds,
    x_max_length=st.integers(0, 9),
    x_max_length_bytes=st.integers(0, 9),
    x_single_active_consumer=st.booleans(),
    x_dead_letter_exchange=st.sampled_from(["", "a", "nowhere"]),
    x_delayed_retry_type=st.sampled_from(["all", "failed"]),
    x_delayed_retry_min=milliseconds,
)
of_classic = some(
    x_queue_type=st.just("classic"),
    x_max_priority=st.integers(1, 255),
    x_queue_mode=st.just("lazy"),
    x_overflow=st.sampled_from(["drop-head", "reject-publish", "reject-publish-dlx"]),
    x_message_deduplication=st.booleans(),
)
of_quorum = some(
    x_delivery_limit=st.integers(0, 9),
    x_dead_letter_strategy=st.sampled_from(["at-most-once", "at-least-once"]),
    x_overflow=st.sampled_from(["drop-head", "reject-publish"]),
    x_quorum_initial_group_size=st.integers(1, 5),
)


@st.composite
def queues(draw: st.DrawFn) -> Row:
    """A classic queue, or a quorum queue, which has to last."""
    quorum = draw(st.booleans())
    declared = {**draw(arguments), **draw(of_every_type)}
    if quorum:
        declared |= {**draw(of_quorum), "x-queue-type": "quorum"}
    else:
        declared |= draw(of_classic)
    return {
        "name": draw(names),
        "vhost": draw(hosts),
        "durable": quorum or draw(st.booleans()),
        "auto_delete": not quorum and draw(st.booleans()),
        "arguments": declared,
    }


# -- exchanges

INNER: Final = ("direct", "fanout", "topic", "headers", "x-consistent-hash")
alternate = some(alternate_exchange=names)
OF_TYPE: Final[dict[str, st.SearchStrategy[Row]]] = {
    "x-delayed-message": st.fixed_dictionaries({"x-delayed-type": st.sampled_from(INNER)}),
    "x-consistent-hash": st.sampled_from(
        [{}, {"hash-header": "h"}, {"hash-property": "message_id"}]
    ),
    "x-recent-history": some(x_recent_history_length=st.integers(1, 9)),
    "x-message-deduplication": st.fixed_dictionaries(
        {"x-cache-size": st.integers(1, 9)},
        optional={
            "x-cache-ttl": milliseconds,
            "x-cache-persistence": st.sampled_from(["disk", "memory"]),
        },
    ),
}
"""The arguments of those types that have some of their own."""
TYPES: Final = (
    *("direct", "fanout", "topic", "headers"),
    *("x-modulus-hash", "x-random", *OF_TYPE),
)


@st.composite
def exchanges(draw: st.DrawFn) -> Row:
    """One of RabbitMQ's types, or of its plug-ins'."""
    kind = draw(st.sampled_from(TYPES))
    own = draw(OF_TYPE[kind]) if kind in OF_TYPE else {}
    return {
        "name": draw(names),
        "vhost": draw(hosts),
        "type": kind,
        "durable": draw(st.booleans()),
        "auto_delete": draw(st.booleans()),
        "internal": draw(st.booleans()),
        "arguments": {**draw(arguments), **draw(alternate), **own},
    }


@st.composite
def bindings(draw: st.DrawFn, queues: list[Row], exchanges: list[Row]) -> list[Row]:
    """From exchanges of the file and of the broker to queues and exchanges of the file."""
    ends = [("queue", row) for row in queues] + [("exchange", row) for row in exchanges]
    found = []
    for kind, row in draw(st.lists(st.sampled_from(ends), max_size=4)) if ends else []:
        sources = [x for x in exchanges if x["vhost"] == row["vhost"]]
        source = draw(st.sampled_from([*sources, {"name": "amq.topic"}, {"name": "amq.headers"}]))
        types = {source.get("type"), source.get("arguments", {}).get("x-delayed-type")}
        is_weight = "x-consistent-hash" in types
        found.append(
            {
                "source": source["name"],
                "vhost": row["vhost"],
                "destination": row["name"],
                "destination_type": kind,
                "routing_key": draw(st.sampled_from("123") if is_weight else names),
                "arguments": draw(arguments),
            }
        )
    return found


# -- policies and other parameters

settings_of_queues = some(
    max_length=st.integers(0, 9),
    max_length_bytes=st.integers(0, 9),
    expires=milliseconds,
    message_ttl=milliseconds,
    overflow=st.sampled_from(["drop-head", "reject-publish"]),
    delivery_limit=st.integers(0, 9),
).filter(bool)
upstream_names = st.sampled_from(["up", "other", "é"])
links = st.one_of(
    st.just({"federation-upstream-set": "all"}),
    st.fixed_dictionaries({"federation-upstream": upstream_names}),
    st.fixed_dictionaries({"federation-upstream-set": upstream_names}),
    st.fixed_dictionaries({"federation-upstream-pattern": patterns}),
)
settings_of_all = st.one_of(
    settings_of_queues,
    links,
    some(
        alternate_exchange=names,
        dead_letter_exchange=names,
        dead_letter_routing_key=names,
        queue_mode=st.just("lazy"),
        max_age=st.just("1D"),
    ).filter(bool),
)


def rule(definition: st.SearchStrategy[Row]) -> dict[str, st.SearchStrategy[Any]]:
    """What a policy says."""
    return {
        "pattern": patterns,
        "apply-to": st.sampled_from(
            ["all", "queues", "classic_queues", "quorum_queues", "streams", "exchanges"]
        ),
        "definition": definition,
        "priority": st.integers(-3, 3),
    }


def parameter(component: str, name: st.SearchStrategy[str], value: st.SearchStrategy[Any]) -> Rows:
    """Parameters of one component."""
    fields = {"vhost": hosts, "component": st.just(component), "name": name, "value": value}
    return rows(fields, "vhost", "name")


PLENTY: Final = 50
"""More queues than a virtual host ever has here: a limit would be in the way of an import."""
operator_policies = parameter(
    "operator_policy", names, st.fixed_dictionaries(rule(settings_of_queues))
)
virtual_host_limits = parameter(
    "vhost-limits",
    st.just("limits"),
    some(
        max_connections=st.integers(-1, 9), max_queues=st.sampled_from([-1, PLENTY, 1 << 40])
    ).filter(bool),
)
uris = st.sampled_from(["amqp://", ["amqp://one", "amqps://u:p@two:5673/v?verify=verify_none"]])
ack_modes = st.sampled_from(["on-confirm", "on-publish", "no-ack"])
shovels = parameter(
    "shovel",
    names,
    st.fixed_dictionaries(
        {"src-uri": uris, "src-queue": names, "dest-uri": uris, "dest-queue": names},
        optional={
            "ack-mode": ack_modes,
            "src-delete-after": st.sampled_from(["never", "queue-length"]),
            "src-delete-after-duration": st.integers(60, 9000),
            "dest-publish-properties": st.just({"delivery_mode": 2}),
            "dest-add-forward-headers": st.booleans(),
        },
    ),
)
of_upstreams = {
    "exchange": names,
    "queue": names,
    "max-hops": st.integers(1, 9),
    "prefetch-count": st.integers(0, 1000),
    "reconnect-delay": st.integers(1, 60) | st.just(0.5),
    "expires": milliseconds,
    "message-ttl": milliseconds,
    "ack-mode": ack_modes,
    "trust-user-id": st.booleans(),
    "queue-type": st.sampled_from(["classic", "quorum"]),
    "resource-cleanup-mode": st.sampled_from(["default", "never"]),
    "bind-nowait": st.booleans(),
    "channel-use-mode": st.sampled_from(["single", "multiple"]),
    "consumer-tag": names,
}
upstreams = parameter(
    "federation-upstream",
    upstream_names,
    st.fixed_dictionaries({"uri": uris}, optional=of_upstreams),
)
upstream_sets = parameter(
    "federation-upstream-set",
    upstream_names,
    st.lists(
        st.fixed_dictionaries({"upstream": upstream_names}, optional=of_upstreams), max_size=2
    ),
)

# -- users and virtual hosts

user_limits = some(max_connections=st.integers(-1, 9), max_channels=st.integers(-1, 9))
HASH: Final = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
users = rows(
    {
        "name": st.sampled_from(["u", "w"]),
        "password_hash": st.sampled_from(["", HASH]),
        "hashing_algorithm": st.sampled_from(
            ["rabbit_password_hashing_sha256", "rabbit_password_hashing_md5"]
        ),
        "tags": st.lists(st.sampled_from(["management", "mine"]), unique=True),
        "limits": user_limits,
    },
    "name",
)
about_virtual_host = {
    "description": names | st.just(""),
    "tags": st.lists(st.sampled_from("st"), unique=True),
}
queue_types = st.sampled_from(["classic", "quorum", "stream"])


@st.composite
def topologies(draw: st.DrawFn) -> dict[str, Any]:
    """A whole file."""
    some_queues = draw(st.lists(queues(), max_size=3, unique_by=_place))
    some_exchanges = draw(st.lists(exchanges(), max_size=4, unique_by=_place))
    by_root = {"user": st.just(ROOT), "vhost": hosts}
    rights = {"configure": patterns, "write": patterns, "read": patterns}
    virtual_host = st.fixed_dictionaries(
        about_virtual_host, optional={"default_queue_type": queue_types}
    )
    return {
        "users": [
            {"name": ROOT, "password_hash": "", "tags": ["administrator"]},
            *draw(users),
        ],
        "vhosts": [{"name": name, **draw(virtual_host)} for name in HOSTS],
        "permissions": draw(rows({**by_root, **rights}, "vhost")),
        "topic_permissions": draw(
            rows(
                {**by_root, "exchange": names, "write": patterns, "read": patterns},
                *("vhost", "exchange"),
            )
        ),
        "parameters": [
            *draw(operator_policies),
            *draw(virtual_host_limits),
            *draw(shovels),
            *draw(upstreams),
            *draw(upstream_sets),
        ],
        "global_parameters": draw(rows({"name": names, "value": values}, "name")),
        "policies": draw(
            rows({"vhost": hosts, "name": names, **rule(settings_of_all)}, "vhost", "name")
        ),
        "queues": some_queues,
        "exchanges": some_exchanges,
        "bindings": draw(bindings(some_queues, some_exchanges)),
    }


def _place(row: Row) -> tuple[str, str]:
    return row["vhost"], row["name"]
