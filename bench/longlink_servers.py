"""The two servers of `bench longlink`, started the same way and looked at with the same eyes: ours and mosquitto."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.longlink_generator import device_id
from bench.ports import free_port
from gateway.cli.demo.processes import READY_S, Child, Children
from gateway.cli.toml_text import to_toml
from gateway.client.blocking import BlockingClient
from gateway.client.requests import UNSENT, little_endian
from gateway.content import Variant
from gateway.wire.rpc.messages import Submit

APP_KEY = "bench"
MOSQUITTO = "mosquitto"
#: Debian keeps daemons where a plain user's PATH does not look.
_EXTRA_PATH = ":/usr/sbin:/sbin:/usr/local/sbin"
#: Of the generator's process and of a server: what they have open beside devices.
OTHER_FILES = 2_500
_TITLE, _BODY = "Your parcel is at the door", "It was left with your neighbour at 14:05. 请当面签收。"


def find_mosquitto() -> str | None:
    return shutil.which(MOSQUITTO, path=os.environ.get("PATH", "") + _EXTRA_PATH)


class Server(Protocol):
    """What the benchmark needs of a broker. user, secret: what devices log in with."""

    name: str
    address: tuple[str, int]
    user: str
    secret: str

    def pid(self) -> int: ...

    def push(self, first: int, n: int) -> None:
        """One QoS 1 message to each of these devices is on its way."""


class Gateway:
    """`pushgw serve` with one app. A push is one submit over the RPC: a shared content for n device ids."""

    name = "gateway"
    how = "one RPC submit with one content for all devices of a round, durability in memory"
    user = APP_KEY

    def __init__(
        self,
        children: Children,
        folder: Path,
        n_devices: int,
        *,
        workers: int = 1,
        n_clients: int = 1,
        vendors: Mapping[str, Any] | None = None,
        sections: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """n_devices: of the busiest worker. n_clients: RPC connections that pushes take turns on; the system spreads
        them over the workers. vendors: tables of the app's vendors. sections: keys laid over the configuration."""
        folder.mkdir(parents=True)
        self.secret = secrets.token_hex(32)
        (folder / "secret").write_text(self.secret)
        config = folder / "gateway.toml"
        table = _config(folder, n_devices, workers, vendors or {})
        for name, keys in (sections or {}).items():
            table[name] = table.get(name, {}) | dict(keys)
        config.write_text(to_toml(table))
        arguments = ["gateway", "serve", "--config", str(config), "--ready-json", "--exit-with-parent"]
        self._child: Child = children.start("gateway", arguments)
        self.ready = self._child.read_json("readiness", READY_S)
        host, _, port = self.ready["long_link"][0].removeprefix("tcp://").rpartition(":")
        self.address = (host, int(port))
        self.clients = [self.client() for _ in range(n_clients)]
        self._turn = 0

    def client(self) -> BlockingClient:
        return BlockingClient(self.ready["rpc"][0], APP_KEY, self.secret.encode(), timeout_s=60.0)

    def pid(self) -> int:
        return self._child.pid

    def push(self, first: int, n: int) -> None:
        self.push_to(range(first, first + n))

    def push_to(self, devices: Sequence[int]) -> bytes:
        """One submit by the client whose turn it is; its task id."""
        self._turn += 1
        return self.submit(self.clients[self._turn % len(self.clients)], devices, time.monotonic_ns())

    def submit(self, client: BlockingClient, devices: Sequence[int], sent_ns: int) -> bytes:
        """One submit of messages that say they were sent then; its task id."""
        n = len(devices)
        ids = np.frombuffer(b"".join(map(device_id, devices)), np.uint8)
        content = Variant(title=_TITLE, body=_BODY, data={"sent": str(sent_ns)}, strategy=3, ttl_s=600)
        answer = client.submit_columns(Submit(id=UNSENT, contents=[content], n=n, device_ids=little_endian(ids, "u1")))
        assert answer.accepted == n, f"{answer.refused_count} of {n} rows were refused"
        return answer.task_id

    def close(self) -> None:
        for client in self.clients:
            client.close()


