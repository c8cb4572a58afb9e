"""What does a page of the ledger cost on the disk, and how fast is one message of a large task found there?

Unit: pages of 65,536 rows of one content, all of one task; `rows` of the whole task.

    write    pages packed and durable, rows per second; disk_bytes_per_row with the column of device hashes
    device   from the question for one device of the task to its page, unpacked and decoded: the hash columns of all its
             pages are searched, p50 and max in ms
    message  the same for a message id: one page is read
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import trio

from bench.harness import Line, Options, calibrate, line, progress
from gateway.batch import Batch, OwnershipEpoch, TaskSegment
from gateway.content import Variant
from gateway.ledger import LedgerPage
from gateway.message_id import ROWS_MAX, BatchAddress
from gateway.store.inbox_filing import device_hash
from gateway.store.pages import page_of, page_parts
from gateway.store.ports import ArchivedPage, PageKey
from gateway.store.sqlite_ledger import SqliteLedgerArchive

#: 10 million rows.
PAGES = 153
SMOKE_PAGES = 2
LOOKS = 30
_EPOCH = OwnershipEpoch(1)
_TASK = bytes(range(16))


def run(options: Options) -> Iterator[Line]:
    before = calibrate()
    n = SMOKE_PAGES if options.smoke else PAGES
    progress(f"ledger: {n} pages ...")
    folder = Path(tempfile.mkdtemp(prefix="pushgw-bench-"))
    try:
        for name, figures in trio.run(_measure, folder / "ledger.db", n, options.seed):
            yield line("ledger", name, rows=n * ROWS_MAX, **figures, calibration=before)
    finally:
        shutil.rmtree(folder)


def _page(number: int, random: np.random.Generator) -> LedgerPage:
    ids = random.integers(0, 256, (ROWS_MAX, 16), np.uint8)
    batch = Batch(
        BatchAddress(1_800_000_000_000 + number, 0, number),
        0,
        0.0,
        ROWS_MAX,
        device_ids=ids,
        message_ids=np.zeros((ROWS_MAX, 16), np.uint8),
        variants=[Variant(title="t", body="b")],
        segments=[TaskSegment(_TASK, 0, ROWS_MAX)],
    )
    page = LedgerPage(batch)
    page.state[:] = random.integers(4, 6, ROWS_MAX)
    page.final_ms[:] = random.integers(100, 400, ROWS_MAX)
    return page


async def _measure(path: Path, n: int, seed: int) -> list[tuple[str, Line]]:
    random = np.random.default_rng(seed)
    archive = SqliteLedgerArchive(path)
    devices: list[tuple[PageKey, bytes]] = []
    write_s = 0.0
    for number in range(n):
        page = _page(number, random)
        key = PageKey(page.batch.address.unix_ms, number)
        devices.append((key, page.batch.device_ids[int(random.integers(ROWS_MAX))].tobytes()))
        started = time.perf_counter()
        form = ArchivedPage(key, 0, page.n, page.batch.device_ids, [_TASK], page_parts(page))
        await archive.write(_EPOCH, [form])
        write_s += time.perf_counter() - started
    wanted = [devices[int(at)] for at in random.integers(0, n, LOOKS)]

    async def by_device(key: PageKey, device_id: bytes) -> None:
        found = await archive.with_device(await archive.parts(_TASK), device_hash(device_id), 0)
        assert key in found, f"{device_id.hex()} is not found"
        await by_message(key, device_id)

    async def by_message(key: PageKey, device_id: bytes) -> None:
        data = await archive.read(key)
        assert data is not None
        page_of(data, now=0.0, now_unix_ms=0)

    device, message = await _looks(by_device, wanted), await _looks(by_message, wanted)
    archive.close()
    size = os.stat(path).st_size
    rows = n * ROWS_MAX
    return [
        ("write", {"rows_per_s": round(rows / write_s), "disk_bytes_per_row": round(size / rows, 1)}),
        ("device", device),
        ("message", message),
    ]


async def _looks(look: Callable[[PageKey, bytes], Awaitable[None]], wanted: list[tuple[PageKey, bytes]]) -> Line:
    times = []
    for key, device_id in wanted:
        started = time.perf_counter()
        await look(key, device_id)
        times.append((time.perf_counter() - started) * 1000)
    return {"p50_ms": round(float(np.median(times)), 2), "max_ms": round(max(times), 2)}
