"""The bans file: what it may say, and which key a mistake stands in."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from gateway.config_bans import BANS_BYTES_MAX, read_bans
from gateway.core.admission import AppBans
from gateway.errors import ConfigError

GOOD = """
addresses = ["203.0.113.7", "2001:db8::/32"]
[apps.shop]
devices = ["0123456789abcdef0123456789abcdef"]
addresses = ["198.51.100.9/24"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "bans.toml"
    path.write_text(text)
    return path


def test_bans_file_holds_networks_for_all_and_devices_and_networks_per_app(tmp_path: Path) -> None:
    bans = read_bans(write(tmp_path, GOOD), ["shop"])
    assert bans.networks == (ipaddress.ip_network("203.0.113.7"), ipaddress.ip_network("2001:db8::/32"))
    device = bytes.fromhex("0123456789abcdef0123456789abcdef")
    assert bans.apps == {"shop": AppBans(frozenset({device}), (ipaddress.ip_network("198.51.100.0/24"),))}


def test_empty_bans_file_bans_nobody(tmp_path: Path) -> None:
    bans = read_bans(write(tmp_path, ""), ["shop"])
    assert (bans.networks, bans.apps) == ((), {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("addresses = [", "(syntax) = "),
        (
            'addresses = ["10.0.0.1", "10.0.0.0/33"]',
            "addresses[1] = '10.0.0.0/33': expected an IP address or a CIDR block",
        ),
        ("addresses = [7]", "addresses = <array>: expected `str`"),
        ('address = ["10.0.0.1"]', "address = <array>: expected a known key (did you mean addresses?)"),
        ("apps = 1", "apps = 1: expected a table with a table for each app"),
        ('[apps.shop]\naddresses = ["example.com"]', "apps.shop.addresses[0] = 'example.com': expected an IP address"),
        ('[apps.shop]\ndevices = ["XYZ"]', "apps.shop.devices[0] = 'XYZ': expected 32 lower-case hex digits"),
        ('[apps.shop]\nban = ["XYZ"]', "apps.shop.ban = <array>: expected a known key of [apps.shop]"),
        ("[apps.other]", "apps.other = 'other': expected one of shop"),
        ("#" * (BANS_BYTES_MAX + 1), "(file) = '1048577 bytes or more': expected at most 1048576 bytes"),
    ],
)
def test_mistake_in_a_bans_file_is_named_by_file_key_and_value(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_bans(write(tmp_path, text), ["shop"])
    assert str(caught.value).startswith(f"{tmp_path / 'bans.toml'}: {said}")


def test_bans_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="readable"):
        read_bans(tmp_path / "none.toml", ["shop"])