class Mosquitto:
    """Debian's mosquitto without persistence. A push is n PUBLISH packets of QoS 1 on one connection of a publisher."""

    name = MOSQUITTO
    how = "n PUBLISH packets of QoS 1, encoded before, written at once by one publisher, whose PUBACKs are read"
    user = APP_KEY

    def __init__(self, folder: Path, n_devices: int) -> None:
        found = find_mosquitto()
        assert found is not None
        folder.mkdir(parents=True)
        port = free_port()
        self.address = ("127.0.0.1", port)
        self.secret = ""
        config = folder / "mosquitto.conf"
        # Everything else is its default; user and password are read and let pass.
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            f"max_connections {n_devices + 10}\nlog_dest none\nuser root\n"
        )
        self._process = subprocess.Popen([found, "-c", str(config)], stderr=subprocess.DEVNULL)
        self._publisher = self._connected()
        hello = b"\x00\x04MQTT\x04\x02\x00\x00" + b"\x00\x05bench"
        self._publisher.sendall(b"\x10" + bytes([len(hello)]) + hello)
        assert self._read(4)[3] == 0, "mosquitto refuses the publisher"

    def pid(self) -> int:
        return self._process.pid

    def push(self, first: int, n: int, *, topic: str = "down") -> None:
        payload = json.dumps(
            {
                # What our own rows carry, so that both send the same bytes.
                "message_id": "01935a7e-6c00-8001-9000-00000100abcd",
                "type": "notification",
                "title": _TITLE,
                "body": _BODY,
                "data": {"sent": str(time.monotonic_ns())},
            },
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()
        packets = []
        for index in range(n):
            name = f"d/{device_id(first + index).hex()}/{topic}".encode()
            body = len(name).to_bytes(2, "big") + name + (index % 65_535 + 1).to_bytes(2, "big") + payload
            packets.append(b"\x32" + bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) + body)
        self._publisher.sendall(b"".join(packets))
        self._read(4 * n)

    def _read(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = self._publisher.recv(1 << 16)
            assert part, "mosquitto closed the publisher's connection"
            data += part
        return data

    def _connected(self) -> socket.socket:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                return socket.create_connection(self.address)
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "mosquitto does not listen"
                time.sleep(0.02)

    def close(self) -> None:
        self._publisher.close()
        self._process.terminate()
        self._process.wait(10)


def _config(folder: Path, n_devices: int, workers: int, vendors: Mapping[str, Any]) -> dict[str, Any]:
    base = Path(__file__).resolve().parent.parent / "configs" / "bench.toml"
    table = tomllib.loads(base.read_text())
    table["gateway"] |= {"data_dir": str(folder / "data"), "workers": workers}
    table["operator"] = {"socket": str(folder / "operator.sock")}
    # So many tables as a gateway of this size has, so that memory says something.
    table["devices"] |= {"devices_max": max(100_000, n_devices), "token_bytes_max": 16_000_000}
    connections_max = max(n_devices + 10, 10_000)
    table["long_link"] |= {"connections_max": connections_max, "files_max": connections_max + OTHER_FILES}
    app = {
        "key": APP_KEY,
        "secrets": [{"file": str(folder / "secret")}],
        "connections_max": connections_max * workers,
    }
    table["apps"] = [app | dict(vendors)]
    return table


# -- what the system says of a process and its children


def family(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu_s(pid: int, *, alone: bool = False) -> float:
    """Time on a CPU of all threads of the process and, unless alone, its children, to the nanosecond."""
    total = 0
    for member in [pid] if alone else family(pid):
        for task in Path(f"/proc/{member}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0])
    return total / 1e9


def machine_cpu_s() -> float:
    """Time on a CPU of all processes of the machine and of its kernel, to a hundredth of a second and processor."""
    user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """Anonymous and shared memory (Pss) of the process and its children; code that is read from files is not in it."""
    total = 0
    for member in family(pid):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1]) * 1024
    return total


def kernel_bytes() -> int:
    """Slab, page tables and socket buffers of the whole machine: both ends of loopback connections are in it."""
    total = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in {"Slab", "PageTables", "KernelStack"}:
            total += int(value.split()[0]) * 1024
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        words: Sequence[str] = line.split()
        if words[0] == "TCP:":
            total += int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")
    return total
