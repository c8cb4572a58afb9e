"""Receipts end to end, and chains that wait for them: strict simulators take messages and post receipts to the worker's
listener, the vendors' way.

Every vendor at once, one worker, one process of simulators. Half of the reports come twice, half are accompanied by one
that no vendor would send; what a token will be told later is in the first characters of the token.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from gateway.client.requests import DeviceState
from gateway.content import FallbackStep, Variant

pytestmark = pytest.mark.timed

HUAWEI_KEY = base64.b64encode(b"a callback key of thirty-two byte").decode()


class Kind(NamedTuple):
    """token: of a device id and a mark. later: mark -> (fate in the simulator, whether the token goes).

    clicked: whether the vendor tells clicks.
    """

    token: Callable[[bytes, str], str]
    later: dict[str, tuple[str, bool]]
    clicked: bool = False


#: The mark "0" is a token in good health.
VENDORS: dict[str, Kind] = {
    "huawei": Kind(
        lambda one, mark: f"IQAAAACy{mark}" + one.hex() * 4,
        {
            "1": ("uninstalled", True),
            "2": ("notifications_off", False),
            "3": ("inactive", False),
            # No delivery is ever told of these.
            "4": ("cached", False),
        },
    ),
    "harmony": Kind(
        lambda one, mark: f"MAMz{mark}" + one.hex() * 3,
        {"1": ("token_mismatch", True), "2": ("device_control", False)},
    ),
    "honor": Kind(
        lambda one, mark: f"BAEAAAAAB.{mark}" + one.hex() * 3,
        {"1": ("not_installed", True), "2": ("cached", False)},
    ),
    "xiaomi": Kind(
        lambda one, mark: f"d+E/{mark}{one.hex()}=",
        {"1": ("invalid", True), "2": ("disabled", False), "3": ("filtered", False)},
        clicked=True,
    ),
    "oppo": Kind(lambda one, mark: f"CN_{mark}{one.hex()[1:]}", {"1": ("regid_invalid", True)}),
    "vivo": Kind(lambda one, mark: f"1{mark}{int.from_bytes(one[-6:], 'big'):021d}", {}),
    "meizu": Kind(lambda one, mark: f"RA50{mark}{one.hex()}abcd", {}, clicked=True),
    "webhook": Kind(
        lambda one, mark: f"user-{mark}{one.hex()}",
        {"1": ("dead_later", True), "2": ("closed", False)},
        clicked=True,
    ),
    # These two report by numbers of their own.
    "tencent_sms": Kind(
        lambda one, mark: f"+86139{mark}{int.from_bytes(one[-4:], 'big') % 10**7:07d}", {"1": ("unreachable", False)}
    ),
    "wechat": Kind(lambda one, mark: f"o{mark}{one.hex()[:26]}", {"1": ("not_sent", False)}),
}
ROWS = 12
PATH_SECRET = "a-secret-of-the-path"
#: For receipts to arrive: a busy machine.
WAIT_S = 60.0


def beginning(kind: Kind, mark: str) -> str:
    """What all tokens with the mark begin with."""
    one, other = kind.token(b"\x00" * 16, mark), kind.token(b"\xff" * 16, mark)
    return one[: next(at for at in range(len(one)) if one[at] != other[at])]


@pytest.fixture(scope="module")
def port(free_port: Callable[[], int]) -> int:
    return free_port()


@pytest.fixture(scope="module")
def ready(
    tmp_path_factory: pytest.TempPathFactory, simulate: Callable[..., Any], port: int
) -> Iterator[dict[str, Any]]:
    """The ready line of all simulators."""
    folder = tmp_path_factory.mktemp("simulators")
    tables: dict[str, Any] = {"courier": {"retry_wait_s": 0.2}}
    for name, kind in VENDORS.items():
        tables[name] = {
            "fates": [{"fate": fate, "prefixes": [beginning(kind, mark)]} for mark, (fate, _) in kind.later.items()],
            "receipts": {
                "callback_url": f"http://127.0.0.1:{port}/v1/receipts/shop/{name}",
                "clicked_share": 1.0 if kind.clicked else 0.0,
                "displayed_share": 1.0 if kind.clicked else 0.0,
                "delay_ms": 30.0,
                "gather_ms": 20.0,
                "doubled_share": 0.5,
                "forged_share": 0.5,
            },
        }
    tables["aliyun_sms"] = {
        "receipts": {"callback_url": f"http://127.0.0.1:{port}/v1/receipts/shop/aliyun_sms", "gather_ms": 20.0}
    }
    fates = [{"fate": fate, "tokens": [fate]} for fate in ("failed", "invalid")]
    tables["dingtalk"] = {"fates": fates}
    tables["tencent_sms"]["receipts"]["callback_url"] += f"/{PATH_SECRET}"
    for name in ("huawei", "harmony"):
        tables[name] |= {"callback_user": "receiver", "callback_secret": HUAWEI_KEY}
    with simulate(folder, "--all", table=tables) as site:
        yield site.ready


def table_of(name: str, ready: dict[str, Any], folder: Path, port: int) -> dict[str, Any]:
    """The vendor's table in the configuration, for its simulator."""
    told = ready[next(key for key in ready if key == name or key.startswith(f"{name}."))]
    known = told.get("credentials", told)
    table: dict[str, Any] = {"host": told["host"], "port": told["port"]}
    table["ca_file"] = told.get("ca_file", ready.get("ca_file"))
    url = f"http://127.0.0.1:{port}/v1/receipts/shop/{name}"

    def secret(text: str, of: str = "secret") -> str:
        file = folder / f"{name}.{of}"
        file.write_text(text)
        return str(file)

    signed = {"callback_user": "receiver", "callback_secret_file": secret(HUAWEI_KEY, "callback")}
    match name:
        case "huawei":
            own = {"client_id": known["client_id"], "client_secret_file": secret(known["client_secret"])}
            return table | own | signed | {"token_uri": known["token_uri"]}
        case "harmony":
            own = {"project_id": known["project_id"], "account_key_file": known["service_account_file"]}
            return table | own | signed
        case "honor":
            own = {"client_id": known["client_id"], "client_secret_file": secret(known["client_secret"])}
            return table | own | {"token_uri": known["token_uri"], "app_id": known["app_id"]}
        case "xiaomi":
            own = {"package_name": known["packages"][0], "app_secret_file": secret(known["app_secret"])}
            return table | own | {"system_channel": "private", "callback_url": url}
        case "oppo":
            own = {"app_key_id": known["app_key"], "master_secret_file": secret(known["master_secret"])}
            return table | own | {"callback_url": url}
        case "vivo":
            own = {"app_key_id": known["app_key"], "app_secret_file": secret(known["app_secret"])}
            return table | own | {"app_id": known["app_id"], "callback_url": url}
        case "webhook":
            return table | {"secret_file": secret(known["secret"])}
        case "aliyun_sms":
            own = {"access_key_id": known["access_key_id"], "sign_name": "Demo"}
            template = {"id": "SMS_1", "params": {"title": "{{title}}", "content": "{{body}}"}}
            key = {"access_key_secret_file": secret(known["access_key_secret"])}
            return table | own | key | {"templates": {"default": template}}
        case "tencent_sms":
            template = {"id": "1234567", "params": {"1": "{{title}}", "2": "{{body}}"}}
            own = {"secret_id": known["secret_id"], "sdk_app_id": known["sdk_app_id"], "sign_name": "Demo"}
            secrets = {"secret_key_file": secret(known["secret_key"])}
            secrets |= {"callback_secret_file": secret(PATH_SECRET, "path")}
            return table | own | secrets | {"templates": {"default": template}}
        case "wechat":
            template = {"id": "T" * 43, "params": {"thing1": "{{title}}", "thing2": "{{body}}"}}
            own = {"appid": known["appid"], "app_secret_file": secret(known["secret"])}
            own |= {"callback_secret_file": secret(known["callback_token"], "callback")}
            return table | own | {"templates": {"default": template}}
        case "dingtalk":
            own = {"app_key_id": known["appkey"], "agent_id": known["agent_id"]}
            times = {"results_after_s": 0.2, "results_again_s": 0.2}
            return table | own | times | {"app_secret_file": secret(known["appsecret"])}
        case _:
            own = {"app_id": known["app_id"], "app_secret_file": secret(known["app_secret"])}
            token = {"callback_token_file": secret("sim-meizu-access-token", "token")}
            return table | own | token | {"callback_url": url, "rate_per_s": 150.0, "burst": 150}


