"""Registry, inbox and ledger archive on the disk with several workers, as processes: killed, and started with another
number of them. TORTURE_STORES_ROUNDS: kills of the second test, which profile ci runs.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.client.errors import CallFailed, GatewayUnreachable
from gateway.client.requests import DeviceState
from gateway.client.trio_client import open_trio_client
from gateway.config_types import Secret
from gateway.content import Variant
from gateway.core.ownership import Ownership
from gateway.core.request_ids import request_key
from gateway.ledger import Flag

pytestmark = pytest.mark.slow

#: For processes to be started, imports included, on a busy machine.
BACK_S = 60.0


def stores(folder: Path, workers: int) -> dict[str, Any]:
    return {
        "gateway": {"workers": workers, "restart_spread_s": 0.2},
        "long_link": {"handshake_timeout_s": 30.0, "packet_timeout_s": 30.0, "ack_timeout_s": 60.0},
        "ledger": {"held_write_s": 0.1},
        "store": {"data_dir": str(folder / "store")},
    }


async def until(holds: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    found = None
    with trio.move_on_after(BACK_S):
        while found != wanted:
            try:
                found = await holds()
            except CallFailed as error:
                found = error
            await trio.sleep(0.05)
    assert found == wanted


def devices_of(*workers: int, of: int = 2) -> list[bytes]:
    """A device id of each of these workers, in their order."""
    ownership = Ownership(of)
    return [next(one for one in iter(lambda: os.urandom(16), b"") if ownership.owner(one) == w) for w in workers]


def names_at(home: int, folder: Path) -> list[str]:
    """Three names that make, as request ids, this worker of two the home of what is submitted under them."""
    secret = Secret(file=folder / "data" / "message_id.secret").read()
    names = (f"message {number}" for number in itertools.count())
    at_home = (one for one in names if Ownership(2).home_of_request(request_key(secret, "shop", one)) == home)
    return list(itertools.islice(at_home, 3))


async def submit_to_each(gateway: Any, away: list[bytes], names: list[str]) -> list[bytes]:
    """A message of each name to all devices; every worker is the home of some of them, as the names' hash has it."""
    return [(await gateway.client.submit(Variant(name, "body"), away, request_id=name)).task_id for name in names]


