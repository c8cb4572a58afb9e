"""Apps on disk beside registry, inbox and ledger archive on disk: a start knows what the process before it was told.

The gateway is `pushgw serve` as a process that is killed. The same without an app on disk: what the stores alone keep.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.content import Variant

pytestmark = pytest.mark.slow


def facts(counts: Any) -> tuple[Any, ...]:
    return counts.accepted, counts.states, counts.reasons, counts.channels


async def until(ask: Callable[[], Any], wanted: Any, timeout_s: float = 60.0) -> None:
    with trio.fail_after(timeout_s):
        while (found := await ask()) != wanted:
            await trio.sleep(0.05)
    assert found == wanted


async def test_what_a_killed_gateway_was_told_is_as_it_was_after_a_start(
    serve: Callable[..., Any],
    open_clients: Callable[..., Any],
    new_phone: Callable[[bytes], Any],
    simulators: Any,
    folder: Path,
) -> None:
    over: dict[str, Any] = {
        "app": {"durability": "disk"},
        "journal": {"segment_bytes": 1 << 20},
        "store": {"data_dir": str(folder / "store"), "shard_groups": 2},
    }
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, **over))
    unknown, late = os.urandom(16), os.urandom(16)
    async with open_clients(process.ready) as gateway:
        away = await gateway.register(3, "")
        to_vendor = await gateway.register(4)
        ended = await gateway.client.submit(
            Variant("ended", "body", strategy=2), [*to_vendor, unknown], request_id="one"
        )
        await gateway.until_final(ended.task_id)
        stored = await gateway.client.submit(Variant("stored", "body"), away, request_id="two")
        # In part: two rows have ended, and one waits for its device.
        mixed = await gateway.client.submit(Variant("mixed", "body"), [to_vendor[0], to_vendor[1], away[0]])
        await until(lambda: gateway.states(stored.task_id), {"held": 3})
        await until(lambda: gateway.states(mixed.task_id), {"vendor_accepted": 2, "held": 1})
        async with trio.open_nursery() as nursery:
            # Known by its connection alone, a moment before the end.
            phone = await new_phone(late).connect(gateway.link_port, nursery)
            phone.acknowledges = False
            last = await gateway.client.submit(Variant("last", "body"), [late])
            tasks = [ended.task_id, stored.task_id, mixed.task_id]
            before = [await gateway.client.task_state(task) for task in tasks]
            hops = (await gateway.client.trace(task_id=ended.task_id, device_id=to_vendor[2])).hops
            # The archive writes what has ended in its own time; nobody waits for it but this test.
            await until(lambda: stored_bytes(gateway, "ledger"), True)
            await process.end_by(signal.SIGKILL)
            nursery.cancel_scope.cancel()
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, **over))
    (found,) = process.logged("recovered")
    assert found["rows_uncertain"] <= 1
    async with open_clients(process.ready) as gateway:
        await until(lambda: gateway.states(stored.task_id), {"held": 3})
        await until(lambda: gateway.states(mixed.task_id), {"vendor_accepted": 2, "held": 1})
        await until(lambda: gateway.states(last.task_id), {"held": 1})
        after = [await gateway.client.task_state(task) for task in tasks]
        for was, now in zip(before, after, strict=True):
            assert facts(was) == facts(now)
        assert after[0].reasons == {"unknown_device": 1}
        assert (await gateway.client.trace(task_id=ended.task_id, device_id=to_vendor[2])).hops == hops
        again = await gateway.client.submit(
            Variant("ended", "body", strategy=2), [*to_vendor, unknown], request_id="one"
        )
        assert again.task_id == ended.task_id
        again = await gateway.client.submit(Variant("stored", "body"), away, request_id="two")
        assert again.task_id == stored.task_id
        new = await gateway.client.submit(Variant("new", "body"), [away[2]])
        assert new.task_id not in tasks
        async with trio.open_nursery() as nursery:
            phones = [await new_phone(one).connect(gateway.link_port, nursery) for one in [*away, late]]
            for task in (stored, mixed, last, new):
                await gateway.until_final(task.task_id)
            titles = [sorted(payload["title"] for payload in phone.payloads) for phone in phones]
            assert titles == [["mixed", "stored"], ["stored"], ["new", "stored"], ["last"]]
            await process.end_by(signal.SIGKILL)
            nursery.cancel_scope.cancel()
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, **over))
    async with open_clients(process.ready) as gateway:
        async with trio.open_nursery() as nursery:
            phones = [await new_phone(one).connect(gateway.link_port, nursery) for one in [*away, late]]
            for task in (stored, mixed, last, new):
                assert (await gateway.until_final(task.task_id)).is_final
            # Nothing was delivered again but what a crash may have made uncertain.
            assert sum(len(phone.payloads) for phone in phones) <= process.logged("recovered")[0]["rows_uncertain"]
            nursery.cancel_scope.cancel()
        assert (await gateway.metrics())["pushgw_rows_not_conserved", ""] == 0


async def stored_bytes(gateway: Any, store: str) -> bool:
    found = await gateway.metrics()
    return bool(found.get(("pushgw_store_bytes", store), 0)) and found["pushgw_pages_unsaved", ""] == 0
