"""Every setting and every limit of the broker: its unit, its default, once.

`Limits` is what a peer can reach: each entry has a test that reaches it. `Config` is what the
process as a whole is told. Flags win over the environment, the environment over the file; the
command line (`amqpd.cli`) puts them together.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

Compat = Literal["3.13", "4.2", "4.3"]
Durability = Literal["full", "normal"]

SERVER_VERSIONS: Final[dict[str, str]] = {"3.13": "3.13.7", "4.2": "4.2.1", "4.3": "4.3.0"}
"""What server-properties say, since clients branch on it; `information` tells the truth."""

DEFAULT_CLUSTER_NAME: Final = "amqpd@localhost"
KIB: Final = 1024
MIB: Final = 1024 * 1024

# Ranges. Where 0 has a meaning of its own, the entry says which. msgspec checks them when it reads
# settings, and passes over them when a test makes a `Limits` itself.
Short = Annotated[int, Meta(ge=0, le=65535)]
"""What AMQP has two octets for."""
FrameBytes = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""AMQP has four octets for it, and clients in Java one bit less."""
FrameBytesMin = Annotated[int, Meta(ge=4096, le=2**31 - 1)]
"""The standard's least: a client's greeting has to fit."""
MessageBytes = Annotated[int, Meta(ge=1, le=512 * MIB)]
"""RabbitMQ's most, and what a row of SQLite surely holds."""
Depth = Annotated[int, Meta(ge=4, le=200)]
"""From what `x-death` needs to what the recursion bears."""
Bytes = Annotated[int, Meta(ge=1, le=2**40)]
Count = Annotated[int, Meta(ge=1, le=10**9)]
CountOrNone = Annotated[int, Meta(ge=0, le=10**9)]
Seconds = Annotated[float, Meta(ge=0, le=10**9)]
SomeSeconds = Annotated[float, Meta(ge=0.001, le=10**9)]
"""Without any, what has to be done within them never would be, or nothing else."""
Turn = Annotated[float, Meta(ge=0.0001, le=10)]
BusyWait = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
DiskBytes = Annotated[int, Meta(ge=0, le=2**62)]
FileName = Annotated[str, Meta(min_length=1)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]
"""Of a user or a virtual host: AMQP has one octet for its length, counted in UTF-8."""
Text = Annotated[str, Meta(min_length=1)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What any one peer can make the broker hold or do."""

    channel_max: Short = 2047
    """Channels open at once on a connection; 0 is no limit (rabbit: channel_max)."""
    frame_bytes_max: FrameBytes = 131072
    """Largest frame, header and end octet included; 0 is no limit (rabbit: frame_max)."""
    frame_bytes_min: FrameBytesMin = 4096
    """Smallest frame_max that a client may ask for, and the largest frame before it logged in."""
    heartbeat_s: Short = 60
    """Heartbeat interval offered in connection.tune; 0 is none."""
    handshake_timeout_s: SomeSeconds = 10.0
    """From the first byte to connection.open."""
    message_bytes_max: MessageBytes = 128 * MIB
    """Largest message body (rabbit: max_message_size; 16 MiB in the 4.x profiles)."""
    content_bytes_max: MessageBytes = 512 * MIB
    """Body size above which a content header is refused at once."""
    table_depth_max: Depth = 64
    """Nesting of tables and arrays within a field table."""
    unsent_bytes_max: Bytes = 1 * MIB
    """Bytes waiting for one peer to read before deliveries to it pause."""
    unsent_replies_bytes_max: Bytes = 128 * MIB
    """Bytes waiting for one peer to read before direct replies to it are dropped."""
    unsent_pause_bytes: Bytes = 16 * MIB
    """Bytes waiting for one peer to read before it is read from no further."""
    connections_max: Count = 65536
    """Connections of the whole broker; further ones are refused in connection.open."""
    consumer_timeout_s: Seconds = 1800.0
    """Longest that a delivery may be unacknowledged, unless its queue says otherwise; 0 is no limit
    (rabbit: consumer_timeout)."""
    consumers_per_channel_max: CountOrNone = 0
    """Consumers on one channel; 0 is no limit (rabbit: consumer_max_per_channel)."""
    parameters_max: CountOrNone = 16384
    """Runtime parameters, policies among them; and as many global ones."""
    parameter_bytes_max: Bytes = 64 * KIB
    """Largest value of a runtime parameter, as JSON."""
    publish_targets_max: Count = 1024
    """Different publish methods of a connection that are kept parsed."""
    queue_memory_messages: Count = 8192
    """Ready messages of one queue in memory, at its head and tail; others are on disk only."""
    queue_memory_bytes: Bytes = 32 * MIB
    """Octets of their bodies in memory, likewise."""
    flow_wait_s: Seconds = 0.02
    """How long publishers into a full memory wait for consumers that may prove slow; 0 is never."""
    route_cache_max: Count = 16384
    """Routing results kept per virtual host."""
    recent_history_max: Count = 10_000
    """Messages that a recent history exchange may be declared to keep."""
    deduplication_cache_max: Count = 1_000_000
    """Headers that a deduplication exchange may be declared to remember."""
    unwritten_bytes_max: Bytes = 64 * MIB
    """Bytes waiting for the journal before publishers are read from no further."""
    slow_commit_s: SomeSeconds = 2.0
    """A commit that takes longer raises the disk alarm, until one takes less or none is due."""
    disk_full_retry_s: SomeSeconds = 1.0
    """Between two attempts to write the journal to a full disk."""
    disk_error_retry_max_s: SomeSeconds = 30.0
    """Longest pause between two attempts to use a disk that fails; `disk_full_retry_s` is the first
    one, and each is twice as long as the one before."""
    turn_s: Turn = 0.01
    """Longest that one peer is served at a time while others wait; one command may take longer."""
    busy_wait_s: BusyWait = 0.000_2
    """Longest that the broker looks for more before it sleeps, while that pays; 0: it sleeps at
    once."""
    authentication_failure_delay_s: Seconds = 3.0
    """Pause before a connection with bad credentials is dropped without a close frame."""
    closing_timeout_s: SomeSeconds = 30.0
    """Longest wait for close-ok after the broker closed a connection."""
    linger_s: Seconds = 2.0
    """Longest wait for a peer to read the last words and close its end of the socket."""
    http_body_bytes_max: Bytes = 20_000_000
    """Largest body of an HTTP request; definitions are such bodies (rabbit: 20 MB for them)."""
    http_connections_max: Count = 1024
    """HTTP connections open at once; further ones are answered 503."""
    http_head_timeout_s: SomeSeconds = 10.0
    """From the connection, or from the first octet of a later request, to the end of its head."""
    http_body_timeout_s: SomeSeconds = 120.0
    """From the end of the head of an HTTP request to the end of its body."""
    http_answer_timeout_s: SomeSeconds = 60.0
    """Longest that an HTTP client takes nothing of the answers that wait for it."""
    http_get_messages_max: Count = 10_000
    """Messages that one HTTP request fetches from a queue."""
    http_get_bytes_max: Bytes = 64 * MIB
    """Octets of messages after which one HTTP request fetches no further one."""
    shutdown_s: Seconds = 5.0
    """Longest wait for clients to close when the broker stops."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """What the process is told by flags, environment and file."""

    listen: tuple[str, ...] = ("127.0.0.1:5672",)
    tls_listen: tuple[str, ...] = ()
    tls_certificate: FileName | None = None
    tls_key: FileName | None = None
    tls_ca: FileName | None = None
    """Certificate authorities for clients' certificates; asked for when set."""
    management: Text = "127.0.0.1:15672"
    """Where the HTTP API listens, or `off`."""
    data_dir: FileName | None = None
    in_memory: bool = False
    definitions: FileName | None = None
    compat: Compat = "3.13"
    durability: Durability = "full"
    ready_file: FileName | None = None
    default_user: Name = "guest"
    default_pass: Text = "guest"
    default_vhost: Name = "/"
    loopback_users: tuple[str, ...] = ("guest",)
    memory_high_watermark: Share = 0.4
    """Share of the memory above which publishers are blocked (rabbit: vm_memory_high_watermark)."""
    disk_free_limit_bytes: DiskBytes = 50_000_000
    """Free space of the data directory below which publishers are blocked."""
    event_exchange_vhost: Name | None = None
    """Virtual host of `amq.rabbitmq.event`; `default_vhost` if unset (event_exchange.vhost)."""
    anonymous_login_user: Name = "guest"
    """Who the mechanism ANONYMOUS of the 4.x profiles logs in as."""
    cluster_name: Text = DEFAULT_CLUSTER_NAME
    """The broker's name towards clients and other brokers; federation recognises loops by it."""
    shovels: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Static shovels, by name: what the parameter of a dynamic one says, and `vhost`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    limits: Limits = field(default_factory=Limits)