async def test_rows_that_wait_are_delivered_after_kills_by_any_number_of_workers(
    serve: Callable[..., Any],
    open_clients: Callable[..., Any],
    new_phone: Callable[[bytes], Any],
    simulators: Any,
    folder: Path,
) -> None:
    away = devices_of(0, 0, 1, 1)
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, **stores(folder, 2)))
    names = sorted(name for home in (0, 1) for name in names_at(home, folder))
    async with open_clients(process.ready) as gateway:
        await gateway.client.register_devices([DeviceState(device_id=one) for one in away])
        tasks = await submit_to_each(gateway, away, names)
        assert Counter(int.from_bytes(task[6:8], "big") & 0xFFF for task in tasks) == {0: 3, 1: 3}
        for task in tasks:
            await until(lambda task=task: gateway.states(task), {"held": 4})

        async def stored() -> tuple[int, int]:
            found = await gateway.operator.stored_rows(app_key="shop")
            return found.rows, found.devices

        await until(stored, (24, 4))
        assert (await gateway.operator.stored_rows(task_id=tasks[0])).rows == 4

        # Given back to their homes, which have written them down.
        async def held_elsewhere() -> float:
            return sum(n for (name, _), n in (await gateway.metrics()).items() if name == "pushgw_foreign_rows_open")

        await until(held_elsewhere, 0)
        # One of each owner returns and gets all of them, from both homes.
        async with trio.open_nursery() as nursery:
            phones = [await new_phone(one).connect(gateway.link_port, nursery) for one in (away[0], away[2])]
            for task in tasks:
                await until(lambda task=task: gateway.states(task), {"held": 2, "device_acked": 2})
            for phone in phones:
                assert sorted(payload["title"] for payload in phone.payloads) == names
                assert set(phone.received.values()) == {1}
            nursery.cancel_scope.cancel()
        # Neither worker keeps rows that its end would lose.
        async with open_trio_client(process.ready["operator"], role="operator", timeout_s=BACK_S) as patient:
            restarted = (await patient.restart()).workers
        assert [one.outcome for one in restarted] == ["restarted"] * 2
        # A purge of one task, an erased device: rows end at their homes.
        assert (await gateway.operator.purge_stored(task_id=tasks[0])).rows == 2
        await until(lambda: gateway.states(tasks[0]), {"cancelled": 2, "device_acked": 2})
        assert (await gateway.client.erase_devices([away[1], away[0]])).erased == 2
        for task in tasks[1:]:
            await until(lambda task=task: gateway.states(task), {"cancelled": 1, "held": 1, "device_acked": 2})
        # It also writes down what the archives have not got yet.
        copy = (await gateway.operator.backup(str(folder / "copy"))).files
        assert {"inbox.db", "inbox-001.db", "ledger.db", "ledger-001.db", "registry/group-015.db"} <= copy.keys()
        await process.end_by(signal.SIGKILL)

    counts = (3, 1) if os.environ.get("PROFILE") == "ci" else (1,)
    for workers in counts:
        process = await trio.to_thread.run_sync(lambda n=workers: serve(simulators.ready, **stores(folder, n)))
        async with open_clients(process.ready) as gateway:
            with pytest.raises(CallFailed, match="has no device of id"):
                await gateway.client.device(device_id=away[0])
            assert (await gateway.client.device(device_id=away[3])).device_id == away[3]
            for task in tasks[1:]:
                assert await gateway.states(task) == {"cancelled": 1, "held": 1, "device_acked": 2}
            assert (await gateway.operator.stored_rows()).rows == 5
            if workers == 1:
                async with trio.open_nursery() as nursery:
                    phone = await new_phone(away[3]).connect(gateway.link_port, nursery)
                    for task in tasks[1:]:
                        await until(lambda task=task: gateway.states(task), {"cancelled": 1, "device_acked": 3})
                    assert sorted(payload["title"] for payload in phone.payloads) == names[1:]
                    nursery.cancel_scope.cancel()
            assert (await gateway.metrics())["pushgw_rows_not_conserved", ""] == 0
            await process.end_by(signal.SIGKILL)
    (moved,) = process.logged("another number of workers")
    assert (moved["before"], moved["workers"]) == ([2, *counts][-2], 1)


ROUNDS = int(os.environ.get("TORTURE_STORES_ROUNDS") or 6)
DEVICES, SERVICES = 12, 3
_MAY_COME_TWICE = int(Flag.RESENT_UNCERTAIN | Flag.HANDED_OVER)


class Load:
    """What is submitted, and by whom it was seen."""

    def __init__(self, seed: int, devices: list[bytes]) -> None:
        self.chance = random.Random(seed)
        self.devices = devices
        self.tasks: list[bytes] = []
        self.numbers = 0

    async def submit(self, gateway: Any) -> None:
        """Until cancelled; an answer that was lost in a kill is asked for again, and may be there no more."""
        while True:
            self.numbers += 1
            name = f"torture {self.numbers}"
            content = Variant(name, "body", ttl_s=3600, collapse_id=self.chance.choice(["", "", "one"]))
            targets = self.chance.sample(self.devices, self.chance.choice([1, 4, len(self.devices)]))
            with contextlib.suppress(CallFailed, GatewayUnreachable):
                self.tasks.append((await gateway.client.submit(content, targets, request_id=name)).task_id)
            await trio.sleep(self.chance.choice([0.01, 0.03]))

    async def come_and_go(self, phone: Any, port: int, *, stays: bool = False) -> None:
        """Until cancelled: online for a moment, away for a moment, back whenever its worker is."""
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    with contextlib.suppress(OSError, AssertionError, trio.TooSlowError, trio.BrokenResourceError):
                        await phone.connect(port, nursery)
                        with trio.move_on_after(math.inf if stays else self.chance.uniform(0.02, 0.3)):
                            while phone.stream.socket.fileno() >= 0:
                                await trio.sleep(0.02)
                    nursery.cancel_scope.cancel()
            finally:
                if phone.stream is not None:
                    phone.stream.socket.close()
            await trio.sleep(self.chance.uniform(0.05, 0.5))


