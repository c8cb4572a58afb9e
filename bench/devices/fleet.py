"""The fleet: devices by id, the commands on them, and what they have received.

Commands are dicts with `cmd`; each gives one answer, `received` gives its rows first. A command that is wrong gives
{"ok": false, "error": text} and changes nothing.

    connect     devices [{id, user, password}], rate_per_s (0 = as fast as it goes)
    disconnect  ids (absent = all)
    statistics
    received    rows, then {"cmd": "received", "rows": n}
    wait_idle   quiet_s: no PUBLISH has come for so long since the command began; timeout_s (default 60)
    fault       kind drop | double | no_ack, count: for the next `count` PUBLISH packets
    quit
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec

from bench.devices import mqtt
from bench.devices.device import Device
from bench.devices.received import Received

CONNECTING_MAX = 256  # handshakes under way at once, below the usual listen backlog
CONNECT_TIMEOUT_S = 15.0
TICK_S = 1.0
ROWS_PER_CHUNK = 1_000
FAILED_SHOWN_MAX = 100  # failed devices named in one answer; all are counted


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One phone: 32 hex digits, and its MQTT user name and password."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    user: str
    password: str


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="cmd"):
    """Base of all commands; see the module docstring."""


class Connect(Command, frozen=True, tag="connect"):
    """Connect these devices; one that is connected already is counted as failed with reason `connected`."""

    devices: list[Login]
    rate_per_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Disconnect(Command, frozen=True, tag="disconnect"):
    """Disconnect these devices, politely."""

    ids: list[str] | None = None


class Statistics(Command, frozen=True, tag="statistics"):
    """Counts."""


class Dump(Command, frozen=True, tag="received"):
    """All rows."""


class WaitIdle(Command, frozen=True, tag="wait_idle"):
    """Wait for quiet."""

    quiet_s: Annotated[float, msgspec.Meta(ge=0)]
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0


class Fault(Command, frozen=True, tag="fault"):
    """drop: acknowledged, not recorded. double: recorded twice. no_ack: recorded, not acknowledged."""

    kind: Literal["drop", "double", "no_ack"]
    count: Annotated[int, msgspec.Meta(ge=0)]


class Quit(Command, frozen=True, tag="quit"):
    """Disconnect all and end."""


AnyCommand = Connect | Disconnect | Statistics | Dump | WaitIdle | Fault | Quit
_decoder = msgspec.json.Decoder(AnyCommand)


class Payload(msgspec.Struct, frozen=True):
    """What a phone's app reads of a push; other fields are its own business."""

    message_id: str
    title: str = ""
    body: str = ""


_payload_decoder = msgspec.json.Decoder(Payload)


