"""Consents of WeChat's users: one acceptance is one message, counted by the gateway and, for itself, by WeChat."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from gateway.__main__ import main
from gateway.client.requests import DeviceState
from gateway.client.trio_client import open_trio_client
from gateway.content import FallbackStep, Variant
from gateway.core.signed_requests import sign_request

TEMPLATE = "TPLdemo00000000000000000000000000000000000a"
OTHER = "TPLdemo00000000000000000000000000000000000b"
PERMANENT = "TPLdemo00000000000000000000000000000000000c"
#: What WeChat itself knows of: two of each user for each template.
ACCEPTANCES = 2
WAIT_S = 60.0
#: Of the app in config_table.
SECRET = b"the secret of the shop"


def openid(number: int) -> str:
    return f"o{number:027d}"


def taken(site: Any) -> int:
    """Messages that WeChat took."""
    return sum(row["copies"] for row in site.received("wechat"))


@pytest.fixture(scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory, simulate: Callable[..., Any]) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("simulators")
    quiet = {"apns": {"enabled": False}, "fcm": {"enabled": False}}
    with simulate(folder, table={"wechat": {"enabled": True, "acceptances": ACCEPTANCES}, **quiet}) as site:
        yield site


@pytest.fixture
def site(_site: Any) -> Any:
    _site.call("DELETE", "/fault")
    _site.call("POST", "/reset")
    return _site


async def have_credentials(gateway: Any) -> None:
    """No token is being fetched any more: httpcore leaves its socket open when it is cancelled in a handshake."""
    with trio.fail_after(WAIT_S):
        while any(built.keeper.get_nowait() is None for built in gateway.worker.vendor_lanes):
            await trio.sleep(0.01)


def mini_program(site: Any, folder: Path, consents: str) -> dict[str, Any]:
    """The section of the app's mini program."""
    told = site.ready["wechat"]
    secret = folder / "wechat.secret"
    secret.write_text(told["secret"])
    params = {"thing1": "{{title}}", "thing2": "{{body}}"}
    return {
        "host": told["host"],
        "port": told["port"],
        "ca_file": site.ready["ca_file"],
        "appid": told["appid"],
        "app_secret_file": str(secret),
        "page": "pages/index",
        "consents": consents,
        "permanent_templates": [PERMANENT],
        "templates": {
            "default": {"id": TEMPLATE, "params": params},
            "other": {"id": OTHER, "params": params},
            "permanent": {"id": PERMANENT, "params": params},
        },
    }


@pytest.fixture
def gateway_of(site: Any, folder: Path, open_gateway: Callable[..., Any]) -> Callable[..., Any]:
    """A gateway with one mini program, `async with gateway_of(consents="strict")`; others: sections over it."""

    @asynccontextmanager
    async def run(consents: str = "strict", **over: Any) -> AsyncIterator[Any]:
        vendors = {"wechat": mini_program(site, folder, consents)} | over.pop("vendors", {})
        async with open_gateway(None, vendors=vendors, **({"consents": {"write_s": 0.05}} | over)) as gateway:
            await have_credentials(gateway)
            yield gateway

    return run


async def outcome(gateway: Any, users: list[int], **fields: Any) -> Counter[str]:
    """What became of a message to these users: state, or the reason of a row that failed."""
    variant = Variant(**({"title": "标题", "body": "内容", "strategy": 2} | fields))
    targets = [("wechat", openid(user)) for user in users]
    answer = await gateway.client.submit(variant, targets, allow_duplicates=True)
    counts = await gateway.until_final(answer.task_id)
    found = Counter(counts.reasons)
    found["vendor_accepted"] = counts.states.get("vendor_accepted", 0)
    return +found


async def left(gateway: Any, users: list[int], template: str = TEMPLATE) -> list[int]:
    return await gateway.client.report_consents([openid(user) for user in users], template, 0)


