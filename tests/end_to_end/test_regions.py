"""Regions of Xiaomi and OPPO: each device's message goes to its region's host, with that region's secret."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.client.loss_calls import LossOf
from gateway.client.requests import DeviceState
from gateway.content import Variant

#: Registration ids begin with their device's region, so that the simulators know a foreign one.
PREFIXES = {"cn": "d+CN", "eu": "d+EU"}
SECRETS = {
    "xiaomi": {"cn": "secret-of-the-mainland", "eu": "secret-of-europe"},
    "oppo": {"cn": "secret-of-home", "intl": "secret-abroad"},
}
OPPO_IDS = {"cn": "CN_", "intl": "OPPO_EU_"}
#: Simulators by channel.
CHANNELS = ("xiaomi", "xiaomi_eu", "oppo", "oppo_intl")
#: For receipts to arrive: a busy machine.
WAIT_S = 60.0


def tokens(site: Any, simulator: str) -> dict[str, int]:
    """Token -> copies that the simulator took."""
    return {row["target"]: row["copies"] for row in site.received(simulator)}


def hashed(*tokens: str) -> dict[str, int]:
    """The same of tokens that came once each; simulators keep no token as it is."""
    return {hashlib.sha256(token.encode()).hexdigest()[:32]: 1 for token in tokens}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, simulate: Callable[..., Any]) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("simulators")
    oppo = {"regions": ["cn", "intl"], "region_secrets": SECRETS["oppo"]}
    xiaomi = {"regions": ["cn", "eu"], "region_secrets": SECRETS["xiaomi"], "region_prefixes": PREFIXES}
    xiaomi["fates"] = [{"fate": "replaced", "tokens": [regid("eu", 31)]}]
    quiet = {"apns": {"enabled": False}, "fcm": {"enabled": False}}
    table = {"xiaomi": xiaomi | {"enabled": True}, "oppo": oppo | {"enabled": True}, **quiet}
    with simulate(folder, table=table) as site:
        yield site


@pytest.fixture
def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def tables(site: Any, folder: Path, receipts_url: str) -> dict[str, Any]:
    """`[apps.xiaomi]` with `[apps.xiaomi.regions.eu]`, and OPPO's likewise."""
    made: dict[str, dict[str, Any]] = {}
    for channel in CHANNELS:
        told, (vendor, _, region) = site.ready[channel], channel.partition("_")
        secret = folder / f"{channel}.secret"
        secret.write_text(SECRETS[vendor][region or "cn"])
        place = {"host": told["host"], "port": told["port"], "ca_file": site.ready["ca_file"]}
        place["callback_url"] = f"{receipts_url}/v1/receipts/shop/{channel}"
        own: dict[str, Any] = {"package_name": "com.example.app", "app_secret_file": str(secret)}
        own["system_channel"] = "private"
        if vendor == "oppo":
            own = {"app_key_id": told["app_key"], "master_secret_file": str(secret)}
        if region:
            made[vendor]["regions"] = {region: own | place}
        else:
            made[vendor] = own | place
    return made


def regid(region: str, number: int) -> str:
    return f"{PREFIXES[region]}/{number:032x}="


def oppo_id(region: str, number: int) -> str:
    return f"{OPPO_IDS[region]}{number:032x}"


async def have_credentials(gateway: Any) -> None:
    """No token is being fetched any more: httpcore leaves its socket open when it is cancelled in a handshake."""
    with trio.fail_after(WAIT_S):
        while any(built.keeper.get_nowait() is None for built in gateway.worker.vendor_lanes):
            await trio.sleep(0.01)


async def test_a_devices_region_decides_where_its_message_goes(
    site: Any, folder: Path, open_gateway: Callable[..., Any], free_port: int
) -> None:
    vendors = tables(site, folder, f"http://127.0.0.1:{free_port}")
    listeners = {"listeners": [{"address": f"tcp://127.0.0.1:{free_port}"}]}
    async with open_gateway(None, vendors=vendors, receipts=listeners) as gateway:
        await have_credentials(gateway)
        client = gateway.client
        homes = {
            "xiaomi": DeviceState(device_id=os.urandom(16), channel="xiaomi", token=regid("cn", 1)),
            "xiaomi_eu": DeviceState(device_id=os.urandom(16), channel="xiaomi", token=regid("eu", 2), region="eu"),
            "oppo": DeviceState(device_id=os.urandom(16), channel="oppo", token=oppo_id("cn", 3), region="cn"),
            "oppo_intl": DeviceState(device_id=os.urandom(16), channel="oppo_intl", token=oppo_id("intl", 4)),
        }
        lost = DeviceState(device_id=os.urandom(16), channel="xiaomi", token=regid("cn", 5), region="ru")
        answer = await client.register_devices([*homes.values(), lost])
        assert (answer.registered, answer.refused_count) == (4, 1)
        assert answer.refused[0].text == "app shop has no region ru of xiaomi (apps.xiaomi.regions.ru)"

        targets: list[Any] = [device.device_id for device in homes.values()]
        targets += [("xiaomi", regid("eu", 6), "eu"), ("xiaomi", regid("cn", 7), "cn"), ("xiaomi", regid("cn", 8))]
        sent = await client.submit(
            Variant("标题", "内容", strategy={"xiaomi": 2, "oppo": 2}), [*targets, ("xiaomi_ru", "d+RU/1234")]
        )
        assert [(row.row, row.field) for row in sent.refused] == [(7, "vendor")]
        counts = await gateway.until_final(sent.task_id)
        assert counts.channels == {
            "xiaomi": {"vendor_accepted": 3},
            "xiaomi_eu": {"vendor_accepted": 2},
            "oppo": {"vendor_accepted": 1},
            "oppo_intl": {"vendor_accepted": 1},
        }
        assert tokens(site, "xiaomi") == hashed(regid("cn", 1), regid("cn", 7), regid("cn", 8))
        assert tokens(site, "xiaomi_eu") == hashed(regid("eu", 2), regid("eu", 6))
        assert tokens(site, "oppo") == hashed(oppo_id("cn", 3))
        assert tokens(site, "oppo_intl") == hashed(oppo_id("intl", 4))

        with trio.fail_after(WAIT_S):
            while (await client.task_state(sent.task_id)).receipts != {"delivered": 7}:
                await trio.sleep(0.05)
        trace = await client.trace(sent.task_id, homes["xiaomi_eu"].device_id)
        assert {hop.channel for hop in trace.hops if hop.channel} == {"xiaomi_eu"}
        figures = await gateway.metrics()
        assert figures["pushgw_receipt_events_total", "delivered,xiaomi_eu"] == 2
        lost_rows = await client.loss(LossOf(task_id=sent.task_id))
        assert lost_rows.channels["xiaomi_eu"][0] == 2


