"""The whole gateway: what a phone reports changes its registration, raises receipts and reaches those who follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
import trio

from gateway.core.identity import device_password
from gateway.wire.rpc.messages import Variant

SECRET = b"the secret of the shop"


class Phone:
    """A paho client of MQTT 5.0 that reports, and waits until the gateway has said what became of it."""

    def __init__(self, device: bytes, port: int) -> None:
        self.name = device.hex()
        self.tell, self.told = trio.open_memory_channel[tuple[Any, ...]](100)
        token = trio.lowlevel.current_trio_token()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=self.name, protocol=paho.MQTTv5)
        self.client.username_pw_set("shop", device_password(SECRET, self.name))

        def say(*event: Any) -> None:
            token.run_sync_soon(self.tell.send_nowait, event)

        self.client.on_connect = lambda client, userdata, flags, code, properties: say("connected", code.value)
        self.client.on_subscribe = lambda client, userdata, mid, codes, properties: say("subscribed", codes[0].value)
        self.client.on_message = lambda client, userdata, message: say("message", json.loads(message.payload))
        self.client.on_publish = lambda client, userdata, mid, code, properties: say("answer", code.value)
        self.client.connect_async("127.0.0.1", port, keepalive=30)
        self.client.loop_start()

    async def online(self) -> None:
        assert await self.told.receive() == ("connected", 0)
        self.client.subscribe(f"d/{self.name}/down", 1)
        assert await self.told.receive() == ("subscribed", 1)

    async def report(self, event: str, said: Any) -> int:
        """The reason code of the gateway's PUBACK."""
        payload = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.client.publish(f"d/{self.name}/up/{event}", payload, qos=1)
        kind, code = await self.told.receive()
        assert kind == "answer"
        return int(code)

    async def close(self) -> None:
        self.client.disconnect()
        await trio.to_thread.run_sync(self.client.loop_stop)


async def facts(gateway: Any, device: bytes, **wanted: Any) -> dict[str, Any]:
    """What is known of the device, as soon as the wanted facts are."""
    with trio.fail_after(60):
        while True:
            found = (await gateway.client.device(device)).facts
            if all(found[key] == value for key, value in wanted.items()):
                return dict(found)
            await trio.sleep(0.02)


async def test_reports_of_a_phone_change_its_registration_and_raise_its_receipts(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    async with open_gateway(simulators.ready) as gateway:
        device, other = await gateway.register(2, "")
        phone = Phone(device, gateway.link_port)
        with trio.fail_after(60):
            await phone.online()
            answer = await gateway.client.submit(Variant("Parcel", "at your door"), [device, other])
            _, message = await phone.told.receive()
            page = await gateway.client.task_rows(answer.task_id)
            ids = np.frombuffer(page.message_ids, np.uint8).reshape(-1, 16)
            assert await phone.report("displayed", {"message_id": message["message_id"]}) == 0
            # Somebody else's row, and the phone's own.
            both = [row.tobytes().hex() for row in ids]
            assert await phone.report("clicked", {"message_ids": both}) == 0
            page = await gateway.client.task_rows(answer.task_id)
            names = (await gateway.client.welcome()).names.receipts
            assert [names[code] for code in page.receipt] == ["clicked", "none"]

            assert await phone.report("tags", {"set": ["vip", "beta"]}) == 0
            assert await phone.report("alias", {"alias": "user 7"}) == 0
            assert await phone.report("state", {"foreground": True, "screen": True}) == 0
            assert await phone.report("switch", {"on": False}) == 0
            assert await phone.report("90001", b"what the app likes") == 0
            found = await facts(gateway, device, alias="user 7", are_notifications_off=True)
            assert (found["tags"], found["app_state"]) == (
                ["vip", "beta"],
                {"is_foreground": True, "is_screen_on": True},
            )
            assert await phone.report("tags", {"set": 1}) == 0x99

            # Its vendor's token, and a push that goes there.
            assert await phone.report("token", {"channel": "apns", "token": "ab" * 32}) == 0
            assert (await facts(gateway, device, channel="apns"))["alias"] == "user 7"
            answer = await gateway.client.submit(Variant("Parcel", "at your door", strategy=2), [device])
            assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 1}
            # A token that is none is refused by the registry.
            assert await phone.report("token", {"channel": "apns", "token": "no token"}) == 0
            with trio.fail_after(60):
                while (await gateway.metrics()).get(("pushgw_refusals_total", "uplink.registration")) != 1:
                    await trio.sleep(0.02)
        await phone.close()
        metrics = await gateway.metrics()
        assert metrics["pushgw_refusals_total", "uplink.not_the_target"] == 1
        assert metrics["pushgw_refusals_total", "uplink.malformed"] == 1
        assert metrics["pushgw_custom_events_total", "shop,90001"] == 1
        assert metrics["pushgw_uplink_events_total", "clicked"] == 1


async def test_phone_that_reports_too_much_is_told_so(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway(long_link={"uplink_events_per_minute_max": 3}) as gateway:
        (device,) = await gateway.register(1, "")
        phone = Phone(device, gateway.link_port)
        with trio.fail_after(60):
            await phone.online()
            assert [await phone.report("90001", b"") for _ in range(4)] == [0, 0, 0, 0x97]
        await phone.close()
        assert (await gateway.metrics())["pushgw_refusals_total", "uplink.rate"] == 1


@pytest.mark.parametrize("action", ["transmission", "revoke", "badge"])
async def test_phone_is_told_what_to_do_with_a_message(open_gateway: Callable[..., Any], action: Any) -> None:
    async with open_gateway() as gateway:
        (device,) = await gateway.register(1, "")
        phone = Phone(device, gateway.link_port)
        with trio.fail_after(60):
            await phone.online()
            variant = Variant("", "for the app", action=action, badge=4, collapse_id="o-1", data={"k": "v"})
            answer = await gateway.client.submit(variant, [device])
            _, message = await phone.told.receive()
            expected: dict[str, dict[str, Any]] = {
                "transmission": {"body": "for the app", "data": {"k": "v"}, "collapse_id": "o-1"},
                "revoke": {"collapse_id": "o-1"},
                "badge": {"badge": 4},
            }
            assert message == {"message_id": message["message_id"], "type": action} | expected[action]
            assert (await gateway.until_final(answer.task_id)).states == {"device_acked": 1}
        await phone.close()


async def test_presence_is_followed_over_the_rpc(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway() as gateway:
        first, second = await gateway.register(2, "")
        seen: list[tuple[bytes, int, int]] = []

        async def read(pages: Any, n: int) -> bytes:
            cursor = b""
            while len(seen) < n:
                page = await pages.__anext__()
                cursor = page.cursor
                ids = bytes(page.device_ids)
                seen.extend((ids[16 * row : 16 * row + 16], page.change[row], page.state[row]) for row in range(page.n))
            return cursor

        with trio.fail_after(60):
            async with gateway.client.subscribe_presence() as pages:
                # Its answer comes after the stream has begun.
                await gateway.client.online_counts()
                phone = Phone(first, gateway.link_port)
                await phone.online()
                assert await phone.report("state", {"foreground": True}) == 0
                cursor = await read(pages, 2)
            other = Phone(second, gateway.link_port)
            await other.online()
            await phone.close()
            async with gateway.client.subscribe_presence(cursor) as pages:
                await read(pages, 4)
        assert seen[:2] == [(first, 1, 0), (first, 2, 3)]
        assert seen[2:] == [(second, 1, 0), (first, 0, 0)]
        await other.close()