async def test_receipts_of_every_vendor_reach_their_rows_devices_and_subscribers(
    ready: dict[str, Any], folder: Path, port: int, open_gateway: Callable[..., Any]
) -> None:
    tables = {name: table_of(name, ready, folder, port) for name in VENDORS}
    listeners = {"listeners": [{"address": f"tcp://127.0.0.1:{port}"}]}
    guard = {"rows_min": 1000}
    async with open_gateway(None, vendors=tables, receipts=listeners, unregister_guard=guard) as gateway:
        stream: list[tuple[bytes, int]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, gateway.client, stream)
            tasks = {name: await submit(gateway, name) for name in VENDORS}
            for name, (task_id, marks) in tasks.items():
                await check(gateway, name, task_id, marks)
            await told_by_stream(gateway, tasks, stream)
            nursery.cancel_scope.cancel()
        figures = await gateway.metrics()
        # Forged statuses of Tencent are about numbers that nobody was told; they are looked at for two seconds.
        unknown = ("pushgw_vendor_receipts_total", "unknown_id,tencent_sms")
        with trio.fail_after(WAIT_S):
            while not figures[unknown]:
                await trio.sleep(0.1)
                figures = await gateway.metrics()
        for name in VENDORS:
            assert figures["pushgw_vendor_receipts_total", f"not_the_target,{name}"] == 0
            assert figures["pushgw_vendor_receipts_total", f"unknown_row,{name}"] == 0
        signed = {"huawei", "harmony", "meizu", "webhook", "wechat"}
        unproven = sum(figures["pushgw_receipt_requests_total", f"unproven,{name}"] for name in signed)
        forged = sum(figures["pushgw_vendor_receipts_total", f"forged,{name}"] for name in set(VENDORS) - signed)
        repeated = sum(figures["pushgw_vendor_receipts_total", f"repeated,{name}"] for name in VENDORS)
        assert unproven > 0
        assert forged > 0
        assert repeated > 0
        assert figures["pushgw_rows_not_conserved", ""] == 0


