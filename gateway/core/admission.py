"""Admission: who may have a session on the long link. Bans, passwords, and a rest for addresses that keep guessing.

    accept    check_address   banned address, or one that rests            -> closed without a word
    CONNECT   check_login     the same for the app, banned device, password -> CONNACK says so

**Wrong passwords.** Each address that fails is remembered. From `failures_max` failures on it rests: `first_s`, doubled
with each further failure up to `cap_s`; while it rests nothing is read of it, good or bad. After `forget_s` without a
failure it is forgotten. The threshold is high because a carrier's shared address brings thousands of phones; a guesser
gets `failures_max` tries and then one per `cap_s`, against 256 bits. IPv6 counts by /64: one subscriber has all of it.

The table holds `addresses_max` addresses; the one that failed longest ago goes for a new one, counted.

**Bans** hold device ids and networks, of one app or of all; `replace_bans` puts others in their place, and the actor
closes what is open (`banned_devices`). Time is an argument; nothing here knows sockets.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import msgspec
import numpy as np

from gateway.columns import U64
from gateway.core.identity import find_device_secret

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class Rule(enum.Enum):
    """Which rule refused; a metric label."""

    UNKNOWN_APP = "unknown_app"
    WRONG_PASSWORD = "wrong_password"
    BANNED_ADDRESS = "banned_address"
    BANNED_DEVICE = "banned_device"
    LOGIN_BACKOFF = "login_backoff"


class AddressClass(enum.IntEnum):
    """What kind of address a device comes from; u8 columns of device_status."""

    UNKNOWN = 0
    LOOPBACK = 1
    PRIVATE = 2
    IPV4 = 3
    IPV6 = 4


class AdmissionLimits(msgspec.Struct, frozen=True):
    """Reasons beside the defaults in configs/reference.toml, section [long_link]."""

    failures_max: int = 100
    first_s: float = 1.0
    cap_s: float = 300.0
    forget_s: float = 900.0
    addresses_max: int = 16_384


class AppBans(NamedTuple):
    devices: frozenset[bytes] = frozenset()
    networks: tuple[Network, ...] = ()


class Bans(NamedTuple):
    """networks: for all apps. apps: by app key."""

    networks: tuple[Network, ...] = ()
    apps: Mapping[str, AppBans] = {}


class KnownApp(Protocol):
    @property
    def index(self) -> int: ...
    @property
    def secrets(self) -> tuple[bytes, ...]: ...


class Failures:
    """One address: how many failures, when the last one was, until when it rests."""

    __slots__ = ("count", "last", "rests_until")

    def __init__(self) -> None:
        self.count = 0
        self.last = 0.0
        self.rests_until = 0.0


class Admission:
    """See the module's docstring. One owner. Its counters rise only, and outlive a long link that is replaced."""

    def __init__(self, apps: Mapping[str, KnownApp], limits: AdmissionLimits | None = None) -> None:
        self._apps = apps
        self._limits = limits or AdmissionLimits()
        self._bans = Bans()
        self._failures: dict[str, Failures] = {}
        self.refused: dict[tuple[str, Rule], int] = {}
        """(app key or "", rule) -> connections; keys are apps of the configuration only."""
        self.secret_uses: dict[str, U64] = {key: np.zeros(len(app.secrets), np.uint64) for key, app in apps.items()}
        """App key -> (secrets,) logins by the secret that made the password."""
        self.forgotten = 0
        """Addresses that fell out of the full table."""

    # Asking

    def check_address(self, address: str, now: float) -> Rule | None:
        """Why nothing may come from this address just now; counted."""
        rule = None
        if self._is_resting(address, now):
            rule = Rule.LOGIN_BACKOFF
        elif self._bans.networks and _is_in(address, self._bans.networks):
            rule = Rule.BANNED_ADDRESS
        return rule if rule is None else self._refuse("", rule)

    def check_login(self, app_key: str, device_id_hex: str, password: bytes, address: str, now: float) -> Rule | None:
        """Why this device may not log in; counted, and so is the secret of a good password."""
        # The address may have become known, or guilty, since accept.
        rule = self.check_address(address, now)
        if rule is not None:
            return rule
        app = self._apps.get(app_key)
        if app is None:
            self._on_failure(address, now)
            return self._refuse("", Rule.UNKNOWN_APP)
        bans = self._bans.apps.get(app_key)
        if bans is not None and bans.networks and _is_in(address, bans.networks):
            return self._refuse(app_key, Rule.BANNED_ADDRESS)
        secret = find_device_secret(app.secrets, device_id_hex, password)
        if secret < 0:
            self._on_failure(address, now)
            return self._refuse(app_key, Rule.WRONG_PASSWORD)
        self.secret_uses[app_key][secret] += np.uint64(1)
        # After the password: who cannot prove to be the device does not learn that it is banned.
        if bans is not None and bytes.fromhex(device_id_hex) in bans.devices:
            return self._refuse(app_key, Rule.BANNED_DEVICE)
        return None

    def _refuse(self, app_key: str, rule: Rule) -> Rule:
        key = (app_key, rule)
        self.refused[key] = self.refused.get(key, 0) + 1
        return rule

    # Guessing

    def _is_resting(self, address: str, now: float) -> bool:
        if not self._failures:
            return False
        failures = self._failures.get(_block(address))
        return failures is not None and now < failures.rests_until

    def _on_failure(self, address: str, now: float) -> None:
        limits, table, block = self._limits, self._failures, _block(address)
        if not block:
            return
        # Taken out and put back: the order of the dict is that of the last failures.
        failures = table.pop(block, None)
        if failures is None or now - failures.last > limits.forget_s:
            failures = Failures()
        if len(table) >= limits.addresses_max:
            oldest = next(iter(table))
            self.forgotten += now - table[oldest].last <= limits.forget_s
            del table[oldest]
        table[block] = failures
        failures.count += 1
        failures.last = now
        beyond = failures.count - limits.failures_max
        if beyond >= 0:
            # Bounded before it is computed: 2.0 ** 1024 is no float.
            failures.rests_until = now + min(limits.first_s * 2.0 ** min(beyond, 64), limits.cap_s)

    @property
    def n_addresses(self) -> int:
        """Addresses remembered for failures."""
        return len(self._failures)

    # Bans

    def replace_bans(self, bans: Bans) -> None:
        """These hold from now on, and no others."""
        self._bans = bans

    def banned_devices(self) -> dict[int, frozenset[bytes]]:
        """App index -> ids whose open connections have to end."""
        return {self._apps[key].index: bans.devices for key, bans in self._bans.apps.items() if key in self._apps}


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and CIDR blocks. Raises ValueError with the text that is neither."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def classify(address: str) -> AddressClass:
    """The class of an address as `getsockname` writes it."""
    parsed = _parse(address)
    if parsed is None:
        return AddressClass.UNKNOWN
    if parsed.is_loopback:
        return AddressClass.LOOPBACK
    if parsed.is_private:
        return AddressClass.PRIVATE
    return AddressClass.IPV4 if parsed.version == 4 else AddressClass.IPV6


def _parse(address: str) -> Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def _is_in(address: str, networks: Iterable[Network]) -> bool:
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in networks if network.version == parsed.version)


def _block(address: str) -> str:
    """What failures are counted by: an IPv4 address, the /64 of an IPv6 address; "" for no address."""
    if ":" not in address:
        return address
    parsed = _parse(address)
    if parsed is None or parsed.version == 4:
        return "" if parsed is None else str(parsed)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
