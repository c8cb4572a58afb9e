"""Which devices the demo has: as many with tokens of each vendor as on the long link only."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from gateway.cli.demo.channels import CHANNELS
from gateway.client.requests import DeviceState

#: Channel of device i is KINDS[i % len(KINDS)]; "" has no vendor token.
KINDS = (*CHANNELS, "")


class DemoDevice(NamedTuple):
    """is_online: connected from the beginning."""

    device_id: bytes
    channel: str
    token: str
    is_online: bool


def make_devices(n: int, online: float, seed: str) -> list[DemoDevice]:
    """n devices, the share `online` of each kind connected from the beginning. The same seed gives the same devices."""
    devices: list[DemoDevice] = []
    for index in range(n):
        channel = KINDS[index % len(KINDS)]
        nth = index // len(KINDS)
        # Evenly spread: a device is online where the running share of its kind passes a whole number; each kind begins
        # a third later, so that few devices round right as well. Nine places keep 0.1 * 10 from falling short of 1.
        phase = (len(KINDS) - 1 - index % len(KINDS)) / len(KINDS)
        is_online = int(round((nth + 1) * online + phase, 9)) > int(round(nth * online + phase, 9))
        digest = hashlib.sha512(f"{seed} device {index}".encode()).digest()
        token = CHANNELS[channel].token_of(digest, nth) if channel else ""
        devices.append(DemoDevice(digest[:16], channel, token, is_online))
    return devices


def registration(device: DemoDevice, now_unix_s: int) -> DeviceState:
    """What the app's server would register. The token counts as proven, as one does that a phone has just reported."""
    return DeviceState(
        device_id=device.device_id,
        channel=device.channel,
        token=device.token,
        proven_unix_s=now_unix_s if device.channel else 0,
        platform=CHANNELS[device.channel].platform if device.channel else "linux",
        app_version="1.0.0",
        time_zone="Asia/Shanghai",
    )


def returning(devices: list[DemoDevice]) -> list[DemoDevice]:
    """Half of those that were offline at first: they come back later."""
    offline = [device for device in devices if not device.is_online]
    return offline[::2]
