"""What `check-config` says of files that are there and do not hold what they should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config import ConfigFaults, load_config

LISTENERS = """
[gateway]
data_dir = "data"
[long_link]
bans_file = "bans.toml"
[[long_link.listeners]]
address = "tls://127.0.0.1:8883"
cert_file = "devices.pem"
key_file = "devices.pem"
[[rpc.listeners]]
address = "tls://127.0.0.1:7400"
cert_file = "rpc.pem"
key_file = "rpc.pem"
[[apps]]
key = "shop"
secrets = [{ file = "shop.secret" }]
"""


@pytest.fixture
def file(tmp_path: Path, write_certificate: Callable[..., Path]) -> Path:
    """Everything it names is good."""
    for name in ("devices.pem", "rpc.pem"):
        write_certificate(tmp_path / name)
    (tmp_path / "bans.toml").write_text("addresses = []")
    (tmp_path / "shop.secret").write_text("s3cret")
    file = tmp_path / "gateway.toml"
    file.write_text(LISTENERS)
    return file


def faults(file: Path) -> list[str]:
    try:
        load_config(file, vendors={})
    except ConfigFaults as error:
        return [str(fault) for fault in error.faults]
    return []


def test_files_that_hold_what_they_should_are_no_fault(file: Path) -> None:
    assert faults(file) == []


def test_certificate_that_cannot_be_used_is_named_by_listener_and_file(
    file: Path, write_certificate: Callable[..., Path]
) -> None:
    (file.parent / "rpc.pem").write_text("no certificate")
    (found,) = faults(file)
    assert found.startswith(f"{file}: rpc.listeners[0].cert_file = '{file.parent / 'rpc.pem'}': expected a certificate")
    other = write_certificate(file.parent / "other.pem")
    file.write_text(LISTENERS.replace('key_file = "devices.pem"', f'key_file = "{other}"'))
    assert [found.partition(" = ")[0] for found in faults(file)] == [
        f"{file}: rpc.listeners[0].cert_file",
        f"{file}: long_link.listeners[0].cert_file",
    ]


def test_mistake_in_the_bans_file_is_a_fault_of_that_file(file: Path) -> None:
    bans = file.parent / "bans.toml"
    bans.write_text('[apps.shop]\ndevices = ["zz"]')
    assert faults(file) == [f"{bans}: apps.shop.devices[0] = 'zz': expected 32 lower-case hex digits"]


def test_file_that_is_not_there_is_one_fault(file: Path) -> None:
    (file.parent / "rpc.pem").unlink()
    (file.parent / "bans.toml").unlink()
    assert sorted(found.partition(" = ")[0].partition(": ")[2] for found in faults(file)) == [
        "long_link.bans_file",
        "rpc.listeners[0].cert_file",
        "rpc.listeners[0].key_file",
    ]
