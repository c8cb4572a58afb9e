"""Every section of the configuration as a frozen Struct: names, types, ranges, defaults.

Unit and reason of each key stand in `configs/reference.toml`, beside the default; `tests/test_config.py` proves that
the two agree. Rules for authors: a new key is one field here and one entry there; a range is written as a `Meta`;
a relation between keys belongs into `config_relations.py`; 0 never means "without limit".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from gateway.config_types import Address, Secret

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Zero: TypeAlias = Annotated[int, Meta(ge=0)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=86400)]
Milliseconds: TypeAlias = Annotated[float, Meta(gt=0, le=60_000)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
Strategy: TypeAlias = Annotated[int, Meta(ge=1, le=4)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the TOML file."""


class Gateway(Section, frozen=True, kw_only=True):
    node: Annotated[int, Meta(ge=0, le=63)] = 0
    data_dir: Path
    workers: Annotated[int, Meta(ge=1, le=16)] = 1
    memory_bytes_max: Annotated[int, Meta(ge=256 * MIB)] = 4 * GIB
    step_ms_max: Milliseconds = 2.0
    gather_ms: Annotated[float, Meta(ge=0, le=1000)] = 1.0
    gather_busy_ms: Annotated[float, Meta(ge=0, le=1000)] = 12.0
    gather_rows_max: Count = 524_288
    batch_bytes_max: Annotated[int, Meta(ge=64 * KIB, le=GIB)] = 8 * MIB
    open_rows_max: Count = 4_000_000
    drain_s: Seconds = 10.0
    restart_spread_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    spare_after_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    switch_interval_ms: Milliseconds = 0.05
    message_id_secret: Secret | None = None


class Dev(Section, frozen=True, kw_only=True):
    clock: bool = False
    make_secrets: bool = False


class Listener(Section, frozen=True, kw_only=True):
    address: Address
    cert_file: Path | None = None
    key_file: Path | None = None


class LinkListener(Listener, frozen=True, kw_only=True):
    proxy_protocol: bool = False

    @property
    def is_layered(self) -> bool:
        """Its connections have an object each."""
        return self.address.scheme != "tcp"


class Rpc(Section, frozen=True, kw_only=True):
    listeners: list[Listener] = msgspec.field(default_factory=list)
    connections_max: Count = 1024
    hellos_max: Count = 512
    hello_timeout_s: Seconds = 5.0
    frame_bytes_max: Annotated[int, Meta(ge=64 * KIB, le=256 * MIB)] = 16 * MIB
    frame_timeout_s: Seconds = 30.0
    frames_bytes_max: Count = 256 * MIB
    unsent_bytes_max: Count = 32 * MIB
    submit_rows_max: Annotated[int, Meta(ge=1, le=1 << 20)] = 131_072
    credit_rows: Count = 262_144
    credit_bytes: Count = 32 * MIB
    requests_in_flight_max: Count = 1024
    streams_max: Count = 16
    refused_rows_max: Annotated[int, Meta(ge=1, le=65_536)] = 1000
    variable_bytes_max: Annotated[int, Meta(ge=1, le=64 * KIB)] = 4 * KIB
    retry_after_s: Seconds = 0.2


class Operator(Section, frozen=True, kw_only=True):
    socket: Path | None = None
    address: Address | None = None
    admin_key: Secret | None = None
    connections_max: Count = 16


class Http(Section, frozen=True, kw_only=True):
    address: Address = Address("tcp", "127.0.0.1", 9180)
    connections_max: Count = 64
    header_timeout_s: Seconds = 5.0
    idle_timeout_s: Seconds = 60.0
    header_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 16 * KIB
    body_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 16 * KIB
    signature_age_s: Seconds = 300.0
    signatures_max: Count = 65_536
    devices_per_s: Annotated[float, Meta(gt=0, le=100_000)] = 50.0
    devices_burst_max: Count = 200


class Receipts(Section, frozen=True, kw_only=True):
    """Where vendors report what became of messages; without a listener nobody is told."""

    listeners: list[Listener] = msgspec.field(default_factory=list)
    connections_max: Count = 64
    header_timeout_s: Seconds = 5.0
    idle_timeout_s: Seconds = 60.0
    header_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 16 * KIB
    body_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=16 * MIB)] = 512 * KIB
    receipts_max: Count = 100_000
    own_ids_max: Count = 500_000
    own_ids_s: Annotated[float, Meta(gt=0, le=30 * 86_400)] = 259_200.0