async def test_a_consent_is_used_once_and_without_one_the_vendor_is_not_asked(
    site: Any, gateway_of: Callable[..., Any]
) -> None:
    async with gateway_of() as gateway:
        client = gateway.client
        assert await outcome(gateway, [1, 2]) == {"no_consent": 2}
        assert taken(site) == 0
        assert await client.report_consents([openid(1), openid(2), openid(1)], TEMPLATE) == [2, 1, 2]
        # Two templates have counts of their own.
        assert await outcome(gateway, [1], category="other") == {"no_consent": 1}
        # Three rows of one batch for two consents.
        assert await outcome(gateway, [1, 1, 1, 2]) == {"vendor_accepted": 3, "no_consent": 1}
        assert await left(gateway, [1, 2]) == [0, 0]
        assert await outcome(gateway, [1, 2]) == {"no_consent": 2}
        assert taken(site) == 3
        # Templates that are agreed to once and for all count nothing.
        assert await outcome(gateway, [1, 2], category="permanent") == {"vendor_accepted": 2}
        # What the service knows better.
        assert await client.report_consents([openid(3)], [OTHER], [7], is_total=True) == [7]
        assert await client.report_consents([openid(3)], OTHER, 0, is_total=True) == [0]
        device = DeviceState(device_id=bytes([3]) * 16, channel="wechat", token=openid(3))
        await client.register_devices([device])
        await client.report_consents([openid(3)], TEMPLATE)
        answer = await client.submit(Variant("标题", "内容", strategy=2), [device.device_id])
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 1}
        assert await left(gateway, [3]) == [0]
        figures = await gateway.metrics()
        names = ("reported", "used", "refused", "emptied", "given_back")
        assert {name: figures.get(("pushgw_consent_events_total", f"shop,{name}"), 0) for name in names} == {
            "reported": 3 + 7 + 1,
            "used": 4,
            "refused": 2 + 1 + 1 + 2,
            "emptied": 0,
            "given_back": 0,
        }
        assert figures["pushgw_consents", ""] == figures["pushgw_consents_held", ""] == 0


async def test_two_batches_cannot_use_one_consent_and_what_the_vendor_did_not_count_comes_back(
    site: Any, gateway_of: Callable[..., Any]
) -> None:
    async with gateway_of(retry={"first_s": 600.0}) as gateway:
        client = gateway.client
        await client.report_consents([openid(1)], TEMPLATE)
        # Busy: the first row waits until its time is over, and keeps its consent so long.
        busy = {"kind": "errors", "mix": [{"share": 1.0, "status": 200, "reason": "-1"}]}
        site.call("PUT", "/fault", {"simulator": "wechat"} | busy)
        first = await client.submit(Variant("标题", "内容", strategy=2, ttl_s=300), [("wechat", openid(1))])
        with trio.fail_after(WAIT_S):
            while not (await client.task_state(first.task_id)).states.get("waiting"):
                await trio.sleep(0.01)
        assert await outcome(gateway, [1]) == {"no_consent": 1}
        assert await left(gateway, [1]) == [0]
        await gateway.operator.clock_advance(1000.0)
        counts = await gateway.until_final(first.task_id, WAIT_S)
        assert (counts.states, counts.reasons) == ({"expired": 1}, {"vendor_unavailable": 1})
        assert taken(site) == 0
        # It ended, and WeChat has not counted it.
        site.call("DELETE", "/fault")
        assert await outcome(gateway, [1]) == {"vendor_accepted": 1}
        assert await left(gateway, [1]) == [0]

        # A row whose task is stopped while it waits gives its consent back, too.
        site.call("PUT", "/fault", {"simulator": "wechat"} | busy)
        await client.report_consents([openid(2)], TEMPLATE)
        stopped = await client.submit(Variant("标题", "内容", strategy=2), [("wechat", openid(2))])
        with trio.fail_after(WAIT_S):
            while not (await client.task_state(stopped.task_id)).states.get("waiting"):
                await trio.sleep(0.01)
        assert await left(gateway, [2]) == [0]
        assert (await client.stop_task(stopped.task_id)).cancelled == 1
        assert await left(gateway, [2]) == [1]


async def test_43101_sets_the_count_to_zero_and_a_chain_goes_on_without_consent(
    site: Any, gateway_of: Callable[..., Any]
) -> None:
    async with gateway_of() as gateway:
        await gateway.client.report_consents([openid(1)], TEMPLATE, ACCEPTANCES + 3)
        for _ in range(ACCEPTANCES):
            assert await outcome(gateway, [1]) == {"vendor_accepted": 1}
        assert await outcome(gateway, [1]) == {"rejected_by_vendor": 1}
        assert await left(gateway, [1]) == [0]
        assert await outcome(gateway, [1]) == {"no_consent": 1}
        # A step to WeChat that has no consent is passed on to the next, as any that failed.
        await gateway.client.register_devices([DeviceState(device_id=bytes([9]) * 16)])
        steps = (FallbackStep("wechat", 1, "user"),)
        variant = Variant("标题", "内容", strategy=3, ttl_s=600, fallback=steps)
        answer = await gateway.client.submit(variant, [bytes([9]) * 16], variables={"user": [openid(2)]})
        counts = await gateway.until_final(answer.task_id, WAIT_S)
        assert (counts.states, counts.reasons) == ({"failed": 1}, {"no_consent": 1})


