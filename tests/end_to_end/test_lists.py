"""Vendors with lists end to end: a worker, real lanes, TLS sockets, and the strict simulators of all of them.

The simulators were written from the vendors' documents and know nothing of our encoders: what they accept is what the
documents ask for, and what they name as dead must end at exactly those rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.client.requests import DeviceState
from gateway.content import Click, Variant

pytest.importorskip("bench.simulators.huawei", reason="the simulators of these vendors are not there")
pytestmark = pytest.mark.timed

#: Vendor -> (fate of a token in its simulator, how tokens with that fate begin, token of a device id).
VENDORS: dict[str, tuple[str, str, Callable[[bytes], str]]] = {
    "huawei": ("illegal_token", "IQAAAACy0f", lambda one: "IQAAAACy0" + one.hex() * 4),
    "harmony": ("noRight", "MAMzf", lambda one: "MAMz" + one.hex() * 3),
    "honor": ("expired", "BAEAAAAAB.f", lambda one: "BAEAAAAAB." + one.hex() * 3),
    "xiaomi": ("bad_regid", "d+E/f", lambda one: f"d+E/{one.hex()}="),
    "oppo": ("invalid", "CN_f", lambda one: "CN_" + one.hex()),
    "vivo": ("not_existing", "2", lambda one: f"{1 + (one[0] == 255)}{int.from_bytes(one[-6:], 'big'):022d}"),
    "meizu": ("110002", "RA50f", lambda one: f"RA50{one.hex()}abcde"),
}
N_SHARED, N_DISTINCT = 40, 20


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, simulate: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """The ready line of all simulators."""
    folder = tmp_path_factory.mktemp("simulators")
    fates = {name: {"fates": [{"fate": fate, "prefixes": [begin]}]} for name, (fate, begin, _) in VENDORS.items()}
    with simulate(folder, "--all", table=fates) as site:
        yield site.ready


def table_of(name: str, ready: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The vendor's table in the configuration, for its simulator."""
    told = ready[next(key for key in ready if key == name or key.startswith(f"{name}."))]
    known = told.get("credentials", told)
    table = {"host": told["host"], "port": told["port"], "ca_file": told.get("ca_file", ready.get("ca_file"))}

    def secret(text: str) -> str:
        file = folder / f"{name}.secret"
        file.write_text(text)
        return str(file)

    match name:
        case "huawei":
            own = {"client_id": known["client_id"], "client_secret_file": secret(known["client_secret"])}
            return table | own | {"token_uri": known["token_uri"]}
        case "harmony":
            return table | {"project_id": known["project_id"], "account_key_file": known["service_account_file"]}
        case "honor":
            own = {"client_id": known["client_id"], "client_secret_file": secret(known["client_secret"])}
            return table | own | {"token_uri": known["token_uri"], "app_id": known["app_id"]}
        case "xiaomi":
            channels = {"system_channel": "private", "marketing_channel": "public"}
            own = {"package_name": known["packages"][0], "app_secret_file": secret(known["app_secret"])}
            return table | own | channels
        case "oppo":
            return table | {"app_key_id": known["app_key"], "master_secret_file": secret(known["master_secret"])}
        case "vivo":
            own = {"app_key_id": known["app_key"], "app_secret_file": secret(known["app_secret"])}
            return table | own | {"app_id": known["app_id"]}
        case _:
            own = {"app_id": known["app_id"], "app_secret_file": secret(known["app_secret"])}
            return table | own | {"rate_per_s": 150.0, "burst": 150}


@pytest.mark.parametrize("name", sorted(VENDORS))
async def test_a_strict_simulator_takes_lists_and_single_rows_and_names_the_dead(
    name: str, ready: dict[str, Any], folder: Path, open_gateway: Callable[..., Any]
) -> None:
    token_of = VENDORS[name][2]
    ids = [bytes([255 if n % 10 == 3 else 1]) + os.urandom(7) + n.to_bytes(8, "big") for n in range(60)]
    dead = {one for one in ids if one[0] == 255}
    async with open_gateway(None, vendors={name: table_of(name, ready, folder)}) as gateway:
        states = [DeviceState(device_id=one, channel=name, token=token_of(one)) for one in ids]
        assert (await gateway.client.register_devices(states)).registered == len(ids)
        click = Click("url", "https://example.com/a?b=c&d")
        shared = Variant("标题 title", "内容 body" * 40, strategy=2, data={"k": "v", "n": 1}, click=click, badge=3)
        answer = await gateway.client.submit(shared, ids[:N_SHARED])
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 36, "failed": 4}
        # Their tokens are gone, so these rows have no channel any more.
        marketing = Variant("标题", '内容"&%', strategy=2, class_="marketing", collapse_id="c1", data={"a": "b"})
        answer = await gateway.client.submit(marketing, ids[:N_SHARED])
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 36, "dropped": 4}
        answer = await gateway.client.submit(Variant("标题", "内容", strategy=2, ttl_s=0), ids[:1])
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 1}
        values = [f'v{n}"&%长' * (1 + 3 * n) for n in range(N_DISTINCT)]
        distinct = Variant("T {{x}}", "B {{x}}", strategy=2, data={"k": "<{{n}}>"})
        numbers = [str(n) for n in range(N_DISTINCT)]
        answer = await gateway.client.submit(distinct, ids[N_SHARED:], variables={"x": values, "n": numbers})
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 18, "failed": 2}
        devices = gateway.worker.devices
        left = {one for one in ids if devices.device(devices.find_one(one, 0)).token}
        assert left == set(ids) - dead