async def test_dingtalk_is_asked_what_became_of_its_notices(
    ready: dict[str, Any], folder: Path, open_gateway: Callable[..., Any]
) -> None:
    tables = {"dingtalk": table_of("dingtalk", ready, folder, 0)}
    async with open_gateway(None, vendors=tables) as gateway:
        ids = {name: os.urandom(16) for name in ("good", "other", "failed", "invalid")}
        states = [DeviceState(device_id=one, channel="dingtalk", token=name) for name, one in ids.items()]
        await gateway.client.register_devices(states)
        answer = await gateway.client.submit(Variant("标题", "内容", strategy=2), list(ids.values()))
        with trio.move_on_after(WAIT_S):
            while (counts := await gateway.client.task_state(answer.task_id)).receipts != {"delivered": 2}:
                await trio.sleep(0.05)
        assert counts.receipts == {"delivered": 2}
        assert counts.states == {"vendor_accepted": 4}
        device = gateway.worker.devices
        muted = {name: device.device(device.find_one(one, 0)).is_muted for name, one in ids.items()}
        assert muted == {"good": False, "other": False, "failed": False, "invalid": True}
        figures = await gateway.metrics()
        assert figures["pushgw_outcome_questions_total", "open,dingtalk"] > 0
        assert figures["pushgw_rows_not_conserved", ""] == 0


async def follow(client: Any, stream: list[tuple[bytes, int]]) -> None:
    async with client.subscribe_receipts() as pages:
        async for page in pages:
            ids, receipts = bytes(page.message_ids), bytes(page.receipt)
            stream += [(ids[16 * row : 16 * row + 16], receipts[row]) for row in range(page.n)]


async def submit(gateway: Any, name: str) -> tuple[bytes, dict[bytes, str]]:
    """A shared text to devices of the vendor, two of each mark; task id and each device's mark."""
    kind = VENDORS[name]
    marks = [mark for mark in kind.later for _ in range(2)]
    marks += ["0"] * (ROWS - len(marks))
    ids = {os.urandom(16): mark for mark in marks}
    states = [
        DeviceState(device_id=one, channel=name, token=kind.token(one, mark), proven_unix_s=1)
        for one, mark in ids.items()
    ]
    assert (await gateway.client.register_devices(states)).registered == ROWS
    answer = await gateway.client.submit(Variant("标题", "内容", strategy=2), list(ids))
    return answer.task_id, ids


