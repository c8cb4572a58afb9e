"""Identity over real sockets: from a signed request to a session, and from a ban to its end."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from bench.devices import mqtt
from gateway.client.requests import DeviceState
from gateway.core.admission import AddressClass
from gateway.core.identity import check_device_password
from gateway.core.signed_requests import sign_request

SECRET = b"the secret of the shop"


async def post_device(ready: dict[str, Any], body: Any, *, secret: bytes = SECRET) -> tuple[int, Any]:
    data = json.dumps(body).encode()
    timestamp = str(int(time.time()))
    headers = {
        "Pushgw-App": "shop",
        "Pushgw-Timestamp": timestamp,
        "Pushgw-Signature": sign_request(secret, "shop", timestamp, data),
    }
    host, port = ready["http"].removeprefix("http://").rsplit(":", 1)

    def ask() -> tuple[int, Any]:
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        try:
            connection.request("POST", "/v1/devices", data, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    return await trio.to_thread.run_sync(ask)


@asynccontextmanager
async def session(gateway: Any, identity: dict[str, Any]) -> AsyncIterator[tuple[trio.SocketStream, int]]:
    """The stream and the code of CONNACK."""
    async with await trio.open_tcp_stream("127.0.0.1", gateway.link_port) as stream:
        words = (identity["device_id"], identity["user_name"], identity["password"], 60)
        await stream.send_all(mqtt.connect(*words))
        (connack,) = mqtt.Reader().receive_data(bytes(await stream.receive_some(100)))
        yield stream, connack.code


async def test_identity_from_a_signed_request_opens_the_long_link_and_the_device_is_known(
    open_gateway: Callable[..., Any],
) -> None:
    async with open_gateway() as gateway:
        fields = {"platform": "android", "alias": "user-1", "tags": ["vip"]}
        status, identity = await post_device(gateway.ready, fields)
        assert status == 201
        async with session(gateway, identity) as (_, code):
            assert code == 0
            facts = (await gateway.client.device(identity["device_id"])).facts
            assert (facts["is_online"], facts["platform"], facts["tags"]) == (True, "android", ["vip"])
        assert (await post_device(gateway.ready, {}, secret=b"guess"))[0] == 401
        metrics = await gateway.metrics()
        assert metrics["pushgw_device_requests_total", "shop,issued"] == 1
        assert metrics["pushgw_secret_uses_total", "shop,0,device"] == 1
        assert metrics["pushgw_secret_uses_total", "shop,0,http"] == 1
        assert metrics["pushgw_secret_uses_total", "shop,0,rpc"] >= 1
        assert metrics["pushgw_accept_files_max", ""] > 0


async def test_ban_written_into_the_file_ends_the_session_and_refuses_the_next(
    open_gateway: Callable[..., Any], folder: Path
) -> None:
    bans = folder / "bans.toml"
    bans.write_text("")
    async with open_gateway(long_link={"bans_file": str(bans), "bans_check_s": 0.05}) as gateway:
        _, identity = await post_device(gateway.ready, {})
        async with session(gateway, identity) as (stream, code):
            assert code == 0
            bans.write_text("[apps.nobody]\n")
            await gateway.worker.bans_watch.check()
            assert (await gateway.client.device(identity["device_id"])).facts["is_online"]
            bans.write_text(f'[apps.shop]\ndevices = ["{identity["device_id"]}"]\n')
            with trio.fail_after(60):
                assert await stream.receive_some(10) == b""
        async with session(gateway, identity) as (_, code):
            assert code == 5
        metrics = await gateway.metrics()
        assert metrics["pushgw_closes_total", "long_link,banned"] == 2
        assert metrics["pushgw_logins_refused_total", "shop,banned_device"] == 1


async def test_app_has_no_more_connections_than_it_may(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway(app={"connections_max": 1}) as gateway:
        identities = [(await post_device(gateway.ready, {"platform": name}))[1] for name in ("a", "b")]
        assert check_device_password([SECRET], identities[0]["device_id"], identities[0]["password"].encode())
        async with session(gateway, identities[0]) as (first, code):
            assert code == 0
            async with session(gateway, identities[1]) as (_, code):
                assert code == 3
            async with session(gateway, identities[0]) as (_, code):
                assert code == 0
                assert await first.receive_some(10) == b""
        metrics = await gateway.metrics()
        assert metrics["pushgw_logins_refused_total", "shop,app_connections_max"] == 1


async def test_password_in_the_answer_to_a_registration_opens_the_long_link(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway() as gateway:
        device = bytes(range(16))
        answer = await gateway.client.register_devices([DeviceState(device_id=device)], want_passwords=True)
        password = bytes(answer.passwords.blob).decode()
        identity = {"device_id": device.hex(), "user_name": "shop", "password": password}
        async with session(gateway, identity) as (_, code):
            assert code == 0


async def test_presence_is_told_over_the_rpc_and_counted_by_platform(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway() as gateway:
        _, identity = await post_device(gateway.ready, {"platform": "ios", "tags": ["vip"]})
        device = identity["device_id"]
        before = await gateway.client.device_status([device, bytes(15) + b"x"])
        assert (bytes(before.is_known), bytes(before.is_online)) == (b"\1\0", b"\0\0")
        began = int(time.time())
        async with session(gateway, identity) as (_, code):
            assert code == 0
            status = await gateway.client.device_status([device])
            assert bytes(status.is_online) == b"\1"
            assert bytes(status.address_class) == bytes([AddressClass.LOOPBACK])
            assert int.from_bytes(status.since_unix_s, "little") in range(began, began + 10)
            assert (await gateway.operator.device(device, app_key="shop")).facts["address_class"] == "loopback"
            counts = await gateway.operator.online_counts(tag="vip", app_key="shop")
            assert (counts.platforms, bytes(counts.online), counts.tagged) == (["ios"], b"\1\0\0\0", 1)
            assert (await gateway.metrics())["pushgw_devices_online_by", "shop,ios"] == 1
        with trio.fail_after(60):
            while bytes((await gateway.client.device_status([device])).is_online) == b"\1":
                await trio.sleep(0.01)
        assert (await gateway.metrics())["pushgw_devices_online_by", "shop,ios"] == 0
