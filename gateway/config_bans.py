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

from gateway.config_read import Reader
from gateway.core.admission import AppBans, Bans, Network, parse_networks
from gateway.errors import ConfigError
from gateway.wire.mqtt.session import is_device_id

#: Some thirty thousand device ids, read in a tenth of a second, once per change; who bans more bans networks.
BANS_BYTES_MAX = 1 << 20
#: Networks are looked through one by one at each connect, 0.3 us each.
NETWORKS_MAX = 1000


class _AppBans(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    devices: list[str] = []
    addresses: Annotated[list[str], Meta(max_length=NETWORKS_MAX)] = []


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    addresses: Annotated[list[str], Meta(max_length=NETWORKS_MAX)] = []


def read_bans(path: Path, app_keys: Collection[str]) -> Bans:
    """The bans of the file. Raises ConfigError with the key and the value that are wrong."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(BANS_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError("(file)", error.strerror, "a readable TOML file", file=file) from error
    if len(data) > BANS_BYTES_MAX:
        raise ConfigError("(file)", f"{len(data)} bytes or more", f"at most {BANS_BYTES_MAX} bytes", file=file)
    try:
        table = tomllib.loads(data.decode())
    except ValueError as error:
        raise ConfigError("(syntax)", str(error), "TOML 1.0", file=file) from error
    reader = Reader(file, path.parent, {})
    found = reader.struct(_File, {name: value for name, value in table.items() if name != "apps"}, "")
    tables = table.get("apps", {})
    if not isinstance(tables, dict):
        reader.fault("apps", tables, "a table with a table for each app")
        tables = {}
    read = {key: reader.struct(_AppBans, bans, f"apps.{key}") for key, bans in tables.items() if key in app_keys}
    for key in tables.keys() - read.keys():
        reader.fault(f"apps.{key}", key, f"one of {', '.join(sorted(app_keys))}")
    if found is None or reader.faults:
        raise reader.faults[0]
    apps = {
        key: AppBans(_devices(key, bans.devices, file), _networks(f"apps.{key}", bans.addresses, file))
        for key, bans in read.items()
        if bans is not None
    }
    return Bans(_networks("", found.addresses, file), apps)


def _devices(app_key: str, texts: list[str], file: str) -> frozenset[bytes]:
    for index, text in enumerate(texts):
        if not is_device_id(text):
            raise ConfigError(f"apps.{app_key}.devices[{index}]", text[:80], "32 lower-case hex digits", file=file)
    return frozenset(map(bytes.fromhex, texts))


def _networks(where: str, texts: list[str], file: str) -> tuple[Network, ...]:
    for index, text in enumerate(texts):
        try:
            parse_networks([text])
        except ValueError as error:
            key = f"{where}.addresses[{index}]".lstrip(".")
            raise ConfigError(key, text[:80], "an IP address or a CIDR block", file=file) from error
    return parse_networks(texts)
