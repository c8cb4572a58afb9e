"""What the device table answers: presence, tokens, one whole device, its figures. Copies, the caller's to keep."""

from __future__ import annotations

from typing import NamedTuple

from gateway.columns import I32, U8, U16, U32, Bool
from gateway.core.details import DetailsStatistics, Profile
from gateway.core.segments import SegmentsStatistics
from gateway.core.tokens import TokenGroup, TokenStoreStatistics


class PresenceColumns(NamedTuple):
    """Presence of n rows; all (n,). since_unix_s: when the session began, or ended where there is none; 0 for never.
    Of an unknown row (-1) all is zero, and fd is -1."""

    app: U16
    fd: I32
    generation: U32
    since_unix_s: U32
    profile: U32


class OwnTokens(NamedTuple):
    """Tokens of n rows. groups: the usable ones. hashes: (n,) of each device's token as in `token_hashes`.
    proven_unix_s: (n,) when the vendor took a message for it, 0 for never; a view with strides, of a copy."""

    groups: list[TokenGroup]
    hashes: U32
    proven_unix_s: U32


class Device(NamedTuple):
    """All that is known of one device, for people and for `device` calls."""

    device_id: bytes
    app_index: int
    channel: int
    token: bytes
    is_muted: bool
    is_blocked: bool
    is_closed: bool
    fd: int
    generation: int
    registered_unix_s: int
    proven_unix_s: int
    first_seen_unix_s: int
    last_seen_unix_s: int
    profile: Profile
    alias: bytes
    tags: tuple[bytes, ...]


class DeviceStatistics(NamedTuple):
    """devices, online, muted, tokens: now. taken_over, forgotten: tokens since start."""

    devices: int
    online: int
    muted: int
    taken_over: int
    forgotten: int
    device_index: SegmentsStatistics
    token_index: SegmentsStatistics
    token_store: TokenStoreStatistics
    details: DetailsStatistics


class Routing(NamedTuple):
    """What routing needs to know of n rows; all (n,). Of an unknown row (-1) all is zero or false, and fd is -1.

    filters: `FLAG_BLOCKED`, `FLAG_CLOSED`, or 0: why nothing may be sent to it, as the device's flags say.
    """

    is_known: Bool
    is_online: Bool
    has_token: Bool
    channel: U8
    fd: I32
    generation: U32
    proven_unix_s: U32
    filters: U8