async def test_a_token_that_was_registered_with_the_wrong_region_is_unknown_there(
    site: Any, folder: Path, open_gateway: Callable[..., Any], free_port: int
) -> None:
    """OPPO says so in its answer, Xiaomi in a receipt (16): the token is forgotten either way."""
    vendors = tables(site, folder, f"http://127.0.0.1:{free_port}")
    listeners = {"listeners": [{"address": f"tcp://127.0.0.1:{free_port}"}]}
    async with open_gateway(None, vendors=vendors, receipts=listeners) as gateway:
        await have_credentials(gateway)
        wrong = {
            "xiaomi_eu": DeviceState(device_id=os.urandom(16), channel="xiaomi", token=regid("cn", 11), region="eu"),
            "oppo_intl": DeviceState(device_id=os.urandom(16), channel="oppo", token=oppo_id("cn", 12), region="intl"),
        }
        assert (await gateway.client.register_devices(list(wrong.values()))).registered == 2
        ids = [device.device_id for device in wrong.values()]
        sent = await gateway.client.submit(Variant("标题", "内容", strategy=2), ids)
        counts = await gateway.until_final(sent.task_id)
        assert counts.channels == {"xiaomi_eu": {"vendor_accepted": 1}, "oppo_intl": {"failed": 1}}
        assert counts.reasons == {"token_dead": 1}
        devices = gateway.worker.devices
        rows = [devices.find_one(one, 0) for one in ids]
        with trio.fail_after(WAIT_S):
            while any(devices.device(row).token for row in rows):
                await trio.sleep(0.05)


async def test_the_next_message_goes_to_the_id_that_xiaomi_named_for_an_obsolete_one_and_oppos_ids_tell_their_region(
    site: Any, folder: Path, open_gateway: Callable[..., Any], free_port: int
) -> None:
    vendors = tables(site, folder, f"http://127.0.0.1:{free_port}")
    listeners = {"listeners": [{"address": f"tcp://127.0.0.1:{free_port}"}]}
    async with open_gateway(None, vendors=vendors, receipts=listeners) as gateway:
        await have_credentials(gateway)
        old, abroad = regid("eu", 31), oppo_id("intl", 32)
        device = DeviceState(device_id=os.urandom(16), channel="xiaomi_eu", token=old, alias="anna")
        other = DeviceState(device_id=os.urandom(16), channel="oppo", token=abroad)
        await gateway.client.register_devices([device, other])
        ids = [device.device_id, other.device_id]
        sent = await gateway.client.submit(Variant("标题", "内容", strategy=2), ids)
        counts = await gateway.until_final(sent.task_id)
        assert counts.channels == {"xiaomi_eu": {"vendor_accepted": 1}, "oppo_intl": {"vendor_accepted": 1}}
        devices = gateway.worker.devices
        row = devices.find_one(device.device_id, 0)
        with trio.fail_after(WAIT_S):
            while devices.device(row).token == old.encode():
                await trio.sleep(0.05)
        assert (devices.device(row).token, devices.device(row).alias) == (f"{old}New".encode(), b"anna")
        assert tokens(site, "xiaomi_eu").items() >= hashed(old).items()
        assert tokens(site, "oppo_intl").items() >= hashed(abroad).items()
        figures = await gateway.metrics()
        assert figures["pushgw_tokens_replaced_total", "xiaomi_eu"] == 1


async def test_the_secret_of_one_region_is_refused_by_another(
    site: Any, folder: Path, open_gateway: Callable[..., Any]
) -> None:
    """So the figures above show that each region was asked with its own."""
    vendors = tables(site, folder, "http://127.0.0.1:9")
    vendors["xiaomi"]["regions"]["eu"]["app_secret_file"] = vendors["xiaomi"]["app_secret_file"]
    async with open_gateway(None, vendors=vendors, retry={"attempts_max": 1}) as gateway:
        await have_credentials(gateway)
        targets = [("xiaomi", regid("cn", 21)), ("xiaomi", regid("eu", 22), "eu")]
        sent = await gateway.client.submit(Variant("标题", "内容", strategy=2, ttl_s=3600), targets)
        with trio.fail_after(WAIT_S):
            while (counts := await gateway.client.task_state(sent.task_id)).channels.get("xiaomi") != {
                "vendor_accepted": 1
            } or not counts.reasons:
                await trio.sleep(0.05)
        assert counts.reasons == {"credential_refused": 1}
        assert "vendor_accepted" not in counts.channels["xiaomi_eu"]
