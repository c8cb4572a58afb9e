"""Targets out of columns: channel codes, device tokens, device ids. Shared by submit and register_devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from gateway.columns import U8, Bool, TextColumn
from gateway.content import Fault
from gateway.ledger import VENDOR_CHANNELS, Channel
from gateway.wire.rpc.columns_in import Refusals, rows_holding
from gateway.wire.rpc.limits import TOKEN_BYTES_MAX

#: The vendor's own check: channel, n tokens -> (n,) true where the form is right, or why none can be.
CheckTokens: TypeAlias = Callable[[Channel, TextColumn], Bool | str]
#: In a column of channel codes: no such vendor. Such rows are refused.
UNKNOWN_CHANNEL = 255
_CHANNELS = frozenset(int(channel) for channel in Channel)

_TOKEN_BYTES = np.zeros(256, np.bool_)
_TOKEN_BYTES[0x21:0x7F] = True
_NOT_TOKEN = bytes(range(0x21)) + bytes(range(0x7F, 256))


def check_token_form(field: str, tokens: TextColumn, wanted: Bool | None, refusals: Refusals) -> None:
    """Where wanted (None: everywhere) a token is 1 to 4096 bytes of printable ASCII without space; elsewhere empty."""
    lengths = np.diff(tokens.offsets)
    missing = lengths == 0 if wanted is None else (lengths == 0) & wanted
    refusals.refuse(missing, Fault(field, f"{field} is empty"))
    if wanted is not None:
        refusals.refuse((lengths != 0) & ~wanted, Fault(field, f"{field} given for a target without a channel"))
    if len(tokens.blob) > TOKEN_BYTES_MAX:
        refusals.refuse(
            lengths > TOKEN_BYTES_MAX,
            lambda row: Fault(field, f"{field} is {lengths[row]} bytes, limit {TOKEN_BYTES_MAX}"),
        )
    if len(tokens.blob.translate(None, _NOT_TOKEN)) != len(tokens.blob):
        wrong = ~_TOKEN_BYTES[np.frombuffer(tokens.blob, np.uint8)]
        refusals.refuse(rows_holding(tokens, wrong), Fault(field, f"{field} holds a byte that is not printable ASCII"))


def channel_codes(
    field: str,
    names: Sequence[str],
    position: U8,
    refusals: Refusals,
    known: Mapping[str, Channel] = VENDOR_CHANNELS,
) -> U8:
    """(n,) uint8 channel codes. position: (n,) uint8, 0 = no channel, k = names[k - 1]; unknown ones are refused.

    known: what the app's callers may write (regions.py).
    """
    codes = np.full(256, UNKNOWN_CHANNEL, np.uint8)
    codes[0] = 0
    for k, name in enumerate(names, 1):
        codes[k] = known.get(name, UNKNOWN_CHANNEL)
    channels: U8 = codes[position]
    unknown = channels == UNKNOWN_CHANNEL
    if unknown.any():

        def explain(row: int) -> Fault:
            k = int(position[row])
            if k > len(names):
                return Fault(field, f"{field} number {k} of {len(names)}")
            return Fault(field, f"{field} {names[k - 1][:64]!r} is not known")

        refusals.refuse(unknown, explain)
    return channels


ZERO_ID = bytes(16)
#: Up to so many ids a look through their bytes costs less than array calls: 0.2 us against 4 for one.
_FEW_ROWS = 16


def refuse_zero_ids(device_ids: U8, is_device: Bool | None, refusals: Refusals) -> None:
    """No device has the id of zeros: it stands for "no device" in every column of the gateway."""
    if len(device_ids) <= _FEW_ROWS and ZERO_ID not in device_ids.tobytes():
        return
    words = device_ids.view(np.uint64)
    merged = words[:, 0] | words[:, 1]
    if merged.all():
        return
    zero = merged == 0
    refusals.refuse(zero if is_device is None else zero & is_device, Fault("to", "device id is all zeros"))


def ask_vendors(channels: U8, tokens: TextColumn, check_tokens: CheckTokens, refusals: Refusals) -> None:
    """The vendors judge the tokens that have passed so far; one call per vendor."""
    kept = refusals.kept()
    for code in np.unique(channels).tolist():
        if code == 0 or code not in _CHANNELS:
            continue
        rows = np.flatnonzero(channels == code) if kept is None else kept[channels[kept] == code]
        if not len(rows):
            continue
        good = check_tokens(Channel(code), tokens if len(rows) == len(channels) else tokens.take(rows))
        if isinstance(good, str):
            refusals.refuse(channels == code, Fault("vendor", good))
        elif not good.all():
            bad = np.zeros(len(channels), np.bool_)
            bad[rows[~good]] = True
            refusals.refuse(bad, Fault("tokens", f"not the form of a token of {Channel(code).name.lower()}"))
