"""kill -9 of one of two workers under load, over and over, the other one going on. `make torture` does it longer.

Services keep submitting, with their own retries, to devices with tokens of both workers, to tokens, and to phones of
both workers that are online and come back after each kill. Then one worker is killed, and when its next life is there
and every row has ended:

    seen twice by receivers    none but those that the ledger counts as sent again, handed over or uncertain
    conserved                  each task's states add up to the rows accepted; nothing open, nothing stuck between them
    accepted, acknowledged     whatever the ledger calls so has been seen

Journals are in memory: what was submitted to the worker that is killed has no ledger any more. Its rows at the other go
on to their end there, and are seen once. TORTURE_WORKER_ROUNDS: kills.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio

from gateway.client.errors import CallFailed, GatewayUnreachable
from gateway.client.trio_client import open_trio_client
from gateway.content import Variant
from gateway.core.ownership import SHARDS, Ownership
from gateway.ledger import Flag

pytestmark = pytest.mark.slow

SECRET = b"the secret of the shop"
ROUNDS = int(os.environ.get("TORTURE_WORKER_ROUNDS") or (5 if os.environ.get("PROFILE") == "ci" else 2))
PHONES, DEVICES, SERVICES = 6, 60, 4
#: For a process to be started again, imports included, and for all rows to end, on a busy machine.
BACK_S = 90.0
LOAD_S = (0.3, 1.0)
_MAY_COME_TWICE = int(Flag.RESENT_UNCERTAIN | Flag.HANDED_OVER)


class Load:
    """What is submitted. tasks: of this round, that were answered."""

    def __init__(self, seed: int, devices: list[bytes], phones: list[bytes]) -> None:
        self.chance = random.Random(seed)
        self.devices, self.phones = devices, phones
        self.tasks: list[bytes] = []
        self.numbers = 0
        #: Submits that have no answer yet: they are repeated, and may be taken long after a pause began.
        self.under_way = 0
        self.has_pause = False

    async def submit(self, client: Any) -> None:
        """Until cancelled. Requests have ids, so that one whose answer was lost is not made twice by its home."""
        chance = self.chance
        while True:
            if self.has_pause:
                await trio.sleep(0.02)
                continue
            self.numbers += 1
            targets: list[Any] = chance.sample(self.devices, chance.choice([1, 10, DEVICES]))
            targets += chance.sample(self.phones, 3)
            targets += [("apns", chance.randbytes(32).hex()) for _ in range(chance.choice([0, 0, 5]))]
            class_ = chance.choice(["system", "marketing"])
            content = Variant("title", "body", class_=class_, ttl_s=600)
            self.under_way += 1
            try:
                done = await client.submit(content, targets, request_id=f"torture {self.numbers}")
                self.tasks.append(done.task_id)
            except (CallFailed, GatewayUnreachable):
                pass
            finally:
                self.under_way -= 1
            await trio.sleep(chance.choice([0, 0.01, 0.03]))


async def until(holds: Callable[[], Any], why: str) -> None:
    with trio.move_on_after(BACK_S):
        while True:
            try:
                if await holds():
                    return
            except (CallFailed, GatewayUnreachable, OSError):
                pass  # a worker is not there yet
            await trio.sleep(0.05)
    pytest.fail(f"not within {BACK_S:g} s: {why}")


class Round:
    """What the ledger of the living says after a kill. rows: message id -> (state, flags)."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, int]] = {}
        self.tasks = self.tasks_gone = 0

    async def ask(self, gateway: Any, tasks: list[bytes]) -> None:
        self.tasks = len(tasks)
        for task in tasks:
            try:
                counts = await gateway.client.task_state(task)
            except CallFailed as error:
                if error.error.code != "not_found":
                    raise
                self.tasks_gone += 1
                continue
            assert sum(counts.states.values()) == counts.accepted, "not conserved"
            assert counts.is_final, counts
            self.rows |= {message: (state, flags) for message, state, flags in await gateway.rows(task)}


