"""Reserved memory: nothing is paid for before it is written, and huge pages come with growth."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from gateway.core.reserved import HUGE_FROM_BYTES, Reserved

PROGRAM = """
from gateway.core.reserved import HUGE_FROM_BYTES, Reserved
def anonymous_kib():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1])
before = anonymous_kib()
table = Reserved(8 << 20)
for place in range(0, 8 << 20, 1 << 19):
    table.words[place] = 1
print(anonymous_kib() - before)
"""


def test_memory_is_zero_aligned_and_writable() -> None:
    words = Reserved(1000).words
    assert words.dtype == np.uint64
    assert len(words) == 1000
    assert not words.any()
    assert words.ctypes.data % 4096 == 0
    words[:] = 7
    assert int(words.sum()) == 7000


def test_sixteen_words_far_apart_cost_sixteen_small_pages() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60)
    # 64 KiB of pages and what the calls themselves leave behind; with huge pages it would be 32 MiB.
    assert int(done.stdout) < 1024


def test_views_keep_the_memory() -> None:
    view = Reserved(100).words[10:20]
    view[:] = 3
    assert view.tolist() == [3] * 10


def test_growth_changes_nothing_that_is_written() -> None:
    table = Reserved(2 * HUGE_FROM_BYTES // 8)
    table.words[::512] = 9
    table.has_grown(HUGE_FROM_BYTES - 1)
    table.has_grown(HUGE_FROM_BYTES)
    table.has_grown(2 * HUGE_FROM_BYTES)
    assert table.words[::512].tolist() == [9] * (len(table.words) // 512)
