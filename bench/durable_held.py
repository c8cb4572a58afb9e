"""How much memory do rows take that wait for their devices? Part of `python -m bench durable`, workload `held`.

Unit: rows of one content for devices that are away, in batches of 65,536, through the stores as a worker has them: the
home, the inbox and its actor, the ledger archive and its actor. In a process of its own, whose memory is what is asked
for. Inside of the clock: pages opened, rows put into the inbox (durable), pages packed and written, pages let go.

    rows_per_s       until every row is in the inbox, and every page that had to leave memory has left it
    rss_*_bytes      of the process: with the stores open and empty, the most at any time, and at the end
    limit_bytes      rss_empty_bytes, ledger.ledger_memory_bytes_max, 300 bytes for each page that is away, what the
                     inbox keeps of each row (gateway/store/inbox_memory.py) and WORK_BYTES for what the stores have
                     under way; the run fails where the memory was above it
    open_s           the same stores opened by a new process: rows counted, pages known; its memory as rss_opened_bytes
    first_return_ms  a device is back, the first of its page since the start: from the question for its rows to its row
                     in memory, sure to be in the inbox
    check_ms         after that the page is brought here whole and compared with the inbox, once, in the background
    return_ms        later devices, one after the other, each with a row of another page than the one before: from its
                     return to its row handed over, through inbox actor and archive; return_cpu_ms: CPU of each, with
                     its acknowledgement and all that is written of it; return_rss_bytes: memory more at the end
"""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import trio

from bench.harness import Line, Options, calibrate, line, progress
from gateway.actors.inbox import InboxActor
from gateway.actors.ledger import LedgerActor
from gateway.batch import Batch, OwnershipEpoch, TaskSegment
from gateway.clock import SystemClock
from gateway.columns import U8, Rows
from gateway.content import Variant
from gateway.core.home import Home, split_by_sequence
from gateway.errors import Overloaded
from gateway.ledger import Channel, LedgerPage, Reason, Receipt, State
from gateway.observe.counting import HomeCounts
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.observe.store_counts import LedgerCounts
from gateway.store.inbox_memory import index_bytes
from gateway.store.sqlite_inbox import SqliteInbox
from gateway.store.sqlite_ledger import SqliteLedgerArchive

ROWS = 10_000_000
SMOKE_ROWS = 100_000
BATCH_ROWS = 65_536
SMOKE_BATCH_ROWS = 8192
#: Rows that the router hands to the inbox at once.
_SLICE_ROWS = 5120
#: Two million rows of 58 bytes: a small part of what is held. In the smallest size, two of its batches.
LEDGER_BYTES = 128 << 20
SMOKE_LEDGER_BYTES = 2 * 58 * SMOKE_BATCH_ROWS
#: A write of a million rows (columns copied, joined and packed: some 130 bytes a row), the caches of both databases (16
#: and 2 MiB), rows on their way into the inbox.
WORK_BYTES = 192 << 20
#: Pages to which devices return, and how many to each.
_PAGES_MAX = 64
_RETURNS_PER_PAGE = 12
_EPOCH = OwnershipEpoch(1)
_SECRET = bytes(32)


def run(options: Options) -> Line:
    rows = int(options.extra.get("rows", SMOKE_ROWS if options.smoke else ROWS))
    batch_rows, ledger_bytes = (SMOKE_BATCH_ROWS, SMOKE_LEDGER_BYTES) if options.smoke else (BATCH_ROWS, LEDGER_BYTES)
    before = calibrate()
    progress(f"durable held: {rows:,} rows that wait for their devices ...")
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
    figures: Line = {}
    try:
        for part in ("fill", "open"):
            arguments = [part, str(folder), str(rows), str(batch_rows), str(ledger_bytes), str(options.seed)]
            done = subprocess.run(
                [sys.executable, "-m", "bench.durable_held", *arguments], stdout=subprocess.PIPE, check=True
            )
            figures |= json.loads(done.stdout)
        disk = sum(path.stat().st_size for path in folder.iterdir())
    finally:
        shutil.rmtree(folder)
    assert figures["rows_held"] == figures["rows_opened"] == rows, "rows are missing"
    assert figures["ledger_bytes"] <= ledger_bytes, "the ledger is above ledger_memory_bytes_max"
    assert figures["rss_max_bytes"] <= figures["limit_bytes"], "the memory was above its limit"
    return line(
        "durable",
        "held",
        content="shared",
        batch_rows=batch_rows,
        rows=rows,
        **figures,
        disk_bytes_per_row=round(disk / rows, 1),
        calibration_before=before,
        calibration_after=calibrate(),
        calibration_unit="million additions per s",
    )


