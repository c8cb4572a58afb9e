"""What does a device on the long link cost, and how fast do pushes reach it, beside Debian's mosquitto?

Both servers are driven by the same generator (bench/longlink_generator.py, a process of its own, no object per socket)
with the same packets: MQTT 3.1.1, CONNECT and SUBSCRIBE, QoS 1 down, PUBACK at once.

    idle      bytes per connection: memory of the server's processes with n connected and subscribed devices less that
              of the server just started, over n. `kernel_bytes_per_connection` is the growth of the whole machine's
              kernel memory, so both ends of each connection are in it
    connect   devices per second from the first connect to the last SUBACK; a fresh generator each round
    push      one message to each of 5,000 devices, the next one when all were acknowledged; the clock runs from the
              submit (the publisher's first byte) to the last PUBACK the generator wrote. How messages enter stands in
              the line, and what mosquitto spends on its publisher (the same messages to topics that nobody reads)

Rounds of the two servers alternate; a line has the median of the rounds' ratios, the smallest and the largest.
For development: `--set rounds=N` for push.
Several workers, a crowd of devices and reconnect storms: bench/longlink_crowd.py, in the same run.
"""

from __future__ import annotations

import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench import longlink_crowd
from bench.harness import Line, Options, calibrate, line, progress
from bench.longlink_fleet import Fleet, ratios
from bench.longlink_servers import Gateway, Mosquitto, Server, cpu_s, find_mosquitto, kernel_bytes, memory_bytes
from gateway.cli.demo.processes import Children

IDLE_DEVICES = 15_000
DEVICES = 5_000
DEVICES_SMOKE = 200
ROUNDS = 9
#: Messages to each device in one round, one after the other: a round then takes half a second and more.
PUSHES = 10
WORKLOADS = ("idle", "connect", "push")


def run(options: Options) -> Iterator[Line]:
    wanted = [name for name in MEASURE if not options.only or name in options.only]
    if find_mosquitto() is None and any(name in WORKLOADS for name in wanted):
        progress("longlink: lines beside mosquitto are skipped, it is missing")
        yield line("longlink", "all beside mosquitto", skipped="missing: mosquitto")
        wanted = [name for name in wanted if name not in WORKLOADS]
    for name in wanted:
        folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-longlink-"))
        before = calibrate()
        try:
            figures = MEASURE[name](folder, options)
        finally:
            shutil.rmtree(folder)
        yield line("longlink", name, **figures, calibration_before=before, calibration_after=calibrate())
        gc.collect()


class Site:
    """Both servers, and fleets for them."""

    def __init__(self, children: Children, gateway: Gateway, mosquitto: Mosquitto) -> None:
        self._children = children
        self.gateway, self.mosquitto = gateway, mosquitto
        self.servers: tuple[Server, Server] = (gateway, mosquitto)

    def fleet(self, server: Server) -> Fleet:
        return Fleet(self._children, f"fleet-{server.name}-{time.monotonic_ns()}")


@contextmanager
def site(folder: Path, n: int) -> Iterator[Site]:
    with (
        Children(folder) as children,
        closing(Gateway(children, folder / "gateway", n)) as gateway,
        closing(Mosquitto(folder / "mosquitto", n)) as mosquitto,
    ):
        yield Site(children, gateway, mosquitto)


def idle(folder: Path, options: Options) -> Line:
    n = DEVICES_SMOKE if options.smoke else IDLE_DEVICES
    progress(f"longlink idle: {n:,} connections to each ...")
    figures: Line = {"connections": n, "bytes_per_connection_limit": 300}
    with site(folder, n) as both:
        for server in both.servers:
            fleet = both.fleet(server)
            fleet.call("statistics")
            time.sleep(0.5)
            memory, kernel = memory_bytes(server.pid()), kernel_bytes()
            fleet.connect(server, n)
            time.sleep(1.0)
            prefix = "" if server is both.gateway else "mosquitto_"
            figures[f"{prefix}bytes_per_connection"] = round((memory_bytes(server.pid()) - memory) / n, 1)
            figures[f"{prefix}kernel_bytes_per_connection"] = round((kernel_bytes() - kernel) / n, 1)
            figures[f"{prefix}memory_bytes_before"] = memory
            fleet.quit()
            time.sleep(0.5)
    progress(f"  {figures['bytes_per_connection']} bytes, mosquitto {figures['mosquitto_bytes_per_connection']}")
    return figures


