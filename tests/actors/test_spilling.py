"""Spilling: pages with rows that are queued, in flight or wait for a retry go on from the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.actors.spilling import Spilling
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.core.retry import RetryPolicy
from gateway.errors import Overloaded, StoreError
from gateway.ledger import Channel
from gateway.store.spill import ROWS_MIN, Spill

PAGES = 4
#: What two pages of this test take.
LEDGER_BYTES = 2 * 200 * ROWS_MIN


class SpillNow(Spill):
    """Without a thread, during which an autojump clock would jump."""

    async def _run(self, arrays: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return self._write(arrays)


class Observer:
    def __init__(self) -> None:
        self.pages = 0
        self.errors: list[StoreError] = []

    def spilled(self, pages: int) -> None:
        self.pages += pages

    def not_spilled(self, error: StoreError) -> None:
        self.errors.append(error)


def token(number: int) -> bytes:
    return b"%064d" % number


async def send(world: Any, number: int) -> Any:
    """A page of tokens with a text each."""
    rows = range(number * ROWS_MIN, (number + 1) * ROWS_MIN)
    texts = {"name": TextColumn.from_rows([b"number %d" % row for row in rows])}
    return await world.send(
        [(Channel.APNS, token(row)) for row in rows], Variant("{{name}}", "b", strategy=2), variables=texts
    )


async def test_rows_in_any_state_leave_memory_and_go_on_as_they_would_have(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, tmp_path: Path
) -> None:
    world = make_world(policy=RetryPolicy(first_s=60.0, jitter=0.0), slice_rows=ROWS_MIN, connections_max=1)
    spill, observer = SpillNow(tmp_path, bytes_max=1 << 30), Observer()
    spilling = Spilling(home=world.home, spill=spill, observer=observer)
    world.home._ledger_bytes_max = LEDGER_BYTES
    world.apns.streams_max = 500
    await world.start(nursery)
    pages = [await send(world, 0)]
    # Of the first page 200 wait for a retry and 410 are in flight; all others are queued.
    world.apns.last.answer(503, n=200)
    await world.settle()
    pages += [await send(world, number) for number in range(1, PAGES)]
    await spilling.make_room()
    assert world.states(pages[0]) == {"waiting": 200, "in_flight": 410, "queued": ROWS_MIN - 610}
    assert observer.pages >= PAGES - 2
    assert pages[0].is_spilled
    assert world.home.statistics().ledger_bytes <= LEDGER_BYTES
    # Nothing is done while there is room.
    await spilling.make_room()
    assert sum(page.is_spilled for page in pages) == observer.pages < PAGES
    while any(page.n_open for page in pages):
        if world.apns.last.open:
            world.apns.last.answer(n=len(world.apns.last.open))
            await world.settle()
        else:
            await world.wait(61)
    sent: dict[str, list[str]] = {}
    for path, _, body in world.apns.requests():
        sent.setdefault(path, []).append(body["aps"]["alert"]["title"])
    first = [f"/3/device/{token(row).decode()}" for row in range(200)]
    assert all(sent[path] == [f"number {row}"] * 2 for row, path in enumerate(first))
    assert sorted(text for texts in sent.values() for text in set(texts)) == sorted(
        f"number {row}" for row in range(PAGES * ROWS_MIN)
    )
    for page in pages:
        assert world.states(page) == {"vendor_accepted": ROWS_MIN}
        world.assert_one_verdict_per_attempt(page)
    assert world.home.rows_not_conserved() == 0


async def test_where_the_disk_refuses_pages_stay_and_intake_does(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, tmp_path: Path
) -> None:
    world = make_world(slice_rows=ROWS_MIN)
    observer = Observer()
    spilling = Spilling(home=world.home, spill=SpillNow(tmp_path / "gone", bytes_max=1 << 30), observer=observer)
    world.apns.gate = trio.Event()
    await world.start(nursery)
    for number in range(PAGES):
        await send(world, number)
    world.home._ledger_bytes_max = LEDGER_BYTES
    await spilling.make_room()
    assert observer.pages == 0
    assert len(observer.errors) == 1
    with pytest.raises(Overloaded, match="ledger bytes"):
        world.home.check_room(1)
    assert world.home.rows_not_conserved() == 0