class Fleet:
    """Devices of one process.

    Args:
        host, port: where the gateway's long link listens (TCP).
        sources: local addresses 127.0.0.1 .. used in turn, so that more than 28,000 connections fit (each address has
            its own ephemeral ports); 0 leaves the choice to the kernel.
        devices_max: connections at once.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        received: Received,
        keepalive_s: int,
        sources: int = 0,
        devices_max: int = 200_000,
    ) -> None:
        self._host = host
        self._port = port
        self._received = received
        self._keepalive_s = keepalive_s
        self._sources = sources
        self._devices_max = devices_max
        self._devices: dict[str, Device] = {}
        self._faults: Counter[str] = Counter()
        self._n_connecting = 0
        self._published_at = time.monotonic()
        self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self.counts: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()

    async def run(self, line: bytes) -> AsyncIterator[list[dict[str, Any]]]:
        """Answers of one command line, in chunks; the last dict of the last chunk is the answer, others are rows."""
        try:
            command = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            yield [{"ok": False, "error": str(error)}]
            return
        match command:
            case Connect():
                yield [await self._connect(command)]
            case Disconnect():
                yield [await self._disconnect(command.ids)]
            case Statistics():
                yield [{"cmd": "statistics", "ok": True} | self.statistics()]
            case Dump():
                rows = self._received.rows()
                n_rows = 0
                while chunk := list(islice(rows, ROWS_PER_CHUNK)):
                    n_rows += len(chunk)
                    yield chunk
                yield [{"cmd": "received", "ok": True, "rows": n_rows}]
            case WaitIdle():
                yield [await self._wait_idle(command)]
            case Fault():
                self._faults[command.kind] = command.count
                yield [{"cmd": "fault", "ok": True, "kind": command.kind, "count": command.count}]
            case Quit():
                await self.stop()
                yield [{"cmd": "quit", "ok": True}]

    async def stop(self) -> None:
        """No device is connected."""
        self._ticker.cancel()
        await self._disconnect(None)

    def statistics(self) -> dict[str, Any]:
        """Connections, packets and rows; `faults_left` by kind."""
        return {
            "connected": len(self._devices),
            "counts": dict(self.counts),
            "closed": dict(self.closed),
            "faults_left": {kind: count for kind, count in self._faults.items() if count},
            "received": self._received.statistics(),
        }

    # ---- called by devices

    def on_ready(self, device: Device) -> None:
        """`device` is subscribed."""
        self.counts["ready"] += 1

    def on_closed(self, device: Device, reason: str) -> None:
        """`device` has no connection any more."""
        self.closed[reason] += 1
        if self._devices.get(device.device_id) is device:
            del self._devices[device.device_id]

    def on_publish(self, device: Device, packet: mqtt.Publish) -> bool:
        """The push has been recorded (or not, by fault); returns whether it shall be acknowledged."""
        self._published_at = time.monotonic()
        self.counts["publishes_dup" if packet.is_dup else "publishes"] += 1
        try:
            payload = _payload_decoder.decode(packet.payload)
            message_id = uuid.UUID(payload.message_id).bytes
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            self.counts["bad_payloads"] += 1
            return True  # an app that cannot read a push has still got it
        if self._is_fault("drop"):
            return True
        for _ in range(2 if self._is_fault("double") else 1):
            self._received.add(
                message_id,
                device.id_bytes,
                payload.title,
                payload.body,
                is_dup=packet.is_dup,
                unix_ms=time.time_ns() // 1_000_000,
            )
        return not self._is_fault("no_ack")

    def _is_fault(self, kind: str) -> bool:
        if self._faults[kind] <= 0:
            return False
        self._faults[kind] -= 1
        self.counts[f"fault_{kind}"] += 1
        return True

    # ---- commands

    async def _connect(self, command: Connect) -> dict[str, Any]:
        """A pool of connectors takes one login after another, each no earlier than its turn by `rate_per_s`."""
        begun = time.monotonic()
        logins = iter(enumerate(command.devices))
        failed: list[tuple[str, str]] = []
        reasons: Counter[str] = Counter()

        async def connector(logins: Iterator[tuple[int, Login]]) -> None:
            for index, login in logins:
                if command.rate_per_s > 0:
                    await asyncio.sleep(begun + index / command.rate_per_s - time.monotonic())
                reason = await self._connect_one(login)
                if reason is not None:
                    reasons[reason] += 1
                    if len(failed) < FAILED_SHOWN_MAX:
                        failed.append((login.id, reason))

        await asyncio.gather(*(connector(logins) for _ in range(min(CONNECTING_MAX, len(command.devices)))))
        return {
            "cmd": "connect",
            "ok": not reasons,
            "connected": len(command.devices) - reasons.total(),
            "failed": [{"id": device_id, "reason": reason} for device_id, reason in failed],
            "reasons": dict(reasons),
            "duration_s": round(time.monotonic() - begun, 3),
        }

    async def _connect_one(self, login: Login) -> str | None:
        """None when the device is subscribed, else the reason why not."""
        if login.id in self._devices:
            return "connected"
        if len(self._devices) >= self._devices_max:
            return "devices_max"
        device = Device(self, login.id, login.user, login.password, self._keepalive_s)
        self._devices[login.id] = device
        self._n_connecting += 1
        local = (f"127.0.0.{1 + self._n_connecting % self._sources}", 0) if self._sources else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(lambda: device, self._host, self._port, local_addr=local)
                return await device.ready
        except TimeoutError:
            reason = "timeout"
        except OSError as error:
            reason = f"os_error {error.errno}"
        if device.is_connected:
            device.close(reason)
        else:
            self.on_closed(device, reason)
        return reason

    async def _disconnect(self, ids: list[str] | None) -> dict[str, Any]:
        chosen = list(self._devices) if ids is None else ids
        devices = [self._devices[one] for one in chosen if one in self._devices]
        devices = [device for device in devices if device.is_connected]
        for device in devices:
            device.disconnect()
        await asyncio.gather(*(device.gone for device in devices))
        return {"cmd": "disconnect", "ok": True, "disconnected": len(devices), "unknown": len(chosen) - len(devices)}

    async def _wait_idle(self, command: WaitIdle) -> dict[str, Any]:
        begun = time.monotonic()
        while True:
            now = time.monotonic()
            quiet_s = now - max(self._published_at, begun)
            if quiet_s >= command.quiet_s or now - begun >= command.timeout_s:
                is_idle = quiet_s >= command.quiet_s
                return {"cmd": "wait_idle", "ok": is_idle, "waited_s": round(now - begun, 3)}
            await asyncio.sleep(min(command.quiet_s - quiet_s, command.timeout_s - (now - begun)) + 0.001)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for device in list(self._devices.values()):
            if device.is_connected:
                device.on_tick(now)
        self._ticker = loop.call_later(TICK_S, self._tick)
