"""A task is stopped at its home: rows that other workers hold end there, and those on their way end on arrival."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import trio

from gateway.actors.task_control import Span
from gateway.content import Variant
from gateway.ledger import Channel, State


def states(page: Any) -> list[str]:
    return [State(code).name.lower() for code in page.state.tolist()]


async def stop(cluster: Any, home: int, page: Any) -> Any:
    with trio.fail_after(60):
        return await cluster.world(home).control.stop(page.batch.segments[0].task_id)


async def test_rows_that_wait_at_another_worker_end_there_and_their_home_knows(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster(rate_per_s=0.001, burst=1)
    devices = [*cluster.owned_by(1, 3), *cluster.owned_by(1, 2, Channel.NONE), *cluster.owned_by(0, 1, Channel.NONE)]
    page = await cluster.send(0, devices)
    await trio.sleep(0.1)
    assert states(page) == ["in_flight"] + ["queued"] * 2 + ["held"] * 3
    assert await stop(cluster, 0, page) == (5, 0)
    assert states(page) == ["in_flight"] + ["cancelled"] * 5
    await cluster.settle()
    assert len(cluster.world(1).inbox_store) == len(cluster.world(0).inbox_store) == 0
    cluster.answer_all(1, 503)
    await trio.sleep(5000)
    assert states(page) == ["cancelled"] * 6
    assert len(cluster.world(1).apns.requests()) == 1


async def test_rows_of_other_tasks_at_the_same_worker_go_on(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    devices = cluster.owned_by(1, 4, Channel.NONE)
    kept, stopped = await cluster.send(0, devices[:2]), await cluster.send(0, devices[2:])
    await stop(cluster, 0, stopped)
    assert (states(kept), states(stopped)) == (["held"] * 2, ["cancelled"] * 2)


async def test_a_slice_that_arrives_after_the_stop_ends_on_arrival(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    devices = cluster.owned_by(1, 3)
    page = cluster.world(0).open(devices)
    address = page.batch.address
    ended = await cluster.workers[0].stops.stop_at(1, [Span(address, 0, 2)])
    assert ended == (0, 0)
    cluster.world(0).router.route(page)
    await cluster.settle()
    assert states(page) == ["cancelled"] * 2 + ["in_flight"]
    assert len(cluster.world(1).apns.requests()) == 1


async def test_rows_of_a_stopped_task_do_not_go_again_when_their_holder_dies(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    cluster.resends = True
    devices = cluster.owned_by(1, 3)
    page = await cluster.send(0, devices, Variant("title", "body", strategy=2))
    await trio.sleep(0.1)
    assert states(page) == ["in_flight"] * 3
    await stop(cluster, 0, page)
    await cluster.kill(1)
    await cluster.revive(1, devices)
    await trio.sleep(1)
    assert states(page) == ["cancelled"] * 3
    assert cluster.world(1).apns.requests() == []
    assert np.count_nonzero(page.flags) == 3
