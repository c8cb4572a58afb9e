"""How long the holder of rows lets reports to their home come together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from gateway.actors.worker_link import GATHER_MANY_S, GATHER_S, MANY_ROWS
from gateway.core.shadow import FEW_ROWS
from gateway.ledger import Channel, State


@pytest.mark.parametrize(("n", "wait_s"), [(FEW_ROWS, 0.016), (FEW_ROWS + 1, GATHER_S), (MANY_ROWS + 8, GATHER_MANY_S)])
async def test_reports_gather_by_the_size_of_their_slice_and_of_a_small_one_no_longer_than_it_has_rows_open(
    make_cluster: Callable[..., Any], autojump_clock: Any, n: int, wait_s: float
) -> None:
    cluster = await make_cluster(slice_rows=1_000)
    reports: list[tuple[float, int]] = []
    home = cluster.workers[0].links
    real = home.on_outcomes
    devices = cluster.owned_by(1, n, Channel.NONE)
    for device in devices:
        cluster.world(1).go_online(device)
    page = await cluster.send(0, devices)
    began = trio.current_time()
    home.on_outcomes = lambda life, message: (
        reports.append((trio.current_time() - began, message.n)),
        real(life, message),
    )
    for part in (devices[:2], devices[2:5], devices[5:]):
        for device in part:
            cluster.world(1).acknowledge(device)
        await trio.sleep(0.008)
    await cluster.settle()
    assert [told for _, told in reports] == [n]
    assert reports[0][0] == pytest.approx(wait_s)
    assert (page.state == State.DEVICE_ACKED).all()


async def test_whole_slices_that_follow_each_other_are_reported_together(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    reports: list[tuple[float, int]] = []
    home = cluster.workers[0].links
    real = home.on_outcomes
    devices = cluster.owned_by(1, 8, Channel.NONE)
    for device in devices:
        cluster.world(1).go_online(device)
    pages = [await cluster.send(0, [device]) for device in devices]
    await cluster.settle()
    began = trio.current_time()
    home.on_outcomes = lambda life, message: (
        reports.append((trio.current_time() - began, message.n)),
        real(life, message),
    )
    for device in devices:
        cluster.world(1).acknowledge(device)
        await trio.sleep(GATHER_S / 4)
    await cluster.settle()
    # The first at once, those of the next 20 ms at their end, and so on.
    assert sorted({round(at / GATHER_S) for at, _ in reports}) == [0, 1, 2]
    assert sum(told for _, told in reports) == len(devices)
    assert all((page.state == State.DEVICE_ACKED).all() for page in pages)
