"""Apps on disk: what was answered survives the end of the process, goes out once, and is accounted for.

The gateway is `pushgw serve` as a process that is killed; targets are (vendor, token), since the registry is in memory
and forgets devices.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.client.errors import CallFailed, GatewayUnreachable
from gateway.content import Variant
from gateway.ledger import Flag

pytestmark = pytest.mark.slow

DISK = {"durability": "disk"}
ROOT = Path(__file__).resolve().parents[2]


def vendor_only(**fields: Any) -> Variant:
    return Variant("title", "body", **({"strategy": 2} | fields))


def tokens(n: int) -> list[tuple[str, str]]:
    return [("apns", os.urandom(32).hex()) for _ in range(n)]


async def started(serve: Callable[..., Any], simulators: Any, **over: Any) -> Any:
    over = {"app": DISK, "journal": {"segment_bytes": 1 << 20}} | over
    return await trio.to_thread.run_sync(lambda: serve(simulators.ready, **over))


async def until_received(simulators: Any, n: int, timeout_s: float = 60.0) -> Counter[str]:
    with trio.fail_after(timeout_s):
        while True:
            copies = await trio.to_thread.run_sync(simulators.copies, "apns")
            if len(copies) >= n:
                return Counter(copies)
            await trio.sleep(0.05)


async def test_queued_rows_of_a_killed_gateway_go_out_once_at_the_next_start_and_none_is_uncertain(
    serve: Callable[..., Any], open_clients: Callable[..., Any], own_simulators: Any
) -> None:
    simulators = own_simulators
    simulators.stop()
    process = await started(serve, simulators)
    async with open_clients(process.ready) as gateway:
        for _ in range(5):
            await gateway.client.submit(vendor_only(), tokens(200))
        # Lanes have had them for a while, and no connection to send them over.
        await gateway.until_written()
    await process.end_by(signal.SIGKILL)
    simulators.start()
    process = await started(serve, simulators)
    (recovered,) = process.logged("recovered")
    assert (recovered["batches"], recovered["rows"]) == (5, 1000)
    assert (recovered["rows_unsent"], recovered["rows_uncertain"]) == (1000, 0)
    copies = await until_received(simulators, 1000)
    assert set(copies.values()) == {1}
    await process.end_by(signal.SIGTERM)
    # They are final, and a further start finds nothing to do.
    process = await started(serve, simulators)
    (recovered,) = process.logged("recovered")
    assert recovered["batches"] == 0


@pytest.mark.parametrize("are_final", [True, False])
async def test_a_request_id_gets_its_first_answer_after_a_restart(
    serve: Callable[..., Any], open_clients: Callable[..., Any], own_simulators: Any, are_final: bool
) -> None:
    """Whether the batch is still in the journal, or gone from it with only its request id left."""
    simulators, targets = own_simulators, tokens(3)
    if not are_final:
        simulators.stop()
    process = await started(serve, simulators)
    async with open_clients(process.ready) as gateway:
        first = await gateway.client.submit(vendor_only(), targets, request_id="order 17")
        other = await gateway.client.submit(vendor_only(), tokens(1), request_id="order 18")
        if are_final:
            await gateway.until_final(first.task_id)
            await gateway.until_final(other.task_id)
            await gateway.until_written()
    await process.end_by(signal.SIGKILL)
    process = await started(serve, simulators)
    assert process.logged("recovered")[0]["batches"] == (0 if are_final else 2)
    async with open_clients(process.ready) as gateway:
        again = await gateway.client.submit(vendor_only(), targets, request_id="order 17")
        assert (again.task_id, again.accepted) == (first.task_id, 3)
        with pytest.raises(CallFailed, match="used before with another body"):
            await gateway.client.submit(vendor_only(), tokens(2), request_id="order 18")
        assert (await gateway.metrics())["pushgw_idempotency_ids", ""] == 2
        assert ("pushgw_rows_accepted_total", "shop") not in await gateway.metrics()


async def test_rows_in_flight_at_a_kill_follow_the_rule_of_their_class(
    serve: Callable[..., Any], open_clients: Callable[..., Any], simulators: Any
) -> None:
    process = await started(serve, simulators)
    async with open_clients(process.ready) as gateway:
        # The connection is known to its peer; else one row would go alone.
        first = await gateway.client.submit(vendor_only(), tokens(2))
        await gateway.until_final(first.task_id)
        simulators.fault("apns", "no_answer", for_s=60)
        system = await gateway.client.submit(vendor_only(), tokens(30))
        marketing = await gateway.client.submit(vendor_only(class_="marketing"), tokens(20))
        with trio.fail_after(60):
            for task, n in ((system, 30), (marketing, 20)):
                while (await gateway.states(task.task_id)).get("in_flight", 0) < n:
                    await trio.sleep(0.02)
        simulators.call("DELETE", "/fault")
    await process.end_by(signal.SIGKILL)
    process = await started(serve, simulators)
    (recovered,) = process.logged("recovered")
    assert (recovered["rows_uncertain"], recovered["rows_uncertain_resent"]) == (50, 30)
    async with open_clients(process.ready) as gateway:
        assert (await gateway.until_final(system.task_id)).states == {"vendor_accepted": 30}
        counts = await gateway.until_final(marketing.task_id)
        assert (counts.states, counts.reasons) == ({"uncertain": 20}, {"process_ended": 20})
        assert all(flags & Flag.RESENT_UNCERTAIN for _, _, flags in await gateway.rows(system.task_id))
        found = await gateway.metrics()
        assert found["pushgw_rows_recovered_total", "resent"] == 30
        assert found["pushgw_rows_recovered_total", "uncertain"] == 20


async def test_a_ttl_counts_from_the_submit_across_a_restart(
    serve: Callable[..., Any], open_clients: Callable[..., Any], own_simulators: Any
) -> None:
    simulators = own_simulators
    simulators.stop()
    process = await started(serve, simulators)
    async with open_clients(process.ready) as gateway:
        short = await gateway.client.submit(vendor_only(ttl_s=2), tokens(10))
        long = await gateway.client.submit(vendor_only(ttl_s=600), tokens(5))
    await process.end_by(signal.SIGKILL)
    simulators.start()
    await trio.sleep(2.0)
    process = await started(serve, simulators)
    assert process.logged("recovered")[0]["rows_expired"] == 10
    async with open_clients(process.ready) as gateway:
        counts = await gateway.until_final(short.task_id)
        assert (counts.states, counts.reasons) == ({"expired": 10}, {"ttl_passed": 10})
        assert (await gateway.until_final(long.task_id)).states == {"vendor_accepted": 5}
    assert len(simulators.copies("apns")) == 5


async def test_what_a_stopping_gateway_leaves_is_told_and_goes_on_at_the_next_start(
    serve: Callable[..., Any], open_clients: Callable[..., Any], own_simulators: Any
) -> None:
    simulators = own_simulators
    simulators.stop()
    process = await started(serve, simulators, gateway={"drain_s": 0.5})
    async with open_clients(process.ready) as gateway:
        await gateway.client.submit(vendor_only(), tokens(40))
    assert await process.end_by(signal.SIGTERM) == 0
    (stopped,) = process.logged("stopped")
    assert (stopped["rows_in_journal"], stopped["rows_lost"]) == (40, 0)
    simulators.start()
    process = await started(serve, simulators)
    assert set((await until_received(simulators, 40)).values()) == {1}


async def test_a_second_gateway_on_the_same_folder_is_refused(
    serve: Callable[..., Any], simulators: Any, folder: Path
) -> None:
    await started(serve, simulators)
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(folder / "gateway.toml")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    second = await trio.to_thread.run_sync(
        lambda: subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=120, check=False)
    )
    assert second.returncode == 2
    assert b"gateway.data_dir" in second.stderr
    assert b"no other gateway" in second.stderr


async def test_a_journal_that_is_full_refuses_new_rows_and_sends_those_it_has(
    serve: Callable[..., Any], open_clients: Callable[..., Any], own_simulators: Any
) -> None:
    simulators = own_simulators
    simulators.stop()
    limits = {"segment_bytes": 1 << 16, "bytes_max": 1 << 20, "retry_s": 0.2}
    process = await started(serve, simulators, journal=limits, gateway={"batch_bytes_max": 1 << 18})
    accepted = 0
    async with open_clients(process.ready, timeout_s=3.0) as gateway:
        # The client asks again until its deadline, which may find it between two refusals or in the middle of one.
        refused = r"nothing can be made durable: .*limit 1048576|no answer before the deadline"
        with pytest.raises((CallFailed, GatewayUnreachable), match=refused):  # noqa: PT012
            while True:
                accepted += (await gateway.client.submit(vendor_only(), tokens(500))).accepted
        found = await gateway.metrics()
        assert found["pushgw_journal_failed", ""] == 1
        assert found["pushgw_journal_errors_total", "full"] > 0
        assert process.logged("journal fails, intake is stopped for apps on disk")
        assert accepted > 3000
        simulators.start()
        assert set((await until_received(simulators, accepted)).values()) == {1}
        assert (await gateway.metrics())["pushgw_rows_issued_unmarked_total", ""] == 0
        # Their batches are gone, so there is room again.
        answer = await gateway.client.submit(vendor_only(), tokens(500))
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 500}
        assert (await gateway.metrics())["pushgw_journal_failed", ""] == 0


async def test_a_data_folder_removed_under_us_stops_intake_and_what_was_accepted_is_sent(
    serve: Callable[..., Any], open_clients: Callable[..., Any], own_simulators: Any, folder: Path
) -> None:
    simulators = own_simulators
    simulators.stop()
    process = await started(serve, simulators)
    async with open_clients(process.ready, timeout_s=3.0) as gateway:
        await gateway.client.submit(vendor_only(), tokens(50))
        shutil.rmtree(folder / "data" / "journal")
        with pytest.raises(CallFailed, match="removed while it was in use"):
            await gateway.client.submit(vendor_only(), tokens(50))
        simulators.start()
        # Nobody promises that they are not sent twice after a crash now; that is said, and counted.
        assert set((await until_received(simulators, 50)).values()) == {1}
        found = await gateway.metrics()
        assert found["pushgw_rows_issued_unmarked_total", ""] >= 50
        assert found["pushgw_journal_failed", ""] == 1
    assert process.logged("rows leave without a durable mark: after a crash they would be sent again")


async def test_a_damaged_record_stops_intake_until_it_is_given_up_and_the_others_are_sent(
    serve: Callable[..., Any], open_clients: Callable[..., Any], own_simulators: Any, folder: Path
) -> None:
    simulators = own_simulators
    simulators.stop()
    process = await started(serve, simulators)
    async with open_clients(process.ready) as gateway:
        for n in (10, 20, 30):
            await gateway.client.submit(vendor_only(), tokens(n))
    await process.end_by(signal.SIGKILL)
    (log,) = sorted((folder / "data" / "journal" / "0000").glob("*.log"))
    data = bytearray(log.read_bytes())
    # in the texts of the second batch
    at = data.index(b"body", data.index(b"body") + 100)
    data[at] ^= 0xFF
    log.write_bytes(data)
    simulators.start()
    process = await started(serve, simulators)
    assert process.logged("damaged record")
    assert set((await until_received(simulators, 40)).values()) == {1}
    async with open_clients(process.ready) as gateway:
        with pytest.raises(CallFailed, match=r"damaged records in the journal.*skip_damaged"):
            await gateway.client.submit(vendor_only(), tokens(1))
        found = await gateway.metrics()
        assert (found["pushgw_journal_errors_total", "corrupt"], found["pushgw_journal_failed", ""]) == (1, 1)
    await process.end_by(signal.SIGKILL)
    process = await started(serve, simulators, journal={"skip_damaged": True})
    async with open_clients(process.ready) as gateway:
        answer = await gateway.client.submit(vendor_only(), tokens(1))
        await gateway.until_final(answer.task_id)
        await gateway.until_written()
    await process.end_by(signal.SIGKILL)
    process = await started(serve, simulators)
    assert not process.logged("damaged record")