@pytest.mark.long
async def test_no_row_is_left_waiting_or_seen_twice_uncounted_whoever_is_killed(
    serve: Callable[..., Any],
    open_clients: Callable[..., Any],
    new_phone: Callable[[bytes], Any],
    simulators: Any,
    folder: Path,
) -> None:
    """One of the workers is killed, or all of them and another number is started; at the end every device is online.

    Pages that were in memory alone end with their home, as apps in memory do: those tasks are not known any more.
    """
    load = Load(ROUNDS, devices_of(0, 1) + [os.urandom(16) for _ in range(DEVICES - 2)])
    phones = [new_phone(device) for device in load.devices]
    workers = 2
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, **stores(folder, workers)))
    for number in range(ROUNDS + 1):
        is_last = number == ROUNDS
        async with open_clients(process.ready) as gateway, trio.open_nursery() as nursery:
            for phone in phones:
                nursery.start_soon(functools.partial(load.come_and_go, phone, gateway.link_port, stays=is_last))
            if is_last:
                await until(functools.partial(stored_rows, gateway), 0)
                # Pages come back; what no inbox has was on its way to its device when a process ended: uncertain.
                for task in load.tasks:
                    with contextlib.suppress(CallFailed):
                        await gateway.client.stop_task(task)
                await until(functools.partial(open_rows, gateway), 0)
                await check(gateway, load, phones)
                nursery.cancel_scope.cancel()
                continue
            await until(functools.partial(register, gateway, load.devices), len(load.devices))
            for _ in range(SERVICES):
                nursery.start_soon(load.submit, gateway)
            await trio.sleep(load.chance.uniform(0.5, 2.0))
            if number % 3 == 2:
                await process.end_by(signal.SIGKILL)
                workers = load.chance.choice([1, 2, 3])
                process = await trio.to_thread.run_sync(lambda n=workers: serve(simulators.ready, **stores(folder, n)))
            elif workers > 1:
                found = (await gateway.operator.status()).facts["workers"]
                os.kill(found[number % workers]["pid"], signal.SIGKILL)
                await trio.sleep(0.2)
                await until(functools.partial(ready_workers, gateway), workers)
            nursery.cancel_scope.cancel()


async def register(gateway: Any, devices: list[bytes]) -> int:
    done = await gateway.client.register_devices([DeviceState(device_id=one) for one in devices])
    return int(done.registered)


async def ready_workers(gateway: Any) -> int:
    return sum(one["state"] == "ready" for one in (await gateway.operator.status()).facts["workers"])


async def stored_rows(gateway: Any) -> int:
    return int((await gateway.operator.stored_rows()).rows)


async def open_rows(gateway: Any) -> int:
    return sum((await gateway.operator.status()).facts["rows_open"].values())


async def check(gateway: Any, load: Load, phones: list[Any]) -> None:
    rows: dict[str, tuple[str, int]] = {}
    gone = 0
    for task in load.tasks:
        try:
            counts = await gateway.client.task_state(task)
        except CallFailed as error:
            if error.error.code != "not_found":
                raise
            gone += 1
            continue
        assert counts.is_final, counts
        rows |= {message: (state, flags) for message, state, flags in await gateway.rows(task)}
    assert (await gateway.metrics())["pushgw_rows_not_conserved", ""] == 0
    seen: Counter[str] = Counter()
    for phone in phones:
        seen.update(phone.received)
    twice = {message: rows[message] for message, copies in seen.items() if copies > 1 and message in rows}
    uncounted = [one for one in twice.values() if not one[1] & _MAY_COME_TWICE and one[0] != "uncertain"]
    assert not uncounted
    assert all(seen[message] for message, (state, _) in rows.items() if state == "device_acked")
    assert "cancelled" not in {state for state, _ in rows.values()}, "a row waited in no inbox"
    assert gone < len(load.tasks), "every page was in memory alone"
    if os.environ.get("TORTURE_REPORT"):
        states = Counter(state for state, _ in rows.values())
        report = {"tasks": len(load.tasks), "gone": gone, "states": states, "seen": len(seen), "twice": len(twice)}
        with Path(os.environ["TORTURE_REPORT"]).open("a") as file:
            file.write(json.dumps(report) + "\n")
