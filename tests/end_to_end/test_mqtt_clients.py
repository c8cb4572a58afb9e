"""Clients that others wrote work unchanged on the long link: paho-mqtt, Debian's mosquitto_sub and mosquitto_pub."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
import paho.mqtt.client as paho
import pytest
import trio
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.actors.long_link import LongLink
from gateway.actors.long_link_port import LongLinkSettings, Unacknowledged, UplinkAnswer
from gateway.columns import TextColumn
from gateway.core.identity import device_password
from gateway.errors import CloseReason
from gateway.net.edge_settings import EdgeSettings, ListenerSettings

SECRET = b"the app's secret"
DEVICE = bytes(range(16))
NAME = DEVICE.hex()
DOWN = f"d/{NAME}/down"
PASSWORD = device_password(SECRET, NAME)
PUSH = {
    "message_id": "01935a7e-6c00-8001-9000-00000100abcd",
    "type": "notification",
    "title": "你好 👋",
    "body": 'It\'s "here"',
}


class App(NamedTuple):
    index: int = 0
    secrets: tuple[bytes, ...] = (SECRET,)


class Owner:
    """Says over a channel what happens; sends each device the payloads of `waiting` as soon as it has subscribed."""

    def __init__(self) -> None:
        self.link: LongLink | None = None
        self.waiting: list[bytes] = []
        self.tell, self.told = trio.open_memory_channel[tuple[Any, ...]](100)

    def connect(self, app_index: int, device_id: bytes, fd: int, generation: int, now: float) -> int:
        return 4 if device_id == DEVICE else -1

    def subscribed(self, slots: Any, fds: Any, generations: Any, now: float) -> None:
        self.tell.send_nowait(("subscribed", slots.tolist()))
        assert self.link is not None
        ids = np.frombuffer(DEVICE, np.uint8).reshape(1, 16)
        for tag, payload in enumerate(self.waiting):
            assert self.link.deliver(fds, generations, ids, np.array([tag]), (payload,), now).all()

    def disconnected(self, slots: Any, fds: Any, generations: Any, reasons: list[CloseReason]) -> None:
        self.tell.send_nowait(("disconnected", slots.tolist(), reasons))

    def acknowledged(self, tags: Any, sent_at: Any, now: float) -> None:
        for tag in tags.tolist():
            self.tell.send_nowait(("acknowledged", tag))

    def acknowledged_late(self, tags: Any, sent_at: Any, now: float) -> None:
        self.tell.send_nowait(("acknowledged_late", tags.tolist()))

    def unacknowledged(self, tags: Any, why: Unacknowledged) -> None:
        self.tell.send_nowait(("unacknowledged", tags.tolist(), why))

    def resumed(self, tags: Any, fds: Any, generations: Any, packet_ids: Any) -> Any:
        assert self.link is not None
        self.tell.send_nowait(("resumed", tags.tolist()))
        ids = np.frombuffer(DEVICE * len(tags), np.uint8).reshape(-1, 16)
        payload = TextColumn.from_rows([self.waiting[tag] for tag in tags.tolist()])
        self.waiting = []
        return self.link.redeliver(fds, ids, packet_ids, (payload,), time.monotonic())

    def uplink(self, slot: int, device_id: bytes, event: str, payload: bytes, later: Any) -> UplinkAnswer:
        self.tell.send_nowait(("uplink", slot, device_id, event, payload))
        return UplinkAnswer.TAKEN


@asynccontextmanager
async def long_link() -> AsyncIterator[tuple[Owner, LongLink, int]]:
    owner = Owner()
    settings = LongLinkSettings(edge=EdgeSettings(listeners=(ListenerSettings(port=0),)))
    link = LongLink(settings, {"app": App()}, owner, clock=time.monotonic)
    owner.link = link
    port = link.listen()[0][1]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            yield owner, link, port
            nursery.cancel_scope.cancel()


class PahoDevice:
    """A paho client on its own thread, whose callbacks come back as events."""

    def __init__(
        self,
        port: int,
        protocol: Any = paho.MQTTv311,
        properties: Any = None,
        *,
        user: str = "app",
        password: str = PASSWORD,
    ) -> None:
        self.tell, self.told = trio.open_memory_channel[tuple[Any, ...]](100)
        token = trio.lowlevel.current_trio_token()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=NAME, protocol=protocol)
        client.username_pw_set(user, password)

        def say(*event: Any) -> None:
            token.run_sync_soon(self.tell.send_nowait, event)

        self.offered: list[Any] = []

        def on_connect(client: Any, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
            if properties is not None:
                self.offered.append(properties.json())
            say("connected", code.value, flags.session_present)

        client.on_connect = on_connect
        client.on_subscribe = lambda client, userdata, mid, codes, properties: say(
            "subscribed", [code.value for code in codes]
        )
        client.on_message = lambda client, userdata, message: say(
            "message", message.topic, message.qos, message.dup, message.payload
        )
        client.on_disconnect = lambda client, userdata, flags, code, properties: say(
            "disconnected", flags.is_disconnect_packet_from_server, code.value
        )
        client.on_publish = lambda client, userdata, mid, code, properties: say("published", mid)
        client.connect_async("127.0.0.1", port, keepalive=30, properties=properties)
        client.loop_start()
        self.client = client

    async def close(self) -> None:
        self.client.disconnect()
        await trio.to_thread.run_sync(self.client.loop_stop)


BOTH = pytest.mark.parametrize("protocol", [paho.MQTTv311, paho.MQTTv5], ids=["3.1.1", "5.0"])


@BOTH
async def test_paho_connects_subscribes_receives_qos_1_and_acknowledges(protocol: Any) -> None:
    payloads = [json.dumps(PUSH | {"n": n}).encode() for n in range(3)]
    async with long_link() as (owner, link, port):
        owner.waiting = payloads
        device = PahoDevice(port, protocol)
        assert await device.told.receive() == ("connected", 0, False)
        # A wildcard is refused filter by filter in 3.1.1 and would end the connection in 5.0.
        is_5 = protocol == paho.MQTTv5
        if is_5:
            asked = [(DOWN, SubscribeOptions(qos=2, noLocal=True)), ("other", SubscribeOptions(qos=1))]
            device.client.subscribe(asked)
        else:
            device.client.subscribe([(DOWN, 2), ("#", 1)])
        assert await owner.told.receive() == ("subscribed", [4])
        events = [await device.told.receive() for _ in range(4)]
        assert ("subscribed", [1, 0x87 if is_5 else 0x80]) in events
        assert [event for event in events if event[0] == "message"] == [
            ("message", DOWN, 1, False, payload) for payload in payloads
        ]
        assert [await owner.told.receive() for _ in range(3)] == [("acknowledged", tag) for tag in range(3)]
        await device.close()
        assert await owner.told.receive() == ("disconnected", [4], [CloseReason.CLIENT_DISCONNECT])
        assert link.statistics().in_flight == 0


async def test_paho_of_5_learns_what_is_offered_what_is_left_of_a_message_and_why_it_is_closed() -> None:
    async with long_link() as (owner, link, port):
        asked = PahoProperties(PacketTypes.CONNECT)
        asked.SessionExpiryInterval = 300
        asked.ReceiveMaximum = 1
        asked.UserProperty = ("platform", "android")
        device = PahoDevice(port, paho.MQTTv5, asked)
        messages: list[Any] = []
        device.client.on_message = lambda client, userdata, message: messages.append(message)
        assert await device.told.receive() == ("connected", 0, False)
        assert device.offered[0] == {
            "ReceiveMaximum": 64,
            "TopicAliasMaximum": 8,
            "RetainAvailable": 0,
            "MaximumPacketSize": 65_536,
            "WildcardSubscriptionAvailable": 0,
            "SubscriptionIdentifierAvailable": 0,
            "SharedSubscriptionAvailable": 0,
        }
        device.client.subscribe(DOWN, qos=1)
        assert await owner.told.receive() == ("subscribed", [4])
        fd = link.table.slots.find(4)
        fds, generations = np.array([fd, fd], np.int32), link.table.generation[[fd, fd]]
        ids = np.frombuffer(DEVICE * 2, np.uint8).reshape(2, 16)
        seconds = np.array([77, 78], np.uint32)
        now = time.monotonic()
        taken = link.deliver(fds, generations, ids, np.array([1, 2]), (b"{}",), now, lambda rows: seconds[rows])
        assert taken.tolist() == [True, False]
        assert await owner.told.receive() == ("acknowledged", 1)
        assert [message.properties.MessageExpiryInterval for message in messages] == [77]
        # Another one of the same name: the older is told why it goes.
        async with await trio.open_tcp_stream("127.0.0.1", port) as newer:
            password = PASSWORD.encode()
            body = b"\0\4MQTT\5\xc2\0\x3c\0" + b"\0\x20" + NAME.encode() + b"\0\3app"
            body += len(password).to_bytes(2, "big") + password
            await newer.send_all(b"\x10" + bytes([len(body)]) + body)
            while (event := await device.told.receive())[0] != "disconnected":
                pass
            assert event == ("disconnected", True, 0x8E)
            await device.close()


@pytest.mark.parametrize("user", ["app", "other"], ids=["wrong password", "unknown app"])
async def test_paho_of_5_is_told_why_it_is_refused(user: str) -> None:
    async with long_link() as (_, link, port):
        device = PahoDevice(port, paho.MQTTv5, user=user, password="wrong")
        assert await device.told.receive() == ("connected", 0x86, False)
        assert link.statistics().connected == 0
        await device.close()


@BOTH
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_paho_publishes_uplink_of_every_qos(qos: int, protocol: Any) -> None:
    async with long_link() as (owner, _, port):
        device = PahoDevice(port, protocol)
        assert await device.told.receive() == ("connected", 0, False)
        device.client.publish(f"d/{NAME}/up/displayed", b'{"message_id":"x"}', qos=qos)
        assert (await device.told.receive())[0] == "published"
        assert await owner.told.receive() == ("uplink", 4, DEVICE, "displayed", b'{"message_id":"x"}')
        await device.close()
        assert (await owner.told.receive())[0] == "disconnected"


async def run_mosquitto(program: str, port: int, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [program, "-h", "127.0.0.1", "-p", str(port), "-i", NAME, "-u", "app", *arguments]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


MOSQUITTO_VERSIONS = pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])


@pytest.mark.needs_tools("mosquitto_sub")
@MOSQUITTO_VERSIONS
async def test_mosquitto_sub_receives_and_acknowledges(version: str) -> None:
    payload = json.dumps(PUSH, ensure_ascii=False).encode()
    async with long_link() as (owner, _, port):
        owner.waiting = [payload]
        result = await run_mosquitto(
            "mosquitto_sub", port, "-P", PASSWORD, "-t", DOWN, "-q", "1", "-C", "1", "-W", "10", "-V", version
        )
        assert (result.returncode, result.stdout) == (0, payload + b"\n"), result.stderr
        assert [(await owner.told.receive())[0] for _ in range(3)] == ["subscribed", "acknowledged", "disconnected"]


@pytest.mark.needs_tools("mosquitto_sub")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-P", "wrong"), b"bad user name or password"),
        (("-P", PASSWORD, "-V", "mqttv31"), b"unacceptable protocol version"),
        (("-P", "wrong", "-V", "mqttv5"), b"bad user name or password"),
    ],
)
async def test_mosquitto_sub_is_told_why_it_is_refused(arguments: tuple[str, ...], said: bytes) -> None:
    async with long_link() as (_, link, port):
        result = await run_mosquitto("mosquitto_sub", port, "-t", DOWN, "-W", "10", *arguments)
        assert result.returncode != 0
        assert said in result.stderr.lower()
        assert link.statistics().connected == 0


@pytest.mark.needs_tools("mosquitto_pub")
@pytest.mark.parametrize("qos", ["0", "1", "2"])
@MOSQUITTO_VERSIONS
async def test_mosquitto_pub_sends_uplink(version: str, qos: str) -> None:
    async with long_link() as (owner, _, port):
        result = await run_mosquitto(
            "mosquitto_pub", port, "-P", PASSWORD, "-t", f"d/{NAME}/up/90001", "-m", "text", "-q", qos, "-V", version
        )
        assert result.returncode == 0, result.stderr
        assert await owner.told.receive() == ("uplink", 4, DEVICE, "90001", b"text")


@pytest.mark.needs_tools("mosquitto_sub")
@MOSQUITTO_VERSIONS
async def test_mosquitto_sub_resumes_its_session_and_gets_what_it_had_not_acknowledged(version: str) -> None:
    session = ("-c", "-x", "300") if version == "mqttv5" else ("-c",)
    common = ("-P", PASSWORD, "-t", DOWN, "-q", "1", "-V", version, *session)
    payload = b"once more"
    async with long_link() as (owner, link, port):
        # The session begins with mosquitto_sub, which leaves it behind.
        result = await run_mosquitto("mosquitto_sub", port, *common, "-E")
        assert result.returncode == 0, result.stderr
        assert [(await owner.told.receive())[0] for _ in range(2)] == ["subscribed", "disconnected"]
        # The same client, cut off before it can acknowledge: CONNECT by hand, and no PUBACK.
        owner.waiting = [payload]
        level, said = (5, b"\x05\x11\0\0\1\x2c") if version == "mqttv5" else (4, b"")
        body = b"\0\4MQTT" + bytes([level, 0xC0]) + b"\0\x3c" + said + b"\0\x20" + NAME.encode() + b"\0\3app"
        body += len(PASSWORD).to_bytes(2, "big") + PASSWORD.encode()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"\x10" + bytes([len(body)]) + body)
            got = b""
            while payload not in got:
                got += await stream.receive_some(4_096)
            assert got[2] == 1  # session present
        assert [(await owner.told.receive())[0] for _ in range(2)] == ["subscribed", "disconnected"]
        result = await run_mosquitto("mosquitto_sub", port, *common, "-C", "1", "-W", "10", "-d")
        assert result.returncode == 0, result.stderr
        assert payload in result.stdout
        assert b"received PUBLISH (d1, q1" in result.stdout, result.stdout
        told = [await owner.told.receive() for _ in range(4)]
        assert told[0] == ("resumed", [0])
        assert ("acknowledged", 0) in told
        assert link.statistics().counts["redelivered"] == 1


@pytest.mark.needs_tools("mosquitto_pub")
async def test_mosquitto_pub_repeats_its_topic_as_an_alias() -> None:
    async with long_link() as (owner, _, port):
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-i", NAME, "-u", "app", "-P", PASSWORD]
        command += ["-t", f"d/{NAME}/up/90001", "-l", "-q", "1", "-V", "mqttv5"]
        command += ["-D", "publish", "topic-alias", "3", "-D", "publish", "user-property", "shop", "12"]
        result = await trio.run_process(
            command,
            stdin=b"one\ntwo\n",
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert [await owner.told.receive() for _ in range(2)] == [
            ("uplink", 4, DEVICE, "90001", text) for text in (b"one", b"two")
        ]


async def test_paho_of_5_is_sent_on_by_a_server_that_has_moved() -> None:
    owner = Owner()
    settings = LongLinkSettings(
        edge=EdgeSettings(listeners=(ListenerSettings(port=0),)), server_reference="b.example:1883", is_moved=True
    )
    link = LongLink(settings, {"app": App()}, owner, clock=time.monotonic)
    port = link.listen()[0][1]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            device = PahoDevice(port, paho.MQTTv5)
            assert await device.told.receive() == ("connected", 0x9D, False)
            why = {"ReasonString": "this server takes no more devices"}
            assert device.offered[0] == {"ServerReference": "b.example:1883"} | why
            await device.close()
            nursery.cancel_scope.cancel()
