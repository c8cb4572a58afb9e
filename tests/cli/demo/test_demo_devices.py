"""devices.py: as many devices as asked, evenly online, with tokens of the right form."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.simulators.config import SimulatorsConfig, only
from bench.simulators.server import serve_simulators
from gateway.cli.demo.channels import CHANNELS, vendor_tables
from gateway.cli.demo.devices import KINDS, make_devices, registration, returning
from vendors import REGISTRY


@given(st.integers(1, 400), st.floats(0, 1))
def test_the_share_online_is_kept_in_each_kind(n: int, online: float) -> None:
    devices = make_devices(n, online, "seed")
    assert len({device.device_id for device in devices}) == n
    assert abs(sum(device.is_online for device in devices) - n * online) <= len(KINDS) / 2
    for kind in KINDS:
        mine = [device for device in devices if device.channel == kind]
        assert abs(sum(device.is_online for device in mine) - len(mine) * online) <= 1


@pytest.mark.parametrize(("n", "online", "expected"), [(2000, 0.5, 1000), (30, 0.0, 0), (30, 1.0, 30)])
def test_round_shares_are_met(n: int, online: float, expected: int) -> None:
    assert abs(sum(device.is_online for device in make_devices(n, online, "seed")) - expected) <= (
        len(KINDS) / 2 if n > 30 else 0
    )


def test_kinds_take_turns_and_the_seed_decides() -> None:
    n = 10 * len(KINDS)
    devices = make_devices(n, 0.5, "a")
    assert Counter(device.channel for device in devices) == dict.fromkeys(KINDS, 10)
    assert devices == make_devices(n, 0.5, "a")
    assert devices != make_devices(n, 0.5, "b")


def test_every_channel_of_the_registry_is_shown() -> None:
    assert CHANNELS.keys() == REGISTRY.keys()
    assert set(KINDS) == {*REGISTRY, ""}


async def _ready_line(folder: Path) -> dict[str, Any]:
    async with await serve_simulators(only(SimulatorsConfig(), list(CHANNELS)), folder) as simulators:
        return simulators.ready()


def test_tables_are_settings_of_the_vendors_and_tokens_have_their_form(tmp_path: Path) -> None:
    tables = vendor_tables(asyncio.run(_ready_line(tmp_path)))
    assert tables.keys() == CHANNELS.keys()
    vendors = {name: entry.vendor(msgspec.convert(tables[name], entry.settings)) for name, entry in REGISTRY.items()}
    tokens = [(device.channel, device.token) for device in make_devices(5 * len(KINDS), 0.5, "seed")]
    assert len(set(tokens)) == 5 * len(CHANNELS) + 1
    for channel, token in tokens:
        assert channel == token == "" or vendors[channel].check_token(token) == "", channel


def test_a_registration_says_what_a_phone_would() -> None:
    apns, *_, bare = make_devices(len(KINDS), 0.5, "seed")
    assert registration(apns, 1700).proven_unix_s == 1700
    assert (registration(bare, 1700).proven_unix_s, registration(bare, 1700).token) == (0, "")


def test_half_of_the_offline_devices_return() -> None:
    devices = make_devices(200, 0.5, "seed")
    back = returning(devices)
    assert not any(device.is_online for device in back)
    assert len(back) == pytest.approx(50, abs=1)
