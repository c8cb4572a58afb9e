"""What does a change cost on pages that are away, when hardly two are on the same page? A part of bench/ledger.py.

Unit: changes; `pages` pages of 65,536 rows in the archive, half of each held for devices that are away. Devices return
one by one, each to a row of a random page: the page is brought back, its row delivered and acknowledged, and the page
leaves memory again, which has room for a hundredth of them. Inside of the clock: all of that with its commits. Outside:
making the pages.

    cpu_ms_per_change, written_bytes_per_change (of the process, as the kernel counts them; 0 where it does not),
    log_bytes_per_change (what stands in the log afterwards), memory_bytes (at most, more than before the first change)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import trio

from bench.harness import resident_bytes
from gateway.actors.ledger import LedgerActor
from gateway.actors.page_forms import archived_form
from gateway.app_memory import keep_freed_memory
from gateway.batch import OwnershipEpoch
from gateway.columns import Rows
from gateway.core.counters import Counters, tally_pages
from gateway.core.home import Home
from gateway.errors import Overloaded
from gateway.ledger import Channel, LedgerPage, Reason, State
from gateway.message_id import ROWS_MAX
from gateway.store.sqlite_ledger import SqliteLedgerArchive

PAGES = 1_000
SMOKE_PAGES = 4
#: Changes of the measured part: each page has three or so.
CHANGES_PER_PAGE = 3
_HELD_FROM = ROWS_MAX // 2
_EPOCH = OwnershipEpoch(1)


def hold(page: LedgerPage, random: np.random.Generator) -> None:
    """The first half of its rows has arrived, the others wait for their devices."""
    arrived, held = slice(_HELD_FROM), slice(_HELD_FROM, None)
    page.state[arrived], page.state[held] = State.DEVICE_ACKED, State.HELD
    page.channel[arrived], page.channel[held] = Channel.LONG_LINK, Channel.NONE
    page.reason[held] = Reason.DEVICE_OFFLINE
    page.attempts[held] = 0
    page.issued_ms[arrived] = random.integers(5, 500, _HELD_FROM)
    page.final_ms[:] = 0
    page.final_ms[arrived] = page.issued_ms[arrived] + 40
    page.counts[:] = np.bincount(page.state, minlength=len(State))


async def measure(
    path: Path,
    n: int,
    random: np.random.Generator,
    make_page: Callable[[int, np.random.Generator], LedgerPage],
    make_home: Callable[[int], Home],
    make_ledger: Callable[[Home, SqliteLedgerArchive], LedgerActor],
) -> dict[str, Any]:
    # As a worker does.
    keep_freed_memory()
    archive = SqliteLedgerArchive(path)
    for number in range(n):
        page = make_page(number, random)
        hold(page, random)
        (tally,) = tally_pages([page], 0)
        await archive.write(_EPOCH, [archived_form(page, tally)])
    # Room for a hundredth of the pages, but for two at least.
    home = make_home(max(n // 100, 2) * page.memory_bytes() + 300 * n)
    home.counters = Counters(day_offset_s=0)
    ledger = make_ledger(home, archive)
    await ledger.load()
    changes = CHANGES_PER_PAGE * n
    memory_bytes = 0
    chosen = zip(random.integers(0, n, changes).tolist(), random.permutation(ROWS_MAX - _HELD_FROM), strict=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.run)
        # All rows of a page are in an inbox that is not asked here.
        ledger.stored_rows = _all_held
        # The first time that each is wanted after a start it is compared with the inbox, whole.
        for sequence in range(n):
            await ledger.fetch(sequence)
            await _make_room(home)
        await ledger.flush()
        cpu_s, written = time.process_time(), _written_bytes()
        before = resident_bytes()
        for sequence, row in chosen:
            rows = np.array([_HELD_FROM + int(row)])
            brought = await ledger.fetch_rows(sequence, rows)
            assert brought is not None
            now = brought.batch.born + 60.0
            if brought.state[rows[0]] == State.HELD:
                brought.attempts[rows] += 1
                home.move(brought, rows, State.IN_FLIGHT, Reason.NONE, now, channel=Channel.LONG_LINK)
                home.move(brought, rows, State.DEVICE_ACKED, Reason.NONE, now + 0.05, channel=Channel.LONG_LINK)
            await _make_room(home)
            memory_bytes = max(memory_bytes, resident_bytes() - before)
        await ledger.flush()
        cpu_s, written = time.process_time() - cpu_s, _written_bytes() - written
        nursery.cancel_scope.cancel()
    (log_bytes,) = archive.database.read.execute("SELECT coalesce(sum(length(record)), 0) FROM changes").fetchone()
    archive.close()
    return {
        "pages": n,
        "changes": changes,
        "cpu_ms_per_change": round(cpu_s / changes * 1000, 2),
        "written_bytes_per_change": round(written / changes),
        "log_bytes_per_change": round(log_bytes / changes),
        "memory_bytes": memory_bytes,
    }


async def _all_held(page: LedgerPage, rows: Rows | None) -> Rows:
    await trio.lowlevel.checkpoint()
    held = np.flatnonzero(page.state == State.HELD)
    return held if rows is None else held[np.isin(held, rows)]


async def _make_room(home: Home) -> None:
    """As an intake that is told to come again."""
    while True:
        try:
            home.check_room(0)
        except Overloaded:
            await trio.sleep(0.001)
        else:
            return


def _written_bytes() -> int:
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))
