"""Probe connections against the strict simulator: one bad token does not stall a thousand good ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from gateway.client.requests import DeviceState
from gateway.content import Variant
from gateway.ledger import NO_VERDICT

pytestmark = pytest.mark.timed

GOOD = 600
NEW = 60
#: Every sixth of the new tokens.
DEAD_EVERY = 6
CONTENT = Variant("title", "body", strategy=2)


def states(n: int, *, proven_unix_s: int) -> list[DeviceState]:
    ids = [os.urandom(16) for _ in range(n)]
    return [DeviceState(device_id=one, channel="apns", token=one.hex() * 2, proven_unix_s=proven_unix_s) for one in ids]


@pytest.mark.parametrize("probes", [True, False])
async def test_bad_new_tokens_hold_up_no_proven_ones(
    probes: bool, open_gateway: Callable[..., Any], simulators: Any
) -> None:
    """Without probes the same site shows what they are for: proven rows are reset with the bad ones and sent again."""
    simulators.fault("apns", "latency", ms=40)
    good, new = states(GOOD, proven_unix_s=1), states(NEW, proven_unix_s=0)
    dead = new[::DEAD_EVERY]
    simulators.call(
        "PUT", "/tokens", {"simulator": "apns", "fate": "Unregistered", "tokens": [one.token for one in dead]}
    )
    async with open_gateway(simulators.ready, apns={"probes": probes}) as gateway:
        await gateway.client.register_devices([*good, *new])
        # the connection is up and its peer knows the provider token
        warm = await gateway.client.submit(CONTENT, [good[0].device_id])
        await gateway.until_final(warm.task_id)
        mixed = [one.device_id for index in range(NEW) for one in (*good[index * 10 : index * 10 + 10], new[index])]
        answer = await gateway.client.submit(CONTENT, mixed)
        counts = await gateway.until_final(answer.task_id)
        assert counts.states == {"vendor_accepted": GOOD + NEW - len(dead), "failed": len(dead)}
        page = list(gateway.worker.home.pages())[-1]
        sent = Counter(row for burst in page.bursts for row in burst.rows.tolist())
        unanswered = sum(int((burst.verdicts == NO_VERDICT).sum()) for burst in page.bursts)
        is_new = [row % 11 == 10 for row in range(page.n)]
        again = sum(sent[row] > 1 for row in range(page.n) if not is_new[row])
        metrics = await gateway.metrics()
        if not probes:
            assert again > 0
            assert metrics["pushgw_rows_probed_total", "apns"] == 0
            return
        assert again == 0, f"{again} proven rows were reset; {unanswered} rows in all"
        assert metrics["pushgw_rows_probed_total", "apns"] == NEW + unanswered
        assert metrics["pushgw_probe_waits_over_total", "apns"] == 0
        # what was accepted is proven: now it is all normal traffic
        alive = [one.device_id for one in new if one not in dead]
        answer = await gateway.client.submit(CONTENT, alive)
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": len(alive)}
        later = await gateway.metrics()
        assert later["pushgw_rows_probed_total", "apns"] == metrics["pushgw_rows_probed_total", "apns"]


async def test_a_campaign_of_new_tokens_ends_with_each_row_in_one_state(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    new = states(2000, proven_unix_s=0)
    dead = new[::20]
    simulators.call(
        "PUT", "/tokens", {"simulator": "apns", "fate": "BadDeviceToken", "tokens": [one.token for one in dead]}
    )
    async with open_gateway(simulators.ready) as gateway:
        await gateway.client.register_devices(new)
        answer = await gateway.client.submit(CONTENT, [one.device_id for one in new])
        counts = await gateway.until_final(answer.task_id, 60.0)
        assert counts.states == {"vendor_accepted": 1900, "failed": 100}
        assert simulators.copies("apns").total() == 1900
