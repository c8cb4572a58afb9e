"""The demo's devices: one process of real MQTT clients (`python -m bench.devices`), commanded by JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gateway.cli.demo.devices import DemoDevice
from gateway.cli.demo.processes import READY_S, Child, Children, DemoFailed
from gateway.core.identity import device_password

#: Seconds for a thousand devices to connect and subscribe, as the slowest machine we care for needs them.
_CONNECT_S_PER_THOUSAND = 15.0
_ANSWER_S = 20.0


class Fleet:
    """Every method raises DemoFailed when the process does not answer, or says no."""

    def __init__(self, children: Children, host: str, port: int, app_key: str, secret: bytes) -> None:
        self._app_key = app_key
        self._secret = secret
        options = ["--host", host, "--port", str(port), "--json", "--keep-texts"]
        self._child: Child = children.start("devices", ["bench.devices", *options])
        self._child.read_json("its ready line", READY_S)

    def connect(self, devices: Sequence[DemoDevice]) -> None:
        """Every one of the devices is connected and subscribed."""
        if not devices:
            return
        logins = [
            {
                "id": device.device_id.hex(),
                "user": self._app_key,
                "password": device_password(self._secret, device.device_id.hex()),
            }
            for device in devices
        ]
        timeout_s = _ANSWER_S + _CONNECT_S_PER_THOUSAND * len(devices) / 1000
        answer = self._ask({"cmd": "connect", "devices": logins}, timeout_s)
        if not answer["ok"]:
            raise DemoFailed(f"{len(devices) - answer['connected']} devices did not connect: {answer['reasons']}")

    def arm_fault(self, kind: str, count: int) -> None:
        """The next `count` pushes are lost (drop) or taken twice (double)."""
        self._ask({"cmd": "fault", "kind": kind, "count": count}, _ANSWER_S)

    def wait_idle(self, quiet_s: float, timeout_s: float) -> bool:
        """True when nothing has come for `quiet_s`."""
        answer = self._ask({"cmd": "wait_idle", "quiet_s": quiet_s, "timeout_s": timeout_s}, timeout_s + _ANSWER_S)
        return bool(answer["ok"])

    def received(self) -> Iterator[dict[str, Any]]:
        """Every row that a device has received."""
        self._child.write_json({"cmd": "received"})
        while "cmd" not in (row := self._child.read_json("what the devices received", _ANSWER_S)):
            yield row
        if not row["ok"]:
            raise DemoFailed(f"devices said no: {row}")

    def _ask(self, command: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self._child.write_json(command)
        answer = self._child.read_json(f"an answer to {command['cmd']}", timeout_s)
        if "error" in answer:
            raise DemoFailed(f"devices refused {command['cmd']}: {answer['error']}")
        return answer


def ids_of(devices: Iterable[DemoDevice]) -> set[bytes]:
    return {device.device_id for device in devices}