async def check(gateway: Any, name: str, task_id: bytes, marks: dict[bytes, str]) -> None:
    kind = VENDORS[name]
    wanted = {"clicked" if kind.clicked else "delivered": sum(mark == "0" for mark in marks.values())}
    with trio.move_on_after(WAIT_S):
        while (counts := await gateway.client.task_state(task_id)).receipts != wanted:
            await trio.sleep(0.05)
    assert counts.receipts == wanted, f"{name}: {counts}; {await told_of(gateway, name)}"
    assert counts.states == {"vendor_accepted": ROWS}
    trace = await gateway.client.trace(task_id, next(one for one, mark in marks.items() if mark == "0"))
    # Each once, in the order in which they came: the vendor may tell of the click before it tells of what came before.
    told = [hop.receipt for hop in trace.hops if hop.receipt]
    assert ("clicked" if kind.clicked else "delivered") in told
    assert len(told) == len(set(told))
    assert [hop.at_unix_ms for hop in trace.hops] == sorted(hop.at_unix_ms for hop in trace.hops)
    devices = gateway.worker.devices
    fates = {one: kind.later[mark][0] if mark != "0" else "" for one, mark in marks.items()}
    dead = {one for one, mark in marks.items() if mark != "0" and kind.later[mark][1]}
    wanted_marks = {
        one: (one not in dead, fate in ("notifications_off", "disabled", "closed"), fate == "inactive")
        for one, fate in fates.items()
    }

    def found_marks() -> dict[bytes, tuple[bool, bool, bool]]:
        rows = {one: devices.find_one(one, 0) for one in marks}
        return {
            one: (bool(devices.device(row).token), devices.are_notifications_off(row), devices.device(row).is_muted)
            for one, row in rows.items()
        }

    with trio.move_on_after(WAIT_S):
        while found_marks() != wanted_marks:
            await trio.sleep(0.05)
    found = found_marks()
    wrong = [(fates[one], found[one]) for one in marks if found[one] != wanted_marks[one]]
    assert not wrong, f"{name}: (fate, (has token, switched off, muted)) {wrong}; {await told_of(gateway, name)}"


async def told_of(gateway: Any, name: str) -> dict[Any, float]:
    """What the listener counted of the vendor, for whoever has to find out why a test failed."""
    figures = await gateway.metrics()
    wanted = ("pushgw_vendor_receipts_total", "pushgw_receipt_requests_total", "pushgw_receipt_events_total")
    return {key: n for key, n in figures.items() if n and key[0] in wanted and key[1].endswith(name)}


async def told_by_stream(gateway: Any, tasks: dict[str, Any], stream: list[tuple[bytes, int]]) -> None:
    """Every receipt that a row has was told to the subscriber."""
    wanted: set[tuple[bytes, int]] = set()
    for task_id, _ in tasks.values():
        page = await gateway.client.task_rows(task_id, 0, 1000)
        ids, receipts = bytes(page.message_ids), bytes(page.receipt)
        wanted |= {(ids[16 * row : 16 * row + 16], receipts[row]) for row in range(page.n) if receipts[row]}
    with trio.fail_after(WAIT_S):
        while not wanted <= set(stream):
            await trio.sleep(0.05)


async def test_receipts_find_their_rows_at_whichever_worker_they_arrive(
    ready: dict[str, Any],
    folder: Path,
    port: int,
    serve: Callable[..., Any],
    open_clients: Callable[..., Any],
) -> None:
    """Two workers: home of the row, owner of the device and receiver of the receipt are any of them."""
    names = ("huawei", "oppo")
    process = serve(
        None,
        vendors={name: table_of(name, ready, folder, port) for name in names},
        receipts={"listeners": [{"address": f"tcp://127.0.0.1:{port}"}]},
        gateway={"workers": 2, "data_dir": str(folder / "data")},
        unregister_guard={"rows_min": 1000},
    )
    async with open_clients(process.ready) as gateway:
        for name in names:
            kind = VENDORS[name]
            ids = {os.urandom(16): "1" if number % 8 == 3 else "0" for number in range(48)}
            states = [
                DeviceState(device_id=one, channel=name, token=kind.token(one, mark), proven_unix_s=1)
                for one, mark in ids.items()
            ]
            assert (await gateway.client.register_devices(states)).registered == len(ids)
            tasks = [
                (
                    await gateway.client.submit(Variant("t", f"b{n}", strategy=2), list(ids), request_id=f"{name}{n}")
                ).task_id
                for n in range(2)
            ]
            alive = sum(mark == "0" for mark in ids.values())
            with trio.move_on_after(WAIT_S):
                while True:
                    told = [(await gateway.client.task_state(task)).receipts.get("delivered") for task in tasks]
                    if told == [alive] * len(tasks):
                        break
                    await trio.sleep(0.05)
            assert told == [alive] * len(tasks), await told_of(gateway, name)
            # The tokens that were called dead are gone from their devices, whoever owns these.
            wanted = {"vendor_accepted": alive, "dropped": len(ids) - alive}
            found: dict[str, int] = {}
            with trio.move_on_after(WAIT_S):
                while found != wanted:
                    answer = await gateway.client.submit(Variant("t", "last", strategy=2), list(ids))
                    found = (await gateway.until_final(answer.task_id)).states
            assert found == wanted


