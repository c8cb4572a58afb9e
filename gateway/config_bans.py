"""The bans file: who may not connect to the long link. TOML, read at start and whenever it changes.

    addresses = ["203.0.113.7", "2001:db8::/32"]          # for all apps
    [apps.shop]
    devices = ["0123456789abcdef0123456789abcdef"]
    addresses = ["198.51.100.0/24"]

A file that cannot be used changes nothing: the bans in force stay, and the fault is logged.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.core.admission import AppBans, Bans, Network, parse_networks
from gateway.errors import ConfigError

#: Some twenty thousand device ids, read in 50 ms, once per change; who bans more bans networks.
BANS_BYTES_MAX = 1 << 20
#: Networks are looked through one by one at each connect, 0.3 us each.
NETWORKS_MAX = 1000


class _AppBans(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    devices: list[Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]] = []
    addresses: Annotated[list[str], Meta(max_length=NETWORKS_MAX)] = []


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    addresses: Annotated[list[str], Meta(max_length=NETWORKS_MAX)] = []
    apps: dict[str, _AppBans] = {}


def read_bans(path: Path, app_keys: Collection[str]) -> Bans:
    """The bans of the file. Raises ConfigError with the key that is wrong."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(BANS_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError("(file)", error.strerror, "a readable TOML file", file=file) from error
    if len(data) > BANS_BYTES_MAX:
        raise ConfigError("(file)", f"{len(data)} bytes or more", f"at most {BANS_BYTES_MAX} bytes", file=file)
    try:
        found = msgspec.convert(tomllib.loads(data.decode()), _File)
    except msgspec.ValidationError as error:
        text, _, key = str(error).partition(" - at `$")
        raise ConfigError(key.strip("`.") or "(file)", text, "bans as in docs/device-protocol.md", file=file) from error
    except ValueError as error:
        raise ConfigError("(syntax)", str(error), "TOML 1.0", file=file) from error
    for key in found.apps:
        if key not in app_keys:
            raise ConfigError(f"apps.{key}", key, f"one of {', '.join(sorted(app_keys))}", file=file)
    apps = {
        key: AppBans(frozenset(map(bytes.fromhex, bans.devices)), _networks(f"apps.{key}", bans.addresses, file))
        for key, bans in found.apps.items()
    }
    return Bans(_networks("", found.addresses, file), apps)


def _networks(where: str, texts: list[str], file: str) -> tuple[Network, ...]:
    for text in texts:
        try:
            parse_networks([text])
        except ValueError as error:
            key = f"{where}.addresses".lstrip(".")
            raise ConfigError(key, text, "an IP address or a CIDR block", file=file) from error
    return parse_networks(texts)
