"""Regions of vendors: channels of their own, configured below their vendor, named by callers with or without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app_parts import app_view
from gateway.client.requests import DeviceState, register_request, submit_request
from gateway.columns import TextColumn
from gateway.config import Config, ConfigFaults, load_config
from gateway.content import Variant
from gateway.ledger import VENDOR_CHANNELS, Channel
from gateway.regions import REGIONS, VENDOR_OF, VENDORS, are_of_mainland, channel_name, section_name, vendor_name
from gateway.store.registry_codec import decode_devices
from gateway.wire.rpc.registration import check_registration
from gateway.wire.rpc.submit import check_submit
from vendors import REGISTRY, entry_of

START = """
[gateway]
data_dir = "data"
[[apps]]
key = "shop"
secrets = [{ env = "HOME" }]
"""
XIAOMI = 'package_name = "com.example.app"\napp_secret_env = "HOME"\n'
OPPO = 'app_key_id = "ak"\nmaster_secret_env = "HOME"\n'


def load(folder: Path, text: str) -> Config:
    path = folder / "gateway.toml"
    path.write_text(START + text)
    return load_config(path)


def faults(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(ConfigFaults) as caught:
        load(folder, text)
    return {fault.key: str(fault) for fault in caught.value.faults}


def test_regions_are_those_of_the_vendors_settings() -> None:
    for vendor, regions in REGIONS.items():
        fields = msgspec.structs.fields(REGISTRY[vendor].settings)
        known = next(get_args(field.type) for field in fields if field.name == "region")
        assert set(known) == set(regions)
        for region, channel in regions.items():
            name = channel_name(vendor, region)
            assert VENDOR_CHANNELS[name] is channel
            assert (vendor_name(name), entry_of(name)) == (vendor, REGISTRY[vendor])
            assert VENDOR_OF[channel] == VENDOR_CHANNELS[vendor]
    assert set(REGISTRY) == VENDORS
    assert all(VENDOR_OF[VENDOR_CHANNELS[name]] == VENDOR_CHANNELS[name] for name in VENDORS)


@pytest.mark.parametrize(("vendor", "region"), [("xiaomi", "europe"), ("apns", "eu"), ("xiaomi_eu", "eu"), ("", "eu")])
def test_a_region_that_a_vendor_does_not_have_is_named(vendor: str, region: str) -> None:
    with pytest.raises(ValueError, match=f"region is '{region}', of '{vendor}'"):
        channel_name(vendor, region)


def test_a_section_below_its_vendor_is_a_channel_with_its_own_settings(tmp_path: Path) -> None:
    text = (
        f"[apps.xiaomi]\n{XIAOMI}rate_per_s = 100.0\n[apps.xiaomi.regions.eu]\n{XIAOMI}[apps.oppo.regions.intl]\n{OPPO}"
    )
    vendors: dict[str, Any] = load(tmp_path, text).apps[0].vendors
    assert {name: settings.region for name, settings in vendors.items()} == {
        "xiaomi": "cn",
        "xiaomi_eu": "eu",
        # without a main region
        "oppo_intl": "intl",
    }
    # Nothing is taken over from the vendor's own section: secrets, rates and channels are a region's own.
    assert vendors["xiaomi_eu"].rate_per_s == 500.0
    hosts = {name: entry_of(name).vendor(settings).authority()[0] for name, settings in vendors.items()}
    assert hosts == {
        "xiaomi": "api.xmpush.xiaomi.com",
        "xiaomi_eu": "fr-api.xmpush.global.xiaomi.com",
        "oppo_intl": "api-intl.push.oppomobile.com",
    }
    assert section_name("xiaomi_eu") == "xiaomi.regions.eu"


def test_faults_of_regions_are_named_with_their_path(tmp_path: Path) -> None:
    main = f"[apps.xiaomi]\n{XIAOMI}"
    assert (
        "one of cn, ru, in, eu, global"
        in faults(tmp_path, f"[apps.xiaomi.regions.europe]\n{XIAOMI}")["apps[0].xiaomi.regions.europe"]
    )
    same = faults(tmp_path, f"{main}[apps.xiaomi.regions.cn]\n{XIAOMI}")["apps[0].xiaomi.regions.cn"]
    assert "[xiaomi] itself is region cn" in same
    assert "apps[0].xiaomi.regions.eu.region" in faults(
        tmp_path, f'{main}[apps.xiaomi.regions.eu]\n{XIAOMI}region = "ru"\n'
    )
    assert "apps[0].xiaomi.regions.eu.package_name" in faults(
        tmp_path, f'{main}[apps.xiaomi.regions.eu]\napp_secret_env = "HOME"\n'
    )
    assert "apps[0].xiaomi.regions" in faults(tmp_path, f'[apps.xiaomi]\n{XIAOMI}regions = "eu"\n')
    assert "apps[0].vivo.regions" in faults(tmp_path, "[apps.vivo.regions.eu]\n")
    assert "apps[0].xiaomi_eu" in faults(tmp_path, f"[apps.xiaomi_eu]\n{XIAOMI}")


def test_a_missing_secret_of_a_region_is_named_with_its_section(tmp_path: Path) -> None:
    text = '[apps.xiaomi.regions.eu]\npackage_name = "com.example.app"\napp_secret_file = "absent"\n'
    assert any("xiaomi.regions.eu.app_secret_file" in key for key in faults(tmp_path, text))


def test_callers_name_the_main_region_with_or_without_its_name(tmp_path: Path) -> None:
    text = f'[apps.xiaomi]\n{XIAOMI}region = "eu"\n[apps.xiaomi.regions.cn]\n{XIAOMI}'
    view = app_view(0, load(tmp_path, text).apps[0])
    # The last one is another content's duplicate: the same token at the same region.
    targets = [("xiaomi", "aaaa"), ("xiaomi", "bbbb", "eu"), ("xiaomi", "cccc", "cn"), ("xiaomi", "aaaa", "eu")]
    found = check_submit(submit_request(Variant("t", "b"), targets), view.check_tokens, names=view.channel_names)
    assert found.channels is not None
    assert found.channels.tolist() == [Channel.XIAOMI, Channel.XIAOMI, Channel.XIAOMI_CN, Channel.XIAOMI]
    assert found.duplicates is not None
    assert found.duplicates.tolist() == [False, False, False, True]

    devices = [
        DeviceState(device_id=bytes([number]) * 16, channel="xiaomi", token="aaaa", region=region)
        for number, region in enumerate(("", "eu", "cn", "ru"), 1)
    ]
    registered = check_registration(register_request(devices), view.check_tokens, names=view.channel_names)
    assert registered.channels is not None
    assert registered.channels.tolist() == [Channel.XIAOMI, Channel.XIAOMI, Channel.XIAOMI_CN]
    assert [(fault.row, fault.text) for fault in registered.faults] == [
        (3, "app shop has no region ru of xiaomi (apps.xiaomi.regions.ru)")
    ]
    assert view.check_tokens(Channel.APNS, TextColumn.from_rows([b"x"])) == "app shop has no credentials for apns"


def test_raw_and_texts_speak_of_vendors() -> None:
    """`raw.xiaomi` holds for all of its regions; what names a region would hold nowhere, and is refused."""
    raw = {"xiaomi_eu": msgspec.Raw(msgspec.msgpack.encode({}))}
    for variant in (Variant("t", "b", raw=raw), Variant("t", "b", strategy={"xiaomi_eu": 2})):
        found = check_submit(submit_request(variant, [("xiaomi", "aaaa")]))
        assert [fault.field for fault in found.faults] == ["raw" if variant.raw else "strategy"]


#: One device of Xiaomi as a registry of a version without regions has written it.
STORED = bytes.fromhex(
    "eeb2ee8fdf00000082a16e01a7636f6c756d6e739e92aa6465766963655f6964731092a67368617264730292a4617070730292a8"
    "6368616e6e656c730192a5666c6167730192b1726567697374657265645f756e69785f730492ad70726f76656e5f756e69785f73"
    "0492b166697273745f7365656e5f756e69785f730492b06c6173745f7365656e5f756e69785f730492a870726f66696c65730492"
    "ae746f6b656e732e6f6666736574730892ab746f6b656e732e626c6f620792b570726f66696c655f74657874732e6f6666736574"
    "730892b270726f66696c655f74657874732e626c6f62191111111111111111111111111111111111010000070001000000020000"
    "000300000004000000000000000000000007000000642b452f6f6c640000000019000000616e64726f696400312e30004575726f"
    "70652f4265726c696e"
)


def test_what_was_stored_before_there_were_regions_is_of_the_main_region() -> None:
    devices = decode_devices(STORED)
    assert devices.channels.tolist() == [VENDOR_CHANNELS["xiaomi"]]
    assert devices.tokens.rows() == [b"d+E/old"]


def mainland_twin(registration_id: str) -> bool:
    """Section 2.1 of the China sheet, as it is written there."""
    parts = registration_id.split("_")
    match len(parts):
        case 1:
            return True
        case 2:
            return parts[0] == "CN"
        case 3:
            return parts[1] == "CN"
    return False


parts = st.one_of(st.sampled_from(["CN", "OPPO", "", "C", "CNN", "0123"]), st.text("CN01", max_size=3))
ids = st.lists(parts, min_size=1, max_size=5).map("_".join)


@given(st.lists(ids, max_size=12))
def test_where_oppos_ids_belong_agrees_with_the_sheet(found: list[str]) -> None:
    assert are_of_mainland(TextColumn.from_texts(found)).tolist() == [mainland_twin(one) for one in found]


@pytest.mark.parametrize("main", ["cn", "intl"])
def test_a_device_of_oppo_that_names_no_region_is_where_its_id_says(tmp_path: Path, main: str) -> None:
    other = {"cn": "intl", "intl": "cn"}[main]
    sections = f'[apps.oppo]\n{OPPO}region = "{main}"\n'
    both = app_view(0, load(tmp_path, sections + f"[apps.oppo.regions.{other}]\n{OPPO}").apps[0])
    one = app_view(0, load(tmp_path, sections).apps[0])
    hexed = "0" * 32
    found = [("", hexed), ("", f"OPPO_CN_{hexed}"), ("", f"OPPO_EU_{hexed}"), (main, f"OPPO_EU_{hexed}"), ("", "a;b")]
    devices = [
        DeviceState(device_id=bytes([number]) * 16, channel="oppo", token=token, region=region)
        for number, (region, token) in enumerate(found, 1)
    ]
    devices.append(DeviceState(device_id=bytes([9]) * 16))
    home, abroad = (Channel.OPPO, Channel.OPPO_INTL) if main == "cn" else (Channel.OPPO_CN, Channel.OPPO)
    for view, expected in ((both, [home, home, abroad, Channel.OPPO, 0]), (one, [Channel.OPPO] * 4 + [0])):
        registered = check_registration(register_request(devices), view.check_tokens, names=view.channel_names)
        assert registered.channels is not None
        assert registered.channels.tolist() == expected
        assert [fault.row for fault in registered.faults] == [4]
