"""The whole gateway with listeners of every kind: paho-mqtt and mosquitto_sub over TLS and WebSocket, PROXY headers."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import trio
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from gateway.core.identity import device_password
from gateway.wire.rpc.messages import Variant

SECRET = b"the secret of the shop"
SCHEMES = ("tcp", "tls", "ws", "wss")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory, write_certificate: Callable[..., Path]) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls") / "devices.pem")


@pytest.fixture
def listeners(certificate: Path) -> list[dict[str, Any]]:
    """One of each kind, and one behind a balancer."""
    files = {"cert_file": str(certificate), "key_file": str(certificate)}
    tables: list[dict[str, Any]] = [
        {"address": f"{scheme}://127.0.0.1:0", **(files if scheme in ("tls", "wss") else {})} for scheme in SCHEMES
    ]
    return [*tables, {"address": "tcp://127.0.0.1:0", "proxy_protocol": True}]


def port_of(gateway: Any, index: int) -> int:
    return int(gateway.ready["long_link"][index].rsplit(":", 1)[1])


class PahoDevice:
    """A paho client on its own thread; it acknowledges what it gets and says so."""

    def __init__(
        self, name: str, port: int, scheme: str, certificate: Path, protocol: Any = paho.MQTTv311, **asked: Any
    ) -> None:
        """asked: of paho's client. With manual_ack the device acknowledges second sendings only."""
        self.tell, self.told = trio.open_memory_channel[tuple[Any, ...]](100)
        token = trio.lowlevel.current_trio_token()
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=protocol,
            transport="websockets" if scheme.startswith("ws") else "tcp",
            **asked,
        )
        client.username_pw_set("shop", device_password(SECRET, name))
        if scheme in ("tls", "wss"):
            client.tls_set(ca_certs=str(certificate))

        def say(*event: Any) -> None:
            token.run_sync_soon(self.tell.send_nowait, event)

        client.on_connect = lambda client, userdata, flags, code, properties: say(
            "connected", code.value, *((flags.session_present,) if "manual_ack" in asked else ())
        )
        client.on_subscribe = lambda client, userdata, mid, codes, properties: say("subscribed", codes[0].value)

        def on_message(client: Any, userdata: Any, message: Any) -> None:
            say("message", json.loads(message.payload), *((message.dup, message.mid) if "manual_ack" in asked else ()))
            if "manual_ack" in asked and message.dup:
                client.ack(message.mid, message.qos)

        client.on_message = on_message
        session: dict[str, Any] = {}
        if protocol == paho.MQTTv5:
            session = {"clean_start": "manual_ack" not in asked, "properties": PahoProperties(PacketTypes.CONNECT)}
            session["properties"].SessionExpiryInterval = 300
            session["properties"].TopicAliasMaximum = 4
        client.connect_async("127.0.0.1", port, keepalive=30, **session)
        client.loop_start()
        self.client = client

    async def close(self) -> None:
        self.client.disconnect()
        await trio.to_thread.run_sync(self.client.loop_stop)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_paho_is_pushed_to_over_every_transport(
    open_gateway: Callable[..., Any], listeners: list[dict[str, Any]], certificate: Path, scheme: str
) -> None:
    async with open_gateway(long_link={"listeners": listeners}) as gateway:
        assert [address.split(":")[0] for address in gateway.ready["long_link"]] == [*SCHEMES, "tcp"]
        (device,) = await gateway.register(1, "")
        phone = PahoDevice(device.hex(), port_of(gateway, SCHEMES.index(scheme)), scheme, certificate)
        with trio.fail_after(60):
            assert await phone.told.receive() == ("connected", 0)
            phone.client.subscribe(f"d/{device.hex()}/down", 1)
            assert await phone.told.receive() == ("subscribed", 1)
            # longer than a TLS record and than a short WebSocket frame
            for body in ("at your door", "long " * 2_000):
                answer = await gateway.client.submit(Variant("Parcel", body), [device])
                assert (await gateway.until_final(answer.task_id)).states == {"device_acked": 1}
                kind, message = await phone.told.receive()
                assert (kind, message["body"]) == ("message", body)
        await phone.close()
        metrics = await gateway.metrics()
        events = {label: n for (name, label), n in metrics.items() if name == "pushgw_mqtt_events_total"}
        assert events.get("tls_handshakes", 0) == (scheme in ("tls", "wss"))
        assert events.get("websocket_upgrades", 0) == (scheme in ("ws", "wss"))