class LongLink(Section, frozen=True, kw_only=True):
    listeners: list[LinkListener] = msgspec.field(default_factory=list)
    connections_max: Count = 15_000
    files_max: Count = 20_000
    files_reserve: Zero = 512
    handshake_timeout_s: Seconds = 10.0
    handshakes_max: Count = 4096
    layered_connections_max: Count = 4000
    websocket_frame_bytes_max: Annotated[int, Meta(ge=256, le=256 * MIB)] = 256 * KIB
    certificate_check_s: Seconds = 10.0
    handshakes_per_address_max: Count = 1024
    login_step_ms_max: Milliseconds = 0.5
    keepalive_s_max: Annotated[int, Meta(ge=1, le=65_535)] = 1200
    packet_bytes_max: Annotated[int, Meta(ge=256, le=256 * MIB - 1)] = 64 * KIB
    packet_timeout_s: Seconds = 20.0
    packets_bytes_max: Count = 32 * MIB
    stall_timeout_s: Seconds = 30.0
    pending_bytes_max: Count = 256 * KIB
    pending_total_bytes_max: Count = 64 * MIB
    in_flight_per_device_max: Annotated[int, Meta(ge=1, le=65_535)] = 32
    in_flight_max: Count = 262_140
    ack_timeout_s: Seconds = 5.0
    session_expiry_s_max: Annotated[int, Meta(ge=0, le=0xFFFF_FFFE)] = 86_400
    sessions_max: Zero = 262_144
    exchanges_parked_max: Zero = 16_384
    deliveries_max: Annotated[int, Meta(ge=1, le=255)] = 4
    server_reference: Annotated[str, Meta(max_length=255, pattern=r"^[\x21-\x7e]*( [\x21-\x7e]+)*$")] = ""
    is_moved: bool = False
    uplink_events_per_minute_max: Annotated[int, Meta(ge=1, le=6_000)] = 120
    uplink_changes_per_hour_max: Annotated[int, Meta(ge=1, le=3_600)] = 60
    uplink_changes_max: Count = 1_024
    presence_changes_max: Count = 262_144
    presence_tags_max: Annotated[int, Meta(ge=1, le=4096)] = 64
    payload_bytes_max: Annotated[int, Meta(ge=256, le=16 * MIB)] = 16 * KIB
    failed_logins_max: Count = 100
    failed_login_rest_s: Seconds = 1.0
    failed_login_rest_s_max: Seconds = 300.0
    failed_login_forget_s: Seconds = 900.0
    failed_addresses_max: Count = 16_384
    io_uring: bool = True
    bans_file: Path | None = None
    bans_check_s: Seconds = 10.0


class Ledger(Section, frozen=True, kw_only=True):
    ledger_memory_bytes_max: Count = 768 * MIB
    receipt_log_rows_max: Count = 1_000_000
    held_write_s: Seconds = 10.0
    retention_s: Annotated[float, Meta(gt=0, le=400 * 86400)] = 14 * 86400.0
    retention_bytes_max: Count = 64 * GIB
    retention_check_s: Seconds = 600.0
    spill_bytes_max: Annotated[int, Meta(ge=0)] = 8 * GIB
    idempotency_ids_max: Annotated[int, Meta(ge=1, le=100_000_000)] = 20_000_000
    idempotency_s: Annotated[float, Meta(gt=0, le=30 * 86400)] = 86_400.0
    day_offset_s: Annotated[int, Meta(ge=-50_400, le=50_400)] = 28_800
    counter_cells_max: Annotated[int, Meta(ge=1000)] = 200_000
    counter_days_max: Annotated[int, Meta(ge=1, le=3650)] = 400
    stopped_tasks_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000


class Journal(Section, frozen=True, kw_only=True):
    """The journal on disk, of apps with durability = "disk"."""

    segment_bytes: Annotated[int, Meta(ge=64 * KIB, le=GIB)] = 16 * MIB
    bytes_max: Annotated[int, Meta(ge=MIB)] = 4 * GIB
    issued_rows_max: Annotated[int, Meta(ge=64, le=1 << 24)] = 32_768
    outcome_wait_ms: Milliseconds = 20.0
    retry_s: Seconds = 1.0
    skip_damaged: bool = False