class _Phones:
    """The router, as the inbox knows it: devices are away, or take what they get and acknowledge it."""

    def __init__(self, home: Home, clock: SystemClock) -> None:
        self._home, self._clock = home, clock
        self.are_there = False
        #: What each was handed over, since it was last asked for.
        self.taken: list[bytes] = []
        self.has_taken = trio.Event()

    def online_ids(self, app: int, device_ids: U8) -> list[bytes]:
        return []

    async def mark_held(self, page: LedgerPage, rows: Rows) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    def deliver_held(self, page: LedgerPage, rows: Rows) -> Rows:
        if not self.are_there:
            return rows
        now, link = self._clock.monotonic(), Channel.LONG_LINK
        page.channel[rows], page.issued_ms[rows] = link, page.stamp(now)
        page.attempts[rows] += np.uint8(1)
        self._home.move(page, rows, State.IN_FLIGHT, Reason.NONE, now, channel=link)
        self._home.move(page, rows, State.DEVICE_ACKED, Reason.NONE, now, channel=link, receipt=Receipt.DELIVERED)
        self.taken += [device.tobytes() for device in page.batch.device_ids.take(rows, axis=0)]
        self.has_taken.set()
        return rows[:0]


class _World:
    """The stores of a worker, in a folder. rows: of the inbox's limit."""

    def __init__(self, folder: Path, rows: int, ledger_bytes: int) -> None:
        metrics, clock = Metrics(), SystemClock()
        self.clock = clock
        self.home = Home(
            secret=_SECRET,
            journal=0,
            observer=HomeCounts(metrics),
            ledger_bytes_max=ledger_bytes,
            rows_open_max=1 << 40,
            change_rows_max=1,
            now=clock.monotonic(),
        )
        limits = {
            "rows_per_device_max": 100,
            "rows_max": rows,
            "bytes_per_device_max": 1 << 20,
            "bytes_max": 1 << 60,
        }
        self.store = SqliteInbox(folder / "inbox.db", **limits)
        self.archive = SqliteLedgerArchive(folder / "ledger.db")
        self.ledger = LedgerActor(
            store=self.archive,
            inbox=self.store,
            epoch=_EPOCH,
            home=self.home,
            clock=clock,
            observer=LedgerCounts(metrics, Log()),
            held_write_s=10.0,
            retention_s=86_400.0,
            retention_bytes_max=1 << 60,
            retention_check_s=86_400.0,
            counter_days_max=400,
        )
        self.inbox = InboxActor(store=self.store, epoch=_EPOCH, home=self.home, clock=clock)
        self.inbox.fetch, self.inbox.fetch_rows = self.ledger.fetch, self.ledger.fetch_rows
        self.phones = _Phones(self.home, clock)
        self.inbox.connect(self.phones)

    def close(self) -> None:
        self.store.close()
        self.archive.close()


async def _fill(folder: Path, rows: int, batch_rows: int, ledger_bytes: int, seed: int) -> Line:
    world = _World(folder, rows, ledger_bytes)
    random = np.random.default_rng(seed)
    home = world.home
    gc.collect()
    empty = most = rss_bytes()
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        await world.ledger.load()
        nursery.start_soon(world.ledger.run)
        nursery.start_soon(world.inbox.run)
        for number, first in enumerate(range(0, rows, batch_rows)):
            n = min(batch_rows, rows - first)
            while True:
                most = max(most, rss_bytes())
                try:
                    home.check_room(n)
                    break
                except Overloaded:
                    # As a client does that asks again.
                    await trio.sleep(0.02)
            page = home.open(_batch(world, number, random.integers(0, 256, (n, 16), np.uint8)), world.clock.monotonic())
            page.n_routed = n
            for at in range(0, n, _SLICE_ROWS):
                world.inbox.keep(page, np.arange(at, min(at + _SLICE_ROWS, n)))
                await trio.lowlevel.checkpoint()
            # Intake is paced by what the inbox takes, as that of a worker is by its clients.
            while page.keeping > n // 2:  # noqa: ASYNC110 - actors ring nobody here
                await trio.sleep(0.005)
        while len(world.store) < rows or any(page.keeping for page in home.pages()):
            await trio.sleep(0.02)
            most = max(most, rss_bytes())
        home.on_short()
        while world.ledger.unsaved_pages or not home.evict_some():
            await trio.sleep(0.02)
            most = max(most, rss_bytes())
        seconds = time.perf_counter() - started
        await world.ledger.flush()
        nursery.cancel_scope.cancel()
    statistics = home.statistics()
    away = home.away_pages.memory_bytes
    world.close()
    return {
        "rows_held": home.rows_open,
        "rows_per_s": round(rows / seconds),
        "seconds": round(seconds, 1),
        "pages_away": len(home.away_pages),
        "ledger_bytes": statistics.ledger_bytes,
        "rss_empty_bytes": empty,
        "rss_max_bytes": most,
        "rss_end_bytes": rss_bytes(),
        "limit_bytes": empty + ledger_bytes + away + index_bytes(rows, 100) + WORK_BYTES,
    }


