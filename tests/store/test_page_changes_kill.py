"""kill -9 of a process that writes changes beside pages: what it was told is durable is there, and is counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from gateway.core.counters import tally_pages
from gateway.store.pages import page_of
from gateway.store.ports import PageKey
from gateway.store.sqlite_ledger import SqliteLedgerArchive

_PAGES, _BORN = 4, 1_700_000_000_123
#: Goes on with the pages that are there, or makes them; then attempts of rows grow, page by page, as records and whole,
#: and stdout says which are durable.
_CHILD = """
import os, random, sys, trio, numpy as np
from pathlib import Path
from gateway.actors.page_forms import archived_form, page_form, put_forms
from gateway.batch import Batch, OwnershipEpoch, TaskSegment
from gateway.content import Variant
from gateway.core.counters import tally_pages
from gateway.ledger import LedgerPage, State
from gateway.message_id import BatchAddress
from gateway.store.pages import page_of
from gateway.store.ports import PageKey
from gateway.store.sqlite_ledger import SqliteLedgerArchive

path, n_pages, born, seed = Path(sys.argv[1]), *map(int, sys.argv[2:])
archive, epoch, chance = SqliteLedgerArchive(path), OwnershipEpoch(5), random.Random(seed)

def make(number):
    ids = np.random.default_rng(number).integers(0, 256, (1100, 16), np.uint8)
    batch = Batch(BatchAddress(born, 0, number), 0, 0.0, 1100, device_ids=ids, variants=[Variant("t", "b")],
                  segments=[TaskSegment(bytes(16), 0, 1100)])
    page = LedgerPage(batch)
    page.state[:] = State.DEVICE_ACKED
    page.counts[:] = np.bincount(page.state, minlength=len(State))
    return page

async def write(pages):
    forms = [(page, 0, page_form(page, tally_pages([page], 0)[0])) for page in pages]
    assert len(await put_forms(archive, epoch, forms)) == len(pages)

async def main():
    pages = []
    for number in range(n_pages):
        data = await archive.read(PageKey(born, number))
        pages.append(make(number) if data is None else page_of(data, now=0.0, now_unix_ms=0))
    await write(pages)
    while True:
        some = chance.sample(pages, chance.randint(1, n_pages))
        said = b""
        for page in some:
            row = chance.randrange(page.n)
            page.attempts[row] += 1
            page.note_changes(np.array([row]))
            said += b"%d %d %d\\n" % (page.batch.address.sequence, row, page.attempts[row])
        await write(some)
        os.write(1, said)

trio.run(main)
"""


async def test_changes_that_were_durable_before_a_kill_are_in_their_pages_and_in_what_they_count_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    told: dict[tuple[int, int], int] = {}
    for life in range(2):
        words = [sys.executable, "-c", _CHILD, str(path), str(_PAGES), str(_BORN), str(life)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(150)]
            child.kill()
            lines += child.stdout.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                sequence, row, attempts = map(int, line.split())
                told[sequence, row] = max(told.get((sequence, row), 0), attempts)
        assert told
        archive = SqliteLedgerArchive(path)
        keys = [PageKey(_BORN, number) for number in range(_PAGES)]
        pages = []
        for key in keys:
            data = await archive.read(key)
            assert data is not None
            pages.append(page_of(data, now=0.0, now_unix_ms=0))
        assert all(pages[sequence].attempts[row] >= attempts for (sequence, row), attempts in told.items())
        # One record more than was told may be there of each page and life, and nothing else.
        assert sum(int(page.attempts.astype(np.int64).sum()) for page in pages) <= sum(told.values()) + _PAGES * (
            life + 1
        )
        tallies = tally_pages(pages, 0)
        assert [one and one.cells for one in await archive.tallies(keys)] == [tally.cells for tally in tallies]
        assert any(page.archived is not None and page.archived.records for page in pages)
        archive.close()