class Inbox(Section, frozen=True, kw_only=True):
    offer_again_s: Seconds = 60.0
    rows_per_device_max: Count = 100
    rows_max: Count = 1_000_000
    bytes_per_device_max: Count = 256 * KIB
    bytes_max: Count = 4 * GIB


class Store(Section, frozen=True, kw_only=True):
    """What is kept on the disk beside the journal."""

    data_dir: Path | None = None
    shard_groups: Literal[1, 2, 4, 8, 16, 32, 64, 128, 256] = 16
    seen_write_s: Seconds = 300.0


class Devices(Section, frozen=True, kw_only=True):
    devices_max: Count = 1_000_000
    token_bytes_max: Count = 192_000_000
    aliases_max: Count = 1_000_000
    tags_max: Count = 100_000
    tag_bindings_max: Count = 10_000_000
    profiles_max: Annotated[int, Meta(ge=1, le=65_536)] = 65_536


class Retry(Section, frozen=True, kw_only=True):
    attempts_max: Annotated[int, Meta(ge=1, le=255)] = 8
    first_s: Seconds = 2.0
    factor: Annotated[float, Meta(ge=1, le=10)] = 2.0
    cap_s: Seconds = 900.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.5
    throttled_s: Seconds = 60.0
    wait_s_min: Seconds = 1.0
    credential_s: Seconds = 1.0
    strategy4_wait_s: Seconds = 10.0
    on_uncertain_system: Literal["resend", "uncertain"] = "resend"
    on_uncertain_marketing: Literal["resend", "uncertain"] = "uncertain"


class Credentials(Section, frozen=True, kw_only=True):
    """Tokens fetched from vendors, or made by us."""

    timeout_s: Seconds = 10.0
    retry_first_s: Seconds = 1.0
    retry_cap_s: Seconds = 60.0
    gap_s: Seconds = 60.0


class Breaker(Section, frozen=True, kw_only=True):
    """When one (app, vendor) is left alone for a while."""

    window_s: Seconds = 10.0
    rows_min: Count = 20
    failure_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    all_failing_s: Seconds = 1.0
    connect_failures_max: Count = 5
    credential_refusals_max: Count = 3
    open_s: Seconds = 5.0
    open_s_max: Seconds = 60.0
    trial_rows_max: Annotated[int, Meta(ge=1, le=65_536)] = 10


class UnregisterGuard(Section, frozen=True, kw_only=True):
    """When dead tokens are kept because too many die at once."""

    window_s: Seconds = 600.0
    rows_min: Count = 50
    dead_share_max: Annotated[float, Meta(gt=0, le=1)] = 0.5
    dead_share_normal: Annotated[float, Meta(gt=0, le=1)] = 0.2
    held_max: Count = 100_000
    after_spike: Literal["recheck", "remove"] = "recheck"


class Lanes(Section, frozen=True, kw_only=True):
    lane_rows_max: Count = 1_000_000
    parked_rows_max: Count = 1_000_000
    burst_rows_max: Annotated[int, Meta(ge=1, le=65_536)] = 4096
    templates_max: Count = 1024


class Links(Section, frozen=True, kw_only=True):
    """Between the workers of one machine; without effect where one runs alone."""

    credit_rows: Count = 65_536
    credit_bytes: Count = 8 * MIB
    parked_rows_max: Count = 262_144
    lease_s: Seconds = 3.0


class Http2(Section, frozen=True, kw_only=True):
    """Connections to vendors that speak HTTP/2."""

    connections_max: Count = 1000
    connect_timeout_s: Seconds = 10.0
    request_timeout_s: Seconds = 30.0
    probe_wait_s: Seconds = 5.0
    ping_idle_s: Seconds = 30.0
    ping_timeout_s: Seconds = 10.0
    settings_timeout_s: Seconds = 40.0
    window_timeout_s: Seconds = 5.0
    idle_s: Seconds = 3600.0
    close_timeout_s: Seconds = 1.0
    streams_max: Annotated[int, Meta(ge=1, le=65_536)] = 1000
    stream_window_bytes: Annotated[int, Meta(ge=1 * KIB, le=2**31 - 1)] = 65_535
    connection_window_bytes: Annotated[int, Meta(ge=65_535, le=2**31 - 1)] = 4 * MIB
    header_table_bytes: Annotated[int, Meta(ge=0, le=64 * KIB)] = 0
    encoder_table_bytes_max: Annotated[int, Meta(ge=0, le=64 * KIB)] = 4 * KIB
    header_list_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 32 * KIB
    body_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 64 * KIB
    ignored_headers: list[str] = msgspec.field(default_factory=lambda: ["apns-id", "apns-unique-id"])
    unsent_bytes_max: Count = 1 * MIB