def _batch(world: _World, number: int, ids: U8) -> Batch:
    n = len(ids)
    address = world.home.next_address(world.clock.unix_ms(), world.clock.monotonic())
    return Batch(
        address,
        0,
        world.clock.monotonic(),
        n,
        device_ids=ids,
        message_ids=np.zeros((n, 16), np.uint8),
        variants=[Variant(title="您的订单已发货", body="your order has shipped", ttl_s=3 * 86_400)],
        segments=[TaskSegment(number.to_bytes(16, "big"), 0, n)],
    )


async def _open(folder: Path, rows: int, batch_rows: int, ledger_bytes: int, seed: int) -> Line:
    """A new process finds them, and some devices come back."""
    started = time.perf_counter()
    world = _World(folder, rows, ledger_bytes)
    await world.ledger.load()
    opened_s, opened = time.perf_counter() - started, rss_bytes()
    first, checks, returns, cpu_ms, grown = await _return(world, rows, batch_rows, seed)
    held = world.home.rows_open
    world.close()
    return {
        "rows_opened": held + len(returns),
        "open_s": round(opened_s, 2),
        "rss_opened_bytes": opened,
        "first_return_ms_p50": round(float(np.median(first)) * 1000, 2),
        "check_ms_p50": round(float(np.median(checks)) * 1000, 2),
        "return_ms_p50": round(float(np.median(returns)) * 1000, 2),
        "return_ms_p99": round(float(np.percentile(returns, 99)) * 1000, 2),
        "return_cpu_ms": round(cpu_ms, 2),
        "return_rss_bytes": grown,
    }


async def _return(
    world: _World, rows: int, batch_rows: int, seed: int
) -> tuple[list[float], list[float], list[float], float, int]:
    random, phones = np.random.default_rng(seed), world.phones
    first, checks, returns, devices = list[float](), list[float](), list[float](), list[list[bytes]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ledger.run)
        nursery.start_soon(world.inbox.run)
        for start in range(0, min(rows, _PAGES_MAX * batch_rows), batch_rows):
            # Its ids, made anew.
            ids = random.integers(0, 256, (min(batch_rows, rows - start), 16), np.uint8)
            some = [ids[at].tobytes() for at in range(0, len(ids), len(ids) // (_RETURNS_PER_PAGE + 1))]
            started = time.perf_counter()
            ((sequence, found),) = split_by_sequence(await world.store.peek(some[0], 32))
            page = await world.ledger.fetch_rows(sequence, found)
            first.append(time.perf_counter() - started)
            assert page is not None
            assert page.batch.device_ids[found[0]].tobytes() == some[0], "a row of another device"
            started = time.perf_counter()
            await world.ledger.fetch(sequence)
            checks.append(time.perf_counter() - started)
            devices.append(some[1 : 1 + _RETURNS_PER_PAGE])
        await world.ledger.flush()
        world.home.evict_some()
        phones.are_there = True
        before, cpu_s = rss_bytes(), time.process_time()
        for device in (one for some in zip(*devices, strict=True) for one in some):
            started, phones.has_taken = time.perf_counter(), trio.Event()
            world.inbox.came_back(device)
            await phones.has_taken.wait()
            returns.append(time.perf_counter() - started)
            assert phones.taken == [device]
            phones.taken.clear()
        while not world.inbox.is_at_rest:  # noqa: ASYNC110 - actors ring nobody here
            await trio.sleep(0.005)
        await world.ledger.flush()
        cpu_ms = (time.process_time() - cpu_s) * 1000 / len(returns)
        nursery.cancel_scope.cancel()
    return first, checks, returns, cpu_ms, rss_bytes() - before


def rss_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    part, folder, *numbers = sys.argv[1:]
    rows, batch_rows, ledger_bytes, seed = map(int, numbers)
    figures = trio.run(_fill if part == "fill" else _open, Path(folder), rows, batch_rows, ledger_bytes, seed)
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main()
