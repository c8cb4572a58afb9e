"""RegisterDevices -> Registration: whole states of n devices as columns, faulty rows refused alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gateway.batch import RowFault
from gateway.columns import U8, U32, TextColumn
from gateway.content import Fault
from gateway.ledger import VENDOR_CHANNELS, Channel
from gateway.regions import TOLD_BY_TOKENS, are_of_mainland
from gateway.wire.rpc.columns_in import (
    Refusals,
    byte_column,
    check_texts,
    id_column,
    text_column,
    word_column,
)
from gateway.wire.rpc.duplicates import duplicate_ids
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.limits import REGISTERED_TEXT_BYTES_MAX, TAGS_BYTES_MAX, RpcLimits
from gateway.wire.rpc.messages import DevicesRegistered, RefusedRow, RegisterDevices
from gateway.wire.rpc.targets_in import CheckTokens, ask_vendors, channel_codes, check_token_form, refuse_zero_ids

#: Texts of one line each, in the order of Registration.
_LINES = ("platform", "app_version", "time_zone", "alias")
_DEFAULT_LIMITS = RpcLimits()


class Registration(NamedTuple):
    """The accepted rows of one register_devices call; n rows, each device once. None = empty or zero in all rows.

    source_rows: (n,) uint32 positions in the call, or None when none was refused. device_ids: (n, 16) uint8.
    channels: (n,) uint8 channel code, 0 = none. tokens: n rows, empty without channel. proven_unix_s: (n,) uint32,
    0 = not vouched for. tags: n rows, joined by a newline. notifications_closed: (n,) uint8, not 0 where switched off.
    """

    n: int
    source_rows: U32 | None
    device_ids: U8
    channels: U8 | None
    tokens: TextColumn | None
    proven_unix_s: U32 | None
    platform: TextColumn | None
    app_version: TextColumn | None
    time_zone: TextColumn | None
    alias: TextColumn | None
    tags: TextColumn | None
    faults: Sequence[RowFault]
    notifications_closed: U8 | None = None


def devices_registered(request: RegisterDevices, registration: Registration) -> DevicesRegistered:
    """The answer once the accepted rows are written."""
    return DevicesRegistered(
        id=request.id,
        registered=registration.n,
        refused=[RefusedRow(*fault) for fault in registration.faults],
        refused_count=request.n - registration.n,
    )


def check_registration(
    request: RegisterDevices,
    check_tokens: CheckTokens | None = None,
    limits: RpcLimits | None = None,
    names: Mapping[str, Channel] = VENDOR_CHANNELS,
) -> Registration:
    """The accepted rows of the call. Raises BadRequest when a column does not fit. names: of the app's channels."""
    limits = limits or _DEFAULT_LIMITS
    n = request.n
    if n > limits.submit_rows_max:
        raise BadRequest("n", f"n is {n}, limit {limits.submit_rows_max} (submit_rows_max)", value=n)
    refusals = Refusals(n, limits.refused_rows_max)
    device_ids = id_column("device_ids", request.device_ids, n)
    refuse_zero_ids(device_ids, None, refusals)
    again = duplicate_ids(device_ids)
    if again is not None:
        refusals.refuse(again, Fault("device_id", "the same device stands earlier in this call"))
    channels, tokens = _check_channels(request, check_tokens, names, refusals)
    proven = None if request.proven_unix_s is None else word_column("proven_unix_s", request.proven_unix_s, n)
    closed = request.notifications_closed
    is_closed = None if closed is None else byte_column("notifications_closed", closed, n)
    lines: dict[str, TextColumn | None] = {}
    for field in (*_LINES, "tags"):
        texts = getattr(request, field)
        lines[field] = column = None if texts is None else text_column(field, texts, n)
        if column is not None:
            check_texts(field, column, TAGS_BYTES_MAX if field == "tags" else REGISTERED_TEXT_BYTES_MAX, refusals)
    kept = refusals.kept()
    if kept is not None:
        n = len(kept)
        device_ids = device_ids[kept]
        channels = None if channels is None else channels[kept]
        tokens = None if tokens is None else tokens.take(kept)
        proven = None if proven is None else proven[kept]
        is_closed = None if is_closed is None else is_closed[kept]
        lines = {field: None if column is None else column.take(kept) for field, column in lines.items()}
    faults = refusals.faults()
    return Registration(
        n, kept, device_ids, channels, tokens, proven, **lines, faults=faults, notifications_closed=is_closed
    )


def _check_channels(
    request: RegisterDevices, check_tokens: CheckTokens | None, names: Mapping[str, Channel], refusals: Refusals
) -> tuple[U8 | None, TextColumn | None]:
    n = request.n
    if request.channel_index is None or request.tokens is None:
        if request.channel_index is not None or request.tokens is not None or request.channels:
            raise BadRequest("channels", "channels, channel_index and tokens come together")
        return None, None
    position = byte_column("channel_index", request.channel_index, n)
    channels = channel_codes("channel", request.channels, position, refusals, names)
    tokens = text_column("tokens", request.tokens, n)
    if check_tokens is not None and not TOLD_BY_TOKENS.isdisjoint(request.channels):
        _move_to_regions(channels, tokens, request.channels, position, names, check_tokens)
    check_token_form("tokens", tokens, channels != 0, refusals)
    if check_tokens is not None:
        ask_vendors(channels, tokens, check_tokens, refusals)
    return channels, tokens


def _move_to_regions(
    channels: U8,
    tokens: TextColumn,
    listed: Sequence[str],
    position: U8,
    names: Mapping[str, Channel],
    check_tokens: CheckTokens,
) -> None:
    """Tokens that tell their region, of devices that were named without one, are of that region, where the app has
    it."""
    for k, vendor in enumerate(listed, 1):
        if vendor not in TOLD_BY_TOKENS:
            continue
        rows = np.flatnonzero(position == k)
        is_home = are_of_mainland(tokens.take(rows))
        for region, chosen in (("cn", rows[is_home]), ("intl", rows[~is_home])):
            channel = names[f"{vendor}_{region}"]
            if len(chosen) and not isinstance(check_tokens(channel, tokens.take(rows[:0])), str):
                channels[chosen] = channel
