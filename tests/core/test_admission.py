"""Admission: bans, passwords, and the rest of addresses that guess; the table of addresses stays bounded."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import (
    AddressClass,
    Admission,
    AdmissionLimits,
    AppBans,
    Bans,
    Rule,
    classify,
    parse_networks,
)
from gateway.core.identity import device_password

DEVICE = "0123456789abcdef0123456789abcdef"
GOOD = device_password(b"old", DEVICE).encode()


class App(NamedTuple):
    index: int
    secrets: tuple[bytes, ...]


APPS = {"shop": App(0, (b"new", b"old")), "news": App(1, (b"other",))}


def admission(**limits: float) -> Admission:
    return Admission(APPS, AdmissionLimits(**limits))  # type: ignore[arg-type]


def log_in(
    door: Admission, password: bytes = GOOD, *, app: str = "shop", address: str = "192.0.2.1", now: float = 0.0
) -> Rule | None:
    return door.check_login(app, DEVICE, password, address, now)


def test_login_is_admitted_and_the_secret_it_was_made_with_counted() -> None:
    door = admission()
    assert log_in(door) is None
    assert log_in(door, device_password(b"new", DEVICE).encode()) is None
    assert log_in(door) is None
    assert door.secret_uses["shop"].tolist() == [1, 2]
    assert (door.refused, door.n_addresses) == ({}, 0)


def test_refusals_are_counted_by_app_and_rule_and_made_up_apps_under_none() -> None:
    door = admission()
    door.replace_bans(
        Bans(parse_networks(["198.51.100.0/24"]), {"news": AppBans(networks=parse_networks(["2001:db8::/32"]))})
    )
    assert log_in(door, b"guess") is Rule.WRONG_PASSWORD
    assert log_in(door, app="made up") is Rule.UNKNOWN_APP
    assert log_in(door, address="198.51.100.77") is Rule.BANNED_ADDRESS
    assert log_in(door, app="news", address="2001:db8::1") is Rule.BANNED_ADDRESS
    assert log_in(door, address="2001:db8::1") is None
    assert door.refused == {
        ("shop", Rule.WRONG_PASSWORD): 1,
        ("", Rule.UNKNOWN_APP): 1,
        ("", Rule.BANNED_ADDRESS): 1,
        ("news", Rule.BANNED_ADDRESS): 1,
    }


def test_ban_of_a_device_is_told_only_to_who_proves_to_be_it() -> None:
    door = admission()
    door.replace_bans(Bans((), {"shop": AppBans(frozenset({bytes.fromhex(DEVICE)}))}))
    assert log_in(door, b"guess") is Rule.WRONG_PASSWORD
    assert log_in(door) is Rule.BANNED_DEVICE
    assert door.banned_devices() == {0: frozenset({bytes.fromhex(DEVICE)})}
    door.replace_bans(Bans())
    assert log_in(door) is None


def test_address_rests_after_too_many_failures_twice_as_long_each_time_up_to_the_cap() -> None:
    door = admission(failures_max=3, first_s=1.0, cap_s=5.0)
    now, rests = 0.0, []
    for _ in range(7):
        assert log_in(door, b"guess", now=now) is Rule.WRONG_PASSWORD
        begin = now
        while door.check_address("192.0.2.1", now) is Rule.LOGIN_BACKOFF:
            now += 0.5
        rests.append(now - begin)
    assert rests == [0, 0, 1, 2, 4, 5, 5]
    assert door.check_address("192.0.2.2", begin) is None


def test_good_password_from_a_resting_address_waits_too_and_does_not_forgive() -> None:
    door = admission(failures_max=1, first_s=10.0)
    log_in(door, b"guess")
    assert log_in(door, now=9.9) is Rule.LOGIN_BACKOFF
    assert log_in(door, now=10.0) is None
    assert log_in(door, b"guess", now=10.0) is Rule.WRONG_PASSWORD
    assert door.check_address("192.0.2.1", 29.9) is Rule.LOGIN_BACKOFF


def test_address_is_forgotten_after_a_while_without_failures() -> None:
    door = admission(failures_max=2, first_s=10.0, forget_s=100.0)
    log_in(door, b"guess", now=0.0)
    log_in(door, b"guess", now=100.1)
    assert door.check_address("192.0.2.1", 100.2) is None
    log_in(door, b"guess", now=100.3)
    assert door.check_address("192.0.2.1", 100.4) is Rule.LOGIN_BACKOFF


def test_addresses_of_one_ipv6_subscriber_count_as_one_and_a_mapped_ipv4_as_itself() -> None:
    door = admission(failures_max=2, first_s=10.0)
    log_in(door, b"guess", address="2001:db8:0:1::1")
    log_in(door, b"guess", address="2001:db8:0:1:ffff::2")
    assert door.check_address("2001:db8:0:1::3", 1.0) is Rule.LOGIN_BACKOFF
    assert door.check_address("2001:db8:0:2::1", 1.0) is None
    log_in(door, b"guess", address="::ffff:192.0.2.9")
    log_in(door, b"guess", address="192.0.2.9")
    assert door.check_address("::ffff:192.0.2.9", 1.0) is Rule.LOGIN_BACKOFF


def test_unknown_address_is_never_remembered() -> None:
    door = admission(failures_max=1)
    assert log_in(door, b"guess", address="") is Rule.WRONG_PASSWORD
    assert door.n_addresses == 0
    assert log_in(door, address="") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 30)), max_size=80))
def test_table_of_addresses_agrees_with_a_plain_twin_and_stays_bounded(calls: list[tuple[int, bool, int]]) -> None:
    limits = AdmissionLimits(failures_max=2, first_s=4.0, cap_s=20.0, forget_s=60.0, addresses_max=4)
    door, now = Admission(APPS, limits), 0.0
    twin: list[tuple[str, list[float]]] = []  # address and the times of its failures, last failure last
    for number, is_good, later_s in calls:
        now += later_s
        address = f"192.0.2.{number}"
        times = next((times for known, times in twin if known == address), [])
        until = 0.0
        if len(times) >= 2:
            until = times[-1] + min(4.0 * 2 ** (len(times) - 2), 20.0)
        found = log_in(door, GOOD if is_good else b"guess", address=address, now=now)
        if now < until:
            assert found is Rule.LOGIN_BACKOFF
            continue
        assert found is (None if is_good else Rule.WRONG_PASSWORD)
        if not is_good:
            twin = [entry for entry in twin if entry[0] != address]
            if times and now - times[-1] > 60.0:
                times = []
            twin = [*twin[-3:], (address, [*times, now])]
        assert door.n_addresses == len(twin) <= 4


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", AddressClass.LOOPBACK),
        ("::1", AddressClass.LOOPBACK),
        ("10.1.2.3", AddressClass.PRIVATE),
        ("fe80::1%eth0", AddressClass.PRIVATE),
        ("8.8.8.8", AddressClass.IPV4),
        ("::ffff:8.8.8.8", AddressClass.IPV4),
        ("2606:4700::1111", AddressClass.IPV6),
        ("", AddressClass.UNKNOWN),
        ("a socket", AddressClass.UNKNOWN),
    ],
)
def test_address_has_a_class(address: str, expected: AddressClass) -> None:
    assert classify(address) is expected


@given(st.ip_addresses())
def test_networks_hold_what_the_standard_library_says(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    door = admission()
    door.replace_bans(Bans(parse_networks(["0.0.0.0/1", "::/1"])))
    mapped = getattr(address, "ipv4_mapped", None) or address
    networks = (ipaddress.ip_network("0.0.0.0/1"), ipaddress.ip_network("::/1"))
    is_banned = any(mapped in network for network in networks if network.version == mapped.version)
    assert (door.check_address(str(address), 0.0) is Rule.BANNED_ADDRESS) == is_banned
