"""Regions of vendors: a region of Xiaomi, OPPO or Meizu is a channel of its own, `xiaomi_eu` beside `xiaomi`.

A token of one region is unknown in another, and hosts, credentials, rates and quotas are a region's own: all that the
gateway keeps by channel. So the channel of a device, a row or a receipt says its region, and nothing else is kept.

    [apps.xiaomi]               -> channel xiaomi      the app's main region, as its key `region` says
    [apps.xiaomi.regions.eu]    -> channel xiaomi_eu

Who names the main region (`xiaomi_cn` where `[apps.xiaomi]` has `region = "cn"`) means `xiaomi`. Contents speak of
vendors (texts, raw, strategy) and hold for all of their regions; targets, registrations and steps of a fallback name
channels. (A step that names no target finds the device's region by itself, core/fallback.py.)

Source: facts/vendors-china.md sections 1.1, 2.1 and 4.1 (2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gateway.columns import U8, Bool, TextColumn
from gateway.ledger import CHANNEL_NAMES, VENDOR_CHANNELS, Channel

#: Vendor -> region -> channel. The regions are those of the vendor's Settings.
REGIONS: dict[str, dict[str, Channel]] = {
    "xiaomi": {
        "cn": Channel.XIAOMI_CN,
        "ru": Channel.XIAOMI_RU,
        "in": Channel.XIAOMI_IN,
        "eu": Channel.XIAOMI_EU,
        "global": Channel.XIAOMI_GLOBAL,
    },
    "oppo": {"cn": Channel.OPPO_CN, "intl": Channel.OPPO_INTL},
    "meizu": {"cn": Channel.MEIZU_CN, "overseas": Channel.MEIZU_OVERSEAS},
}
_PLACES: dict[Channel, tuple[str, str]] = {
    channel: (vendor, region) for vendor, regions in REGIONS.items() for region, channel in regions.items()
}
#: Names of vendors: channels that are no region of another one.
VENDORS: frozenset[str] = frozenset(name for name, channel in VENDOR_CHANNELS.items() if channel not in _PLACES)
#: (channels,) uint8: each channel's vendor, itself where it is no region.
VENDOR_OF: U8 = np.array([CHANNEL_NAMES[_PLACES[c][0]] if c in _PLACES else c for c in Channel], np.uint8)


def channel_name(vendor: str, region: str = "") -> str:
    """The name of the channel, `vendor_region`. Raises ValueError for a region that the vendor does not have."""
    if not region:
        return vendor
    known = REGIONS.get(vendor, {})
    if region not in known:
        expected = f"expected one of {', '.join(known)}" if known else "which has no regions"
        raise ValueError(f"region is {region[:32]!r}, of {vendor[:64]!r}, {expected}")
    return f"{vendor}_{region}"


def vendor_name(channel: str) -> str:
    """The vendor of the channel with that name, which is the name itself where it is no region."""
    found = CHANNEL_NAMES.get(channel)
    return _PLACES[found][0] if found in _PLACES else channel


def vendor_channel(channel: Channel) -> Channel:
    """The same for channels."""
    return Channel(int(VENDOR_OF[channel]))


def section_name(channel: str) -> str:
    """Where the channel is configured, below its app."""
    found = CHANNEL_NAMES.get(channel)
    return f"{_PLACES[found][0]}.regions.{_PLACES[found][1]}" if found in _PLACES else channel


def missing(app_key: str, channel: Channel) -> str:
    """Why an app has no such channel."""
    if channel not in _PLACES:
        return f"app {app_key} has no credentials for {channel.name.lower()}"
    vendor, region = _PLACES[channel]
    return f"app {app_key} has no region {region} of {vendor} (apps.{vendor}.regions.{region})"


def names_of_app(sections: Mapping[str, object]) -> Mapping[str, Channel]:
    """What the app's callers may write -> channel: a vendor's main region has two names. sections: of the app, each by
    its channel's name."""
    names = dict(VENDOR_CHANNELS)
    for vendor, regions in REGIONS.items():
        main = getattr(sections.get(vendor), "region", "")
        if main in regions:
            names[f"{vendor}_{main}"] = CHANNEL_NAMES[vendor]
    return names


#: Vendors whose tokens tell their region.
TOLD_BY_TOKENS = frozenset(["oppo"])


def are_of_mainland(ids: TextColumn) -> Bool:
    """(n,) which registration ids of OPPO are the mainland's; all others are from overseas.

    Of the parts between underscores: one alone; two with the first CN; three with the second CN (section 2.1).
    """
    blob = np.frombuffer(ids.blob, np.uint8)
    bars = np.flatnonzero(blob == ord("_"))
    firsts = np.searchsorted(bars, ids.offsets)
    n_bars = np.diff(firsts)
    is_home: Bool = n_bars == 0
    one, two = np.flatnonzero(n_bars == 1), np.flatnonzero(n_bars == 2)
    rows = np.concatenate([one, two])
    # Where the part begins that has to be CN, and the bar that ends it.
    starts = np.concatenate([ids.offsets[one].astype(np.int64), bars[firsts[two]] + 1])
    ends = np.concatenate([bars[firsts[one]], bars[firsts[two] + 1]])
    is_two_long = ends - starts == 2
    rows, starts = rows[is_two_long], starts[is_two_long]
    is_home[rows] = (blob[starts] == ord("C")) & (blob[starts + 1] == ord("N"))
    return is_home
