"""From the configuration to the settings of each part: where a key and what it rules are brought together.

Parts know nothing of the configuration; each has a settings type of its own, in its own words, which also says what
holds between its numbers. `app.py` calls these functions and hands the results down.
"""

from __future__ import annotations

from gateway.actors.credentials import KeeperSettings
from gateway.actors.long_link_port import LongLinkSettings
from gateway.actors.vendor_connection import ConnectionLimits
from gateway.api.conversation import HttpSettings
from gateway.config_sections import Config, Http, Receipts
from gateway.content import Class
from gateway.core.admission import AdmissionLimits
from gateway.core.breaker import BreakerSettings
from gateway.core.devices import DeviceLimits
from gateway.core.retry import RetryPolicy
from gateway.core.signed_requests import SigningLimits
from gateway.core.unregister_guard import GuardSettings
from gateway.net.edge_settings import EdgeSettings, ListenerSettings
from gateway.wire.h2.settings import ClientConfig
from gateway.wire.http1.settings import Http1Config
from gateway.wire.rpc.limits import RpcLimits

__all__ = [
    "admission_limits",
    "breaker_settings",
    "client_config",
    "connection_limits",
    "device_limits",
    "guard_settings",
    "health_settings",
    "http1_config",
    "keeper_settings",
    "long_link_settings",
    "receipt_settings",
    "retry_policy",
    "rpc_limits",
    "signing_limits",
]


def rpc_limits(config: Config) -> RpcLimits:
    """Limits of one connection of the binary RPC."""
    rpc = config.rpc
    return RpcLimits(
        frame_bytes_max=rpc.frame_bytes_max,
        hello_timeout_s=rpc.hello_timeout_s,
        frame_timeout_s=rpc.frame_timeout_s,
        submit_rows_max=rpc.submit_rows_max,
        credit_rows=rpc.credit_rows,
        credit_bytes=rpc.credit_bytes,
        requests_in_flight_max=rpc.requests_in_flight_max,
        refused_rows_max=rpc.refused_rows_max,
        variable_bytes_max=rpc.variable_bytes_max,
        streams_max=rpc.streams_max,
        overloaded_retry_ms=round(rpc.retry_after_s * 1000),
    )


def long_link_settings(config: Config) -> LongLinkSettings:
    """Sessions, deliveries and sockets of the long link."""
    link = config.long_link
    listeners = tuple(
        ListenerSettings(
            host=listener.address.host,
            port=listener.address.port,
            proxy_protocol=listener.proxy_protocol,
            cert_file=str(listener.cert_file or ""),
            key_file=str(listener.key_file or ""),
            is_websocket=listener.address.scheme in ("ws", "wss"),
            reuse_port=config.gateway.workers > 1,
        )
        for listener in link.listeners
    )
    edge = EdgeSettings(
        listeners=listeners,
        connections_max=link.connections_max,
        files_max=link.files_max,
        layered_connections_max=link.layered_connections_max,
        websocket_frame_bytes_max=link.websocket_frame_bytes_max,
        certificate_check_s=link.certificate_check_s,
        files_reserve=link.files_reserve,
        handshaking_max=link.handshakes_max,
        handshaking_per_address_max=link.handshakes_per_address_max,
        handshake_timeout_s=link.handshake_timeout_s,
        half_packet_timeout_s=link.packet_timeout_s,
        stall_timeout_s=link.stall_timeout_s,
        pending_bytes_max=link.pending_bytes_max,
        pending_total_bytes_max=link.pending_total_bytes_max,
        partial_total_bytes_max=link.packets_bytes_max,
        io_uring=link.io_uring,
        step_s_max=config.gateway.step_ms_max / 1000,
        login_step_s_max=link.login_step_ms_max / 1000,
    )
    return LongLinkSettings(
        edge=edge,
        in_flight_per_device_max=link.in_flight_per_device_max,
        in_flight_max=link.in_flight_max,
        packet_bytes_max=link.packet_bytes_max,
        ack_timeout_s=link.ack_timeout_s,
        keepalive_s_max=link.keepalive_s_max,
        session_expiry_s_max=link.session_expiry_s_max,
        sessions_max=link.sessions_max,
        exchanges_parked_max=link.exchanges_parked_max,
        deliveries_max=link.deliveries_max,
        server_reference=link.server_reference,
        is_moved=link.is_moved,
    )


def device_limits(config: Config) -> DeviceLimits:
    devices = config.devices
    return DeviceLimits(
        devices_max=devices.devices_max,
        token_bytes_max=devices.token_bytes_max,
        aliases_max=devices.aliases_max,
        tags_max=devices.tags_max,
        tag_bindings_max=devices.tag_bindings_max,
        profiles_max=devices.profiles_max,
    )


