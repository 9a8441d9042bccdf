# ruff: noqa: E501  a request is a line
"""The requests that are sent to both brokers, in order: each one builds on those before.

    METHOD PATH [JSON body]

`NODE` stands for the name of the node. A body in single quotes is sent as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any, Final

REQUESTS: Final = """
GET /overview
GET /whoami
GET /cluster-name
GET /extensions
GET /auth
GET /nodes
GET /nodes/NODE
GET /nodes/nobody
GET /nodes/NODE/memory
GET /nothing-of-that-name
POST /overview
DELETE /queues
PUT /vhosts/one {"description": "of the test", "tags": "a,b"}
PUT /vhosts/one {"description": "again"}
PUT /vhosts/one {"tracing": true}
PUT /vhosts/two 'not json'
PUT /vhosts/two '[]'
PUT /vhosts/two
GET /vhosts
GET /vhosts/one
GET /vhosts/missing
DELETE /vhosts/missing
GET /vhosts/one/permissions
GET /vhosts/one/topic-permissions
GET /vhosts/one/connections
GET /vhosts/one/channels
GET /vhosts/missing/permissions
POST /vhosts/one/start/NODE
PUT /users/ann {"password": "secret", "tags": "management"}
PUT /users/ann {"password": "secret", "tags": ["monitoring"]}
PUT /users/bob {"password_hash": "", "tags": ""}
PUT /users/cat {"password": "x"}
PUT /users/dog {"tags": "management"}
PUT /users/eel {"password_hash": "no hash", "tags": ""}
PUT /users/fox {"password": "a", "password_hash": "b", "tags": ""}
PUT /users/gnu 'not json'
GET /users
GET /users/ann
GET /users/missing
DELETE /users/missing
GET /users/ann/permissions
GET /users/missing/permissions
GET /users/without-permissions
POST /users/bulk-delete {"users": ["dog", "nobody"]}
POST /users/bulk-delete {}
PUT /permissions/one/ann {"configure": ".*", "write": ".*", "read": "^q"}
PUT /permissions/one/ann {"configure": ".*", "write": ".*"}
PUT /permissions/one/ann {"configure": "[", "write": ".*", "read": ".*"}
PUT /permissions/one/missing {"configure": ".*", "write": ".*", "read": ".*"}
PUT /permissions/missing/ann {"configure": ".*", "write": ".*", "read": ".*"}
GET /permissions
GET /permissions/one/ann
GET /permissions/one/missing
GET /permissions/two/ann
DELETE /permissions/two/ann
PUT /topic-permissions/one/ann {"exchange": "amq.topic", "write": "^a", "read": ".*"}
PUT /topic-permissions/one/ann {"write": "^a", "read": ".*"}
GET /topic-permissions
GET /topic-permissions/one/ann
GET /topic-permissions/two/ann
PUT /exchanges/one/x {"type": "topic", "durable": true}
PUT /exchanges/one/x {"type": "topic", "durable": true}
PUT /exchanges/one/x {"type": "fanout", "durable": true}
PUT /exchanges/one/y {"type": "no-such-type"}
PUT /exchanges/one/y {"type": "direct", "durable": "perhaps"}
PUT /exchanges/one/amq.mine {"type": "direct"}
PUT /exchanges/one/amq.default {"type": "direct"}
PUT /exchanges/one/y {"durable": true, "arguments": {"alternate-exchange": 5}}
PUT /exchanges/one/y {}
PUT /exchanges/missing/y {}
GET /exchanges
GET /exchanges/one
GET /exchanges/one/x
GET /exchanges/one/amq.default
GET /exchanges/one/missing
GET /exchanges/missing
GET /exchanges/missing/x
DELETE /exchanges/one/missing
DELETE /exchanges/one/amq.direct
PUT /queues/one/q {"durable": true, "arguments": {"x-max-length": 10, "x-message-ttl": 3600000}}
PUT /queues/one/q {"durable": false}
PUT /queues/one/q {"durable": true, "arguments": {"x-max-length": 11}}
PUT /queues/one/r {"arguments": {"x-message-ttl": -1}}
PUT /queues/one/r {"arguments": {"x-max-length": "long"}}
PUT /queues/one/r {"arguments": 5}
PUT /queues/one/r {"auto_delete": "perhaps"}
PUT /queues/one/r {"node": "nobody@nowhere"}
PUT /queues/one/amq.mine {}
PUT /queues/one/r 'not json'
PUT /queues/one/r {"auto_delete": true}
PUT /queues/missing/r {}
GET /queues
GET /queues?page=1&page_size=1
GET /queues?page=9
GET /queues?page=x
GET /queues?page=1&page_size=1000
GET /queues?page=1&name=%5Bq&use_regex=true
GET /queues?columns=name,durable
GET /queues?sort=name&sort_reverse=true
GET /queues/one
GET /queues/one/q
GET /queues/one/missing
GET /queues/missing
GET /queues/missing/q
GET /queues/one/q/bindings
GET /queues/one/missing/bindings
POST /queues/one/q/actions {"action": "sync"}
POST /queues/one/q/actions {"action": "dance"}
POST /queues/one/q/actions {}
POST /bindings/one/e/x/q/q {"routing_key": "a.#"}
POST /bindings/one/e/x/q/q {"routing_key": "b", "arguments": {"one": 1}}
POST /bindings/one/e/x/e/y {}
POST /bindings/one/e/x/q/missing {"routing_key": "a"}
POST /bindings/one/e/missing/q/q {"routing_key": "a"}
POST /bindings/one/e/amq.default/q/q {"routing_key": "a"}
POST /bindings/one/e/x/q/q {"routing_key": "a", "arguments": 5}
GET /bindings
GET /bindings/one
GET /bindings/missing
GET /bindings/one/e/x/q/q
GET /bindings/one/e/x/e/y
GET /bindings/one/e/x/q/missing
GET /bindings/one/e/x/q/q/a.%23
GET /bindings/one/e/x/q/q/missing
GET /exchanges/one/x/bindings/source
GET /exchanges/one/y/bindings/destination
GET /exchanges/one/missing/bindings/source
DELETE /bindings/one/e/x/q/q/missing
DELETE /bindings/one/e/x/e/y/~
POST /exchanges/one/x/publish {"properties": {}, "routing_key": "a.b", "payload": "hello", "payload_encoding": "string"}
POST /exchanges/one/x/publish {"properties": {"delivery_mode": 2, "headers": {"h": 1}}, "routing_key": "a.b", "payload": "aGVsbG8=", "payload_encoding": "base64"}
POST /exchanges/one/x/publish {"properties": {}, "routing_key": "zzz", "payload": "hello", "payload_encoding": "string"}
POST /exchanges/one/x/publish {"routing_key": "a.b", "payload": "hello"}
POST /exchanges/one/x/publish {"properties": {}, "routing_key": "a.b", "payload": "hello", "payload_encoding": "morse"}
POST /exchanges/one/x/publish {"properties": {}, "routing_key": "a.b", "payload": "!", "payload_encoding": "base64"}
POST /exchanges/one/x/publish {"properties": {}, "routing_key": "a.b", "payload": 5, "payload_encoding": "string"}
POST /exchanges/one/x/publish {"properties": {"delivery_mode": "two"}, "routing_key": "a", "payload": "", "payload_encoding": "string"}
POST /exchanges/one/missing/publish {"properties": {}, "routing_key": "a.b", "payload": "hello", "payload_encoding": "string"}
POST /queues/one/q/get {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
POST /queues/one/q/get {"count": 5, "ackmode": "reject_requeue_true", "encoding": "base64", "truncate": 2}
POST /queues/one/q/get {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
POST /queues/one/q/get {"count": 1}
POST /queues/one/q/get {"count": 1, "ackmode": "perhaps", "encoding": "auto"}
POST /queues/one/q/get {"count": 1, "ackmode": "ack_requeue_true", "encoding": "morse"}
POST /queues/one/q/get {"count": "many", "ackmode": "ack_requeue_true", "encoding": "auto"}
POST /queues/one/missing/get {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
DELETE /queues/one/q?if-empty=true
DELETE /queues/one/q/contents
DELETE /queues/one/missing/contents
GET /connections
GET /connections/missing
DELETE /connections/missing
GET /connections/username/ann
GET /channels
GET /channels/missing
GET /consumers
GET /consumers/one
GET /consumers/missing
PUT /policies/one/p {"pattern": "^q", "definition": {"max-length": 5}, "priority": 1, "apply-to": "queues"}
PUT /policies/one/bad {"pattern": "[", "definition": {"max-length": 5}}
PUT /policies/one/bad {"pattern": "^q", "definition": {"no-such-key": 5}}
PUT /policies/one/bad {"pattern": "^q", "definition": {"max-length": "long"}}
PUT /policies/one/bad {"pattern": "^q", "definition": {}}
PUT /policies/one/bad {"definition": {"max-length": 5}}
PUT /policies/one/bad {"pattern": "^q", "definition": {"max-length": 5}, "apply-to": "cats"}
PUT /policies/one/bad {"pattern": "^q", "definition": {"max-length": 5}, "priority": "high"}
PUT /policies/missing/p {"pattern": "^q", "definition": {"max-length": 5}}
GET /policies
GET /policies/one
GET /policies/one/p
GET /policies/one/missing
GET /policies/missing
DELETE /policies/one/missing
PUT /operator-policies/one/o {"pattern": "^q", "definition": {"max-length": 3}}
PUT /operator-policies/one/bad {"pattern": "^q", "definition": {"dead-letter-exchange": "x"}}
GET /operator-policies
GET /operator-policies/one/o
GET /operator-policies/one/missing
DELETE /operator-policies/one/o
GET /queues/one/q
GET /parameters
GET /parameters/missing
GET /parameters/missing/one
PUT /parameters/missing/one/n {"value": {}}
GET /parameters/missing/one/n
PUT /global-parameters/g {"value": {"a": 1}}
PUT /global-parameters/g {}
GET /global-parameters
GET /global-parameters/g
GET /global-parameters/missing
DELETE /global-parameters/g
DELETE /global-parameters/g
PUT /vhost-limits/one/max-queues {"value": 100}
PUT /vhost-limits/one/max-cats {"value": 100}
PUT /vhost-limits/one/max-queues {"value": "many"}
PUT /vhost-limits/one/max-queues {}
GET /vhost-limits
GET /vhost-limits/one
DELETE /vhost-limits/one/max-queues
PUT /user-limits/ann/max-channels {"value": 100}
PUT /user-limits/ann/max-cats {"value": 100}
PUT /user-limits/missing/max-channels {"value": 100}
GET /user-limits
GET /user-limits/ann
DELETE /user-limits/ann/max-channels
GET /definitions
GET /definitions/one
GET /definitions/missing
POST /definitions {"queues": [{"name": "d", "vhost": "one", "durable": true, "auto_delete": false, "arguments": {}}]}
POST /definitions {"queues": 5}
POST /definitions {"users": [{"name": "no-password"}]}
POST /definitions 'not json'
POST /definitions/one {"exchanges": [{"name": "e", "type": "direct", "durable": true, "auto_delete": false, "internal": false, "arguments": {}}]}
GET /health/checks/alarms
GET /health/checks/local-alarms
GET /health/checks/virtual-hosts
GET /health/checks/port-listener/1
GET /health/checks/port-listener/x
GET /health/checks/protocol-listener/amqp
GET /health/checks/protocol-listener/mqtt
GET /health/checks/certificate-expiration/1/days
GET /health/checks/certificate-expiration/1/eons
GET /health/checks/node-is-mirror-sync-critical
GET /health/checks/node-is-quorum-critical
GET /healthchecks/node
GET /aliveness-test/one
GET /aliveness-test/missing
GET /feature-flags
GET /auth/attempts/NODE
GET /auth/attempts/NODE/source
DELETE /reset
DELETE /reset/NODE
POST /rebalance/queues {}
DELETE /exchanges/one/x?if-unused=true
DELETE /exchanges/one/x
DELETE /queues/one/q
DELETE /queues/one/q
DELETE /users/ann
DELETE /vhosts/one
DELETE /vhosts/one
"""

RIGHT: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("PUT /vhosts/w", {"description": "d", "tags": "a", "tracing": False}),
    ("PUT /users/w", {"password": "x", "tags": "management"}),
    ("PUT /users/w", {"password_hash": "", "tags": ["a"]}),
    ("PUT /permissions/one/w", {"configure": ".*", "write": ".*", "read": ".*"}),
    ("PUT /topic-permissions/one/w", {"exchange": "amq.topic", "write": ".*", "read": ".*"}),
    (
        "PUT /exchanges/one/w{number}",
        {
            "type": "direct",
            "durable": True,
            "auto_delete": False,
            "internal": False,
            "arguments": {},
        },
    ),
    ("PUT /queues/one/w{number}", {"durable": True, "auto_delete": False, "arguments": {}}),
    ("POST /bindings/one/e/amq.topic/q/q", {"routing_key": "a", "arguments": {}}),
    (
        "POST /exchanges/one/amq.topic/publish",
        {"properties": {}, "routing_key": "a", "payload": "x", "payload_encoding": "string"},
    ),
    (
        "POST /queues/one/q/get",
        {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": 5},
    ),
    ("POST /queues/one/q/actions", {"action": "sync"}),
    (
        "PUT /policies/one/w",
        {"pattern": "^a", "definition": {"max-length": 5}, "priority": 1, "apply-to": "queues"},
    ),
    (
        "PUT /operator-policies/one/w",
        {"pattern": "^a", "definition": {"max-length": 5}, "priority": 1, "apply-to": "queues"},
    ),
    ("PUT /parameters/vhost-limits/one/limits", {"value": {"max-queues": 100}}),
    ("PUT /global-parameters/w", {"value": 5}),
    ("PUT /vhost-limits/one/max-queues", {"value": 100}),
    ("PUT /user-limits/w/max-channels", {"value": 100}),
    ("PUT /cluster-name", {"name": "c"}),
    ("POST /users/bulk-delete", {"users": ["nobody"]}),
)
"""Requests that are right, each with a body that has every field. What `{number}` names is new."""
PREPARED: Final = """
PUT /vhosts/one
PUT /permissions/one/guest {"configure": ".*", "write": ".*", "read": ".*"}
PUT /queues/one/q {"durable": true}
PUT /users/w {"password": "x", "tags": ""}
"""
"""What they need."""
WRONG: Final = (None, 5, -1, "x", "", [], {}, True, 1.5, [1], {"a": 1})


def bad_requests() -> Iterator[str]:
    """Each of them without one of its fields, and with something else in its place."""
    numbers = count()
    for request, body in RIGHT:
        for text in _bodies(body):
            yield f"{request.replace('{number}', str(next(numbers)))} {text}"


def _bodies(body: dict[str, Any]) -> Iterator[str]:
    for field in body:
        yield json.dumps({name: value for name, value in body.items() if name != field})
        for value in WRONG:
            yield json.dumps(body | {field: value})
    yield from ("'[]'", "'5'", "'null'", "'\"x\"'", "'{\"a\":'", "''")