def control(ready: dict[str, Any], method: str, path: str, body: Any = None) -> Any:
    """A call of the simulators' control port."""
    connection = http.client.HTTPConnection(ready["control"]["host"], ready["control"]["port"], timeout=60)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        text = connection.getresponse().read().decode()
        return [json.loads(line) for line in text.splitlines()] if path.startswith("/received") else json.loads(text)
    finally:
        connection.close()


async def test_text_message_to_those_not_reached_survives_a_kill(
    ready: dict[str, Any],
    folder: Path,
    port: int,
    serve: Callable[..., Any],
    open_clients: Callable[..., Any],
) -> None:
    """Huawei delivers to two of six; after an hour, and a kill -9 in between, the other four get a text message."""
    kind, marks = VENDORS["huawei"], ["0", "0", "4", "4", "4", "4"]
    ids = [os.urandom(16) for _ in marks]
    phones = [f"1380000{number:04d}" for number in range(len(marks))]
    names = ("huawei", "aliyun_sms")
    over: dict[str, Any] = {
        "vendors": {name: table_of(name, ready, folder, port) for name in names},
        "receipts": {"listeners": [{"address": f"tcp://127.0.0.1:{port}"}]},
        "app": {"durability": "disk"},
    }
    before = await copies_at_huawei(ready)
    process = serve(None, **over)
    async with open_clients(process.ready) as gateway:
        states = [
            DeviceState(device_id=one, channel="huawei", token=kind.token(one, mark), proven_unix_s=1)
            for one, mark in zip(ids, marks, strict=True)
        ]
        await gateway.client.register_devices(states)
        step = FallbackStep("aliyun_sms", 3600, "phone")
        content = Variant("parcel", "is there", strategy=2, ttl_s=86_400, fallback=(step,))
        answer = await gateway.client.submit(content, ids, variables={"phone": phones})
        await until_states(gateway, answer.task_id, {"vendor_accepted": 2, "waiting": 4})
        await gateway.until_written()
    process.signal(signal.SIGKILL)
    process.wait()
    process = serve(None, **over)
    async with open_clients(process.ready) as gateway:
        await until_states(gateway, answer.task_id, {"vendor_accepted": 2, "waiting": 4})
        await trio.to_thread.run_sync(control, ready, "PUT", "/clock", {"advance_s": 3700})
        await gateway.operator.clock_advance(3700)
        await until_states(gateway, answer.task_id, {"vendor_accepted": 6})
        with trio.fail_after(WAIT_S):
            # Two of them were delivered, and said to be, before the kill.
            while (counts := await gateway.client.task_state(answer.task_id)).receipts != {"delivered": 6}:
                await trio.sleep(0.05)
        assert counts.channels["aliyun_sms"] == {"vendor_accepted": 4}
    received = await trio.to_thread.run_sync(control, ready, "GET", "/received?simulator=aliyun_sms")
    assert sum(row["copies"] for row in received) == len(received) == 4
    # The first vendor got each once, before the kill.
    assert await copies_at_huawei(ready) == before + len(ids)


async def copies_at_huawei(ready: dict[str, Any]) -> int:
    rows = await trio.to_thread.run_sync(control, ready, "GET", "/received?simulator=huawei")
    return sum(row["copies"] for row in rows)


async def until_states(gateway: Any, task_id: bytes, wanted: dict[str, int]) -> None:
    found: dict[str, int] = {}
    with trio.move_on_after(WAIT_S):
        while found != wanted:
            found = await gateway.states(task_id)
            await trio.sleep(0.05)
    assert found == wanted, (found, await told_of(gateway, "huawei"))
