"""What does a page of the ledger cost on the disk, and how fast is one message of a large task found there?

Unit: pages of 65,536 rows of one content, all of one task; `rows` of the whole task.

    write    pages packed and durable, rows per second; disk_bytes_per_row with the column of device hashes
    device   from the question for one device of the task to its page, unpacked and decoded: the hash columns of all its
             pages are searched, p50 and max in ms
    message  the same for a message id: one page is read
    trace, trace_message
             the server side of `pushgw trace TASK DEVICE` and `pushgw trace MESSAGE_ID`: from request to answer,
             all pages in the archive
    loss, loss_day
             the same of `pushgw loss` of the task, and of a day
    changes  rows that change one by one on pages that are away (ledger_changes.py)
    tally    a page counted anew, as for the counters: rows per second
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import trio

from bench import ledger_changes
from bench.harness import Line, Options, calibrate, line, progress
from gateway import message_id
from gateway.actors.ledger import LedgerActor
from gateway.actors.loss_reports import LossReports
from gateway.actors.task_reports import TaskReports
from gateway.batch import Batch, OwnershipEpoch, TaskSegment
from gateway.clock import SystemClock
from gateway.content import Variant
from gateway.core.counters import Counters, tally_pages
from gateway.core.home import Home
from gateway.ledger import Channel, LedgerPage
from gateway.message_id import ROWS_MAX, BatchAddress
from gateway.observe.counting import HomeCounts
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.observe.store_counts import LedgerCounts
from gateway.store.inbox_filing import device_hash
from gateway.store.memory import MemoryInbox
from gateway.store.pages import page_of, page_parts
from gateway.store.ports import ArchivedPage, PageKey
from gateway.store.sqlite_ledger import SqliteLedgerArchive
from gateway.wire.rpc import messages

#: 10 million rows.
PAGES = 153
SMOKE_PAGES = 2
LOOKS = 30
_EPOCH = OwnershipEpoch(1)
_SECRET = bytes(32)
_BORN_UNIX_MS = 1_800_000_000_000
_TASK = message_id.encode_rows(
    _SECRET, BatchAddress(_BORN_UNIX_MS, 0, 0), np.zeros(1, np.int64), message_id.TASK_DOMAIN
).tobytes()


def run(options: Options) -> Iterator[Line]:
    before = calibrate()
    n = SMOKE_PAGES if options.smoke else PAGES
    progress(f"ledger: {n} pages ...")
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
    try:
        for name, figures in trio.run(_measure, folder / "ledger.db", n, options.seed):
            yield line("ledger", name, rows=n * ROWS_MAX, **figures, calibration=before)
        changed = ledger_changes.SMOKE_PAGES if options.smoke else ledger_changes.PAGES
        progress(f"ledger: changes of {changed} pages ...")
        random = np.random.default_rng(options.seed)
        figures = trio.run(ledger_changes.measure, folder / "changes.db", changed, random, _page, _home, _ledger)
        yield line("ledger", "changes", **figures, calibration=before)
    finally:
        shutil.rmtree(folder)


def _page(number: int, random: np.random.Generator) -> LedgerPage:
    ids = random.integers(0, 256, (ROWS_MAX, 16), np.uint8)
    batch = Batch(
        BatchAddress(_BORN_UNIX_MS + number, 0, number),
        0,
        0.0,
        ROWS_MAX,
        device_ids=ids,
        message_ids=np.zeros((ROWS_MAX, 16), np.uint8),
        variants=[Variant(title="t", body="b")],
        segments=[TaskSegment(_TASK, 0, ROWS_MAX, is_continued=number > 0)],
    )
    page = LedgerPage(batch)
    page.channel[:] = Channel.APNS
    page.attempts[:] = 1
    page.state[:] = random.integers(4, 6, ROWS_MAX)
    page.final_ms[:] = random.integers(100, 400, ROWS_MAX)
    return page


async def _measure(path: Path, n: int, seed: int) -> list[tuple[str, Line]]:
    random = np.random.default_rng(seed)
    archive = SqliteLedgerArchive(path)
    devices: list[tuple[PageKey, bytes]] = []
    write_s = tally_s = 0.0
    for number in range(n):
        page = _page(number, random)
        key = PageKey(page.batch.address.unix_ms, number)
        devices.append((key, page.batch.device_ids[int(random.integers(ROWS_MAX))].tobytes()))
        started = time.perf_counter()
        (tally,) = tally_pages([page], 0)
        tally_s += time.perf_counter() - started
        form = ArchivedPage(
            key, 0, page.n, page.batch.device_ids, [_TASK] if number else [], page_parts(page), tally=tally
        )
        await archive.write(_EPOCH, [form])
        write_s += time.perf_counter() - started
    wanted = [devices[int(at)] for at in random.integers(0, n, LOOKS)]

    async def by_device(key: PageKey, device_id: bytes) -> None:
        parts = [devices[0][0], *await archive.parts(_TASK)]
        found = await archive.with_device(parts, device_hash(device_id), 0)
        assert key in found, f"{device_id.hex()} is not found"
        await by_message(key, device_id)

    async def by_message(key: PageKey, device_id: bytes) -> None:
        data = await archive.read(key)
        assert data is not None
        page_of(data, now=0.0, now_unix_ms=0)

    device, message = await _looks(by_device, wanted), await _looks(by_message, wanted)
    asked = await _ask(archive, wanted, n)
    archive.close()
    size = os.stat(path).st_size
    rows = n * ROWS_MAX
    return [
        ("write", {"rows_per_s": round(rows / write_s), "disk_bytes_per_row": round(size / rows, 1)}),
        ("device", device),
        ("message", message),
        *asked,
        ("tally", {"rows_per_s": round(rows / tally_s)}),
    ]


def _home(ledger_bytes_max: int) -> Home:
    return Home(
        secret=_SECRET,
        journal=0,
        observer=HomeCounts(Metrics()),
        ledger_bytes_max=ledger_bytes_max,
        rows_open_max=1 << 30,
        change_rows_max=1_000_000,
        now=0.0,
    )


def _ledger(home: Home, archive: SqliteLedgerArchive) -> LedgerActor:
    settings: dict[str, Any] = {"retention_s": 1e9, "retention_bytes_max": 1 << 60, "retention_check_s": 1e9}
    return LedgerActor(
        store=archive,
        inbox=MemoryInbox(rows_per_device_max=1, rows_max=1),
        epoch=_EPOCH,
        held_write_s=10.0,
        home=home,
        clock=SystemClock(),
        observer=LedgerCounts(Metrics(), Log(stream=io.StringIO())),
        counter_days_max=400,
        **settings,
    )


async def _ask(
    archive: SqliteLedgerArchive, wanted: list[tuple[PageKey, bytes]], n: int
) -> list[tuple[str, dict[str, float]]]:
    """What the gateway answers, without the wire."""
    home = _home(1 << 30)
    home.counters = Counters(day_offset_s=0)
    clock = SystemClock()
    ledger = _ledger(home, archive)
    traces = TaskReports(ledger, clock)
    losses = LossReports(home=home, pages=ledger, clock=clock, app_keys=["shop"])
    found: dict[bytes, bytes] = {}

    async def trace(key: PageKey, device_id: bytes) -> None:
        question = messages.Trace(id=1, task_id=_TASK, device_id=device_id)
        answer = await traces.answer(question, lambda _page: True)
        assert isinstance(answer, messages.TraceHops)
        found[device_id] = answer.message_id

    async def trace_message(key: PageKey, device_id: bytes) -> None:
        await traces.answer(messages.Trace(id=1, message_id=found[device_id]), lambda _page: True)

    def of(**fields: Any) -> Callable[[PageKey, bytes], Awaitable[None]]:
        async def ask(key: PageKey, device_id: bytes) -> None:
            answer = await losses.answer(messages.Loss(id=1, **fields), "")
            assert isinstance(answer, messages.LossFound)
            assert answer.channels["apns"][0] == n * ROWS_MAX

        return ask

    return [
        ("trace", await _looks(trace, wanted)),
        ("trace_message", await _looks(trace_message, wanted)),
        ("loss", await _looks(of(task_id=_TASK), wanted)),
        ("loss_day", await _looks(of(from_day="2027-01-15", to_day="2027-01-15"), wanted)),
    ]


async def _looks(look: Callable[[PageKey, bytes], Awaitable[None]], wanted: list[tuple[PageKey, bytes]]) -> Line:
    times = []
    for key, device_id in wanted:
        started = time.perf_counter()
        await look(key, device_id)
        times.append((time.perf_counter() - started) * 1000)
    return {"p50_ms": round(float(np.median(times)), 2), "max_ms": round(max(times), 2)}