class Http1(Section, frozen=True, kw_only=True):
    """Connections to vendors that speak HTTP/1.1; their timeouts and close_timeout_s are those of `Http2`."""

    sockets_max: Annotated[int, Meta(ge=1, le=1024)] = 16
    queue_max: Annotated[int, Meta(ge=0, le=4096)] = 16
    connecting_max: Count = 4
    connect_retry_s: Seconds = 1.0
    socket_idle_s: Seconds = 50.0
    header_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 32 * KIB
    interim_max: Annotated[int, Meta(ge=1, le=100)] = 8
    body_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 256 * KIB
    body_bytes_read_max: Annotated[int, Meta(ge=1 * KIB, le=64 * MIB)] = 1 * MIB


class Observe(Section, frozen=True, kw_only=True):
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_lines_per_s_max: Count = 100
    label_values_max: Annotated[int, Meta(ge=1, le=10_000)] = 256
    lag_interval_ms: Milliseconds = 10.0


class Callback(Section, frozen=True, kw_only=True):
    """Where an app's service is told by HTTP what became of its rows."""

    url: str
    secret: Secret
    app_id: str = ""
    with_alias: bool = False
    batch_rows_max: Annotated[int, Meta(ge=1, le=10_000)] = 500
    queue_rows_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    attempts_max: Annotated[int, Meta(ge=1, le=100)] = 8
    timeout_s: Seconds = 10.0
    ca_file: str = ""


class Truncation(Section, frozen=True, kw_only=True):
    """What becomes of texts that are longer than a vendor takes."""

    enabled: bool = True
    mark: Annotated[str, Meta(max_length=8)] = "…"


class App(Section, frozen=True, kw_only=True):
    """One app: its key, the secrets of its services and devices, its vendors.

    vendors: vendor file's name -> that vendor's own Settings. In TOML: `[apps.apns]` under the app.
    """

    key: Name
    name: str = ""
    secrets: list[Secret]
    durability: Literal["memory", "disk"] = "memory"
    strategy: Strategy = 1
    connections_max: Count = 1_000_000
    ttl_s_max: Literal[259_200, 604_800, 3_456_000] = 3_456_000
    marketing_categories: list[str] = msgspec.field(default_factory=list)
    callback: Callback | None = None
    truncation: Truncation = Truncation()
    vendors: dict[str, msgspec.Struct] = msgspec.field(default_factory=dict)


class Audiences(Section, frozen=True, kw_only=True):
    """Notifications to all devices of an app, to those with a tag, or to those of aliases."""

    chunk_rows_max: Annotated[int, Meta(ge=1, le=65_536)] = 2048
    queued_rows_max: Count = 65_536
    running_max: Annotated[int, Meta(ge=1, le=256)] = 4


class Consents(Section, frozen=True, kw_only=True):
    """What users of WeChat's mini programs have agreed to."""

    keys_max: Annotated[int, Meta(ge=1, le=50_000_000)] = 1_000_000
    write_s: Seconds = 1.0


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration; immutable. A reload makes a new one."""

    gateway: Gateway
    dev: Dev
    rpc: Rpc
    operator: Operator
    http: Http
    receipts: Receipts
    long_link: LongLink
    ledger: Ledger
    journal: Journal
    inbox: Inbox
    store: Store
    audiences: Audiences
    consents: Consents
    devices: Devices
    retry: Retry
    credentials: Credentials
    breaker: Breaker
    unregister_guard: UnregisterGuard
    lanes: Lanes
    links: Links
    http2: Http2
    http1: Http1
    observe: Observe
    apps: list[App]

    def app(self, key: str) -> App | None:
        return next((app for app in self.apps if app.key == key), None)

    @property
    def operator_socket(self) -> Path:
        """The Unix socket of operator commands, mode 0600."""
        return self.operator.socket or self.gateway.data_dir / "operator.sock"
