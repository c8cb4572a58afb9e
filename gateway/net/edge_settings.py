"""Settings of the long-link edge: every limit with its unit in its name and its reason in its description."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.errors import ConfigError


def _meta(description: str, ge: float = 1) -> msgspec.Meta:
    return msgspec.Meta(ge=ge, description=description)


class ListenerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One listening TCP socket of the long link."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535, description="0 lets the system choose")] = 1883
    backlog: Annotated[int, _meta("connections that wait for accept; a reconnect storm fills it")] = 4_096
    reuse_port: bool = False
    """SO_REUSEPORT: several workers listen on one port."""
    proxy_protocol: bool = False
    """A PROXY protocol v2 header comes first and says who the peer is."""
    cert_file: str = ""
    """TLS with this certificate chain; key_file may be empty when the key is in the same file."""
    key_file: str = ""
    is_websocket: bool = False

    @property
    def is_layered(self) -> bool:
        """Its connections have an object each as long as they last."""
        return bool(self.cert_file) or self.is_websocket


class EdgeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the edge. Each has its unit in its name and its reason in its description."""

    listeners: tuple[ListenerSettings, ...] = (ListenerSettings(),)
    connections_max: Annotated[int, _meta("open sockets; 20,000 files per process less what the rest needs")] = 19_000
    files_max: Annotated[int, _meta("highest descriptor + 1 that the columns have a row for")] = 20_480
    layered_connections_max: Annotated[
        int, _meta("open sockets with TLS or WebSocket: an object each, and what OpenSSL keeps")
    ] = 4_000
    openings_per_step: Annotated[
        int, _meta("reads for PROXY, TLS and WebSocket handshakes in one step: 2 ms of RSA-2048 signatures, about")
    ] = 4
    tls_handshake_bytes_max: Annotated[
        int, _meta("what a client may say before its TLS handshake is over; a ClientHello is 300 to 2,000 bytes")
    ] = 16_384
    upgrade_bytes_max: Annotated[int, _meta("a WebSocket upgrade request; browsers with cookies send 4,000")] = 8_192
    websocket_frame_bytes_max: Annotated[
        int, _meta("one WebSocket frame, which may hold several packets; nothing of it is kept")
    ] = 262_144
    certificate_check_s: Annotated[
        float, _meta("certificate files are looked at again after it, when a handshake begins", 0.001)
    ] = 10.0
    files_reserve: Annotated[
        int, _meta("descriptors below files_max that no device gets: logs and vendors need theirs", 0)
    ] = 0
    handshaking_max: Annotated[int, _meta("sockets without CONNECT; the oldest is evicted for a newer one")] = 4_096
    handshaking_per_address_max: Annotated[
        int, _meta("the same per source address; a carrier's NAT brings hundreds of phones back at once")
    ] = 1_024
    handshake_timeout_s: Annotated[
        float, _meta("CONNECT must be complete by then; slow mobile links need 5", 0.001)
    ] = 10.0
    half_packet_timeout_s: Annotated[float, _meta("a begun packet must be complete by then", 0.001)] = 20.0
    stall_timeout_s: Annotated[
        float, _meta("pending output must be gone by then, or the reader is too slow", 0.001)
    ] = 30.0
    pending_bytes_max: Annotated[int, _meta("output waiting for one connection beyond the socket's buffer")] = 262_144
    pending_total_bytes_max: Annotated[int, _meta("the same over all connections: the edge's memory limit")] = (
        67_108_864
    )
    partial_total_bytes_max: Annotated[int, _meta("incomplete packets over all connections")] = 67_108_864
    read_bytes: Annotated[
        int, _meta("one read; uplink packets are seldom longer, and 1,024 PINGREQ at once still fit a step", 64)
    ] = 2_048
    send_buffer_bytes: Annotated[
        int, _meta("SO_SNDBUF, 0 = the kernel's default; bounds what a slow reader holds in the kernel", 0)
    ] = 65_536
    receive_buffer_bytes: Annotated[int, _meta("SO_RCVBUF, 0 = the kernel's default", 0)] = 65_536
    accepts_per_step: Annotated[int, _meta("connections accepted in one step: 64 take about a millisecond")] = 64
    login_step_s_max: Annotated[
        float, _meta("CPU time for logins in one step while others have work; a vendor's row needs eight", 0.00001)
    ] = 0.0005
    accept_pause_s: Annotated[float, _meta("rest after running out of descriptors or memory", 0.001)] = 0.1
    io_uring: bool = True
    """Read and write many sockets in one system call where the system lets us."""
    step_s_max: Annotated[float, _meta("longest step of the loop (DESIGN.md section 4)", 0.0001)] = 0.002

    def __post_init__(self) -> None:
        """Raises: ConfigError where two keys contradict each other."""
        if self.files_max <= self.connections_max:
            # The descriptors of the rest of the worker have numbers too.
            expected = f"more than connections_max ({self.connections_max})"
            raise ConfigError("long_link.files_max", self.files_max, expected)
        if self.handshaking_per_address_max > self.handshaking_max:
            expected = f"at most handshaking_max ({self.handshaking_max})"
            raise ConfigError("long_link.handshaking_per_address_max", self.handshaking_per_address_max, expected)
