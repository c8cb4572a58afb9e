"""Registry, inbox and ledger archive on the disk with several workers, as processes: killed, and started with another
number of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.client.errors import CallFailed
from gateway.client.requests import DeviceState
from gateway.content import Variant
from gateway.core.ownership import Ownership

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


async def kill(process: Any) -> None:
    process.signal(signal.SIGKILL)
    await trio.to_thread.run_sync(process.wait)


def devices_of(*workers: int, of: int = 2) -> list[bytes]:
    """A device id of each of these workers, in their order."""
    ownership = Ownership(of)
    return [next(one for one in iter(lambda: os.urandom(16), b"") if ownership.owner(one) == w) for w in workers]


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
    names = [f"message {number}" for number in range(6)]
    homes = {Ownership(2).home_of_request("shop", name) for name in names}
    assert homes == {0, 1}

    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, **stores(folder, 2)))
    async with open_clients(process.ready) as gateway:
        await gateway.client.register_devices([DeviceState(device_id=one) for one in away])
        tasks = await submit_to_each(gateway, away, names)
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
        # A purge of one task, an erased device: rows end at their homes.
        assert (await gateway.operator.purge_stored(task_id=tasks[0])).rows == 2
        await until(lambda: gateway.states(tasks[0]), {"cancelled": 2, "device_acked": 2})
        assert (await gateway.client.erase_devices([away[1], away[0]])).erased == 2
        for task in tasks[1:]:
            await until(lambda task=task: gateway.states(task), {"cancelled": 1, "held": 1, "device_acked": 2})
        # It also writes down what the archives have not got yet.
        copy = (await gateway.operator.backup(str(folder / "copy"))).files
        assert {"inbox.db", "inbox-001.db", "ledger.db", "ledger-001.db", "registry/group-015.db"} <= copy.keys()
        await kill(process)

    counts = (3, 1) if os.environ.get("PROFILE") == "ci" else (1,)
    for workers in counts:
        process = await trio.to_thread.run_sync(lambda n=workers: serve(simulators.ready, **stores(folder, n)))
        async with open_clients(process.ready) as gateway:
            with pytest.raises(CallFailed, match="no such device"):
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
            await kill(process)
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
    (moved,) = [line for line in lines if line["event"] == "another number of workers"]
    assert (moved["before"], moved["workers"]) == ([2, *counts][-2], 1)