async def test_who_trusts_wechat_is_refused_nothing_and_counts_all_the_same(
    site: Any, gateway_of: Callable[..., Any]
) -> None:
    async with gateway_of("trust") as gateway:
        assert await outcome(gateway, [1]) == {"vendor_accepted": 1}
        assert await gateway.client.report_consents([openid(1)], TEMPLATE, 5) == [5]
        assert await outcome(gateway, [1]) == {"vendor_accepted": 1}
        assert await left(gateway, [1]) == [4]
        assert await outcome(gateway, [1]) == {"rejected_by_vendor": 1}
        assert await left(gateway, [1]) == [0]
        assert await outcome(gateway, [2]) == {"vendor_accepted": 1}


async def test_consents_outlive_the_process_where_the_gateway_has_a_store(
    site: Any, folder: Path, gateway_of: Callable[..., Any]
) -> None:
    store = {"store": {"data_dir": str(folder / "store"), "shard_groups": 1}}
    async with gateway_of(**store) as gateway:
        assert await gateway.client.report_consents([openid(1), openid(2)], TEMPLATE, [2, 1]) == [2, 1]
        assert await outcome(gateway, [1, 2]) == {"vendor_accepted": 2}
        with trio.fail_after(WAIT_S):
            while (await gateway.metrics())["pushgw_consents_held", ""]:
                await trio.sleep(0.02)
        await gateway.worker.stores.flush()
    async with gateway_of(**store) as gateway:
        assert await left(gateway, [1, 2]) == [1, 0]
        assert await outcome(gateway, [1, 2]) == {"vendor_accepted": 1, "no_consent": 1}
    # No openid is in the file.
    assert openid(1).encode() not in b"".join(file.read_bytes() for file in (folder / "store").glob("consents.db*"))