def retry_policy(
    config: Config, message_class: Class, *, first_s: float | None = None, may_repeat: bool = True
) -> RetryPolicy:
    """The policy of one class; only what happens to uncertain rows differs between them. first_s: of a vendor that asks
    for another first wait than `retry.first_s`. may_repeat: false where a second copy is worse than none (SMS)."""
    retry = config.retry
    wait_s = retry.first_s if first_s is None else min(first_s, retry.cap_s)
    rule = retry.on_uncertain_system if message_class is Class.SYSTEM else retry.on_uncertain_marketing
    return RetryPolicy(
        attempts_max=retry.attempts_max,
        first_s=wait_s,
        factor=retry.factor,
        cap_s=retry.cap_s,
        jitter=retry.jitter,
        throttle_s=retry.throttled_s,
        wait_s_min=retry.wait_s_min,
        credential_s=retry.credential_s,
        resends_uncertain=rule == "resend" and may_repeat,
    )


def client_config(config: Config) -> ClientConfig:
    """One HTTP/2 connection to a vendor: the machine's part."""
    http2 = config.http2
    return ClientConfig(
        streams_max=http2.streams_max,
        header_table_bytes=http2.header_table_bytes,
        encoder_table_bytes_max=http2.encoder_table_bytes_max,
        stream_window_bytes=http2.stream_window_bytes,
        connection_window_bytes=http2.connection_window_bytes,
        header_list_bytes_max=http2.header_list_bytes_max,
        body_bytes_max=http2.body_bytes_max,
        ping_idle_s=http2.ping_idle_s,
        ping_timeout_s=http2.ping_timeout_s,
        settings_timeout_s=http2.settings_timeout_s,
        ignored_headers=frozenset(name.lower().encode() for name in http2.ignored_headers),
        window_timeout_s=http2.window_timeout_s,
    )


def connection_limits(config: Config) -> ConnectionLimits:
    """One HTTP/2 connection to a vendor: the actor's part."""
    return ConnectionLimits(
        unsent_bytes_max=config.http2.unsent_bytes_max, close_timeout_s=config.http2.close_timeout_s
    )


def http1_config(config: Config) -> Http1Config:
    """One bundle of HTTP/1.1 connections to a vendor."""
    http1 = config.http1
    return Http1Config(
        sockets_max=http1.sockets_max,
        queue_max=http1.queue_max,
        connecting_max=http1.connecting_max,
        connect_retry_s=http1.connect_retry_s,
        socket_idle_s=http1.socket_idle_s,
        header_bytes_max=http1.header_bytes_max,
        interim_max=http1.interim_max,
        body_bytes_max=http1.body_bytes_max,
        body_bytes_read_max=http1.body_bytes_read_max,
    )


def keeper_settings(config: Config) -> KeeperSettings:
    credentials = config.credentials
    return KeeperSettings(
        timeout_s=credentials.timeout_s,
        retry_first_s=credentials.retry_first_s,
        retry_cap_s=credentials.retry_cap_s,
        gap_s=credentials.gap_s,
    )


def breaker_settings(config: Config) -> BreakerSettings:
    breaker = config.breaker
    return BreakerSettings(
        window_s=breaker.window_s,
        rows_min=breaker.rows_min,
        failure_share=breaker.failure_share,
        all_failing_s=breaker.all_failing_s,
        connect_failures_max=breaker.connect_failures_max,
        credential_refusals_max=breaker.credential_refusals_max,
        open_s=breaker.open_s,
        open_s_max=breaker.open_s_max,
        trial_rows_max=breaker.trial_rows_max,
    )


def guard_settings(config: Config) -> GuardSettings:
    guard = config.unregister_guard
    return GuardSettings(
        window_s=guard.window_s,
        rows_min=guard.rows_min,
        dead_share_max=guard.dead_share_max,
        dead_share_normal=guard.dead_share_normal,
        held_max=guard.held_max,
        removes_after_spike=guard.after_spike == "remove",
    )


def health_settings(config: Config) -> HttpSettings:
    return _http_settings(config.http)


def receipt_settings(config: Config) -> HttpSettings:
    return _http_settings(config.receipts)


def _http_settings(section: Http | Receipts) -> HttpSettings:
    return HttpSettings(
        connections_max=section.connections_max,
        header_timeout_s=section.header_timeout_s,
        idle_timeout_s=section.idle_timeout_s,
        header_bytes_max=section.header_bytes_max,
        body_bytes_max=section.body_bytes_max,
    )


def admission_limits(config: Config) -> AdmissionLimits:
    """Of addresses whose passwords are wrong."""
    link = config.long_link
    return AdmissionLimits(
        failures_max=link.failed_logins_max,
        first_s=link.failed_login_rest_s,
        cap_s=link.failed_login_rest_s_max,
        forget_s=link.failed_login_forget_s,
        addresses_max=link.failed_addresses_max,
    )


def signing_limits(config: Config) -> SigningLimits:
    """Of POST /v1/devices."""
    http = config.http
    return SigningLimits(
        age_s_max=http.signature_age_s,
        rate_per_s=http.devices_per_s,
        burst=http.devices_burst_max,
        used_max=http.signatures_max,
    )
