"""How soon does a device that returns have the first of what waits for it? Part of `python -m bench inbox`, `drain`.

A gateway as a process (`pushgw serve`, one worker) with its stores on the disk. Rows of several campaigns wait for
devices that were registered; the ledger's memory is so small that their pages are in the archive. Devices connect one
after another over the loopback, CONNECT and SUBSCRIBE in one write, as phones do.

    first_ms       at the device's socket: from CONNACK read to the first PUBLISH read; 0 where both came at once
    cpu_ms_per_device  of the gateway, for its connection and all its rows, with what is written afterwards
    *_load         the same while LOAD_ROWS_PER_S rows a second are submitted for other devices that are away, which
                   makes the inbox write all the time; the load generator has the same cores
"""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from bench.devices import mqtt
from bench.harness import Line, Options, progress
from bench.longlink_generator import device_id, password
from bench.longlink_servers import Gateway, cpu_s
from bench.open_loop import quantiles
from gateway.cli.demo.processes import Children
from gateway.client.blocking import BlockingClient
from gateway.client.requests import UNSENT, DeviceState, little_endian
from gateway.content import Variant
from gateway.wire.rpc.messages import Submit

DEVICES, SMOKE_DEVICES = 200_000, 2_000
ROUNDS = 5
LOOKS, SMOKE_LOOKS = 200, 20
LOAD_ROWS_PER_S = 10_000
_SUBMIT_ROWS = 50_000
_LOAD_SUBMIT_ROWS = 1_000
#: Eight full pages: what was submitted before is in the archive. `--set ledger_bytes=N`, for development.
_LEDGER_BYTES = 32 << 20
#: So few that this is enough for them (26 bytes of each stay in memory while it is not stored), and more than the pages
#: that devices bring back have.
_OPEN_ROWS = 1_000_000
_STORED_S = 120.0


def run(options: Options) -> Line:
    n, looks = (SMOKE_DEVICES, SMOKE_LOOKS) if options.smoke else (DEVICES, LOOKS)
    progress(f"inbox drain: {ROUNDS * n:,} rows for {n:,} devices ...")
    ledger_bytes = int(options.extra.get("ledger_bytes", _LEDGER_BYTES))
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
    sections: dict[str, dict[str, Any]] = {
        "store": {"data_dir": str(folder / "store")},
        "inbox": {"rows_max": 100_000_000, "bytes_max": 1 << 40},
        "gateway": {"open_rows_max": _OPEN_ROWS, "gather_rows_max": _OPEN_ROWS},
        "rpc": {"credit_rows": _OPEN_ROWS},
        "links": {"parked_rows_max": _OPEN_ROWS},
        "lanes": {"lane_rows_max": _OPEN_ROWS, "parked_rows_max": _OPEN_ROWS},
        "ledger": {"ledger_memory_bytes_max": ledger_bytes, "held_write_s": 1.0},
    }
    try:
        with (
            Children(folder) as children,
            closing(Gateway(children, folder / "gateway", n, sections=sections)) as gateway,
        ):
            return _measure(gateway, n, looks, np.random.default_rng(options.seed))
    finally:
        shutil.rmtree(folder)


def _measure(gateway: Gateway, n: int, looks: int, random: np.random.Generator) -> Line:
    (client,) = gateway.clients
    ids = [device_id(number) for number in range(n)]
    for first in range(0, n, 5_000):
        client.register_devices([DeviceState(device_id=one) for one in ids[first : first + 5_000]])
    for _ in range(ROUNDS):
        for first in range(0, n, _SUBMIT_ROWS):
            _submit(client, ids[first : first + _SUBMIT_ROWS])
    deadline = time.monotonic() + _STORED_S
    while (stored := _stored(gateway)) < ROUNDS * n:
        assert time.monotonic() < deadline, f"{stored:,} of {ROUNDS * n:,} rows are in the inbox"
        time.sleep(0.2)
    chosen = random.choice(n // 2, 2 * looks, replace=False).tolist()
    before = cpu_s(gateway.pid())
    idle = [_first_ms(gateway, ids[number]) for number in chosen[:looks]]
    spent_ms = (cpu_s(gateway.pid()) - before) * 1000
    with _Load(gateway, ids[n // 2 :]) as load:
        loaded = [_first_ms(gateway, ids[number]) for number in chosen[looks:]]
    figures = {f"first_ms_{name}": round(value, 2) for name, value in quantiles(idle).items()}
    figures |= {f"first_ms_{name}_load": round(value, 2) for name, value in quantiles(loaded).items()}
    return {
        "rows": ROUNDS * n,
        "devices": n,
        "looks": looks,
        "limit_ms": 5.0,
        "cpu_ms_per_device": round(spent_ms / looks, 2),
        "load_rows_per_s": round(load.rows_per_s),
        **figures,
    }


def _stored(gateway: Gateway) -> int:
    """Rows in the inbox. A count of them would hold the inbox up."""
    with urllib.request.urlopen(f"{gateway.ready['http']}/metrics", timeout=60.0) as answer:
        found = re.search(r"^pushgw_inbox_rows\S* (\S+)", answer.read().decode(), re.MULTILINE)
    return 0 if found is None else int(float(found[1]))


def _submit(client: BlockingClient, ids: list[bytes]) -> None:
    content = Variant(
        title="Your parcel is at the door", body="It was left with your neighbour.", strategy=3, ttl_s=86_400
    )
    targets = little_endian(np.frombuffer(b"".join(ids), np.uint8), "u1")
    answer = client.submit_columns(Submit(id=UNSENT, contents=[content], n=len(ids), device_ids=targets))
    assert answer.accepted == len(ids), f"{answer.refused_count} of {len(ids)} rows were refused"


def _first_ms(gateway: Gateway, device: bytes) -> float:
    """The device connects, takes all that waits for it, and leaves."""
    secret = gateway.secret.encode()
    hello = mqtt.connect(device.hex(), gateway.user, password(secret, device), 60)
    reader, connected, first, n = mqtt.Reader(), 0.0, 0.0, 0
    with socket.create_connection(gateway.address, timeout=30.0) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sendall(hello + mqtt.subscribe(1, f"d/{device.hex()}/down", 1))
        while n < ROUNDS:
            data = link.recv(65_536)
            now = time.perf_counter()
            assert data, "the gateway closed the connection"
            for packet in reader.receive_data(data):
                if isinstance(packet, mqtt.Connack):
                    assert packet.code == 0, packet
                    connected = now
                elif isinstance(packet, mqtt.Publish):
                    first = first or now
                    n += 1
                    link.sendall(mqtt.puback(packet.packet_id))
    return (first - connected) * 1000


class _Load:
    """Submits for devices that are away, in a thread."""

    def __init__(self, gateway: Gateway, ids: list[bytes]) -> None:
        self._client = gateway.client()
        self._ids = ids
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._push)
        self._rows, self._seconds = 0, 0.0

    @property
    def rows_per_s(self) -> float:
        return self._rows / self._seconds

    def __enter__(self) -> _Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._client.close()

    def _push(self) -> None:
        size = min(_LOAD_SUBMIT_ROWS, len(self._ids))
        started = time.monotonic()
        while not self._is_over.is_set():
            first = self._rows % (len(self._ids) - size + 1)
            _submit(self._client, self._ids[first : first + size])
            self._rows += size
            self._is_over.wait(max(0.0, started + self._rows / LOAD_ROWS_PER_S - time.monotonic()))
        self._seconds = time.monotonic() - started
