"""One phone: an MQTT connection from CONNECT to its named end.

    connecting --CONNACK 0--> subscribing --SUBACK--> ready --> closed

A device does what a phone's client does: it answers each QoS 1 PUBLISH with PUBACK, sends PINGREQ when it has been
silent for most of the keepalive, and gives up when a PINGRESP does not come. It does not reconnect by itself; the
fleet's owner decides when.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from bench.devices import mqtt

if TYPE_CHECKING:
    from bench.devices.fleet import Fleet

SUBSCRIBE_ID = 1
CONNACK_TEXTS = ("accepted", "protocol_version", "identifier", "server_unavailable", "credentials", "not_authorized")


class Device(asyncio.Protocol):
    """One connection; `ready` resolves to None, or to the reason for which the connection came to nothing."""

    def __init__(self, fleet: Fleet, device_id: str, user: str, password: str, keepalive_s: int) -> None:
        self._fleet = fleet
        self.device_id = device_id
        self.id_bytes = bytes.fromhex(device_id)
        self._user = user
        self._password = password
        self._keepalive_s = keepalive_s
        self._reader = mqtt.Reader()
        self._topic = f"d/{device_id}/down"
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[str | None] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.is_connected = False  # TCP is up
        self._close_reason: str | None = None
        self._sent_at = 0.0
        self._ping_at: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is up: CONNECT."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self.is_connected = True
        self._send(mqtt.connect(self.device_id, self._user, self._password, self._keepalive_s))

    def data_received(self, data: bytes) -> None:
        """Take in packets; a broken one ends the connection."""
        try:
            packets = self._reader.receive_data(data)
        except mqtt.MqttError as error:
            self.close(f"protocol_error: {error}")
            return
        for packet in packets:
            match packet:
                case mqtt.Publish():
                    self._on_publish(packet)
                case mqtt.Connack(code=0):
                    self._send(mqtt.subscribe(SUBSCRIBE_ID, self._topic, 1))
                case mqtt.Connack(code=code):
                    name = CONNACK_TEXTS[code] if code < len(CONNACK_TEXTS) else str(code)
                    self.close(f"connack_{name}")
                case mqtt.Suback(codes=codes) if codes == b"\x01":
                    self._fleet.on_ready(self)
                    if not self.ready.done():
                        self.ready.set_result(None)
                case mqtt.Suback():
                    self.close("subscribe_refused")
                case mqtt.Pingresp():
                    self._ping_at = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone under one name."""
        reason = self._close_reason or ("peer_closed" if exc is None else "peer_reset")
        if not self.ready.done():
            self.ready.set_result(reason)
        self.is_connected = False
        self.gone.set_result(None)
        self._fleet.on_closed(self, reason)

    def disconnect(self) -> None:
        """The phone goes offline politely: DISCONNECT, then close."""
        if not self._transport.is_closing():
            self._transport.write(mqtt.DISCONNECT)
        self.close("disconnected")

    def close(self, reason: str) -> None:
        """The socket is closed; the first reason counts."""
        self._close_reason = self._close_reason or reason
        self._transport.close()

    def on_tick(self, now: float) -> None:
        """Called about once a second: keeps the connection alive, or gives it up (MQTT 3.1.2.10)."""
        if self._ping_at is not None and now - self._ping_at > self._keepalive_s / 2:
            self.close("no_pingresp")
        elif self._ping_at is None and now - self._sent_at > self._keepalive_s * 0.75:
            self._ping_at = now
            self._fleet.counts["pings"] += 1
            self._send(mqtt.PINGREQ)

    def _on_publish(self, packet: mqtt.Publish) -> None:
        if packet.topic != self._topic:
            self.close("publish_on_another_topic")
            return
        if self._fleet.on_publish(self, packet) and packet.qos:
            self._fleet.counts["pubacks"] += 1
            self._send(mqtt.puback(packet.packet_id))

    def _send(self, data: bytes) -> None:
        self._sent_at = self._loop.time()
        if not self._transport.is_closing():
            self._transport.write(data)