def signed(gateway: Any, now: int, body: bytes, secret: bytes) -> tuple[int, dict[str, Any]]:
    """POST /v1/consents, signed at that time; status and answer."""
    headers = {
        "Pushgw-App": "shop",
        "Pushgw-Timestamp": str(now),
        "Pushgw-Signature": sign_request(secret, "shop", str(now), body),
    }
    place = urlsplit(gateway.ready["http"])
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
    try:
        connection.request("POST", "/v1/consents", body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


async def test_services_report_over_http_and_operators_by_command(
    folder: Path, gateway_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async with gateway_of() as gateway:
        now = int(gateway.worker.clock.unix_ms() / 1000)

        async def post(secret: bytes = SECRET, **fields: Any) -> tuple[int, dict[str, Any]]:
            body = json.dumps({"users": [openid(1), openid(2)], "template": TEMPLATE} | fields).encode()
            return await trio.to_thread.run_sync(signed, gateway, now, body, secret)

        assert await post() == (200, {"left": [1, 1]})
        assert await post(count=2) == (200, {"left": [3, 3]})
        assert await post(count=1, is_total=True) == (200, {"left": [1, 1]})
        # The same signature is taken once.
        assert (await post(count=1, is_total=True))[0] == 409
        assert (await post(b"another secret", count=3))[0] == 401
        for wrong in ({"users": []}, {"users": ["short"]}, {"colour": "red"}, {"template": ""}):
            status, problem = await post(**wrong)
            assert (status, problem["error"]) == (400, "bad_request")
        assert await left(gateway, [1, 2]) == [1, 1]

        async def command(*options: str) -> dict[str, Any]:
            arguments = ["consents", openid(1), TEMPLATE, "--config", str(folder / "gateway.toml"), "--json", *options]
            assert await trio.to_thread.run_sync(main, arguments) == 0
            answer: dict[str, Any] = json.loads(capsys.readouterr().out)
            return answer

        assert (await command())["left"] == 1
        assert (await command("--add", "4"))["left"] == 5
        assert (await command("--set", "2"))["left"] == 2


async def test_a_report_that_cannot_be_read_or_kept_is_refused(gateway_of: Callable[..., Any]) -> None:
    async with gateway_of(consents="strict", **{"store": {}}) as gateway:
        client = gateway.client
        for users, template, text in (
            (["short"], TEMPLATE, "row 0: token is no openid of 28 characters"),
            ([openid(1)], "", "a template is empty"),
        ):
            with pytest.raises(Exception, match=text):
                await client.report_consents(users, template)


async def test_what_wechat_tells_of_a_choice_is_counted_once(
    site: Any, folder: Path, gateway_of: Callable[..., Any], free_port: Callable[[], int]
) -> None:
    """The event as WeChat's pages describe it, from a sender that shares no code with the reader."""
    port, secret = free_port(), folder / "push.token"
    secret.write_text("console-token")
    told = {"callback_secret_file": str(secret), "consent_events": True}
    table = mini_program(site, folder, "strict") | told
    listeners = {"listeners": [{"address": f"tcp://127.0.0.1:{port}"}]}

    def post(name: str, choice: str, at: int, token: str = "console-token") -> tuple[int, str]:
        stamp = str(int(time.time()))
        signature = hashlib.sha1("".join(sorted((token, stamp, "7"))).encode()).hexdigest()
        chosen = [{"TemplateId": TEMPLATE, "SubscribeStatusString": choice, "PopupScene": "1"}]
        event = {"ToUserName": "gh_1", "FromUserName": openid(1), "CreateTime": at, "MsgType": "event"}
        body = json.dumps(event | {"Event": name, "List": chosen})
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            query = f"signature={signature}&timestamp={stamp}&nonce=7"
            connection.request("POST", f"/v1/receipts/shop/wechat?{query}", body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    async def say(*of: Any) -> tuple[int, str]:
        return await trio.to_thread.run_sync(post, *of)

    async with gateway_of(receipts=listeners, vendors={"wechat": table}) as gateway:
        popup, change = "subscribe_msg_popup_event", "subscribe_msg_change_event"
        assert await outcome(gateway, [1]) == {"no_consent": 1}
        assert await say(popup, "accept", 1) == (200, "success")
        assert await say(popup, "accept", 1) == (200, "success")
        assert await left(gateway, [1]) == [1]
        assert await outcome(gateway, [1]) == {"vendor_accepted": 1}
        assert await say(popup, "reject", 2) == (200, "success")
        assert (await say(popup, "accept", 3, "somebody's"))[0] == 401
        assert await left(gateway, [1]) == [0]
        assert [await say(popup, "accept", at) for at in (4, 5)] == [(200, "success")] * 2
        assert await left(gateway, [1]) == [2]
        assert await say(change, "reject", 6) == (200, "success")
        assert await left(gateway, [1]) == [0]


async def test_several_workers_use_a_consent_once_and_say_the_same_of_it(
    site: Any, folder: Path, serve: Callable[..., Any], open_clients: Callable[..., Any]
) -> None:
    vendors = {"wechat": mini_program(site, folder, "strict")}
    over = {"gateway": {"workers": 2}, "store": {}, "consents": {"write_s": 0.05}}
    process = await trio.to_thread.run_sync(lambda: serve(None, vendors=vendors, **over))
    async with open_clients(process.ready) as gateway, AsyncExitStack() as stack:
        # Some of them at each worker: which, the kernel says.
        clients = [gateway.client]
        while any(one["connections"] < 2 for one in (await gateway.operator.status()).facts["workers"]):
            client = open_trio_client(process.ready["rpc"][0], "shop", SECRET, timeout_s=WAIT_S)
            clients.append(await stack.enter_async_context(client))
            await clients[-1].welcome()
            assert len(clients) < 64
        users = [openid(user) for user in range(1, 21)]
        assert set(await clients[0].report_consents(users, TEMPLATE, 1)) == {1}
        tasks = []
        for client in clients[-3:]:
            variant = Variant("标题", "内容", strategy=2)
            tasks.append((await client.submit(variant, [("wechat", user) for user in users])).task_id)
        found: Counter[str] = Counter()
        for task in tasks:
            counts = await gateway.until_final(task)
            found += Counter(counts.reasons) + Counter({"taken": counts.states.get("vendor_accepted", 0)})
        assert (found["taken"], found["no_consent"], taken(site)) == (20, 40, 20)
        with trio.fail_after(WAIT_S):
            for client in clients:
                while any(await client.report_consents(users, TEMPLATE, 0)):
                    await trio.sleep(0.05)
        # Who agrees again, at whichever worker, is written to.
        assert await clients[-1].report_consents(users[:1], TEMPLATE, 1) == [1]
        task = (await clients[0].submit(Variant("标题", "内容", strategy=2), [("wechat", users[0])])).task_id
        assert (await gateway.until_final(task)).states == {"vendor_accepted": 1}
