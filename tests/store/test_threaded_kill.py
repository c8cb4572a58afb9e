"""kill -9 of a process that appends to a journal as fast as it can: what it was told is durable is there."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from contract import EPOCH, replayed

from gateway.store.log_journal import LogJournal
from gateway.store.sqlite_journal import SqliteJournal
from gateway.store.threaded import ThreadedJournal

_OPEN = {
    "log": lambda path: LogJournal(path / "log", segment_bytes=1 << 18),
    "sqlite": lambda path: SqliteJournal(path / "journal.db"),
}
#: Appends 1 to 5 records at a time from four tasks, each record of one append with the same number, and says on stdout
#: which were answered.
_CHILD = """
import os, random, sys, trio
from pathlib import Path
from gateway.batch import OwnershipEpoch
from gateway.store.log_journal import LogJournal
from gateway.store.ports import JournalRecord
from gateway.store.sqlite_journal import SqliteJournal

kind, path, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
journal = LogJournal(path / "log", segment_bytes=1 << 18) if kind == "log" else SqliteJournal(path / "journal.db")
epoch, chance = OwnershipEpoch(5), random.Random(seed)

async def push(task):
    for number in range(task, 10**9, 4):
        n, size = chance.randint(1, 5), chance.choice([10, 3000, 40000])
        text = b"%d %d " % (number, n)
        positions = await journal.append(epoch, [JournalRecord(1, (text, bytes(size)))] * n)
        if number % 4 == 1:
            await journal.release(epoch, positions)
        else:
            os.write(1, b"%d\\n" % number)

async def main():
    async with trio.open_nursery() as nursery:
        for task in range(4):
            nursery.start_soon(push, task)

trio.run(main)
"""


@pytest.mark.parametrize("kind", ["log", "sqlite"])
@pytest.mark.parametrize("seed", range(4))
async def test_what_was_answered_before_a_kill_is_replayed_and_nothing_is_there_in_part(
    tmp_path: Path, kind: str, seed: int
) -> None:
    answered: set[int] = set()
    # Twice into the same journal: the second process begins behind what the first one's death left.
    for life in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, kind, str(tmp_path), str(seed * 2 + life)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        with child.stdout:
            lines = [child.stdout.readline() for _ in range(random.Random(seed).randint(1, 120))]
            child.kill()
            # Answers that were on their way count as well.
            lines += child.stdout.read().splitlines(keepends=True)
        child.wait(timeout=30)
        answered |= {int(line) for line in lines if line.endswith(b"\n")}
        journal: ThreadedJournal = _OPEN[kind](tmp_path)
        found = await replayed(journal)
        there: dict[int, list[int]] = {}
        for _, (_, payload) in found:
            number, n = map(int, payload.split(b" ", 2)[:2])
            there.setdefault(number, []).append(n)
        assert answered <= there.keys()
        if life == 0:
            assert all(ns == [ns[0]] * ns[0] for ns in there.values())
        await journal.append(EPOCH, [])
        journal.close()
