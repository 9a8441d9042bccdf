"""Every setting and every limit of the broker: its unit, its default, once.

`Limits` is what a peer can reach: each entry has a test that reaches it. `Config` is what the
process as a whole is told. Flags win over the environment, the environment over the file; the
command line (`amqpd.cli`) puts them together.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct, field

Compat = Literal["3.13", "4.2", "4.3"]
Durability = Literal["full", "normal"]

SERVER_VERSIONS: Final[dict[str, str]] = {"3.13": "3.13.7", "4.2": "4.2.1", "4.3": "4.3.0"}
"""What server-properties say, since clients branch on it; `information` tells the truth."""

DEFAULT_CLUSTER_NAME: Final = "amqpd@localhost"
KIB: Final = 1024
MIB: Final = 1024 * 1024


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What any one peer can make the broker hold or do."""

    channel_max: int = 2047
    """Channels open at once on a connection; 0 is no limit (rabbit: channel_max)."""
    frame_bytes_max: int = 131072
    """Largest frame, header and end octet included; 0 is no limit (rabbit: frame_max)."""
    frame_bytes_min: int = 4096
    """Smallest frame_max that a client may ask for, and the largest frame before it logged in."""
    heartbeat_s: int = 60
    """Heartbeat interval offered in connection.tune; 0 is none."""
    handshake_timeout_s: float = 10.0
    """From the first byte to connection.open."""
    message_bytes_max: int = 128 * MIB
    """Largest message body (rabbit: max_message_size; 16 MiB in the 4.x profiles)."""
    content_bytes_max: int = 512 * MIB
    """Body size above which a content header is refused at once."""
    table_depth_max: int = 64
    """Nesting of tables and arrays within a field table."""
    unsent_bytes_max: int = 1 * MIB
    """Bytes waiting for one peer to read before deliveries to it pause."""
    unsent_replies_bytes_max: int = 128 * MIB
    """Bytes waiting for one peer to read before direct replies to it are dropped."""
    unsent_pause_bytes: int = 16 * MIB
    """Bytes waiting for one peer to read before it is read from no further."""
    connections_max: int = 65536
    """Connections of the whole broker; further ones are refused in connection.open."""
    consumer_timeout_s: float = 1800.0
    """Longest that a delivery may be unacknowledged, unless its queue says otherwise; 0 is no limit
    (rabbit: consumer_timeout)."""
    consumers_per_channel_max: int = 0
    """Consumers on one channel; 0 is no limit (rabbit: consumer_max_per_channel)."""
    parameters_max: int = 16384
    """Runtime parameters, policies among them; and as many global ones."""
    parameter_bytes_max: int = 64 * KIB
    """Largest value of a runtime parameter, as JSON."""
    publish_targets_max: int = 1024
    """Different publish methods of a connection that are kept parsed."""
    queue_memory_messages: int = 8192
    """Ready messages of one queue in memory, at its head and tail; others are on disk only."""
    queue_memory_bytes: int = 32 * MIB
    """Octets of their bodies in memory, likewise."""
    flow_wait_s: float = 0.02
    """How long publishers into a full memory wait for consumers that may prove slow; 0 is never."""
    route_cache_max: int = 16384
    """Routing results kept per virtual host."""
    recent_history_max: int = 10_000
    """Messages that a recent history exchange may be declared to keep."""
    deduplication_cache_max: int = 1_000_000
    """Headers that a deduplication exchange may be declared to remember."""
    unwritten_bytes_max: int = 64 * MIB
    """Bytes waiting for the journal before publishers are read from no further."""
    slow_commit_s: float = 2.0
    """A commit that takes longer raises the disk alarm, until one takes less or none is due."""
    disk_full_retry_s: float = 1.0
    """Between two attempts to write the journal to a full disk."""
    disk_error_retry_max_s: float = 30.0
    """Longest pause between two attempts to use a disk that fails; `disk_full_retry_s` is the first
    one, and each is twice as long as the one before."""
    turn_s: float = 0.01
    """Longest that one peer is served at a time while others wait; one command may take longer."""
    busy_wait_s: float = 0.000_2
    """Longest that the broker looks for more before it sleeps, while that pays; 0: it sleeps at
    once."""
    authentication_failure_delay_s: float = 3.0
    """Pause before a connection with bad credentials is dropped without a close frame."""
    closing_timeout_s: float = 30.0
    """Longest wait for close-ok after the broker closed a connection."""
    linger_s: float = 2.0
    """Longest wait for a peer to read the last words and close its end of the socket."""
    http_body_bytes_max: int = 20_000_000
    """Largest body of an HTTP request; definitions are such bodies (rabbit: 20 MB for them)."""
    http_connections_max: int = 1024
    """HTTP connections open at once; further ones are answered 503."""
    http_head_timeout_s: float = 10.0
    """From the connection, or from the first octet of a later request, to the end of its head."""
    http_body_timeout_s: float = 120.0
    """From the end of the head of an HTTP request to the end of its body."""
    http_get_messages_max: int = 10_000
    """Messages that one HTTP request fetches from a queue."""
    shutdown_s: float = 5.0
    """Longest wait for clients to close when the broker stops."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """What the process is told by flags, environment and file."""

    listen: tuple[str, ...] = ("127.0.0.1:5672",)
    tls_listen: tuple[str, ...] = ()
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None
    """Certificate authorities for clients' certificates; asked for when set."""
    management: str = "127.0.0.1:15672"
    """Where the HTTP API listens, or `off`."""
    data_dir: str | None = None
    in_memory: bool = False
    definitions: str | None = None
    compat: Compat = "3.13"
    durability: Durability = "full"
    ready_file: str | None = None
    default_user: str = "guest"
    default_pass: str = "guest"
    default_vhost: str = "/"
    loopback_users: tuple[str, ...] = ("guest",)
    memory_high_watermark: float = 0.4
    """Share of the memory above which publishers are blocked (rabbit: vm_memory_high_watermark)."""
    disk_free_limit_bytes: int = 50_000_000
    """Free space of the data directory below which publishers are blocked."""
    event_exchange_vhost: str | None = None
    """Virtual host of `amq.rabbitmq.event`; `default_vhost` if unset (event_exchange.vhost)."""
    anonymous_login_user: str = "guest"
    """Who the mechanism ANONYMOUS of the 4.x profiles logs in as."""
    cluster_name: str = DEFAULT_CLUSTER_NAME
    """The broker's name towards clients and other brokers; federation recognises loops by it."""
    shovels: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Static shovels, by name: what the parameter of a dynamic one says, and `vhost`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    limits: Limits = field(default_factory=Limits)
