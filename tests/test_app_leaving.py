"""How a worker leaves: what a journal on the disk has is not lost with its process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio

from gateway.app_leaving import has_rows_to_lose, rows_to_lose, wait_told
from gateway.batch import Batch
from gateway.content import Variant
from gateway.core.holders import Holders
from gateway.core.home import Home
from gateway.core.report import open_rows
from gateway.core.shadow import Life
from gateway.core.trail import Trail
from gateway.ledger import Channel, LedgerPage, State


class Site:
    """What a worker is asked for when it leaves."""

    def __init__(self) -> None:
        self.home = Home(
            secret=b"secret",
            journal=0,
            observer=SilentHome(),
            ledger_bytes_max=1 << 30,
            rows_open_max=1 << 20,
            change_rows_max=1000,
            now=0.0,
        )
        self.home.trail = self.trail = Trail(issued_rows_max=100)
        self.stores = SimpleNamespace(ledger=None, rows_at_rest=lambda _home: 0)
        self.lives: list[Life] = [Life(1, 1)]
        spread = SimpleNamespace(holders=Holders(self.home))
        self.joint = SimpleNamespace(links=SimpleNamespace(lives=lambda: self.lives), spread=spread)
        self.disk = SimpleNamespace(trail=self.trail)

    def rows_open(self) -> dict[str, int]:
        return open_rows(self.home.pages())

    def page(self, *, is_durable: bool) -> LedgerPage:
        batch = Batch(
            self.home.next_address(1_700_000_000_000, 0.0),
            0,
            0.0,
            4,
            device_ids=np.zeros((4, 16), np.uint8),
            variants=[Variant("title", "body")],
        )
        page = self.home.open(batch, 0.0)
        if is_durable:
            self.trail.follow(page, 1)
        return page


class SilentHome:
    def moved(self, *_: Any) -> None: ...

    def finished(self, *_: Any) -> None: ...

    def receipts_rose(self, *_: Any) -> None: ...


def test_rows_in_a_journal_are_not_lost_but_those_that_are_out_and_heard_of_nowhere_else() -> None:
    site: Any = Site()
    page, memory = site.page(is_durable=True), site.page(is_durable=False)
    site.home.move(page, np.array([0, 1]), State.IN_FLIGHT, None, 1.0)
    site.home.move(memory, np.array([0]), State.IN_FLIGHT, None, 1.0)
    assert rows_to_lose(site) == {"queued": 3, "held": 0, "in_flight": 3, "waiting": 0}
    # Of a row that another worker has, this one need not hear the end.
    page.away = np.array([2, 0, 2, 0], np.uint8)
    assert rows_to_lose(site) == {"queued": 3, "held": 0, "in_flight": 2, "waiting": 0}
    site.joint = None
    assert rows_to_lose(site)["in_flight"] == 2


@pytest.mark.parametrize("is_on_disk", [False, True])
def test_whether_rows_are_to_be_lost_is_what_counting_them_says(is_on_disk: bool) -> None:
    site: Any = Site()
    if not is_on_disk:
        site.disk = None
    seen = []

    def look() -> None:
        seen.append(has_rows_to_lose(site))
        assert seen[-1] == any(rows_to_lose(site).values())

    look()
    page = site.page(is_durable=is_on_disk)
    look()
    for state in (State.IN_FLIGHT, State.VENDOR_ACCEPTED):
        site.home.move(page, np.arange(4), state, None, 1.0)
        look()
    assert seen == [False, not is_on_disk, True, False]


def test_whether_rows_are_to_be_lost_is_answered_without_a_look_at_every_page() -> None:
    site: Any = Site()
    site.disk = None
    site.page(is_durable=False)
    site.rows_open = None  # what looks at all of them
    assert has_rows_to_lose(site)


async def test_a_worker_that_ends_waits_for_what_others_know_of_its_rows_and_no_longer_than_they_live(
    autojump_clock: trio.abc.Clock,
) -> None:
    site: Any = Site()
    page = site.page(is_durable=True)
    site.trail.mark(page, np.array([0]), Channel.APNS, lambda: None)
    with pytest.raises(trio.TooSlowError), trio.fail_after(5):
        await wait_told(site, 10.0)
    began = trio.current_time()
    await wait_told(site, began + 10.0)
    assert trio.current_time() >= began + 10.0
    site.lives = []
    await wait_told(site, trio.current_time() + 10.0)
    assert trio.current_time() < began + 11.0
    # From then on nobody is let go: what became of the row would not be heard here.
    marks = site.joint.spread.holders.marks
    marks.announced(1, 1, page, np.array([1]))
    assert marks.advance() == []
