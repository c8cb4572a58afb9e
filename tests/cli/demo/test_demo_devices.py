"""devices.py: as many devices as asked, evenly online, with tokens of the right form."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.demo.devices import KINDS, make_devices, registration, returning
from vendors.apns import Apns
from vendors.apns import Settings as ApnsSettings
from vendors.fcm import Fcm
from vendors.fcm import Settings as FcmSettings


@given(st.integers(1, 400), st.floats(0, 1))
def test_the_share_online_is_kept_in_each_kind(n: int, online: float) -> None:
    devices = make_devices(n, online, "seed")
    assert len({device.device_id for device in devices}) == n
    assert abs(sum(device.is_online for device in devices) - n * online) <= 2
    for kind in KINDS:
        mine = [device for device in devices if device.channel == kind]
        assert abs(sum(device.is_online for device in mine) - len(mine) * online) <= 1


@pytest.mark.parametrize(("n", "online", "expected"), [(2000, 0.5, 1000), (10, 0.0, 0), (10, 1.0, 10), (1, 0.5, 1)])
def test_round_shares_are_met(n: int, online: float, expected: int) -> None:
    assert abs(sum(device.is_online for device in make_devices(n, online, "seed")) - expected) <= (n > 10)


def test_kinds_take_turns_and_the_seed_decides() -> None:
    devices = make_devices(300, 0.5, "a")
    assert Counter(device.channel for device in devices) == {"apns": 100, "fcm": 100, "": 100}
    assert devices == make_devices(300, 0.5, "a")
    assert devices != make_devices(300, 0.5, "b")


def test_tokens_have_the_vendors_form() -> None:
    apns = Apns(ApnsSettings("DEF123GHIJ", "ABC123DEFG", "com.example.app", key_file="key.p8"))
    fcm = Fcm(FcmSettings("sim-project", service_account_file="account.json"))
    checks = {"apns": apns.check_token, "fcm": fcm.check_token, "": lambda token: token}
    for device in make_devices(60, 0.5, "seed"):
        assert checks[device.channel](device.token) == ""


def test_a_registration_says_what_a_phone_would() -> None:
    apns, _, bare = make_devices(3, 0.5, "seed")
    assert registration(apns, 1700).proven_unix_s == 1700
    assert (registration(bare, 1700).proven_unix_s, registration(bare, 1700).token) == (0, "")


def test_half_of_the_offline_devices_return() -> None:
    devices = make_devices(200, 0.5, "seed")
    back = returning(devices)
    assert not any(device.is_online for device in back)
    assert len(back) == pytest.approx(50, abs=1)