@pytest.mark.parametrize("protocol", [paho.MQTTv311, paho.MQTTv5], ids=["3.1.1", "5.0"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_paho_resumes_its_session_over_every_transport_and_gets_with_dup_what_it_had_not_acknowledged(
    open_gateway: Callable[..., Any], listeners: list[dict[str, Any]], certificate: Path, scheme: str, protocol: Any
) -> None:
    async with open_gateway(long_link={"listeners": listeners, "ack_timeout_s": 15.0}) as gateway:
        (device,) = await gateway.register(1, "")
        asked = {"manual_ack": True} | ({} if protocol == paho.MQTTv5 else {"clean_session": False})
        phone = PahoDevice(
            device.hex(), port_of(gateway, SCHEMES.index(scheme)), scheme, certificate, protocol, **asked
        )
        with trio.fail_after(60):
            assert await phone.told.receive() == ("connected", 0, False)
            phone.client.subscribe(f"d/{device.hex()}/down", 1)
            assert await phone.told.receive() == ("subscribed", 1)
            answer = await gateway.client.submit(Variant("Parcel", "at your door"), [device])
            _, first, is_duplicate, packet_id = await phone.told.receive()
            assert not is_duplicate
            # The network is gone; paho comes back by itself a second later.
            with socket.socket(fileno=os.dup(phone.client.socket().fileno())) as below:
                below.shutdown(socket.SHUT_RDWR)
            assert await phone.told.receive() == ("connected", 0, True)
            assert await phone.told.receive() == ("message", first, True, packet_id)
            counts = await gateway.until_final(answer.task_id)
            assert (counts.states, counts.handed_over_unacked) == ({"device_acked": 1}, 0)
        await phone.close()


@pytest.mark.needs_tools("mosquitto_sub")
async def test_mosquitto_sub_is_pushed_to_over_tls(
    open_gateway: Callable[..., Any], listeners: list[dict[str, Any]], certificate: Path
) -> None:
    async with open_gateway(long_link={"listeners": listeners}) as gateway, trio.open_nursery() as nursery:
        (device,) = await gateway.register(1, "")
        name = device.hex()
        command = ["mosquitto_sub", "-h", "localhost", "-p", str(port_of(gateway, 1)), "--cafile", str(certificate)]
        command += ["-i", name, "-u", "shop", "-P", device_password(SECRET, name)]
        command += ["-t", f"d/{name}/down", "-q", "1", "-C", "1", "-W", "10"]
        answer = await gateway.client.submit(Variant("Parcel", "at your door"), [device])
        result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["body"] == "at your door"
        assert (await gateway.until_final(answer.task_id)).states == {"device_acked": 1}
        nursery.cancel_scope.cancel()


@pytest.mark.timed(short=True)
async def test_wrong_words_at_each_listener_are_counted_by_name_and_cost_the_others_nothing(
    open_gateway: Callable[..., Any], listeners: list[dict[str, Any]], certificate: Path
) -> None:
    header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H4s4sHH", 12, b"\xcb\0\x71\7", b"\xc0\0\2\1", 5, 1883)
    cases = [
        (1, b"\x10\x0f\x00\x04MQTT", "tls_handshake_failed"),
        (2, b"\x10\x0f\x00\x04MQTT", "websocket_upgrade_refused"),
        (3, b"GET / HTTP/1.1\r\n\r\n", "tls_handshake_failed"),
        (4, b"\x10\x0f\x00\x04MQTT", "proxy_header_invalid"),
        (4, header + b"\xc0\x00", "protocol_error"),
        (1, b"\x16\x03\x01", "handshake_timeout"),
        (2, b"GET /", "handshake_timeout"),
        (4, header[:20], "handshake_timeout"),
    ]
    async with open_gateway(long_link={"listeners": listeners}) as gateway:
        (device,) = await gateway.register(1, "")
        phone = PahoDevice(device.hex(), port_of(gateway, 3), "wss", certificate)
        with trio.fail_after(60):
            assert await phone.told.receive() == ("connected", 0)
            streams = []
            for index, data, _ in cases:
                stream = await trio.open_tcp_stream("127.0.0.1", port_of(gateway, index))
                await stream.send_all(data)
                streams.append(stream)
            for stream in streams:
                async with stream:
                    while await stream.receive_some(4_096):
                        pass
            phone.client.subscribe(f"d/{device.hex()}/down", 1)
            assert await phone.told.receive() == ("subscribed", 1)
        await phone.close()
        metrics = await gateway.metrics()
        wanted: dict[str, float] = {}
        for _, _, reason in cases:
            wanted[reason] = wanted.get(reason, 0) + 1
        found = {
            reason: metrics["pushgw_closes_total", f"long_link,{reason}"]
            for reason in {reason for _, _, reason in cases}
        }
        assert found == wanted