def connect(folder: Path, options: Options) -> Line:
    n, rounds = (DEVICES_SMOKE, 2) if options.smoke else (DEVICES, ROUNDS)
    progress(f"longlink connect: {rounds} rounds of {n:,} devices to each ...")
    rates: dict[str, list[float]] = {"gateway": [], "mosquitto": []}
    cpu: dict[str, list[float]] = {"gateway": [], "mosquitto": []}
    with site(folder, n) as both:
        for number in range(rounds):
            for server in both.servers if number % 2 == 0 else both.servers[::-1]:
                fleet = both.fleet(server)
                fleet.call("statistics")
                before = cpu_s(server.pid())
                rates[server.name].append(n / fleet.connect(server, n))
                cpu[server.name].append((cpu_s(server.pid()) - before) / n * 1e6)
                fleet.quit()
                # The ends of these connections are not to be work of the next round.
                time.sleep(0.3)
    figures = {
        "devices": n,
        "rounds": rounds,
        "connects_per_s": round(statistics.median(rates["gateway"])),
        "mosquitto_connects_per_s": round(statistics.median(rates["mosquitto"])),
        "cpu_us_per_connect": round(statistics.median(cpu["gateway"]), 1),
        "mosquitto_cpu_us_per_connect": round(statistics.median(cpu["mosquitto"]), 1),
        **ratios("ratio_to_mosquitto", rates["gateway"], rates["mosquitto"]),
        "ratio_to_mosquitto_required": 1.0,
    }
    progress(f"  {figures['connects_per_s']:,} per s, {figures['ratio_to_mosquitto']} of mosquitto's")
    return figures


def push(folder: Path, options: Options) -> Line:
    n, rounds, pushes = (DEVICES_SMOKE, 2, 2) if options.smoke else (DEVICES, ROUNDS, PUSHES)
    rounds = int(options.extra.get("rounds", rounds))
    progress(f"longlink push: {rounds} rounds of {pushes} messages to each of {n:,} devices ...")
    rates: dict[str, list[float]] = {"gateway": [], "mosquitto": []}
    cpu: dict[str, list[float]] = {"gateway": [], "mosquitto": []}
    with site(folder, n) as both:
        fleets = {server.name: both.fleet(server) for server in both.servers}
        for server in both.servers:
            fleets[server.name].connect(server, n)
            # Warm-up: what is made at the first message is there.
            fleets[server.name].push(server, n, 2)
        for number in range(rounds):
            for server in both.servers if number % 2 == 0 else both.servers[::-1]:
                before = cpu_s(server.pid())
                took_s = fleets[server.name].push(server, n, pushes)
                rates[server.name].append(n * pushes / took_s)
                cpu[server.name].append((cpu_s(server.pid()) - before) / (n * pushes) * 1e6)
        before = cpu_s(both.mosquitto.pid())
        for _ in range(pushes):
            both.mosquitto.push(0, n, topic="nobody")
        publisher_us = (cpu_s(both.mosquitto.pid()) - before) / (n * pushes) * 1e6
        last = {name: fleet.call("statistics") for name, fleet in fleets.items()}
    for name, seen in last.items():
        assert seen["messages_per_device"] == {str(2 + rounds * pushes): n}, f"{name}: {seen['messages_per_device']}"
    figures = {
        "devices": n,
        "rounds": rounds,
        "deliveries_per_s": round(statistics.median(rates["gateway"])),
        "mosquitto_deliveries_per_s": round(statistics.median(rates["mosquitto"])),
        "cpu_us_per_message": round(statistics.median(cpu["gateway"]), 2),
        "mosquitto_cpu_us_per_message": round(statistics.median(cpu["mosquitto"]), 2),
        "mosquitto_publisher_cpu_us_per_message": round(publisher_us, 2),
        "bytes_per_message": round(last["gateway"]["bytes"] / last["gateway"]["received"]),
        "mosquitto_bytes_per_message": round(last["mosquitto"]["bytes"] / last["mosquitto"]["received"]),
        **ratios("ratio_to_mosquitto", rates["gateway"], rates["mosquitto"]),
        "ratio_to_mosquitto_required": 1.5,
        **ratios("cpu_ratio_to_mosquitto", cpu["gateway"], cpu["mosquitto"]),
        "cpu_ratio_to_mosquitto_required": 0.65,
        "enters_gateway": Gateway.how,
        "enters_mosquitto": Mosquitto.how,
    }
    progress(
        f"  {figures['deliveries_per_s']:,} per s, {figures['ratio_to_mosquitto']} of mosquitto's, "
        f"{figures['cpu_ratio_to_mosquitto']} of its CPU"
    )
    return figures


MEASURE = {"idle": idle, "connect": connect, "push": push, **longlink_crowd.MEASURE}