async def test_worker_that_is_killed_under_load_doubles_and_loses_nothing_that_is_not_counted(
    serve: Callable[..., Any],
    open_clients: Callable[..., Any],
    new_phone: Callable[[bytes], Any],
    simulators: Any,
) -> None:
    simulators.fault("apns", "latency", ms=30)
    over: dict[str, Any] = {
        "gateway": {"workers": 2},
        "long_link": {"handshake_timeout_s": 30.0, "packet_timeout_s": 30.0, "ack_timeout_s": 60.0},
        "http2": {"connect_timeout_s": 5.0, "request_timeout_s": 30.0},
        "apns": {"probes": False},
    }
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, **over))
    ownership = Ownership(2, shard_groups=SHARDS)
    phones = [new_phone(os.urandom(16)) for _ in range(PHONES)]
    rounds: list[Round] = []
    async with open_clients(process.ready) as gateway, trio.open_nursery() as nursery:
        devices = await gateway.register(DEVICES, "apns")
        assert {ownership.owner(device) for device in devices} == {0, 1}
        for phone in phones:
            nursery.start_soon(phone.keep_connected, gateway.link_port)
        load = Load(7, devices, [phone.device_id for phone in phones])
        for _ in range(SERVICES):
            nursery.start_soon(_serve_load, gateway, load)
        for number in range(ROUNDS):
            rounds.append(await one_round(gateway, load, phones, devices, victim=number % 2))
        page = await gateway.metrics()
        nursery.cancel_scope.cancel()
    judge(rounds, phones, simulators, page)


async def _serve_load(gateway: Any, load: Load) -> None:
    async with open_trio_client(gateway.ready["rpc"][0], "shop", SECRET, timeout_s=60.0) as client:
        await load.submit(client)


async def one_round(gateway: Any, load: Load, phones: list[Any], devices: list[bytes], victim: int) -> Round:
    async def all_online() -> bool:
        status = await gateway.client.device_status([phone.device_id for phone in phones])
        return all(status.is_online)

    async def all_back() -> bool:
        facts = (await gateway.operator.status()).facts["workers"]
        return all(one["state"] == "ready" for one in facts) and facts[victim]["pid"] != pid

    async def all_answered() -> bool:
        return load.under_way == 0

    async def nothing_open() -> bool:
        found = await gateway.metrics()
        return not sum(value for (name, _), value in found.items() if name == "pushgw_rows_open")

    await until(all_online, "the phones are online")
    load.tasks.clear()
    load.has_pause = False
    pid = (await gateway.operator.status()).facts["workers"][victim]["pid"]
    await trio.sleep(load.chance.uniform(*LOAD_S))
    os.kill(pid, signal.SIGKILL)
    # The services go on into the hole, and a little beyond.
    await until(all_back, "the worker is there again")
    load.has_pause = True
    await register_again(gateway, devices)
    await until(all_online, "the phones are back")
    await until(all_answered, "every submit has its answer")
    await until(nothing_open, "every row has ended")
    found = Round()
    await found.ask(gateway, list(load.tasks))
    return found


async def register_again(gateway: Any, devices: list[bytes]) -> None:
    """The registry was in the memory of the worker that was killed; the app's server tells it again."""
    from gateway.client.requests import DeviceState

    states = [DeviceState(device_id=one, channel="apns", token=one.hex() * 2, proven_unix_s=1) for one in devices]

    async def is_registered() -> bool:
        return bool((await gateway.client.register_devices(states)).registered == len(devices))

    await until(is_registered, "the devices are registered again")


def judge(rounds: list[Round], phones: list[Any], simulators: Any, page: dict[tuple[str, str], float]) -> None:
    known: dict[str, tuple[str, int]] = {}
    for each in rounds:
        known |= each.rows
    copies = Counter(simulators.copies("apns"))
    shown: Counter[str] = Counter()
    for phone in phones:
        shown.update(phone.received)
    seen = copies + shown
    twice = {message for message, n in seen.items() if n > 1}
    may_come_twice = {
        message for message, (state, flags) in known.items() if flags & _MAY_COME_TWICE or state == "uncertain"
    }
    states = Counter(state for state, _ in known.values())
    report = {
        "worker_rounds": len(rounds),
        "tasks": sum(each.tasks for each in rounds),
        "tasks_of_the_killed": sum(each.tasks_gone for each in rounds),
        "rows": len(known),
        "states": dict(states),
        "seen": len(seen),
        "may_come_twice": len(may_come_twice),
        "seen_twice": len(twice),
        "resent": sum(bool(flags & Flag.RESENT_UNCERTAIN) for _, flags in known.values()),
        "handed_over": sum(bool(flags & Flag.HANDED_OVER) for _, flags in known.values()),
    }
    folder = os.environ.get("TORTURE_REPORT")
    if folder:
        with open(folder, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(report) + "\n")
    assert not twice - may_come_twice, report
    for message, (state, _) in known.items():
        assert state != "vendor_accepted" or copies[message], report
        assert state != "device_acked" or shown[message], report
    assert page["pushgw_rows_not_conserved", ""] == 0
    # It was a torture: each kill took tasks with it, and rows were under way at the killed.
    assert report["tasks_of_the_killed"], report
    assert report["tasks"] > report["tasks_of_the_killed"], report
